"""Several digits in a picture: each is found, in reading order, and cut from its neighbours."""

import itertools

import cv2
import numpy as np
import pytest
from pictures import TEN, likeness, page_of

from mnist_cnn import Error
from mnist_cnn.handwriting import enlarged, find_digits
from mnist_cnn.handwriting.arrays import cropped
from mnist_cnn.handwriting.number import (
    CUT,
    HOLE,
    ONE,
    ROOT,
    THROUGH,
    Cut,
    Part,
    between,
    cheapest_path,
    cut_apart,
    is_high,
    possible_cuts,
    price_cuts,
    price_spans,
)


def test_rows_of_digits_in_reading_order():
    rows = [TEN[:4], TEN[4:7], TEN[7:]]
    page, boxes = page_of(rows)
    digits = find_digits(page)
    assert len(digits) == 10
    for digit, source, box in zip(digits, TEN, boxes):
        assert likeness(digit.image, source) > 0.85
        assert np.abs(np.subtract(digit.box, box)).max() <= 4


def test_boxes_are_in_pixels_of_the_full_size():
    page, _ = page_of([TEN[:3]])
    small = [digit.box for digit in find_digits(page)]
    large = [digit.box for digit in find_digits(np.kron(page, np.ones((6, 6), np.uint8)))]
    assert np.abs(np.array(large) / 6 - small).max() < 2


def test_a_box_holds_all_of_the_digit_and_ends_where_the_picture_ends():
    scale = 1024 / 1500  # of a picture of 1500 x 1000, which becomes one of 1024 x 683
    assert enlarged((1, 1, 2, 2), scale, (1500, 1000)) == (1, 1, 3, 3)
    assert enlarged((0, 0, 683, 1024), scale, (1500, 1000)) == (0, 0, 1000, 1500)
    assert enlarged((0, 0, 1024, 683), scale, (1000, 1500)) == (0, 0, 1500, 1000)


@pytest.mark.parametrize(
    "start, end", [((10, 38), (42, 38)), ((44, 62), (72, 62))], ids=["above", "beside"]
)
def test_a_broken_digit_is_one_digit(start, end):
    page = np.full((200, 300), 255, np.uint8)
    for left in (40, 180):  # two fives whose bars are apart from the rest
        cv2.line(page, (left, 60), (left, 100), 0, 8)
        cv2.ellipse(page, (left + 4, 125), (30, 25), 0, -100, 140, 0, 8)
        cv2.line(page, (left + start[0], start[1]), (left + end[0], end[1]), 0, 8)
    assert len(find_digits(page)) == 2


def test_touching_digits_are_cut_apart():
    page, _ = page_of([[TEN[0], TEN[6]]], gap=-1)
    digits = find_digits(page)
    assert len(digits) == 2
    for digit, source in zip(digits, (TEN[0], TEN[6])):
        assert likeness(digit.image, source) > 0.85


def test_the_network_decides_about_cuts():
    page, _ = page_of([[TEN[0], TEN[6]]], gap=-1)

    def sees_one_wide_digit(images):
        wide = (images.sum(1) > 0).sum(1) == 20
        high = (images.sum(2) > 0).sum(1) < 16
        return sure_of_zeros(np.where(wide & high, 1.0, 0.1))

    assert len(find_digits(page, sees_one_wide_digit)) == 1
    assert len(find_digits(page, lambda images: sure_of_zeros(np.ones(len(images))))) > 1


def sure_of_zeros(probabilities):
    """Of each picture the probability that it is a 0; all others are as likely as each other."""
    return np.where(np.arange(10) == 0, probabilities[:, None], (1 - probabilities[:, None]) / 9)


def test_what_is_a_little_less_sure_is_cut():
    """A network takes a 3 with a stroke of its neighbour for a 3, and is nearly as sure of it."""
    page, _ = page_of([[TEN[1], TEN[3]]], gap=-1)

    def nearly_sure_of_both_together(images):
        wide = (images.sum(1) > 0).sum(1) > 17
        return sure_of_zeros(np.where(wide, 0.97, 0.9999))

    assert len(find_digits(page, nearly_sure_of_both_together)) == 2


def test_what_a_part_costs():
    def price(height, width, label, sure=1.0, whole=True):
        ink = np.full((height, width), 255, np.uint8)
        probabilities = np.full((1, 10), (1 - sure) / 9)
        probabilities[0, label] = sure
        (cost,) = price_spans([Part(ink, 0, 0)], 100, lambda inks: probabilities, whole)
        return cost

    usual = price(100, 70, 0)
    assert usual == pytest.approx(0, abs=1e-6)
    roots = np.array([0.91, *[0.01] * 9]) ** (1 / ROOT)
    assert price(100, 70, 0, sure=0.91) == pytest.approx(-np.log(roots[0] / roots.sum()))
    assert price(100, 110, 6) > price(100, 90, 6) > price(100, 70, 6) == usual  # too broad
    assert price(100, 90, 0) == usual  # for a 6, not for a 0
    assert price(40, 70, 0) > price(60, 70, 0) > price(80, 70, 0) == usual  # too low
    assert price(100, 30, 1, whole=False) == pytest.approx(price(100, 30, 1) + ONE)
    assert price(100, 70, 0, whole=False) == usual


