"""What is drawn beside MNIST's own images: flags on ones, and pictures of no single digit."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from mnist_cnn.data import Split, load_split
from mnist_cnn.enrich import NO_DIGIT, draw_flags, draw_lines, enrich, put_side_by_side, to_targets
from mnist_cnn.recipes import STANDARD

SAMPLE = load_split("sample", "test", "")


def recipe(flags=0.0, non_digits=0.0):
    return dataclasses.replace(STANDARD, flags=flags, non_digits=non_digits)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def bars(n, width=3):
    """Upright bars, 18 pixels high."""
    images = torch.zeros(n, 28, 28, dtype=torch.uint8)
    images[:, 5:23, 13 : 13 + width] = 255
    return images


def slant(images, degrees):
    """The same images, turned so far to the right, as most people's writing is."""
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    maps = torch.tensor([[cos, sin, 0.0], [-sin, cos, 0.0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(maps, [len(images), 1, 28, 28], align_corners=False)
    return F.grid_sample(images[:, None].float(), grid, align_corners=False)[:, 0].byte()


def test_nothing_is_drawn_that_the_recipe_does_not_ask_for():
    images, labels = enrich(SAMPLE, recipe(), seed=1)
    assert torch.equal(images, SAMPLE.images) and torch.equal(labels, SAMPLE.labels)


def test_so_many_ones_get_a_flag_and_nothing_else_changes():
    few = SAMPLE.labels != 7  # so that ones are more than a tenth
    split = Split(SAMPLE.images[few], SAMPLE.labels[few])
    before = split.images.clone()
    flagged = []
    for seed in (1, 2):
        images, labels = enrich(split, recipe(flags=0.3), seed)
        assert torch.equal(split.images, before)  # a copy is drawn on
        assert torch.equal(labels, split.labels)
        changed = (images != split.images).flatten(1).any(1)
        assert not changed[labels != 1].any()
        assert changed.sum() == round(0.3 * int((labels == 1).sum()))
        flagged.append(changed)
    assert not torch.equal(*flagged)  # others


def test_added_pictures_are_no_digit():
    images, labels = enrich(SAMPLE, recipe(non_digits=0.1), seed=1)
    n = len(SAMPLE.labels)
    assert len(images) == len(labels) == n + round(0.1 * n)
    assert torch.equal(images[:n], SAMPLE.images) and torch.equal(labels[:n], SAMPLE.labels)
    assert (labels[n:] == NO_DIGIT).all() and labels.dtype == torch.int64
    assert images.dtype == torch.uint8


def test_the_seed_decides_what_is_drawn_and_nobody_elses_random_numbers():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, _ = enrich(SAMPLE, recipe(flags=0.3, non_digits=0.1), seed=1)
    assert torch.equal(torch.rand(2), expected)
    again, _ = enrich(SAMPLE, recipe(flags=0.3, non_digits=0.1), seed=1)
    other, _ = enrich(SAMPLE, recipe(flags=0.3, non_digits=0.1), seed=2)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_flag_goes_from_the_top_down_to_the_left():
    flagged = draw_flags(bars(200), chance()).float()
    # Undo the shift that centred the mass: the stem is what is longest.
    for image in flagged:
        stem = int((image > 127).sum(0).argmax())
        rows = (image > 127).any(1).nonzero()[:, 0]
        top, height = int(rows[0]), len(rows)
        beside = image.clone()
        beside[:, max(0, stem - 2) : stem + 4] = 0
        beside[top + 2 * height // 3 :] = 0  # the foot
        assert (beside[:, stem:] < 127).all()  # nothing to the right of the stem
        assert image[: top + 2 * height // 3, :stem].sum() > 255  # a flag to the left of it


def test_every_third_flagged_one_has_a_foot():
    flagged = draw_flags(bars(300), chance()) > 127
    wide = flagged[:, 18:].any(1).sum(1) > 4  # below, ink is broader than the stem
    assert 0.25 < wide.float().mean() < 0.42


def test_flagged_ones_are_centred_by_mass_as_mnists_digits_are():
    flagged = draw_flags(bars(50), chance()).float()
    place = torch.arange(28.0)
    mass = flagged.sum((1, 2))
    for middle in ((flagged.sum(1) * place).sum(1) / mass, (flagged.sum(2) * place).sum(1) / mass):
        assert middle.min() > 13.45 and middle.max() < 14.55
        assert middle.mean() == pytest.approx(14, abs=0.25)


def test_flags_leave_the_ink_as_sharp_as_it_was():
    ones = SAMPLE.images[SAMPLE.labels == 1]
    full = [
        (images >= 250).sum() / (images > 0).sum() for images in (ones, draw_flags(ones, chance()))
    ]
    assert full[1] > 0.9 * full[0]


def test_a_slanted_one_gets_no_level_flag():
    """A flag that is nearly level on a slanted stem would make a seven of it."""
    slanted = slant(bars(200), 35)
    flagged = draw_flags(slanted, chance()) > 127
    for image in flagged:
        highest = int(image.any(1).nonzero()[0, 0])
        assert image[highest : highest + 3].any(0).sum() <= 9  # a seven's bar would be broader


@pytest.mark.parametrize("degrees", [-25, 0, 25, 45])
def test_a_flag_begins_at_the_stems_end_and_leaves_it_at_a_sharp_angle(degrees, monkeypatch):
    lines = []

    def note_line(*line):
        lines.append(line)
        return draw_lines(*line)

    monkeypatch.setattr("mnist_cnn.enrich.draw_lines", note_line)
    draw_flags(slant(bars(200), degrees), chance())
    (x, y, end_x, end_y, pen), foot = lines
    lean = math.radians(degrees)
    across, up = x * math.cos(lean) + y * math.sin(lean), x * math.sin(lean) - y * math.cos(lean)
    assert (across - 0.5).abs().max() < 0.5  # the bars stand half a pixel to the right
    assert (up + pen).max() < 9.8 and (up + pen).min() > 7  # they reach 9 pixels up
    fall = torch.rad2deg(torch.atan2(x - end_x, end_y - y))  # to the left, from the vertical
    assert fall.min() > max(25, degrees + 20) - 1.5 and fall.max() < max(70, degrees + 20) + 1.5
    rise = torch.rad2deg(torch.atan2(foot[3] - foot[1], foot[2] - foot[0]))
    assert -9 < rise.min() < -7 and 7 < rise.max() < 9  # nearly level


def test_a_pair_fits_where_a_digit_fits():
    n = 200
    pairs = put_side_by_side(SAMPLE.images[:n], SAMPLE.images[n : 2 * n], chance())
    assert pairs.shape == (n, 28, 28)
    rim = pairs.clone()
    rim[:, 3:25, 3:25] = 0
    assert ((rim > 127).flatten(1).any(1)).float().mean() < 0.12
    width = (pairs > 127).any(1).sum(1).float()
    assert 15 < width.mean() <= 21


def test_a_pair_holds_both_digits():
    one, other = torch.zeros(2, 50, 28, 28, dtype=torch.uint8)
    one[:, 4:14, 9:19] = 255  # a block above
    other[:, 14:24, 9:19] = 255  # a block below
    pairs = put_side_by_side(one, other, chance()) > 127
    upper, lower = pairs[:, :12].float(), pairs[:, 17:].float()
    assert (upper.sum((1, 2)) > 20).all() and (lower.sum((1, 2)) > 10).all()
    place = torch.arange(28.0)
    middles = [(half.sum(1) * place).sum(1) / half.sum((1, 2)) for half in (upper, lower)]
    aside = middles[1] - middles[0]
    assert (aside.abs() > 3).all()  # beside each other
    assert 10 < (aside > 0).sum() < 40  # in either order


def test_of_half_of_the_pairs_a_part_of_the_other_is_seen_higher_or_lower():
    one, other = torch.zeros(2, 300, 28, 28, dtype=torch.uint8)
    one[:, 4:12, 10:18] = 255  # a block above
    other[:, 16:24, 10:18] = 255  # a block below
    below = put_side_by_side(one, other, chance())[:, 14:] > 127
    widths, heights = below.any(1).sum(1), below.any(2).sum(1)
    assert 0.3 < (widths < 7).float().mean() < 0.5
    assert widths.max() == 8 and widths.min() >= 3
    assert (heights == 8).all()
    assert len(set(below.any(2).float().argmax(1).tolist())) == 5  # up to two pixels either way


def test_however_narrow_two_digits_are_both_are_seen():
    pairs = put_side_by_side(bars(100, width=2), bars(100, width=2), chance())
    ink = (pairs > 127).any(1).sum(1)
    assert ink.min() >= 2 and ink.max() <= 6


def test_strokes_that_got_thinner_as_a_pair_was_made_smaller_are_thickened():
    bar = torch.zeros(200, 28, 28, dtype=torch.uint8)
    bar[:, 13:15, 4:24] = 255  # level, two pixels high: of half the size it would have one
    thickness = (put_side_by_side(bar, bar, chance()) / 255).sum(1).amax(1)
    assert thickness.min() < 1.2 and thickness.mean() > 1.6


def test_a_line_is_as_broad_as_its_pen_and_ends_where_it_ends():
    line = [torch.tensor([value]) for value in (-5.0, 0.5, 5.0, 0.5, 1.5)]
    (ink,) = draw_lines(*line)
    assert ink.sum(0)[10:18].tolist() == pytest.approx([3.0] * 8)
    assert ink[:, :7].sum() == ink[:, 21:].sum() == 0


def test_targets_of_no_digit_are_all_alike():
    assert to_targets(torch.tensor([NO_DIGIT]), 4).tolist() == [[0.25] * 4]
    targets = to_targets(torch.tensor([3, NO_DIGIT]), 10)
    assert targets[0].tolist() == [0.0] * 3 + [1.0] + [0.0] * 6
    assert targets[1].tolist() == pytest.approx([0.1] * 10)
    assert targets.dtype == torch.float32


def test_a_loss_with_targets_is_that_with_labels():
    logits = torch.randn(20, 10, generator=chance())
    labels = torch.arange(20) % 10
    assert F.cross_entropy(logits, to_targets(labels, 10)).item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), rel=1e-5
    )


def test_labels_without_ones_and_a_single_image_are_no_trouble():
    split = Split(SAMPLE.images[SAMPLE.labels == 3][:1], torch.tensor([3]))
    images, labels = enrich(split, recipe(flags=1.0, non_digits=1.0), seed=0)
    assert labels.tolist() == [3, NO_DIGIT] and len(images) == 2
