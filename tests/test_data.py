"""The digits: read and checked from disk, split, cut into batches, varied at random."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Tiny, pack_idx

import mnist_cnn
from mnist_cnn import Error, data

# ------------------------------------------------------------------------------ the sample


def test_the_sample_lies_inside_the_package() -> None:
    assert data.SAMPLE_DIR.is_relative_to(Path(mnist_cnn.__file__).parent)
    names = {path.name for path in (data.SAMPLE_DIR / "MNIST" / "raw").iterdir()}
    assert names >= {name for files in data.FILES.values() for name in files}


@pytest.mark.parametrize(("split", "each"), [("train", 400), ("test", 100)])
def test_the_sample_holds_as_many_of_each_digit(split: str, each: int) -> None:
    images, labels = data.load_split("sample", split, "no such folder")
    assert images.shape == (10 * each, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == [each] * 10


def test_no_image_of_the_sample_is_in_both_splits() -> None:
    train, test = (data.load_split("sample", split, "").images for split in ("train", "test"))
    seen = {image.numpy().tobytes() for image in train}
    assert not any(image.numpy().tobytes() in seen for image in test)


def test_the_sample_looks_like_digits_on_black() -> None:
    images, _ = data.load_split("sample", "train", "")
    assert 0.1 < (images / 255).mean() < 0.17
    assert images[:, 0].max() == 0  # nothing in the first row
    assert images.amax((1, 2)).min() > 200


def test_the_sample_is_shuffled() -> None:
    for split in ("train", "test"):
        labels = data.load_split("sample", split, "").labels
        assert len(set(labels[:50].tolist())) > 5


# ------------------------------------------------------------------------------ splits, batches


@pytest.fixture(scope="module")
def sample() -> data.Split:
    return data.load_split("sample", "train", "")


def test_validation_is_held_out_of_the_training_split(sample: data.Split) -> None:
    rest, validation = data.split_validation(sample, 400)
    assert (len(rest.images), len(rest.labels)) == (3600, 3600)
    assert (len(validation.images), len(validation.labels)) == (400, 400)

    def key(split: data.Split) -> set[bytes]:
        return {
            image.numpy().tobytes() + bytes([label]) for image, label in zip(*split, strict=True)
        }

    assert key(rest).isdisjoint(key(validation))
    assert key(rest) | key(validation) == key(sample)


def test_validation_is_stratified(sample: data.Split) -> None:
    rest, validation = data.split_validation(sample, 400)
    assert validation.labels.bincount().tolist() == [40] * 10
    assert rest.labels.bincount().tolist() == [360] * 10


@pytest.mark.parametrize("count", [1, 7, 333])
def test_validation_has_exactly_the_size_asked_for(sample: data.Split, count: int) -> None:
    rest, validation = data.split_validation(sample, count)
    assert (len(rest.labels), len(validation.labels)) == (4000 - count, count)


def test_validation_is_stratified_where_classes_are_uneven() -> None:
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)[torch.randperm(160)]
    split = data.Split(torch.zeros(160, 28, 28, dtype=torch.uint8), labels)
    assert data.split_validation(split, 16)[1].labels.bincount().tolist() == [10, 5, 1]


def test_validation_is_the_same_whatever_the_seed(sample: data.Split) -> None:
    torch.manual_seed(1)
    first = data.split_validation(sample, 400)[1]
    torch.manual_seed(2)
    second = data.split_validation(sample, 400)[1]
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)


def test_batches_follow_the_order_and_leave_out_an_incomplete_last_one() -> None:
    split = data.Split(
        torch.arange(10, dtype=torch.uint8)[:, None, None].expand(10, 28, 28), torch.arange(10)
    )
    order = torch.tensor([9, 0, 8, 1, 7, 2, 6, 3, 5, 4])
    cut = list(data.batches(split, order, 4))
    assert [batch.labels.tolist() for batch in cut] == [[9, 0, 8, 1], [7, 2, 6, 3]]
    assert [batch.images[:, 5, 5].tolist() for batch in cut] == [[9, 0, 8, 1], [7, 2, 6, 3]]


def test_batches_leave_out_nothing_where_they_come_out_even() -> None:
    split = data.Split(torch.zeros(8, 28, 28, dtype=torch.uint8), torch.arange(8))
    cut = list(data.batches(split, torch.arange(8), 4))
    assert torch.cat([batch.labels for batch in cut]).tolist() == list(range(8))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_the_slices_of_the_ranks_make_up_the_batch(ranks: int) -> None:
    split = data.Split(torch.zeros(50, 28, 28, dtype=torch.uint8), torch.arange(50))
    order = torch.randperm(50)
    whole = list(data.batches(split, order, 12))
    slices = [list(data.batches(split, order, 12, rank, ranks)) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        parts = [mine[step].labels for mine in slices]
        assert {len(part) for part in parts} == {12 // ranks}
        assert torch.equal(torch.cat(parts), batch.labels)


def test_pixels_are_floats_from_0_to_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None].expand(3, 28, 28)
    pixels = data.to_pixels(images)
    assert pixels.shape == (3, 1, 28, 28)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[:, 0, 3, 4], torch.tensor([0.0, 0.2, 1.0]))
    assert images[2, 0, 0] == 255  # what it was given is left as it was


# ------------------------------------------------------------------------------ files on disk

TRAIN_IMAGES, TRAIN_LABELS = data.FILES["train"]


def load_both(folder: Path, name: str = "mnist") -> tuple[data.Split, data.Split]:
    return data.load_split(name, "train", folder), data.load_split(name, "test", folder)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_files_on_disk_are_read_packed_or_not(
    make_tiny: Callable[[str], Tiny], name: str, packed: bool, tmp_path: Path
) -> None:
    tiny = make_tiny(name)
    tiny.write(tmp_path, packed=packed)
    train, test = load_both(tmp_path, name)
    expected = data.load_split("sample", "train", "")
    assert torch.equal(train.images, expected.images[:240])
    assert torch.equal(train.labels, expected.labels[:240])
    assert len(test.labels) == 60


def test_packed_files_are_unpacked_beside_themselves(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path, packed=True)
    load_both(tmp_path)
    for name, content in tiny_mnist.files.items():
        assert (raw / name).read_bytes() == content
    assert len(list(raw.iterdir())) == 8  # and no scratch file is left


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
@pytest.mark.parametrize("file", [TRAIN_IMAGES, TRAIN_LABELS])
@pytest.mark.parametrize("damage", ["short", "long", "empty", "header", "text"])
def test_a_damaged_file_is_named_with_the_way_to_mend_it(
    make_tiny: Callable[[str], Tiny], tmp_path: Path, name: str, file: str, damage: str
) -> None:
    raw = make_tiny(name).write(tmp_path)
    content = (raw / file).read_bytes()
    damaged = {
        "short": content[:-1],
        "long": content + b"\0",
        "empty": b"",
        "header": content[:3] + bytes([content[3] ^ 2]) + content[4:],
        "text": b"<html>".ljust(len(content)),
    }
    (raw / file).write_bytes(damaged[damage])
    with pytest.raises(Error, match="damaged") as caught:
        data.load_split(name, "train", tmp_path)
    assert str(raw / file) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (raw / file).exists()  # it may be all that its owner has


def test_one_wrong_byte_in_mnist_is_noticed(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path)
    content = bytearray((raw / TRAIN_IMAGES).read_bytes())
    content[10_000] ^= 1
    (raw / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(Error, match=f"{TRAIN_IMAGES} is damaged"):
        data.load_split("mnist", "train", tmp_path)


def test_a_label_that_is_no_class_is_noticed(
    make_tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = make_tiny("kmnist")
    labels = torch.arange(240) % 11
    tiny.replace(TRAIN_LABELS, pack_idx(labels))
    tiny.write(tmp_path)
    with pytest.raises(Error, match=f"{TRAIN_LABELS}.*label 10"):
        data.load_split("kmnist", "train", tmp_path)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_damaged_packed_file_is_an_error_even_beside_an_unpacked_one(
    make_tiny: Callable[[str], Tiny], tmp_path: Path, name: str, beside: bool
) -> None:
    tiny = make_tiny(name)
    raw = tiny.write(tmp_path, packed=True)
    packed = raw / f"{TRAIN_IMAGES}.gz"
    packed.write_bytes(packed.read_bytes()[:-7])
    if beside:
        (raw / TRAIN_IMAGES).write_bytes(tiny.files[TRAIN_IMAGES])
    with pytest.raises(Error, match="damaged") as caught:
        data.load_split(name, "train", tmp_path)
    assert not isinstance(caught.value, data.DownloadError)
    assert str(packed) in str(caught.value)
    assert packed.exists()


def test_auto_does_not_pass_over_a_damaged_mnist(
    tiny_mnist: Tiny, tmp_path: Path, cli: Callable
) -> None:
    raw = tiny_mnist.write(tmp_path / "data")
    (raw / TRAIN_IMAGES).write_bytes(b"short")
    cli("train", "--epochs", 1).assert_refused(str(Path("data/MNIST/raw") / TRAIN_IMAGES))
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("dataset", ["auto", "mnist", "kmnist"])
def test_a_data_dir_that_is_a_file_is_refused(dataset: str, cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    cli("train", "--dataset", dataset).assert_refused("data", "--data-dir")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_data_dir_that_cannot_be_written_is_refused(cli: Callable) -> None:
    cli("train", "--dataset", "mnist", "--data-dir", "/dev/null/x").assert_refused("--data-dir")


def forbid_writing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes a folder read-only, for root too, as far as the package can tell."""
    real = data.tempfile.mkstemp

    def refuse(*args: object, **options: object) -> object:
        if folder in (Path(options["dir"]), *Path(options["dir"]).parents):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return real(*args, **options)

    monkeypatch.setattr("mnist_cnn.files.tempfile.mkstemp", refuse)
    monkeypatch.setattr(
        "mnist_cnn.files.tempfile.TemporaryFile", lambda **options: refuse(**options)
    )
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("packed", [False, True])
def test_a_complete_data_dir_may_be_read_only(
    tiny_mnist: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    raw = tiny_mnist.write(tmp_path / "data", packed=packed)
    before = sorted(raw.iterdir())
    forbid_writing(monkeypatch, tmp_path / "data")
    assert data.find_dataset(tmp_path / "data") == ("mnist", "")
    train, test = load_both(tmp_path / "data")
    assert (len(train.labels), len(test.labels)) == (240, 60)
    assert sorted(raw.iterdir()) == before


def test_a_read_only_data_dir_that_lacks_a_file_is_refused(
    tiny_mnist: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable
) -> None:
    raw = tiny_mnist.write(tmp_path / "data")
    (raw / TRAIN_IMAGES).unlink()
    forbid_writing(monkeypatch, tmp_path / "data")
    cli("train", "--data-dir", tmp_path / "data").assert_refused("--data-dir", "Permission denied")


def test_a_sample_that_lost_a_file_asks_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data.SAMPLE_DIR, tmp_path / "sample")
    (tmp_path / "sample" / "MNIST" / "raw" / TRAIN_LABELS).unlink()
    monkeypatch.setattr(data, "SAMPLE_DIR", tmp_path / "sample")
    with pytest.raises(Error, match="install the package"):
        data.load_split("sample", "train", tmp_path)


