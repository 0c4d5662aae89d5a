"""From picture files to answers: handwriting.py prepares them, the network reads them."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_cnn import Error
from mnist_cnn.evaluate import compute_logits
from mnist_cnn.handwriting import Prepared, find_digits, prepare, read_picture

BATCH_SIZE = 64  # pictures that wait for the network together: enough to be fast, few to be kept

Steps = list[tuple[str, NDArray[np.uint8]]]


@dataclass
class Reading:
    """One digit as the network read it.

    image: what the network saw, uint8 (28, 28). probabilities: (10,), their sum is 1. box: left,
    top, right, bottom in pixels of the upright picture, right and bottom exclusive (None where the
    whole picture is one digit).
    """

    image: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    box: tuple[int, int, int, int] | None = None

    @property
    def digit(self) -> int:
        """The likeliest digit."""
        return int(self.probabilities.argmax())

    @property
    def runner_up(self) -> int:
        """The second likeliest."""
        return int(self.probabilities.argsort()[-2])

    @property
    def confidence(self) -> float:
        """The probability of the likeliest digit, in [0, 1]."""
        return float(self.probabilities.max())


@dataclass
class Answer:
    """What became of one file: an error, or its digits in reading order.

    steps: the pictures between the file and what the network saw, if they were asked for.
    """

    file: str
    error: str = ""
    readings: list[Reading] = field(default_factory=list)
    steps: Steps = field(default_factory=list)


def expand_patterns(names: Iterable[str]) -> list[str]:
    """Replaces patterns such as *.png that the shell has left alone by the files they match."""
    files = []
    for name in names:
        matches = [] if os.path.exists(name) else sorted(glob.glob(name))
        files.extend(matches or [name])
    return files


def make_reader(model: nn.Module) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from images, uint8 (N, 28, 28), to probabilities (N, 10)."""
    device = next(model.parameters()).device

    def read(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = compute_logits(model, torch.from_numpy(images).to(device))
        probabilities: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
        return probabilities

    return read


def predict(model: nn.Module, files: Iterable[str], keep_steps: int = 0) -> Iterator[Answer]:
    """Reads the one digit in each picture, in the order given.

    Pictures go through the network in batches, and only a batch of them is in memory at a time.

    Args:
        keep_steps: for how many of the files to keep the steps of their preparation.
    """
    read, waiting = make_reader(model), iter(enumerate(files))
    with ThreadPoolExecutor() as pool:  # Pillow and OpenCV leave other threads room to work
        while batch := list(islice(waiting, BATCH_SIZE)):
            prepared = list(pool.map(lambda job: _prepare_file(job[1], job[0] < keep_steps), batch))
            images = [picture.image for picture in prepared if isinstance(picture, Prepared)]
            probabilities = iter(read(np.stack(images)) if images else ())
            for (_, file), picture in zip(batch, prepared):
                if isinstance(picture, Prepared):
                    reading = Reading(picture.image, next(probabilities))
                    yield Answer(file, readings=[reading], steps=picture.steps)
                else:
                    yield Answer(file, error=picture)


def _prepare_file(file: str, keep_steps: bool) -> Prepared | str:
    """A picture made ready for the network, or what is wrong with it."""
    try:
        prepared = prepare(read_picture(file))
    except Error as error:
        return str(error)
    return prepared if keep_steps else Prepared(prepared.image, [])


def predict_numbers(
    model: nn.Module, files: Iterable[str], keep_steps: int = 0
) -> Iterator[Answer]:
    """Reads all the digits in each picture; of the steps, keeps the upright picture itself."""
    read = make_reader(model)
    for file in files:
        answer = Answer(file)
        try:
            grey = read_picture(file)
            answer.readings = read_digits(grey, read)
            if keep_steps > 0:
                answer.steps = [("original", grey)]
        except Error as error:
            answer.error = str(error)
        keep_steps -= 1
        yield answer


def read_digits(
    grey: NDArray[np.uint8], read: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
) -> list[Reading]:
    """Finds and reads the digits of an upright grey picture, uint8 (H, W), in reading order.

    Raises:
        Error: there is no ink in it.
    """
    digits = find_digits(grey, read)
    probabilities = read(np.stack([digit.image for digit in digits]))
    return [Reading(digit.image, row, digit.box) for digit, row in zip(digits, probabilities)]


def to_json(answer: Answer, number: bool) -> dict[str, Any]:
    """An answer as plain values, in the form that `predict --json` prints."""
    if answer.error:
        return {"file": answer.file, "error": answer.error}
    if number:
        digits = [
            {"digit": one.digit, "confidence": one.confidence, "box": list(one.box or ())}
            for one in answer.readings
        ]
        return {"file": answer.file, "number": number_of(answer), "digits": digits}
    one = answer.readings[0]
    return {
        "file": answer.file,
        "digit": one.digit,
        "confidence": one.confidence,
        "probabilities": one.probabilities.tolist(),
    }


def number_of(answer: Answer) -> str:
    """All digits of an answer in reading order, rows joined: for example "05221859"."""
    return "".join(str(one.digit) for one in answer.readings)


def to_text(answer: Answer, number: bool) -> str:
    """An answer as a line: photo.jpg: 7 (98.3 %), then 1 (1.2 %)."""
    if number:
        least = min(one.confidence for one in answer.readings)
        return f"{answer.file}: {number_of(answer)} (each at least {100 * least:.1f} %)"
    one = answer.readings[0]
    second = float(one.probabilities[one.runner_up])
    return (
        f"{answer.file}: {one.digit} ({100 * one.confidence:.1f} %), "
        f"then {one.runner_up} ({100 * second:.1f} %)"
    )
