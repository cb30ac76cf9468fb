"""`osediff convert IN OUT`: a checkpoint in another layout, for stock ComfyUI, or merged into its base."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..choices import DTYPES
from ..whole_files import sweep
from .console import DONE, CommandError, answer, command_parser, note

if TYPE_CHECKING:
    from ..weights.checkpoint import Checkpoint

SUFFIX_OF = {
    "osediff": (".safetensors",),
    "published": (".pkl", ".pt", ".pth", ".bin"),
    "checkpoint": (".safetensors",),
    "vae": (".safetensors",),
}
LAYOUTS = ("osediff", "published", "comfyui", "merged", "checkpoint", "vae")
MERGING = {"merged": (), "checkpoint": ("unet", "vae", "text_encoder"), "vae": ("vae",)}
"""Layouts that hold the base; and of those in one file, which parts of it."""
EPILOG = """\
layouts:
  osediff    one .safetensors file of this project, with rank, alpha and how it was trained
  published  the .pkl of the published code, whose alpha is 8: B takes up the difference
  comfyui    a folder with two files: a LoRA of the UNet for ComfyUI's LoraLoader (models/loras), and patches
             for the encoder of its VAE (models/osediff). With --base the LoRA follows LoraLoader's strength
             in every layer; without it conv_in, which is trained in full, is set whatever the strength
  merged     a folder: the base of --base with the checkpoint folded in, which loads by itself
  checkpoint the same in one file, for ComfyUI's Load Checkpoint (models/checkpoints)
  vae        its VAE alone, for ComfyUI's Load VAE (models/vae)"""


def main(argv: Sequence[str]) -> int:
    """Convert what `argv` names, and return the exit status."""
    args = _parser().parse_args(argv)
    return answer(lambda: _convert(args), args.quiet)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("convert", "Write a checkpoint in another layout.", EPILOG)
    add = parser.add_argument
    add("source", metavar="IN", help="a checkpoint: .safetensors of this project, or the published .pkl")
    add("target", metavar="OUT", help="the file, or for comfyui and merged the folder, to write")
    add("--to", choices=LAYOUTS, help="the layout (default: what OUT's ending says)")
    add("--base", metavar="PATH", help="the base that the checkpoint was trained on")
    add("--dtype", choices=DTYPES, help="of a merged model (default float16)")
    add("--strength", type=float, metavar="N", help="of a merged model (default 1, as trained)")
    add("--vocabulary", metavar="FOLDER", help="of a base in one file: where vocab.json and merges.txt are")
    add("--decoder", metavar="FILE", help="of --to merged: another decoder, which goes into the folder")
    add("--overwrite", action="store_true", help="replace files that exist; folders never")
    return parser


def _convert(args: argparse.Namespace) -> int:
    """Check what can be checked before anything heavy is imported, read, write."""
    source, target = Path(args.source), Path(args.target)
    layout = args.to or _layout_of(target)
    _check(layout, target, args)
    from ..weights.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(source)
    sweep(target.parent)
    if layout in MERGING:
        _merged(layout, target, args)
    else:
        write = {"osediff": _osediff, "published": _published, "comfyui": _comfyui}[layout]
        write(checkpoint, target, args)
    return DONE


def _layout_of(target: Path) -> str:
    for layout, suffixes in SUFFIX_OF.items():
        if target.suffix in suffixes:
            return layout
    raise CommandError(
        f"{target} does not end in .safetensors or .pkl, so say what to write: --to comfyui or --to merged"
    )


