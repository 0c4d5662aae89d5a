"""From grey pixels to ink: the sheet, its light, its lines, until only what was written is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mnist_cnn import Error
from mnist_cnn.handwriting.arrays import Grey, Ink, Mask, Outline, above_surroundings

FAINTEST = 12  # of 255: what differs less from the paper is no ink
CONTRAST = 40  # of 255: the table, or a frame, differs from the sheet by more than this
MANY_EDGES = 100_000  # along the rows of a light or dark region: squared paper has fewer
SPECK = 8  # pixels: what is smaller than this in such a region is dropped
MOST_LINES = 2000  # the clearest that are looked at: squared paper has some hundreds
# Of the height of the hole in a frame: lower pieces are specks; together, digits have more.
SPECK_IN_FRAME, FRAMED = 0.1, 0.3
DEEP = 150  # of 255: printed lines are paler than this beside a digit
REST = 0.05  # of the deep ink: less than this is not left where a frame is erased
LEFT = 0.2  # of the ink: less than this is not left where a line is erased from behind a digit
INK = 64  # of 255, after `find_ink`: from here on a pixel belongs to a stroke

Point: TypeAlias = tuple[int, int]  # x, y
# Of each outline, (N, 4): the next one beside it, the previous, the first inside, the one around.
Tree: TypeAlias = NDArray[np.int32]


# ------------------------------------------------------------------------------ the sheet


def clear_surroundings(grey: Grey) -> Grey:
    """Fill what lies around the sheet (a table, a frame, a margin) with the sheet's own edge.

    A picture in which no sheet is found stays as it is.
    """
    outline = find_sheet(grey)
    return grey if outline is None else fill_around(grey, outline)


def find_sheet(grey: Grey) -> Outline | None:
    """Return the outline of the sheet; None where the whole picture is paper.

    The sheet is a rectangle, tilted or not, in which the digit is a hole: the smallest light or
    dark region of that kind which has at least three edges inside the picture.
    """
    smallest, sheet = float(grey.size), None
    for region in light_and_dark(grey):
        outlines, tree = cv2.findContours(
            without_specks(region), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        )
        for i, outline in enumerate(outlines):
            if tree[0, i, 3] >= 0:  # a hole, not the outer edge of a piece
                continue
            area = cv2.contourArea(outline)
            if not 0.2 * grey.size < area < smallest:
                continue
            edge = np.asarray(outline, np.int32)
            if not is_rectangle_inside(edge, area, grey.shape):
                continue
            holes = [outlines[hole] for hole in within(tree[0], i)]
            if holds_a_digit(edge, area, holes) and stands_out(edge, grey):
                smallest, sheet = area, edge
    return sheet


def within(tree: Tree, outline: int) -> Iterator[int]:
    """Yield the outlines directly inside another one: a piece's holes, or the pieces in a hole."""
    found = int(tree[outline, 2])
    while found >= 0:
        yield found
        found = int(tree[found, 0])


def light_and_dark(grey: Grey) -> Iterator[Mask]:
    """Yield what is lighter, and then what is darker, than each of three thresholds.

    Where a shadow splits the sheet in two, the darker or the lighter half of the picture alone
    shows it whole.
    """
    middle = otsu(grey)
    levels = sorted({middle, otsu(grey[grey <= middle]), otsu(grey[grey > middle])})
    for level in levels:
        yield (grey > level).astype(np.uint8)
    for level in levels:
        yield (grey <= level).astype(np.uint8)


def otsu(values: Grey) -> int:
    """Return the grey that best parts the light values from the dark ones (Otsu, 1979)."""
    if not values.size:
        return 0
    return int(cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_OTSU)[0])


