"""The digits: found or downloaded, checked, split, cut into batches, and varied at random.

MNIST is small: 60,000 training images are 47 MB of bytes. So a whole data set lives in memory as
one uint8 tensor, and a batch is cut out of it by index. There is no loader process and no Python
per image, which is where tutorials usually spend most of their time.
"""

import functools
import gzip
import hashlib
import os
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError, URLError

import torch
import torch.nn.functional as F
from tqdm import tqdm

from mnist_cnn import Error
from mnist_cnn.files import check_folder, write_file

SIZE = 28  # pixels along each side of every image
TIMEOUT = 10  # seconds without a byte after which a mirror is given up
SAMPLE_DIR = Path(__file__).parent / "sample"
FILES = {  # the IDX files of each split: images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
HIRAGANA = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]


class Source(NamedTuple):
    """Where a data set comes from, what it holds, and how to tell that it is undamaged."""

    dataset: str  # the class in torchvision.datasets, which knows mirrors and packed MD5 sums
    classes: list[str]
    counts: dict[str, int]  # images in each split
    validation: int  # of the training images, how many are held out
    md5: dict[str, str]  # of the unpacked files; without it, header and size are checked


SOURCES = {
    "mnist": Source(
        "MNIST",
        DIGITS,
        {"train": 60_000, "test": 10_000},
        5_000,
        {
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
        5_000,
        {},
    ),
    "kmnist": Source(
        "KMNIST",
        HIRAGANA,
        {"train": 60_000, "test": 10_000},
        5_000,
        {},
    ),
    # 5,000 of MNIST's training digits that come with the package: see sample/README.md.
    "sample": Source("MNIST", DIGITS, {"train": 4_000, "test": 1_000}, 400, {}),
}


class DownloadError(Error):
    """No mirror gave an undamaged file."""


class Split(NamedTuple):
    """Images with their labels: uint8 (N, 28, 28), int64 (N,) with values from 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> "Split":
        """The same on another device."""
        return Split(self.images.to(device), self.labels.to(device))


# ------------------------------------------------------------------------------ files


def load_split(name: str, split: str, data_dir: str | Path, quiet: bool = False) -> Split:
    """Reads the "train" or the "test" split of a data set, downloading what is missing.

    Args:
        name: one of SOURCES.
        split: "train" or "test".
        data_dir: the folder in which torchvision's own layout begins (MNIST/raw/...).
        quiet: say nothing about a download.

    Raises:
        DownloadError: a file is missing and no mirror gave it.
        Error: a file is damaged, or the folder cannot be used.
    """
    from torchvision.datasets.mnist import read_image_file, read_label_file

    source = SOURCES[name]
    root = SAMPLE_DIR if name == "sample" else Path(data_dir)
    raw = root / source.dataset / "raw"
    # Without write permission, packed files are unpacked into a folder that lives until they
    # have been read.
    with tempfile.TemporaryDirectory() as scratch:
        paths = []
        for file in FILES[split]:
            _check_packed(name, raw, file)
            path = raw / file
            if not path.exists():
                path = _unpack(name, raw, file, Path(scratch), quiet)
            _check_unpacked(source, path, split)
            paths.append(path)
        images, labels = read_image_file(os.fspath(paths[0])), read_label_file(os.fspath(paths[1]))
    if int(labels.max()) >= len(source.classes):
        raise _damaged(paths[1], f"holds the label {int(labels.max())}")
    return Split(images, labels)


def find_dataset(data_dir: str | Path, quiet: bool = False) -> tuple[str, str]:
    """Which data set "auto" stands for: MNIST where it is or can be had, else the sample.

    Returns:
        its name, and why it had to be the sample ("" for MNIST).

    Raises:
        Error: MNIST is there but damaged, or data_dir cannot be written.
    """
    try:
        download("mnist", data_dir, quiet)
    except DownloadError as error:
        return "sample", str(error)
    return "mnist", ""


def download(name: str, data_dir: str | Path, quiet: bool = False) -> None:
    """Fetches whatever files of a data set are missing into data_dir, from torchvision's mirrors.

    Each file is tried at one mirror after the other, whatever goes wrong at the first, and is put
    in its place only once it is complete and its MD5 sum is right.

    Raises:
        DownloadError: no mirror gave the file.
        Error: data_dir cannot be written, or holds a damaged packed file.
    """
    source = SOURCES[name]
    raw = Path(data_dir) / source.dataset / "raw"
    missing = [
        file
        for files in FILES.values()
        for file in files
        if not (raw / file).exists() and not (raw / f"{file}.gz").exists()
    ]
    if name == "sample" or not missing:
        return
    check_folder(raw, "--data-dir")
    for file in missing:
        _download_file(source, raw, f"{file}.gz", quiet)


def _download_file(source: Source, raw: Path, file: str, quiet: bool = False) -> None:
    dataset = _torchvision(source)
    md5 = dict(dataset.resources)[file]
    failures = []
    for mirror in dataset.mirrors:
        url = f"{mirror.rstrip('/')}/{file}"
        if not quiet:
            print(f"downloading {url}", file=sys.stderr)
        try:
            content = _fetch(url, quiet)
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{url}: {_reason(error)}")
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
            write_file(raw / file, content)
            return
        failures.append(f"{url}: the file arrived damaged ({len(content)} bytes)")
    raise DownloadError(f"{file} cannot be downloaded ({'; '.join(failures)})")


def _fetch(url: str, quiet: bool) -> bytes:
    """The bytes behind an address; no wait for the next one is longer than TIMEOUT seconds."""
    # Some mirrors turn away clients that do not say who they are.
    request = urllib.request.Request(url, headers={"User-Agent": "mnist_cnn"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        parts = []
        with tqdm(
            total=total, unit="B", unit_scale=True, leave=False, disable=quiet or None
        ) as bar:
            while part := response.read1(1 << 16):
                parts.append(part)
                bar.update(len(part))
    return b"".join(parts)


def _reason(error: Exception) -> str:
    reason: object = error
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        reason = error.reason  # the error that urllib has wrapped
    if isinstance(reason, (TimeoutError, socket.timeout)):
        return f"no answer for {TIMEOUT} s"
    return " ".join(str(reason).split()) or type(reason).__name__


def _unpack(name: str, raw: Path, file: str, scratch: Path, quiet: bool) -> Path:
    """Unpacks raw/file.gz beside itself, or into scratch where that is not allowed."""
    packed = raw / f"{file}.gz"
    if not packed.exists():
        if name == "sample":
            raise Error(f"{raw / file} is missing: install the package mnist_cnn again")
        download(name, raw.parent.parent, quiet)
    try:
        content = gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(packed, str(error)) from None
    try:
        write_file(raw / file, content)
        return raw / file
    except OSError:
        (scratch / file).write_bytes(content)
        return scratch / file


def _check_packed(name: str, raw: Path, file: str) -> None:
    packed = raw / f"{file}.gz"
    if packed.exists() and name != "sample":
        md5 = dict(_torchvision(SOURCES[name]).resources)[packed.name]
        if hashlib.md5(packed.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise _damaged(packed, "its MD5 sum is wrong")


def _check_unpacked(source: Source, path: Path, split: str) -> None:
    count = source.counts[split]
    images = "idx3" in path.name
    # An IDX header: two zero bytes, 8 for bytes, the number of dimensions, and each dimension.
    shape = [count, SIZE, SIZE] if images else [count]
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = len(header) + count * (SIZE * SIZE if images else 1)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Error(f"cannot read {path} ({error.strerror}): check it, or --data-dir") from None
    if len(content) != size:
        raise _damaged(path, f"it has {len(content)} bytes instead of {size}")
    if not content.startswith(header):
        raise _damaged(path, "its header is wrong")
    md5 = source.md5.get(path.name)
    if md5 and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise _damaged(path, "its MD5 sum is wrong")


def _damaged(path: Path, why: str) -> Error:
    return Error(f"{path} is damaged ({why}): delete it and run the same command again")


def _torchvision(source: Source):  # type: ignore[no-untyped-def]
    """The class in torchvision.datasets; torchvision takes 2 s to import, so not before here."""
    from torchvision import datasets

    return getattr(datasets, source.dataset)


# ------------------------------------------------------------------------------ splits


def split_validation(train: Split, count: int) -> tuple[Split, Split]:
    """Holds count images out of the training set: returns (the rest, the validation split).

    The split is stratified (every class gives its share) and always the same: with the images
    sorted by class, every (N / count)-th one is held out.
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
    """Stored images -> the network's input: uint8 (N, 28, 28) -> float (N, 1, 28, 28) in [0, 1]."""
    return images.unsqueeze(1).float().div_(255)


def batches(
    split: Split, order: torch.Tensor, batch_size: int, rank: int = 0, ranks: int = 1
) -> Iterator[Split]:
    """Cuts a split into batches of batch_size, in the given order of its indices, int64 (N,).

    The last images, too few for a whole batch, are left out: another order brings them in at the
    next epoch, if there is one. With several processes each takes its own equal slice of every
    batch.
    """
    for start in range(0, len(order) - batch_size + 1, batch_size):
        mine = order[start + rank * batch_size // ranks : start + (rank + 1) * batch_size // ranks]
        yield Split(split.images[mine], split.labels[mine])


# ------------------------------------------------------------------------------ augmentation


@functools.cache
def _warp_basis(device: torch.device, bumps: int = 6, sigma: float = 4.0) -> torch.Tensor:
    """The smooth functions of a pixel's place out of which every warp is mixed: (39, 784).

    The first three, 1, x and y, make any affine map; the others are bumps-by-bumps Gaussian
    bumps, sigma pixels wide, whose random mixture is the elastic displacement of Simard,
    Steinkraus and Platt, "Best Practices for Convolutional Neural Networks" (2003). They are
    scaled so that a mixture with random weights of deviation 1 has a deviation near 1.
    """
    centre = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1  # of the pixels, in [-1, 1]
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    distance = (centre[:, None] - torch.linspace(-1, 1, bumps)) * SIZE / 2  # pixels, (28, 6)
    bump = torch.exp(-(distance**2) / (2 * sigma**2))
    elastic = torch.einsum("yi,xj->ijyx", bump, bump).reshape(-1, SIZE * SIZE)
    elastic /= elastic.square().sum(0).sqrt().mean()
    affine = torch.stack([torch.ones(SIZE, SIZE), x, y]).reshape(3, -1)
    return torch.cat([affine, elastic]).to(device)


def augment(
    images: torch.Tensor,
    rotate: float = 0.0,
    shift: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    elastic: float = 0.0,
    stroke: float = 0.0,
) -> torch.Tensor:
    """Varies each image at random as handwriting varies: uint8 (N, 28, 28) -> (N, 1, 28, 28).

    Everything is done on the whole batch at once, on whatever device it is, so that it costs a
    small part of a training step. The random numbers are those of torch's global generator.

    Args:
        images: pixels from 0 to 255.
        rotate: largest angle, in radians, either way.
        shift: largest shift along each axis, as a share of the image's side.
        scale: largest change of size along each axis, as a share.
        shear: largest slant, in pixels sideways per pixel of height.
        elastic: standard deviation of the elastic displacement, in pixels.
        stroke: how far strokes are thickened or thinned, from 0 (not) to 1 (by a whole pixel on
            each side, at most). Half of the images keep their strokes as they are.

    Returns:
        pixels as float in [0, 1].
    """
    n, device = len(images), images.device
    pixels = images.unsqueeze(1)
    if stroke:
        pixels = _vary_strokes(pixels, stroke)
    pixels = pixels.float().div_(255)
    if not any((rotate, shift, scale, shear, elastic)):
        return pixels
    # One matrix product mixes the basis into a map per image: where each pixel looks in the
    # original. In units of half an image, as grid_sample wants them.
    angle, widen, heighten, slant, right, down = 2 * torch.rand(6, n, device=device) - 1
    sin, cos = torch.sin(angle * rotate), torch.cos(angle * rotate)
    widen, heighten, slant = 1 + widen * scale, 1 + heighten * scale, slant * shear
    basis = _warp_basis(device)
    weights = torch.randn(len(basis), n, 2, device=device) * (elastic * 2 / SIZE)
    weights[0] = torch.stack([right, down], 1) * (2 * shift)
    weights[1] = torch.stack([cos * widen, sin * heighten], 1)
    weights[2] = torch.stack([(cos * slant - sin) * widen, (sin * slant + cos) * heighten], 1)
    looks_at = basis.T @ weights.view(len(basis), -1)  # (784, 2 N)
    looks_at = looks_at.view(SIZE, SIZE, n, 2).permute(2, 0, 1, 3)  # (N, 28, 28, 2)
    return F.grid_sample(pixels, looks_at, align_corners=False)


def _vary_strokes(pixels: torch.Tensor, strength: float) -> torch.Tensor:
    """Thickens strokes in the first half of the batch and thins them in the second.

    (N, 1, 28, 28) -> the same shape, float. The order of a batch is random, so which half an
    image is in is random too; in each, about every other image stays as it is. A pixel moves
    toward the brightest (thicker) or darkest (thinner) of itself and its four neighbours.
    """
    half = len(pixels) // 2
    padded = F.pad(pixels, (1, 1, 1, 1))
    centre, neighbours = (
        padded[..., 1:-1, 1:-1],
        (
            padded[..., :-2, 1:-1],
            padded[..., 2:, 1:-1],
            padded[..., 1:-1, :-2],
            padded[..., 1:-1, 2:],
        ),
    )
    thick, thin = centre[:half], centre[half:]
    for neighbour in neighbours:
        thick = torch.maximum(thick, neighbour[:half])
        thin = torch.minimum(thin, neighbour[half:])
    amount = torch.rand(len(pixels), 1, 1, 1, device=pixels.device) * 2 - 1
    amount = amount.clamp_(min=0) * strength
    return torch.lerp(pixels.float(), torch.cat([thick, thin]).float(), amount)
