"""What this package's arrays hold, the check where they come in, and what is done to any of them.

All are indexed (row, column). The names say what the numbers mean; numpy's types say no more than
how they are stored.
"""

from __future__ import annotations

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Grey: TypeAlias = NDArray[np.uint8]  # (H, W), from 0, black, to 255, white
Ink: TypeAlias = NDArray[np.uint8]  # (H, W), from 0, paper, to 255, full ink
Image28: TypeAlias = NDArray[np.uint8]  # (28, 28), bright ink on black, as MNIST's are
Mask: TypeAlias = NDArray[np.uint8]  # (H, W), 1 where something is and 0 elsewhere, for OpenCV
Marks: TypeAlias = NDArray[np.bool_]  # (H, W), the same for numpy
Labels: TypeAlias = NDArray[np.int32]  # (H, W), to which piece of ink a pixel belongs; 0: paper
Boxes: TypeAlias = NDArray[np.int32]  # (N, 4): left, top, width, height
Outline: TypeAlias = NDArray[np.int32]  # (N, 1, 2): x, y of a polygon's corners
Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom; right, bottom exclusive


def check_grey(picture: object) -> Grey:
    """Return a picture that comes from outside, laid out as OpenCV wants it.

    Raises:
        ValueError: it is not uint8 (H, W) with at least one pixel.
    """
    if not isinstance(picture, np.ndarray):
        raise ValueError(f"a picture must be a uint8 array (H, W), not {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 2 or picture.size == 0:
        raise ValueError(
            f"a picture must be a uint8 array (H, W), not {picture.dtype} {picture.shape}"
        )
    return np.ascontiguousarray(picture)


def scaled(picture: Grey | Ink, scale: float) -> Grey | Ink:
    """Return a picture with its sides multiplied, smoothly, each to at least one pixel."""
    if scale == 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[::-1]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def cropped(ink: Ink) -> Ink:
    """Return what lies in the bounding box of all that is not 0."""
    x, y, w, h = cv2.boundingRect(ink)
    return ink[y : y + h, x : x + w]


def above_surroundings(grey: Grey) -> NDArray[np.float32]:
    """Return how far each pixel lies above the mean of its wider surroundings.

    Shadows and slanting light are gone from it, strokes stay.
    """
    window = max(3, min(grey.shape) // 2)
    values = grey.astype(np.float32)
    return values - np.asarray(cv2.blur(values, (window, window)), np.float32)


def around(a: Box, b: Box) -> Box:
    """Return the smallest box that holds two."""
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def longest_side(box: Box) -> int:
    """Return the width or the height of a box, whichever is larger."""
    return max(box[2] - box[0], box[3] - box[1])
