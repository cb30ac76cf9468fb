"""What is recognised in a restored picture: letters and faces, by free models that the user has installed."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Recognition = Callable[[Tensor, Tensor], Tensor]
"""Of SR and HQ, (1, 3, H, W) in [0, 1]; NaN where the original holds nothing to recognise."""


def text_errors() -> Recognition:
    """Build the share of characters that are read otherwise in SR than in HQ, by RapidOCR."""
    from rapidocr import RapidOCR  # pyright: ignore[reportMissingImports]

    engine = RapidOCR(params={"Global.log_level": "error"})

    def read(image: Tensor) -> str:
        pixels = np.ascontiguousarray(_pixels(image)[..., ::-1])  # BGR
        return " ".join(engine(pixels).txts or ())

    def measured(sr: Tensor, hq: Tensor) -> Tensor:
        truth = read(hq)
        return torch.tensor(edits(read(sr), truth) / len(truth) if truth else math.nan)

    return measured


def edits(a: str, b: str) -> int:
    """Count the characters to insert, remove or replace that make one text of the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def face_likeness() -> Recognition:
    """Build the cosine of dlib's face descriptors of SR and HQ, mean over the faces that HQ shows.

    Faces and their landmarks are found in HQ, and looked at in the same place in SR.
    """
    import dlib  # pyright: ignore[reportMissingImports]

    spec = find_spec("face_recognition_models")  # importing it needs pkg_resources, which is gone
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "models"
    library: Any = dlib
    find = library.get_frontal_face_detector()
    landmarks = library.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    network = library.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def measured(sr: Tensor, hq: Tensor) -> Tensor:
        ours, theirs = _pixels(sr), _pixels(hq)
        faces = [landmarks(theirs, place) for place in find(theirs, 1)]
        pairs = [
            [torch.tensor(list(network.compute_face_descriptor(image, face))) for image in (ours, theirs)]
            for face in faces
        ]
        cosines = [torch.cosine_similarity(*pair, dim=0) for pair in pairs]
        return torch.stack(cosines).mean() if cosines else torch.tensor(math.nan)

    return measured


def _pixels(image: Tensor) -> np.ndarray:
    """uint8 (H, W, 3), RGB."""
    return (image[0].cpu() * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
