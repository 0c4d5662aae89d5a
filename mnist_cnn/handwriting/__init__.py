"""Any picture of a handwritten digit -> the 28x28 picture that MNIST would have made of it.

A network knows only what it was trained on: MNIST's digits are bright ink on black, all of one
size, centred, free of paper and shadow. `prepare` takes a picture there in small steps, each a
function from one array to the next; `find_digits` does the same for each digit of a picture that
holds several. No network is needed for any of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_cnn.handwriting.arrays import Box, Grey, Image28, Ink, check_grey, cropped, scaled
from mnist_cnn.handwriting.digit import centre_mass, fit_box, keep_digit, mend_strokes
from mnist_cnn.handwriting.ink import (
    clear_surroundings,
    dark_on_light,
    even_light,
    find_ink,
    remove_lines,
)
from mnist_cnn.handwriting.number import cut_apart, find_parts, order_rows
from mnist_cnn.handwriting.picture import read_picture

__all__ = [
    "DIGIT",
    "NEEDED",
    "PAGE",
    "STEPS",
    "Digit",
    "Prepared",
    "Read",
    "Step",
    "find_digits",
    "prepare",
    "read_picture",
    "shrink",
    "use_one_thread",
]

WORKING_SIZE = 1024  # longest side for all that follows: a digit of 1/20 of a page keeps 50 pixels

# Images (N, 28, 28) -> of each the probabilities of the ten digits (N, 10).
Read: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Step(NamedTuple):
    """One step of the preparation: its name in code, its title in figures, what it does."""

    name: str
    title: str
    function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


# What is done to the whole page, from grey pixels to ink.
PAGE = (
    Step("sheet", "sheet", clear_surroundings),
    Step("polarity", "dark on light", dark_on_light),
    Step("light", "light evened", even_light),
    Step("ink", "ink", find_ink),
    Step("lines", "lines removed", remove_lines),
)
# What is done to the ink of one digit.
DIGIT = (
    Step("strokes", "stroke width", mend_strokes),
    Step("box", "fitted", fit_box),
    Step("mass", "centred", centre_mass),
)
# The way of a picture that holds one digit: between the two, all but that digit's ink is dropped.
STEPS = (*PAGE, Step("specks", "cleaned", keep_digit), *DIGIT)
NEEDED = ("ink", "box")  # steps without which nothing of MNIST's form is left


@dataclass(frozen=True)
class Prepared:
    """A picture made ready, and the way there as (short title, picture)."""

    image: Image28
    steps: list[tuple[str, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Digit:
    """One digit of several, and where it stands in the picture, in pixels."""

    image: Image28
    box: Box


def use_one_thread() -> None:
    """Keep OpenCV from starting threads: on pictures so small they cost more than they save.

    This concerns the whole process, so that it is a command's to call.
    """
    cv2.setNumThreads(1)


def prepare(grey: Grey, skip: Collection[str] = ()) -> Prepared:
    """Make a picture of one digit what MNIST would have made of it.

    Args:
        grey: uint8 (H, W).
        skip: names of steps to leave out, to see what each is worth; not those in NEEDED.

    Raises:
        Error: the picture shows no ink.
        ValueError: it is no such array.
    """
    grey = check_grey(grey)
    picture, _ = shrink(grey)
    steps = [("picture", picture)]
    for step in STEPS:
        if step.name not in skip:
            picture = step.function(picture)
            steps.append((step.title, picture))
    return Prepared(picture, steps)


def find_digits(grey: Grey, read: Read | None = None) -> list[Digit]:
    """Find the digits of a picture in reading order, rows from top to bottom.

    Args:
        grey: uint8 (H, W).
        read: says where digits that touch are cut apart; without it, only what is wider than a
            digit is cut, where ink is least.

    Raises:
        Error: the picture shows no ink, or too many pieces of it to be digits.
        ValueError: it is no such array.
    """
    grey = check_grey(grey)
    picture, scale = shrink(grey)
    parts = find_parts(follow(PAGE, picture))

    def judge(inks: Sequence[Ink]) -> NDArray[np.float32]:
        assert read is not None
        return read(np.stack([follow(DIGIT, ink) for ink in inks]))

    usual = float(np.median([cropped(part.ink).shape[0] for part in parts]))
    digits = [one for part in parts for one in cut_apart(part, usual, judge if read else None)]
    boxes = [digit.box for digit in digits]
    return [
        Digit(follow(DIGIT, digits[i].ink), enlarged(boxes[i], scale, grey.shape))
        for members in order_rows(boxes)
        for i in members
    ]


def follow(steps: Sequence[Step], picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Take a picture through some steps."""
    for step in steps:
        picture = step.function(picture)
    return picture


def shrink(grey: Grey) -> tuple[Grey, float]:
    """Return a picture at the size at which it is worked on, and what its sides were multiplied by.

    That is 1 where it is small enough.
    """
    scale = float(min(1, WORKING_SIZE / max(grey.shape)))
    return scaled(grey, scale), scale


def enlarged(box: Box, scale: float, shape: tuple[int, ...]) -> Box:
    """Return a box in pixels of the picture, of (H, W), that was worked on at a smaller scale."""
    height, width = shape
    left, top, right, bottom = (side / scale for side in box)
    return int(left), int(top), min(width, math.ceil(right)), min(height, math.ceil(bottom))
