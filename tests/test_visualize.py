"""Figures: nothing overlaps, nothing is cut off, right and wrong differ in more than colour."""

import io
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import slow
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from mnist_cnn import visualize
from mnist_cnn.datasets import CLOTHES, DIGITS


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """matplotlib warns of characters that its font lacks and of layouts that do not fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        yield


def predictions(count: int, classes: list[str]) -> Figure:
    """A grid in which every third image is misread."""
    labels = [i % len(classes) for i in range(count)]
    guesses = [(label + (i % 3 == 1)) % len(classes) for i, label in enumerate(labels)]
    images = np.full((count, 28, 28), 128, np.uint8)
    return visualize.draw_predictions(
        images, labels, guesses, [0.9999] * count, classes, f"the first {count} images of it"
    )


def draw(figure: Figure) -> None:
    FigureCanvasAgg(figure)
    figure.canvas.draw()


def boxes(figure: Figure) -> dict[str, Bbox]:
    """Where every title and every image is, in pixels."""
    found = {"suptitle": figure._suptitle.get_window_extent()}
    for i, axes in enumerate(figure.axes):
        if axes.images:
            found[f"title {i}"] = axes.title.get_window_extent()
            found[f"image {i}"] = axes.get_window_extent()
    return found


def assert_apart(found: dict[str, Bbox]) -> None:
    names = list(found)
    for i, first in enumerate(names):
        for second in names[:i]:
            a, b = found[first], found[second]
            assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0, (first, second)


def assert_inside(found: dict[str, Bbox], figure: Figure) -> None:
    for name, box in found.items():
        assert box.x0 >= 0 and box.y0 >= 0, name
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name


@pytest.mark.parametrize(
    ("count", "classes"),
    [(1, "digits"), (2, "digits"), (9, "digits"), (25, "digits"),
     slow(100, "digits"),
     (1, "clothes"), (9, "clothes"), (25, "clothes")],
)  # fmt: skip
def test_titles_neither_overlap_nor_are_cut_off(count: int, classes: str) -> None:
    figure = predictions(count, DIGITS if classes == "digits" else CLOTHES)
    draw(figure)
    found = boxes(figure)
    assert len(found) == 2 * count + 1
    assert_apart(found)
    assert_inside(found, figure)
    image = found["image 0"]
    assert min(image.width, image.height) > 0.7 * figure.dpi  # inches: readable
    assert image.width == pytest.approx(image.height, rel=0.01)


def test_an_image_comes_with_both_labels_and_the_confidence() -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 3, 4] = 200
    figure = visualize.draw_predictions(images, [0, 9], [0, 7], [0.5, 0.987], CLOTHES, "two")
    first, second = (axes for axes in figure.axes if axes.images)
    assert "T-shirt/top" in first.get_title() and "50.0%" in first.get_title()
    for text in ("Sneaker", "Ankle boot", "98.7%"):
        assert text in second.get_title()
    assert np.array_equal(second.images[0].get_array(), images[1])
    assert figure._suptitle.get_text() == "two"


def test_right_and_wrong_differ_in_more_than_colour() -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    figure = visualize.draw_predictions(images, [3, 3], [3, 5], [0.9, 0.9], DIGITS, "two")
    right, wrong = (axes for axes in figure.axes if axes.images)
    assert right.get_title()[0] != wrong.get_title()[0]
    frames = [(a.spines["left"].get_linewidth(), a.spines["left"].get_linestyle())
              for a in (right, wrong)]  # fmt: skip
    assert frames[0] != frames[1]
    assert right.title.get_color() != wrong.title.get_color()


def test_images_are_shown_on_one_scale_of_grey() -> None:
    figure = predictions(4, DIGITS)
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(0, 255)}


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 400), (2, 1), (12, 30), (200, 3)])
def test_curves_of_any_length(epochs: int, steps: int) -> None:
    losses = list(np.linspace(2.3, 0.1, epochs * steps))
    rates = list(np.linspace(0.01, 0.001, epochs * steps))
    val_losses = [0.5 / epoch for epoch in range(1, epochs + 1)]
    val_accuracies = [0.9 + 0.09 * np.sin(2 * epoch / epochs) for epoch in range(1, epochs + 1)]
    train_accuracies = [accuracy - 0.02 for accuracy in val_accuracies]
    figure = visualize.draw_curves(losses, rates, val_losses, train_accuracies, val_accuracies)
    draw(figure)
    loss, accuracy, rate = figure.axes
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low <= 0 and high >= epochs
        assert axes.get_ylabel()
        assert_inside({"whole": axes.get_tightbbox()}, figure)
    for axes in (accuracy, rate):  # the loss stands above the rate, over the same axis
        assert axes.get_xlabel() == "epoch"
    for axes in (loss, accuracy):
        assert axes.get_legend() is not None
    assert list(rate.lines[0].get_ydata()) == pytest.approx(rates)
    shown = {line.get_label(): line.get_ydata() for line in accuracy.lines}
    assert list(shown["validation"]) == pytest.approx([100 * share for share in val_accuracies])
    training = next(values for label, values in shown.items() if label.startswith("training"))
    assert list(training) == pytest.approx([100 * share for share in train_accuracies])
    shown = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert list(shown["validation"]) == pytest.approx(val_losses)
    training = next(values for label, values in shown.items() if label.startswith("training"))
    assert len(training) > 0 and np.isfinite(training).all()


def test_curves_mark_the_epoch_that_was_kept_the_earlier_on_a_tie() -> None:
    figure = visualize.draw_curves([2.0, 1.0, 0.5, 0.4], [0.01] * 4, [1, 0.4, 0.3, 0.2], [0.8] * 4,
                                   [0.9, 0.97, 0.95, 0.97])  # fmt: skip
    (kept,) = [line for line in figure.axes[1].lines if str(line.get_label()).startswith("kept")]
    assert kept.get_label() == "kept: 97.00%"
    assert not kept.get_clip_on()  # at 100 % it must not be cut in half
    assert (list(kept.get_xdata()), list(kept.get_ydata())) == ([2], [97.0])


def test_the_confusion_matrix_shows_every_count() -> None:
    counts = np.zeros((10, 10), np.int64)
    counts[np.arange(10), np.arange(10)] = np.arange(100, 110)
    counts[4, 9] = 17
    figure = visualize.draw_confusion(counts, CLOTHES, "made up")
    draw(figure)
    (axes,) = figure.axes
    numbers = {}
    for text in axes.texts:
        if text.get_text().isdigit():
            x, y = text.get_position()
            numbers[y, x] = int(text.get_text())
    assert numbers == {(i, i): 100 + i for i in range(10)} | {(4, 9): 17}
    assert [label.get_text() for label in axes.get_yticklabels()] == CLOTHES
    assert [label.get_text() for label in axes.get_xticklabels()] == CLOTHES
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert_inside({"whole": axes.get_tightbbox()}, figure)
    assert_apart({str(i): label.get_window_extent()
                  for i, label in enumerate(axes.get_yticklabels())})  # fmt: skip


def test_a_confusion_matrix_without_mistakes_can_be_drawn() -> None:
    figure = visualize.draw_confusion(np.diag([5] * 10), DIGITS, "none")
    assert visualize.save(figure, ".png")


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml")],
)
def test_figures_are_saved_as_their_suffix_says(suffix: str, start: bytes) -> None:
    figure = predictions(2, DIGITS)
    assert visualize.save(figure, suffix).startswith(start)


def test_a_saved_picture_is_large_enough_to_read() -> None:
    picture = Image.open(io.BytesIO(visualize.save(predictions(9, DIGITS), ".png")))
    assert min(picture.size) > 500
