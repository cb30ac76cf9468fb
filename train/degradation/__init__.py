"""Degradation of clean pictures into training inputs: the two-stage pipeline of Real-ESRGAN.

Every number that the published code draws is drawn here from one explicit `torch.Generator`, so that the
same picture, configuration and seed give the same result in any process.
"""

from .config import DegradationConfig, FirstStageConfig, SecondStageConfig
from .pipeline import degrade, degrade_to_lq_size

__all__ = ["DegradationConfig", "FirstStageConfig", "SecondStageConfig", "degrade", "degrade_to_lq_size"]
