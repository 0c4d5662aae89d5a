"""The files of a data set: found or downloaded, one mirror after the other, and checked.

torchvision knows the mirrors. Its own download is not used: it has no time-out, it gives up at a
broken connection without trying the next mirror, and importing it takes a second or two, which a
command whose data are already there need not wait for.
"""

import contextlib
import gzip
import hashlib
import math
import stat
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

from mnist_cnn import Error
from mnist_cnn.datasets import FILES, SIZE, SOURCES, Source
from mnist_cnn.system.files import check_folder, remove_leavings, write_file

LARGEST = 100_000_000  # bytes: no file of a data set has half as many
TIMEOUT = 10  # seconds without a byte after which a mirror is given up


class DownloadError(Error):
    """No mirror delivered an undamaged file."""


def choose_dataset(data_dir: str | Path, quiet: bool = False) -> tuple[str, str]:
    """Find out what "auto" stands for: MNIST if on disk or downloadable, else the sample.

    Returns:
        the data set's name, and why it had to be the sample ("" for MNIST).

    Raises:
        Error: data_dir cannot be written to.
    """
    try:
        download("mnist", data_dir, quiet)
    except DownloadError as error:
        return "sample", str(error)
    return "mnist", ""


def download(name: str, data_dir: str | Path, quiet: bool = False) -> None:
    """Download the missing files of a data set into data_dir, from torchvision's mirrors.

    For each file, one mirror after the other is tried, whatever goes wrong, and the file is put
    in its place only once it is complete and its MD5 checksum is right.

    Args:
        name: one of SOURCES.
        data_dir: the folder in which torchvision's own layout begins (MNIST/raw/...).
        quiet: do not report the download.

    Raises:
        DownloadError: no mirror delivered the file.
        Error: data_dir cannot be written to.
    """
    source = SOURCES[name]
    raw = raw_folder(source, data_dir)
    missing = [
        file
        for files in FILES.values()
        for file in files
        if not (raw / file).exists() and not packed_path(raw, file).exists()
    ]
    if source.folder is not None and missing:
        raise Error(f"{raw / missing[0]} is missing: reinstall the package mnist_cnn")
    if missing:
        check_folder(raw, "--data-dir")
    for file in missing:
        download_file(source, raw, file, quiet)


def download_file(source: Source, raw: Path, file: str, quiet: bool) -> None:
    """Download one compressed file into the folder raw, from the first mirror with a good copy.

    Raises:
        DownloadError: no mirror delivered it.
    """
    from torchvision import datasets  # slow, and needed only for the mirrors' addresses

    packed = packed_path(raw, file)
    most = file_size(file_shape(source, file)) + 1024  # incompressible data grow a little
    failures = []
    for mirror in getattr(datasets, source.dataset).mirrors:
        url = f"{mirror.rstrip('/')}/{packed.name}"
        if not quiet:
            print(f"downloading {url}", file=sys.stderr)
        try:
            content = fetch(url, most, quiet)
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"{url}: {describe_failure(error)}")
            continue
        if md5(content) == source.packed_md5[file]:
            keep(packed, content)
            return
        failures.append(f"{url}: the file arrived damaged ({len(content)} bytes)")
    raise DownloadError(f"{packed.name} cannot be downloaded ({'; '.join(failures)})")


