"""Pictures that the tests of handwriting/ share, made from the bundled digits.

So the digit itself says what must come out of a picture of it.
"""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import mnist_cnn

RAW = Path(mnist_cnn.__file__).parent / "sample/MNIST/raw"
DIGITS = np.frombuffer((RAW / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
DIGITS = DIGITS.reshape(-1, 28, 28)
LABELS = np.frombuffer((RAW / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
TEN = [DIGITS[label == LABELS][3] for label in range(10)]
FIVE = TEN[5]


def likeness(a, b):
    """Correlation of two pictures at the best of nine shifts by up to a pixel: 1 if equal."""
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(np.corrcoef(np.roll(a, s, (0, 1)).ravel(), b.ravel())[0, 1] for s in shifts)


def enlarged(digit, side=280):
    return cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)


def claiming(width, height):
    """A PNG of a few bytes that says it is larger than it is."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "png")
    png = bytearray(buffer.getvalue())
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def on_paper(digit, paper=None, side=240, left=90, top=60, dark=0.25):
    """A digit in dark ink on paper, brightness 0 to 255, float (H, W)."""
    paper = np.full((360, 420), 210.0) if paper is None else paper.copy()
    paper[top : top + side, left : left + side] *= 1 - enlarged(digit, side) / 255 * (1 - dark)
    return paper


def as_photo(picture, seed=0):
    """With a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def ruled(step, both, dark=0.5):
    paper = np.full((360, 420), 210.0)
    for at in range(20, 420, step):
        cv2.line(paper, (0, at), (419, at + 9), 210 * dark, 2)
        if both:
            cv2.line(paper, (at + 9, 0), (at, 359), 210 * dark, 2)
    return paper


def page_of(rows, gap=20, side=112):
    """Rows of digits, dark on light, and the box of each digit's ink."""
    height = 40 + len(rows) * (side + 30)
    page = np.full((height, 40 + max(map(len, rows)) * (side + gap)), 250, np.uint8)
    boxes = []
    for i, row in enumerate(rows):
        left = 20
        for digit in row:
            ink = enlarged(digit, side)
            ink = ink[:, np.nonzero((ink > 127).any(0))[0]]
            top = 20 + i * (side + 30)
            window = page[top : top + side, left : left + ink.shape[1]]
            np.minimum(window, 250 - np.minimum(ink, 250), out=window)
            filled = np.nonzero((ink > 127).any(1))[0]
            boxes.append((left, top + filled[0], left + ink.shape[1], top + filled[-1] + 1))
            left += ink.shape[1] + gap
    return page, boxes
