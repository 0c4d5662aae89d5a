"""From ink to several digits: which strokes belong together, where digits that touch are cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_cnn import Error
from mnist_cnn.handwriting.arrays import Box, Boxes, Ink, Labels, around, cropped, longest_side
from mnist_cnn.handwriting.digit import (
    NO_INK,
    ONLY_FRAME,
    depth_of,
    find_pieces,
    label_holes,
    only,
    touching,
)
from mnist_cnn.handwriting.ink import INK

RIM = 0.35  # of the rim of a box: what lies along the picture's edge with more of it is no digit
FAINT = 0.6  # of the depth of the heaviest part's ink: what has less shines through, or is a shadow
LOWEST = 0.35  # of the size of most digits: what is lower, or thinner, is no digit
MOST = 300  # pieces of ink in one picture: a page of digits has fewer, noise has thousands

# What cuts cost, and the parts between them. Lengths are shares of a digit's height.
CUT = 0.1  # each cut
THROUGH = 1.0  # for the length that it goes through ink
HOLE = 0.2  # for each hole that it goes through: most belong to one digit
BROADER = 2.0  # for a part's width beyond what is usual for its digit, from 0 to 9:
USUAL = np.array([1.0, 0.5, 1.05, 0.9, 0.9, 1.05, 0.8, 0.85, 0.85, 0.8])
LOWER, LOW = 6.0, 0.7  # for what a part is lower than LOW
ONE = 0.1  # a one that is cut off: any upright stroke looks like one
# The root that is taken of the network's probabilities, so that small differences count: it is
# nearly as sure of a 3 with a stroke of its neighbour as of a 3.
ROOT = 3

SLOPES = (0.0, -0.2, 0.2, -0.4, 0.4)  # of cuts: columns per row
LEAN = 0.1  # what a slope of 1 costs a cut, as if it went through so much more of the height
SLIVER = 0.12  # of the ink between two cuts: a piece with less was left of a neighbour

# Some ink -> the probability that each of it is a 0, 1, ... 9: (N, 10).
Judge: TypeAlias = Callable[[Sequence[Ink]], NDArray[np.float32]]
Span: TypeAlias = tuple[int, int]  # from which cut to which, counting both ends as cuts


class Cut(NamedTuple):
    """A straight cut: at half the height it is in column x.

    through: how many pixels of ink it goes through. holes: how many holes, as a 0 has one.
    """

    x: int
    slope: float = 0.0
    through: float = 0.0
    holes: int = 0


class Part(NamedTuple):
    """The ink of one or more digits, cut out of the picture at (left, top)."""

    ink: Ink
    left: int
    top: int

    @property
    def box(self) -> Box:
        """Where the ink is in the picture."""
        x, y, w, h = cv2.boundingRect((self.ink >= INK).astype(np.uint8))
        return self.left + x, self.top + y, self.left + x + w, self.top + y + h


# ------------------------------------------------------------------------------ what is together


def find_parts(ink: Ink) -> list[Part]:
    """Find the pieces of ink that belong together: each a digit, or digits that touch.

    Parts much fainter than the heaviest are dropped: one hand presses about as hard all along.

    Raises:
        Error: there is no ink, or it is in so many pieces that these can hardly be digits.
    """
    labels, boxes, mass = find_pieces(ink)
    mass[touching(labels, boxes) > RIM] = 0
    discs = are_discs(boxes, mass)
    if mass[~discs].any():
        mass[discs] = 0
    if not mass.any():
        raise Error(ONLY_FRAME)
    heights = boxes[:, 3]
    order = np.argsort(heights)
    share = np.cumsum(mass[order]) / mass.sum()
    size = float(heights[order[np.searchsorted(share, 0.5)]])  # half of the ink is in higher pieces
    large = np.nonzero((mass > 0.03 * mass.max()) & (boxes[:, 2:].max(1) > 0.15 * size))[0]
    if len(large) > MOST:
        raise Error(
            f"more than {MOST} pieces of ink were found: give a clearer picture, or a part of it"
        )
    large = large[[not is_rule(labels, boxes[piece], piece, size) for piece in large.tolist()]]
    pieces = large[np.argsort(-mass[large])]
    x, y, w, h = boxes[pieces].T
    corners = np.stack([x, y, x + w, y + h], axis=1).tolist()
    found = []
    for members, box in group([tuple(box) for box in corners], size):
        left, top, right, bottom = box
        if bottom - top < LOWEST * size:
            continue  # a speck, or a minus, that belongs to nothing
        rim = 3
        top, left = max(0, top - rim), max(0, left - rim)
        window = np.s_[top : bottom + rim, left : right + rim]
        marks = np.isin(labels[window], pieces[members])
        weight = float(mass[pieces[members]].sum())
        found.append((weight, depth_of(ink[window], marks), window, marks))
    if not found:  # little ink in large pieces, and much in specks
        raise Error(NO_INK)
    _, usual_depth, _, _ = max(found, key=lambda one: one[0])
    return [
        Part(only(ink[window], marks, depth), window[1].start, window[0].start)
        for _, depth, window, marks in found
        if depth >= FAINT * usual_depth
    ]


def are_discs(boxes: Boxes, mass: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return of each piece, (N,), whether it is a filled disc, as punched holes and bullets are."""
    short, long = np.sort(boxes[:, 2:], 1).T
    filled = mass / np.maximum(1, 255 * short * long)  # of the box: by a disc pi / 4 of it
    return np.asarray((filled > 0.65) & (filled < 0.9) & (short > 0.75 * long))


