"""Degradation of clean pictures into training inputs: Real-ESRGAN's two stages, or CodeFormer's for faces.

Every number that the published code draws is drawn here from one explicit `torch.Generator`, so that the
same picture, configuration and seed give the same result in any process.
"""

from .config import DegradationConfig, FaceConfig, FirstStageConfig, SecondStageConfig
from .pipeline import degrade, degrade_to_lq_size
from .sharpen import sharpen

__all__ = [
    "DegradationConfig",
    "FaceConfig",
    "FirstStageConfig",
    "SecondStageConfig",
    "degrade",
    "degrade_to_lq_size",
    "sharpen",
]
