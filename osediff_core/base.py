"""Load the diffusion model that OSEDiff was trained on: UNet, VAE, text encoder, tokenizer, schedule."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .diffusion import alphas_cumprod
from .errors import OSEDiffError

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

DEMO_BASE = Path(__file__).parent / "demo" / "base"
DEMO_WEIGHTS = Path(__file__).parent / "demo" / "osediff_demo.safetensors"
FOLDERS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Base:
    """The parts of a base model, frozen and in evaluation mode; alphas_cumprod is (T,) float32."""

    unet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    tokenizer: CLIPTokenizer
    alphas_cumprod: Tensor


def load_base(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    edit: Callable[[str, nn.Module], None] | None = None,
) -> Base:
    """Load a base from a folder in the diffusers layout.

    edit(name, module) may change "unet" and "vae" while they still have the precision of the file, before
    they are rounded to `dtype` and moved to `device`, so that folded weights are rounded once. Raises
    OSEDiffError if the folder is incomplete or damaged, or if the base predicts something else than noise.
    """
    path = Path(path)
    _check_folder(path)
    schedule = alphas_cumprod(_scheduler_config(path))  # (T,)
    tokenizer = _load_tokenizer(path)
    parts = {}
    for name in ("unet", "vae", "text_encoder"):
        module = _load_part(path, name)
        if edit is not None and name != "text_encoder":
            edit(name, module)
        parts[name] = convert(module, dtype, device).eval().requires_grad_(False)
    base = Base(**parts, tokenizer=tokenizer, alphas_cumprod=schedule)
    _check_parts(base, path)
    return base


def convert(module: nn.Module, dtype: torch.dtype, device: torch.device | str | None = None) -> nn.Module:
    """Round and move a network in place. The plain method: that of diffusers warns about an empty list."""
    return nn.Module.to(module, device=device, dtype=dtype)


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
    return resolved


def _has_xpu() -> bool:
    return hasattr(torch, "xpu") and torch.xpu.is_available()


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the floating type; "auto" is float16 on cuda, else float32."""
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    resolved = DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if resolved not in DTYPES.values():
        raise OSEDiffError(f"the dtype is auto, float32, float16 or bfloat16, got {dtype!r}")
    return resolved


def _check_folder(path: Path) -> None:
    if not path.exists():
        raise OSEDiffError(f"there is no base at {path}: give the folder of a model in the diffusers layout")
    if not path.is_dir():
        raise OSEDiffError(f"the base {path} is a file: give the folder of a model in the diffusers layout")
    missing = [name for name in FOLDERS if not (path / name).is_dir()]
    if missing:
        raise OSEDiffError(
            f"{path} is no base in the diffusers layout: it lacks the folders {', '.join(missing)}"
        )


def _scheduler_config(path: Path) -> dict[str, Any]:
    """Read the scheduler's config and refuse a base that does not predict noise."""
    file = path / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OSEDiffError(f"{file} is missing or damaged ({error}): get the base again") from error
    kind = config.get("prediction_type", "epsilon")
    if kind != "epsilon":
        raise OSEDiffError(
            f"the base {path} has prediction_type {kind!r}, but OSEDiff needs one that predicts noise "
            "(epsilon): the usual cause is Stable Diffusion 2.1 for 768 px, which predicts velocity "
            "(v-prediction); use 2.1-base, for 512 px"
        )
    return config


def _load_part(path: Path, name: str) -> nn.Module:
    """Load one network as the file has it; OSEDiffError if a library is missing or the file does not fit."""
    from safetensors import SafetensorError

    network = _network_class(name)
    try:
        model, info = _from_pretrained(network, path / name)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise OSEDiffError(
            f"{path / name} is missing, damaged or of another kind: {_lines(error)[0]}"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise OSEDiffError(
            f"{path / name} lacks {len(missing)} tensors, the first of them {missing[0]}: get the base again"
        )
    return model


def _network_class(name: str) -> type:
    """Import the class of one network, as late as this because its library is slow to import."""
    try:
        if name == "text_encoder":
            from transformers import CLIPTextModel

            return CLIPTextModel
        from diffusers import AutoencoderKL, UNet2DConditionModel

        return UNet2DConditionModel if name == "unet" else AutoencoderKL
    except (ImportError, RuntimeError) as error:  # diffusers wraps the first in the second
        raise OSEDiffError(
            f"diffusers or transformers cannot be imported ({_lines(error)[-1]}): install the requirements"
        ) from error


def _from_pretrained(network: type, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load one network without a network connection and without its library's progress bars."""
    options: dict[str, Any] = {
        "local_files_only": True,
        "output_loading_info": True,
        "variant": _variant(folder),
    }
    if folder.name != "text_encoder":
        options["torch_dtype"] = _stored_dtype(folder)
        options["low_cpu_mem_usage"] = find_spec("accelerate") is not None
    with _no_progress_bar():
        return network.from_pretrained(folder, **options)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' own progress bar off the screen, and leave its setting as it was."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _variant(folder: Path) -> str | None:
    """Return "fp16" where only such weights are there."""
    files = [file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")]
    return "fp16" if files and all(".fp16" in name for name in files) else None


def _stored_dtype(folder: Path) -> torch.dtype:
    """Return the floating type of the stored weights, to load them neither wider nor narrower."""
    from safetensors import safe_open

    for file in sorted(folder.glob("diffusion_pytorch_model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                return {"F16": torch.float16, "BF16": torch.bfloat16}.get(
                    tensors.get_slice(key).get_dtype(), torch.float32
                )
    return torch.float32


def _load_tokenizer(path: Path) -> CLIPTokenizer:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(path / "tokenizer", local_files_only=True)
    except Exception as error:  # a damaged vocabulary is a bare Exception of the tokenizers library
        raise OSEDiffError(f"{path / 'tokenizer'} is missing or damaged: {_lines(error)[0]}") from error


def _check_parts(base: Base, path: Path) -> None:
    """Refuse parts that do not belong together: an inpainting UNet, or another model's text encoder."""
    unet, vae, text = base.unet.config, base.vae.config, base.text_encoder.config
    if unet.in_channels != vae.latent_channels:
        raise OSEDiffError(
            f"the UNet of {path} takes {unet.in_channels} channels where its VAE has {vae.latent_channels}: "
            "use a text-to-image base, not an inpainting or depth one"
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise OSEDiffError(
            f"the UNet of {path} attends to text of width {unet.cross_attention_dim}, but its text encoder "
            f"gives {text.hidden_size}: use a base of the Stable Diffusion 1 or 2 family"
        )


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
