"""Any picture of a handwritten digit -> the 28x28 picture that MNIST would have made of it.

A network knows only what it was trained on: MNIST's digits are bright ink on black, all of one
size, centred, free of paper and shadow. `prepare` takes a picture there in small steps, each a
function from one 2-D uint8 array to the next (`STEPS` lists them in order); `find_digits` does the
same for each digit of a picture that holds several. No network is needed for any of it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_cnn import Error

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")  # EPS would run code
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO 23008-12
# What Pillow raises over files that are damaged.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, MemoryError)
MAX_PIXELS = 80_000_000  # a 6000x8000 photograph and half as much again
WORKING_SIZE = 1024  # longest side for all that follows: a digit of 1/20 of a page keeps 50 pixels
FAINTEST = 12  # of 255: what differs less from the paper is no ink
CONTRAST = 40  # of 255: the table, or a frame, differs from the sheet by more than this
INK = 64  # of 255, after `find_ink`: from here on a pixel belongs to a stroke
BOX, FIELD = 20, 28  # LeCun et al. 1998: the digit fits 20x20, the picture is 28x28
MOST = 300  # pieces of ink that are looked at in one picture: noise has thousands
FINE = 8  # strokes are measured and mended at 8 pixels for each of MNIST's
# Stroke width of MNIST's digits in pixels: 88 % of the training set lie between these, half of it
# below 2.7. What lies between is left alone, what lies outside is moved to well inside.
THIN, THICK = 2.0, 4.4
THICKENED, THINNED = 2.5, 4.2
# What a cut between two digits costs, what it costs by the share of the height that it cuts
# through ink, and what a part costs that is broader than a digit, by its width / height.
CUT, THROUGH, WIDE, BROAD = 0.5, 1.5, 4.0, 1.2

cv2.setNumThreads(1)  # the pictures are small: threads cost more than they save

Array = NDArray[Any]  # of uint8 where nothing else is said
Read = Callable[[Array], Array]  # (N, 28, 28) uint8 -> (N, 10) probabilities


@dataclass(frozen=True)
class Prepared:
    """A picture made ready: `image` (28, 28) uint8, bright ink on black; `steps` the way there."""

    image: Array
    steps: list[tuple[str, Array]]  # (short title, 2-D uint8 array)


@dataclass(frozen=True)
class Digit:
    """One digit of several: `image` (28, 28) uint8, where it stands, and in which row."""

    image: Array
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right, bottom exclusive
    row: int


# ---- from a file to grey pixels -----------------------------------------------------------------


def read_picture(path: str | os.PathLike[str]) -> Array:
    """Read a picture file: (H, W) uint8, grey, upright, at full size.

    Raises `Error`, one line, when there is no such file or it holds no picture that can be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise Error(f"{path} is a folder: give a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about size and metadata: judged below, or no matter
            Image.init()
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                if image.width * image.height > MAX_PIXELS:  # known before anything is decoded
                    raise Image.DecompressionBombError
                return grey(image)
    except (FileNotFoundError, NotADirectoryError):
        raise Error(f"{path} does not exist: check the name") from None
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 1_000_000
        raise Error(f"{path} has more than {limit} million pixels: make it smaller") from None
    except PermissionError:
        raise Error(f"{path} may not be read: check its permissions") from None
    except DAMAGED as problem:
        raise Error(_unreadable(path, problem)) from None


def _unreadable(path: Path, problem: Exception) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return f"{path} cannot be read ({problem}): check the file"
    if not head:
        return f"{path} is empty"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        return f"{path} is a HEIC photo, which cannot be read: save or export it as JPEG"
    if isinstance(problem, UnidentifiedImageError):
        return f"{path} is not a picture in a known format: save it as PNG or JPEG"
    return f"{path} is damaged or cut off ({problem}): save it again"


def grey(image: Image.Image) -> Array:
    """A Pillow image of any mode -> (H, W) uint8, turned upright by its EXIF orientation.

    Colour becomes grey so that coloured ink stays visible: of luminance, red, green and blue the
    one in which the picture shows most contrast (yellow on white shows in blue alone).
    """
    with contextlib.suppress(struct.error):  # metadata that are damaged turn nothing
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # The file does not say how many bits are used: what exceeds 8 is scaled by its brightest.
        values = np.nan_to_num(np.asarray(image, np.float32))
        scale = 255 / max(255.0, float(values.max()))
        return np.asarray(np.clip(values * scale, 0, 255), np.uint8)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = _on_paper(image.convert("RGBA"))
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    image = image.convert("RGB")
    contrasts = [_contrast(plane) for plane in _planes(_thumbnail(image))]
    contrasts[0] *= 1.25  # luminance has the least noise: leave it only for a clear gain
    return np.array(_planes(image)[int(np.argmax(contrasts))])


def _on_paper(image: Image.Image) -> Image.Image:
    """A transparent picture on white paper; on black if its ink could not be seen on white."""

    def on(paper: str, image: Image.Image) -> Image.Image:
        sheet = Image.new("RGB", image.size, paper)
        sheet.paste(image, mask=image.getchannel("A"))
        return sheet

    small = _thumbnail(image)
    white, black = (max(map(_contrast, _planes(on(p, small)))) for p in ("white", "black"))
    return on("white" if 4 * white >= black else "black", image)


def _planes(image: Image.Image) -> list[Image.Image]:
    return [image.convert("L"), *image.split()]


def _thumbnail(image: Image.Image) -> Image.Image:
    return image.reduce(max(1, max(image.size) // 256))


def _contrast(plane: Image.Image) -> float:
    return float(_detail(np.asarray(plane)).std())


def _detail(grey: Array) -> Array:
    """How far each pixel lies above the mean of its wider surroundings: light without shadow."""
    window = max(3, min(grey.shape) // 2)
    values = grey.astype(np.float32)
    return values - cv2.blur(values, (window, window))


# ---- from grey pixels to ink --------------------------------------------------------------------


def clear_surroundings(grey: Array) -> Array:
    """Fill what lies around the sheet (a table, a frame, a margin) with the sheet's own edge.

    The sheet is a rectangle, tilted or not, of which the digit is a hole: the smallest light or
    dark region of that kind which has at least three edges inside the picture. Where a shadow
    splits the sheet in two, the darker or the lighter half of the picture alone shows it whole.
    """
    height, width = grey.shape
    middle = _otsu(grey)
    levels = {middle, _otsu(grey[grey <= middle]), _otsu(grey[grey > middle])}
    light = [np.where(grey > level, 255, 0).astype(np.uint8) for level in sorted(levels)]
    best, sheet = height * width, None
    for region in (*light, *(255 - region for region in light)):
        outlines, tree = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for i, outline in enumerate(outlines):
            if tree[0, i, 3] >= 0:  # a hole, not the outer edge of a region
                continue
            area = cv2.contourArea(outline)
            if not 0.2 * height * width < area < best:
                continue
            x, y, w, h = cv2.boundingRect(outline)
            touched = (x == 0) + (y == 0) + (x + w == width) + (y + h == height)
            (_, (long, short), _) = cv2.minAreaRect(outline)
            holes = [o for o, t in zip(outlines, tree[0]) if t[3] == i]
            tallest = max((max(cv2.boundingRect(hole)[2:]) for hole in holes), default=0)
            ink = sum(map(cv2.contourArea, holes))
            if touched > 1 or area < 0.95 * long * short:
                continue
            if tallest > 0.2 * min(w, h) and ink < 0.5 * area and _stands_out(outline, grey):
                best, sheet = area, outline
    if sheet is None:
        return grey
    inside = np.zeros_like(grey)
    cv2.drawContours(inside, [sheet], -1, 255, cv2.FILLED)
    rim = max(height, width) // 100 + 1  # the edge itself is blurred
    inside = cv2.erode(inside, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
    if not inside.any():
        return grey
    _, nearest = cv2.distanceTransformWithLabels(
        255 - inside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    edge = np.zeros(nearest.max() + 1, np.uint8)
    edge[nearest[inside > 0]] = cv2.medianBlur(grey, 5)[inside > 0]
    return np.where(inside > 0, grey, edge[nearest])


def _stands_out(outline: Array, grey: Array) -> bool:
    """Whether what is inside an outline differs clearly from what lies along it outside."""
    inside = cv2.drawContours(np.zeros_like(grey), [outline], -1, 255, cv2.FILLED)
    along = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > inside
    return bool(abs(np.median(grey[inside > 0]) - np.median(grey[along])) > CONTRAST)


def _otsu(values: Array) -> int:
    """The grey that best parts the light values from the dark ones (Otsu, 1979)."""
    if not values.size:
        return 0
    return int(cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_OTSU)[0])


def dark_on_light(grey: Array) -> Array:
    """Invert a picture of light ink on dark ground.

    Ink is what is rarer, so the picture's detail is skewed towards it; and paper is what reaches
    the edges of the picture. Both are judged against the surroundings: shadows don't count.
    """
    detail = _detail(grey)
    spread = float(detail.std()) + 1e-6
    skewness = float((detail * detail * detail).mean()) / spread**3  # numpy is slow at **3
    levels = np.clip(detail / 2 + 128, 0, 255).astype(np.uint8)
    light = cv2.threshold(levels, 0, 1, cv2.THRESH_OTSU)[1]
    edges = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]).mean() - 0.5
    return grey if edges > skewness else 255 - grey


def even_light(grey: Array) -> Array:
    """Divide dark ink on light paper by the paper's own brightness, so that all paper is white.

    The paper under the ink is what a morphological closing leaves: any dark shape into which a
    square of a third of the picture does not fit is filled from its surroundings, and the edges of
    larger ones, such as shadows, stay where they are.
    """
    side = max(3, min(grey.shape) // 3) | 1  # odd, or the closing would shift edges
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, np.ones((side, side), np.uint8))
    return cv2.divide(grey, paper, scale=255)


def find_ink(grey: Array) -> Array:
    """Dark on light -> 0 for paper, 255 for full ink, in between for edges and faint strokes.

    Otsu's threshold (1979) is taken among the pixels that are not blank paper, however few they
    are; full ink is the upper quartile of what lies above it. Raises `Error` if all is blank.
    """
    depth = 255 - grey.astype(np.float32)
    # At least a third of the picture is paper: its noise is seen on the side that has no ink.
    lowest, low = np.percentile(depth, (2, 16))
    noise = float(low - lowest)  # one deviation of a normal distribution
    depth -= low + noise
    marks = depth[depth > max(FAINTEST, 5 * noise)]
    if marks.size == 0:
        raise Error("no ink was found: the picture is all of one colour")
    threshold, _ = cv2.threshold(marks.astype(np.uint8).reshape(1, -1), 0, 255, cv2.THRESH_OTSU)
    full = float(np.percentile(marks[marks >= threshold], 75))
    depth[depth < 3 * noise] = 0
    return np.asarray(np.clip(depth * (255 / full), 0, 255), np.uint8)


# ---- from ink to the digit ----------------------------------------------------------------------


def remove_lines(ink: Array) -> Array:
    """Erase the lines of ruled or squared paper: thin, straight, from edge to edge of the sheet.

    Found by the Hough transform, for lines tilted by up to 5 degrees, among what is thinner than a
    eightieth of the picture; strokes that cross a line are closed again.
    """
    thickest = max(ink.shape) // 80
    if thickest < 3:
        return ink  # so coarse a picture has no lines thinner than a stroke
    mask = (ink >= INK).astype(np.uint8)
    square = np.ones((thickest, thickest), np.uint8)
    thin = mask - cv2.morphologyEx(mask, cv2.MORPH_OPEN, square)
    ink = _rows_removed(ink, thin, thickest)
    return np.transpose(_rows_removed(ink.T, thin.T, thickest))


def _rows_removed(ink: Array, thin: Array, thickest: int) -> Array:
    height, width = ink.shape
    tilt = np.deg2rad(5)
    lines = cv2.HoughLines(
        np.ascontiguousarray(thin), 1, np.deg2rad(0.25), int(0.4 * width),
        min_theta=np.pi / 2 - tilt, max_theta=np.pi / 2 + tilt,
    )  # fmt: skip
    if lines is None:
        return ink
    mask = cv2.dilate((ink >= INK).astype(np.uint8), np.ones((3, 1), np.uint8))
    drawn = np.zeros((height, width), np.uint8)
    x = np.arange(width)
    for rho, theta in lines.reshape(-1, 2):  # x cos(theta) + y sin(theta) = rho
        y = np.rint((rho - x * np.cos(theta)) / np.sin(theta)).astype(int)
        there = (y >= 0) & (y < height)
        inked = x[there][mask[y[there], x[there]] > 0]
        if not len(inked):
            continue
        # Half of a line may be hidden by the digit, but there is ink all along it; it may end
        # where the sheet ends.
        first, last = inked[0], inked[-1]
        if last - first > 0.8 * width and len(inked) > 0.93 * (last - first):
            cv2.line(drawn, (0, int(y[0])), (width - 1, int(y[-1])), 1, thickest)
    erased = ink.copy()
    erased[(drawn > 0) & (cv2.dilate(thin, np.ones((3, 3), np.uint8)) > 0)] = 0
    across = np.ones((2 * thickest + 1, 1), np.uint8)
    return np.where(drawn > 0, cv2.morphologyEx(erased, cv2.MORPH_CLOSE, across), erased)


def keep_digit(ink: Array) -> Array:
    """Keep the digit, all its pieces, and drop specks, edges of the picture and frames.

    Raises `Error` if nothing is left.
    """
    labels, boxes, mass = _pieces(ink)
    main = int(np.argmax(mass))
    pieces = mass[labels] >= 0.02 * mass[main]
    # Strokes of one digit may be apart, as the bar of a 5 is: by up to a fifth of its size.
    reach = int(0.1 * max(boxes[main][2:]))
    near = cv2.dilate(pieces.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    joined = cv2.connectedComponents(near)[1]
    digit = pieces & (joined == joined[labels == main][0])
    return _only(ink, digit)


def _pieces(ink: Array) -> tuple[Array, Array, Array]:
    """Connected strokes: labels (H, W), boxes (N, 4) as x, y, w, h and their ink (N,).

    What hugs the picture's edges counts less, the more so the more of its box's rim lies there.
    Label 0 is the paper, its ink counts 0.
    """
    mask = (ink >= INK).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    strong = np.bincount(labels[ink >= 2 * INK], minlength=count)
    mass = np.bincount(labels.ravel(), ink.ravel(), count) * (strong > 0)
    mass[0] = 0
    if not mass.any():
        raise Error("no ink was found in the picture")
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    rim = 2 * (stats[:, 2] + stats[:, 3])
    hugging = np.minimum(1, np.bincount(edge, minlength=count) / rim)
    return labels, stats[:, :4], mass * (1 - hugging) ** 4


def _only(ink: Array, digit: Array) -> Array:
    """The ink of the strokes marked, with the soft rim around them."""
    rim = max(3, min(ink.shape) // 100 | 1)
    kept = ink * cv2.dilate(digit.astype(np.uint8), np.ones((rim, rim), np.uint8))
    full = float(np.percentile(ink[digit], 75))
    return cv2.convertScaleAbs(kept, alpha=255 / full)


def mend_strokes(ink: Array) -> Array:
    """Thicken thin strokes and thin thick ones to the widths MNIST has; leave others alone."""
    ink = _cropped(ink)
    side = BOX * FINE
    fine = _scaled(ink, side / max(ink.shape))
    width = stroke_width(fine)
    if THIN * FINE <= width <= THICK * FINE:
        return ink
    wanted = FINE * (THICKENED if width < THIN * FINE else THINNED)
    # Growing by g on a side of s, then shrinking back to s: (width + g) s / (s + g) = wanted.
    grow = (wanted - width) / (1 - wanted / side)
    radius = round(abs(grow) / 2)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return (cv2.dilate if grow > 0 else cv2.erode)(np.pad(fine, radius + 1), disc)


def stroke_width(ink: Array) -> float:
    """Mean width of strokes in pixels: in a bar of width w the mean distance to paper is w/4."""
    mask = np.pad((ink > ink.max() // 2).astype(np.uint8), 1)
    return 4 * float(cv2.distanceTransform(mask, cv2.DIST_L2, 5)[mask > 0].mean())


def fit_box(ink: Array) -> Array:
    """Scale the ink's bounding box to fit 20x20 as it is, smoothly, in the middle of 28x28.

    LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.A.
    """
    ink = _cropped(ink)
    small = _scaled(ink, BOX / max(ink.shape))
    height, width = small.shape
    top, left = (FIELD - height) // 2, (FIELD - width) // 2
    field = np.zeros((FIELD, FIELD), np.uint8)
    field[top : top + height, left : left + width] = small
    return field


def centre_mass(field: Array) -> Array:
    """Shift the 28x28 picture by whole pixels: centre of mass in the middle (LeCun et al. 1998)."""
    moments = cv2.moments(field)
    x, y, w, h = cv2.boundingRect(field)
    right = round(FIELD / 2 - moments["m10"] / moments["m00"])
    down = round(FIELD / 2 - moments["m01"] / moments["m00"])
    right = min(max(right, -x), FIELD - x - w)  # no ink is pushed out
    down = min(max(down, -y), FIELD - y - h)
    return np.roll(field, (down, right), (0, 1))


def _cropped(ink: Array) -> Array:
    x, y, w, h = cv2.boundingRect(ink)
    return ink[y : y + h, x : x + w]


def _scaled(picture: Array, scale: float) -> Array:
    if scale == 1:
        return picture
    size = [max(1, round(side * scale)) for side in picture.shape[::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


# ---- the whole way ------------------------------------------------------------------------------

STEPS: dict[str, tuple[str, Callable[[Array], Array]]] = {
    "sheet": ("sheet", clear_surroundings),
    "polarity": ("dark on light", dark_on_light),
    "light": ("light evened", even_light),
    "ink": ("ink", find_ink),
    "lines": ("lines removed", remove_lines),
    "specks": ("cleaned", keep_digit),
    "strokes": ("stroke width", mend_strokes),
    "box": ("fitted", fit_box),
    "mass": ("centred", centre_mass),
}


def prepare(grey: Array, skip: Collection[str] = ()) -> Prepared:
    """Make a picture of one digit, (H, W) uint8, what MNIST would have made of it.

    Steps named in `skip` are left out, all but "ink" and "box", to see what each is worth.
    Raises `Error` if the picture shows no ink.
    """
    picture = _scaled(grey, min(1, WORKING_SIZE / max(grey.shape)))
    steps = [("picture", picture)]
    for name, (title, step) in STEPS.items():
        if name not in skip:
            picture = step(picture)
            steps.append((title, picture))
    return Prepared(picture, steps)


# ---- several digits -----------------------------------------------------------------------------


def find_digits(grey: Array, read: Read | None = None) -> list[Digit]:
    """Find the digits of a picture, (H, W) uint8, in reading order, rows from top to bottom.

    Digits that touch are cut apart. `read` gives ten probabilities for each of (N, 28, 28) images
    and then decides where; without it, only what is wider than a digit is cut, where ink is least.
    Raises `Error` if the picture shows no ink.
    """
    scale = min(1, WORKING_SIZE / max(grey.shape))
    ink = _scaled(grey, scale)
    for name in ("sheet", "polarity", "light", "ink", "lines"):
        ink = STEPS[name][1](ink)
    groups = _groups(ink)
    height = float(np.median([_cropped(group.ink).shape[0] for group in groups]))
    digits = [part for group in groups for part in cut_apart(group, height, read)]
    found = []
    for row, members in enumerate(_rows([part.box for part in digits])):
        for i in members:
            left, top, right, bottom = digits[i].box
            height, width = grey.shape
            box = (
                int(left / scale), int(top / scale),
                min(width, int(np.ceil(right / scale))), min(height, int(np.ceil(bottom / scale))),
            )  # fmt: skip
            found.append(Digit(_as_mnist(digits[i].ink), box, row))
    return found


class _Part(NamedTuple):
    """The ink of one or more digits, cut out of the picture at (left, top)."""

    ink: Array
    left: int
    top: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        x, y, w, h = cv2.boundingRect((self.ink >= INK).astype(np.uint8))
        return self.left + x, self.top + y, self.left + x + w, self.top + y + h


def _as_mnist(ink: Array) -> Array:
    return centre_mass(fit_box(mend_strokes(ink)))


def _groups(ink: Array) -> list[_Part]:
    """Pieces of ink that belong together: a digit, or digits that touch."""
    labels, boxes, mass = _pieces(ink)
    sides = boxes[:, 2:].max(1)
    order = np.argsort(sides)
    share = np.cumsum(mass[order]) / mass.sum()
    size = float(sides[order[np.searchsorted(share, 0.5)]])  # half of the ink is in larger pieces
    groups: list[list[int]] = []
    large = np.nonzero((mass > 0.03 * mass.max()) & (sides > 0.15 * size))[0]
    for i in large[np.argsort(-mass[large])][:MOST]:
        group = [int(i)]
        for other in groups[:]:  # joins all that it belongs to, so that they become one
            if _belong(_hull(boxes, group), _hull(boxes, other), size):
                groups.remove(other)
                group += other
        groups.append(group)
    parts = []
    for group in groups:
        left, top, right, bottom = _hull(boxes, group)
        if max(right - left, bottom - top) < 0.35 * size:
            continue  # a speck that belongs to nothing
        rim = 3
        top, left = max(0, top - rim), max(0, left - rim)
        window = np.s_[top : bottom + rim, left : right + rim]
        parts.append(_Part(_only(ink[window], np.isin(labels[window], group)), left, top))
    return parts


def _hull(boxes: Array, group: list[int]) -> tuple[int, int, int, int]:
    x, y, w, h = boxes[group].T
    return int(x.min()), int(y.min()), int((x + w).max()), int((y + h).max())


def _belong(a: tuple[int, int, int, int], b: tuple[int, int, int, int], size: float) -> bool:
    """Whether two boxes are pieces of one digit: one above the other, or a bit close to it."""
    across = min(a[2], b[2]) - max(a[0], b[0])  # negative: a gap
    down = min(a[3], b[3]) - max(a[1], b[1])
    narrower = min(a[2] - a[0], b[2] - b[0])
    height = max(a[3], b[3]) - min(a[1], b[1])
    smaller = min(max(a[2] - a[0], a[3] - a[1]), max(b[2] - b[0], b[3] - b[1]))
    above = across >= 0.5 * narrower and down > -0.25 * size and height < 1.7 * size
    return above or (smaller < 0.5 * size and min(across, down) > -0.12 * size)


def _rows(boxes: list[tuple[int, int, int, int]]) -> list[list[int]]:
    """Boxes in reading order: from left to right, each joins the row that it overlaps most."""
    rows: list[list[int]] = []
    for i in sorted(range(len(boxes)), key=lambda i: boxes[i][0]):
        top, bottom = boxes[i][1], boxes[i][3]
        overlaps = []
        for row in rows:
            other = boxes[row[-1]]
            shared = min(bottom, other[3]) - max(top, other[1])
            overlaps.append(shared / min(bottom - top, other[3] - other[1]))
        if overlaps and max(overlaps) > 0.4:
            rows[int(np.argmax(overlaps))].append(i)
        else:
            rows.append([i])
    return sorted(rows, key=lambda row: np.mean([boxes[i][1] for i in row]))


def cut_apart(part: _Part, usual: float, read: Read | None = None) -> list[_Part]:
    """Cut digits that touch: over-segmented, then the likeliest path through the pieces.

    Every span between two possible cuts is read; a path costs -log of the highest probability of
    each of its spans, more if a span is wider than a digit is, and one for each cut (LeCun et al.
    1998, section V, heuristic over-segmentation).
    """
    height, width = _cropped(part.ink).shape
    height = max(height, round(usual))  # a low digit may be as broad as two
    if not (0.6 if read else 1.25) * height < width < 8 * height:
        return [part]
    columns = (part.ink >= INK).sum(0)
    cuts = _possible_cuts(columns, height)
    spans = {}
    for a in range(len(cuts)):
        for b in range(a + 1, len(cuts)):
            ink = part.ink[:, cuts[a] : cuts[b]]
            stats = cv2.connectedComponentsWithStats((ink >= INK).astype(np.uint8))[2]
            if stats[1:, cv2.CC_STAT_HEIGHT].max(initial=0) > 0.4 * height:
                spans[a, b] = _Part(ink, part.left + cuts[a], part.top)
    if not spans:
        return [part]
    images = [_as_mnist(span.ink) for span in spans.values()]
    if read:
        sure = read(np.stack(images)).max(1)
    else:
        widths = np.array([_cropped(span.ink).shape[1] for span in spans.values()])
        sure = np.exp(-(np.log(widths / height / 0.7) ** 2))  # the usual proportions
    best: list[tuple[float, list[_Part]]] = [(np.inf, []) for _ in cuts]
    best[0] = (0.0, [])
    for (a, b), probability in sorted(zip(spans, sure), key=lambda item: item[0][1]):
        span = spans[a, b]
        w = _cropped(span.ink).shape[1]
        cost = -np.log(probability) + WIDE * max(0.0, w / height - BROAD)
        if a > 0:
            cost += CUT + THROUGH * columns[cuts[a]] / height
        if best[a][0] + cost < best[b][0]:
            best[b] = (best[a][0] + cost, [*best[a][1], span])
    return best[-1][1] or [part]


def _possible_cuts(columns: Array, height: int, most: int = 10) -> list[int]:
    """Both ends and the columns, a tenth of the height apart, that hold least ink."""
    filled = np.nonzero(columns)[0]
    start, end = int(filled[0]), int(filled[-1]) + 1
    apart = max(1, height // 10)
    inner: list[int] = []
    for x in start + apart + np.argsort(columns[start + apart : end - apart], kind="stable"):
        if len(inner) < most and all(abs(x - other) >= apart for other in inner):
            inner.append(int(x))
    return [start, *sorted(inner), end]
