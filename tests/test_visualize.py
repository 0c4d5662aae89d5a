"""Figures: nothing overlaps, nothing is cut off, right and wrong differ in more than colour."""

import io
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from mnist_cnn import data, visualize


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """matplotlib warns of characters that its font lacks and of layouts that do not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
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
    [(1, "digits"), (2, "digits"), (9, "digits"), (25, "digits"), (100, "digits"),
     (1, "clothes"), (9, "clothes"), (25, "clothes")],
)  # fmt: skip
def test_titles_neither_overlap_nor_are_cut_off(count: int, classes: str) -> None:
    figure = predictions(count, data.DIGITS if classes == "digits" else data.CLOTHES)
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
    figure = visualize.draw_predictions(images, [0, 9], [0, 7], [0.5, 0.987], data.CLOTHES, "two")
    first, second = (axes for axes in figure.axes if axes.images)
    assert "T-shirt/top" in first.get_title() and "50.0%" in first.get_title()
    for text in ("Sneaker", "Ankle boot", "98.7%"):
        assert text in second.get_title()
    assert np.array_equal(second.images[0].get_array(), images[1])
    assert figure._suptitle.get_text() == "two"


def test_right_and_wrong_differ_in_more_than_colour() -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    figure = visualize.draw_predictions(images, [3, 3], [3, 5], [0.9, 0.9], data.DIGITS, "two")
    right, wrong = (axes for axes in figure.axes if axes.images)
    assert right.get_title()[0] != wrong.get_title()[0]
    frames = [(a.spines["left"].get_linewidth(), a.spines["left"].get_linestyle())
              for a in (right, wrong)]  # fmt: skip
    assert frames[0] != frames[1]
    assert right.title.get_color() != wrong.title.get_color()


def test_images_are_shown_on_one_scale_of_grey() -> None:
    figure = predictions(4, data.DIGITS)
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(0, 255)}


def make_history(epochs: int) -> list[dict[str, float]]:
    accuracies = [0.9 + 0.09 * np.sin(2 * epoch / epochs) for epoch in range(1, epochs + 1)]
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": accuracy - 0.02,
            "val_loss": 0.5 / epoch,
            "val_accuracy": accuracy,
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 400), (2, 1), (12, 30), (200, 3)])
def test_curves_of_any_length(epochs: int, steps: int) -> None:
    history = make_history(epochs)
    losses = list(np.linspace(2.3, 0.1, epochs * steps))
    figure = visualize.draw_curves(history, losses)
    draw(figure)
    loss, accuracy = figure.axes
    for axes in (loss, accuracy):
        low, high = axes.get_xlim()
        assert low <= 0 and high >= epochs
        assert axes.get_xlabel() == "epoch" and axes.get_ylabel()
        assert axes.get_legend() is not None
        assert_inside({"whole": axes.get_tightbbox()}, figure)
    shown = {line.get_label(): line.get_ydata() for line in accuracy.lines}
    expected = [100 * row["val_accuracy"] for row in history]
    assert list(shown["validation"]) == pytest.approx(expected)
    shown = {line.get_label(): line.get_ydata() for line in loss.lines}
    assert list(shown["validation"]) == pytest.approx([row["val_loss"] for row in history])
    training = next(values for label, values in shown.items() if label.startswith("training"))
    assert len(training) > 0 and np.isfinite(training).all()


def test_the_confusion_matrix_shows_every_count() -> None:
    counts = np.zeros((10, 10), np.int64)
    counts[np.arange(10), np.arange(10)] = np.arange(100, 110)
    counts[4, 9] = 17
    figure = visualize.draw_confusion(counts, data.CLOTHES, "made up")
    draw(figure)
    (axes,) = figure.axes
    numbers = {}
    for text in axes.texts:
        if text.get_text().isdigit():
            x, y = text.get_position()
            numbers[y, x] = int(text.get_text())
    assert numbers == {(i, i): 100 + i for i in range(10)} | {(4, 9): 17}
    assert [label.get_text() for label in axes.get_yticklabels()] == data.CLOTHES
    assert [label.get_text() for label in axes.get_xticklabels()] == data.CLOTHES
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true", "predicted")
    assert_inside({"whole": axes.get_tightbbox()}, figure)
    assert_apart({str(i): label.get_window_extent()
                  for i, label in enumerate(axes.get_yticklabels())})  # fmt: skip


def test_a_confusion_matrix_without_mistakes_can_be_drawn() -> None:
    figure = visualize.draw_confusion(np.diag([5] * 10), data.DIGITS, "none")
    assert visualize.save(figure, ".png")


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".PDF", b"%PDF"), (".svg", b"<?xml"), ("", b"\x89P")],
)
def test_figures_are_saved_as_their_suffix_says(suffix: str, start: bytes) -> None:
    figure = predictions(2, data.DIGITS)
    assert visualize.save(figure, suffix).startswith(start)


def test_a_saved_picture_is_large_enough_to_read() -> None:
    picture = Image.open(io.BytesIO(visualize.save(predictions(9, data.DIGITS), ".png")))
    assert min(picture.size) > 500
