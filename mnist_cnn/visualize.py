"""Every picture the program draws: training curves, predictions, the confusion matrix.

Each function takes arrays and returns a matplotlib figure. Without `window` the figure belongs to
no window and no screen is needed: `save` renders it with Agg (or as PDF or SVG).
"""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # matplotlib takes most of a second to import: only who draws should wait
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
BLUE, ORANGE = "#0072b2", "#d55e00"
GREY = "#666666"


def new_figure(width: float, height: float, window: bool = False) -> "Figure":
    """An empty figure, in inches; with `window`, one that show() will open."""
    if window:
        import matplotlib.pyplot as plt

        return plt.figure(figsize=(width, height), layout="constrained")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def can_show() -> bool:
    """Whether matplotlib can open a window here."""
    import matplotlib.pyplot as plt

    canvas = plt.figure().canvas
    plt.close()
    return canvas.required_interactive_framework is not None


def show() -> None:
    """Opens the windows and waits until they are closed."""
    import matplotlib.pyplot as plt

    plt.show()


def save(figure: "Figure", suffix: str) -> bytes:
    """Renders a figure as a file of the kind that a suffix such as ".png" or ".pdf" names.

    Raises:
        ValueError: matplotlib cannot write that kind.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.lstrip(".").lower() or "png", dpi=144)
    return buffer.getvalue()


def draw_predictions(
    images: NDArray[np.uint8],
    labels: Sequence[int],
    predictions: Sequence[int],
    confidences: Sequence[float],
    classes: Sequence[str],
    title: str,
    window: bool = False,
) -> "Figure":
    """A grid of images with what the network read, what is true, and how sure it was.

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
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, label, guess, confidence in zip(
        grid.flat, images, labels, predictions, confidences
    ):
        right = label == guess
        axes.set_axis_on()
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


def draw_confusion(counts: NDArray[np.int64], classes: Sequence[str], title: str) -> "Figure":
    """The confusion matrix: (C, C) counts, row the true class, column the predicted one.

    The shades are those of each row's mistakes: right answers are so many more that on one scale
    with them every mistake would look like none.
    """
    n = len(classes)
    figure = new_figure(0.62 * n + 2, 0.62 * n + 1.6)
    axes = figure.subplots()
    mistakes = counts.astype(float) * (1 - np.eye(n))
    axes.imshow(mistakes, cmap="Oranges", vmax=max(mistakes.max() * 1.3, 1))
    axes.set_title(title, fontsize=12)
    axes.set_xticks(range(n), classes, rotation=0 if max(map(len, classes)) < 3 else 45)
    axes.set_yticks(range(n), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for i in range(n):
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, color=BLUE, alpha=0.15, lw=0))
        for j in range(n):
            text = f"{counts[i, j]}" if counts[i, j] else "·"
            weight = "bold" if i == j else "normal"
            color = "black" if counts[i, j] else "#bbbbbb"
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color=color, weight=weight)
    return figure


def draw_curves(history: Sequence[dict[str, float]], losses: Sequence[float]) -> "Figure":
    """How a training run went: the loss of every step, and each epoch's figures.

    Args:
        history: a row per epoch, as in history.csv.
        losses: of every training step, in nats.
    """
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    steps = len(losses) / len(history)  # in an epoch
    window = max(1, int(steps) // 20)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    progress = (np.arange(len(smooth)) + window) / steps
    left.plot(progress, smooth, color=GREY, linewidth=1, label=f"training (mean of {window} steps)")
    left.plot(epochs, [row["val_loss"] for row in history], "o-", color=BLUE, label="validation")
    left.set_yscale("log")
    left.set_ylabel("loss (cross-entropy, nats)")
    right.plot(
        epochs,
        [100 * row["train_accuracy"] for row in history],
        "s--",
        color=GREY,
        label="training",
    )
    right.plot(
        epochs, [100 * row["val_accuracy"] for row in history], "o-", color=BLUE, label="validation"
    )
    best = max(history, key=lambda row: row["val_accuracy"])
    right.annotate(
        f"best: {best['val_accuracy']:.2%}",
        (best["epoch"], 100 * best["val_accuracy"]),
        xytext=(0, -22),
        textcoords="offset points",
        ha="right" if best["epoch"] > 1 else "left",
        arrowprops={"arrowstyle": "-", "color": BLUE},
        color=BLUE,
    )
    right.set_ylabel("accuracy (%)")
    for axes in (left, right):
        _style_curves(axes, len(history))
    return figure


def _style_curves(axes: "Axes", epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, epochs * 1.04)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
