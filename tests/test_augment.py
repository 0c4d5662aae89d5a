"""Augmentation: a batch of digits, varied at random as handwriting varies."""

from dataclasses import fields

import pytest
import torch

from mnist_cnn.augment import augment, weaken
from mnist_cnn.data import load_split, to_pixels
from mnist_cnn.datasets import SIZE
from mnist_cnn.recipes import Augmentation

NAMES = [field.name for field in fields(Augmentation)]
EVERYTHING = Augmentation(rotate=0.3, shift=0.1, scale=0.2, shear=0.2, elastic=1.0, stroke=1.0)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    """Images of the sample, uint8 (400, 28, 28)."""
    return load_split("sample", "train", "").images[:400]


def bar(n: int = 400) -> torch.Tensor:
    """n images of an upright bar, 5 pixels wide and 14 high, exactly in the middle."""
    images = torch.zeros(n, SIZE, SIZE)
    images[:, 7:21, 12:16] = 255
    images[:, 7:21, 11] = images[:, 7:21, 16] = 127
    return images.to(torch.uint8)


def moments(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of each image its ink, centre (from the middle, in pixels), and variances along the axes."""
    ink = pixels.squeeze(1)
    place = torch.arange(SIZE) + 0.5 - SIZE / 2
    total = ink.sum((1, 2))
    x = (ink.sum(1) * place).sum(1) / total
    y = (ink.sum(2) * place).sum(1) / total
    dx, dy = place - x[:, None], place - y[:, None]
    return {
        "ink": total,
        "x": x,
        "y": y,
        "xx": (ink.sum(1) * dx**2).sum(1) / total,
        "yy": (ink.sum(2) * dy**2).sum(1) / total,
        "xy": torch.einsum("nyx,nx,ny->n", ink, dx, dy) / total,
    }


def assert_spread(values: torch.Tensor, limit: float) -> None:
    """Random both ways, up to the limit and never (but for rounding to pixels) beyond it."""
    assert values.abs().max() < 1.05 * limit
    assert values.max() > 0.8 * limit
    assert values.min() < -0.8 * limit
    assert values.mean().abs() < 0.15 * limit


def test_without_strengths_augmentation_changes_nothing(digits: torch.Tensor) -> None:
    images = digits[:50]
    assert torch.equal(augment(images, Augmentation()), to_pixels(images))


def test_augmented_images_are_pixels_as_the_network_takes_them(digits: torch.Tensor) -> None:
    images = digits[:51]
    before = images.clone()
    pixels = augment(images, EVERYTHING)
    assert pixels.shape == (51, 1, 28, 28)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1 + 1e-6
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_augmentation_follows_the_seed(name: str, digits: torch.Tensor) -> None:
    images, strengths = digits[:40], Augmentation(**{name: getattr(EVERYTHING, name)})
    torch.manual_seed(5)
    first = augment(images, strengths)
    assert not torch.allclose(first, augment(images, strengths), atol=1e-3)
    torch.manual_seed(5)
    assert torch.equal(first, augment(images, strengths))
    assert not torch.allclose(first, to_pixels(images), atol=1e-2)


def test_images_of_a_batch_are_varied_independently() -> None:
    pixels = augment(bar(8), EVERYTHING)
    for i in range(8):
        for j in range(i):
            assert not torch.allclose(pixels[i], pixels[j], atol=1e-2)


def test_shift_moves_the_image_along_both_axes() -> None:
    before, after = moments(to_pixels(bar())), moments(augment(bar(), Augmentation(shift=0.1)))
    assert_spread(after["x"], 0.1 * SIZE)
    assert_spread(after["y"], 0.1 * SIZE)
    assert torch.corrcoef(torch.stack([after["x"], after["y"]]))[0, 1].abs() < 0.2
    torch.testing.assert_close(after["ink"], before["ink"], rtol=0.01, atol=0)
    torch.testing.assert_close(after["yy"], before["yy"], rtol=0.03, atol=0)


def test_rotate_turns_the_image_about_its_middle() -> None:
    before, after = moments(to_pixels(bar())), moments(augment(bar(), Augmentation(rotate=0.3)))
    angle = 0.5 * torch.atan2(2 * after["xy"], after["yy"] - after["xx"])
    assert_spread(angle, 0.3)
    assert after["x"].abs().max() < 0.1
    assert after["y"].abs().max() < 0.1
    size, turned = before["xx"] + before["yy"], after["xx"] + after["yy"]
    torch.testing.assert_close(turned, size, rtol=0.04, atol=0)


def test_scale_changes_width_and_height_each_on_its_own() -> None:
    before, after = moments(to_pixels(bar())), moments(augment(bar(), Augmentation(scale=0.2)))
    width, height = (1 / (after[k] / before[k]).sqrt() - 1 for k in ("xx", "yy"))
    assert height.max() > 0.15 and height.min() < -0.15
    assert height.abs().max() < 0.22
    assert width.max() > 0.1 and width.min() < -0.12
    assert torch.corrcoef(torch.stack([width, height]))[0, 1].abs() < 0.2
    assert after["xy"].abs().max() < 0.05
    assert after["x"].abs().max() < 0.1


def test_shear_slants_the_image_sideways() -> None:
    before, after = moments(to_pixels(bar())), moments(augment(bar(), Augmentation(shear=0.3)))
    assert_spread(after["xy"] / after["yy"], 0.3)  # pixels sideways per pixel of height
    torch.testing.assert_close(after["yy"], before["yy"], rtol=0.01, atol=0)
    torch.testing.assert_close(after["ink"], before["ink"], rtol=0.01, atol=0)


def test_turned_and_slanted_at_once_an_image_keeps_its_ink() -> None:
    before = moments(to_pixels(bar()))
    after = moments(augment(bar(), Augmentation(rotate=0.3, shear=0.3)))
    torch.testing.assert_close(after["ink"], before["ink"], rtol=0.02, atol=0)


def test_elastic_bends_by_about_as_many_pixels_as_it_says() -> None:
    # On a ramp, brightness is place: how far a pixel's brightness is off tells how far it moved.
    ramp = (torch.arange(SIZE) * 9).to(torch.uint8).expand(300, SIZE, SIZE)
    pixels = augment(ramp, Augmentation(elastic=0.8)) * 255 / 9
    moved = (pixels - to_pixels(ramp) * 255 / 9)[:, 0, 6:-6, 6:-6]
    assert 0.7 < moved.std() < 0.9
    assert moved.std(0).min() > 0.6 * moved.std(0).max()  # alike all over the image
    assert moved.mean().abs() < 0.1
    # It is smooth: neighbours move alike, and pixels 6 apart half as much; and local: far corners
    # do not.
    near = torch.corrcoef(torch.stack([moved[:, 8, 8], moved[:, 8, 9]]))[0, 1]
    middle = torch.stack([moved[:, :, 4].flatten(), moved[:, :, 10].flatten()])
    far = torch.corrcoef(torch.stack([moved[:, 0, 0], moved[:, -1, -1]]))[0, 1]
    assert near > 0.9
    assert 0.3 < torch.corrcoef(middle)[0, 1] < 0.75
    assert far.abs() < 0.4


def test_stroke_thickens_some_images_thins_some_and_leaves_half(digits: torch.Tensor) -> None:
    ink = augment(digits, Augmentation(stroke=1.0)).sum((1, 2, 3))
    ratio = ink / to_pixels(digits).sum((1, 2, 3))
    unchanged = (ratio - 1).abs() < 1e-3
    assert 0.4 < unchanged.float().mean() < 0.6
    assert 0.15 < (ratio > 1.001).float().mean() < 0.35
    assert 0.15 < (ratio < 0.999).float().mean() < 0.35
    assert ratio.max() > 1.3
    assert ratio.min() < 0.7


def test_stroke_moves_an_edge_by_a_pixel_at_most() -> None:
    images = torch.zeros(200, SIZE, SIZE, dtype=torch.uint8)
    images[:, 10:18, 10:18] = 255
    pixels = augment(images, Augmentation(stroke=1.0))[:, 0]
    inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    inside[11:17, 11:17] = True
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[9:19, 9:19] = False
    torch.testing.assert_close(pixels[:, inside], torch.ones(200, 36), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        pixels[:, outside], torch.zeros(200, int(outside.sum())), atol=1e-3, rtol=0
    )
    for row, column in ((9, 14), (18, 14), (14, 9), (14, 18)):
        assert pixels[:, row, column].max() > 0.9  # grown by nearly the whole pixel
    for row, column in ((10, 14), (17, 14), (14, 10), (14, 17)):
        assert pixels[:, row, column].min() < 0.1  # or shrunk by it
    half = augment(images, Augmentation(stroke=0.5))[:, 0]
    assert 0.45 < half[:, 9, 14].max() <= 0.5 <= half[:, 10, 14].min() < 0.55


# ------------------------------------------------------------------------------ fading


def test_strengths_fade_in_equal_steps_over_the_last_share_of_the_epochs() -> None:
    """With fade 0.3, of 10 epochs the last three have all of it, two thirds and a third."""
    shares = [1.0] * 8 + [2 / 3, 1 / 3]
    for epoch, share in enumerate(shares, 1):
        faded = weaken(EVERYTHING, epoch, 10, fade=0.3)
        for name in NAMES:
            assert getattr(faded, name) == pytest.approx(share * getattr(EVERYTHING, name))


def test_strengths_that_do_not_fade_stay_to_the_end() -> None:
    assert [weaken(EVERYTHING, epoch, 2, fade=0.0) for epoch in (1, 2)] == [EVERYTHING] * 2


def test_strengths_that_fade_over_the_whole_run_fade_from_the_start() -> None:
    rotations = [weaken(EVERYTHING, epoch, 4, fade=1.0).rotate for epoch in (1, 2, 3, 4)]
    assert rotations == pytest.approx([0.3, 0.225, 0.15, 0.075])
