"""The section `model` of the configuration: the base, and what of it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PUBLISHED_NEGATIVE_PROMPT = (
    "painting, oil painting, illustration, drawing, art, sketch, cartoon, CG Style, 3D render, "
    "unreal engine, blurring, dirty, messy, worst quality, low quality, frames, watermark, signature, "
    "jpeg artifacts, deformed, lowres, over-smooth"
)


@dataclass
class ModelConfig:
    """The base and what is trained on it."""

    base: str = ""
    """The base: a diffusers folder, a single file or a hub id; empty means the bundled demo base."""
    vocabulary: str = ""
    """Folder with CLIP's vocabulary, for a base in a single file, which has none; empty: looked for."""
    rank_unet: int = 4
    """Rank of the LoRA of the generator's UNet, and of the critic's."""
    rank_vae: int = 4
    """Rank of the LoRA of the VAE encoder."""
    lora_alpha: float = 8.0
    """LoRA scale times rank: the adapters are multiplied by lora_alpha / rank (the published code: 8)."""
    train_conv_in: bool = True
    """Train weight and bias of the UNet's conv_in in full, besides its LoRA, as the published code does."""
    posterior: Literal["sample", "mode"] = "sample"
    """How the VAE's posterior becomes the LQ latent while training: drawn (published code) or its mode."""
    prompt: str = ""
    """The prompt of every picture, for generator, teacher and critic."""
    negative_prompt: str = PUBLISHED_NEGATIVE_PROMPT
    """What the teacher is guided away from."""
    train_vae: Literal["encoder", "decoder", "both", "none"] = "encoder"
    """Which half of the VAE gets LoRA that is trained (paper: the encoder)."""
    critic_layers: Literal["all", "middle"] = "all"
    """Layers of the critic that are trained: all (paper), or the UNet's middle block, which is what the
    published code does by a slip."""
    licence: str = ""
    """Licence of the weights that come out, written into the checkpoint."""
    init_from: str = ""
    """A checkpoint, ours or the published .pkl, to start the generator from, or "demo", the bundled one;
    critic and optimizer are new."""
    beneath: str = ""
    """A checkpoint, named as for `init_from`, that stays as it is: what is trained comes on top of it, and
    the checkpoint written is the sum. Teacher and critic do not see it."""
    critic_from: str = ""
    """A critic that another run on this base wrote (`run.keep_critic`), to start the critic from."""
