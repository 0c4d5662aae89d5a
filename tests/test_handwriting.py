"""Pictures of digits become what MNIST would have made of them: the whole way."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import slow
from pictures import DIGITS, FIVE, TEN, as_photo, enlarged, likeness, on_paper, ruled

import mnist_cnn
from mnist_cnn import Error
from mnist_cnn.handwriting import NEEDED, STEPS, find_digits, prepare, shrink


def assert_all_come_back(make, least=0.9):
    for digit in TEN:
        assert likeness(prepare(make(digit)).image, digit) > least


def test_mnist_itself_comes_through_almost_unchanged():
    """Except that narrow digits get less high."""
    differences = {True: [], False: []}
    for digit in DIGITS[::10]:
        _, _, width, height = cv2.boundingRect(digit)
        difference = np.abs(prepare(digit).image.astype(int) - digit).mean()
        differences[width < 0.6 * height].append(difference)
    assert np.mean(differences[False]) < 1.2
    assert 4 < np.mean(differences[True]) < 9


def test_enlarged_and_inverted():
    assert_all_come_back(lambda d: 255 - enlarged(d), 0.95)


def test_tinted_and_dim():
    assert_all_come_back(lambda d: 90 + enlarged(d) // 6, 0.95)


def test_slanting_light_and_noise():
    light = 120 + np.arange(420) / 4 + np.arange(360)[:, None] / 6
    assert_all_come_back(lambda d: as_photo(on_paper(d, light)))


@pytest.mark.parametrize("both", [False, True], ids=["ruled", "squared"])
def test_ruled_and_squared_paper(both):
    assert_all_come_back(lambda d: as_photo(on_paper(d, ruled(55, both), dark=0.2)), 0.85)


@pytest.mark.parametrize("both", [False, True], ids=["ruled", "squared"])
@pytest.mark.parametrize("shape", [(1024, 768), slow((768, 1024)), (220, 1024)])
def test_small_digit_on_a_page_full_of_lines(shape, both):
    """Of whose ink the lines are most."""
    paper = np.full(shape, 210.0)
    for at in range(38, max(shape), 40):
        cv2.line(paper, (0, at), (shape[1] - 1, at), 120, 3)
        if both:
            cv2.line(paper, (at, 0), (at, shape[0] - 1), 120, 3)
    top, left = shape[0] // 3, shape[1] // 3

    assert_all_come_back(lambda d: as_photo(on_paper(d, paper, 130, left, top)), 0.75)


def test_ruled_sheet_half_in_the_shade_on_a_dark_table():
    """The shade is as far from the light as the table: one threshold would split the sheet."""
    light = 1 - 0.5 * np.arange(420) / 420
    corners = np.float32([[0, 0], [420, 0], [420, 360], [0, 360]])
    lying = np.float32([[48, 30], [430, 52], [412, 390], [22, 365]])
    askew = cv2.getPerspectiveTransform(corners, lying)

    def make(digit):
        sheet = on_paper(digit, ruled(55, False) * light + 30)
        table = np.full((420, 460), 45.0)
        there = cv2.warpPerspective(np.ones_like(sheet), askew, (460, 420))
        return as_photo(table * (1 - there) + cv2.warpPerspective(sheet, askew, (460, 420)) * there)

    assert_all_come_back(make, 0.8)


@pytest.mark.parametrize("thickness, inset", [(3, 0), (3, 20), (30, 0)])
def test_framed(thickness, inset):
    def make(digit):
        picture = on_paper(digit, np.full((300, 300), 240.0), 220, 40, 40)
        cv2.rectangle(picture, (inset, inset), (299 - inset, 299 - inset), 10, thickness)
        return picture.astype(np.uint8)

    assert_all_come_back(make)


@pytest.mark.parametrize("thickness", [3, 12])
@pytest.mark.parametrize("touching", [False, True])
def test_nothing_but_a_frame_or_a_digit_that_touches_it_all_is_told(thickness, touching):
    picture = np.full((120, 100), 255, np.uint8)
    cv2.rectangle(picture, (0, 0), (99, 119), 0, thickness)
    if touching:
        cv2.line(picture, (50, 30), (50, 119), 0, 6)
    for make in (prepare, find_digits):
        with pytest.raises(Error, match="no ink was found except a frame"):
            make(picture)


def test_black_square_on_a_white_page():
    def make(digit):
        page = np.full((400, 480), 255, np.uint8)
        page[60:340, 100:380] = enlarged(digit)
        return page

    assert_all_come_back(make)


def test_photo_between_black_bars():
    def make(digit):
        bar = np.zeros((200, 420), np.uint8)
        return np.concatenate([bar, on_paper(digit).astype(np.uint8), bar])

    assert_all_come_back(make)


def test_a_hairline_is_as_black_as_any_stroke():
    picture = np.full((1024, 1024), 255, np.uint8)
    cv2.polylines(picture, [np.array([(300, 250), (700, 250), (450, 800)])], False, 0, 1)
    assert prepare(picture).image.max() > 240


@pytest.mark.parametrize("step", [step.name for step in STEPS if step.name not in NEEDED])
def test_a_step_can_be_left_out(step):
    # The other steps assume dark ink and a picture with something to be cleaned.
    picture = as_photo(on_paper(FIVE))
    full, less = prepare(picture), prepare(picture, skip=[step])
    assert less.image.shape == (28, 28)
    assert len(less.steps) == len(full.steps) - 1


def test_steps_can_be_drawn():
    prepared = prepare(as_photo(on_paper(FIVE)))
    assert prepared.image.shape == (28, 28) and prepared.image.dtype == np.uint8
    assert len(prepared.steps) == len(STEPS) + 1
    assert all(step.ndim == 2 and step.dtype == np.uint8 for _, step in prepared.steps)
    assert (prepared.steps[-1][1] == prepared.image).all()


def test_48_megapixels_within_memory():
    side = 4000
    picture = np.full((8000, 6000), 255, np.uint8)
    picture[2000:6000, 1000:5000] -= enlarged(FIVE, side)
    tracemalloc.start()
    prepared = prepare(picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert likeness(prepared.image, FIVE) > 0.9
    assert peak < 100e6


@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_has_no_ink(level):
    picture = np.full((100, 140), level, np.uint8)
    for make in (prepare, find_digits):
        with pytest.raises(Error, match="no ink"):
            make(picture)


@pytest.mark.parametrize(
    "picture",
    [
        [[0, 255]],
        None,
        np.zeros((28, 28)),
        np.zeros((28, 28), np.int64),
        np.zeros((28, 28), bool),
        np.zeros((28, 28, 3), np.uint8),
        np.zeros((1, 28, 28), np.uint8),
        np.zeros((0, 28), np.uint8),
    ],
    ids=repr,
)
def test_what_is_no_grey_picture_is_refused(picture):
    for make in (prepare, find_digits):
        with pytest.raises(ValueError, match=r"uint8 array \(H, W\)"):
            make(picture)


def test_however_narrow_a_picture_is_it_keeps_a_pixel():
    assert shrink(np.zeros((5000, 2), np.uint8))[0].shape == (1024, 1)
    assert shrink(np.zeros((2, 5000), np.uint8))[0].shape == (1, 1024)


def test_any_layout_in_memory_will_do():
    picture = np.full((500, 560), 40, np.uint8)  # a table
    picture[70:430, 70:490] = as_photo(on_paper(FIVE))
    turned = np.asfortranarray(picture)
    assert (prepare(turned).image == prepare(picture).image).all()
    assert (prepare(picture[::-1][::-1]).image == prepare(picture).image).all()
    assert find_digits(turned)[0].box == find_digits(picture)[0].box


def test_importing_changes_nothing():
    program = (
        "import os, cv2; cv2.setNumThreads(3); before = dict(os.environ)\n"
        "import mnist_cnn.handwriting, mnist_cnn.predict, mnist_cnn.demo\n"
        "assert cv2.getNumThreads() == 3 and dict(os.environ) == before"
    )
    root = str(Path(mnist_cnn.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": root}
    )
