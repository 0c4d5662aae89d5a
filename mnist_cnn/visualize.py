"""The figures that the commands draw, and the style of all figures.

Each function takes arrays and returns a matplotlib figure. Without `window` the figure belongs to
no window and no screen is needed: `save` renders it with Agg (or as PDF or SVG).

An image is (28, 28), uint8 from 0 to 255 or float from 0 to 1; ink is drawn dark.
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_cnn import Error

if TYPE_CHECKING:  # matplotlib takes most of a second to import: only drawing should wait
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
Image = NDArray[Any]

# ------------------------------------------------------------------------------ the style

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito, 2008). In grey
# print they do not differ enough, so lines differ in marker and dash as well.
BLUE, ORANGE, YELLOW = "#0072b2", "#d55e00", "#e69f00"
GREY, PALE = "#666666", "#bbbbbb"
MARGIN = 0.08  # inches of white around a saved picture, for pages with a dark background
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "figure.titlesize": 12,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "grid.alpha": 0.3,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.constrained_layout.h_pad": 0.06,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw figures in the style, whatever the user's own settings of matplotlib are.

    Like every context manager of contextlib's, it decorates functions, too: @style().
    """
    import_matplotlib()
    from matplotlib.style import context

    with context(["default", STYLE]):
        yield


def new_figure(width: float, height: float, window: bool = False) -> "Figure":
    """Return an empty figure, in inches; with `window`, one that show() will open."""
    import_matplotlib()
    if window:
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def can_show() -> bool:
    """Return whether matplotlib can open a window here."""
    import_matplotlib()
    import matplotlib.pyplot as plt

    try:
        canvas = plt.figure().canvas
    except ImportError:  # the backend asked for has no screen here, or is not installed
        return False
    plt.close()
    return canvas.required_interactive_framework is not None


def import_matplotlib() -> None:
    """Load matplotlib, which is slow.

    Raises:
        Error: the environment asks for a backend that it does not know, or a file of settings
            cannot be read.
    """
    try:
        import matplotlib  # noqa: F401
    except ValueError as error:
        name = os.environ.get("MPLBACKEND")
        raise Error(
            f"matplotlib does not know MPLBACKEND={name}: unset it"
            if name
            else f"matplotlib cannot be loaded ({error}): check your matplotlibrc"
        ) from None


def show() -> None:
    """Open the windows and wait until they are closed."""
    import matplotlib.pyplot as plt

    plt.show()


@style()
def save(figure: "Figure", suffix: str) -> bytes:
    """Render a figure as a file of the kind that a suffix such as ".png" or ".pdf" names.

    Raises:
        ValueError: matplotlib cannot write that kind.
    """
    from matplotlib.transforms import Bbox

    buffer = io.BytesIO()
    width, height = figure.get_size_inches()
    area = Bbox.from_extents(-MARGIN, -MARGIN, width + MARGIN, height + MARGIN)
    kind = suffix.lstrip(".").lower()
    with warnings.catch_warnings():  # a file name in the title may be in any script
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format=kind, dpi=144, bbox_inches=area)
    return buffer.getvalue()


# ------------------------------------------------------------------------------ the pictures


@style()
def draw_predictions(
    images: NDArray[np.uint8],
    labels: Sequence[int],
    predictions: Sequence[int],
    confidences: Sequence[float],
    classes: Sequence[str],
    title: str,
    window: bool = False,
) -> "Figure":
    """Draw a grid of images with what the network read, what is true, and how sure it was.

    Args:
        images: (N, 28, 28). labels, predictions: (N,), indices of classes.
        confidences: (N,), in [0, 1].
    """
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    longest = max(len(name) for name in classes)
    cell = 1.3 if longest < 3 else 1.9  # inches: "Ankle boot" needs more room than "7"
    figure = new_figure(max(cell * columns, 4.5), (cell + 0.35) * rows + 0.5, window)
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    for axes, image, label, guess, confidence in zip(
        grid.flat, images, labels, predictions, confidences
    ):
        right = label == guess
        axes.set_xticks([])
        axes.set_yticks([])
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(
            f"{'✓' if right else '✗'} {classes[guess]}  {confidence:.1%}\ntrue {classes[label]}",
            fontsize=9,
            color=BLUE if right else ORANGE,
            fontweight="normal" if right else "bold",
        )
        for spine in axes.spines.values():
            spine.set_color(BLUE if right else ORANGE)
            spine.set_linewidth(0.8 if right else 2.5)
            spine.set_linestyle("-" if right else "--")
    return figure


