"""From ink to the digit, step by step."""

import cv2
import numpy as np
import pytest
from pictures import DIGITS, FIVE, enlarged

from mnist_cnn.handwriting.arrays import cropped
from mnist_cnn.handwriting.digit import (
    centre_mass,
    erode,
    fit_box,
    keep_digit,
    mend_strokes,
    stroke_width,
)


def test_specks_and_edges_are_dropped_and_pieces_kept():
    ink = np.zeros((200, 200), np.uint8)
    cv2.line(ink, (80, 60), (80, 100), 255, 8)
    cv2.ellipse(ink, (90, 125), (30, 25), 0, -90, 140, 255, 8)
    cv2.line(ink, (95, 55), (120, 55), 255, 8)  # the bar of the 5, apart from the rest
    digit = ink.copy()
    ink[:, :12] = 255  # the edge of a table: more ink than the digit has
    cv2.circle(ink, (170, 170), 2, 255, -1)
    assert (keep_digit(ink) == digit).all()


def test_a_digit_in_pencil_gets_as_dark_as_one_in_ink():
    ink = np.zeros((200, 200), np.uint8)
    cv2.line(ink, (80, 60), (80, 140), 140, 8)
    digit = np.where(ink > 0, 255, 0)
    assert (keep_digit(ink) == digit).all()


def test_a_large_pale_stain_is_no_digit():
    ink = np.zeros((200, 200), np.uint8)
    cv2.line(ink, (60, 60), (60, 140), 255, 8)
    digit = ink.copy()
    ink[40:100, 110:180] = 100
    assert (keep_digit(ink) == digit).all()


def test_a_speck_beside_the_digit_is_dropped_too():
    ink = np.zeros((200, 200), np.uint8)
    cv2.line(ink, (80, 40), (80, 160), 255, 12)
    digit = ink.copy()
    cv2.circle(ink, (95, 100), 2, 255, -1)
    assert (keep_digit(ink) == digit).all()


def test_strokes_that_lead_from_one_to_the_next_are_one_digit():
    """The third piece is near the second alone, which is near the first."""
    ink = np.zeros((200, 300), np.uint8)
    for left in (20, 80, 140, 200):
        cv2.line(ink, (left, 60), (left + 44, 60), 255, 10)
    assert (keep_digit(ink) == ink).all()


@pytest.mark.parametrize("stroke, low, high", [(1, 1.9, 3.0), (44, 3.4, 4.8)])
def test_strokes_come_to_the_width_mnist_has(stroke, low, high):
    ink = np.zeros((200, 200), np.uint8)
    cv2.polylines(ink, [np.array([(60, 40), (140, 40), (90, 160)])], False, 255, stroke)
    mended = mend_strokes(ink)
    width = stroke_width(mended) * 20 / max(cropped(mended).shape)
    assert low < width < high


def test_strokes_of_mnist_are_left_alone():
    assert (mend_strokes(FIVE) == FIVE[FIVE.any(1)][:, FIVE.any(0)]).all()


@pytest.mark.parametrize(
    ("shape", "longest"),
    [((300, 300), 20), ((300, 200), 20), ((50, 200), 20), ((10, 10), 20), ((400, 200), 19),
     ((300, 100), 18), ((400, 3), 18)],
)  # fmt: skip
def test_box_fits_20_by_20_in_its_own_proportions_and_what_is_narrow_is_less_high(shape, longest):
    ink = np.zeros((500, 500), np.uint8)
    ink[20 : 20 + shape[0], 30 : 30 + shape[1]] = 255
    _, _, w, h = cv2.boundingRect(fit_box(ink))
    assert max(w, h) == longest
    assert abs(min(w, h) - max(1, longest * min(shape) / max(shape))) <= 0.5


def test_centre_of_mass_is_in_the_middle_and_nothing_is_cut_off():
    for digit in DIGITS[:50]:
        moved = np.roll(fit_box(digit), (2, -2), (0, 1))
        centred = centre_mass(moved)
        moments = cv2.moments(centred)
        assert abs(moments["m10"] / moments["m00"] - 14) <= 0.5
        assert abs(moments["m01"] / moments["m00"] - 14) <= 0.5
        assert centred.sum() == moved.sum()


def test_a_digit_whose_ink_is_on_one_side_stays_whole():
    """To put its centre of mass in the middle, it would have to leave the picture."""
    field = np.zeros((28, 28), np.uint8)
    field[4:24, 4:7] = 255
    field[23, 4:24] = 255
    left, _, width, height = cv2.boundingRect(centre_mass(field))
    assert (left, width, height) == (8, 20, 20)


@pytest.mark.parametrize("radius", [0, 1, 2, 4, 17, 40, 80])
@pytest.mark.parametrize("shape", [(160, 160), (160, 90), (31, 160), (160, 1)])
def test_erosion_is_opencvs_own(radius, shape):
    ink = np.random.default_rng(radius).integers(0, 256, shape, np.uint8)
    ink = np.where(cv2.GaussianBlur(ink, (0, 0), 9) > 125, ink | 128, ink)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    paper = radius + 1
    expected = cv2.erode(np.pad(ink, paper), disc)[paper:-paper, paper:-paper]
    assert (erode(ink, disc) == expected).all()


@pytest.mark.parametrize("gap", [10, 26])
def test_two_pieces_of_like_size_are_one_digit(gap):
    """The bar of a 5 stands off its belly by more than the belly alone would allow."""
    ink = np.zeros((260, 200), np.uint8)
    cv2.ellipse(ink, (90, 160), (40, 40), 0, -100, 140, 255, 10)
    top = 160 - 40 - 10 - gap
    cv2.line(ink, (70, top), (70, top - 40), 255, 10)
    cv2.line(ink, (70, top - 40), (120, top - 40), 255, 10)
    assert (keep_digit(ink) == ink).all()


def test_a_light_piece_far_off_is_dropped():
    ink = np.zeros((260, 200), np.uint8)
    cv2.ellipse(ink, (90, 170), (40, 40), 0, -100, 140, 255, 10)
    digit = ink.copy()
    cv2.line(ink, (85, 70), (95, 70), 255, 8)
    assert (keep_digit(ink) == digit).all()


@pytest.mark.parametrize("side", [2, 3, 6])
def test_a_small_loop_drawn_one_pixel_thick_stays_open(side):
    """A 6 of straight strokes on a canvas of 28x28: thickened, its loop would be a blob."""
    ink = np.zeros((28, 28), np.uint8)
    bottom, left = 24, 10
    cv2.polylines(
        ink,
        [np.array([(left + side, 6), (left, 6), (left, bottom), (left + side, bottom),
                   (left + side, bottom - side), (left, bottom - side)])],
        False, 255, 1,
    )  # fmt: skip
    mended = mend_strokes(ink)
    paper = np.pad((mended < 128).astype(np.uint8), 1, constant_values=1)
    assert cv2.connectedComponents(paper, connectivity=4)[0] == 3  # ink, outside, the loop
    assert stroke_width(mended) * 20 / max(cropped(mended).shape) > 1.2


def test_a_bar_along_two_whole_sides_is_no_digit():
    ink = np.zeros((400, 400), np.uint8)
    ink[190:350, 190:350] = enlarged(FIVE, 160)
    alone = keep_digit(ink)
    ink[-24:] = ink[:, -24:] = 255
    assert (keep_digit(ink) == alone).mean() > 0.999
