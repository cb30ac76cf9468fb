"""Compare what this program makes of published inputs with the published outputs.

Nobody who wrote this had the published weights, so the first person who has them can tell here whether the
numbers agree. The published outputs are 8-bit pictures made with noise that was never seeded: `spread` says
how far that noise alone moves a result, and no agreement can be expected beyond it.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..color import match_color, to_levels
from ..errors import OSEDiffError, printable
from ..model import OSEDiff
from ..pictures.files import PICTURES
from ..pictures.find import find_files
from ..pictures.images import read_image
from ..pipeline.plan import make_plan
from ..pipeline.run import decode, denoise, encode, encode_prompt, finish, prepare
from ..pipeline.runtime import Runtime
from ..prompts.text import PromptSource
from ..resize import crop
from ..weights.hashes import file_hashes
from .published import SOURCES

INPUT_ENDINGS, OUTPUT_ENDINGS = ("_lr", "_lq"), ("_published", "_sr")
WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pkl", ".pth", ".pt")
PACKAGES = ("transformers", "safetensors", "numpy", "pillow")


@dataclass(frozen=True)
class PublishedPair:
    """A published input and the published output of it."""

    name: str
    lq: Path
    published: Path


@dataclass(frozen=True)
class Comparison:
    """What was found for one picture; figures in dB are PSNR over all channels of 8-bit pictures.

    result: ours against the published output. no_prompt: the same without a prompt. spread: ours against
    ours with the noise that the published code draws in encoding. vae: the published output after this base's
    encoder and decoder against itself. colour: the largest difference of a channel's mean, in levels of 255,
    between the published output and what our resizing and colour matching aim at; NaN without matching.
    """

    name: str
    prompt: str
    result: float
    no_prompt: float
    spread: float
    vae: float
    colour: float


def find_pairs(inputs: Path, outputs: Path, most: int | None = None) -> list[PublishedPair]:
    """Pair the pictures of two folders by their names, "x_lr" with "x_published" as well as "x" with "x".

    most: how many, in the order of names. Raises OSEDiffError where a folder is missing or none belong
    together.
    """
    same = inputs.resolve() == outputs.resolve()
    lqs = _by_name(inputs, INPUT_ENDINGS, only=same)
    published = _by_name(outputs, OUTPUT_ENDINGS, only=same)
    names = sorted(lqs.keys() & published.keys())[:most]
    if not names:
        raise OSEDiffError(
            f"no picture of {inputs} has a published one of the same name in {outputs}: give the folder of "
            "inputs, then the folder of the published results"
        )
    return [PublishedPair(name, lqs[name], published[name]) for name in names]


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two uint8 pictures of one shape, over all channels; infinite if they are equal."""
    error = (a.int() - b.int()).square().float().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


@torch.no_grad()
def compare(
    model: OSEDiff,
    pair: PublishedPair,
    source: PromptSource,
    text: str = "",
    scale: float = 4.0,
    color: str = "adain",
) -> Comparison:
    """Restore one input and compare it with its published output.

    Raises OSEDiffError if a file cannot be read, or if the sizes differ, as they do where the published code
    rounds them.
    """
    lq, published = (read_image(path).rgb for path in (pair.lq, pair.published))  # (1, 3, H, W) uint8
    prompt = source(lq, text, scale)[0]
    runtime = Runtime()
    plan = make_plan(model, *lq.shape[-2:], scale=scale, runtime=runtime)
    x, size = prepare(lq, plan), plan.size  # (1, 3, h, w) in [0, 1]
    if tuple(published.shape[-2:]) != size:
        raise OSEDiffError(
            f"{pair.published.name} is {_size(published.shape[-2:])}, but {pair.lq.name} times {scale:g} is "
            f"{_size(size)}: take inputs whose sides are multiples of 8 after scaling"
        )
    z = encode(model, x, plan, runtime)  # (1, C, h, w)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    noisy = model.encode(x.to(model.device), noise).to(z.device)

    def result(latent: Tensor, words: str) -> Tensor:
        z_hq = denoise(model, latent, encode_prompt(model, [words], runtime), plan, runtime)
        return _levels(finish(decode(model, z_hq, plan, runtime), x, size, color))

    ours = result(z, prompt)
    return Comparison(
        pair.name,
        prompt,
        result=psnr(ours, published),
        no_prompt=psnr(result(z, ""), published),
        spread=psnr(ours, result(noisy, prompt)),
        vae=psnr(_round_trip(model, published), published),
        colour=_colour_difference(published, crop(x, size), color),
    )


