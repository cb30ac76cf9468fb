"""Load the diffusion model that OSEDiff was trained on: UNet, VAE, text encoder, tokenizer, schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..diffusion import alphas_cumprod
from ..errors import OSEDiffError, first_line
from ..network.unet import UNet
from ..network.vae import VAE
from .decoder import with_decoder
from .folder import check_layout, folder_parts, load_tokenizer, scheduler_config
from .hub_cache import is_hub_id, snapshot
from .network import Change, NetworkFiles, empty_network, fill
from .precision import exact_dtype
from .single_file import SD21, Architecture, single_file_parts
from .text import LoadText, read_empty_prompt
from .vocabulary import sd2_tokenizer

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

DEMO_BASE = Path(__file__).parents[1] / "demo" / "base"
DEMO_WEIGHTS = Path(__file__).parents[1] / "demo" / "osediff_demo.safetensors"
SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt", ".sft")
TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Base:
    """The parts of a base model, frozen and in evaluation mode; alphas_cumprod is (T,) float32.

    load_text: gives text encoder and tokenizer, which are loaded already unless there is `empty_prompt`: what
    they make of the empty prompt, (1, L, D) float32, where the base brings it.
    """

    unet: UNet
    vae: VAE
    load_text: LoadText
    alphas_cumprod: Tensor
    empty_prompt: Tensor | None = None


@dataclass(frozen=True)
class _Source:
    """A base, a folder or a file at `place`, before anything of it is loaded; `tokenizer` loads that."""

    place: Path
    parts: dict[str, NetworkFiles]
    tokenizer: Callable[[], CLIPTokenizer]
    alphas_cumprod: Tensor


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    edit: Callable[[str, nn.Module], Change | None] | None = None,
    *,
    vocabulary: str | Path | None = None,
    decoder: str | Path | None = None,
    architecture: Architecture = SD21,
) -> Base:
    """Load a base: a folder in the diffusers layout, a single file, or the id of a model in the hub's cache.

    edit(name, network) is called for "unet" and "vae" while they have no weights yet; what it returns may
    change each tensor, by its name, before it is rounded to `dtype` and moved to `device`, so that folded
    weights are rounded once. The layers of `precision.EXACT` stay in float32. vocabulary: a folder with
    CLIP's vocab.json and merges.txt, for a single file, which has none; architecture: its configs. decoder: a
    file with another decoder for the base's latents. Raises OSEDiffError, before any weight is read, if the
    base is not there, incomplete, damaged, another kind of model, or predicts something else than noise, and
    for a decoder that is none or does not fit.
    """
    source = _open(path, vocabulary, architecture)
    if decoder is not None:
        source.parts["vae"] = with_decoder(source.parts["vae"], decoder)
    networks = {name: empty_network(source.parts[name]) for name in ("unet", "vae")}
    unet, vae = networks["unet"], networks["vae"]
    assert isinstance(unet, UNet)
    assert isinstance(vae, VAE)
    load_text: LoadText = partial(_load_text, source, dtype, device)
    empty_prompt = read_empty_prompt(source.place, unet.config.cross_attention_dim)
    # What is wrong with the text is said before anything is read, unless it waits until somebody needs it.
    text = (empty_network(source.parts["text_encoder"]), source.tokenizer()) if empty_prompt is None else None
    changes = {name: edit(name, network) for name, network in networks.items()} if edit is not None else {}
    for name, network in networks.items():
        fill(network, source.parts[name], changes.get(name), exact_dtype(network, dtype), device)
    if text is not None:
        load_text = partial(tuple, load_text(*text))
    return Base(unet, vae, load_text, source.alphas_cumprod, empty_prompt)


def _load_text(
    source: _Source,
    dtype: torch.dtype,
    device: torch.device | str,
    network: nn.Module | None = None,
    tokenizer: CLIPTokenizer | None = None,
) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Return text encoder and tokenizer; what was made of them already comes as `network`, `tokenizer`."""
    part = source.parts["text_encoder"]
    network = network or empty_network(part)
    fill(network, part, None, exact_dtype(network, dtype), device)
    return cast("CLIPTextModel", network), tokenizer or source.tokenizer()


