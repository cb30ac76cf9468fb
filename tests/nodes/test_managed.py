"""How the parts of the model are handed to ComfyUI's memory management; over a stand-in."""

from __future__ import annotations

import pytest
import torch

UPSCALE = {"scale": 2.0, "prompt": "cat", "color": "adain", "tile": "auto"}
PARTS = {"text": "CLIPTextModel", "vae": "AutoencoderKL", "unet": "UNet2DConditionModel"}


def test_every_part_is_behind_a_patcher_of_its_own(stub, model):
    held = [managed for managed in vars(model).values() if hasattr(managed, "_patcher")]
    patchers = [managed._patcher for managed in held]
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
    latent, lq = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args
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


def test_room_is_made_for_the_work_that_comes(nodes, model, photo, comfy):
    def room(side, scale=2.0, tile="auto"):
        comfy.loads.clear()
        model.idle.embeddings.clear()
        nodes["OSEDiffUpscale"].run(
            model=model, image=photo(side, side), **{**UPSCALE, "scale": scale, "tile": tile}
        )
        return [memory for _, memory in comfy.loads]

    small, large = room(16), room(32)
    assert small[0] == large[0] == 0  # the text encoder's work is the same, and small
    for before, after in zip(small[1:], large[1:], strict=True):
        assert after == pytest.approx(4 * before, rel=0.2)
    assert room(120, 4.0, tile="48")[2] < room(120, 4.0, tile="off")[2]  # tiles bound the UNet's work


def test_where_memory_is_short_the_vae_is_cut_and_the_picture_stays_the_same(nodes, model, photo, comfy):
    image = photo(96, 96)
    whole = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    beats = len(comfy.progress)
    comfy.free = 9_000_000  # enough for the result, and for pieces of 64 pixels
    cut = nodes["OSEDiffUpscale"].run(model=model, image=image, **UPSCALE).args[0]
    assert len(comfy.progress) > 2 * beats  # a report after every piece: it was cut indeed
    assert (whole - cut).abs().max() < 1e-4
