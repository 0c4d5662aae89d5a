"""From picture files to answers: handwriting/ prepares them, the network reads them."""

from __future__ import annotations

import contextlib
import glob
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_cnn import Error
from mnist_cnn.evaluate import compute_logits, to_probabilities
from mnist_cnn.handwriting import Prepared, Read, find_digits, prepare, read_picture, shrink
from mnist_cnn.handwriting.arrays import Box, Grey, Image28
from mnist_cnn.handwriting.picture import MAX_PIXELS, Room

AT_ONCE = 64  # pictures in one batch: enough to be fast, few enough to keep in memory
THREADS = 4  # that prepare pictures: each may hold a decoded one

# An answer that the network is less sure of than this is called doubtful. The lower it is, the more
# mistakes go unmarked; the higher, the less a mark means (docs/handwriting.md).
SURE = 0.9

Steps: TypeAlias = list[tuple[str, NDArray[np.uint8]]]  # (short title, picture)


@dataclass
class Reading:
    """One digit as the network read it.

    image: what the network saw.
    probabilities: (10,), their sum is 1.
    box: where it is, in pixels of the upright picture; None if the whole picture is one digit.
    """

    image: Image28
    probabilities: NDArray[np.float32]
    box: Box | None = None

    @property
    def digit(self) -> int:
        """The likeliest digit."""
        return int(self.probabilities.argmax())

    @property
    def runner_up(self) -> int:
        """The second likeliest."""
        return int((-self.probabilities).argsort(kind="stable")[1])  # never the first

    @property
    def confidence(self) -> float:
        """The probability of the likeliest digit, in [0, 1]."""
        return float(self.probabilities.max())

    @property
    def doubtful(self) -> bool:
        """Whether the confidence is too low to rely on: less than SURE."""
        return self.confidence < SURE


@dataclass
class Answer:
    """What became of one file: an error, or its digits in reading order.

    steps: if they were asked for, the pictures between the file and what the network saw.
    scale: how many of their pixels correspond to one of the upright picture's; at most 1.
    """

    file: str
    error: str = ""
    readings: list[Reading] = field(default_factory=list)
    steps: Steps = field(default_factory=list)
    scale: float = 1.0

    @property
    def number(self) -> str:
        """All digits in reading order, rows joined: for example "05221859"."""
        return "".join(str(one.digit) for one in self.readings)

    @property
    def doubtful(self) -> bool:
        """Whether one of the digits, and with it the whole answer, is doubtful."""
        return any(one.doubtful for one in self.readings)


def expand_patterns(names: Iterable[str]) -> list[str]:
    """Expand patterns such as *.png, where the shell has not, into the files they match."""
    files = []
    for name in names:
        matches = [] if os.path.exists(name) else sorted(glob.glob(name))
        files.extend(matches or [name])
    return files


def make_reader(model: nn.Module) -> Read:
    """Return a function from images, uint8 (N, 28, 28), to probabilities (N, 10)."""
    device = next(model.parameters()).device

    def read(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = compute_logits(model, torch.from_numpy(images).to(device))
        found: NDArray[np.float32] = to_probabilities(model, logits).cpu().numpy()
        return found

    return read


# ------------------------------------------------------------------------------ one digit each


def predict(model: nn.Module, files: Iterable[str], keep_steps: int = 0) -> Iterator[Answer]:
    """Read the one digit in each picture, and yield the answers in the order given.

    Pictures go through the network in batches. Only one batch of prepared ones is in memory at a
    time; of large photos, one is decoded while at most THREADS others are prepared.

    Args:
        model: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).
        files: names of picture files.
        keep_steps: for how many of the files to keep the steps of their preparation.
    """
    read, room = make_reader(model), make_room(MAX_PIXELS)
    waiting = iter(enumerate(files))
    threads = min(THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:  # Pillow and OpenCV leave other threads room to work
        while batch := list(islice(waiting, AT_ONCE)):
            with without_warnings():
                jobs = [pool.submit(prepare_file, file, i < keep_steps, room) for i, file in batch]
                prepared = [job.result() for job in jobs]
            images = [picture.image for picture in prepared if isinstance(picture, Prepared)]
            probabilities = iter(read(np.stack(images)) if images else ())
            for (_, file), picture in zip(batch, prepared):
                if isinstance(picture, Prepared):
                    reading = Reading(picture.image, next(probabilities))
                    yield Answer(file, readings=[reading], steps=picture.steps)
                else:
                    yield Answer(file, error=picture)


def prepare_file(file: str, keep_steps: bool, room: Room) -> Prepared | str:
    """Return a picture prepared for the network, or what is wrong with it."""
    try:
        prepared = prepare(read_picture(file, room))
    except Error as error:
        return str(error)
    return prepared if keep_steps else Prepared(prepared.image, [])


def make_room(pixels: int) -> Room:
    """Return a context that admits threads with no more than so many pixels in all.

    A thread that needs more than are free waits. None may ask for more than there are in all.
    """
    free, changed = pixels, threading.Condition()

    @contextlib.contextmanager
    def room(needed: int) -> Iterator[None]:
        nonlocal free
        with changed:
            changed.wait_for(lambda: needed <= free)
            free -= needed
        try:
            yield
        finally:
            with changed:
                free += needed
                changed.notify_all()

    return room


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Keep warnings about odd files from the terminal: those that matter become errors.

    The filters belong to the whole process, so this goes around threads, never inside one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------ several digits


def predict_numbers(
    model: nn.Module, files: Iterable[str], keep_steps: int = 0
) -> Iterator[Answer]:
    """Read all the digits in each picture, and yield the answers in the order given.

    Args:
        model: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).
        files: names of picture files.
        keep_steps: for how many of the files to keep the upright picture, shrunk.
    """
    for i, file in enumerate(files):
        answer = Answer(file)
        try:
            with without_warnings():
                grey = read_picture(file)
            answer.readings = read_digits(grey, model)
            if i < keep_steps:
                picture, answer.scale = shrink(grey)
                answer.steps = [("original", picture)]
        except Error as error:
            answer.error = str(error)
        yield answer


def read_digits(grey: Grey, model: nn.Module) -> list[Reading]:
    """Find and read the digits of an upright picture, in reading order.

    Args:
        grey: uint8 (H, W).
        model: float (N, 1, 28, 28) in [0, 1] -> logits (N, 10).

    Raises:
        Error: there is no ink in it, or it is in too many pieces.
    """
    read = make_reader(model)
    digits = find_digits(grey, read)
    probabilities = read(np.stack([digit.image for digit in digits]))
    return [Reading(digit.image, row, digit.box) for digit, row in zip(digits, probabilities)]