def table(rows: Sequence[Comparison]) -> str:
    """Return the rows and, below, their means."""
    figures = ("result", "no_prompt", "spread", "vae", "colour")
    lines = [f"{'picture':<28}" + "".join(f"{name:>11}" for name in figures)]
    for row in rows:
        lines.append(
            f"{printable(row.name)[:27]:<28}" + "".join(f"{getattr(row, name):>11.2f}" for name in figures)
        )
    means = [sum(getattr(row, name) for row in rows) / len(rows) for name in figures]
    return "\n".join([*lines, f"{'mean':<28}" + "".join(f"{mean:>11.2f}" for mean in means)])


def file_lines(what: str, path: Path) -> list[str]:
    """Say of each file of weights its name (never its folder), size, hash, and whether it is known."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS)
    lines = []
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        hashes = file_hashes(file)
        known = _known().get(hashes.sha256) or _known().get(hashes.git_blob) or "not a file that is known"
        lines.append(
            f"{what} {printable(name)}: {file.stat().st_size} bytes, sha256 {hashes.sha256}, {known}"
        )
    return lines


def machine_lines(model: OSEDiff) -> list[str]:
    """Versions and devices, without anything that tells who or where the user is."""
    # torch's own word for itself: what is installed as 2.15.0 may be 2.15.0+cu132, or built for no card.
    known = [f"torch {torch.__version__}", f"osediff {__version__}"]
    versions = ", ".join([*known, *(f"{name} {_version(name)}" for name in PACKAGES)])
    return [
        f"python {platform.python_version()} on {platform.system()} {platform.machine()}; {versions}",
        f"device {model.device.type} ({_device_name(model.device)}), dtype {str(model.dtype)[6:]}",
    ]


def _by_name(folder: Path, endings: tuple[str, ...], *, only: bool) -> dict[str, Path]:
    """Return the pictures of a folder by name without ending; with `only`, only those that have one."""
    if not folder.is_dir():
        raise OSEDiffError(f"there is no folder {folder}")
    found = {}
    for path in find_files(folder, PICTURES, recursive=False).files:
        ending = next((end for end in endings if path.stem.endswith(end)), "")
        if ending or not only:
            found[path.stem.removesuffix(ending)] = path
    return found


def _levels(image: Tensor) -> Tensor:
    """(1, 3, H, W) in [0, 1] as uint8, rounded as `write_image` rounds."""
    return to_levels(image).cpu()


def _round_trip(model: OSEDiff, picture: Tensor) -> Tensor:
    """Return a uint8 picture after encoder and decoder, uint8."""
    runtime = Runtime()
    plan = make_plan(model, *picture.shape[-2:], runtime=runtime)
    z = encode(model, prepare(picture, plan), plan, runtime)  # (1, C, h, w)
    return _levels(crop(decode(model, z, plan, runtime), plan.size))


def _colour_difference(published: Tensor, reference: Tensor, color: str) -> float:
    """Return the largest difference of channel means in levels.

    What colour matching leaves should be below 1.
    """
    if color == "none":
        return math.nan
    image = published.float() / 255
    aim = match_color(image, reference, color)
    return (aim - image).mean((0, 2, 3)).abs().max().item() * 255


def _known() -> dict[str, str]:
    """Names of the known files by their pinned hashes."""
    return {
        pin: f"the known {Path(file.path).name} ({name})"
        for name, source in SOURCES.items()
        for file in source.files
        for pin in (file.sha256, file.git_blob)
        if pin
    }


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return platform.processor() or platform.machine()
