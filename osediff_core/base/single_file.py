"""Stable Diffusion 2.1-base in one file (.safetensors or .ckpt), as ComfyUI and others keep it.

The file has weights under the names of the original training code and nothing else: the configs are those of
`sd21`, the names are changed by `original_names`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import OSEDiffError
from ..weights.recognise import SD2, V_SIGN, V_SIGN_LIMIT, name_of
from ..weights.tensorfile import TensorFile
from . import sd21
from .network import NetworkFiles
from .original_names import rename_text_encoder, rename_unet, rename_vae


@dataclass(frozen=True)
class Architecture:
    """The configs of a model whose single files can be read."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]


SD21 = Architecture(sd21.UNET, sd21.VAE, sd21.TEXT_ENCODER, sd21.SCHEDULER)


def single_file_parts(path: Path, architecture: Architecture = SD21) -> dict[str, NetworkFiles]:
    """Return the three networks of a single-file base.

    Raises OSEDiffError for a file that is damaged or holds something else, which is named.
    """
    file = TensorFile(path)
    _check_kind(file, architecture.unet["cross_attention_dim"])
    networks = {
        "unet": (architecture.unet, rename_unet),
        "vae": (architecture.vae, rename_vae),
        "text_encoder": (architecture.text_encoder, rename_text_encoder),
    }
    return {
        name: NetworkFiles(name, f"the {name} of {path}", config, [file], partial(rename, config=config))
        for name, (config, rename) in networks.items()
    }


def _check_kind(file: TensorFile, text_width: int) -> None:
    name = name_of(file.shapes, text_width)
    if name != SD2:
        raise OSEDiffError(
            f"{file.path} is {name}, but the base of OSEDiff is Stable Diffusion 2.1-base, for 512 px "
            "(v2-1_512-ema-pruned)"
        )
    if _predicts_velocity(file):
        raise OSEDiffError(
            f"{file.path} is Stable Diffusion 2 for 768 px, which predicts velocity (v-prediction), but "
            "OSEDiff needs one that predicts noise (epsilon): use 2.1-base, for 512 px (v2-1_512-ema-pruned)"
        )


def _predicts_velocity(file: TensorFile) -> bool:
    """Tell by what the file says of itself, or else by the one small tensor whose spread differs."""
    said = file.metadata.get("modelspec.prediction_type", "").lower()
    if said:
        return said.startswith("v")
    if V_SIGN not in file.shapes:
        return False
    return file.read(V_SIGN).float().std(unbiased=False).item() > V_SIGN_LIMIT
