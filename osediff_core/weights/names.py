"""What tools put into the names of tensors, and the names without it.

Wrappers for several devices and for compiling put a word of their own before or into every name; moving
averages have a word before them, alone in a file or beside the weights.
"""

from __future__ import annotations

from collections.abc import Iterable

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Of DataParallel and DistributedDataParallel, torch.compile, FSDP and activation checkpointing."""
AVERAGES = {"ema", "ema_model", "model_ema", "averaged_model"}


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return each plain name and the name that the file has for it.

    Averages beside the weights are left out. Raises ValueError where two names become one.
    """
    plain: dict[str, str] = {}
    averages: dict[str, str] = {}
    for name in names:
        words = name.split(".")
        kept = [word for word in words[:-1] if word not in WRAPPERS] + words[-1:]
        bare = [word for word in kept[:-1] if word not in AVERAGES] + kept[-1:]
        # Stable Diffusion's own averages have no dots within: "model_ema.diffusion_modelout0bias".
        average = len(bare) < len(kept) and len(kept) > 2
        found = averages if average else plain
        short = ".".join(bare if average else kept)
        if short in found:
            raise ValueError(f"{found[short]} and {name} are one tensor")
        found[short] = name
    return {**averages, **plain}


def added_words(names: dict[str, str]) -> list[str]:
    """Return the words that `plain_names` took out, sorted."""
    return sorted(
        {word for short, name in names.items() for word in {*name.split(".")} - {*short.split(".")}}
    )
