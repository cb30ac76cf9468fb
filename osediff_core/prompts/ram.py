"""RAM (Recognize Anything, Swin-L at 384 px) and DAPE, as their files name things.

What a tagger needs of RAM keeps RAM's own names; DAPE's low-rank pairs are folded into it, and everything
that RAM brings for writing captions is left behind. A key that is neither needed nor known to be of no use is
an error: a file that was read wrongly would still give tags, only other ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .. import limits
from ..errors import OSEDiffError
from .tag_network import HEAD, SWIN, TagConfig, expected_shapes

LORA_ALPHA = 1.0  # of DAPE, which does not store it; with its rank of 8 the scale is 1/8

_BERT = r"(tag_encoder|text_decoder\.bert)\."
_LAYER = _BERT + r"encoder\.layer\.\d+\."
_UNUSED = re.compile(
    "|".join(
        (
            # tables that follow from the window's size
            SWIN + r"\.layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)",
            # the caption's two networks, of which tags need nothing
            _BERT + r"embeddings\.(position_ids|(word|position)_embeddings\.weight|LayerNorm\.(weight|bias))",
            _LAYER + r"(cross)?attention\.(self\.(query|key|value)|output\.(dense|LayerNorm))\.(weight|bias)",
            _LAYER + r"(intermediate\.dense|output\.(dense|LayerNorm))\.(weight|bias)",
            _LAYER + r"(cross)?attention\.self\.(query|key)\.lora_[AB]",
            r"text_decoder\.cls\.predictions\.(bias|(transform\.(dense|LayerNorm)|decoder)\.(weight|bias))",
        )
    )
)


def read_config(tensors: Mapping[str, Tensor], image_size: int = 384, label_heads: int = 4) -> TagConfig:
    """Read a tagger's sizes off its tensors; OSEDiffError where they are no tagger's."""
    depths = _depths(tensors)
    tables = [f"{SWIN}.layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(len(depths))]
    try:
        config = TagConfig(
            embed=tensors[f"{SWIN}.patch_embed.norm.weight"].shape[0],
            depths=depths,
            heads=tuple(tensors[table].shape[1] for table in tables),
            window=(round(tensors[tables[0]].shape[0] ** 0.5) + 1) // 2,
            width=tensors["label_embed"].shape[1],
            hidden=tensors["wordvec_proj.weight"].shape[0],
            ffn=tensors[f"{HEAD}.0.intermediate.dense.weight"].shape[0],
            layers=_count(tensors, rf"{re.escape(HEAD)}\.(\d+)\."),
            tags=tensors["label_embed"].shape[0],
            image_size=image_size,
            label_heads=label_heads,
        )
    except (KeyError, IndexError) as error:
        missing = error.args[0] if isinstance(error, KeyError) else "a shape of RAM's"
        raise OSEDiffError(
            f"it lacks {missing}: give ram_swin_large_14m.pth, or a file of `osediff convert-dape`"
        ) from error
    _check_config(config)
    return config


def _check_config(config: TagConfig) -> None:
    """Raise OSEDiffError for sizes of which no tagger can be made."""
    sizes = (config.embed, *config.depths, *config.heads, config.window, config.hidden, config.label_heads)
    widths = [config.embed * 2**stage for stage in range(len(config.depths))]
    whole = all(width % heads == 0 for width, heads in zip(widths, config.heads, strict=True) if heads)
    if min(sizes) < 1 or not whole or config.hidden % config.label_heads:
        raise OSEDiffError("a tagger of its sizes cannot be built: get RAM's file again")
    if not 1 <= config.image_size <= limits.TAGGER_SIDE:
        raise OSEDiffError(f"it looks at {config.image_size} pixels, expected 1 to {limits.TAGGER_SIDE}")


def _depths(tensors: Iterable[str]) -> tuple[int, ...]:
    names = [name for name in tensors if name.startswith(f"{SWIN}.layers.")]
    stages = _count(names, rf"{SWIN}\.layers\.(\d+)\.blocks\.")
    return tuple(_count(names, rf"{SWIN}\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages))


def _count(names: Iterable[str], pattern: str) -> int:
    """Return how many numbers from 0 on the pattern finds; OSEDiffError for more than any tagger has."""
    found = {match.group(1) for name in names if (match := re.match(pattern, name))}
    if len(found) > limits.TAGGER_LAYERS or found != {str(i) for i in range(len(found))}:
        raise OSEDiffError("its layers are not counted from 0 on: this is another model or another version")
    return len(found)


@torch.no_grad()
def fold_dape(ram: Mapping[str, Tensor], dape: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return what tagging needs of RAM, float32, with DAPE's low-rank pairs folded in where they are given.

    RAM ties the lower layers of its tag encoder to the tagging head, and the published code folds the pairs
    of both into the one weight: both are summed here. Raises OSEDiffError, naming the first keys, for one
    that is unknown, missing, of another shape, or half of a pair.
    """
    if dape is not None and (strange := sorted(key for key in dape if ".lora_" not in key)):
        raise OSEDiffError(
            f"DAPE's file holds low-rank pairs only, and this one has {_some(strange)}: give DAPE.pth there"
        )
    state = {
        re.sub(r"^vision_multi\.", "tagging_head.", key): v for key, v in {**ram, **(dape or {})}.items()
    }
    shapes = expected_shapes(read_config(state))
    _check_state(state, shapes)
    check_numbers({name: tensor for name, tensor in state.items() if not is_unused(name)})
    return {name: _folded(name, state) for name in shapes}