def without_specks(region: Mask) -> Mask:
    """Drop the small pieces and holes of a region that has very many: noise, or a fine pattern.

    To follow the edges of each would take seconds, and they are no sheets and no digits.
    """
    if np.count_nonzero(region[:, 1:] != region[:, :-1]) < MANY_EDGES:
        return region

    def large_pieces(mask: Mask, connectivity: int) -> Mask:
        labels, boxes = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)[1:3]
        large = boxes[:, 2:4].max(1) >= SPECK
        large[0] = False  # what is between the pieces
        return np.asarray(large[labels], np.uint8)

    holes = 1 - large_pieces(region, 8)
    return np.asarray(1 - large_pieces(holes, 4), np.uint8)


def is_rectangle_inside(outline: Outline, area: float, shape: tuple[int, ...]) -> bool:
    """Return whether an outline has four corners, and three edges or more inside the picture."""
    height, width = shape
    x, y, w, h = cv2.boundingRect(outline)
    touched = (x == 0) + (y == 0) + (x + w == width) + (y + h == height)
    hull = cv2.convexHull(outline)
    corners = cv2.approxPolyDP(hull, 0.02 * cv2.arcLength(hull, True), True)
    return touched <= 1 and len(corners) == 4 and area >= 0.92 * cv2.contourArea(hull)


def holds_a_digit(outline: Outline, area: float, holes: Sequence[cv2.typing.MatLike]) -> bool:
    """Return whether one of the holes in a region is as high as a digit, and all leave paper.

    Args:
        outline: the outer edge of the region.
        area: within it, in pixels.
        holes: their outlines.
    """
    _, _, w, h = cv2.boundingRect(outline)
    tallest = max((max(cv2.boundingRect(hole)[2:]) for hole in holes), default=0)
    return tallest > 0.05 * min(w, h) and sum(map(cv2.contourArea, holes)) < 0.5 * area


def stands_out(outline: Outline, grey: Grey) -> bool:
    """Return whether what is inside an outline differs clearly from what lies along it outside."""
    inside = filled(outline, grey.shape)
    along = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > inside
    return bool(abs(np.median(grey[inside > 0]) - np.median(grey[along])) > CONTRAST)


def filled(outline: Outline, shape: tuple[int, ...]) -> Mask:
    """Return a mask of an outline and all that is inside it."""
    mask = np.zeros(shape, np.uint8)
    cv2.drawContours(mask, [outline], -1, 1, cv2.FILLED)
    return mask


def fill_around(grey: Grey, outline: Outline) -> Grey:
    """Give each pixel outside an outline the grey of the nearest one well inside it."""
    inside = filled(outline, grey.shape)
    rim = max(grey.shape) // 100 + 1  # the edge itself is blurred
    square = np.ones((2 * rim + 1, 2 * rim + 1), np.uint8)
    inside = np.asarray(cv2.erode(inside, square), np.uint8)
    if not inside.any():
        return grey
    _, nearest = cv2.distanceTransformWithLabels(
        1 - inside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    edge = np.zeros(int(nearest.max()) + 1, np.uint8)
    edge[nearest[inside > 0]] = cv2.medianBlur(grey, 5)[inside > 0]
    return np.where(inside > 0, grey, edge[nearest])


# ------------------------------------------------------------------------------ light and ink


def dark_on_light(grey: Grey) -> Grey:
    """Invert a picture of light ink on dark ground.

    Ink is what is rarer, so the picture's detail is skewed towards it; and paper is what reaches
    the edges of the picture. Both are judged against the surroundings: shadows don't count.
    """
    detail = above_surroundings(grey)
    spread = float(detail.std()) + 1e-6
    skewness = float((detail * detail * detail).mean()) / spread**3  # numpy is slow at **3
    levels = np.clip(detail / 2 + 128, 0, 255).astype(np.uint8)
    light = cv2.threshold(levels, 0, 1, cv2.THRESH_OTSU)[1]
    edges = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]).mean() - 0.5
    return grey if edges > skewness else 255 - grey


