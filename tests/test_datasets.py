"""The data sets by name: what they hold, and how undamaged files are recognised."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mnist_cnn
from mnist_cnn.data import Split, load_split
from mnist_cnn.datasets import CLOTHES, DIGITS, FILES, HIRAGANA, SIZE, SOURCES

NAMES = {file for files in FILES.values() for file in files}
DOWNLOADED = ("mnist", "fashion-mnist", "kmnist")


# ------------------------------------------------------------------------------ sources


def test_the_data_sets_are_those_that_are_promised() -> None:
    assert list(SOURCES) == [*DOWNLOADED, "sample"]


def test_classes_are_named_in_the_order_of_their_labels() -> None:
    assert SOURCES["mnist"].classes == SOURCES["sample"].classes == DIGITS == list("0123456789")
    assert SOURCES["fashion-mnist"].classes == CLOTHES
    assert SOURCES["kmnist"].classes == HIRAGANA
    assert (CLOTHES[0], CLOTHES[9]) == ("T-shirt/top", "Ankle boot")
    assert (HIRAGANA[0], HIRAGANA[9]) == ("o", "wo")
    assert {len(set(source.classes)) for source in SOURCES.values()} == {10}


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_classes_are_torchvisions(name: str) -> None:
    from torchvision import datasets

    theirs = getattr(datasets, SOURCES[name].dataset).classes
    if name == "mnist":  # "7 - seven"
        theirs = [label.split(" ")[0] for label in theirs]
    assert SOURCES[name].classes == theirs


@pytest.mark.parametrize("name", DOWNLOADED)
def test_sums_of_packed_files_are_torchvisions(name: str) -> None:
    from torchvision import datasets

    theirs = dict(getattr(datasets, SOURCES[name].dataset).resources)
    assert {f"{file}.gz": sum for file, sum in SOURCES[name].packed_md5.items()} == theirs
    assert getattr(datasets, SOURCES[name].dataset).mirrors


@pytest.mark.parametrize("name", DOWNLOADED)
def test_every_file_of_a_data_set_that_is_downloaded_has_a_sum(name: str) -> None:
    assert SOURCES[name].packed_md5.keys() == NAMES
    assert SOURCES[name].md5.keys() == (NAMES if name == "mnist" else set())
    assert (SOURCES[name].counts["train"], SOURCES[name].counts["test"]) == (60_000, 10_000)
    assert SOURCES[name].validation == 5_000


def test_names_and_sums_are_had_without_loading_torch() -> None:
    code = "import sys, mnist_cnn.datasets; print(*sys.modules)"
    package = Path(mnist_cnn.__file__).parents[1]
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "mnist_cnn.datasets" in loaded
    assert not {"torch", "torchvision", "numpy", "matplotlib"} & set(loaded)


# ------------------------------------------------------------------------------ the sample


@pytest.fixture(scope="module")
def sample() -> dict[str, Split]:
    return {split: load_split("sample", split, "") for split in FILES}


def test_the_sample_lies_inside_the_package() -> None:
    folder = SOURCES["sample"].folder
    assert folder is not None
    assert folder.is_relative_to(Path(mnist_cnn.__file__).parent)
    assert {path.name for path in (folder / "MNIST" / "raw").iterdir()} >= NAMES


@pytest.mark.parametrize(("split", "each"), [("train", 400), ("test", 100)])
def test_the_sample_holds_as_many_of_each_digit(
    split: str, each: int, sample: dict[str, Split]
) -> None:
    assert sample[split].labels.bincount().tolist() == [each] * 10
    assert SOURCES["sample"].counts[split] == 10 * each
    assert SOURCES["sample"].validation == 400


def test_no_image_of_the_sample_is_in_both_splits(sample: dict[str, Split]) -> None:
    seen = {image.numpy().tobytes() for image in sample["train"].images}
    assert not any(image.numpy().tobytes() in seen for image in sample["test"].images)


def test_the_sample_looks_like_digits_on_black(sample: dict[str, Split]) -> None:
    images = sample["train"].images
    assert images.shape[1:] == (SIZE, SIZE)
    assert 0.1 < (images / 255).mean() < 0.17
    assert images[:, 0].max() == 0  # nothing in the first row
    assert images.amax((1, 2)).min() > 200


def test_the_sample_is_shuffled(sample: dict[str, Split]) -> None:
    for split in sample.values():
        assert len(torch.unique(split.labels[:50])) > 5


def test_the_sample_is_known_to_be_a_part_of_mnist() -> None:
    assert SOURCES["sample"].part_of == "mnist"
    assert not any(SOURCES[name].part_of for name in DOWNLOADED)