def test_what_a_cut_costs():
    """More where it goes through more ink, or through a hole; the ends are no cuts."""
    cuts = [Cut(0), Cut(9), Cut(20, through=30), Cut(40, through=30, holes=2), Cut(60)]
    expected = [0, CUT, CUT + THROUGH * 0.3, CUT + THROUGH * 0.3 + 2 * HOLE, 0]
    assert price_cuts(cuts, 100).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_way_is_found_though_not_all_is_judged(seed):
    page, _ = page_of([[TEN[1], TEN[4], TEN[1], TEN[7]]], gap=-6, side=56)
    part, judged = Part(250 - page, 0, 0), []
    height = max(56, cropped(part.ink).shape[0])

    def judge(inks):
        judged.extend(inks)
        chances = [np.random.default_rng([seed, int(ink.sum())]).random() for ink in inks]
        return sure_of_zeros(np.where(np.array(chances) < 0.2, 1.0, 0.1))

    found = cut_apart(part, height, judge)
    few = len(judged)
    cuts = possible_cuts(part.ink, height)
    last = len(cuts) - 1
    spans = {(0, last): part}
    for a, b in itertools.combinations(range(last + 1), 2):
        span = between(part, cuts[a], cuts[b])
        if (a, b) != (0, last) and is_high(span.ink, 0.4 * height):
            spans[a, b] = span
    costs = {ends: price_spans([one], height, judge, one is part)[0] for ends, one in spans.items()}
    path, _ = cheapest_path(costs, price_cuts(cuts, height))
    assert [one.box for one in found] == [spans[ends].box for ends in path]
    assert few < len(spans)


def test_noise_is_refused():
    page = np.full((900, 900), 255, np.uint8)
    page[10:890:44, 10:890:44] = 0  # 400 dots
    page = 255 - cv2.dilate(255 - page, np.ones((9, 9), np.uint8))
    with pytest.raises(Error, match="more than 300 pieces of ink"):
        find_digits(page)


def test_ink_that_is_in_specks_beside_large_faint_strokes_is_none():
    page = np.full((1024, 1024), 255, np.uint8)
    for x in range(20, 1000, 24):
        cv2.line(page, (x, 500), (x + 30, 700), 115, 1)
    cv2.rectangle(page, (500, 100), (561, 161), 0, -1)
    with pytest.raises(Error, match="no ink"):
        find_digits(page)


def test_what_the_network_is_sure_of_is_not_cut():
    page, _ = page_of([[TEN[0], TEN[6]]], gap=-1)
    asked = []

    def sure(images):
        asked.append(len(images))
        return np.eye(10, dtype=np.float32)[np.zeros(len(images), int)]

    assert len(find_digits(page, sure)) == 2  # as wide as two digits, it cannot be one
    asked.clear()
    digit, _ = page_of([[TEN[0]]])
    assert len(find_digits(digit, sure)) == 1 and sum(asked) == 1


@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_a_dark_band_along_an_edge_is_no_digit(edge):
    page, boxes = page_of([TEN[:4]])
    page = np.pad(page, 40, constant_values=250)
    band = {
        "top": np.s_[:18], "bottom": np.s_[-18:], "left": np.s_[:, :18], "right": np.s_[:, -18:]
    }[edge]  # fmt: skip
    page[band] = 60
    found = [digit.box for digit in find_digits(page)]
    assert len(found) == len(boxes)
    assert np.abs(np.array(found) - 40 - boxes).max() <= 4


@pytest.mark.parametrize("percent", [30, 56])
def test_what_shines_through_from_the_back_is_no_digit(percent):
    page, boxes = page_of([TEN[:3], TEN[3:6]])
    back = cv2.GaussianBlur(page_of([TEN[6:9]])[0], (0, 0), 2)[:, ::-1].astype(int)
    through = np.full(page.shape[0] * 2, 0)  # the sheet is written on above, and blank below
    sheet = np.full((len(through), page.shape[1]), 250)
    sheet[: page.shape[0]] = page
    sheet[-back.shape[0] :, : back.shape[1]] -= (250 - back[:, : page.shape[1]]) * percent // 100
    found = [digit.box for digit in find_digits(sheet.astype(np.uint8))]
    assert len(found) == len(boxes)
    assert np.abs(np.subtract(found, boxes)).max() <= 4