def even_light(grey: Grey) -> Grey:
    """Divide dark ink on light paper by the paper's own brightness, so that all paper is white.

    The paper under the ink is what a morphological closing leaves: any dark shape into which a
    square of a third of the picture does not fit is filled from its surroundings, and the edges of
    larger ones, such as shadows, stay where they are.
    """
    side = max(3, min(grey.shape) // 3) | 1  # odd, or the closing would shift edges
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    evened = np.asarray(cv2.divide(grey, paper, scale=255), np.uint8)
    evened[paper == 0] = 255  # where 0/0 would be 0
    return evened


def find_ink(grey: Grey) -> Ink:
    """Return how much ink each pixel of a dark-on-light picture has.

    Otsu's threshold (1979) is taken among the pixels that are not blank paper, however few they
    are; full ink is the upper quartile of what lies above it. In between are edges and faint
    strokes.

    Raises:
        Error: all is blank.
    """
    depth = 255 - grey.astype(np.float32)
    # At least a third of the picture is paper: its noise is seen on the side that has no ink.
    lowest, low = np.percentile(depth, (2, 16))
    noise = float(low - lowest)  # one deviation of a normal distribution
    depth -= low + noise
    marks = depth[depth > max(FAINTEST, 5 * noise)]
    if marks.size == 0:
        raise Error("no ink was found: the picture is all of one colour")
    threshold = otsu(marks.astype(np.uint8))
    full = float(np.percentile(marks[marks >= threshold], 75))
    depth[depth < 3 * noise] = 0
    return np.asarray(np.clip(depth * (255 / full), 0, 255), np.uint8)


# ------------------------------------------------------------------------------ lines


def remove_lines(ink: Ink) -> Ink:
    """Erase what is drawn around and behind digits: frames, then ruled lines.

    The frames first: of a box, only the upright sides would be left, as ones.
    """
    return remove_ruling(remove_frames(ink))


def remove_ruling(ink: Ink) -> Ink:
    """Erase the lines of ruled or squared paper: thin, straight, from edge to edge of the sheet.

    Found by the Hough transform, for lines tilted by up to 12 degrees, among what is thinner than
    an eightieth of the picture; strokes that cross a line are closed again. A single one that is
    nearly all of the ink is no line but a digit.
    """
    thickest = max(ink.shape) // 80
    if thickest < 2:
        return ink  # so coarse a picture has no lines thinner than a stroke
    mask = (ink >= INK).astype(np.uint8)
    square = np.ones((thickest, thickest), np.uint8)
    thin = mask - np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, square), np.uint8)
    ink = remove_level_lines(ink, thin, thickest)
    return np.transpose(remove_level_lines(ink.T, thin.T, thickest))


def remove_frames(ink: Ink) -> Ink:
    """Erase what is drawn around digits and inside the picture: boxes, tables, rings.

    A frame is a piece with a hole in which other pieces stand that are high enough together. If a
    digit touches it, it is one piece with the digit: then it is known by its four sides, and erased
    only along them.
    """
    height, width = ink.shape
    mask = without_specks((ink >= INK).astype(np.uint8))
    outlines, found = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return ink
    tree = np.asarray(found[0])
    areas = [cv2.contourArea(outline, oriented=True) for outline in outlines]  # of holes above 0
    boxes = [cv2.boundingRect(outline) for outline in outlines]
    frames = np.zeros_like(mask)
    for hole in np.nonzero(np.array(areas) > 0)[0].tolist():
        frame = int(tree[hole, 3])
        x, y, w, h = boxes[frame]
        if x == 0 or y == 0 or x + w == width or y + h == height:
            continue  # as squared paper does: see remove_ruling
        heights = np.array([boxes[piece][3] for piece in within(tree, hole)]) / boxes[hole][3]
        if heights[heights > SPECK_IN_FRAME].sum() > FRAMED:
            cv2.drawContours(frames, outlines, frame, 1, cv2.FILLED, 8, tree[None], 1)
        elif is_touched_box(outlines[frame], outlines[hole]):
            inside = sum(areas[one] for one in within(tree, frame))
            pen = (-areas[frame] - inside) / cv2.arcLength(outlines[frame], True)
            cv2.drawContours(frames, outlines, frame, 1, 2 * int(pen + 1) + 1)
    rims = cv2.dilate(frames, np.ones((5, 5), np.uint8)) > 0
    rest = np.where(rims, 0, ink).astype(np.uint8)
    # Of squared paper that the digit crosses, only specks would be left, or the lines in a 0.
    deep = ink > DEEP
    return rest if rest[deep].sum(dtype=float) > REST * ink[deep].sum(dtype=float) else ink