def fetch(url: str, most: int, quiet: bool) -> bytes:
    """Return the bytes at an address, waiting at most TIMEOUT seconds for each next part.

    Args:
        most: the largest number of bytes to accept: a mirror that sends more sends something else.

    Raises:
        OSError, HTTPException, ValueError: they cannot be downloaded.
    """
    # Some mirrors turn away clients that do not say who they are.
    request = urllib.request.Request(url, headers={"User-Agent": "mnist_cnn"})
    # A new opener uses the proxies as they are set now; urllib's shared one, those that were set
    # when it was first used.
    opener = urllib.request.build_opener()
    with opener.open(request, timeout=TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        content = bytearray()
        with tqdm(
            total=total, unit="B", unit_scale=True, leave=False, disable=True if quiet else None
        ) as bar:
            while part := response.read1(1 << 16):
                content += part
                if len(content) > most:
                    raise ValueError(f"more than {most} bytes arrived")
                bar.update(len(part))
    return bytes(content)


def describe_failure(error: Exception) -> str:
    """Say in a few words why a mirror failed."""
    reason: object = error
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        reason = error.reason  # the error that urllib has wrapped
    if isinstance(reason, TimeoutError):
        return f"no answer for {TIMEOUT} s"
    return " ".join(str(reason).split()) or type(reason).__name__


# ------------------------------------------------------------------------------ on disk


def read_file(name: str, file: str, data_dir: str | Path, quiet: bool = False) -> bytes:
    """Return a data set's file, unpacked and checked; download and unpack it if need be.

    Args:
        name: one of SOURCES.
        file: one of its files, as FILES names them.

    Raises:
        DownloadError: the file is missing and no mirror delivered it.
        Error: the file is damaged, compressed or unpacked, or cannot be read.
    """
    source = SOURCES[name]
    raw = raw_folder(source, data_dir)
    unpacked, packed = raw / file, packed_path(raw, file)
    if not unpacked.exists() and not packed.exists():
        download(name, data_dir, quiet)
    is_packed = packed.exists() and source.folder is None
    packed_content = read_packed(source, packed) if is_packed else b""
    if unpacked.exists():
        content = read(unpacked)
        check_content(source, unpacked, content)
        return content
    try:
        content = gzip.decompress(packed_content)
    except (OSError, EOFError, ValueError) as error:
        raise damaged(packed, str(error)) from None
    check_content(source, packed, content)
    with contextlib.suppress(OSError):  # a folder that is complete need not be writable
        keep(unpacked, content)
    return content


def keep(path: Path, content: bytes) -> None:
    """Write a file of a data set; remove what earlier attempts left behind when killed."""
    with contextlib.suppress(OSError):
        remove_leavings(path.parent, (path.name,), alone=False)
    write_file(path, content, make_folder=True)


def read_packed(source: Source, path: Path) -> bytes:
    """Return a compressed file, checked by its MD5 checksum."""
    content = read(path)
    if md5(content) != source.packed_md5[path.stem]:
        raise damaged(path, "its MD5 checksum is wrong")
    return content


def check_content(source: Source, path: Path, content: bytes) -> None:
    """Make sure that an unpacked file is what its name says.

    Raises:
        Error: its size, its header, a label or its MD5 checksum is wrong.
    """
    file = path.stem  # without .gz
    shape = file_shape(source, file)
    size = file_size(shape)
    if len(content) != size:
        raise damaged(path, f"it has {len(content)} bytes instead of {size}")
    if not content.startswith(file_header(shape)):
        raise damaged(path, "its header is wrong")
    if len(shape) == 1 and (largest := max(content[-shape[0] :])) >= len(source.classes):
        raise damaged(path, f"it holds the label {largest}")
    if file in source.md5 and md5(content) != source.md5[file]:
        raise damaged(path, "its MD5 checksum is wrong")


def file_shape(source: Source, file: str) -> tuple[int, ...]:
    """Return the shape of what a file holds: (N, 28, 28) images or (N,) labels."""
    count = next(source.counts[split] for split, files in FILES.items() if file in files)
    return (count, SIZE, SIZE) if "idx3" in file else (count,)


def file_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an unpacked IDX file of bytes.

    Two zeros, 8 for bytes, the number of dimensions, and each dimension in four bytes.
    """
    return bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)


def file_size(shape: tuple[int, ...]) -> int:
    """Return how many bytes an unpacked IDX file has."""
    return len(file_header(shape)) + math.prod(shape)


def raw_folder(source: Source, data_dir: str | Path) -> Path:
    """Return the folder that torchvision uses for a data set's files."""
    return (source.folder or Path(data_dir)) / source.dataset / "raw"


def packed_path(raw: Path, file: str) -> Path:
    """Return the path of the compressed form of a file."""
    return raw / f"{file}.gz"


def read(path: Path) -> bytes:
    """Return the content of a file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            raise OSError(0, "it is not a file of a data set")
        return path.read_bytes()
    except OSError as error:
        raise Error(f"cannot read {path} ({error.strerror}): check it, or --data-dir") from None


def md5(content: bytes) -> str:
    """Return the MD5 checksum as text; it reveals damage, not tampering."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def damaged(path: Path, why: str) -> Error:
    """Return the error that names a damaged file and says how to replace it."""
    return Error(f"{path} is damaged ({why}): delete it and run the same command again")
