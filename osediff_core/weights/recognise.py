"""What a weights file is, told from the names and shapes of its tensors; no tensor is read for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

SD2 = "Stable Diffusion 2"
"""What `name_of` calls a file that may be a base: whether it predicts noise is not in the shapes."""

UNET, TEXT_1, TEXT_2 = "model.diffusion_model.", "cond_stage_model.transformer.", "cond_stage_model.model."
VAE = "first_stage_model."
DECODER = "the decoder of a VAE alone"
"""What `name_of` calls a file with what turns latents into pictures, and nothing else."""
DECODER_SIGN = "up_blocks.0.resnets.0.conv1.weight"
CONV_IN = UNET + "input_blocks.0.0.weight"
CROSS_ATTENTION = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
# Its spread tells the two kinds of Stable Diffusion 2.1 apart: both have the same tensors.
V_SIGN = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
V_SIGN_LIMIT = 0.09
"""Standard deviation of `V_SIGN` above which a model predicts velocity, the limit that ComfyUI uses."""

# What a UNet's first convolution takes besides the four channels of the latent.
CHANNELS = {
    4: "",
    5: "for depth maps",
    7: "x4 upscaler",
    8: "InstructPix2Pix",
    9: "for inpainting",
}


def name_of(shapes: Shapes, text_width: int = 1024) -> str:
    """Return what a file holds in words, `SD2` where it may be the base of OSEDiff.

    text_width: of the base that is looked for, what its UNet attends to.
    """
    for name, fits in KINDS:
        if fits(shapes):
            return name
    if shapes.get(CROSS_ATTENTION, ())[-1:] == (text_width,) and text_width != 1024:
        return SD2
    return _unet_name(shapes) or "a file of an unknown kind"


def name_of_config(unet: Mapping[str, Any]) -> str:
    """Return what model a diffusers UNet config belongs to in words, "" for one of no well-known size.

    `SD2` is the name for the base of OSEDiff, whatever it predicts: the scheduler's config says that.
    """
    widths = unet.get("block_out_channels")
    width = widths[0] if isinstance(widths, list | tuple) and widths else 0
    context = unet.get("cross_attention_dim")
    if "attention_head_dim" not in unet and "joint_attention_dim" in unet:
        return "a transformer of the Stable Diffusion 3 or Flux family"
    if unet.get("addition_embed_type") == "text_time" or context == 2048:
        return "Stable Diffusion XL"
    return _family(context, width, unet.get("in_channels", 4))


def _unet_name(shapes: Shapes) -> str:
    """Name the UNet of a single-file checkpoint by its text width and its input channels."""
    if CONV_IN not in shapes or CROSS_ATTENTION not in shapes:
        return ""
    if len(shapes[CONV_IN]) < 2 or not shapes[CROSS_ATTENTION]:
        return "a damaged file: its tensors have other shapes than those of any model"
    width, channels = shapes[CONV_IN][:2]
    return _family(shapes[CROSS_ATTENTION][-1], width, channels) or "a diffusion model of an unknown size"


def _family(context: object, width: object, channels: object) -> str:
    family = {768: "Stable Diffusion 1", 1024: SD2}.get(context if isinstance(context, int) else 0, "")
    if not family or (family != SD2 and width != 320):
        return ""
    use = CHANNELS.get(channels if isinstance(channels, int) else 0, f"with {channels} input channels")
    return f"{family} {use}".rstrip()


def _prefix(*prefixes: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(key.startswith(prefixes) for key in shapes)


def _inside(*parts: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in key for key in shapes for part in parts)


def _lacks(prefix: str) -> Callable[[Shapes], bool]:
    return lambda shapes: UNET + "out.2.weight" in shapes and not _prefix(prefix)(shapes)


KINDS: list[tuple[str, Callable[[Shapes], bool]]] = [
    ("an empty file: it has no tensors", lambda shapes: not shapes),
    ("a LoRA", _inside("lora_A", "lora_B", "lora_down", "lora_up", "lora_unet", "hada_w1", "lokr_w1")),
    ("a ControlNet", _prefix("control_model.", "controlnet_")),
    ("Stable Diffusion 3", _inside("joint_blocks.")),
    ("Flux", _inside("double_blocks.", "double_stream_blocks.")),
    ("Stable Diffusion XL's refiner", lambda shapes: _is_refiner(shapes)),
    ("Stable Diffusion XL", _prefix("conditioner.embedders.")),
    ("a transformer (DiT) or another kind of diffusion model", lambda shapes: _is_other_diffusion(shapes)),
    ("Stable unCLIP, which starts from an image", lambda shapes: UNET + "label_emb.0.0.weight" in shapes),
    (
        "a Stable Diffusion checkpoint whose UNet is there as moving averages (model_ema) alone",
        lambda shapes: _prefix("model_ema.diffusion")(shapes) and not _prefix(UNET)(shapes),
    ),
    (DECODER, lambda shapes: _is_decoder(shapes)),
    ("the encoder of a VAE alone", lambda shapes: _is_encoder(shapes)),
    ("a VAE alone", lambda shapes: _is_vae(shapes)),
    ("a UNet alone, without its text encoder and VAE", lambda shapes: _is_unet(shapes)),
    ("a text encoder alone", lambda shapes: _is_text_encoder(shapes)),
    ("a textual inversion", lambda shapes: len(shapes) <= 4 and _inside("emb_params", "string_to")(shapes)),
    ("a Stable Diffusion checkpoint without its VAE", _lacks(VAE)),
    ("a Stable Diffusion checkpoint without its text encoder", _lacks("cond_stage_model.")),
]
"""What can be told apart, the first that fits; the order matters, because files are made of each other."""


def _is_refiner(shapes: Shapes) -> bool:
    return _prefix("conditioner.embedders.0.model.")(shapes) and not _prefix("conditioner.embedders.1.")(
        shapes
    )


def _is_other_diffusion(shapes: Shapes) -> bool:
    return _prefix(UNET)(shapes) and CONV_IN not in shapes


def _is_decoder(shapes: Shapes) -> bool:
    encoding = _inside("down_blocks.", "encoder.", "time_embedding.")(shapes)
    return any(key.endswith(DECODER_SIGN) for key in shapes) and not encoding


def _is_encoder(shapes: Shapes) -> bool:
    rest = _inside("up_blocks.", "decoder.", "time_embedding.", "controlnet_")(shapes)
    return any(key.endswith("down_blocks.0.resnets.0.conv1.weight") for key in shapes) and not rest


def _is_vae(shapes: Shapes) -> bool:
    own = {"encoder.conv_in.weight", "decoder.conv_in.weight", "decoder.conv_out.weight"} & shapes.keys()
    return bool(own) or (_prefix(VAE)(shapes) and not _prefix(UNET)(shapes))


def _is_unet(shapes: Shapes) -> bool:
    diffusers, bare = "down_blocks.0.resnets.0.conv1.weight", "input_blocks.0.0.weight"
    rest = _prefix(VAE, "cond_stage_model.")(shapes)
    return diffusers in shapes or bare in shapes or (CONV_IN in shapes and not rest)


def _is_text_encoder(shapes: Shapes) -> bool:
    text = _inside("text_model.encoder.layers.0.", "resblocks.0.attn.in_proj_weight")(shapes)
    return text and not _prefix(UNET)(shapes)