@style()
def draw_confusion(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> "Figure":
    """Draw the confusion matrix: (C, C) counts, row the true class, column the predicted one.

    The shades show the mistakes only: right answers are so many more that, on one scale with them,
    no mistake could be seen.
    """
    from matplotlib.patches import Rectangle

    n = len(classes)
    figure = new_figure(0.62 * n + 2, 0.62 * n + 1.6)
    axes = figure.subplots()
    mistakes = counts.astype(float) * (1 - np.eye(n))
    axes.imshow(mistakes, cmap="Oranges", vmax=max(mistakes.max() * 1.3, 1))
    axes.set_title(title, fontsize=12)
    axes.set_xticks(range(n), classes, rotation=0 if max(map(len, classes)) < 3 else 90)
    axes.set_yticks(range(n), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for i in range(n):
        axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, color=BLUE, alpha=0.15, lw=0))
        for j in range(n):
            text = f"{counts[i, j]}" if counts[i, j] else "·"
            weight = "bold" if i == j else "normal"
            color = "black" if counts[i, j] else PALE
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=color, weight=weight)
    return figure


@style()
def draw_curves(
    losses: Sequence[float],
    rates: Sequence[float],
    val_losses: Sequence[float],
    train_accuracies: Sequence[float],
    val_accuracies: Sequence[float],
) -> "Figure":
    """Draw how a training run went: loss and learning rate of every step, each epoch's figures.

    Args:
        losses: of every training step, in nats.
        rates: the learning rate of every step.
        val_losses: of every epoch on the validation split, in nats.
        train_accuracies, val_accuracies: of every epoch, in [0, 1].
    """
    figure = new_figure(10, 4.6)
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[:, 1])
    below = figure.add_subplot(grid[1, 0], sharex=left)
    count = len(val_losses)
    epochs = range(1, count + 1)
    window = max(1, len(losses) // 200)  # as many points as the eye can use
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    progress = (np.arange(len(smooth)) + window) * count / len(losses)
    left.plot(progress, smooth, color=GREY, linewidth=1, label="training, smoothed")
    left.plot(epochs, val_losses, "o-", color=BLUE, label="validation")
    left.set_yscale("log")
    left.set_ylabel("loss (cross-entropy)")

    kept = int(np.argmax(val_accuracies))  # the first on a tie
    training = [100 * accuracy for accuracy in train_accuracies]
    validation = [100 * accuracy for accuracy in val_accuracies]
    right.plot(epochs, training, "s--", color=GREY, label="training")
    right.plot(epochs, validation, "o-", color=BLUE, label="validation")
    label = f"kept: {val_accuracies[kept]:.2%}"
    (star,) = right.plot(
        epochs[kept], validation[kept], "*", color=ORANGE, markersize=14, label=label
    )
    star.set_clip_on(False)  # at 100 % half of it lies above the axes
    # The first epochs are far lower: on their scale, later differences would vanish.
    third = count // 3
    right.set_ylim(min(training[third:] + validation[third:]) - 0.5, 100)
    right.set_ylabel("accuracy (%)")
    for axes in (left, right):
        style_curves(axes, count)
        put_legend_above(axes)
    left.set_xlabel("")
    left.tick_params(labelbottom=False)
    plot_rates(below, rates, count)
    return figure


@style()
def draw_rates(rates: Sequence[float], epochs: int) -> "Figure":
    """Draw the learning rate of every step of a run that takes so many epochs."""
    figure = new_figure(7, 2.8)
    plot_rates(figure.subplots(), rates, epochs)
    return figure


def plot_rates(axes: "Axes", rates: Sequence[float], epochs: int) -> None:
    """Plot the learning rate of every step over the epochs."""
    axes.plot(np.arange(len(rates)) * epochs / len(rates), rates, color=BLUE)
    if len(rates) == 1:  # a line needs two points
        axes.plot(0, rates[0], "o", color=BLUE)
    style_curves(axes, epochs)
    axes.set_ylim(0, max(rates) * 1.1)
    axes.set_ylabel("learning rate")


def style_curves(axes: "Axes", epochs: int) -> None:
    """Give a plot over epochs its axis and grid."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, epochs * 1.04)
    clear_frame(axes)


def clear_frame(axes: "Axes") -> None:
    """Give a plot a grid, and a frame on two sides only."""
    axes.grid(True)
    axes.spines[["top", "right"]].set_visible(False)


def put_legend_above(axes: "Axes") -> None:
    """Add the legend above a plot: inside, it would hide some of the curves."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2, columnspacing=1.2
    )


