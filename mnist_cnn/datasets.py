"""The data sets by name: their classes, sizes, files and checksums (no torch in here)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SIZE = 28  # pixels along each side of every image
FILES = {  # the IDX files of each split: images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HIRAGANA = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]


@dataclass(frozen=True)
class Source:
    """What a data set holds, where its files are, and how to check that they are undamaged.

    dataset: the class in torchvision.datasets that knows its mirrors, and its folder's name.
    classes: the name of each class.
    counts: images in each split, "train" and "test".
    validation: how many of the training images are held out for validation.
    packed_md5: MD5 checksums of the compressed files, the ones that torchvision checks.
    md5: MD5 checksums of the unpacked files; without them, header and size are checked.
    folder: where the files are if they come with the package; None: in the user's data folder.
    part_of: the data set whose training images these are taken from, if they are.
    epochs: a recipe's epochs are multiplied by this: a smaller data set needs more of them.
    """

    dataset: str
    classes: list[str]
    counts: Mapping[str, int]
    validation: int
    packed_md5: Mapping[str, str] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    part_of: str = ""
    epochs: int = 1


SOURCES = {
    "mnist": Source(
        "MNIST",
        DIGITS,
        {"train": 60_000, "test": 10_000},
        validation=5_000,
        packed_md5={
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        md5={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
    "fashion-mnist": Source(
        "FashionMNIST",
        CLOTHES,
        {"train": 60_000, "test": 10_000},
        validation=5_000,
        packed_md5={
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "kmnist": Source(
        "KMNIST",
        HIRAGANA,
        {"train": 60_000, "test": 10_000},
        validation=5_000,
        packed_md5={
            "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
            "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
            "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
            "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
        },
    ),
    "sample": Source(
        "MNIST",
        DIGITS,
        {"train": 4_000, "test": 1_000},
        validation=400,
        folder=Path(__file__).parent / "sample",
        part_of="mnist",
        # A fifteenth of MNIST's training images: accuracy keeps rising for four times as many
        # epochs, which still take a fraction of the time.
        epochs=4,
    ),
}
