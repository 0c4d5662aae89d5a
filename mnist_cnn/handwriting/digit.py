"""From ink to the digit: one is kept, its strokes mended, fitted and centred as MNIST's are."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_cnn import Error
from mnist_cnn.handwriting.arrays import Boxes, Image28, Ink, Labels, Marks, Mask, cropped, scaled
from mnist_cnn.handwriting.ink import INK

BOX, FIELD = 20, 28  # LeCun et al. 1998: the digit fits 20x20, the picture is 28x28
FINE = 8  # strokes are measured and mended at 8 pixels for each of MNIST's
# Stroke width of MNIST's digits in pixels: 88 % of the training set lie between these, half of it
# below 2.7. What lies between is left alone, what lies outside is moved to well inside.
THIN, THICK = 2.0, 4.4
THICKENED, THINNED = 2.5, 4.2


# ------------------------------------------------------------------------------ which ink it is


def keep_digit(ink: Ink) -> Ink:
    """Keep the digit, all its pieces, and drop specks, edges of the picture and frames.

    Raises:
        Error: nothing is left.
    """
    labels, boxes, mass = find_pieces(ink)
    main = int(np.argmax(mass))
    pieces = mass[labels] >= 0.02 * mass[main]
    # Strokes of one digit may be apart, as the bar of a 5 is: by up to a fifth of its size.
    reach = int(0.1 * max(boxes[main][2:]))
    near = cv2.dilate(pieces.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    joined = cv2.connectedComponents(near)[1]
    return only(ink, pieces & (joined == joined[labels == main][0]))


def find_pieces(ink: Ink) -> tuple[Labels, Boxes, NDArray[np.float64]]:
    """Find the connected strokes.

    What hugs the picture's edges counts less, the more so the more of its box's rim lies there.

    Returns:
        labels (H, W), and of each label its box (N, 4) and its ink (N,), which for the paper,
        label 0, counts 0.

    Raises:
        Error: there is none.
    """
    mask = (ink >= INK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    strong = np.bincount(labels[ink >= 2 * INK], minlength=count)
    mass = np.bincount(labels.ravel(), ink.ravel(), count) * (strong > 0)
    mass[0] = 0
    if not mass.any():
        raise Error("no ink was found in the picture")
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    rim = 2 * (stats[:, cv2.CC_STAT_WIDTH] + stats[:, cv2.CC_STAT_HEIGHT])
    hugging = np.minimum(1, np.bincount(edge, minlength=count) / rim)
    boxes = np.asarray(stats[:, :4], np.int32)
    return np.asarray(labels, np.int32), boxes, mass * (1 - hugging) ** 4


def only(ink: Ink, digit: Marks) -> Ink:
    """Return the ink of the strokes marked, with the soft rim around them, at its full depth."""
    rim = max(3, min(ink.shape) // 100 | 1)
    kept = ink * cv2.dilate(digit.astype(np.uint8), np.ones((rim, rim), np.uint8))
    full = float(np.percentile(ink[digit], 75))
    return np.asarray(cv2.convertScaleAbs(kept, alpha=255 / full), np.uint8)


# ------------------------------------------------------------------------------ its strokes


def mend_strokes(ink: Ink) -> Ink:
    """Thicken thin strokes and thin thick ones to the widths MNIST has; leave others alone."""
    ink = cropped(ink)
    longest = BOX * FINE
    fine = scaled(ink, longest / max(ink.shape))
    width = stroke_width(fine)
    if THIN * FINE <= width <= THICK * FINE:
        return ink
    wanted = FINE * (THICKENED if width < THIN * FINE else THINNED)
    # Growing by g on a side of s, then shrinking back to s: (width + g) s / (s + g) = wanted.
    grow = (wanted - width) / (1 - wanted / longest)
    radius = round(abs(grow) / 2)
    side = 2 * radius + 1
    disc = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
    if grow > 0:
        return np.asarray(cv2.dilate(np.pad(fine, radius + 1), disc), np.uint8)
    return np.pad(erode(fine, disc), radius + 1)


def erode(ink: Ink, disc: Mask) -> Ink:
    """Return what cv2.erode does where there is paper all around.

    Its time grows with the disc's radius, that of cv2.erode with the disc's area: a blob, which is
    eroded by a disc half as large as itself, would take ten times as long.
    """
    height, width = ink.shape
    radius = len(disc) // 2
    eroded = np.zeros_like(ink)
    if 2 * radius >= min(height, width):
        return eroded
    # The least along the row, as far to both sides as the disc reaches at some height.
    least, wider, reach = ink.copy(), np.zeros_like(ink), 0
    inner = np.full((height - 2 * radius, width), 255, np.uint8)
    for up in range(radius, -1, -1):  # the disc grows wider towards its middle
        while reach < disc[radius - up].sum() // 2:
            middle = wider[:, 1:-1]
            np.minimum(least[:, :-2], least[:, 2:], out=middle)
            np.minimum(middle, least[:, 1:-1], out=middle)
            least, wider, reach = wider, least, reach + 1
            wider[:, [0, -1]] = 0
        for row in (radius - up, radius + up):
            np.minimum(inner, least[row : row + len(inner)], out=inner)
    eroded[radius : height - radius] = inner
    return eroded


def stroke_width(ink: Ink) -> float:
    """Return the strokes' mean width, in pixels.

    In a bar of width w the mean distance to paper is w/4.
    """
    mask = np.pad((ink > ink.max() // 2).astype(np.uint8), 1)
    return 4 * float(cv2.distanceTransform(mask, cv2.DIST_L2, 5)[mask > 0].mean())


# ------------------------------------------------------------------------------ its place


def fit_box(ink: Ink) -> Image28:
    """Scale the ink's bounding box to fit 20x20 as it is, smoothly, in the middle of 28x28.

    LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.A.
    """
    ink = cropped(ink)
    small = scaled(ink, BOX / max(ink.shape))
    height, width = small.shape
    top, left = (FIELD - height) // 2, (FIELD - width) // 2
    field = np.zeros((FIELD, FIELD), np.uint8)
    field[top : top + height, left : left + width] = small
    return field


def centre_mass(field: Image28) -> Image28:
    """Shift the picture by whole pixels: centre of mass in the middle (LeCun et al. 1998)."""
    moments = cv2.moments(field)
    x, y, w, h = cv2.boundingRect(field)
    right = round(FIELD / 2 - moments["m10"] / moments["m00"])
    down = round(FIELD / 2 - moments["m01"] / moments["m00"])
    right = min(max(right, -x), FIELD - x - w)  # no ink is pushed out
    down = min(max(down, -y), FIELD - y - h)
    return np.roll(field, (down, right), (0, 1))