# ------------------------------------------------------------------------------ augmentation

EVERYTHING = dict(rotate=0.3, shift=0.1, scale=0.2, shear=0.2, elastic=1.0, stroke=1.0)
SIDE = 28


def bar(n: int = 400) -> torch.Tensor:
    """n images of an upright bar, 5 pixels wide and 14 high, exactly in the middle."""
    images = torch.zeros(n, SIDE, SIDE)
    images[:, 7:21, 12:16] = 255
    images[:, 7:21, 11] = images[:, 7:21, 16] = 127
    return images.to(torch.uint8)


def moments(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of each image its ink, centre (from the middle, in pixels), and variances along the axes."""
    ink = pixels.squeeze(1)
    place = torch.arange(SIDE) + 0.5 - SIDE / 2
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


def test_without_strengths_augmentation_changes_nothing(sample: data.Split) -> None:
    images = sample.images[:50]
    torch.testing.assert_close(
        data.augment(images), data.to_pixels(images), atol=2e-4, rtol=0, check_stride=False
    )


def test_augmented_images_are_pixels_as_the_network_takes_them(sample: data.Split) -> None:
    images = sample.images[:51]
    before = images.clone()
    pixels = data.augment(images, **EVERYTHING)
    assert pixels.shape == (51, 1, 28, 28)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1 + 1e-6
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_kind_of_augmentation_follows_the_seed(name: str, sample: data.Split) -> None:
    images, strength = sample.images[:40], {name: EVERYTHING[name]}
    torch.manual_seed(5)
    first = data.augment(images, **strength)
    assert not torch.allclose(first, data.augment(images, **strength), atol=1e-3)
    torch.manual_seed(5)
    assert torch.equal(first, data.augment(images, **strength))
    assert not torch.allclose(first, data.to_pixels(images), atol=1e-2)


def test_images_of_a_batch_are_varied_independently() -> None:
    pixels = data.augment(bar(8), **EVERYTHING)
    for i in range(8):
        for j in range(i):
            assert not torch.allclose(pixels[i], pixels[j], atol=1e-2)


def test_shift_moves_the_image_along_both_axes() -> None:
    before, after = moments(data.to_pixels(bar())), moments(data.augment(bar(), shift=0.1))
    assert_spread(after["x"], 0.1 * SIDE)
    assert_spread(after["y"], 0.1 * SIDE)
    assert torch.corrcoef(torch.stack([after["x"], after["y"]]))[0, 1].abs() < 0.2
    torch.testing.assert_close(after["ink"], before["ink"], rtol=0.01, atol=0)
    torch.testing.assert_close(after["yy"], before["yy"], rtol=0.03, atol=0)


def test_rotate_turns_the_image_about_its_middle() -> None:
    before, after = moments(data.to_pixels(bar())), moments(data.augment(bar(), rotate=0.3))
    angle = 0.5 * torch.atan2(2 * after["xy"], after["yy"] - after["xx"])
    assert_spread(angle, 0.3)
    assert after["x"].abs().max() < 0.1
    assert after["y"].abs().max() < 0.1
    size, turned = before["xx"] + before["yy"], after["xx"] + after["yy"]
    torch.testing.assert_close(turned, size, rtol=0.04, atol=0)


def test_scale_changes_width_and_height_each_on_its_own() -> None:
    before, after = moments(data.to_pixels(bar())), moments(data.augment(bar(), scale=0.2))
    width, height = (1 / (after[k] / before[k]).sqrt() - 1 for k in ("xx", "yy"))
    assert height.max() > 0.15 and height.min() < -0.15
    assert height.abs().max() < 0.22
    assert width.max() > 0.1 and width.min() < -0.12
    assert torch.corrcoef(torch.stack([width, height]))[0, 1].abs() < 0.2
    assert after["xy"].abs().max() < 0.05
    assert after["x"].abs().max() < 0.1


def test_shear_slants_the_image_sideways() -> None:
    before, after = moments(data.to_pixels(bar())), moments(data.augment(bar(), shear=0.3))
    assert_spread(after["xy"] / after["yy"], 0.3)  # pixels sideways per pixel of height
    torch.testing.assert_close(after["yy"], before["yy"], rtol=0.01, atol=0)
    torch.testing.assert_close(after["ink"], before["ink"], rtol=0.01, atol=0)


def test_elastic_bends_by_about_as_many_pixels_as_it_says() -> None:
    # On a ramp, brightness is place: how far a pixel's brightness is off tells how far it moved.
    ramp = (torch.arange(SIDE) * 9).to(torch.uint8).expand(300, SIDE, SIDE)
    pixels = data.augment(ramp, elastic=0.8) * 255 / 9
    moved = (pixels - data.to_pixels(ramp) * 255 / 9)[:, 0, 6:-6, 6:-6]
    assert 0.6 < moved.std() < 1.0
    assert moved.mean().abs() < 0.1
    # It is smooth: neighbours move alike; and local: far corners do not.
    near = torch.corrcoef(torch.stack([moved[:, 8, 8], moved[:, 8, 9]]))[0, 1]
    far = torch.corrcoef(torch.stack([moved[:, 0, 0], moved[:, -1, -1]]))[0, 1]
    assert near > 0.9
    assert far.abs() < 0.4


def test_stroke_thickens_some_images_thins_some_and_leaves_half(sample: data.Split) -> None:
    images = sample.images[:400]
    torch.manual_seed(0)
    ink = data.augment(images, stroke=1.0).sum((1, 2, 3))
    ratio = ink / data.to_pixels(images).sum((1, 2, 3))
    unchanged = (ratio - 1).abs() < 1e-3
    assert 0.4 < unchanged.float().mean() < 0.6
    assert 0.15 < (ratio > 1.001).float().mean() < 0.35
    assert 0.15 < (ratio < 0.999).float().mean() < 0.35
    assert ratio.max() > 1.3
    assert ratio.min() < 0.7


def test_stroke_moves_an_edge_by_a_pixel_at_most() -> None:
    images = torch.zeros(200, SIDE, SIDE, dtype=torch.uint8)
    images[:, 10:18, 10:18] = 255
    pixels = data.augment(images, stroke=1.0)[:, 0]
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[11:17, 11:17] = True
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[9:19, 9:19] = False
    torch.testing.assert_close(pixels[:, inside], torch.ones(200, 36), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        pixels[:, outside], torch.zeros(200, int(outside.sum())), atol=1e-3, rtol=0
    )
    assert pixels[:, 9, 14].max() > 0.9  # grown by nearly the whole pixel
    assert pixels[:, 10, 14].min() < 0.1  # or shrunk by it
