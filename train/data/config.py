"""What is read, and what is cut out of it."""

from __future__ import annotations

from dataclasses import dataclass

from osediff_core.errors import OSEDiffError


@dataclass(frozen=True)
class DataConfig:
    """Which clean pictures, and what is cut out of them."""

    sources: tuple[str, ...] = ()
    """Folders (with all below them), picture files, patterns like "photos/*.png", .txt lists of these, one a
    line, uncompressed .tar shards, or "hf:NAME?split=train&column=image" for a Hugging Face data set; what is
    named twice is seen twice as often."""
    weights: tuple[float, ...] = ()
    """Share of the samples that each source gets, in any unit; empty: by its number of pictures."""
    lq_sources: tuple[str, ...] = ()
    """For each source the one with its real LQ pictures, matched by name, or "" where LQ is made by the
    degradation; empty: all are made."""
    validation: tuple[str, ...] = ()
    """Pictures that are never trained on, named like the sources: the samples shown and measured are theirs,
    in a fixed degradation; empty: the first training samples."""
    validation_lq: tuple[str, ...] = ()
    """For each of `validation` the source with its real LQ pictures, like `lq_sources`."""
    crop: int = 512
    """Side of the crops, pixels (published: 512); smaller pictures are continued by reflection."""
    whole: bool = False
    """Squeeze the whole picture to crop x crop instead of cutting (published for faces); not for pairs."""
    shrink: float = 1.0
    """Smallest factor by which a crop is shrunk, drawn from [shrink, 1] as far as the picture is large
    enough; 1 never shrinks (published). For few but large photographs: finer detail, more variety."""
    flip_prob: float = 0.5
    """Probability of a horizontal flip (published: 0.5)."""
    rotate: bool = False
    """Turn by a random multiple of 90 degrees (published for faces)."""
    vary_colour_prob: float = 0.0
    """Probability that hue, contrast and level of a crop are varied before it is degraded (published: 0); not
    for pairs. For few photographs: colours, dark and flat areas that they lack."""
    stream_buffer: int = 256
    """Pictures of a stream that are shuffled among each other; each worker holds them, undecoded."""
    cache_mb: int = 512
    """Memory for decoded pictures in each worker, MiB; where not all of them would fit, and with 0, none are
    kept, and every picture is read anew."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.crop < 16:
            raise OSEDiffError(f"data.crop must be at least 16 pixels, got {self.crop}.")
        if not 0 < self.shrink <= 1:
            raise OSEDiffError(f"data.shrink must be above 0 and at most 1, got {self.shrink}.")
        for name in ("flip_prob", "vary_colour_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise OSEDiffError(
                    f"data.{name} must be a probability from 0 to 1, got {getattr(self, name)}."
                )
        if self.cache_mb < 0:
            raise OSEDiffError(f"data.cache_mb must be 0 or more, got {self.cache_mb}.")
        if self.stream_buffer < 1:
            raise OSEDiffError(f"data.stream_buffer must be at least 1, got {self.stream_buffer}.")
        self._check_lists()

    def _check_lists(self) -> None:
        for name, of in (("weights", "sources"), ("lq_sources", "sources"), ("validation_lq", "validation")):
            given, wanted = len(getattr(self, name)), len(getattr(self, of))
            if given and given != wanted:
                raise OSEDiffError(
                    f"data.{name} must be empty or have one entry for each of the {wanted} data.{of}, "
                    f"got {given}."
                )
        if self.weights and not (min(self.weights) >= 0 and 0 < sum(self.weights) < float("inf")):
            raise OSEDiffError(f"data.weights must be 0 or more, and not all 0, got {self.weights}.")