def _check(layout: str, target: Path, args: argparse.Namespace) -> None:
    """Raise CommandError for options that do not go together, and where something would be lost."""
    suffixes = SUFFIX_OF.get(layout)
    if suffixes is not None and target.suffix not in suffixes:
        raise CommandError(f"a file of the layout {layout} ends in {suffixes[0]}, got {target.name}")
    if layout in MERGING and args.base is None:
        raise CommandError("a merged model needs the base that the checkpoint was trained on: give --base")
    for option in ("dtype", "strength", "vocabulary"):
        if layout not in MERGING and getattr(args, option) is not None:
            raise CommandError(f"--{option} is for --to merged, and the layout {layout} has no use for it")
    if args.decoder is not None and layout != "merged":
        raise CommandError(
            f"--decoder is for --to merged: the layout {layout} has no place for a decoder of other widths"
        )
    if not target.parent.is_dir():
        raise CommandError(f"there is no folder {target.parent}: make it first")
    if layout == "merged" and target.exists():
        raise CommandError(f"{target} is there already: name a folder that does not exist yet")
    files = _export_files(target, args) if layout == "comfyui" else [target]
    # Of two files a killed run may leave one, which is looked at when it is known what is to be in it.
    half = layout == "comfyui" and sum(file.exists() for file in files) == 1
    for file in files:
        _may_write(file, args, overwrite=args.overwrite or half)


def _may_write(file: Path, args: argparse.Namespace, *, overwrite: bool) -> None:
    if file.is_dir():
        raise CommandError(f"{file} is a folder, and a file was to be written there: name a file")
    if file.exists() and Path(args.source).exists() and file.samefile(args.source):
        raise CommandError(f"{file} is the checkpoint itself: name another file")
    if file.exists() and not overwrite:
        raise CommandError(f"{file} is there already: name another, or give --overwrite")


def _export_files(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Return where the UNet's and the VAE's part go."""
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} is a file, and a folder for two files is needed: name a folder")
    stem = Path(args.source).stem
    return [folder / f"{stem}_{part}.safetensors" for part in ("unet_lora", "vae_encoder")]


def _osediff(checkpoint: Checkpoint, target: Path, args: argparse.Namespace) -> None:
    from ..weights.checkpoint import write_checkpoint

    write_checkpoint(target, checkpoint)
    note(f"wrote {target}")


def _published(checkpoint: Checkpoint, target: Path, args: argparse.Namespace) -> None:
    from ..base.load import read_conv_in
    from ..weights.checkpoint import write_published

    if not {"conv_in.weight", "conv_in.bias"} <= checkpoint.unet.keys():
        if args.base is None:
            raise CommandError(
                f"the published layout has the whole of conv_in, which {args.source} left as the base has "
                "it: give that base by --base"
            )
        checkpoint = replace(checkpoint, unet={**read_conv_in(args.base), **checkpoint.unet})
        note("conv_in is the base's own: this checkpoint has no other")
    write_published(target, checkpoint)
    note(f"wrote {target}; its layout has no place for how it was trained")


def _comfyui(checkpoint: Checkpoint, target: Path, args: argparse.Namespace) -> None:
    from ..base.load import read_conv_in
    from ..tools.exports import write_exports

    unet, vae = _export_files(target, args)
    conv_in = None if args.base is None else read_conv_in(args.base)
    sweep(target)
    write_exports(unet, vae, checkpoint, conv_in, overwrite=args.overwrite)
    note(f"wrote {unet}: put it into models/loras, for LoraLoader")
    note(f"wrote {vae}: put it into models/osediff; no stock node reads it")
    if args.base is None and "conv_in.weight" in checkpoint.unet:
        note("without --base, conv_in is set whatever the strength in LoraLoader: use strength 1")


def _merged(layout: str, target: Path, args: argparse.Namespace) -> None:
    from ..base.load import TYPES
    from ..tools.merged import write_merged, write_single

    strength = 1.0 if args.strength is None else args.strength
    dtype = TYPES[args.dtype or "float16"]
    if layout != "merged":
        parts = MERGING[layout]
        write_single(target, args.base, args.source, parts=parts, strength=strength, dtype=dtype)
        place = "models/checkpoints" if layout == "checkpoint" else "models/vae"
        note(f"wrote {target}: put it into {place}; the licence of {args.base} goes with it")
        if layout == "checkpoint":
            note("then OSEDiff Apply (native) with weights none, and KSampler with 1 step and cfg 1")
        return
    files = {"vocabulary": args.vocabulary, "decoder": args.decoder}
    write_merged(target, args.base, args.source, strength=strength, dtype=dtype, **files)
    note(f"wrote {target}: a base that needs no weights; the licence of {args.base} goes with it")
