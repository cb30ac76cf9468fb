"""What generator, teacher and critic are told about each picture, while training.

The published training tags HQ with RAM; the paper, and all restoring, tags LQ with RAM adapted by DAPE.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from osediff_core import limits
from osediff_core.device.memory import upload
from osediff_core.errors import OSEDiffError
from osediff_core.model import OSEDiff
from osediff_core.text_files import parse_json, read_text
from osediff_core.whole_files import sweep, write_whole

from .recent import Recent


@dataclass(frozen=True)
class PromptConfig:
    """Where the prompt of each picture comes from."""

    source: Literal["fixed", "tags", "description"] = "fixed"
    """"fixed": model.prompt for all; "tags" by the tagger; "description" by a vision-language model."""
    of: Literal["hq", "lq"] = "hq"
    """What is looked at: "hq" (published code) or "lq" (paper, and what restoring does)."""
    tagger: str = ""
    """RAM's weights, or the file that `osediff convert-dape` made."""
    dape: str = ""
    """DAPE's weights for RAM's; empty: plain RAM, or what the converted file holds."""
    captioner: str = ""
    """Folder or hub id of the vision-language model."""
    file: str = ""
    """Prompts made before by `python -m train.prompts CONFIG`, one for each whole picture; empty: made for
    each crop while training."""
    keep: int = 2048
    """Text embeddings that are kept for prompts that come again."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.keep < 1:
            raise OSEDiffError(f"prompts.keep must be at least 1, got {self.keep}.")


Describe = Callable[[Tensor], list[str]]
"""Pictures (B, 3, H, W) in [0, 1] -> a prompt for each."""


def build_describe(config: PromptConfig, device: torch.device) -> tuple[Describe, nn.Module]:
    """Load what looks at pictures, and its network. Raises OSEDiffError where that cannot be done."""
    if config.source == "description":
        from osediff_core.prompts.captioner import Captioner

        if not config.captioner:
            raise OSEDiffError('prompts.source = "description" needs prompts.captioner, a folder or hub id')
        captioner = Captioner.from_pretrained(config.captioner, device=device)
        return captioner, captioner.model
    from osediff_core.prompts.tagger import Tagger

    if not config.tagger:
        raise OSEDiffError(
            'prompts.source = "tags" needs prompts.tagger, RAM\'s weights or what was converted'
        )
    tagger = Tagger.from_pretrained(config.tagger, config.dape or None, device=device)
    return lambda pictures: [", ".join(tags) for tags in tagger.tags(pictures)], tagger.network


class Prompter:
    """Prompts of batches and their embeddings."""

    def __init__(self, config: PromptConfig, fixed: Tensor, model: OSEDiff, device: torch.device) -> None:
        """Read the file or load the network that the configuration names.

        fixed: embeddings of the one prompt, (1, L, D). The model's text encoder comes back onto the device
        where it is needed.
        """
        self.config, self.fixed, self.model, self.device = config, fixed, model, device
        self.written = read_prompts(config) if config.source != "fixed" and config.file else None
        self.describe: Describe | None = None
        self.networks: list[nn.Module] = []  # that stay on the device while training
        if config.source != "fixed":
            nn.Module.to(model.text_encoder, device)
            self.networks.append(model.text_encoder)
            if self.written is None:
                self.describe, network = build_describe(config, device)
                self.networks.append(network)
        self._kept: Recent[str, Tensor] = Recent(config.keep)

    def words(self, lq: Tensor, hq: Tensor, names: Sequence[str]) -> list[str] | None:
        """Give a prompt for each picture, lq and hq (B, 3, H, W) in [0, 1]; None: all have the fixed one."""
        if self.written is not None:
            missing = [name for name in names if name not in self.written]
            if missing:
                raise OSEDiffError(
                    f"{self.config.file} has no prompt for {missing[0]}: run python -m train.prompts again"
                )
            return [self.written[name] for name in names]
        return None if self.describe is None else self.describe(lq if self.config.of == "lq" else hq)

    def embeds(self, lq: Tensor, hq: Tensor, names: Sequence[str]) -> Tensor:
        """Give the embeddings of a batch's prompts, (B, L, D), or (1, L, D) for the fixed one."""
        words = self.words(lq, hq, names)
        return self.fixed if words is None else self._embed(words)

    @torch.no_grad()
    def _embed(self, words: Sequence[str]) -> Tensor:
        """Give the embeddings of prompts, (B, L, D); what is new is kept on the host after one wait for all.

        Each is encoded by itself: what a prompt gets may not depend on its company, or a run that goes on
        with nothing kept would be another.
        """
        new = [prompt for prompt in dict.fromkeys(words) if prompt not in self._kept]
        made = {prompt: self.model.encode_prompt([prompt]) for prompt in new}  # (1, L, D) each
        host = dict(zip(new, torch.cat([*made.values()]).cpu().split(1), strict=True)) if new else {}
        old = {prompt: self._kept[prompt] for prompt in dict.fromkeys(words) if prompt not in made}
        for prompt in new:
            self._kept.get(prompt, host[prompt].clone)
        return torch.cat([made[p] if p in made else upload(old[p], self.device) for p in words])


def read_prompts(config: PromptConfig) -> dict[str, str]:
    """Read a file of prompts: picture name -> prompt. OSEDiffError where it is none, or made otherwise."""
    path = Path(config.file)
    try:
        content = parse_json(read_text(path, limits.LIST_BYTES))
        made, prompts = content["made"], content["prompts"]
    except OSError as error:
        raise OSEDiffError(
            f"the prompts {path} cannot be read ({error.strerror}): make them with python -m train.prompts"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OSEDiffError(f"{path} is no file of prompts: make it with python -m train.prompts") from error
    odd = [key for key, value in how_made(config).items() if made.get(key) != value]
    if odd:
        raise OSEDiffError(f"{path} was made with another prompts.{odd[0]}: take that, or another file")
    return prompts


def write_prompts(config: PromptConfig, prompts: dict[str, str]) -> None:
    """Write the file of prompts whole. Raises OSEDiffError where it cannot be written."""
    path = Path(config.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    content = {"made": how_made(config), "prompts": prompts}
    text = json.dumps(content, ensure_ascii=False, indent=0)
    write_whole(path, text.encode(errors="backslashreplace"))  # JSON's escape for bytes that are not UTF-8


def how_made(config: PromptConfig) -> dict[str, str]:
    """Return what prompts depend on besides the pictures."""
    names = {"tagger": config.tagger, "dape": config.dape, "captioner": config.captioner}
    return {"source": config.source, "of": config.of} | {k: Path(v).name for k, v in names.items() if v}
