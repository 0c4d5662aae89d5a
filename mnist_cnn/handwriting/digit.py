"""From ink to the digit: one is kept, its strokes mended, fitted and centred as MNIST's are."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_cnn import Error
from mnist_cnn.handwriting.arrays import (
    Box,
    Boxes,
    Image28,
    Ink,
    Labels,
    Marks,
    Mask,
    around,
    cropped,
    longest_side,
    scaled,
)
from mnist_cnn.handwriting.ink import INK

BOX, FIELD = 20, 28  # LeCun et al. 1998: the digit fits 20x20, the picture is 28x28
# The narrower a digit (width / height), the less high it gets: from 20 pixels down to 18. So the
# network takes far fewer ones with a flag for sevens (docs/handwriting.md).
NARROW, HIGH = (0.45, 0.6), (18, BOX)
FINE = 8  # strokes are measured and mended at 8 pixels for each of MNIST's
# Stroke width of MNIST's digits in pixels: 88 % of the training set lie between these, half of it
# below 2.7. What lies between is left alone, what lies outside is moved well inside.
THIN, THICK = 2.0, 4.4
THICKENED, THINNED = 2.5, 4.2
# A piece belongs to a digit if the gap between them is at most REACH of the digit's size, or, if it
# has more than ALIKE of the digit's weight, of the size of both together.
REACH, ALIKE = 0.2, 0.15
LOOP = 24  # fine pixels: what strokes enclose, from here on, is a loop and not a gap between them
NO_INK = "no ink was found in the picture: use a darker pen, or take it from closer"
ONLY_FRAME = "no ink was found except a frame along the picture's edges: crop it off"


# ------------------------------------------------------------------------------ which ink it is


def keep_digit(ink: Ink) -> Ink:
    """Keep the digit, all its pieces, and drop specks, edges of the picture and frames.

    Strokes of one digit may be apart, as the bar of a 5 is. A piece belongs to the heaviest one,
    and to all that belongs to it, if the gap is at most REACH of the digit's size. For a piece of
    similar weight, that is the size of both together: half a digit says little about the whole.

    Raises:
        Error: nothing is left.
    """
    labels, boxes, mass = find_pieces(ink)
    main = int(np.argmax(mass))
    kept, hull = [main], corners(boxes[main])
    waiting = set(np.nonzero(mass >= 0.02 * mass[main])[0].tolist()) - {main}
    near: Collection[int] = waiting
    while near:
        gaps = gaps_to(labels, kept, len(mass))
        size, weight = longest_side(hull), mass[kept].sum()
        sizes = {
            i: longest_side(around(hull, corners(boxes[i]))) if mass[i] > ALIKE * weight else size
            for i in waiting
        }
        near = [i for i in waiting if gaps[i] <= REACH * sizes[i]]
        for i in near:
            hull = around(hull, corners(boxes[i]))
        kept += near
        waiting -= set(near)
    digit = marked(labels, kept, len(mass))
    return only(ink, digit, depth_of(ink, digit))


def gaps_to(labels: Labels, kept: Sequence[int], count: int) -> NDArray[np.float64]:
    """Return how far each of so many pieces is from those kept, (count,), in pixels."""
    there = marked(labels, kept, count)
    away = cv2.distanceTransform(1 - there.astype(np.uint8), cv2.DIST_L2, 5)
    others = (labels > 0) & ~there
    gaps = np.full(count, np.inf)
    np.minimum.at(gaps, labels[others], away[others])
    return gaps


def marked(labels: Labels, pieces: Sequence[int], count: int) -> Marks:
    """Return where some of so many pieces are."""
    table = np.zeros(count, bool)
    table[pieces] = True
    return table[labels]


def corners(box: NDArray[np.int32]) -> Box:
    """Turn left, top, width, height into left, top, right, bottom."""
    x, y, w, h = box.tolist()
    return x, y, x + w, y + h


def find_pieces(ink: Ink) -> tuple[Labels, Boxes, NDArray[np.float64]]:
    """Find the connected strokes.

    What hugs the picture's edges counts less, the more so the more of its box's rim lies there.

    Returns:
        labels (H, W), and of each label its box (N, 4) and its ink (N,), which for the paper,
        label 0, counts 0.

    Raises:
        Error: there is none, or nothing but a frame along the edges.
    """
    mask = (ink >= INK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    strong = np.bincount(labels[ink >= 2 * INK], minlength=count)
    mass = np.bincount(labels.ravel(), ink.ravel(), count) * (strong > 0)
    mass[0] = 0
    if not mass.any():
        raise Error(NO_INK)
    pieces, boxes = np.asarray(labels, np.int32), np.asarray(stats[:, :4], np.int32)
    counted = mass * (1 - touching(pieces, boxes)) ** 4
    for side in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        along = np.bincount(side)
        counted[np.nonzero(along > 0.95 * len(side))] *= 0.01
    if not counted.any():
        raise Error(ONLY_FRAME)
    return pieces, boxes, counted


def touching(labels: Labels, boxes: Boxes) -> NDArray[np.float64]:
    """Return of each piece, (N,), what share of its box's rim lies along the picture's edges."""
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    along = np.bincount(edge, minlength=len(boxes))
    return np.asarray(np.minimum(1.0, along / (2 * boxes[:, 2:].sum(1))))


def only(ink: Ink, digit: Marks, depth: float) -> Ink:
    """Return the ink of the strokes marked, with the soft rim around them, made 255 deep."""
    rim = max(3, min(ink.shape) // 100 | 1)
    kept = ink * cv2.dilate(digit.astype(np.uint8), np.ones((rim, rim), np.uint8))
    return np.asarray(cv2.convertScaleAbs(kept, alpha=255 / depth), np.uint8)


def depth_of(ink: Ink, digit: Marks) -> float:
    """Return how much ink the strokes marked have where they are not faded at the edges."""
    return float(np.percentile(ink[digit], 75))


# ------------------------------------------------------------------------------ its strokes


def mend_strokes(ink: Ink) -> Ink:
    """Thicken thin strokes and thin thick ones to the widths MNIST has; leave others alone.

    A loop that would close, such as that of a small 6, keeps its strokes thinner.
    """
    ink = cropped(ink)
    longest = BOX * FINE
    fine = scaled(ink, longest / max(ink.shape))
    # A hairline gets pale when it is made smaller.
    fine = np.asarray(cv2.convertScaleAbs(fine, alpha=255 / fine.max()), np.uint8)
    width = stroke_width(fine)
    if THIN * FINE <= width <= THICK * FINE:
        return ink
    wanted = FINE * (THICKENED if width < THIN * FINE else THINNED)
    # Growing by g on a side of s, then shrinking back to s: (width + g) s / (s + g) = wanted.
    grow = (wanted - width) / (1 - wanted / longest)
    radius = round(abs(grow) / 2)
    if grow > 0:
        return thicken(fine, radius)
    return np.pad(erode(fine, make_disc(radius)), radius + 1)


def make_disc(radius: int) -> Mask:
    """Return a disc, (2 radius + 1, 2 radius + 1)."""
    side = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def thicken(ink: Ink, radius: int) -> Ink:
    """Grow strokes by a disc, by a smaller one where this would close a loop."""
    loops = count_loops(ink)
    while True:
        grown = np.asarray(cv2.dilate(np.pad(ink, radius + 1), make_disc(radius)), np.uint8)
        if radius <= 1 or count_loops(grown) >= loops:
            return grown
        radius -= 1


def count_loops(ink: Ink) -> int:
    """Count the holes that are large enough to be meant."""
    areas = np.bincount(label_holes(ink > ink.max() // 2).ravel())
    return int((areas[1:] >= LOOP).sum())


def label_holes(marks: Marks) -> Labels:
    """Return 1, 2, ... in each hole that strokes enclose, as a 0 has one, and 0 elsewhere."""
    paper = np.pad((~marks).astype(np.uint8), 1, constant_values=1)
    _, labels = cv2.connectedComponents(paper, connectivity=4)
    labels[labels == labels[0, 0]] = 0  # around the strokes
    return np.asarray(labels[1:-1, 1:-1], np.int32)


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

    LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.A;
    but what is narrow gets only 18 pixels high.
    """
    ink = cropped(ink)
    height, width = ink.shape
    longest = float(np.interp(width / height, NARROW, HIGH))
    small = scaled(ink, longest / max(height, width))
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