def _check_state(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise OSEDiffError unless every key is needed, of a pair for what is needed, or known as unused."""
    missing = sorted(set(shapes) - set(state))
    if missing:
        raise OSEDiffError(f"it lacks {_some(missing)}: get RAM's file again")
    wrong = [f"{k} is {tuple(state[k].shape)}, not {s}" for k, s in shapes.items() if state[k].shape != s]
    if wrong:
        raise OSEDiffError(f"{_some(wrong)}: these files do not belong together")
    pairs = {stem + side for name in shapes for stem in _stems(name) for side in (".lora_A", ".lora_B")}
    unknown = sorted(k for k in state if k not in shapes and k not in pairs and not is_unused(k))
    if unknown:
        raise OSEDiffError(
            f"it has {_some(unknown)}, which RAM and DAPE do not: this is another model or another version"
        )


def is_unused(key: str) -> bool:
    """Return whether a tensor of RAM's or DAPE's file is known to be of no use for tagging."""
    return _UNUSED.fullmatch(key) is not None


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raise OSEDiffError for a tensor whose numbers are not floating point."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise OSEDiffError(
                f"{name} is in {kind}, expected floating point numbers: get it in float16 or float32"
            )


def _stems(name: str) -> list[str]:
    """Return where low-rank pairs for a parameter may be: in the Swin's qkv, in the head's query and key."""
    stem = name.removesuffix(".weight")
    if re.fullmatch(rf"{SWIN}\..*\.attn\.qkv\.weight", name):
        return [stem]
    if re.fullmatch(rf"{re.escape(HEAD)}\.\d+\.crossattention\.self\.(query|key)\.weight", name):
        return [stem, "tag_encoder" + stem.removeprefix("tagging_head")]
    return []


def _folded(name: str, state: Mapping[str, Tensor]) -> Tensor:
    """Return a parameter with the pairs for it added, float32."""
    weight = state[name].float()
    for stem in _stems(name):
        a, b = state.get(f"{stem}.lora_A"), state.get(f"{stem}.lora_B")
        if a is None and b is None:
            continue
        if a is None or b is None:
            raise OSEDiffError(f"{stem} has only half of its low-rank pair: get DAPE's file again")
        weight = weight + _delta(a.float(), b.float(), weight, stem)
    return weight


def _delta(a: Tensor, b: Tensor, weight: Tensor, stem: str) -> Tensor:
    """Return what a pair adds to a weight (out, in).

    Plain: a (r, in), b (out, r). For a fused weight of query, key and value (3 d, d) the pair adapts query
    and value alone, each with its half: a (2 r, d), b (2 d, r).
    """
    rank, (out, width) = b.shape[-1], weight.shape
    fused = out == 3 * width
    expected = ((2 * rank, width), (2 * width, rank)) if fused else ((rank, width), (out, rank))
    if rank == 0 or (a.shape, b.shape) != expected:
        raise OSEDiffError(
            f"the low-rank pair of {stem} is {tuple(a.shape)} and {tuple(b.shape)}, which does not fit "
            f"{tuple(weight.shape)}: these files do not belong together"
        )
    scale = LORA_ALPHA / rank
    if not fused:
        return scale * (b @ a)
    (a_query, a_value), (b_query, b_value) = a.chunk(2), b.chunk(2)
    return scale * torch.cat([b_query @ a_query, torch.zeros_like(weight[:width]), b_value @ a_value])


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more
