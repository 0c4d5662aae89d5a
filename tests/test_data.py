"""The digits as tensors: splits, batches cut from them, and their pixels."""

import math

import pytest
import torch

from mnist_cnn.data import (
    Split,
    batches,
    load_split,
    pixel_statistics,
    split_validation,
    to_pixels,
)
from mnist_cnn.system.device import choose_device


@pytest.fixture(scope="module")
def sample() -> Split:
    return load_split("sample", "train", "")


def contents(split: Split) -> set[bytes]:
    """Each image with its label."""
    return {image.numpy().tobytes() + bytes([label]) for image, label in zip(*split, strict=True)}


# ------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(("split", "each"), [("train", 400), ("test", 100)])
def test_a_split_is_images_with_their_labels(split: str, each: int) -> None:
    images, labels = load_split("sample", split, "no such folder")
    assert images.shape == (10 * each, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.shape == (10 * each,)
    assert labels.dtype == torch.int64


def test_a_split_on_another_device_is_a_split_still(sample: Split) -> None:
    there = sample.to(torch.device("meta"))
    assert isinstance(there, Split)
    assert (there.images.device.type, there.labels.device.type) == ("meta", "meta")
    assert there.images.shape == sample.images.shape


def test_validation_is_held_out_of_the_training_split(sample: Split) -> None:
    rest, validation = split_validation(sample, 400)
    assert (len(rest.images), len(rest.labels)) == (3600, 3600)
    assert (len(validation.images), len(validation.labels)) == (400, 400)
    assert contents(rest).isdisjoint(contents(validation))
    assert contents(rest) | contents(validation) == contents(sample)


def test_validation_is_stratified(sample: Split) -> None:
    rest, validation = split_validation(sample, 400)
    assert validation.labels.bincount().tolist() == [40] * 10
    assert rest.labels.bincount().tolist() == [360] * 10


@pytest.mark.parametrize("count", [1, 7, 333])
def test_validation_has_exactly_the_size_asked_for(sample: Split, count: int) -> None:
    rest, validation = split_validation(sample, count)
    assert (len(rest.labels), len(validation.labels)) == (4000 - count, count)


def test_validation_is_stratified_where_classes_are_uneven() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)[torch.randperm(160)]
    split = Split(torch.zeros(160, 28, 28, dtype=torch.uint8), labels)
    assert split_validation(split, 16)[1].labels.bincount().tolist() == [10, 5, 1]


def test_validation_is_the_same_whatever_the_seed(sample: Split) -> None:
    torch.manual_seed(1)
    first = split_validation(sample, 400)[1]
    torch.manual_seed(2)
    second = split_validation(sample, 400)[1]
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


# ------------------------------------------------------------------------------ batches


def test_batches_follow_the_order_and_leave_out_an_incomplete_last_one() -> None:
    split = Split(
        torch.arange(10, dtype=torch.uint8)[:, None, None].expand(10, 28, 28), torch.arange(10)
    )
    order = torch.tensor([9, 0, 8, 1, 7, 2, 6, 3, 5, 4])
    cut = list(batches(split, order, 4))
    assert [batch.labels.tolist() for batch in cut] == [[9, 0, 8, 1], [7, 2, 6, 3]]
    assert [batch.images[:, 5, 5].tolist() for batch in cut] == [[9, 0, 8, 1], [7, 2, 6, 3]]


def test_batches_leave_out_nothing_where_they_come_out_even() -> None:
    split = Split(torch.zeros(8, 28, 28, dtype=torch.uint8), torch.arange(8))
    cut = list(batches(split, torch.arange(8), 4))
    assert torch.cat([batch.labels for batch in cut]).tolist() == list(range(8))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_slices_of_the_ranks_make_up_the_batch(ranks: int) -> None:
    split = Split(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.arange(50))
    order = torch.randperm(50)
    whole = list(batches(split, order, 12))
    slices = [list(batches(split, order, 12, rank, ranks)) for rank in range(ranks)]
    assert len(whole) == 4
    for step, batch in enumerate(whole):
        parts = [mine[step].labels for mine in slices]
        assert {len(part) for part in parts} == {12 // ranks}
        assert torch.equal(torch.cat(parts), batch.labels)


# ------------------------------------------------------------------------------ pixels


def test_pixels_are_floats_from_0_to_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None].expand(3, 28, 28)
    pixels = to_pixels(images)
    assert pixels.shape == (3, 1, 28, 28)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 0, 3, 4], torch.tensor([0.0, 0.2, 1.0]))
    assert images[2, 0, 0] == 255  # what it was given is left as it was


def test_statistics_are_those_of_the_pixels_that_the_network_takes(sample: Split) -> None:
    pixels = to_pixels(sample.images).double()
    mean, std = pixel_statistics(sample.images)
    assert mean == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert std == pytest.approx(pixels.std(correction=0).item(), rel=1e-6)


def test_statistics_of_two_values_are_what_one_reckons_by_hand() -> None:
    images = torch.tensor([0, 0, 0, 255], dtype=torch.uint8)[:, None, None].expand(4, 28, 28)
    assert pixel_statistics(images) == pytest.approx((0.25, math.sqrt(3) / 4))


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_statistics_are_the_same_wherever_the_images_are(sample: Split) -> None:
    there = sample.to(choose_device())
    assert pixel_statistics(there.images) == pixel_statistics(sample.images)
