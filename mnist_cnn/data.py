"""The digits as tensors: a data set's images and labels, its splits, and batches taken from them.

MNIST is small: 60,000 training images are 47 MB of bytes. So a whole data set lives in memory as
one uint8 tensor, and a batch is taken from it by index: no loader process, no Python per image.
Chapter 8 of docs/tutorial.md measures what that gains, and what else makes training fast.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from mnist_cnn.datasets import FILES, SIZE
from mnist_cnn.download import read_file


class Split(NamedTuple):
    """Images with their labels: uint8 (N, 28, 28), int64 (N,) from 0 to 9 or enrich.NO_DIGIT."""

    images: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> "Split":
        """Return the same split on another device."""
        return Split(self.images.to(device), self.labels.to(device))


def load_split(name: str, split: str, data_dir: str | Path, quiet: bool = False) -> Split:
    """Read the "train" or the "test" split of a data set, downloading what is missing.

    Args:
        name: of the data set, one of datasets.SOURCES.
        split: "train" or "test".
        data_dir: the folder in which torchvision's own layout begins (MNIST/raw/...).
        quiet: do not report a download.

    Raises:
        download.DownloadError: a file is missing and no mirror delivered it.
        Error: a file is damaged, or the folder cannot be used.
    """
    image_file, label_file = FILES[split]
    images = from_idx(read_file(name, image_file, data_dir, quiet)).view(-1, SIZE, SIZE)
    labels = from_idx(read_file(name, label_file, data_dir, quiet)).long()
    return Split(images, labels)


def from_idx(content: bytes) -> torch.Tensor:
    """Return the values of an IDX file, uint8 (N,), without its header.

    The header is 4 bytes, the last of which is the number of dimensions, then 4 bytes for the
    size of each (Y. LeCun, "The MNIST database of handwritten digits").
    """
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[4 + 4 * content[3] :]


def split_validation(train: Split, count: int) -> tuple[Split, Split]:
    """Hold count images out of the training set: return (the rest, the validation split).

    The split is stratified (every class is represented in proportion) and always the same: with
    the images sorted by class, every (N / count)-th one is held out.
    """
    n = len(train.labels)
    by_class = torch.argsort(train.labels, stable=True)
    held_out = torch.zeros(n, dtype=torch.bool)
    held_out[by_class[torch.arange(count) * n // count]] = True
    return (
        Split(train.images[~held_out], train.labels[~held_out]),
        Split(train.images[held_out], train.labels[held_out]),
    )


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Turn stored images into the network's input.

    uint8 (N, 28, 28) from 0 to 255 -> float (N, 1, 28, 28) in [0, 1].
    """
    return images.unsqueeze(1).float().div_(255)


def pixel_statistics(images: torch.Tensor) -> tuple[float, float]:
    """Return the mean and standard deviation of all pixels of uint8 images, scaled to [0, 1].

    They are computed from how often each of the 256 values occurs: exactly, and without turning
    all the pixels into floats.
    """
    counts = torch.bincount(images.flatten(), minlength=256).cpu().double()  # MPS has no double
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean) ** 2).sum() / counts.sum()
    return mean.item(), variance.sqrt().item()


def batches(
    split: Split, order: torch.Tensor, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Split]:
    """Cut a split into batches of batch_size images, in a given order of indices, int64 (N,).

    The last images, too few for a full batch, are left out; the next epoch, in another order,
    leaves out others. With several processes, each takes its own equal slice of every batch.
    """
    steps = len(order) // batch_size
    for batch in order[: steps * batch_size].view(steps, batch_size):
        mine = batch.chunk(world_size)[rank]
        yield Split(split.images[mine], split.labels[mine])