def test_a_smudge_is_no_digit_and_a_paler_digit_is_one():
    page, boxes = page_of([TEN[:4]])
    page = np.pad(page, ((0, 80), (0, 0)), constant_values=250)
    left, top, right, bottom = boxes[2]
    paler = page[top:bottom, left:right]
    paler[:] = 250 - (250 - paler.astype(int)) * 7 // 10  # the pen was pressed less
    smudge = np.zeros(page.shape, np.uint8)
    cv2.line(smudge, (60, page.shape[0] - 70), (90, page.shape[0] - 30), 255, 14)
    page -= np.uint8(cv2.GaussianBlur(smudge, (0, 0), 4) * 0.6)
    found = [digit.box for digit in find_digits(page)]
    assert len(found) == len(boxes)
    assert np.abs(np.subtract(found, boxes)).max() <= 4


# ------------------------------------------------------------------------------ what is no digit


def assert_boxes(page, boxes, moved=0):
    """The digits are where they were before so many pixels were added on each side."""
    found = [digit.box for digit in find_digits(page)]
    assert len(found) == len(boxes)
    assert np.abs(np.array(found) - moved - np.array(boxes)).max() <= 4


def test_a_page_of_small_digits_on_a_dark_table():
    page, boxes = page_of([TEN[:4], TEN[4:8]], side=60)
    page = np.pad(page, 120, constant_values=250)  # digits are a tenth of the sheet
    assert_boxes(np.pad(page, 80, constant_values=60), boxes, 200)


@pytest.mark.parametrize("drawn", ["box", "ring", "table", "between"])
def test_what_is_drawn_around_or_between_digits_is_no_digit(drawn):
    page, boxes = page_of([TEN[2:5], TEN[5:8]], gap=40)
    columns = [200 + (boxes[i][2] + boxes[i + 1][0]) // 2 for i in (0, 1)]
    top, middle, bottom = 205, 200 + page.shape[0] // 2, 195 + page.shape[0]
    page = np.pad(page, 200, constant_values=250)
    if drawn == "ring":
        cv2.ellipse(page, (216 + boxes[2][2] // 2, middle), (280, 230), 0, 0, 360, 0, 6)
    if drawn in ("box", "table"):
        cv2.rectangle(page, (208, top), (218 + boxes[2][2], bottom), 0, 4)
    if drawn == "table":
        for x in columns:
            cv2.line(page, (x, top), (x, bottom), 0, 4)
    if drawn == "between":  # two columns
        cv2.line(page, (columns[1], top), (columns[1], bottom), 0, 8)
    assert_boxes(page, boxes, 200)


@pytest.mark.parametrize("drawn", ["minus", "hole"])
def test_a_minus_or_a_punched_hole_is_no_digit(drawn):
    page, boxes = page_of([TEN[:3]])
    page = np.pad(page, 110, constant_values=250)
    if drawn == "minus":
        cv2.line(page, (30, 186), (75, 186), 0, 8)
    else:
        cv2.circle(page, (45, 186), 25, 30, -1, cv2.LINE_AA)
    assert_boxes(page, boxes, 110)


def test_a_rule_below_a_sum_is_no_digit():
    page, boxes = page_of([TEN[:3]])
    page = np.pad(page, 110, constant_values=250)
    cv2.line(page, (110, 290), (110 + boxes[2][2], 296), 0, 8)
    assert_boxes(page, boxes, 110)


def test_a_cut_leans_where_that_goes_through_less_ink():
    """Two slanted strokes, joined by a bridge, that no column could part."""
    ink = np.zeros((200, 300), np.uint8)
    for left in (60, 110):
        cv2.line(ink, (left + 60, 20), (left, 180), 255, 14)
    cv2.line(ink, (100, 100), (130, 100), 255, 6)
    upright = (ink >= 64).sum(0)[60:170].min()
    leaning = min(cut.through for cut in possible_cuts(ink, 160)[1:-1])
    assert leaning < 0.5 * upright


def test_a_cut_through_a_hole_costs_more():
    """A ring beside a stroke: cut between them rather than through the ring."""
    ink = np.zeros((140, 240), np.uint8)
    cv2.circle(ink, (80, 70), 50, 255, 4)
    cv2.line(ink, (130, 20), (130, 120), 255, 4)
    cuts = possible_cuts(ink, 110)
    assert {cut.holes for cut in cuts if 45 < cut.x < 115 and cut.slope == 0} == {1}
    assert cuts[0].holes == cuts[-1].holes == 0
    cv2.line(ink, (30, 70), (130, 70), 255, 4)  # above each other
    assert max(cut.holes for cut in possible_cuts(ink, 110)) == 2
    cv2.line(ink, (30, 70), (130, 70), 0, 4)  # open
    assert {cut.holes for cut in possible_cuts(ink, 110)} == {0}
