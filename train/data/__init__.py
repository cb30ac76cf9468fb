"""Training samples from folders, lists, tar shards and data sets: sample i is a function of (seed, i)."""

from .config import DataConfig
from .crops import draw_crop
from .dataset import REMARKS, PictureDataset, Sample, build_dataset, build_validation, degrade_batch
from .pictures import find_pictures

__all__ = [
    "REMARKS",
    "DataConfig",
    "PictureDataset",
    "Sample",
    "build_dataset",
    "build_validation",
    "degrade_batch",
    "draw_crop",
    "find_pictures",
]
