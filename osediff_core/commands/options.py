"""The options of `osediff IN OUT`, and what their values may be."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..choices import COLORS, DTYPES, MOST_DETAIL, OFFLOADS
from ..errors import OSEDiffError
from ..pictures.jobs import ALL, CHANGED
from ..pictures.naming import SAME, check_template
from ..sizes import COVER, DEFAULT_SCALE, FIT, FOUR_TIMES, LONG_SIDE, MEGAPIXELS, SCALE, Size
from .console import Parser
from .pipes import PIPE

FORMATS = ("png", "jpg", "webp", "tif", "bmp", SAME)
OVERWRITE = "--overwrite"
USAGE = "osediff IN OUT [options]\n       osediff IN ... --to FOLDER [options]"
MANY = "one name, or more than two"
EPILOG = """\
A result that exists is replaced only with --overwrite: without it, a single picture is refused, and a folder
run goes on where it stopped; an empty or cut result counts as none. EXIF, XMP, IPTC, resolution and the
text of PNGs are kept where the result's format has a place for them; what is lost is said once a run. The
result is tagged sRGB, and says in EXIF's ProcessingSoftware how it was made, which --overwrite changed looks
at; BMP has no place for that.

exit status: 0 all is done; 1 something failed (a folder is gone through to its end); 2 the command cannot be
meant, and nothing was begun; 130 interrupted."""


def parse_restore(argv: Sequence[str], commands: Mapping[str, str]) -> argparse.Namespace:
    """Return what `osediff IN OUT` is told, with `sources` and `target` in place of its names.

    commands: what else help should list. Raises SystemExit for what argparse answers itself.
    """
    parser, given = restore_parser(commands), list(argv)
    for at, word in enumerate(given):
        if word == "--":
            break
        if word == OVERWRITE:  # what follows it may be a picture
            is_value = given[at + 1 : at + 2] == [CHANGED]
            given[at : at + 1 + is_value] = [f"{OVERWRITE}={CHANGED if is_value else ALL}"]
    args = parser.parse_intermixed_args(given)
    if args.to is None and len(args.places) != 2:
        parser.error(
            f"expected IN and OUT, got {' '.join(args.places)}: for {MANY}, name a folder of results by --to"
        )
    if args.to == PIPE:
        parser.error("--to names a folder, and - is stdout, for one picture: osediff IN -")
    if "" in (*args.places, args.to):
        parser.error("the name of a file or folder is empty (. is the folder here)")
    places = vars(args).pop("places")
    args.sources, args.target = (places[:1], places[1]) if args.to is None else (places, args.to)
    return args


def restore_parser(commands: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return what `osediff IN OUT` understands; commands: what else help should list."""
    parser = Parser(
        prog="osediff",
        usage=USAGE + "\n       osediff COMMAND ..." * bool(commands),
        description="Restore and enlarge photographs with OSEDiff, in one step of diffusion.",
        epilog="\n\n".join(filter(None, [_listed(commands), EPILOG])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # so that later options cannot change what a script means
    )
    add = parser.add_argument
    add(
        "places",
        nargs="+",
        metavar="IN",
        help="a picture (PNG, JPEG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF, HEIC), a folder, or - for stdin; "
        "OUT is the file to write, - for stdout, or a folder; folders are made if need be",
    )
    add("--to", metavar="FOLDER", help="a folder in place of OUT, for any number of IN and patterns (*.jpg)")
    again = "replace results that exist; changed: those alone that were made with other settings"
    add(OVERWRITE, choices=(ALL, CHANGED), metavar=f"[{CHANGED}]", help=again)
    add("--recursive", action="store_true", help="look into the folders inside IN as well")
    add("--quiet", action="store_true", help="say nothing but errors")
    add("--version", action="version", version=f"osediff {__version__}")
    _add_picture_options(parser)
    _add_model_options(parser)
    return parser


def _listed(commands: Mapping[str, str]) -> str:
    lines = [f"  {name:<12}  {what}" for name, what in commands.items()]
    return "\n".join(["other commands (osediff COMMAND --help):", *lines]) if lines else ""


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("picture").add_argument
    _add_size_options(parser)
    add("--prompt", type=_text, default="", metavar="TEXT", help="what the picture shows (default nothing)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tagger", metavar="FILE", help="tag each picture: a file of osediff convert-dape")
    source.add_argument("--vlm", metavar="MODEL", help="describe each by this vision-language model's folder")
    add("--color", choices=COLORS, default="adain", help="how colours follow the input (default adain)")
    tile = "auto (768 pixels of the picture), off, or a side in latent pixels"
    add("--tile", type=_tile, default="auto", metavar="N", help=tile)
    add("--detail", type=_detail, default=1.0, metavar="N", help="0 faithful, 1 as trained, up to 2 beyond")
    overlap = "of tiles, in latent pixels, with auto in those of Stable Diffusion (default 32)"
    add("--overlap", type=_whole(0), default=32, metavar="N", help=overlap)
    same = "of results in a folder (default png, which loses nothing); same: that of each input"
    add("--format", choices=FORMATS, help=same)
    named = 'of results in a folder, as "{stem}_x{scale}"; also {ext}, {folder}, {detail}, {color}'
    add("--name", type=_template, default="{stem}", metavar="TEMPLATE", help=named)
    add(
        "--strip",
        action="store_true",
        help="write nothing but the picture: no EXIF, XMP, text, ... of the input, nor how it was made",
    )
    report = "also write a page to look at, before and after of every picture of OUT"
    add("--report", type=Path, metavar="F.html", help=report)
    add("--quality", type=_whole(1, 100), metavar="N", help="of JPEG (default 95), WebP (default lossless)")


def _add_size_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("size", "one of these; nothing is ever stretched or made smaller")
    add = group.add_mutually_exclusive_group().add_argument
    for way, parse, metavar, what in (
        (SCALE, _scale, "N", f"how much larger, at least 1 (default {DEFAULT_SCALE:g})"),
        (LONG_SIDE, _whole(1), "PIXELS", "of the longer side"),
        (MEGAPIXELS, _above_zero, "N", "millions of pixels"),
        (FIT, _box, "WxH", "the largest that lies within width x height"),
        (COVER, _box, "WxH", "exactly width x height: what stands out at two sides is cut off"),
    ):
        name = f"--{way.replace(' ', '-')}"
        add(name, type=partial(_size, way, parse), dest="size", metavar=metavar, help=what)
    parser.set_defaults(size=FOUR_TIMES)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model", "without --base and --weights it is the bundled demo, a small one"
    )
    add = group.add_argument
    add("--base", metavar="BASE", help="Stable Diffusion 2.1-base: a folder, one file, or a cached hub id")
    add("--weights", metavar="FILE", help="the OSEDiff checkpoint for that base (.safetensors or .pkl)")
    add("--vocabulary", metavar="FOLDER", help="of a base in one file: where vocab.json and merges.txt are")
    add("--decoder", metavar="FILE", help="in the place of the base's: a lighter one (sd21_lwdecoder.pth)")
    add(
        "--strength", type=_number, default=1.0, metavar="N", help="of the checkpoint (default 1, as trained)"
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, xpu (default auto)")
    add(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="default auto: float16 on cuda, else float32, or bfloat16 for merged models measured with it",
    )
    add("--compile", action="store_true", help="torch.compile, for many pictures of one size, where it works")
    _add_memory_options(parser)


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory", "none of these changes a picture by more than rounding")
    add = group.add_argument
    add(
        "--offload",
        choices=OFFLOADS,
        default="none",
        help="parts: each part of the model is on the device only while it is needed (default none)",
    )
    add(
        "--vae",
        type=_vae,
        default="auto",
        metavar="N",
        help="auto: whole where it fits, else in exact pieces; whole; or the side of pieces in pixels",
    )
    add(
        "--plan",
        action="store_true",
        help="say how each picture would be restored and what it takes, and stop",
    )
    add("--spill", type=Path, metavar="FOLDER", help="for files that stand in for memory, for huge pictures")


def _template(text: str) -> str:
    try:
        check_template(text)
    except OSEDiffError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"it is text, got bytes that are not UTF-8: {text}") from error
    return text


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _scale(text: str) -> float:
    value = _number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a picture can be kept (1) or made larger, got {text}")
    return value


def _above_zero(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _box(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})[x×]([1-9]\d{0,5})", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"expected width x height, as in 1920x1080, got {text}")
    return int(found[2]), int(found[1])


def _size(way: str, parse: Callable[[str], Any], text: str) -> Size:
    found = parse(text)
    return Size(way, box=found) if way in (FIT, COVER) else Size(way, found)


def _detail(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= MOST_DETAIL:
        raise argparse.ArgumentTypeError(
            f"it is a number from 0 to {MOST_DETAIL:g}, 1 as trained, got {text}"
        )
    return value


def _whole(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: a whole number in a range."""

    def number(text: str) -> int:
        value = int(text)
        if value < lowest or (highest is not None and value > highest):
            wanted = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            raise argparse.ArgumentTypeError(f"it is a whole number {wanted}, got {text}")
        return value

    return number


def _vae(text: str) -> str | int:
    try:
        return text if text in ("auto", "whole") else _whole(32)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is auto, whole, or a whole number, got {text}") from None


def _tile(text: str) -> str | int:
    try:
        return text if text in ("auto", "off") else _whole(1)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is auto, off, or a whole number, got {text}") from None
