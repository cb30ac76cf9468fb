"""Train the parts of a small base one after the other, and write them as a diffusers folder."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from osediff_core.base.folder import write_network
from osediff_core.diffusion import alphas_cumprod
from osediff_core.errors import OSEDiffError
from osediff_core.whole_files import write_whole, writing

from ..data.crops import vary_colour
from ..engine.state import checksum
from ..randomness.sampling import uniform
from .crops import add_smaller_copies, draw_batch, draw_crop, load_pictures
from .fit import Keep, fit
from .folder import read_vae
from .linear import start_linear
from .prior import PriorConfig, build_unet, prior_loss
from .text import build_text_encoder, load_tokenizer, write_tokenizer
from .vae import VaeConfig, build_vae, encode_mean, measure_scaling_factor, vae_loss

log = logging.getLogger(__name__)

LEAVES = "leaves"
"""Pictures whose name starts so are synthetic (`python -m train.pictures`)."""
WORDS = ("", "photograph", "dead leaves", "blurry, noisy")
"""What the prior is told about a sample: nothing, or that it is a photograph, synthetic, or degraded."""


@dataclass(frozen=True)
class PicturesConfig:
    """Where the training pictures come from."""

    folder: str = "pictures"
    leaves_share: float = 0.3
    """Share of the samples cut from synthetic pictures; photographs share the rest evenly."""
    shrink: tuple[float, ...] = (0.7, 0.5)
    """Scales of the additional smaller copies of every photograph."""


@dataclass(frozen=True)
class BaseConfig:
    """Everything `python -m train.base` needs."""

    out: str = "runs/base"
    seed: int = 0
    bf16: bool = True
    """Autocast to bfloat16 on the CPU: about twice as fast where the processor has it."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)


@dataclass(frozen=True)
class Pool:
    """Pictures in memory: uint8 (3, H, W) each, the weight it is drawn with, and whether it is synthetic."""

    pictures: list[Tensor]
    weights: Tensor
    synthetic: Tensor

    def checksum(self) -> str:
        """Tell this pool from one of other pictures or other shares."""
        return checksum([self.pictures, self.weights, self.synthetic])


def gather_pool(config: PicturesConfig, smallest: int) -> Pool:
    """Load the pictures and their smaller copies of at least `smallest` pixels on the short side."""
    pictures, weights, synthetic = [], [], []
    named = load_pictures(config.folder)
    leaves = sum(name.startswith(LEAVES) for name, _ in named)
    for name, picture in named:
        made_up = name.startswith(LEAVES)
        share = config.leaves_share / leaves if made_up else (1 - config.leaves_share) / (len(named) - leaves)
        copies = add_smaller_copies([picture], () if made_up else config.shrink)
        copies = [copy for copy in copies if min(copy.shape[1:]) >= smallest]
        pictures += copies
        weights += [share / len(copies)] * len(copies) if copies else []
        synthetic += [made_up] * len(copies)
    if not pictures:
        raise OSEDiffError(
            f"expected pictures of at least {smallest} px in {config.folder}, got smaller ones only"
        )
    return Pool(pictures, torch.tensor(weights), torch.tensor(synthetic))


def log_progress(part: str, steps: int, step: int, loss: float) -> None:
    """Say every hundred steps how far a part is."""
    if step % 100 == 0:
        log.info("%s: step %d of %d, loss %.4f", part, step, steps, loss)


def autocast(config: BaseConfig, x: Tensor) -> torch.autocast:
    """Return the precision of the forward passes, on the device of `x`."""
    return torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=config.bf16)


def cut_for_vae(picture: Tensor, generator: torch.Generator, size: int) -> Tensor:
    """Return a crop for the VAE, its colours varied."""
    return vary_colour(draw_crop(picture, generator, size), generator)


def train_vae(config: BaseConfig) -> None:
    """Train the VAE and write it to OUT/vae, scaling factor included."""
    vae_config = config.vae
    generator = torch.Generator().manual_seed(config.seed)
    pool = gather_pool(config.pictures, vae_config.crop)
    torch.manual_seed(config.seed)  # initial weights
    vae = build_vae(vae_config)
    side = vae_config.crop >> (len(vae_config.widths) - 1)
    cut = partial(cut_for_vae, size=vae_config.crop)
    if vae_config.linear_start and not vae_config.start_from:
        x, _ = draw_batch(pool.pictures, pool.weights, 64, cut, generator)
        start_linear(vae, 2 * x - 1)

    def loss_of(step: int) -> Tensor:
        x, _ = draw_batch(pool.pictures, pool.weights, vae_config.batch, cut, generator)
        noise = torch.randn(vae_config.batch, vae_config.latent_channels, side, side, generator=generator)
        with autocast(config, x):
            return vae_loss(vae, 2 * x - 1, noise, vae_config)

    groups = [{"params": list(vae.parameters()), "lr": vae_config.lr}]
    what = {
        "settings": repr((config.seed, config.bf16, vae_config)),
        "pictures": pool.checksum(),
        "first weights": checksum(vae.state_dict()),
    }
    keep = Keep(Path(config.out) / "vae_unfinished.pt", generator, what)
    fit(vae, loss_of, groups, vae_config.steps, partial(log_progress, "vae", vae_config.steps), keep)
    x, _ = draw_batch(pool.pictures, pool.weights, 64, partial(draw_crop, size=vae_config.crop), generator)
    vae.config = replace(vae.config, scaling_factor=measure_scaling_factor(vae, 2 * x - 1))
    write_network(Path(config.out) / "vae", vae)
    keep.file.unlink(missing_ok=True)


