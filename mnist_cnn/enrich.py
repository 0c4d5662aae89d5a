"""What MNIST's training images lack: ones with a flag, and pictures that show no single digit.

Nearly all of MNIST's ones are bare bars, as its American writers draw them, while much of the world
adds a flag at the top, and some a foot at the bottom: a network that has never seen these may call
them sevens. And a network that has only seen single digits takes two that touch for one, and is
sure of it. Both kinds are drawn once, before training starts.
"""

import math

import torch
import torch.nn.functional as F

from mnist_cnn.data import Split, to_pixels
from mnist_cnn.datasets import SIZE
from mnist_cnn.recipes import Recipe

NO_DIGIT = -1  # the label of a picture for which no answer is right
BOX = 20  # pixels: the side of the square, in the middle of its image, that a digit fits into
FLAG_ANGLE = (25.0, 70.0)  # degrees from the vertical: closer to level, it could be a seven's bar
SHARPEST = 20.0  # degrees: the smallest angle between flag and stem
FLAG_LENGTH = (0.15, 0.6)  # as a share of the stem's length
FLAG_START = (0.0, 0.08)  # how far below the stem's top, as a share of its length
FOOT_LENGTH = (0.3, 0.8)  # as a share of the stem's length
FEET = 0.33  # the share of the flagged ones that have a foot
BESIDE = (0.4, 1.0)  # the share of the other digit's width that half of the pairs show; else all
OVERLAP = (-1.0, 4.0)  # pixels by which two digits overlap; negative: a gap


def enrich(split: Split, recipe: Recipe, seed: int) -> Split:
    """Draw a flag on some of the ones, and add pictures that show no single digit.

    Args:
        split: training images of digits.
        recipe: its flags and non_digits say how many.
        seed: of the random choices.

    Returns:
        the images, with the added ones at the end; the label of these is NO_DIGIT.
    """
    chance = torch.Generator().manual_seed(seed)
    images, labels = split
    ones = (labels == 1).nonzero()[:, 0]
    ones = ones[torch.randperm(len(ones), generator=chance)[: round(recipe.flags * len(ones))]]
    count = round(recipe.non_digits * len(labels))
    if len(ones):
        images = images.clone()
        images[ones] = draw_flags(images[ones], chance)
    if count:
        whole, other = torch.randint(len(labels), (2, count), generator=chance)
        images = torch.cat([images, put_side_by_side(images[whole], images[other], chance)])
        labels = torch.cat([labels, labels.new_full((count,), NO_DIGIT)])
    return Split(images, labels)


