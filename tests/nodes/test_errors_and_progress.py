"""What a person sees: sentences, progress, Cancel, room in memory; over a stand-in for ComfyUI."""

from __future__ import annotations

import re
import sys

import pytest
import torch

UPSCALE = {"scale": 4.0, "prompt": "", "color": "none", "tile": "48"}
DENOISE = {"tile": "auto", "overlap": 32}


def failure(node, **inputs) -> str:
    """The sentence with which a node fails; anything but OSEDiffError is a crash."""
    with pytest.raises(ValueError) as caught:
        node.run(**inputs)
    assert type(caught.value).__qualname__ == "OSEDiff"
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_images_that_are_none(nodes, model, photo):
    upscale, encode = nodes["OSEDiffUpscale"], nodes["OSEDiffLQEncode"]
    assert "(1, 21, 34, 5)" in failure(upscale, model=model, image=photo(channels=5), **UPSCALE)
    assert "(21, 34, 3)" in failure(encode, model=model, image=photo()[0], scale=4.0)
    assert "(1, 0, 34, 3)" in failure(encode, model=model, image=photo()[:, :0], scale=4.0)
    broken = photo()
    broken[0, 3, 3, 1] = float("nan")
    assert "NaN" in failure(upscale, model=model, image=broken, **UPSCALE)
    assert "[0, 1]" in failure(encode, model=model, image=photo() * 255, scale=4.0)


@pytest.mark.parametrize("scale", [0.0, 0.5, float("nan"), float("inf")])
def test_a_scale_from_another_node(nodes, model, photo, scale):
    """The widget keeps to 1 and more; a wire may bring anything."""
    for name, rest in (
        ("OSEDiffUpscale", {**UPSCALE, "scale": scale}),
        ("OSEDiffLQEncode", {"scale": scale}),
    ):
        assert "scale" in failure(nodes[name], model=model, image=photo(), **rest)


def test_a_latent_of_another_model(nodes, model):
    denoise = nodes["OSEDiffDenoise"]
    sixteen = {"samples": torch.zeros(1, 16, 8, 8)}
    video = {"samples": torch.zeros(1, 4, 3, 8, 8)}
    for latent in (sixteen, video):
        assert "OSEDiff LQ Encode" in failure(denoise, model=model, latent=latent, **DENOISE)
        assert "LATENT" in failure(nodes["OSEDiffDecode"], model=model, latent=latent, color="none")


def test_a_conditioning_of_another_model(nodes, model):
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    width = model.idle.unet.config.cross_attention_dim

    def sentence(conditioning):
        return failure(
            nodes["OSEDiffDenoise"], model=model, latent=latent, conditioning=conditioning, **DENOISE
        )

    assert str(width) in sentence([[torch.zeros(1, 77, width + 1), {}]])
    assert "CONDITIONING of 2" in sentence([[torch.zeros(1, 77, width), {}]] * 2)
    assert "3 prompts" in sentence([[torch.zeros(3, 77, width), {}]])


def test_references_that_do_not_match_the_batch(nodes, model, photo):
    latent = {"samples": torch.zeros(3, 4, 8, 8)}
    inputs = {"model": model, "latent": latent, "color": "adain"}
    assert "got 2" in failure(nodes["OSEDiffDecode"], reference=photo(batch=2), **inputs)


@pytest.mark.parametrize(
    ("tile", "overlap", "used"),
    [("auto", 95, 95), ("auto", 96, 32), ("48", 47, 47), ("48", 48, 16), ("off", 128, 128)],
)
def test_an_overlap_as_large_as_the_tile_becomes_a_third_of_it(nodes, tile, overlap, used):
    module = sys.modules[nodes["OSEDiffDenoise"].__module__]
    found, note = module.fitting_overlap(tile, overlap)
    assert found == used
    assert ("less than the tile" in note) == (used != overlap)


def test_what_overlap_is_used_is_said_on_the_node(comfy, nodes, model):
    latent = {"samples": torch.zeros(1, 4, 60, 50)}
    settings = {**DENOISE, "tile": "48", "overlap": 100}
    result = nodes["OSEDiffDenoise"].run(model=model, latent=latent, **settings).args[0]
    asked = nodes["OSEDiffDenoise"].run(model=model, latent=latent, **{**settings, "overlap": 16}).args[0]
    assert torch.equal(result["samples"], asked["samples"])
    assert [text for _, text in comfy.said if "overlap 16" in text]