def write_scheduler(folder: Path, config: PriorConfig) -> dict:
    """Write the noise schedule as diffusers stores it, and return it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    schedule = {
        "_class_name": "DDPMScheduler",
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "clip_sample": False,
    }
    write_whole(folder / "scheduler_config.json", json.dumps(schedule, indent=2).encode())
    return schedule


def degrade_roughly(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise x (B, 3, H, W) in [0, 1]: the look that the negative prompt names."""
    small = nn.functional.avg_pool2d(x, int(uniform(generator, 2, 5)))
    blurred = nn.functional.interpolate(small, size=x.shape[-2:], mode="bilinear")
    return (blurred + uniform(generator, 0, 0.1) * torch.randn(x.shape, generator=generator)).clamp(0, 1)


@dataclass(frozen=True)
class PriorBatch:
    """Samples for the prior: x (B, 3, H, W) in [0, 1], which of WORDS each is told, (B,), and t, (B,)."""

    x: Tensor
    words: Tensor
    t: Tensor


def draw_prior_batch(pool: Pool, prior: PriorConfig, generator: torch.Generator) -> PriorBatch:
    """Draw crops, spoil some of them, and decide what the prior is told about each."""
    x, chosen = draw_batch(
        pool.pictures, pool.weights, prior.batch, partial(draw_crop, size=prior.crop), generator
    )
    spoiled = torch.rand(prior.batch, generator=generator) < prior.degraded
    x = torch.where(spoiled.view(-1, 1, 1, 1), degrade_roughly(x, generator), x)
    words = torch.where(spoiled, 3, torch.where(pool.synthetic[chosen], 2, 1))
    words = torch.where(torch.rand(prior.batch, generator=generator) < prior.drop_prompt, 0, words)
    return PriorBatch(x, words, torch.randint(0, prior.max_timestep, (prior.batch,), generator=generator))


def train_prior(config: BaseConfig) -> None:
    """Train the UNet and the text encoder on the latents of OUT/vae, and write both with their companions."""
    out, prior = Path(config.out), config.prior
    generator = torch.Generator().manual_seed(config.seed + 1)
    pool = gather_pool(config.pictures, prior.crop)
    vae = read_vae(out / "vae").requires_grad_(False)
    write_tokenizer(out / "tokenizer")
    tokenizer = load_tokenizer(out / "tokenizer")
    alphas = alphas_cumprod(write_scheduler(out / "scheduler", prior))
    torch.manual_seed(config.seed)  # initial weights
    text_encoder = build_text_encoder(prior.text_width, prior.text_layers)
    unet = build_unet(prior, vae.config.latent_channels, prior.crop >> (len(config.vae.widths) - 1))
    length = tokenizer.model_max_length
    ids = tokenizer(list(WORDS), padding="max_length", max_length=length, return_tensors="pt").input_ids

    def loss_of(step: int) -> Tensor:
        batch = draw_prior_batch(pool, prior, generator)
        with autocast(config, batch.x):
            with torch.no_grad():
                z = encode_mean(vae, 2 * batch.x - 1).float() * vae.config.scaling_factor
            noise = torch.randn(z.shape, generator=generator)
            embeds = text_encoder(ids)[0][batch.words]  # (B, L, D)
            return prior_loss(unet, z, embeds, batch.t, noise, alphas)

    both = nn.ModuleDict({"unet": unet, "text": text_encoder})
    what = {
        "settings": repr((config.seed, config.bf16, prior)),
        "pictures": pool.checksum(),
        "VAE": checksum([vae.state_dict(), vae.config.scaling_factor]),
    }
    keep = Keep(out / "prior_unfinished.pt", generator, what)
    report = partial(log_progress, "prior", prior.steps)
    fit(both, loss_of, prior_groups(both, prior), prior.steps, report, keep)
    write_network(out / "unet", unet)
    with writing(out / "text_encoder"):
        text_encoder.eval().save_pretrained(out / "text_encoder")
    write_index(out)
    keep.file.unlink(missing_ok=True)


def prior_groups(both: nn.ModuleDict, prior: PriorConfig) -> list[dict]:
    """Divide the parameters by learning rate: the layers that end the UNet are slower."""
    unet = both["unet"]
    last = {id(p) for m in (unet.conv_norm_out, unet.conv_out) for p in m.parameters()}  # pyright: ignore[reportAttributeAccessIssue]
    return [
        {"params": [p for p in both.parameters() if id(p) not in last], "lr": prior.lr},
        {"params": [p for p in both.parameters() if id(p) in last], "lr": prior.lr * prior.output_lr_scale},
    ]


def write_index(out: Path) -> None:
    """Write model_index.json, which makes the folder a diffusers pipeline."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_whole(out / "model_index.json", json.dumps(index, indent=2).encode())