def to_targets(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Turn labels into target probabilities for the network's answers.

    Args:
        labels: int64 (N,).
        classes: how many there are.

    Returns:
        float (N, classes): 1 for the right class and 0 for the others, or all equal where the
        label is NO_DIGIT.
    """
    sure = F.one_hot(labels.clamp(min=0), classes).float()
    return sure.masked_fill_((labels == NO_DIGIT)[:, None], 1 / classes)


def between(limits: tuple[float, float], n: int, chance: torch.Generator) -> torch.Tensor:
    """Draw n numbers between two limits: float (n,)."""
    low, high = limits
    return low + (high - low) * torch.rand(n, generator=chance)


def per_image(value: torch.Tensor) -> torch.Tensor:
    """Reshape one value for each image, (N,), to (N, 1, 1), so that it broadcasts over pixels."""
    return value[:, None, None]


def pixel_places() -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and y of every pixel, from the image's centre, in pixels: (28, 28) each."""
    place = torch.arange(SIZE) - (SIZE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    return x, y


# ------------------------------------------------------------------------------ flags


def draw_flags(ones: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Draw a flag on every one and a foot on some, about as thick as their strokes; centre by mass.

    The stem is assumed to be a straight bar along the main axis of the ink.

    Args:
        ones: uint8 (N, 28, 28).
        chance: the generator of lengths, angles and stroke widths.
    """
    n = len(ones)
    ink = to_pixels(ones)[:, 0]
    x, y = pixel_places()
    middle_x, middle_y = centre_of_mass(ink)
    dx, dy = x - per_image(middle_x), y - per_image(middle_y)
    mass = ink.sum((1, 2)).clamp(min=1)
    spread_x, spread_y, both = (
        (ink * square).sum((1, 2)) / mass for square in (dx * dx, dy * dy, dx * dy)
    )
    lean = torch.atan2(2 * both, spread_y - spread_x) / 2  # of the stem, from the vertical
    down_x, down_y = torch.sin(lean), torch.cos(lean)  # one pixel along the stem
    along = dx * per_image(down_x) + dy * per_image(down_y)
    top = along.masked_fill(ink < 0.5, SIZE).amin((1, 2))
    bottom = along.masked_fill(ink < 0.5, -SIZE).amax((1, 2))
    length = (bottom - top).clamp(min=1)
    pen = mass / length / 2 * between((0.6, 1.0), n, chance)  # half its width

    start = top + pen + length * between(FLAG_START, n, chance)
    start_x, start_y = middle_x + down_x * start, middle_y + down_y * start
    angle = torch.deg2rad(between(FLAG_ANGLE, n, chance))
    angle = (angle + lean).clamp(min=math.radians(SHARPEST))  # from the stem
    reach = length * between(FLAG_LENGTH, n, chance)
    left = reach * (down_x * torch.cos(angle) - down_y * torch.sin(angle))
    down = reach * (down_y * torch.cos(angle) + down_x * torch.sin(angle))
    flags = draw_lines(start_x, start_y, start_x + left, start_y + down, pen)

    foot_x, foot_y = middle_x + down_x * (bottom - pen), middle_y + down_y * (bottom - pen)
    half = length * between(FOOT_LENGTH, n, chance) / 2
    rise = half * between((-0.15, 0.15), n, chance)
    feet = draw_lines(foot_x - half, foot_y + rise, foot_x + half, foot_y - rise, pen)
    feet *= per_image(torch.rand(n, generator=chance) < FEET)

    drawn = torch.maximum(ink, torch.maximum(flags, feet))
    # By whole pixels, so that the centre of mass lies at pixel 13.5 to 14.5, as MNIST's does.
    right, low = ((offset - 0.5).round() for offset in centre_of_mass(drawn))
    grids = torch.stack([x + per_image(right), y + per_image(low)], -1) * (2 / SIZE)
    return to_bytes(F.grid_sample(drawn[:, None], grids, align_corners=False))


def centre_of_mass(ink: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and y of the ink's centre of mass, from the image's centre, in pixels: (N,) each."""
    x, y = pixel_places()
    mass = ink.sum((1, 2)).clamp(min=1)
    return (ink * x).sum((1, 2)) / mass, (ink * y).sum((1, 2)) / mass


def draw_lines(
    x1: torch.Tensor, y1: torch.Tensor, x2: torch.Tensor, y2: torch.Tensor, pen: torch.Tensor
) -> torch.Tensor:
    """Draw a straight line in each of N images.

    Args:
        x1, y1, x2, y2: its ends, from the image's centre, in pixels, (N,).
        pen: half its width, in pixels, (N,).

    Returns:
        ink, float (N, 28, 28) in [0, 1].
    """
    x, y = pixel_places()
    x1, y1, x2, y2, pen = map(per_image, (x1, y1, x2, y2, pen))
    across, down = x2 - x1, y2 - y1
    # The nearest point of the line: this share of the way from one end to the other.
    share = ((x - x1) * across + (y - y1) * down) / (across**2 + down**2).clamp(min=1e-6)
    share = share.clamp(0, 1)
    away = torch.hypot(x - x1 - share * across, y - y1 - share * down)
    return (pen + 0.5 - away).clamp(0, 1)


def to_bytes(pixels: torch.Tensor) -> torch.Tensor:
    """Turn float (N, 1, 28, 28) in [0, 1] into uint8 (N, 28, 28)."""
    return (255 * pixels[:, 0]).round().byte()


# ------------------------------------------------------------------------------ no digits


def put_side_by_side(
    whole: torch.Tensor, other: torch.Tensor, chance: torch.Generator
) -> torch.Tensor:
    """Put a digit and all or part of another one side by side, as if they were one.

    They touch, overlap or nearly touch, and are scaled so that both fit where one digit would be.

    Args:
        whole, other: uint8 (N, 28, 28); either may come first.
        chance: the generator of their order, their overlap, and how much of the other is seen.

    Returns:
        uint8 (N, 28, 28).
    """
    n = len(whole)
    x, y = pixel_places()
    left, right = map(per_image, ends(whole))
    other_left, other_right = map(per_image, ends(other))
    width, other_width = right - left, other_right - other_left
    partly = torch.rand(n, generator=chance) < 0.5
    seen = per_image(torch.where(partly, between(BESIDE, n, chance), torch.ones(n)))
    overlap = per_image(between(OVERLAP, n, chance))
    overlap = torch.minimum(overlap, torch.minimum(width, other_width) / 2)
    total = width + seen * other_width - overlap
    scale = (BOX / total).clamp(max=1)
    # How far each pixel is from the outer side of the whole digit, in pixels of the old images.
    # Where the other digit comes first, that is the right side.
    comes_first = per_image(torch.rand(n, generator=chance) < 0.5)
    from_side = total / 2 + torch.where(comes_first, -x, x) / scale
    into_other = from_side - (width - overlap)
    columns = torch.where(comes_first, right - from_side, left + from_side)
    other_columns = torch.where(comes_first, other_right - into_other, other_left + into_other)
    rows = y / scale
    lower = per_image(between((-2.0, 2.0), n, chance))

    def look(images: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        grids = torch.stack([columns, rows.expand_as(columns)], -1) * (2 / SIZE)
        return F.grid_sample(to_pixels(images), grids, align_corners=False)

    there = (from_side >= -1) & (from_side <= width + 1)
    other_there = (into_other >= -1) & (into_other <= seen * other_width)
    pair = torch.maximum(
        look(whole, columns, rows) * there[:, None],
        look(other, other_columns, rows + lower) * other_there[:, None],
    )
    # Scaling has thinned the strokes; the preparation of pictures gives all about the same width.
    thicker = F.max_pool2d(pair, 3, stride=1, padding=1)
    amount = ((1 - scale) * 2 * per_image(torch.rand(n, generator=chance))).clamp(0, 1)
    return to_bytes(torch.lerp(pair, thicker, amount[:, None]))


def ends(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each image's ink begins and ends in x, from the centre, in pixels: (N,) each."""
    columns = (images > 100).any(1).float()
    first = columns.argmax(1)
    behind = SIZE - columns.flip(1).argmax(1)
    return first - SIZE / 2, behind - SIZE / 2