def test_choices_that_are_not_in_the_lists_are_one_sentence(nodes, model, photo):
    loader, picture = nodes["OSEDiffLoader"], {"model": model, "image": photo(9, 7)}
    good = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "auto", "strength": 1.0}
    for name in ("base", "weights", "dtype"):
        assert "'gone'" in failure(loader, **{**good, name: "gone"})
    assert "adain, wavelet, none" in failure(
        nodes["OSEDiffUpscale"], **picture, **{**UPSCALE, "color": "sepia"}
    )
    assert "huge" in failure(nodes["OSEDiffUpscale"], **picture, **{**UPSCALE, "tile": "huge"})
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    assert "sepia" in failure(nodes["OSEDiffDecode"], model=model, latent=latent, color="sepia")


def test_an_error_is_read_without_a_module_and_with_files_by_name(comfy, nodes, tmp_path):
    (tmp_path / "empty.safetensors").write_bytes(b"")
    comfy.folders["osediff"] = ([str(tmp_path)], {".safetensors"})
    inputs = {"base": "tiny_sd", "dtype": "auto", "strength": 1.0}
    with pytest.raises(ValueError, match=r"empty\.safetensors") as caught:
        nodes["OSEDiffLoader"].run(weights="empty.safetensors", **inputs)
    kind = type(caught.value)
    assert (kind.__module__, kind.__qualname__) == ("builtins", "OSEDiff")  # what ComfyUI puts before it
    assert str(caught.value).startswith("empty.safetensors")


def test_memory_that_ran_out_is_a_sentence_and_still_the_error_that_comfyui_knows(
    nodes, model, photo, monkeypatch
):
    def full(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(type(model.idle), "encode_prompt", full)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="take a smaller scale") as caught:
        nodes["OSEDiffUpscale"].run(model=model, image=photo(9, 7), **{**UPSCALE, "prompt": "never seen"})
    assert type(caught.value).__qualname__ == "OSEDiff"


def test_a_defect_is_not_dressed_up(nodes, model, photo, monkeypatch):
    def broken(*args, **options):
        raise KeyError("ours")

    monkeypatch.setattr(type(model.idle), "encode_prompt", broken)
    with pytest.raises(KeyError):
        nodes["OSEDiffUpscale"].run(model=model, image=photo(9, 7), **{**UPSCALE, "prompt": "never seen"})


def stages(model):
    """How many steps the two halves of the VAE are."""
    vae = model.idle.vae
    return len(vae.encoder_stages()), len(vae.decoder_stages())


def test_the_bar_moves_per_tile_and_reaches_its_end(comfy, nodes, model, photo):
    nodes["OSEDiffUpscale"].run(model=model, image=photo(112, 96), **UPSCALE)
    done, totals = zip(*comfy.progress, strict=True)
    assert len(set(totals)) == 1
    assert done == tuple(range(1, totals[0] + 1))
    assert totals[0] == 2 + sum(stages(model))  # two tiles of 48 on 56 x 48 latent pixels, and the VAE


@pytest.mark.parametrize("batch", [1, 3])
def test_the_bar_of_each_block_goes_to_its_end_once(comfy, nodes, model, photo, batch):
    encode, decode = stages(model)

    def moved(name, steps, **inputs):
        comfy.progress.clear()
        out = nodes[name].run(model=model, **inputs).args[0]
        assert comfy.progress == [(i, batch * steps) for i in range(1, batch * steps + 1)]
        return out

    latent = moved("OSEDiffLQEncode", encode, image=photo(112, 96, batch), scale=4.0)
    latent = moved("OSEDiffDenoise", 2, latent=latent, tile="48", overlap=32)
    moved("OSEDiffDecode", decode, latent=latent, color="none")


