"""Ways to restore a low-quality picture that a comparison may name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from osediff_core.base.load import DEMO_BASE, DEMO_WEIGHTS
from osediff_core.errors import OSEDiffError, first_line
from osediff_core.resize import resize_bicubic

from .data_sets import DataSet
from .fidelity import gaussian_blur, psnr_y
from .pairs import read_pair

BLURS = (0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Widths tried for the best blur, pixels; one width serves all pictures of a set."""

Restore = Callable[[Tensor, int], Tensor]
"""(LQ uint8 (1, 3, h, w), scale) -> SR float (1, 3, scale h, scale w) in [0, 1], on the CPU."""


@dataclass(frozen=True)
class MethodConfig:
    """One method of a comparison; which of the settings it has depends on `kind`."""

    kind: Literal["bicubic", "blur", "ours", "spandrel", "folder"]
    """ours: an OSEDiff checkpoint. spandrel: another network's file. folder: pictures that are there."""
    base: str = ""
    """Of ours: the base; empty, with empty `weights`, for the bundled demo."""
    weights: str = ""
    """Of ours: the checkpoint."""
    prompt: str = ""
    """Of ours: what all pictures show."""
    tagger: str = ""
    """Of ours: a file of `osediff convert-dape`, which tags each picture."""
    color: Literal["adain", "wavelet", "none"] = "adain"
    """Of ours: how colours follow the input."""
    detail: float = 1.0
    """Of ours: 0 faithful, 1 as trained, up to 2 beyond."""
    dtype: str = "auto"
    """Of ours: float32, float16, bfloat16, or what suits the device."""
    file: str = ""
    """Of spandrel: the network's file."""
    outputs: str = ""
    """Of folder: where the pictures are; {set} is the set's name, {folder} where it lies."""

    def __post_init__(self) -> None:
        """Refuse settings that the kind does not have, and kinds that lack what they need."""
        mine = SETTINGS[self.kind]
        for field in fields(self):
            if field.name not in ("kind", *mine) and getattr(self, field.name) != field.default:
                known = ", ".join(f"`{name}`" for name in mine) or "none"
                raise OSEDiffError(
                    f"a method of kind {self.kind} has no `{field.name}`; its settings: {known}"
                )
        needed = NEEDED.get(self.kind)
        if needed and not getattr(self, needed):
            raise OSEDiffError(f"a method of kind {self.kind} needs `{needed}`: name it in its section")
        if bool(self.base) != bool(self.weights):
            raise OSEDiffError("a method of kind ours has both `base` and `weights`, or neither for the demo")


SETTINGS = MappingProxyType(
    {
        "bicubic": (),
        "blur": (),
        "ours": ("base", "weights", "prompt", "tagger", "color", "detail", "dtype"),
        "spandrel": ("file",),
        "folder": ("outputs",),
    }
)
NEEDED = MappingProxyType({"spandrel": "file", "folder": "outputs"})


def outputs_folder(config: MethodConfig, data: DataSet) -> Path:
    """Where the pictures of a method of kind folder are for a set."""
    return Path(config.outputs.replace("{set}", data.name).replace("{folder}", str(data.folder)))


def build_method(config: MethodConfig, data: DataSet, device: torch.device) -> tuple[Restore, str]:
    """Load a method that restores; also says what it is. Raises OSEDiffError for what cannot be loaded."""
    if config.kind == "ours":
        return _ours(config, device)
    if config.kind == "spandrel":
        return _network(Path(config.file), device)
    if config.kind == "blur":
        width = best_blur(data)
        return lambda lq, scale: gaussian_blur(bicubic(lq, scale), width), f"Gaussian of {width:g} px"
    if config.kind == "bicubic":
        return bicubic, "Pillow's bicubic"
    raise OSEDiffError(f"a method of kind {config.kind} restores nothing: its pictures are there already")


def bicubic(lq: Tensor, scale: int) -> Tensor:
    """Return the resize that OSEDiff starts from."""
    return resize_bicubic(lq, (lq.shape[2] * scale, lq.shape[3] * scale)).float() / 255


def best_blur(data: DataSet) -> float:
    """Return the width of the Gaussian after bicubic that has the best mean PSNR-Y over the set, pixels."""
    totals = dict.fromkeys(BLURS, 0.0)
    for pair in data.pairs:
        enlarged, hq = read_pair(pair)
        if hq is None:
            raise OSEDiffError(f"the best blur is chosen by the originals, and {pair.name} has none")
        for width in BLURS:
            totals[width] += psnr_y(gaussian_blur(enlarged / 255, width), hq / 255).item()
    return max(BLURS, key=lambda width: totals[width])


def fingerprint(config: MethodConfig) -> str:
    """Return a hash of the files that a method is made of; empty where it has none. Raises OSEDiffError."""
    named = [name for name in (config.base, config.weights, config.tagger, config.file) if name]
    if config.kind == "ours" and not config.base:
        named += [DEMO_BASE, DEMO_WEIGHTS]
    digest = hashlib.sha256()
    for path in map(Path, named):
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in inside:
            try:
                with file.open("rb") as content:
                    while block := content.read(1 << 20):
                        digest.update(block)
            except OSError as error:
                raise OSEDiffError(f"{file} cannot be read: {error.strerror}; name a file") from error
    return digest.hexdigest() if named else ""


def _ours(config: MethodConfig, device: torch.device) -> tuple[Restore, str]:
    from osediff_core.model import OSEDiff
    from osediff_core.pipeline.run import restore
    from osediff_core.prompts.tagger import Tagger
    from osediff_core.prompts.text import plain_text

    base, weights = config.base or DEMO_BASE, config.weights or DEMO_WEIGHTS
    model = OSEDiff.from_pretrained(base, weights, device=device, dtype=config.dtype)
    write = Tagger.from_pretrained(config.tagger, device=device) if config.tagger else plain_text

    def restored(lq: Tensor, scale: int) -> Tensor:
        prompt = write(lq, config.prompt, float(scale))
        return restore(model, lq, scale=scale, prompt=prompt, color=config.color, detail=config.detail)

    return restored, "the bundled demo" if not config.weights else Path(config.weights).name


def _network(file: Path, device: torch.device) -> tuple[Restore, str]:
    network = _load_network(file, device)

    @torch.no_grad()
    def restored(lq: Tensor, scale: int) -> Tensor:
        if network.scale != scale:
            raise OSEDiffError(
                f"expected a network for {scale}x, {file.name} is for {network.scale}x: name another file"
            )
        return network(lq.to(device).float() / 255).clamp(0, 1).cpu()

    return restored, f"{network.architecture.name}, {file.name}, through spandrel"


def _load_network(file: Path, device: torch.device) -> Any:  # noqa: ANN401
    """Read a network of three colours through spandrel, which knows its architecture by its tensors."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise OSEDiffError("other networks are read by spandrel (MIT): pip install -e .[compare]") from error
    if not file.is_file():
        raise OSEDiffError(f"there is no file {file}: name the network's .pth or .safetensors")
    try:
        network = ModelLoader(device=device).load_from_file(file)
    except Exception as error:  # spandrel's own kinds, and whatever a damaged file makes torch raise
        raise OSEDiffError(f"{file} is no network that spandrel can load: {first_line(error)}") from error
    if not isinstance(network, ImageModelDescriptor) or (network.input_channels, network.output_channels) != (
        3,
        3,
    ):
        raise OSEDiffError(f"expected a network from a colour picture to one, {file} is another kind")
    return network.eval()
