"""Losses, gradients and one full step against the published training, all adapters of the critic active.

The larger set's UNet normalizes groups of two numbers at its deepest level, where float32 decides: in float64
the worst gradient norm is 2.4e-3 from the recorded one. Convolutions are therefore done the way that comes
nearest to the recording machine's, without oneDNN.
"""

import json
import re
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from osediff_core import OSEDiff
from osediff_core.weights.checkpoint import read_checkpoint
from train.config import ModelConfig, TrainConfig
from train.engine.steps import Stepper
from train.networks import Backbone
from train.networks.guidance import guided
from train.objectives import critic_loss, vsd_loss
from train.objectives.batch import Batch, Draws

LEARNING_RATE = 5e-5


def relative(ours, expected):
    """‖ours - expected‖ / ‖expected‖ as a tensor, for the gate to compare with zero."""
    return (ours.double() - expected.double()).norm() / expected.double().norm()


@pytest.fixture
def relative_gate(gate):
    def hold(what, limit, ours, expected, wrong, how):
        gate(
            what, limit, relative(ours, expected), torch.tensor(0.0).double(), relative(wrong, expected), how
        )

    return hold


# ---- the losses alone, networks replaced by recorded outputs ------------------------------------------


def pure_vsd(case, alphas_cumprod, dtype, guidance):
    """Loss and gradient for one recorded case; the frozen network's outputs come in `dtype`."""
    z = case["latents"].clone().requires_grad_()

    def teacher(z_t, timesteps):
        assert torch.equal(timesteps, case["timesteps"])
        return guided(case["eps_fix_uncond"].to(dtype), case["eps_fix_text"].to(dtype), guidance)

    def critic(z_t, timesteps):
        return case["eps_update"]

    loss, _ = vsd_loss(z, case["noise"], case["timesteps"], alphas_cumprod, critic, teacher)
    loss.backward()
    return loss.detach(), z.grad


@pytest.mark.parametrize("number", range(5))
def test_vsd_loss_and_gradient(recorded_set, relative_gate, number):
    folder = recorded_set[1]
    file = folder / f"f_vsd_pure_{number}.safetensors"
    case = load_file(file)
    with safe_open(file, "pt") as opened:
        settings = opened.metadata()
    half = settings["fix_dtype"] == "torch.float16"
    alphas_cumprod = load_file(folder / "scheduler_tables.safetensors")["alphas_cumprod"]
    run = partial(pure_vsd, case, alphas_cumprod, torch.float16 if half else torch.float32)
    guidance = float(settings["cfg_vsd"])
    (loss, gradient), (other_loss, other_gradient) = run(guidance), run(guidance + 0.5)
    limit, how = (2e-3 if half else 1e-6), "guidance 0.5 more"
    relative_gate("VSD loss, relative", limit, loss, case["loss"], other_loss, how)
    relative_gate("VSD gradient, relative", limit, gradient, case["grad_latents"], other_gradient, how)


@pytest.mark.parametrize("number", range(5))
def test_critic_loss(recorded_set, relative_gate, number):
    folder = recorded_set[1]
    case = load_file(folder / f"f_vsd_pure_{number}.safetensors")
    alphas_cumprod = load_file(folder / "scheduler_tables.safetensors")["alphas_cumprod"]
    noisy = []

    def critic(z_t, timesteps):
        noisy.append(z_t)
        return case["eps_update"]

    def loss(noise, t):
        return critic_loss(case["latents"], noise, t, alphas_cumprod, critic)

    t = case["diff_timesteps"]
    ours, other, _ = loss(case["diff_noise"], t), loss(case["noise"], t), loss(case["diff_noise"], 999 - t)
    relative_gate("critic loss, relative", 1e-6, ours, case["diff_loss"], other, "noise of the VSD loss")
    relative_gate("noised latent, relative", 1e-6, noisy[0], case["diff_noisy"], noisy[2], "t reversed")


# ---- one full step ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """One recorded step: tensors, numbers, start and end."""

    folder: object
    io: dict
    info: dict
    critic_start: dict


@dataclass(frozen=True)
class Step:
    """Our step: values by name, gradient norms before clipping and weights after, by our tensor names."""

    values: dict
    generator_norms: dict
    critic_norms: dict
    generator: dict
    critic: dict


def our_name(key, default="unet."):
    """unet.m.lora_A.default_encoder.weight -> unet.m.lora_A.weight; critic keys lack the "unet."."""
    key = re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", key).replace(".base_layer.", ".")
    return key if key.startswith(("unet.", "vae.")) else default + key


def stub(sr, hq):
    """Stand in for LPIPS, as it was when the step was recorded."""
    return (sr - hq).abs().mean(dim=(1, 2, 3))


def recorded_step(folder):
    step = folder / "f_train_all_adapters"
    start = step / "reg_lora_init.safetensors"
    if not start.exists():  # the larger set has it once, for both of its variants
        start = folder / "f_train_official" / "reg_lora_init.safetensors"
    info = json.loads((step / "info.json").read_text())
    return Recorded(folder, load_file(step / "io.safetensors"), info, load_file(start))


def watch(updater, parameters):
    """Keep the norm of every gradient just before the clipping."""
    norms, clip = {}, updater.clip

    def clip_and_keep():
        norms.update({name: p.grad.norm() for name, p in parameters.items() if p.grad is not None})
        return clip()

    updater.clip = clip_and_keep
    return norms