@pytest.mark.parametrize(("reports", "calls"), [(-1, 0), (0, 0), (1, 0), (2, 1)])
def test_cancel_stops_before_the_next_tile(comfy, stub, nodes, model, photo, reports, calls):
    """Pressed before the run, when the picture is encoded, or after the first of two tiles."""
    seen = []
    hook = model.idle.unet.register_forward_hook(lambda *_: seen.append(1))
    comfy.cancel_after = 0 if reports < 0 else stages(model)[0] - 1 + reports
    try:
        with pytest.raises(stub.InterruptProcessingException):
            nodes["OSEDiffUpscale"].run(model=model, image=photo(112, 96), **UPSCALE)
    finally:
        hook.remove()
    assert len(seen) == calls
    assert len(comfy.progress) == comfy.cancel_after


@pytest.mark.parametrize("reports", [0, 1, 5])
def test_cancel_stops_before_the_next_stage_of_the_vae(comfy, stub, nodes, model, photo, reports):
    seen = []
    hooks = [
        layer.register_forward_hook(lambda *_: seen.append(1))
        for layer in model.idle.encoder_layers()
        if isinstance(layer, torch.nn.Module)
    ]
    comfy.cancel_after = reports
    try:
        with pytest.raises(stub.InterruptProcessingException):
            nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=4.0)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(seen) == reports


def test_cancel_stops_within_one_layer_of_the_unet(comfy, stub, nodes, model, photo):
    """A call of the UNet reports once, at its end: too late on a processor, where it takes seconds."""
    layers = [layer for layer in model.idle.unet.modules() if not any(layer.children())]
    ran, hooks = [], []

    def press_cancel(*_):
        comfy.cancel_after = 0

    hooks.append(layers[len(layers) // 2].register_forward_hook(press_cancel))
    hooks += [layer.register_forward_hook(lambda *_: ran.append(comfy.cancel_after)) for layer in layers]
    try:
        with pytest.raises(stub.InterruptProcessingException):
            nodes["OSEDiffUpscale"].run(model=model, image=photo(), **UPSCALE)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran.count(0) == 1  # the layer after which it was pressed
    comfy.cancel_after = None
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_a_picture_that_no_memory_holds_is_a_sentence(comfy, nodes, model, photo):
    latent = nodes["OSEDiffLQEncode"].run(model=model, image=photo(), scale=2.0).args[0]
    comfy.free, comfy.loads = 1000, []
    for name, inputs in {
        "OSEDiffUpscale": {"image": photo(), **UPSCALE},
        "OSEDiffLQEncode": {"image": photo(), "scale": 4.0},
        "OSEDiffDecode": {"latent": latent, "color": "none"},
    }.items():
        text = failure(nodes[name], model=model, **inputs)
        assert re.search(r"takes \d+\.\d GiB of memory, of which 0\.0 GiB are free: does not fit; take", text)
    assert comfy.loads == []  # before anything is brought


def test_models_that_do_not_load(nodes, model_folder):
    loader = nodes["OSEDiffLoader"]
    good = {"base": "tiny_sd", "weights": "osediff.pkl", "dtype": "float32", "strength": 1.0}
    broken = model_folder / "osediff" / "cut.safetensors"
    broken.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    try:
        assert "cut.safetensors" in failure(loader, **{**good, "weights": "cut.safetensors"})
    finally:
        broken.unlink()
    assert "is not there" in failure(loader, **{**good, "weights": "cut.safetensors"})
    assert "is not there" in failure(loader, **{**good, "base": "gone"})


def test_a_checkpoint_of_another_base_is_named(nodes, model_folder, pack):
    write = sys.modules[f"{pack.__name__}.osediff_core"].weights.checkpoint
    other = write.read_checkpoint(model_folder / "osediff" / "osediff.pkl")
    name = next(key for key in other.unet if "lora_A" in key)
    other.unet[name] = torch.zeros(other.unet[name].shape[0], 7, *other.unet[name].shape[2:])
    place = model_folder / "osediff" / "other.safetensors"
    write.write_checkpoint(place, other)
    try:
        inputs = {"base": "tiny_sd", "weights": "other.safetensors", "dtype": "float32", "strength": 1.0}
        assert name.split(".lora_A")[0] in failure(nodes["OSEDiffLoader"], **inputs)
    finally:
        place.unlink()
