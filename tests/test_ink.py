"""From grey pixels to ink, step by step."""

import cv2
import numpy as np
import pytest
from pictures import FIVE, TEN, as_photo, enlarged, on_paper

from mnist_cnn.handwriting.ink import (
    INK,
    clear_surroundings,
    dark_on_light,
    even_light,
    find_ink,
    remove_lines,
)


def test_surroundings_of_a_sheet_are_cleared():
    sheet = 255.0 - enlarged(FIVE, 200)
    table = np.full((400, 400), 40.0)
    table[90:290, 110:310] = sheet
    turn = cv2.getRotationMatrix2D((200, 200), 8, 1)
    turned = cv2.warpAffine(table.astype(np.uint8), turn, (400, 400), borderValue=40)
    cleared = clear_surroundings(turned)
    assert min(cleared[0, 0], cleared[-1, -1], cleared[0, -1]) > 240
    assert cleared[140:240, 160:260].min() < 60  # the FIVE is still there


def test_a_zero_is_not_taken_for_a_frame():
    picture = np.full((280, 280), 255, np.uint8)
    cv2.rectangle(picture, (60, 30), (220, 250), 0, 30)
    assert (clear_surroundings(picture) == picture).all()


@pytest.mark.parametrize("which", range(10))
def test_ink_is_dark_whichever_way_the_picture_was(which):
    light_on_dark = TEN[which]
    assert (dark_on_light(light_on_dark) == 255 - light_on_dark).all()
    assert (dark_on_light(255 - light_on_dark) == 255 - light_on_dark).all()


def test_ink_is_dark_in_a_dark_corner():
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    paper = 200 * (1 - 0.45 * (x**2 + y**2))  # the edges of the picture are darker than its middle
    picture = on_paper(TEN[3], paper, 150, 75, 75).astype(np.uint8)
    assert (dark_on_light(picture) == picture).all()


def test_shadow_is_evened_and_ink_stays():
    paper = np.full((360, 420), 210.0)
    paper[:, 200:] *= 0.5  # a sharp edge through the digit
    even = even_light(on_paper(TEN[3], paper).astype(np.uint8))
    ink = enlarged(TEN[3], 240)
    window = even[60:300, 90:330]
    assert window[ink == 0].min() > 240
    assert window[ink == 255].max() < 80


def test_ink_from_faint_pencil_with_noise():
    paper = np.full((300, 300), 200.0)
    paper[100:200, 145:155] = 160
    ink = find_ink(as_photo(paper))
    assert (ink[102:198, 147:153] > 128).mean() > 0.98
    assert (ink[:, :140] > INK).mean() < 0.001


def test_ink_of_mnist_is_left_as_it_is():
    assert np.abs(find_ink(255 - FIVE).astype(int) - FIVE).max() <= 3


def test_lines_are_removed_and_strokes_closed():
    ink = np.zeros((400, 400), np.uint8)
    ink[100:300, 190:215] = 255  # a stroke
    alone = ink.copy()
    for y in range(40, 400, 60):
        cv2.line(ink, (0, y), (399, y + 8), 255, 2)
        cv2.line(ink, (y, 0), (y - 8, 399), 255, 2)
    assert (remove_lines(ink) != alone).mean() < 0.003


def test_bar_of_a_seven_is_no_line():
    ink = np.zeros((400, 400), np.uint8)
    cv2.polylines(ink, [np.array([(60, 50), (340, 50), (160, 350)])], False, 255, 2)
    assert (remove_lines(ink) == ink).all()


@pytest.mark.parametrize("tilt", [0, 20])
@pytest.mark.parametrize(
    ("shape", "pen"), [((648, 1152), 5), ((720, 1280), 10), ((400, 400), 4), ((1024, 768), 8)]
)
def test_a_one_as_high_as_the_picture_is_no_line(shape, pen, tilt):
    ink = np.zeros(shape, np.uint8)
    middle = shape[1] // 2
    cv2.line(ink, (middle + tilt, 20), (middle - tilt, shape[0] - 20), 255, pen)
    assert (remove_lines(ink) == ink).all()


def test_paler_part_of_the_paper_is_no_sheet():
    paper = np.full((360, 420), 250.0)
    paper[110:300, 120:300] = 228  # the FIVE reaches beyond it
    picture = on_paper(FIVE, paper).astype(np.uint8)
    assert (clear_surroundings(picture) == picture).all()


def test_sheet_seen_at_an_angle_is_cut_out():
    sheet = 255.0 - enlarged(FIVE, 200)
    corners = np.array([(110, 60), (290, 60), (380, 340), (20, 340)], np.float32)
    square = np.array([(0, 0), (200, 0), (200, 200), (0, 200)], np.float32)
    turn = cv2.getPerspectiveTransform(square, corners)
    picture = cv2.warpPerspective(sheet.astype(np.uint8), turn, (400, 400), borderValue=40)
    assert clear_surroundings(picture).min(axis=1)[[0, -1]].min() > 200


@pytest.mark.parametrize("tilt", [-11, 8])
@pytest.mark.parametrize("side", [200, 400])
def test_tilted_lines_are_removed_also_where_they_leave_by_another_side(side, tilt):
    ink = np.zeros((side, side), np.uint8)
    cv2.line(ink, (side // 2, side // 4), (side // 2, 3 * side // 4), 255, side // 16)
    alone = ink.copy()
    down = round(side * np.tan(np.deg2rad(tilt)))
    for y in range(-side // 8, side, side // 6):
        cv2.line(ink, (0, y), (side - 1, y + down), 255, 1)
    left = (remove_lines(ink) > 0) & (alone == 0)
    assert left.sum() < 0.2 * ((ink > 0) & (alone == 0)).sum()


def test_slanted_bar_of_a_seven_is_no_line():
    ink = np.zeros((400, 400), np.uint8)
    cv2.polylines(ink, [np.array([(20, 80), (380, 40), (160, 370)])], False, 255, 3)
    assert (remove_lines(ink) == ink).all()


@pytest.mark.parametrize("frame", ["box", "ring", "box that it touches"])
def test_a_frame_around_the_digit_is_erased(frame):
    ink = np.zeros((400, 400), np.uint8)
    ink[120:280, 120:280] = enlarged(FIVE, 160)
    alone = ink.copy()
    rows, columns = np.nonzero(alone > 127)
    left, right, top = columns.min() - 25, columns.max() + 25, rows.min() - 25
    bottom = rows.max() + (0 if frame == "box that it touches" else 20)
    if frame == "ring":
        cv2.circle(ink, (200, 200), 110, 255, 6)
    else:
        cv2.rectangle(ink, (left, top), (right, bottom), 255, 6)
    assert (remove_lines(ink) == alone).mean() > 0.99


def test_a_zero_with_corners_is_no_frame():
    ink = np.zeros((400, 400), np.uint8)
    cv2.rectangle(ink, (130, 90), (270, 310), 255, 14)
    assert (remove_lines(ink) == ink).all()


def test_squared_paper_that_the_digit_crosses_is_no_frame():
    """One piece with the digit, and a speck in one of its squares."""
    ink = np.zeros((400, 400), np.uint8)
    for at in range(40, 370, 40):
        ink[at : at + 3, 40:363] = ink[40:363, at : at + 3] = 255
    ink[100:300, 150:170] = 255
    ink[48:68, 50:60] = 255
    assert remove_lines(ink)[110:290, 152:168].min() == 255
