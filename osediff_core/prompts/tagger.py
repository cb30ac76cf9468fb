"""The tagger: what is in a picture, as RAM sees it, or RAM adapted by DAPE to degraded pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base.load import resolve_device, resolve_dtype
from ..errors import OSEDiffError
from ..resize import resize_bicubic, target_size
from .tag_network import build_network
from .tagger_file import read_tagger
from .text import join_tags

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, per channel


class Tagger:
    """A prompt source (see `prompts`): tags of pictures, in the order of RAM's list.

    network: the module, to be moved between devices; labels: the N words; thresholds: (N,) float32, above
    which a sigmoid means yes. Images are (B, 3, H, W), uint8 or float in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Sequence[str],
        thresholds: Tensor,
        *,
        image_size: int = 384,
        antialias: bool = False,
    ) -> None:
        """Put the parts together; `from_pretrained` reads them from files and says what they mean."""
        self.network, self.labels, self.thresholds = network, tuple(labels), thresholds.float().cpu()
        self.image_size, self.antialias = image_size, antialias

    @classmethod
    def from_pretrained(
        cls,
        ram: str | Path,
        dape: str | Path | None = None,
        *,
        tags: str | Path | None = None,
        thresholds: str | Path | None = None,
        antialias: bool = False,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
    ) -> Tagger:
        """Load a file of `osediff convert-dape`, or RAM's weights and, unless plain RAM is meant, DAPE's.

        tags, thresholds: RAM's lists, by default the files beside its weights. antialias: how the picture is
        brought to 384 pixels; the published tags are made without. dtype: "auto" is float16 on cuda, else
        float32. Raises OSEDiffError for what cannot be loaded.
        """
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        weights = read_tagger(ram, dape, tags=tags, thresholds=thresholds)
        network = build_network(weights.config, weights.tensors, dtype).to(device)
        return cls(
            network,
            weights.tags,
            weights.thresholds,
            image_size=weights.config.image_size,
            antialias=antialias,
        )

    def __call__(self, lq: Tensor, text: str = "", scale: float = 4.0) -> list[str]:
        """Return a prompt for each image in the published format, "TAGS, TEXT,": for `restore(prompt=...)`.

        The published tagger looks at the picture as it was enlarged for restoring, which `scale` says.
        """
        enlarged = resize_bicubic(lq, target_size(lq.shape[-2], lq.shape[-1], scale))  # (B, 3, H', W')
        return [join_tags(tags, text) for tags in self.tags(enlarged)]

    def tags(self, image: Tensor, *, offset: float = 0.0, leave_out: Iterable[str] = ()) -> list[list[str]]:
        """Return the tags of each image, as it is given.

        offset: added to every threshold: positive means fewer tags. leave_out: tags that are not wanted.
        """
        unwanted = {word.strip().lower() for word in leave_out}
        there = self.logits(image).sigmoid() > self.thresholds + offset  # (B, N)
        return [
            [self.labels[i] for i in row.nonzero()[:, 0] if self.labels[i].lower() not in unwanted]
            for row in there
        ]

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """Return a logit for each tag, (B, N) float32 on the CPU; OSEDiffError for what is no image."""
        parameter = next(self.network.parameters())
        x = self.preprocess(image.to(parameter.device))  # (B, 3, S, S)
        # one by one: a long batch needs the memory of one image
        rows = [self.network(one).float() for one in x.to(parameter.dtype).split(1)]
        logits = torch.cat(rows).cpu()  # (B, N), waited for once
        if not logits.isfinite().all():
            raise OSEDiffError("the tagger's output is not finite: check its file, or take dtype float32")
        return logits

    def preprocess(self, image: Tensor) -> Tensor:
        """Return images as the network takes them: S pixels square, bilinear, ImageNet's statistics out."""
        _check_image(image)
        x = image.float() / 255 if image.dtype == torch.uint8 else image.float()  # (B, 3, H, W) in [0, 1]
        size = (self.image_size, self.image_size)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=self.antialias)
        mean, deviation = (x.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))  # (3, 1, 1)
        return (x - mean) / deviation  # (B, 3, S, S)


def _check_image(image: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise OSEDiffError(f"the tagger takes images (B, 3, H, W), not empty, got {tuple(image.shape)}")
    if image.is_floating_point() and not image.isfinite().all():
        raise OSEDiffError("the image has values that are not numbers (NaN or infinite): check what made it")
