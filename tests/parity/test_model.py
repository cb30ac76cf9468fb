"""Every stage of the model against the published implementation, the LoRA read from the published .pkl."""

import pytest
import torch

from osediff_core.diffusion import predict_x0
from osediff_core.lora import unet_targets, vae_targets

from .gaussian import blend


@torch.no_grad()
def test_text_embeddings(recorded, models, gate):
    name, case, ours = recorded
    other = models(name).encode_prompt([prompt.replace("tree", "trees") for prompt in case.prompts])
    gate("text embeddings", 1e-5, ours.embeds, case["prompt_embeds"], other, "another prompt")


@torch.no_grad()
def test_latent(recorded, models, gate):
    name, case, ours = recorded
    unadapted = models(name, 0.0).encode(case.lq, case.noise)
    gate("latent", case.latent_gate, ours.latent, case["lq_latent"], unadapted, "VAE LoRA off")


@torch.no_grad()
def test_latent_uses_the_noise_given(recorded, models, gate):
    name, case, ours = recorded
    if case.noise is None:
        pytest.skip("recorded with the mode")
    mode = models(name).encode(case.lq)
    gate("latent, sampled", case.latent_gate, ours.latent, case["lq_latent"], mode, "the mode instead")


@torch.no_grad()
def test_eps(recorded, models, gate):
    name, case, ours = recorded

    def at_half(patch):
        return models(name, 0.5).predict_noise(patch, case["prompt_embeds"])

    wrong = blend(at_half, case["lq_latent"], case.tile, case.overlap)
    gate("eps", 2e-5, ours.eps, case["eps_pred"], wrong, "LoRA scale 1, not 2")


@torch.no_grad()
def test_x0_from_stored_latent_and_eps(recorded, models, gate):
    name, case, _ = recorded
    model, latent, eps = models(name), case["lq_latent"], case["eps_pred"]
    earlier = predict_x0(latent, eps, model.alphas_cumprod[998])
    gate(
        "x0, stored latent and eps",
        1e-5,
        model.predict_x0(latent, eps),
        case["x0_latent"],
        earlier,
        "t = 998",
    )


@torch.no_grad()
def test_x0_end_to_end(recorded, models, gate):
    name, case, ours = recorded
    rounded = models(name).predict_x0(case["lq_latent"], case["eps_pred"].half())
    gate("x0, end to end", 3e-4, ours.x0, case["x0_latent"], rounded, "eps rounded to fp16")


@torch.no_grad()
def test_image(recorded, models, gate):
    name, case, ours = recorded
    rounded = models(name).decode(case["x0_latent"].bfloat16()) * 2 - 1
    gate(
        "image, end to end",
        1e-4,
        case.seen(ours.image),
        case.output,
        case.seen(rounded),
        "x0 rounded to bf16",
    )


def test_single_tiles(recorded, gate):
    _, case, ours = recorded
    if "tile_eps_first" not in case.tensors:
        pytest.skip("no single tiles recorded")
    tiles = torch.cat([ours.tiles[0], ours.tiles[-1]])
    expected = torch.cat([case["tile_eps_first"], case["tile_eps_last"]])
    gate("eps of first and last tile", 2e-5, tiles, expected, tiles.flip(0), "last and first")


@torch.no_grad()
def test_blending_of_tiles(recorded, models, gate):
    name, case, ours = recorded
    if len(ours.tiles) == 1:
        pytest.skip("not tiled")

    def noise(patch):
        return models(name).predict_noise(patch, case["prompt_embeds"])

    rows = case["lq_latent"].shape[-2] > ours.tiles[0].shape[-2]
    if rows:  # the published window is off its centre along the height only
        cut = case.tile, case.overlap
        how, wrong = "symmetric window", blend(noise, case["lq_latent"], *cut, symmetric=True)
    else:
        how, wrong = "not tiled", blend(noise, case["lq_latent"], None, 0)
    gate("eps, blended", 2e-5, ours.eps, case["eps_pred"], wrong, how)


def test_noise_schedule(recorded_set, models, gate):
    from safetensors.torch import load_file

    name, folder = recorded_set
    expected = load_file(folder / "scheduler_tables.safetensors")["alphas_cumprod"]
    ours = models(name).alphas_cumprod
    gate("alphas_cumprod", 1e-9, ours, expected, ours.roll(1), "one step off")


def test_the_published_checkpoint_names_our_lora_targets(recorded_set, models):
    name, folder = recorded_set
    saved = torch.load(folder / "osediff.pkl", weights_only=True)
    model = models(name)
    groups = unet_targets(model.unet)
    assert groups["default_encoder"] == saved["unet_lora_encoder_modules"]
    assert groups["default_decoder"] == saved["unet_lora_decoder_modules"]
    assert groups["default_others"] == saved["unet_lora_others_modules"]
    assert vae_targets(model.vae) == list(dict.fromkeys(saved["vae_lora_encoder_modules"]))
