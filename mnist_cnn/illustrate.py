"""Pictures that explain: what is in a digit, inside the network, in its loss and its answers.

`show-features` draws one of them, the tutorial all. The functions take arrays, as those of
visualize.py do, and have its style.

An image is (28, 28), uint8 from 0 to 255 or float from 0 to 1; ink is drawn dark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_cnn.visualize import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    YELLOW,
    Floats,
    Image,
    clear_frame,
    new_figure,
    put_legend_above,
    show_answer,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

# ------------------------------------------------------------------------------ digits


@style()
def draw_digits(
    images: Sequence[Image] | Image, labels: Sequence[str], columns: int = 10
) -> "Figure":
    """Draw a grid of images, each with a label above it.

    Args:
        images: N of (28, 28), or (N, 28, 28).
        labels: of each image, (N,).
        columns: how many images a row has, at most.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell = 0.9 if max(len(label) for label in labels) < 8 else 1.3  # inches
    figure = new_figure(max(cell * columns + 0.3, 3.2), (cell + 0.22) * rows + 0.15)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, label in zip(grid.flat, images, labels):
        show_image(axes, image)
        axes.set_title(label, fontsize=10, parse_math=False)
    return figure


@style()
def draw_augmentations(image: Image, kinds: Mapping[str, Image]) -> "Figure":
    """Draw a digit as each kind of augmentation varies it: a row for each, the original first.

    Args:
        image: the digit as it is in the data set.
        kinds: by the name of the kind of augmentation, the varied images: (N, 28, 28) each.
    """
    columns = 1 + len(next(iter(kinds.values())))
    height, width = image.shape
    sheet = [scale_to_one(one) for images in kinds.values() for one in (image, *images)]
    figure = new_figure(10, 9 / columns * len(kinds) * height / width + 0.5)
    axes = figure.subplots()
    axes.imshow(tile(sheet, columns), cmap="gray_r", vmin=0, vmax=1)
    firsts = range(0, len(sheet), columns)
    frame_tiles(axes, image.shape, columns, firsts, ORANGE)
    axes.set_xticks([])
    middles = [row * (height + 1) + (height - 1) / 2 for row in range(len(kinds))]
    axes.set_yticks(middles, list(kinds), fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("the image in the data set, and random variations of it", loc="left")
    return figure


def show_image(axes: "Axes", image: Image) -> None:
    """Show an image with ink dark, without ticks, in a thin frame."""
    axes.imshow(scale_to_one(image), cmap="gray_r", vmin=0, vmax=1)
    hide_ticks(axes)


def hide_ticks(axes: "Axes") -> None:
    """Leave of an image's axes a thin frame, without ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(PALE)


def scale_to_one(image: Image) -> Floats:
    """Return an image with pixels in [0, 1]: uint8 ones are divided by 255."""
    scaled: Floats = image / 255 if image.dtype == np.uint8 else image
    return scaled


def tile(images: Sequence[Floats] | Floats, columns: int) -> Floats:
    """Put images (N, H, W) side by side in rows, a white line (NaN) between them."""
    height, width = images[0].shape
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


def frame_tiles(
    axes: "Axes", shape: tuple[int, ...], columns: int, numbers: Sequence[int], color: str
) -> None:
    """Draw a frame around some of the images (H, W) that tile has put into rows."""
    height, width = shape
    for number in numbers:
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        frame(axes, top, left, height, width, color, 1.5 if color == ORANGE else 0.5)


def frame(
    axes: "Axes", top: int, left: int, height: int, width: int, color: str, thickness: float
) -> None:
    """Draw a frame around some pixels of an image."""
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), width, height,
            fill=False, edgecolor=color, linewidth=thickness, clip_on=False,
        )
    )  # fmt: skip


# ------------------------------------------------------------------------------ inside the network


@style()
def draw_features(
    image: Image,
    filters: Floats,
    patch: tuple[int, int, int],
    pixels: Floats,
    bias: float,
    response: float,
    maps: Sequence[Floats],
    probabilities: Floats,
    occlusion: Floats,
    square: int,
    classes: Sequence[str],
    title: str,
    window: bool = False,
) -> "Figure":
    """Draw one image's way through the network, and where the decision comes from.

    Args:
        image: (28, 28).
        filters: of the first convolution, (F, K, K).
        patch: the number of the filter whose sum is worked out, and the row and column of the
            patch's upper left pixel.
        pixels: of the patch, normalised, (K, K).
        bias: of the filter.
        response: the filter's to the patch: the sum of the products, plus the bias.
        maps: the feature maps after each convolution, pooling and ReLU, (C, H, W) in [0, inf).
        probabilities: (classes,), their sum is 1.
        occlusion: the probability of the likeliest class with a grey square over each pixel
            of the image, (28, 28).
        square: the side of that square, in pixels.
        classes: the name of each class.
        title: of the whole figure.
        window: whether show() will open it; then it fits on the screen of a laptop.
    """
    number, top, left = patch
    side = len(pixels)
    width = 10.0
    counts = [len(some) for some in maps]  # a map is an inch wide and high, at most
    map_heights = [map_rows(count) * min(1.0, width / map_columns(count)) for count in counts]
    heights = [height + 0.3 for height in (2.3, 2.6, *map_heights, 3)]  # with a title each
    figure = new_figure(width, sum(heights) + 0.4, window)
    if window:
        figure.set_dpi(min(figure.dpi, 850 / sum(heights)))  # to fit on the screen of a laptop
    figure.suptitle(title, parse_math=False)
    first, second, *middle, last = figure.subfigures(
        len(heights), 1, height_ratios=heights, squeeze=False
    ).flat

    seen, learned = first.subplots(1, 2, width_ratios=(2.3, 7.1))
    show_image(seen, image)
    frame(seen, top, left, side, side, ORANGE, 2)
    seen.set_title("1  the image, and a patch of it")
    columns = fill_columns(len(filters), 7.1, 2.3)
    show_filters(learned, filters, columns)
    frame_tiles(learned, filters.shape[1:], columns, [number], ORANGE)
    learned.set_title(f"2  the {len(filters)} filters of the first convolution")

    add_patch(second, pixels, filters[number], bias, response)
    second.suptitle(
        f"3  the framed filter (number {number}, counted from 0) applied to the patch", fontsize=11
    )
    for step, (part, some) in enumerate(zip(middle, maps)):
        axes = part.subplots()
        shown = map_columns(len(some))
        axes.imshow(tile(some, shown), cmap="gray_r", vmin=0, vmax=float(some.max()))
        frame_tiles(axes, some.shape[1:], shown, range(len(some)), PALE)
        if step == 0:
            frame_tiles(axes, some.shape[1:], shown, [number], ORANGE)
        axes.set_axis_off()
        axes.set_title(
            f"{step + 4}  the {len(some)} feature maps after convolution {step + 1}, pooling and "
            f"ReLU: {some.shape[1]} x {some.shape[2]}"
        )

    bars, place = last.subplots(1, 2, width_ratios=(5, 4.4))
    show_probabilities(bars, probabilities, classes)
    answer = int(probabilities.argmax())
    bars.set_title(
        f"{len(maps) + 4}  the answer: {classes[answer]}, {probabilities[answer]:.1%}",
        parse_math=False,
    )
    show_occlusion(place, image, occlusion)
    place.set_title(
        f"{len(maps) + 5}  probability of the answer with a\n"
        f"{square} x {square} grey square over each pixel"
    )
    return figure


def map_rows(count: int) -> int:
    """Return how many rows to put feature maps into, at most 16 in each."""
    return math.ceil(count / 16)


def map_columns(count: int) -> int:
    """Return how many feature maps to put in a row."""
    return math.ceil(count / map_rows(count))


def fill_columns(count: int, width: float, height: float) -> int:
    """Return the number of columns in which square images fill a space best."""
    return max(
        range(1, count + 1),
        key=lambda columns: min(width / columns, height / math.ceil(count / columns)),
    )


def show_filters(axes: "Axes", filters: Floats, columns: int) -> None:
    """Show filters (F, K, K) in rows, all on the same colour scale, with its key."""
    most = float(np.abs(filters).max()) or 1.0
    shown = axes.imshow(tile(filters, columns), cmap=signed_colours(), vmin=-most, vmax=most)
    frame_tiles(axes, filters.shape[1:], columns, range(len(filters)), PALE)
    axes.set_axis_off()
    add_key(axes, shown)


def add_key(axes: "Axes", shown: "AxesImage", label: str = "") -> None:
    """Add the key to an image's colours, as high as the image."""
    assert axes.figure is not None
    height, width = shown.get_size()
    bounds = (1 + 0.03 * height / width, 0, 0.06 * height / width, 1)
    axes.figure.colorbar(shown, cax=axes.inset_axes(bounds), label=label)


def signed_colours() -> "Colormap":
    """Return colours for numbers on either side of 0: blue below, white at 0, orange above.

    Blue is the darker one, so that the two differ in grey print, too.
    """
    from matplotlib.colors import LinearSegmentedColormap

    # White is in the middle, whatever the colours on its two sides.
    places = [(0, "#00466e"), (0.25, "#5fa8d3"), (0.5, "white"), (1, YELLOW)]
    return LinearSegmentedColormap.from_list("signed", places)


def add_patch(
    figure: "Figure | SubFigure", pixels: Floats, weights: Floats, bias: float, response: float
) -> None:
    """Draw a patch, a filter, their products and the sum into a figure or a part of it."""
    products = pixels * weights
    cells = figure.subplots(1, 3)
    grey = {"cmap": "gray_r", "vmin": min(float(pixels.min()), 0.0)}
    show_numbers(cells[0], pixels, vmax=max(float(pixels.max()), 1.0), **grey)
    for axes, numbers in zip(cells[1:], (weights, products)):
        most = float(np.abs(numbers).max()) or 1.0
        show_numbers(axes, numbers, cmap=signed_colours(), vmin=-most, vmax=most)
    for axes, name in zip(cells, ("patch (normalised pixels)", "times filter", "= products")):
        axes.set_title(name, fontsize=10)
    total = float(products.sum())
    # As few decimals as make the rounded figures add up, too.
    digits = next(
        (n for n in (2, 3, 4) if round(round(total, n) + round(bias, n) - response, n) == 0), 5
    )
    sign = "\u2212" if bias < 0 else "+"
    figure.supxlabel(
        f"the {products.size} products add up to {signed(total, digits)}; with the filter's bias: "
        f"{signed(total, digits)} {sign} {abs(bias):.{digits}f} = {signed(response, digits)}",
        fontsize=11,
    )


def show_numbers(axes: "Axes", numbers: Floats, **scale: Any) -> None:
    """Show numbers (H, W) as colours and as figures."""
    shown = axes.imshow(numbers, **scale)
    hide_ticks(axes)
    for (row, column), number in np.ndenumerate(numbers):
        red, green, blue, _ = shown.to_rgba(np.array([number]))[0]
        light = 0.3 * red + 0.59 * green + 0.11 * blue
        axes.text(
            column, row, signed(float(number)), ha="center", va="center",
            fontsize=min(9, 42 / numbers.shape[1]), color="black" if light > 0.5 else "white",
        )  # fmt: skip


def signed(number: float, digits: int = 2) -> str:
    """Return a number with so many decimals and a true minus sign."""
    return f"{round(number, digits) + 0.0:.{digits}f}".replace("-", "\u2212")  # no -0.00


def show_probabilities(axes: "Axes", probabilities: Floats, classes: Sequence[str]) -> None:
    """Show the probability of each class as a bar, the likeliest in another colour."""
    answer = int(probabilities.argmax())
    colors = [BLUE if number == answer else PALE for number in range(len(classes))]
    axes.barh(range(len(classes)), probabilities, color=colors)
    axes.set_yticks(range(len(classes)), classes, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("probability")
    axes.tick_params(axis="y", length=0)
    clear_frame(axes)
    axes.grid(False, axis="y")
    axes.set_axisbelow(True)


def show_occlusion(axes: "Axes", image: Image, occlusion: Floats) -> None:
    """Show the probability with a square over each pixel, and the ink's outline."""
    shown = axes.imshow(occlusion, cmap="gray", vmin=0, vmax=1)
    axes.contour(scale_to_one(image), [0.5], colors=ORANGE, linewidths=1.5)
    hide_ticks(axes)
    add_key(axes, shown, "probability")


@style()
def draw_dropout(image: Image, without: Floats, passes: Floats, classes: Sequence[str]) -> "Figure":
    """Draw a network's answers for one image while dropout is on: bars for each pass.

    Args:
        image: (28, 28).
        without: the probabilities without dropout, (classes,).
        passes: the probabilities of each pass with dropout, (N, classes).
    """
    columns = 5
    rows = max(2, math.ceil(len(passes) / columns))
    figure = new_figure(10, 1.25 * rows + 0.5)
    left, right = figure.subfigures(1, 2, width_ratios=(2, 8), squeeze=False).flat
    seen, sure = left.subplots(2, 1)
    show_image(seen, image)
    show_answer(sure, without, classes)
    sure.set_title(f"without dropout\n{sure.get_title()}", fontsize=10, parse_math=False)
    grid = right.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(passes) :]:
        axes.set_axis_off()
    for axes, probabilities in zip(grid.flat, passes):
        show_answer(axes, probabilities, classes)
    right.suptitle(f"{len(passes)} passes with dropout", fontsize=11)
    return figure


# ------------------------------------------------------------------------------ loss and certainty


@style()
def draw_loss_along_weight(
    values: Sequence[float],
    losses: Sequence[float],
    weight: float,
    loss: float,
    slope: float,
    name: str,
) -> "Figure":
    """Draw the loss over one weight, the network's own place on the curve, and the slope there.

    Args:
        values: that the weight takes, from the smallest up.
        losses: at each of them, in nats.
        weight, loss: the network's own.
        slope: how fast the loss grows with the weight there.
        name: of the weight.
    """
    figure = new_figure(7, 4)
    axes = figure.subplots()
    axes.plot(values, losses, color=BLUE, label="loss on the batch")
    reach = (max(values) - min(values)) / 4
    ends = np.array([weight - reach, weight + reach])
    label = f"slope there: {slope:+.4f}".replace("-", "\u2212")
    axes.plot(weight, loss, "o", color=ORANGE, markersize=8, label="the network's own weight")
    axes.plot(ends, loss + slope * (ends - weight), "--", color=ORANGE, label=label)
    axes.set_xlabel(name, parse_math=False)
    axes.set_ylabel("loss (cross-entropy)")
    clear_frame(axes)
    put_legend_above(axes)
    return figure


@style()
def draw_reliability(
    confidences: Sequence[float],
    accuracies: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    counts: Sequence[int],
    title: str = "",
) -> "Figure":
    """Draw accuracy against confidence, a reliability diagram, and the number of images.

    Args:
        confidences: mean confidence of the images in each bin, in [0, 1].
        accuracies: the share of them that are read right, in [0, 1].
        intervals: the 95 % confidence interval of each of these shares, in [0, 1].
        counts: images in each bin; bins without any are left out.
    """
    figure = new_figure(6.5, 6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], "--", color=GREY, label="perfectly calibrated")
    spread = np.abs(np.transpose(intervals) - np.array(accuracies))  # down and up, (2, bins)
    above.errorbar(
        confidences, accuracies, spread, fmt="o", color=BLUE, capsize=3,
        label="images in a bin (95 % interval)",
    )  # fmt: skip
    above.set_ylabel("accuracy")
    above.set_xlim(-0.02, 1.02)
    above.set_ylim(-0.02, 1.02)
    below.bar(confidences, counts, width=0.04, color=BLUE)
    below.set_yscale("log")
    below.set_ylim(0.7, max(counts) * 2)
    below.set_ylabel("images")
    below.set_xlabel("confidence")
    for axes in (above, below):
        clear_frame(axes)
        axes.set_axisbelow(True)
    put_legend_above(above)
    if title:
        figure.suptitle(title, parse_math=False)
    return figure
