"""What the networks are built from: settings of diffusers' config files, the unknown refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from .. import limits
from ..errors import OSEDiffError

FIXED = {  # what a setting must be where it is said; any that is not named here may be null, false or 0
    "act_fn": "silu", "attention_type": "default", "conv_in_kernel": 3, "conv_out_kernel": 3,
    "downsample_padding": 1, "flip_sin_to_cos": True, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "resnet_out_scale_factor": 1,
    "resnet_time_scale_shift": "default", "time_embedding_type": "positional",
    "transformer_layers_per_block": 1,
}  # fmt: skip
WITHOUT_EFFECT = ("addition_embed_type_num_heads", "force_upcast", "upcast_attention")


@dataclass(frozen=True)
class UNetConfig:
    """Settings of the UNet under diffusers' names; widths are from the finest level to the coarsest."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    cross_attention_dim: int
    in_channels: int = 4
    out_channels: int = 4
    layers_per_block: int = 2
    attention_head_dim: int | tuple[int, ...] = 8  # the number of heads, in spite of its name
    use_linear_projection: bool = False  # Stable Diffusion 2; else 1 x 1 convolutions
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: int | None = None  # said for people, builds nothing

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads of each level."""
        given = self.attention_head_dim
        return (given,) * len(self.block_out_channels) if isinstance(given, int) else given


@dataclass(frozen=True)
class VAEConfig:
    """Settings of the VAE under diffusers' names; widths are from the finest level to the coarsest."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[str, ...]
    up_block_types: tuple[str, ...]
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    layers_per_block: int = 1
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # makes the latents' deviation about 1 (Rombach et al. 2022, appendix G)
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    sample_size: int | None = None  # said for people, builds nothing
    decoder_block_out_channels: tuple[int, ...] | None = None  # where they are not those of the encoder

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """The channels of the decoder's levels, from the finest to the coarsest."""
        return self.decoder_block_out_channels or self.block_out_channels


Config = TypeVar("Config", UNetConfig, VAEConfig)
BLOCKS: Mapping[tuple[type, str], tuple[str, ...]] = {
    (UNetConfig, "down_block_types"): ("CrossAttnDownBlock2D", "DownBlock2D"),
    (UNetConfig, "up_block_types"): ("CrossAttnUpBlock2D", "UpBlock2D"),
    (VAEConfig, "down_block_types"): ("DownEncoderBlock2D",),
    (VAEConfig, "up_block_types"): ("UpDecoderBlock2D",),
}


def read_config(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """Return what a diffusers config file says; OSEDiffError names what makes another or none."""
    own = {field.name: field.type for field in fields(kind)}
    for name, value in settings.items():
        known = name in own or name.startswith("_") or name in WITHOUT_EFFECT
        if not known and (value != FIXED[name] if name in FIXED else value):
            raise OSEDiffError(f"the setting {name} = {value!r} makes a network that is not known here")
    chosen: dict[str, Any] = {name: settings[name] for name in own if name in settings}
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}
    for name, value in chosen.items():
        if not _may_be(name, value, str(own[name])):
            raise OSEDiffError(f"the setting {name} = {value!r} cannot be: expected {own[name]} of its size")
        blocks = BLOCKS.get((kind, name))
        if blocks is not None and not {*value} <= {*blocks}:
            raise OSEDiffError(f"the setting {name} has {min({*value} - {*blocks})!r}, expected {blocks}")
    missing = [field.name for field in fields(kind) if field.default is MISSING and field.name not in chosen]
    if missing:
        raise OSEDiffError(f"it lacks the setting {missing[0]}")
    config = kind(**chosen)
    for name in ("down_block_types", "up_block_types", "heads", "decoder_block_out_channels"):
        if len(getattr(config, name, None) or config.block_out_channels) != len(config.block_out_channels):
            raise OSEDiffError(f"the settings block_out_channels and {name} speak of different levels")
    _check_widths(config)
    return config


def _may_be(name: str, value: object, kind: str) -> bool:
    """Return whether a value is of the kind of its field, a number of it within the limits."""
    if isinstance(value, tuple):
        part = "str" if "str" in kind else "int"
        few = 1 <= len(value) <= limits.LEVELS
        return "tuple" in kind and few and all(_may_be(name, item, part) for item in value)
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, int) and kind.startswith("int"):
        return 1 <= value <= (limits.LEVEL_LAYERS if name == "layers_per_block" else limits.WIDTH)
    if isinstance(value, int | float) and kind == "float":
        return 0 < value <= limits.WIDTH
    return (isinstance(value, str) and kind == "str") or (value is None and "None" in kind)


def _check_widths(config: UNetConfig | VAEConfig) -> None:
    """Raise OSEDiffError where channels cannot be divided among norms and heads."""
    heads = config.heads if isinstance(config, UNetConfig) else (1,)
    widths = config.block_out_channels
    for width in widths if isinstance(config, UNetConfig) else widths + config.decoder_widths:
        if width % config.norm_num_groups:
            raise OSEDiffError(f"{width} channels cannot be divided into {config.norm_num_groups} groups")
    for width, count in zip(config.block_out_channels, heads, strict=False):
        if width % count:
            raise OSEDiffError(f"{width} channels cannot be divided among {count} heads")


def write_config(config: UNetConfig | VAEConfig) -> dict[str, Any]:
    """Return the content of a diffusers config file of a network."""
    name = "UNet2DConditionModel" if isinstance(config, UNetConfig) else "AutoencoderKL"
    said = {key: value for key, value in asdict(config).items() if value is not None}
    return {"_class_name": name, **said}
