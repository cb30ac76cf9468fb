"""A decoder in a file of its own for the latents of a base: of other widths, and so lighter or heavier.

The one that is published for Stable Diffusion 2.1, `sd21_lwdecoder.pth` (with VOSR), has half the widths, the
names of diffusers' decoders and no post_quant_conv. All of it is told from names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..errors import OSEDiffError
from ..network.config import VAEConfig, read_config
from ..network.vae import VAE
from ..weights.recognise import DECODER, DECODER_SIGN, name_of
from ..weights.tensorfile import TensorFile
from .network import NetworkFiles

Shapes = Mapping[str, tuple[int, ...]]
OWN = ("decoder.", "post_quant_conv.")  # how the names of a VAE begin that a decoder takes the place of


def with_decoder(vae: NetworkFiles, path: str | Path) -> NetworkFiles:
    """Return the VAE of a base with the decoder of a file in the place of its own, none of it read.

    Raises OSEDiffError for a file that holds something else, which is named, or a decoder of other latents.
    """
    file = TensorFile(path)
    kind = name_of(file.shapes)
    if kind != DECODER:
        raise OSEDiffError(
            f"{file.path} is {kind}, expected {DECODER}: give one such as sd21_lwdecoder.pth, or leave the "
            "decoder out"
        )
    keys = _keys(file.shapes)
    config = {
        **vae.config,
        "decoder_block_out_channels": _widths({name: file.shapes[key] for name, key in keys.items()}),
        "use_post_quant_conv": any(name.startswith("post_quant_conv.") for name in keys),
    }
    _check(file, keys, vae, config)

    def rename(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        others = vae.rename({key: tensor for key, tensor in tensors.items() if key not in file.shapes})
        kept = {name: tensor for name, tensor in others.items() if not name.startswith(OWN)}
        return kept | {name: tensors[key] for name, key in keys.items()}

    where = f"{vae.where} with the decoder {file.path}"
    return NetworkFiles(vae.name, where, config, [*vae.files, file], rename)


def _keys(shapes: Shapes) -> dict[str, str]:
    """Return the names of a VAE's decoder, and what the file calls them, which may have words before."""
    before = next(key.removesuffix(DECODER_SIGN) for key in shapes if key.endswith(DECODER_SIGN))
    outside = before.removesuffix("decoder.")
    found = {f"decoder.{key.removeprefix(before)}": key for key in shapes if key.startswith(before)}
    beside = {key.removeprefix(outside): key for key in shapes if key.startswith(f"{outside}{OWN[1]}")}
    return {name: key for name, key in found.items() if key not in beside.values()} | beside


def _widths(shapes: Shapes) -> tuple[int, ...]:
    """Return the channels of each level, from the finest to the coarsest."""
    levels = {
        int(match[1]): shape[0]
        for name, shape in shapes.items()
        if (match := re.fullmatch(r"decoder\.up_blocks\.(\d+)\.resnets\.0\.conv1\.weight", name)) and shape
    }
    return tuple(levels[level] for level in sorted(levels, reverse=True))


def _check(
    file: TensorFile, keys: Mapping[str, str], vae: NetworkFiles, config: Mapping[str, object]
) -> None:
    """Raise OSEDiffError unless the file has the very tensors of a decoder of this base's latents."""

    def refuse(why: str) -> NoReturn:
        raise OSEDiffError(
            f"{file.path} is no decoder for the latents of {vae.where}: {why}; give one that was made for "
            "that base, or leave it out"
        )

    try:
        with torch.device("meta"):
            network = VAE(read_config(VAEConfig, config))
    except OSEDiffError as error:
        refuse(str(error))
    needed = {n: tuple(t.shape) for n, t in network.state_dict().items() if n.startswith(OWN)}
    for name in sorted(needed.keys() ^ keys.keys()):
        refuse(f"it lacks {name}" if name in needed else f"{keys[name]} has no place in it")
    for name, shape in needed.items():
        if file.shapes[keys[name]] != shape:
            refuse(f"{keys[name]} is {tuple(file.shapes[keys[name]])}, expected {shape}")