@style()
def draw_inputs(
    names: Sequence[str],
    steps: Sequence[Sequence[tuple[str, NDArray[np.uint8]]]],
    probabilities: Sequence[NDArray[np.float32]],
) -> "Figure":
    """Draw a row for each picture: the steps of its preparation, and the network's answer.

    Args:
        names: of the pictures.
        steps: of each picture (title, pixels (H, W)), the last one what the network saw.
        probabilities: of each picture (10,), their sum is 1.
    """
    columns = max(len(pictures) for pictures in steps) + 1
    figure = new_figure(1.6 * columns, 1.95 * len(names) + 0.2)
    rows = figure.subplots(len(names), columns, squeeze=False)
    for cells, name, pictures, answer in zip(rows, names, steps, probabilities):
        for axes in cells:
            axes.set_axis_off()
        for axes, (title, pixels) in zip(cells, pictures):
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title, fontsize=11)
        cells[0].set_title(shorten(name, 18), fontsize=11, parse_math=False)
        bars = cells[-1]
        bars.set_axis_on()
        show_answer(bars, answer, [str(digit) for digit in range(len(answer))])
        bars.set_title(bars.get_title(), fontsize=11, color=BLUE, fontweight="bold")
    return figure


def show_answer(axes: "Axes", probabilities: Floats, classes: Sequence[str]) -> None:
    """Show the probabilities of all classes in a small space; the title names the likeliest."""
    answer = int(probabilities.argmax())
    colors = [BLUE if number == answer else GREY for number in range(len(classes))]
    axes.bar(range(len(classes)), probabilities, color=colors)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    short = max(map(len, classes)) < 3
    axes.set_xticks(range(len(classes)), classes if short else [""] * len(classes), fontsize=8)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(f"{classes[answer]}, {probabilities[answer]:.1%}", fontsize=10, parse_math=False)


@style()
def draw_boxes(
    names: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    boxes: Sequence[Sequence[tuple[int, int, int, int]]],
    digits: Sequence[Sequence[int]],
) -> "Figure":
    """Draw each picture (H, W) with a box and the answer at each of its digits.

    Args:
        boxes: of each picture, (left, top, right, bottom) in pixels; right and bottom exclusive.
        digits: of each picture, what was read in each box.
    """
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure = new_figure(6 * columns, (6 * min(tallest, 1.5) + 0.5) * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, name, picture, places, answers in zip(grid.flat, names, pictures, boxes, digits):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
        axes.set_anchor("N")  # the titles of a row stand at one height
        number = "".join(map(str, answers))
        title = f"{shorten(name, 40)}: {shorten(number, 40)}"
        axes.set_title(title, fontsize=10, parse_math=False)
        for (left, top, right, bottom), digit in zip(places, answers):
            xs, ys = (left, right, right, left, left), (top, top, bottom, bottom, top)
            axes.plot(np.array(xs) - 0.5, np.array(ys) - 0.5, color=ORANGE, linewidth=1.5)
            label = {"boxstyle": "round,pad=0.15", "facecolor": ORANGE, "linewidth": 0}
            axes.text(left, top, digit, color="white", fontsize=9, va="bottom", bbox=label)
    return figure


def shorten(text: str, most: int) -> str:
    """Return a text, or its end if it is too long: of a path, the file's name.

    Line breaks and undecodable bytes are escaped: no font can draw them.
    """
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= most else f"…{text[1 - most :]}"