def is_rule(labels: Labels, box: NDArray[np.int32], piece: int, size: float) -> bool:
    """Return whether a piece is a long thin stroke: drawn below a sum, or between columns.

    Args:
        box: of the piece: left, top, width, height.
        size: of most digits, in pixels.
    """
    _, _, width, height = box
    if width <= size and height <= 2 * size:
        return False
    dots = np.argwhere(labels == piece).astype(np.int32)
    return min(cv2.minAreaRect(dots)[1]) < LOWEST * size


def group(boxes: Sequence[Box], size: float) -> list[tuple[list[int], Box]]:
    """Join boxes whose pieces belong to one digit.

    Args:
        boxes: the largest first.
        size: of most digits, in pixels.

    Returns:
        the groups, each as the indices of its boxes and the box around them.
    """
    groups: list[tuple[list[int], Box]] = []
    for i, box in enumerate(boxes):
        members, hull = [i], box
        for other in groups[:]:  # it joins all that it belongs to, so that they become one
            if belong(hull, other[1], size):
                groups.remove(other)
                members += other[0]
                hull = around(hull, other[1])
        groups.append((members, hull))
    return groups


def belong(a: Box, b: Box, size: float) -> bool:
    """Return whether two boxes are pieces of one digit: one above the other, or a bit close to it.

    Args:
        size: of most digits, in pixels.
    """
    across = min(a[2], b[2]) - max(a[0], b[0])  # negative: a gap
    down = min(a[3], b[3]) - max(a[1], b[1])
    narrower = min(a[2] - a[0], b[2] - b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    smaller = min(longest_side(a), longest_side(b))
    above = across >= 0.5 * narrower and down > -0.25 * size and height < 1.7 * size
    return above or (smaller < 0.5 * size and min(across, down) > -0.12 * size)


def order_rows(boxes: Sequence[Box]) -> list[list[int]]:
    """Return the indices of boxes in reading order, row by row.

    From left to right, each box joins the row whose last one it overlaps most in height.
    """
    rows: list[list[int]] = []
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        _, top, _, bottom = boxes[i]
        overlaps = []
        for row in rows:
            _, other_top, _, other_bottom = boxes[row[-1]]
            shared = min(bottom, other_bottom) - max(top, other_top)
            overlaps.append(shared / min(bottom - top, other_bottom - other_top))
        if overlaps and max(overlaps) > 0.4:
            rows[int(np.argmax(overlaps))].append(i)
        else:
            rows.append([i])
    return sorted(rows, key=lambda row: float(np.mean([boxes[i][1] for i in row])))


# ------------------------------------------------------------------------------ what touches


def cut_apart(part: Part, usual: float, judge: Judge | None = None) -> list[Part]:
    """Cut digits that touch: over-segmented, then the likeliest path through the pieces.

    Every span between two possible cuts is judged; a path costs -log of how surely each of its
    spans is a digit, and more for cuts and for spans of unusual size (LeCun et al. 1998, section V,
    heuristic over-segmentation). Spans that could only be part of a path that costs more than one
    already found are not judged.

    Args:
        usual: the height of most digits, in pixels.
        judge: decides; without it, only what is wider than a digit is cut, where ink is least.
    """
    height, width = cropped(part.ink).shape
    height = max(height, round(usual))  # a low digit may be as broad as two
    if not (0.6 if judge else 1.25) * height < width < 8 * height:
        return [part]
    cuts = possible_cuts(part.ink, height)
    tolls = price_cuts(cuts, height)
    last, inner = len(cuts) - 1, range(1, len(cuts) - 1)
    # At least what each way from the left end to a cut costs, and each from there to the right end.
    before, after = np.zeros(last + 1), np.zeros(last + 1)
    spans: dict[Span, Part] = {}
    costs: dict[Span, float] = {}

    def weigh(candidates: Iterable[Span]) -> None:
        _, cost = cheapest_path(costs, tolls)
        found = {}
        for a, b in candidates:
            as_broad_as_two = cuts[b].x - cuts[a].x > 2 * height
            if before[a] + tolls[a] + tolls[b] + after[b] < cost and not as_broad_as_two:
                span = between(part, cuts[a], cuts[b])
                if is_high(span.ink, 0.4 * height):
                    found[a, b] = span
        if found:
            spans.update(found)
            costs.update(zip(found, price_spans(list(found.values()), height, judge)))

    spans[0, last] = part
    costs[0, last] = price_spans([part], height, judge, whole=True)[0]
    weigh((0, b) for b in inner)
    before[1:-1] = np.minimum.accumulate([costs.get((0, b), np.inf) for b in inner])
    weigh((a, last) for a in inner)
    after[-2:0:-1] = np.minimum.accumulate([costs.get((a, last), np.inf) for a in reversed(inner)])
    weigh(itertools.combinations(inner, 2))
    path, _ = cheapest_path(costs, tolls)
    return [spans[span] for span in path]


def possible_cuts(ink: Ink, height: int) -> list[Cut]:
    """Return both ends and the cuts, a tenth of the height apart, that go through least ink.

    Each leans as suits it best.

    Args:
        ink: to be cut.
        height: of a digit, in pixels.
    """
    mask = (ink >= INK).astype(np.uint8)
    start, _, width, _ = cv2.boundingRect(mask)
    middle = mask.shape[0] / 2
    through = []
    for slope in SLOPES:  # made upright, what leans so is a column
        upright = np.array([[1, slope, -slope * middle], [0, 1, 0]])
        columns = cv2.warpAffine(mask, upright, mask.shape[::-1], flags=cv2.INTER_NEAREST).sum(0)
        through.append(columns + LEAN * abs(slope) * height)
    least, best = np.min(through, 0), np.argmin(through, 0)
    apart = max(1, height // 10)
    inner: list[int] = []
    within = least[start + apart : start + width - apart]
    for x in start + apart + np.argsort(within, kind="stable"):
        if all(abs(x - other) >= apart for other in inner):
            inner.append(int(x))
    holes = label_holes(mask > 0)
    rows = np.arange(len(mask))
    cuts = [Cut(start)]
    for x in sorted(inner):
        slope = SLOPES[best[x]]
        columns = np.rint(x - slope * (rows - middle)).astype(int).clip(0, mask.shape[1] - 1)
        crossed = np.unique(holes[rows, columns])
        cuts.append(Cut(x, slope, float(least[x]), int((crossed > 0).sum())))
    return [*cuts, Cut(start + width)]


def between(part: Part, left: Cut, right: Cut) -> Part:
    """Return what lies between two cuts, without the slivers that they leave of its neighbours."""
    reach = int(max(SLOPES) * part.ink.shape[0] / 2) + 1
    start = max(0, left.x - reach)
    ink = part.ink[:, start : right.x + reach]
    y, x = np.ogrid[: ink.shape[0], : ink.shape[1]]
    y, x = y - ink.shape[0] / 2, x + start
    there = (x >= left.x - left.slope * y) & (x < right.x - right.slope * y)
    ink = np.asarray(ink * there, np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((ink >= INK).astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA]
    large = areas >= SLIVER * areas[1:].sum()
    large[0] = True  # the soft rims
    return Part(np.asarray(ink * large[labels], np.uint8), part.left + start, part.top)


def is_high(ink: Ink, height: float) -> bool:
    """Return whether one of the strokes is higher than so many pixels."""
    stats = cv2.connectedComponentsWithStats((ink >= INK).astype(np.uint8))[2]
    return bool(stats[1:, cv2.CC_STAT_HEIGHT].max(initial=0) > height)


def price_cuts(cuts: Sequence[Cut], height: int) -> NDArray[np.float64]:
    """Return what each cut costs a path, (N,); both ends cost nothing."""
    prices = np.array([CUT + THROUGH * cut.through / height + HOLE * cut.holes for cut in cuts])
    prices[[0, -1]] = 0
    return prices


def price_spans(
    spans: Sequence[Part], height: int, judge: Judge | None, whole: bool = False
) -> list[float]:
    """Return what each span costs a path, without the cuts at its sides.

    Args:
        height: of a digit, in pixels.
        whole: whether nothing was cut off them.
    """
    heights, widths = np.array([cropped(span.ink).shape for span in spans]).T / height
    prices = LOWER * np.maximum(0, LOW - heights)
    if judge is None:
        prices += np.log(widths / 0.7) ** 2  # the usual proportions
    else:
        probabilities = np.asarray(judge([span.ink for span in spans]), np.float64)
        digits = probabilities.argmax(1)
        roots = probabilities ** (1 / ROOT)
        prices -= np.log(roots.max(1) / roots.sum(1))
        prices += BROADER * np.maximum(0, widths - USUAL[digits])
        prices += 0 if whole else ONE * (digits == 1)
    return [float(price) for price in prices]


def cheapest_path(costs: dict[Span, float], tolls: NDArray[np.float64]) -> tuple[list[Span], float]:
    """Return the spans that lead from the first cut to the last at the least cost, and that cost.

    No spans and infinity where there is no such path.

    Args:
        costs: of the spans.
        tolls: of the cuts; of both ends 0.
    """
    best: list[tuple[float, list[Span]]] = [(np.inf, []) for _ in tolls]
    best[0] = (0.0, [])
    for a, b in sorted(costs, key=lambda span: (span[1], span[0])):
        cost = best[a][0] + costs[a, b] + tolls[b]
        if cost < best[b][0]:
            best[b] = (cost, [*best[a][1], (a, b)])
    return best[-1][1], best[-1][0]
