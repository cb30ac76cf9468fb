"""How the parts of the model are handed to ComfyUI's memory management; over a stand-in."""

from __future__ import annotations

import copy
import re
import sys
from types import SimpleNamespace

import pytest
import torch

UPSCALE = {"scale": 2.0, "prompt": "cat", "color": "adain", "tile": "auto"}
PARTS = {"text": "CLIPTextModel", "vae": "VAE", "unet": "UNet"}
CARD = torch.device("cuda")


def test_every_part_is_behind_a_patcher_of_its_own(stub, model):
    held = [managed for managed in vars(model).values() if hasattr(managed, "patcher")]
    patchers = [managed.patcher for managed in held]
    assert all(isinstance(patcher, stub.ModelPatcher) for patcher in patchers)
    theirs = [id(parameter) for patcher in patchers for parameter in patcher.model.parameters()]
    assert sorted(theirs) == sorted(id(parameter) for parameter in model.idle.parameters())


@pytest.fixture(autouse=True)
def _no_prompt_is_kept(model):
    model.idle.embeddings.clear()


def names(comfy):
    return [name for name, _ in comfy.loads]


def test_each_block_brings_its_own_part_and_no_other(nodes, model, photo, comfy):
    words = nodes["OSEDiffTextEncode"].run(model=model, prompt="cat").args[0]
    assert names(comfy) == [PARTS["text"]]
    latent, lq, *_ = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args
    assert names(comfy)[1:] == [PARTS["vae"]]
    done = (
        nodes["OSEDiffDenoise"]
        .run(model=model, latent=latent, conditioning=words, tile="auto", overlap=32)
        .args[0]
    )
    assert names(comfy)[2:] == [PARTS["unet"]]
    nodes["OSEDiffDecode"].run(model=model, latent=done, reference=lq, color="adain")
    assert names(comfy)[3:] == [PARTS["vae"]]


def test_without_a_conditioning_the_text_encoder_is_brought_before_the_unet(nodes, model, photo, comfy):
    latent = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args[0]
    comfy.loads.clear()
    nodes["OSEDiffDenoise"].run(model=model, latent=latent, tile="auto", overlap=32)
    assert names(comfy) == [PARTS["text"], PARTS["unet"]]


def test_one_node_brings_part_after_part_for_every_picture_of_a_batch(nodes, model, photo, comfy):
    nodes["OSEDiffUpscale"].run(model=model, image=photo(batch=2), **UPSCALE)
    one = [PARTS["vae"], PARTS["unet"], PARTS["vae"]]
    assert names(comfy) == [PARTS["text"], *one, *one]


def test_the_text_encoder_is_brought_only_for_words_that_are_new(nodes, model, photo, comfy):
    upscale, encode = nodes["OSEDiffUpscale"], nodes["OSEDiffTextEncode"]
    latent = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args[0]
    empty = {"tile": "auto", "overlap": 32}
    for run in (
        lambda: upscale.run(model=model, image=photo(), **UPSCALE),
        lambda: encode.run(model=model, prompt="a tree"),
        lambda: nodes["OSEDiffDenoise"].run(model=model, latent=latent, **empty),
    ):
        brought = []
        for _ in range(2):
            comfy.loads.clear()
            run()
            brought.append(PARTS["text"] in names(comfy))
            with torch.inference_mode():
                for parameter in model.idle.text_encoder.parameters():
                    parameter.data = parameter.data.clone()  # as when ComfyUI moves it out for other models
        assert brought == [True, False]


@pytest.fixture
def surroundings(pack):
    """The pack's own ComfyRuntime, ManagedModel and make_plan."""
    names = {"nodes.runtime": "ComfyRuntime", "nodes.managed": "ManagedModel"}
    names["osediff_core.pipeline.plan"] = "make_plan"
    return SimpleNamespace(
        **{name: getattr(sys.modules[f"{pack.__name__}.{place}"], name) for place, name in names.items()}
    )


def upscaled(surroundings, model, image, scale, **cut):
    """The plan of OSEDiffUpscale."""
    runtime = surroundings.ComfyRuntime(model)
    return surroundings.make_plan(model.idle, *image.shape[1:3], scale=scale, runtime=runtime, **cut)