def is_touched_box(frame: cv2.typing.MatLike, hole: cv2.typing.MatLike) -> bool:
    """Return whether two outlines are those of a box and of what a digit that touches it leaves.

    The hole takes most of the box. Were it a rectangle itself, they could be a square 0.
    """
    area, left = cv2.contourArea(frame), cv2.contourArea(hole)
    if left <= 0.5 * area:  # as nearly all are, of noise: rectangles take longer
        return False
    return area > 0.9 * rectangle(frame) and left < 0.9 * rectangle(hole)


def rectangle(outline: cv2.typing.MatLike) -> float:
    """Return the area of the smallest rectangle, tilted or not, around an outline."""
    return float(np.prod(cv2.minAreaRect(outline)[1]))


def remove_level_lines(ink: Ink, thin: Mask, thickest: int) -> Ink:
    """Erase the lines that run from left to right among what is thin: at most `thickest` pixels."""
    ends = find_level_lines(ink, np.ascontiguousarray(thin))
    if not ends:
        return ink
    drawn = np.zeros(ink.shape, np.uint8)
    for left, right in ends:
        cv2.line(drawn, left, right, 1, thickest)
    erased = ink.copy()
    erased[(drawn > 0) & (cv2.dilate(thin, np.ones((3, 3), np.uint8)) > 0)] = 0
    alone = cv2.connectedComponents(drawn)[0] == 2  # beside the paper
    (_, start), (_, end) = ends[0]
    slanted = abs(end - start) > 0.09 * ink.shape[1]  # more than 5 degrees
    if alone and (slanted or erased.sum(dtype=float) < LEFT * ink.sum(dtype=float)):
        return ink
    across = np.ones((2 * thickest + 1, 1), np.uint8)
    closed = np.asarray(cv2.morphologyEx(erased, cv2.MORPH_CLOSE, across), np.uint8)
    return np.where(drawn > 0, closed, erased)


def find_level_lines(ink: Ink, thin: Mask) -> list[tuple[Point, Point]]:
    """Return where lines that run from left to right through the sheet meet the picture's sides."""
    height, width = ink.shape
    tilt = np.deg2rad(12)
    lines = cv2.HoughLines(
        thin, 1, np.deg2rad(0.25), int(0.4 * width),
        min_theta=np.pi / 2 - tilt, max_theta=np.pi / 2 + tilt,
    )  # fmt: skip
    if lines is None:
        return []
    mask = cv2.dilate((ink >= INK).astype(np.uint8), np.ones((3, 1), np.uint8))
    ends = []
    x = np.arange(width)
    for rho, theta in lines.reshape(-1, 2)[:MOST_LINES]:  # x cos(theta) + y sin(theta) = rho
        y = np.rint((rho - x * np.cos(theta)) / np.sin(theta)).astype(int)
        there = (y >= 0) & (y < height)
        inked = x[there][mask[y[there], x[there]] > 0]
        if not len(inked):
            continue
        # Half of a line may be hidden by the digit, but there is ink all along it; it may end
        # where the sheet ends.
        length = inked[-1] - inked[0]
        if length > max(0.8 * there.sum(), 0.4 * width) and len(inked) > 0.93 * length:
            ends.append(((0, int(y[0])), (width - 1, int(y[-1]))))
    return ends
