"""Networks of a base: built without memory, then filled with one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OSEDiffError
from ..network.config import Config, UNetConfig, VAEConfig, read_config
from ..network.unet import UNet
from ..network.vae import VAE
from ..weights.tensorfile import TensorFile

Change = Callable[[str, Tensor], Tensor]
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class NetworkFiles:
    """Where one network comes from: its config, its files, and how their keys become the network's own.

    where: what to call it in a message. rename: keys and tensors of the files to the network's
    own; it must not look at values, so that it can be tried on the meta device.
    """

    name: str
    where: str
    config: Mapping[str, Any]
    files: list[TensorFile]
    rename: Rename = field(default=dict)

    def tensors(self, meta: bool = False) -> dict[str, Tensor]:
        """Return the tensors by the network's keys, as views of the files or, for their shapes, as `meta`."""
        found: dict[str, Tensor] = {}
        for file in self.files:
            blank = {k: torch.empty(shape, device="meta") for k, shape in file.shapes.items()} if meta else {}
            found |= blank or file.tensors()
        return self.rename(found)

    def release(self) -> None:
        """Give back the pages of the files that were read so far."""
        for file in self.files:
            file.release()


def empty_network(part: NetworkFiles) -> nn.Module:
    """Return the network of a part on the meta device, without weights; its buffers are in place.

    Raises OSEDiffError if a library is missing, the config does not describe such a network, or the files
    lack tensors that it needs or have them in other shapes.
    """
    try:
        with torch.device("meta"):
            module = _build(part)
    except OSEDiffError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise OSEDiffError(
            f"the config of {part.where} is damaged or of another kind: {_last(error)}"
        ) from error
    _restore_positions(module)
    _check_shapes(module, part)
    return module.eval().requires_grad_(False)


@torch.no_grad()
def fill(
    module: nn.Module,
    part: NetworkFiles,
    change: Change | None,
    dtype_of: Callable[[str], torch.dtype],
    device: torch.device | str,
) -> None:
    """Put the tensors of a part into its empty network, each as soon as it is read.

    change(name, tensor) may replace a tensor while it still has the precision of the file; dtype_of(name) is
    what the result is rounded to, once. There is never more than one tensor besides the weights in memory.
    """
    tensors = _matched(part.tensors(), module)
    weights: dict[str, Tensor] = {}
    for name in module.state_dict():
        stored = tensors.pop(name)
        wanted = stored if change is None else change(name, stored)
        wanted = wanted.to(device=device, dtype=dtype_of(name))
        weights[name] = wanted.clone() if wanted.data_ptr() == stored.data_ptr() else wanted.contiguous()
        del stored, wanted
        part.release()
    module.load_state_dict(weights, assign=True)
    for buffer_owner in module.modules():
        for name, buffer in buffer_owner.named_buffers(recurse=False):
            setattr(buffer_owner, name, buffer.to(device))


def _build(part: NetworkFiles) -> nn.Module:
    """Return the network of a part."""
    if part.name == "unet":
        return UNet(_config(UNetConfig, part))
    if part.name == "vae":
        return VAE(_config(VAEConfig, part))
    library = import_transformers()
    return library.CLIPTextModel(library.CLIPTextConfig.from_dict(dict(part.config)))


def _config(kind: type[Config], part: NetworkFiles) -> Config:
    try:
        return read_config(kind, part.config)
    except OSEDiffError as error:
        raise OSEDiffError(f"the config of {part.where} does not fit: {error}") from error


def import_transformers() -> Any:  # noqa: ANN401
    """Return the library, imported as late as this because it is slow; OSEDiffError if it cannot be."""
    try:
        import transformers

        _ = transformers.CLIPTextModel, transformers.CLIPTextConfig, transformers.CLIPTokenizer
    except (ImportError, RuntimeError, AttributeError) as error:  # it wraps the first in the second
        raise OSEDiffError(
            f"transformers cannot be imported ({_last(error)}): install the requirements"
        ) from error
    return transformers


def _restore_positions(module: nn.Module) -> None:
    """Count the positions of a text encoder again: no file has them, and on the meta device they are lost."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if name == "position_ids":
                setattr(owner, name, torch.arange(buffer.shape[-1]).expand(buffer.shape))
            elif buffer.is_meta:
                raise OSEDiffError(
                    f"this version of transformers has a buffer {name} that is not known here: update OSEDiff"
                )


def _check_shapes(module: nn.Module, part: NetworkFiles) -> None:
    """Raise OSEDiffError, naming the first tensors, unless the files have all that the network needs."""
    found = _matched(part.tensors(meta=True), module)
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise OSEDiffError(
            f"{part.where} lacks {len(missing)} tensors, the first of them {missing[0]}: get the base again"
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise OSEDiffError(
                f"{part.where} is of another kind: {name} is {tuple(found[name].shape)} where its config "
                f"needs {shape}"
            )


def _matched(tensors: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors under the network's keys: transformers 5.6 took CLIP's "text_model." out of them."""
    prefix = "text_model."
    if not any(key.startswith(prefix) for key in module.state_dict()):
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    if any(key.startswith(prefix) for key in tensors):
        return tensors
    return {prefix + key: tensor for key, tensor in tensors.items()}


def _last(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