def test_room_is_made_for_the_work_that_comes(nodes, model, photo, comfy, surroundings):
    def room(side, scale=2.0, tile="auto"):
        comfy.loads.clear()
        model.idle.embeddings.clear()
        image = photo(side, side)
        nodes["OSEDiffUpscale"].run(model=model, image=image, **{**UPSCALE, "scale": scale, "tile": tile})
        plan = upscaled(surroundings, model, image, scale, tile=int(tile) if tile.isdigit() else tile)
        taken = [memory for _, memory in comfy.loads]
        assert taken[0] == 0  # the text encoder's work is the same, and small
        assert taken[1:] == [plan.encode[0].device_bytes, plan.unet_bytes, plan.decode[0].device_bytes]
        return taken[1:]

    for small, middle, large in zip(*(room(side) for side in (16, 32, 64)), strict=True):
        assert large - middle == pytest.approx(4 * (middle - small), rel=0.2)  # with the area
        assert middle > small
    assert room(120, 4.0, tile="48")[1] < room(120, 4.0, tile="off")[1]  # tiles bound the UNet's work


def test_where_memory_is_short_the_vae_is_cut_and_the_picture_stays_the_same(
    nodes, model, photo, comfy, surroundings
):
    image = photo(96, 96)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    beats = len(comfy.progress)
    needed = upscaled(surroundings, model, image, 2.0, vae=64).device_bytes
    comfy.free = int(needed / 0.9) + 1  # enough for the result, and for pieces of 64 pixels
    assert upscaled(surroundings, model, image, 2.0).decode[0].piece is not None
    cut = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    assert len(comfy.progress) > 2.5 * beats  # a report after every piece: it was cut indeed
    assert (whole - cut).abs().max() < 1e-4


def test_the_plan_stands_on_the_node_while_it_works(nodes, model, photo, comfy, surroundings):
    image = photo(21, 34, batch=2)
    brought = []
    hook = model.idle.vae.encoder.register_forward_pre_hook(lambda *_: brought.append(len(comfy.said)))
    try:
        nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE)
    finally:
        hook.remove()
    plan = str(upscaled(surroundings, model, image, 2.0, count=2))
    assert plan.startswith("2 pictures of 68 x 42 in one tile, encoded whole, decoded whole, takes ")
    assert comfy.said == [("7", plan), ("7", "68 × 42")]


def test_each_step_shows_its_plan(nodes, model, photo, comfy):
    latent = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args[0]
    assert [text for _, text in comfy.said if "takes " in text]
    for name, settings in (
        ("OSEDiffDenoise", {"tile": "auto", "overlap": 32}),
        ("OSEDiffDecode", {"color": "none"}),
    ):
        comfy.said.clear()
        nodes[name].run(model=model, latent=latent, **settings)
        assert re.search(r"takes \d+\.\d GiB", comfy.said[0][1]), name


