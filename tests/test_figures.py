"""Figures: one style, nothing overlaps or is cut off, the numbers are those given."""

import dataclasses
import functools
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import Tiny
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from mnist_cnn import illustrate, visualize
from mnist_cnn.checkpoint import load_run
from mnist_cnn.datasets import CLOTHES, DIGITS
from mnist_cnn.recipes import RECIPES
from mnist_cnn.train import SHORTEST_CYCLE, learning_rates

DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 12:16] = 230  # something like a one


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """matplotlib warns of characters that its font lacks and of layouts that do not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noise(*shape: int) -> np.ndarray:
    """Numbers on both sides of 0, the same every time."""
    return np.random.default_rng(0).normal(size=shape)


def pixels(*shape: int) -> np.ndarray:
    """Numbers in [0, 1], the same every time."""
    return np.random.default_rng(1).random(shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def features(
    filters: int, maps: tuple[int, int], classes: list[str], /, **changes: object
) -> Figure:
    weights, patch = noise(filters, 5, 5), noise(5, 5)
    given = {
        "image": DIGIT,
        "filters": weights,
        "patch": (filters - 1, 3, 11),
        "pixels": patch,
        "bias": -0.125,
        "response": float((patch * weights[-1]).sum()) - 0.125,
        "maps": [pixels(maps[0], 12, 12), pixels(maps[1], 4, 4)],
        "probabilities": softmax(noise(10)),
        "occlusion": pixels(28, 28),
        "square": 9,
        "classes": classes,
        "title": "fashion-mnist, test split: image 9999, label T-shirt/top",
    }
    return illustrate.draw_features(**(given | changes))


def reliability(n: int) -> Figure:
    sure = np.linspace(0.05, 1, n)
    right = np.clip(sure - 0.1, 0, 1)
    intervals = [(max(0, one - 0.2), min(1, one + 0.1)) for one in right]
    return illustrate.draw_reliability(sure, right, intervals, [10**i for i in range(n)], "a title")


# Of the same kinds as others, and tried where slow tests are asked for.
FURTHER = (
    "features of best", "features of few", "one digit", "clothes",
    "dropout of clothes", "one rate", "reliability of one bin",
)  # fmt: skip
FIGURES: dict[str, Callable[[], Figure]] = {
    "features": lambda: features(24, (24, 32), DIGITS),
    "features of best": lambda: features(32, (32, 64), CLOTHES),
    "features of few": lambda: features(2, (2, 3), CLOTHES),
    "digits": lambda: illustrate.draw_digits([DIGIT] * 30, DIGITS * 3),
    "one digit": lambda: illustrate.draw_digits([DIGIT], ["7"]),
    "clothes": lambda: illustrate.draw_digits([DIGIT] * 10, CLOTHES, columns=5),
    "augmentations": lambda: illustrate.draw_augmentations(
        DIGIT, {"rotate": pixels(16, 28, 28), "all": pixels(16, 28, 28)}
    ),
    "dropout": lambda: illustrate.draw_dropout(
        DIGIT, softmax(np.arange(10.0)), softmax(noise(20, 10)), DIGITS
    ),
    "dropout of clothes": lambda: illustrate.draw_dropout(
        DIGIT, softmax(np.arange(10.0)), softmax(noise(7, 10)), CLOTHES
    ),
    "rates": lambda: visualize.draw_rates(list(np.linspace(0.1, 0.0, 50)), 5),
    "one rate": lambda: visualize.draw_rates([0.004], 1),
    "curves": lambda: visualize.draw_curves(
        list(np.linspace(2, 0.1, 60)), list(np.linspace(0.004, 0, 60)), [0.5, 0.2, 0.1],
        [0.9, 0.97, 0.98], [0.95, 0.985, 0.99],
    ),
    "weight": lambda: illustrate.draw_loss_along_weight(
        [-1, 0, 1], [2.0, 1.0, 4.0], 0.0, 1.0, 1.5, "conv1.weight[7, 0, 2, 2]"
    ),
    "reliability": lambda: reliability(10),
    "reliability of one bin": lambda: reliability(1),
    "confusion": lambda: visualize.draw_confusion(np.diag([500] * 10), CLOTHES, "none"),
}  # fmt: skip


@functools.cache
def drawn(name: str) -> Figure:
    """One of the figures, which is drawn and measured once, in whatever order the tests come."""
    figure = FIGURES[name]()
    FigureCanvasAgg(figure)
    for _ in range(2):  # the second time, what stands in it has the places that the first gave it
        figure.draw_without_rendering()
    words_and_pictures(figure)
    return figure


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name in FURTHER else ()) for name in FIGURES
    ]
)
def figure(request: pytest.FixtureRequest) -> Figure:
    return drawn(request.param)


@functools.cache  # saving a picture, in another test, may move things by a fraction of a pixel
def words_and_pictures(part: Figure) -> dict[str, Bbox]:
    """Where everything is that must neither overlap nor be cut off, in pixels."""
    found: dict[str, Bbox] = {}

    def add(text: Text) -> None:
        if text.get_visible() and text.get_text():
            found[f"{text.get_text()} ({len(found)})"] = text.get_window_extent()

    for parent in (part, *part.subfigs):
        for text in (parent._suptitle, parent._supxlabel, parent._supylabel):
            if text is not None:
                add(text)
    for axes in part.get_axes():
        for text in (axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label):
            add(text)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for place, label in zip(axis.get_majorticklocs(), axis.get_majorticklabels()):
                if axes.axison and low <= place <= high:
                    add(label)
        if axes.get_legend():
            found[f"legend ({len(found)})"] = axes.get_legend().get_window_extent()
        found[f"axes ({len(found)})"] = axes.get_window_extent()
    return {name: box.frozen() for name, box in found.items()}  # whatever is done to them later


def test_nothing_overlaps_and_nothing_is_cut_off(figure: Figure) -> None:
    found = words_and_pictures(figure)
    assert found
    slack = 1.5  # pixels of 100 in an inch: frames are lines, and letters have white around them
    for name, box in found.items():
        assert box.x0 >= -slack and box.x1 <= figure.bbox.x1 + slack, name
        assert box.y0 >= -slack and box.y1 <= figure.bbox.y1 + slack, name
    names = list(found)
    for i, first in enumerate(names):
        for second in names[:i]:
            a, b = found[first], found[second]
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert wide <= slack or high <= slack, (first, second)


def test_letters_are_large_enough_where_a_page_shows_the_picture(figure: Figure) -> None:
    scale = min(1.0, 800 / 72 / figure.get_size_inches()[0])  # CSS pixels in a point, or less
    for text in figure.findobj(Text):
        if text.get_text():
            assert text.get_fontsize() * scale >= 7, text


def test_a_picture_is_opaque_with_a_white_margin_whatever_the_users_settings(
    figure: Figure,
) -> None:
    picture = np.asarray(Image.open(io.BytesIO(visualize.save(figure, ".png"))).convert("RGBA"))
    assert picture[..., 3].min() == 255
    assert picture.shape[1] > 400
    rim = 9  # a dot or two more than a twentieth of an inch
    for side in (picture[:rim], picture[-rim:], picture[:, :rim], picture[:, -rim:]):
        assert side.min() == 255


def test_the_users_own_settings_change_nothing_and_stay() -> None:
    plain = visualize.save(FIGURES["weight"](), ".png")
    own = {"figure.facecolor": "black", "font.size": 20, "savefig.bbox": "tight",
           "axes.titlecolor": "red", "savefig.transparent": True}  # fmt: skip
    with matplotlib.rc_context(own):
        assert visualize.save(FIGURES["weight"](), ".png") == plain
        for key, value in own.items():
            assert matplotlib.rcParams[key] == value


def test_what_is_nothing_is_white() -> None:
    """In the middle of the colours: so that blank paper under a filter is no shade of blue."""
    assert illustrate.signed_colours()(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)


def test_colours_are_told_apart_in_grey_print() -> None:
    """Below and above 0 differ: their greys are not the same on either side."""
    below, _, above = (
        np.dot(illustrate.signed_colours()(share)[:3], (0.3, 0.59, 0.11))
        for share in (0.0, 0.5, 1.0)
    )
    assert above - below > 0.3


# ------------------------------------------------------------------------------ what they show


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_features_show_the_whole_way() -> None:
    figure = features(24, (24, 32), DIGITS, title="$a$ title")
    shown = texts(figure)
    for words in ("$a$ title", "24 filters", "24 feature maps", "32 feature maps", "12 x 12"):
        assert words in shown
    image = next(axes for axes in figure.get_axes() if axes.images)
    assert np.allclose(image.images[0].get_array(), DIGIT / 255)
    (box,) = image.patches  # around the patch
    assert (box.get_x(), box.get_y(), box.get_width()) == (10.5, 2.5, 5)


def test_bars_and_the_title_tell_the_answer() -> None:
    probabilities = np.full(10, 0.01)
    probabilities[9] = 0.91
    figure = features(2, (2, 2), CLOTHES, probabilities=probabilities)
    (bars,) = (axes for axes in figure.get_axes() if axes.get_xlabel() == "probability")
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(list(probabilities))
    assert [label.get_text() for label in bars.get_yticklabels()] == CLOTHES
    assert "Ankle boot, 91.0%" in bars.get_title()
    assert bars.get_xlim() == (0, 1) and bars.yaxis_inverted()  # the first class on top
    colors = [bar.get_facecolor() for bar in bars.patches]
    assert [same_color(color, visualize.BLUE) for color in colors] == [False] * 9 + [True]


@pytest.mark.parametrize("bias", [0.124, -0.126, 0.0, 0.3333])
def test_the_sum_is_shown_with_figures_that_add_up(bias: float) -> None:
    patch, weights = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, -0.25], [0.1, 0.371]])
    figure = Figure()
    illustrate.add_patch(figure, patch, weights, bias, 1.784 + bias)
    shown = texts(figure).replace("\u2212", "-")
    for number in ("1.00", "-0.25", "0.37", "1.48", "-0.50"):
        assert f"{number}\n" in shown
    sentence = next(line for line in shown.splitlines() if "bias" in line).split(":")[1]
    total, sign, constant, _, response = sentence.split()
    constant = float(constant) * (-1 if sign == "-" else 1)
    assert float(total) == pytest.approx(1.784, abs=0.006)
    assert constant == pytest.approx(bias, abs=0.006)
    assert float(total) + constant == pytest.approx(float(response), abs=1e-9)


def test_a_row_shows_the_digit_and_its_variants() -> None:
    variants = pixels(3, 28, 28)
    figure = illustrate.draw_augmentations(DIGIT, {"shift": variants, "all": 1 - variants})
    (axes,) = figure.get_axes()
    sheet = axes.images[0].get_array()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["shift", "all"]
    assert np.allclose(sheet[:28, :28], DIGIT / 255)
    assert np.allclose(sheet[29:57, :28], DIGIT / 255)
    assert np.allclose(sheet[29:57, 58:86], 1 - variants[1])
    assert framed(axes, visualize.ORANGE) == [(-0.5, -0.5, 28, 28), (-0.5, 28.5, 28, 28)]
    middles = [row * 29 + 13.5 for row in range(2)]
    assert list(axes.get_yticks()) == middles  # where the names of the kinds stand


def test_dropout_shows_every_pass() -> None:
    passes = softmax(noise(20, 10))
    figure = illustrate.draw_dropout(DIGIT, passes[0], passes, DIGITS)
    bars = [[bar.get_height() for bar in axes.patches] for axes in figure.get_axes()]
    shown = [heights for heights in bars if heights]
    assert np.allclose(shown, [passes[0], *passes])
    figure = illustrate.draw_dropout(DIGIT, passes[0], passes[:7], DIGITS)
    assert "7 passes with dropout" in texts(figure)
    assert [axes.axison for axes in figure.get_axes()[2:]] == [True] * 7 + [False] * 3


def test_curves_show_the_rate_of_every_step() -> None:
    rates = [0.1, 0.4, 0.2, 0.0]
    figure = visualize.draw_curves([2.0, 1.5, 1.2, 1.0], rates, [1.4, 1.0], [0.5, 0.6], [0.6, 0.7])
    (axes,) = (axes for axes in figure.get_axes() if axes.get_ylabel() == "learning rate")
    assert list(axes.lines[0].get_ydata()) == rates
    assert list(axes.lines[0].get_xdata()) == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(("epochs", "images"), [(2, 12_800), (1, 128), (3, 256)])
def test_the_rates_of_a_run_are_those_that_it_had(epochs: int, images: int) -> None:
    recipe = dataclasses.replace(RECIPES["standard"], epochs=epochs)
    rates = learning_rates(recipe.lr, recipe.steps(images))
    assert len(rates) == epochs * (images // 128)
    peak = recipe.lr if len(rates) >= SHORTEST_CYCLE else recipe.lr / 4
    assert max(rates) == pytest.approx(peak, rel=0.01)
    if len(rates) > 100:  # up, then down to almost nothing
        assert rates[0] < recipe.lr / 20 and rates[-1] < recipe.lr / 100


def test_history_and_curve_agree(cli: Callable, tiny_mnist: Tiny, tmp_path: Path) -> None:
    tiny_mnist.write(tmp_path / "data")
    options = "train --dataset mnist --recipe fast --epochs 3 --batch-size 10 --device cpu --quiet"
    assert cli(*options.split(), "--out-dir", ".").status == 0
    assert (tmp_path / "curves.png").exists()
    paused = load_run(tmp_path / "last.pt")
    rates = learning_rates(paused.plan.recipe.lr, 60)
    assert len(rates) == len(paused.losses) == 60
    ends = np.arange(1, 4) * len(rates) // 3 - 1
    assert [rates[end] for end in ends] == pytest.approx([one.lr for one in paused.history])


def test_a_slope_is_drawn_through_where_the_network_stands() -> None:
    figure = illustrate.draw_loss_along_weight([-1, 0, 1], [2.0, 1.0, 4.0], 0.5, 2.0, -3.0, "$w$")
    (axes,) = figure.get_axes()
    curve, point, tangent = axes.lines
    assert list(curve.get_ydata()) == [2, 1, 4]
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.5, 2)
    assert list(tangent.get_xdata()) == [0, 1] and list(tangent.get_ydata()) == [3.5, 0.5]
    assert axes.get_xlabel() == "$w$"
    assert "\u22123.0000" in texts(figure)


def test_reliability_shows_bins_and_counts() -> None:
    figure = illustrate.draw_reliability([0.4, 0.9], [0.5, 1.0], [(0.1, 0.9), (0.9, 1.0)], [3, 99])
    above, below = figure.get_axes()
    points = above.containers[0].lines[0]
    assert list(points.get_xdata()) == [0.4, 0.9] and list(points.get_ydata()) == [0.5, 1.0]
    assert [bar.get_height() for bar in below.patches] == [3, 99]
    assert below.get_yscale() == "log" and below.get_ylim()[0] < 1  # a bin of one is seen
    (bars,) = above.containers[0].lines[2]
    ends = [list(ends[:, 1]) for ends in bars.get_segments()]
    assert ends == [pytest.approx([0.1, 0.9]), pytest.approx([0.9, 1.0])]


def test_matplotlib_is_loaded_when_a_figure_is_drawn() -> None:
    code = (
        "import sys; from mnist_cnn import visualize; assert 'matplotlib' not in sys.modules; "
        "visualize.draw_rates([1.0], 1); assert 'matplotlib' in sys.modules; "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    package = Path(visualize.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=package, check=True)


# ------------------------------------------------------------------------------ how they show it


def test_digits_stand_in_rows_each_with_its_label() -> None:
    images = pixels(7, 28, 28)
    labels = [f"${number}$" for number in range(7)]
    axes = illustrate.draw_digits(list(images), labels, columns=3).get_axes()
    assert [one.get_title() for one in axes] == [*labels, "", ""]
    assert [one.axison for one in axes] == [True] * 7 + [False] * 2
    for one, image in zip(axes, images):
        (shown,) = one.images
        assert np.array_equal(shown.get_array(), image)
        assert np.allclose(shown.to_rgba(np.array([0.0, 1.0]))[:, 0], (1, 0))  # ink is dark
    places = [one.get_position() for one in axes]
    assert places[0].x0 < places[1].x0 < places[2].x0 and places[0].y0 > places[3].y1
    assert len(illustrate.draw_digits(list(images[:2]), labels[:2]).get_axes()) == 2


def test_images_are_put_side_by_side_with_a_white_line_between_them() -> None:
    images = 1 + np.arange(5 * 2 * 3.0).reshape(5, 2, 3)
    sheet = illustrate.tile(images, 2)
    assert sheet.shape == (3 * 2 + 2, 2 * 3 + 1)
    for number, image in enumerate(images):
        row, column = divmod(number, 2)
        assert np.array_equal(sheet[3 * row : 3 * row + 2, 4 * column : 4 * column + 3], image)
    assert np.isfinite(sheet).sum() == images.size  # all else is white


def framed(axes: Axes, color: str) -> list[tuple[float, ...]]:
    """Where frames of a colour are: left, top, width, height."""
    frames = [one for one in axes.patches if same_color(one.get_edgecolor(), color)]
    return [(*one.get_xy(), one.get_width(), one.get_height()) for one in frames]


def test_the_filter_that_is_worked_out_is_framed_and_so_is_its_map() -> None:
    figure = features(24, (24, 32), DIGITS, patch=(17, 3, 11))
    _, filters, _key, *_ = figure.get_axes()
    maps = [axes for axes in figure.get_axes() if "feature maps" in axes.get_title()]
    columns = (filters.images[0].get_size()[1] + 1) // 6
    row, column = divmod(17, columns)
    assert framed(filters, visualize.ORANGE) == [(6 * column - 0.5, 6 * row - 0.5, 5, 5)]
    assert len(framed(filters, visualize.PALE)) == 24
    row, column = divmod(17, 12)  # two rows of twelve
    assert framed(maps[0], visualize.ORANGE) == [(13 * column - 0.5, 13 * row - 0.5, 12, 12)]
    assert framed(maps[1], visualize.ORANGE) == []
    assert [axes.get_title().split()[0] for axes in maps] == ["4", "5"]
    assert "after convolution 2" in maps[1].get_title()
    assert maps[1].get_title().endswith("4 x 4")
    shown = texts(figure)
    for words in ("number 17, counted from 0", "\n6  the answer", "\n7  probability", "9 x 9 grey"):
        assert words in f"\n{shown}"


def test_blank_is_white_and_the_strongest_response_black() -> None:
    maps = [3 * pixels(2, 12, 12), np.zeros((3, 4, 4))]
    figure = features(2, (2, 3), DIGITS, maps=maps)
    shown = [axes.images[0] for axes in figure.get_axes() if "feature maps" in axes.get_title()]
    assert shown[0].get_clim() == (0, maps[0].max())
    assert np.allclose(shown[0].to_rgba(np.array([0.0, maps[0].max()]))[:, 0], (1, 0))
    assert np.allclose(shown[1].to_rgba(np.array([0.0]))[:, 0], 1)


def test_the_probability_that_is_left_is_bright_and_the_ink_outlined() -> None:
    occlusion = pixels(28, 28) / 2
    figure = features(2, (2, 2), DIGITS, occlusion=occlusion, square=5)
    (axes,) = (one for one in figure.get_axes() if "5 x 5 grey square" in one.get_title())
    assert np.array_equal(axes.images[0].get_array(), occlusion)
    assert axes.images[0].get_clim() == (0, 1)
    assert np.allclose(axes.images[0].to_rgba(np.array([0.0, 1.0]))[:, 0], (0, 1))
    (outline,) = axes.collections
    (path,) = outline.get_paths()
    ends = [*path.get_extents().min, *path.get_extents().max]
    assert ends == pytest.approx([11.5, 3.5, 15.5, 23.5], abs=0.1)


def test_weights_below_and_above_zero_have_one_scale() -> None:
    weights = np.full((2, 5, 5), -4.0)
    weights[1] = 1.0
    _, filters, *_ = features(2, (2, 2), DIGITS, filters=weights, patch=(0, 0, 0)).get_axes()
    assert filters.images[0].get_clim() == (-4, 4)
    nothing = np.zeros((2, 5, 5))
    figure = features(2, (2, 2), DIGITS, filters=nothing, patch=(0, 0, 0))
    _, filters, _key, _patch, one, products, *_ = figure.get_axes()
    for axes in (filters, one, products):
        white = axes.images[0].to_rgba(np.array([0.0]))
        assert np.allclose(white, 1, atol=0.01)


@pytest.mark.parametrize(("grey", "scale"), [(-0.42, (-0.42, 1)), (0.5, (0, 1)), (2.8, (0, 2.8))])
def test_a_patch_of_blank_paper_is_white_and_one_of_ink_is_not(
    grey: float, scale: tuple[float, float]
) -> None:
    figure = Figure()
    illustrate.add_patch(figure, np.full((5, 5), grey), noise(5, 5), 0.0, 0.0)
    assert figure.get_axes()[0].images[0].get_clim() == scale


def test_figures_are_legible_on_their_colours() -> None:
    figure = Figure()
    illustrate.show_numbers(figure.subplots(), np.array([[0.0, 1.0]]), cmap="gray", vmin=0, vmax=1)
    assert [text.get_color() for text in figure.get_axes()[0].texts] == ["white", "black"]
    assert illustrate.signed(-0.001) == "0.00" and illustrate.signed(-1.5) == "\u22121.50"
