"""Networks of a base: built without memory, then filled with one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from .. import limits
from ..errors import OSEDiffError
from ..lora import foreign_prefix
from ..network.config import Config, UNetConfig, VAEConfig, read_config
from ..network.unet import UNet
from ..network.vae import VAE
from ..weights.tensorfile import TensorFile

Change = Callable[[str, Tensor], Tensor]
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]
TEXT_SIZES = {
    "vocab_size": limits.WIDTH, "hidden_size": limits.WIDTH, "intermediate_size": limits.WIDTH,
    "projection_dim": limits.WIDTH, "max_position_embeddings": limits.WIDTH,
    "num_hidden_layers": limits.TEXT_LAYERS, "num_attention_heads": limits.WIDTH,
}  # fmt: skip
TEXT_KINDS = {
    "hidden_act": (str,), "layer_norm_eps": (float,),
    "pad_token_id": (int, type(None)), "bos_token_id": (int, type(None)), "eos_token_id": (int, type(None)),
}  # fmt: skip
SCALES = ("scale_weight", "weight_scale", "scaled_fp8", "comfy_quant", ".absmax", ".quant_map")
"""How the names end of what programs keep beside quantized weights, without which these mean nothing."""


@dataclass(frozen=True)
class NetworkFiles:
    """Where one network comes from: its config, its files, and how their keys become the network's own.

    where: what to call it in a message. rename: keys and tensors of the files to the network's own; it gets
    tensors of the meta device, and what it makes of them are views.
    """

    name: str
    where: str
    config: Mapping[str, Any]
    files: list[TensorFile]
    rename: Rename = field(default=dict)

    def tensors(self) -> dict[str, Unread]:
        """Return the tensors by the network's keys, none of them read."""
        blanks: dict[str, Tensor] = {}
        sources: dict[int, tuple[TensorFile, str]] = {}
        for file in self.files:
            for key in file.shapes:
                blanks[key] = file.blank(key)
                sources[_storage_of(blanks[key])] = file, key
        return {name: Unread(view, *sources[_storage_of(view)]) for name, view in self.rename(blanks).items()}


@dataclass(frozen=True)
class Unread:
    """A tensor of a network, or a view of one, that is still in a file; blank: its shape and kind."""

    blank: Tensor
    file: TensorFile
    key: str

    def read(self) -> Tensor:
        """Return the tensor; OSEDiffError where the file is no longer what it was."""
        whole = self.file.read(self.key)
        view = whole.as_strided(self.blank.shape, self.blank.stride(), self.blank.storage_offset())
        return view if view.numel() == whole.numel() else view.clone()  # which would keep the whole


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


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
        stored = tensors[name].read()
        wanted = stored if change is None else change(name, stored)
        weights[name] = wanted.to(device=device, dtype=dtype_of(name)).contiguous()
        del stored, wanted
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
    library = import_transformers("CLIPTextModel", "CLIPTextConfig")
    return library.CLIPTextModel(library.CLIPTextConfig(**text_settings(part)))


def text_settings(part: NetworkFiles) -> dict[str, Any]:
    """Return what a config says that makes a text encoder: others could name code, which is not run."""
    settings = {name: part.config[name] for name in (*TEXT_KINDS, *TEXT_SIZES) if name in part.config}
    for name, value in settings.items():
        fits = isinstance(value, TEXT_KINDS.get(name, int)) and not isinstance(value, bool)
        if not fits or (name in TEXT_SIZES and not 1 <= value <= TEXT_SIZES[name]):
            raise OSEDiffError(
                f"the config of {part.where} does not fit: the setting {name} = {value!r} cannot be; get the "
                "base again"
            )
    width, heads = settings.get("hidden_size", 512), settings.get("num_attention_heads", 8)
    if width % heads:
        raise OSEDiffError(f"the config of {part.where} does not fit: width {width} for {heads} heads")
    return settings


def _config(kind: type[Config], part: NetworkFiles) -> Config:
    try:
        return read_config(kind, part.config)
    except OSEDiffError as error:
        raise OSEDiffError(f"the config of {part.where} does not fit: {error}") from error


def import_transformers(*names: str) -> Any:  # noqa: ANN401
    """Return the library with these classes, which it imports when they are asked for.

    As late as this because it is slow. Raises OSEDiffError, with the cause, where it cannot be imported.
    """
    try:
        import transformers

        for name in names:
            getattr(transformers, name)
    except (ImportError, RuntimeError, AttributeError) as error:  # it wraps the first in the second
        raise OSEDiffError(f"transformers cannot be imported ({_last(error)}): {_remedy(error)}") from error
    return transformers


def _remedy(error: Exception) -> str:
    """Say what to do about a library that is there and cannot be imported, or is not there."""
    if isinstance(error, ModuleNotFoundError) and error.name == "transformers":
        return "install the requirements"
    if find_spec("torchvision") is not None:
        try:
            import_module("torchvision")
        except (ImportError, RuntimeError, AttributeError, OSError) as cause:
            return (
                f"torchvision {_installed('torchvision')} does not work with PyTorch {torch.__version__} "
                f"({_last(cause)}); install the torchvision that belongs to this PyTorch, or none"
            )
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install {error.name.partition('.')[0]}, which it needs"
    return f"transformers {_installed('transformers')} does not work here; install it again"


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


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
    found = _matched(part.tensors(), module)
    expected = module.state_dict()
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise OSEDiffError(
            f"{part.where} lacks {len(missing)} tensors, the first of them {missing[0]}"
            f"{_elsewhere(missing[0], part)}"
        )
    scaled = [key for file in part.files for key in file.shapes if key.endswith(SCALES)]
    if scaled:
        raise OSEDiffError(
            f"{part.where} is quantized, with scales beside its weights ({scaled[0]}), which are not "
            "read: get it in float16"
        )
    for name, tensor in expected.items():
        blank = found[name].blank
        if blank.shape != tensor.shape:
            raise OSEDiffError(
                f"{part.where} is of another kind: {name} is {tuple(blank.shape)} where its config "
                f"needs {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not blank.is_floating_point():
            raise OSEDiffError(
                f"{part.where} has {name} in {str(blank.dtype).removeprefix('torch.')}, expected floating "
                "point numbers: get it in float16 or float32"
            )


def _elsewhere(missing: str, part: NetworkFiles) -> str:
    """Say what to do about a missing tensor: it may be there, under a longer name."""
    for file in part.files:
        prefix = foreign_prefix([missing], file.shapes)
        if prefix:
            return f": {file.path.name} has it as {prefix + missing}, so save it without {prefix!r}"
    return ": get the base again"


def _matched(tensors: dict[str, Unread], module: nn.Module) -> dict[str, Unread]:
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