class Held(torch.nn.Module):
    """Another model of so many bytes, as ComfyUI's patcher wants it."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("held", torch.zeros(size, dtype=torch.uint8))
        self.device = None


def test_on_a_card_other_models_make_way(stub, model, comfy, surroundings):
    """What is loaded on it, of ours and of others, could be given back; the part itself has to be there."""
    comfy.device = CARD
    managed = surroundings.ManagedModel(model.idle)
    runtime, net = surroundings.ComfyRuntime(managed), managed.idle
    unet = (net.unet,)
    sizes = {part: sum(p.nbytes for m in part for p in m.parameters()) for part in (unet, (net.vae,))}

    def beside(part=unet):
        return runtime.free_beside(net, part)

    assert beside() == comfy.free - sizes[unet]
    assert beside(net.encoder_part) == beside(net.decoder_part) == comfy.free - sizes[net.vae,]
    here, elsewhere = (
        stub.ModelPatcher(Held(10**6), device, torch.device("cpu")) for device in (CARD, torch.device("cpu"))
    )
    load = sys.modules["comfy.model_management"].load_models_gpu
    load([here])
    assert beside() == comfy.free + 10**6 - sizes[unet]
    load([elsewhere])
    assert beside() == comfy.free + 10**6 - sizes[unet]
    load([managed.owner(unet).patcher])  # then its weights are no more in what is free
    assert beside() == comfy.free + 10**6
    here.model.model_loaded_weight_memory = 4 * 10**5  # some of it was moved out
    assert beside() == comfy.free + 4 * 10**5


def test_pictures_go_together_in_every_node(nodes, model, photo, comfy, surroundings):
    alone = nodes["OSEDiffUpscale"].run(model=model, image=torch.cat([photo(9, 7)] * 3), **UPSCALE).args[0]
    comfy.device = torch.device("cpu", 0)  # the processor by another name
    managed, calls = surroundings.ManagedModel(copy.deepcopy(model.idle)), []
    unet, vae = managed.idle.unet, managed.idle.vae
    for part in (unet.conv_in, vae.encoder.conv_in, vae.decoder.conv_in):
        part.register_forward_pre_hook(lambda layer, args: calls.append(len(args[0])))
    image = torch.cat([photo(9, 7)] * 3)
    out = nodes["OSEDiffUpscale"].run(model=managed, image=image, **UPSCALE).args[0]
    latent, lq, *_ = nodes["OSEDiffLQEncode"].run(model=managed, image=image, scale=4.0).args
    latent = nodes["OSEDiffDenoise"].run(model=managed, latent=latent, tile="auto", overlap=32).args[0]
    nodes["OSEDiffDecode"].run(model=managed, latent=latent, reference=lq, color="adain")
    assert calls == [3] * 6
    assert (out - alone).abs().max() <= 1e-5


def test_what_overflows_is_computed_in_float32_and_the_weights_stay_where_comfyui_has_them(
    pack, model, surroundings, comfy, caplog
):
    """Converting them would pull them from under ComfyUI, which may have pinned them, or moved half."""
    managed = surroundings.ManagedModel(copy.deepcopy(model.idle))
    unet, runtime = managed.idle.unet, surroundings.ComfyRuntime(managed)
    sys.modules[f"{pack.__name__}.osediff_core.base.precision"].convert(unet, torch.float16)
    places = [parameter.data_ptr() for parameter in unet.parameters()]
    seen = []

    def compute():
        seen.append(unet.dtype)
        z = torch.full((1, unet.config.in_channels, 8, 8), 7e4).to(unet.dtype)  # more than float16 has
        embeds = torch.zeros(1, 5, unet.config.cross_attention_dim, dtype=unet.dtype)
        return unet(z, torch.full((1,), 999), embeds)

    with torch.inference_mode():
        assert runtime.finite("predicted noise", unet, compute).isfinite().all()
    assert seen == [torch.float16, torch.float32]
    assert "once more in float32" in caplog.text
    assert (unet.dtype, [parameter.data_ptr() for parameter in unet.parameters()]) == (torch.float16, places)


def test_comfyui_finds_what_is_in_use_on_the_wires(model, stub):
    """It asks `get_models` of what a node gives, or takes `patcher`."""
    assert len({id(patcher) for patcher in model.get_models()}) == 3
    assert all(isinstance(patcher, stub.ModelPatcher) for patcher in model.get_models())


def test_a_model_that_is_gone_does_not_count(stub, model, comfy, surroundings):
    """ComfyUI has None for it where something else still holds its weights."""
    comfy.device = CARD
    managed = surroundings.ManagedModel(model.idle)
    runtime, unet = surroundings.ComfyRuntime(managed), (managed.idle.unet,)
    before = runtime.free_beside(managed.idle, unet)
    held, management = Held(10**6), sys.modules["comfy.model_management"]
    management.load_models_gpu([stub.ModelPatcher(held, CARD, torch.device("cpu"))])
    assert management.loaded_models() == [None]
    assert runtime.free_beside(managed.idle, unet) == before


def test_on_a_processor_they_make_way_to_where_they_are(stub, model, comfy, surroundings):
    runtime, net = surroundings.ComfyRuntime(model), model.idle
    for part in ((net.unet,), net.encoder_part, net.decoder_part):
        assert runtime.free_beside(net, part) == comfy.free
    patcher = stub.ModelPatcher(Held(10**6), torch.device("cpu"), torch.device("cpu"))
    sys.modules["comfy.model_management"].load_models_gpu([patcher])
    assert runtime.free_beside(net, (net.unet,)) == comfy.free


def test_a_plan_is_for_the_card_before_anything_is_on_it(model, comfy, surroundings):
    """ComfyUI brings the UNet to the card only when its turn comes, and takes it away again."""
    comfy.device = CARD
    managed = surroundings.ManagedModel(model.idle)
    plan = upscaled(surroundings, managed, torch.zeros(1, 300, 300, 3), 4.0)
    assert plan.device == CARD
    assert plan.on_device
    assert plan.host_free == comfy.free
    assert "memory on cuda" in str(plan)
    assert plan.denoise[0].at_once > 1
