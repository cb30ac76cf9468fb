"""The numbers of the degradation, with the published ones as defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from osediff_core.errors import OSEDiffError


@dataclass(frozen=True)
class FirstStageConfig:
    """Blur, resize, noise and JPEG of the first stage, with the published Real-ESRGAN numbers."""

    blur_prob: float = 1.0
    """Probability of the blur (published: the first stage always blurs)."""
    sinc_prob: float = 0.1
    """Probability that the blur is a sinc low-pass instead of a Gaussian-like kernel."""
    kernel_probs: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Weights of: Gaussian iso, aniso, generalised Gaussian iso, aniso, plateau iso, aniso."""
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    """Range of the kernels' standard deviation along each axis, pixels."""
    beta_gaussian: tuple[float, float] = (0.5, 4.0)
    """Range of the generalised Gaussian's shape; half of the draws lie below 1, half above."""
    beta_plateau: tuple[float, float] = (1.0, 2.0)
    """Range of the plateau kernel's shape; half of the draws lie below 1 (here: at 1), half above."""
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Weights of enlarging, shrinking and keeping the size."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    """Smallest factor of shrinking and largest of enlarging."""
    gaussian_noise_prob: float = 0.5
    """Probability that the noise is Gaussian; otherwise it is Poisson."""
    noise_sigma: tuple[float, float] = (1.0, 30.0)
    """Range of the Gaussian noise's standard deviation, 8-bit levels."""
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    """Range of the factor on the Poisson noise; 1 is the noise of a sensor that counts the 8-bit levels."""
    grey_noise_prob: float = 0.4
    """Probability that all channels get the same noise."""
    jpeg_quality: tuple[float, float] = (30.0, 95.0)
    """Range of the JPEG quality, libjpeg's scale of 1 to 100; drawn as a real number, then rounded."""

    def __post_init__(self) -> None:
        """Refuse ranges and probabilities that mean nothing."""
        for name in (
            "blur_sigma",
            "beta_gaussian",
            "beta_plateau",
            "resize_range",
            "noise_sigma",
            "poisson_scale",
        ):
            _check_range(name, getattr(self, name), 0.0, float("inf"))
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100)
        for name in ("blur_sigma", "resize_range"):
            if getattr(self, name)[0] <= 0:
                raise OSEDiffError(f"{name} must start above 0, got {getattr(self, name)[0]}.")
        for name in ("blur_prob", "sinc_prob", "gaussian_noise_prob", "grey_noise_prob"):
            _check_probability(name, getattr(self, name))
        for name in ("kernel_probs", "resize_probs"):
            weights = getattr(self, name)
            if min(weights) < 0 or sum(weights) <= 0:
                raise OSEDiffError(f"{name} must be weights of 0 or more, not all 0, got {weights}.")


@dataclass(frozen=True)
class SecondStageConfig(FirstStageConfig):
    """The second stage: the same operations, milder. The final low-pass and resize are between its parts."""

    blur_prob: float = 0.8
    """Probability of the blur."""
    blur_sigma: tuple[float, float] = (0.2, 1.5)
    """Range of the kernels' standard deviation along each axis, pixels."""
    resize_probs: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """Weights of enlarging, shrinking and keeping the LQ size."""
    resize_range: tuple[float, float] = (0.3, 1.2)
    """Smallest and largest factor, relative to the LQ size."""
    noise_sigma: tuple[float, float] = (1.0, 25.0)
    """Range of the Gaussian noise's standard deviation, 8-bit levels."""
    poisson_scale: tuple[float, float] = (0.05, 2.5)
    """Range of the factor on the Poisson noise."""


@dataclass(frozen=True)
class FaceConfig:
    """Blur, shrink, noise and JPEG of the published face training, which are CodeFormer's."""

    kernel_size: int = 41
    """Side of the Gaussian kernel, odd, pixels."""
    isotropic_prob: float = 0.5
    """Probability that both axes have one standard deviation."""
    blur_sigma: tuple[float, float] = (1.0, 15.0)
    """Range of the kernel's standard deviation along each axis, pixels."""
    shrink: tuple[float, float] = (1.0, 30.0)
    """Range of the factor by which the picture is shrunk, and enlarged again at the end."""
    noise_sigma: tuple[float, float] = (0.0, 20.0)
    """Range of the Gaussian noise's standard deviation, 8-bit levels."""
    jpeg_quality: tuple[float, float] = (30.0, 100.0)
    """Range of the JPEG quality, libjpeg's scale of 1 to 100; drawn as a real number, then cut off."""

    def __post_init__(self) -> None:
        """Refuse ranges and probabilities that mean nothing."""
        if self.kernel_size < 1 or not self.kernel_size % 2:
            raise OSEDiffError(f"kernel_size must be odd and at least 1, got {self.kernel_size}.")
        _check_probability("isotropic_prob", self.isotropic_prob)
        _check_range("blur_sigma", self.blur_sigma, 1e-3, float("inf"))
        _check_range("shrink", self.shrink, 1.0, float("inf"))
        _check_range("noise_sigma", self.noise_sigma, 0.0, float("inf"))
        _check_range("jpeg_quality", self.jpeg_quality, 1, 100)


@dataclass(frozen=True)
class DegradationConfig:
    """How LQ is made: the two-stage pipeline of Real-ESRGAN as published OSEDiff runs it, or the face one."""

    kind: Literal["realesrgan", "face"] = "realesrgan"
    """"realesrgan": `scale` to `second` below; "face": the section `face`, and no other."""
    where: Literal["workers", "device"] = "workers"
    """Where pictures are degraded: in the loading processes, or on the training device, by the same draws."""
    sharpen: bool = False
    """Sharpen the clean picture first by unsharp masking, as Real-ESRGAN does; published OSEDiff does not."""
    scale: int = 4
    """HQ size over LQ size (published: 4)."""
    shrink_only_prob: float = 0.0
    """Probability that the LQ is the picture shrunk and nothing else (published: 0); not for "face". The
    demo that had seen none of these moved the tones of clean small pictures."""
    kernel_size: tuple[int, int] = (7, 21)
    """Smallest and largest kernel side, odd, pixels; each kernel draws its own."""
    final_sinc_prob: float = 0.8
    """Probability of the low-pass that follows the last resize."""
    first: FirstStageConfig = field(default_factory=FirstStageConfig)
    """First stage, from the HQ size."""
    second: SecondStageConfig = field(default_factory=SecondStageConfig)
    """Second stage, to the LQ size."""
    face: FaceConfig = field(default_factory=FaceConfig)
    """The numbers of kind "face"."""

    def __post_init__(self) -> None:
        """Refuse sizes and probabilities that mean nothing."""
        if self.scale < 1:
            raise OSEDiffError(f"scale must be at least 1, got {self.scale}.")
        low, high = self.kernel_size
        if not (1 <= low <= high and low % 2 and high % 2):
            raise OSEDiffError(f"kernel_size must be two odd sides, smallest first, got {self.kernel_size}.")
        for name in ("final_sinc_prob", "shrink_only_prob"):
            _check_probability(name, getattr(self, name))


def _check_range(name: str, limits: tuple[float, float], lowest: float, highest: float) -> None:
    if not lowest <= limits[0] <= limits[1] <= highest:
        raise OSEDiffError(
            f"{name} must be two numbers, smallest first, from {lowest} to {highest}, got {limits}."
        )


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise OSEDiffError(f"{name} must be a probability from 0 to 1, got {value}.")