def our_step(recorded, alpha=8.0, guidance=7.5, middle_only=False):
    """One step of our loop from the recorded start, with the recorded noise and timesteps."""
    io, folder = recorded.io, recorded.folder
    config = TrainConfig(model=ModelConfig(lora_alpha=alpha))
    config.loss = replace(config.loss, guidance=guidance)
    model = OSEDiff.from_pretrained(folder / "tiny_sd", dtype="float32", device="cpu")
    backbone = Backbone(model, config.model, torch.Generator())
    if middle_only:
        backbone._targets.pop("default_encoder"), backbone._targets.pop("default_decoder")
    start = read_checkpoint(folder / "osediff.pkl")
    parts = (("unet", start.unet), ("vae", start.vae))
    backbone.load_generator({f"{part}.{key}": t for part, tensors in parts for key, t in tensors.items()})
    backbone.load_critic({our_name(key): t for key, t in recorded.critic_start.items()})
    stepper = Stepper(backbone, config, stub, io["prompt_embeds"], io["neg_prompt_embeds"])
    generator, critic = backbone.generator_parameters(), backbone.critic_parameters()
    norms = watch(stepper.generator_optimizer, generator), watch(stepper.opponents["critic"].updater, critic)
    names = ("posterior_noise", "vsd_noise", "vsd_timesteps", "diff_noise", "diff_timesteps")
    draws = Draws(*(io[name] for name in names))
    with torch.backends.mkldnn.flags(enabled=False):
        values = stepper.step([Batch((io["x_src"] + 1) / 2, (io["x_tgt"] + 1) / 2, draws)])
    return Step(values, *norms, generator, critic)


@pytest.fixture(scope="module")
def step(recorded_set):
    recorded = recorded_step(recorded_set[1])
    return recorded, our_step(recorded)


@pytest.fixture(scope="module")
def wrong_steps(step):
    """The same step done wrong in the ways that the gates have to tell."""
    recorded, _ = step
    return {
        "no guidance": our_step(recorded, guidance=1.0),
        "LoRA scale 1, not 2": our_step(recorded, alpha=4.0),
        "critic: middle adapters only": our_step(recorded, middle_only=True),
    }


def test_losses_of_a_step(step, wrong_steps, relative_gate):
    recorded, ours = step
    io = recorded.io
    for name, expected, how in (
        ("loss/data", io["loss_l2"], "LoRA scale 1, not 2"),
        ("loss/perceptual", io["loss_lpipsstub_x2"] / 2, "LoRA scale 1, not 2"),
        ("loss/vsd", io["loss_vsd"], "no guidance"),
        ("loss/vsd", io["loss_vsd"], "critic: middle adapters only"),
        ("loss/critic", io["loss_diff"], "critic: middle adapters only"),
        ("norm/generator", io["gen_total_norm_unique"], "no guidance"),
        ("norm/critic", io["reg_total_norm"], "critic: middle adapters only"),
    ):
        limit = 1e-5 if name.startswith("loss") else 1e-3
        relative_gate(name, limit, ours.values[name], expected, wrong_steps[how].values[name], how)


def test_gradient_norms_of_every_tensor(step, wrong_steps, gate):
    recorded, ours = step
    info = recorded.info
    unguided, middle = wrong_steps["no guidance"], wrong_steps["critic: middle adapters only"]
    for what, norms, wrong, expected, how in (
        ("generator", ours.generator_norms, unguided.generator_norms, info["grad_norms"], "no guidance"),
        ("critic", ours.critic_norms, middle.critic_norms, info["reg_grad_norms"], "middle only"),
    ):
        expected = {our_name(key): norm for key, norm in expected.items()}
        assert norms.keys() == expected.keys()
        assert max([norms[key] for key, norm in expected.items() if norm == 0], default=0) < 1e-7
        zero = torch.tensor(0.0)
        present = {key: norm for key, norm in expected.items() if norm > 0}
        worst = max(abs(norms[key] - norm) / norm for key, norm in present.items())
        control = max(abs(wrong.get(key, zero) - norm) / norm for key, norm in present.items())
        gate(f"{what} gradient norms", 1e-3, worst, zero, control, how)


@pytest.mark.parametrize("part", ["generator", "critic"])
def test_weights_after_the_step(step, gate, part):
    recorded, ours = step
    folder, short = recorded.folder / "f_train_all_adapters", {"generator": "gen", "critic": "reg"}[part]
    if not (folder / f"{short}_after_step.safetensors").exists():
        pytest.skip("the larger set records the critic's weights only")
    after = load_file(folder / f"{short}_after_step.safetensors")
    gradients = load_file(folder / f"{short}_grads_preclip.safetensors")
    tensors = getattr(ours, part)
    skipped, clear, unsigned, still = 0, [], [], []
    for key, expected in after.items():
        if part == "generator" and key.startswith("unet.conv_in.lora"):
            skipped += 1  # the published optimizer holds these twice and steps them twice
            continue
        difference = (tensors[our_name(key)].detach() - expected).abs()
        g = gradients[key].abs()
        tiny = g < 1e-6  # AdamW's first step is lr * sign(g): here rounding decides, and here g is mostly 0
        clear.append(difference[~tiny])
        unsigned.append(difference[tiny])
        still.append(torch.full_like(difference[~tiny], LEARNING_RATE))
    assert skipped == (2 if part == "generator" else 0)
    zeros = torch.zeros_like(torch.cat(clear))
    gate(f"{part} weights after", 1e-6, torch.cat(clear), zeros, torch.cat(still), "no step taken")
    assert torch.cat(unsigned).max() <= 1.1e-4