def _open(path: str | Path, vocabulary: str | Path | None, architecture: Architecture) -> _Source:
    """Find the parts of a base, and check what can be checked without reading them."""
    place = locate(path).absolute()  # what waits is found wherever the program has gone to meanwhile
    if place.is_dir():
        check_layout(place)
        schedule = alphas_cumprod(scheduler_config(place))  # (T,)
        return _Source(place, folder_parts(place), partial(load_tokenizer, place), schedule)
    parts, tokenizer = single_file_parts(place, architecture), sd2_tokenizer(vocabulary)
    return _Source(place, parts, lambda: tokenizer, alphas_cumprod(architecture.scheduler))


def read_schedule(path: str | Path, architecture: Architecture = SD21) -> dict[str, Any]:
    """Return the scheduler's config of a base; OSEDiffError as for `load_base`."""
    place = locate(path)
    return scheduler_config(place) if place.is_dir() else dict(architecture.scheduler)


def find_parts(path: str | Path, architecture: Architecture = SD21) -> dict[str, NetworkFiles]:
    """Return where the networks of a base come from, none of them read; OSEDiffError as for `load_base`."""
    place = locate(path)
    return folder_parts(place) if place.is_dir() else single_file_parts(place, architecture)


def read_conv_in(path: str | Path, architecture: Architecture = SD21) -> dict[str, Tensor]:
    """Return "conv_in.weight" and "conv_in.bias" of a base's UNet in float32, and load nothing else."""
    tensors = find_parts(path, architecture)["unet"].tensors()
    return {key: tensors[key].read().float() for key in ("conv_in.weight", "conv_in.bias")}


def locate(path: str | Path) -> Path:
    """Return the file or folder of a base, which may be given as a hub id; OSEDiffError if there is none."""
    place = Path(path)
    if place.exists():
        return place
    name = place.as_posix()
    found = snapshot(name) if is_hub_id(name) else None
    if found is not None:
        return found
    raise OSEDiffError(
        f"there is no base at {path}, nor a model of that name in the hub's cache: give a folder in the "
        "diffusers layout, a .safetensors or .ckpt file, or get one by `osediff fetch base`"
    )


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device; "auto" is the first of cuda, xpu, mps and cpu that there is."""
    there = {"cuda": torch.cuda.is_available(), "xpu": _has_xpu(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next((name for name, yes in there.items() if yes), "cpu"))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise OSEDiffError(f"the device is auto, cpu, cuda, xpu or mps, got {device!r}") from error
    if not there.get(resolved.type, True):
        raise OSEDiffError(f"this PyTorch finds no {resolved.type} device: use auto or cpu")
    if resolved.type not in ("cpu", *there):
        raise OSEDiffError(f"the device is auto, cpu, cuda, xpu or mps, got {device!r}")
    count = 1 if resolved.type in ("cpu", "mps") else getattr(torch, resolved.type).device_count()
    if resolved.index is not None and resolved.index >= count:
        raise OSEDiffError(
            f"there is no device {resolved}: this machine has {count} of type {resolved.type}, counted from 0"
        )
    return resolved


def _has_xpu() -> bool:
    return hasattr(torch, "xpu") and torch.xpu.is_available()


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the floating type; "auto" is float16 on cuda, else float32."""
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    resolved = TYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved not in TYPES.values() or resolved is None:
        raise OSEDiffError(f"the dtype is auto, float32, float16 or bfloat16, got {dtype!r}")
    _check_computes(device, resolved)
    return resolved


def _check_computes(device: torch.device, dtype: torch.dtype) -> None:
    """Raise OSEDiffError where a device, or this PyTorch on it, cannot convolve and multiply in a dtype."""
    try:
        x = torch.ones((1, 1, 3, 3), device=device, dtype=dtype)
        torch.matmul(torch.nn.functional.group_norm(torch.conv2d(x, x, padding=1), 1), x)
    except RuntimeError as error:
        name, why = str(dtype).removeprefix("torch."), first_line(error)
        raise OSEDiffError(f"{device} cannot compute in {name} ({why}): use float32") from error
