"""A VAE from a folder of the diffusers layout, to be trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from osediff_core.base.network import NetworkFiles, empty_network, fill
from osediff_core.errors import OSEDiffError
from osediff_core.network.vae import VAE
from osediff_core.text_files import read_settings
from osediff_core.weights.tensorfile import TensorFile

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


def read_vae(folder: Path) -> VAE:
    """Return the VAE of a folder in float32, to be trained on or frozen; OSEDiffError if it is not there."""
    try:
        settings = read_settings(folder / CONFIG)
    except OSEDiffError as error:
        raise OSEDiffError(f"{folder} holds no VAE in the diffusers layout ({error})") from error
    part = NetworkFiles("vae", str(folder), settings, [TensorFile(folder / WEIGHTS)])
    vae = empty_network(part)
    assert isinstance(vae, VAE)
    fill(vae, part, None, lambda name: torch.float32, "cpu")
    return vae.requires_grad_(True)
