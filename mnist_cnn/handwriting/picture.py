"""From a picture file, or a Pillow image of any mode, to grey pixels."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mnist_cnn import Error
from mnist_cnn.handwriting.arrays import Grey, above_surroundings

FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")  # EPS would run code
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # ISO 23008-12
MAX_PIXELS = 80_000_000  # a 6000x8000 photograph and two thirds as much again
MAX_SIDE = 65_535  # OpenCV keeps a table for each column of what it makes smaller

# What turns a picture upright, by its EXIF orientation (Exif 2.32, section 4.6.4, tag 274).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A number of pixels -> a context in which there is room to decode them.
Room: TypeAlias = Callable[[int], AbstractContextManager[object]]


class TooLarge(Exception):
    """A picture that is not decoded, because it has more pixels than are wanted."""


class Damaged(Exception):
    """A picture that cannot be decoded; the message is the decoder's own, in one line."""


def read_picture(path: str | os.PathLike[str], room: Room = nullcontext) -> Grey:
    """Read a picture file, upright and at full size.

    Pillow may warn about what it ignores.

    Args:
        path: of a regular file; any other kind could keep its reader waiting for ever.
        room: where several are read at a time, waits until there is memory for one more.

    Raises:
        Error: there is no such file, or it holds no picture that can be read; in one line.
    """
    path, name = Path(path), printable(os.fspath(path))
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise Error(f"{name} is a folder: give a picture file")
        if not stat.S_ISREG(kind):
            raise Error(f"{name} is not a regular file: give a picture file")
        with path.open("rb") as file:
            return decode(file, FORMATS, is_of_fair_size, room)
    except (FileNotFoundError, NotADirectoryError):
        raise Error(f"{name} does not exist: check the name") from None
    except PermissionError:
        raise Error(f"{name} cannot be read: check its permissions") from None
    except (OSError, ValueError) as problem:  # links in a circle; a name that is none
        raise Error(f"{name} cannot be read ({one_line(problem)}): check the file") from None
    except MemoryError:
        raise Error(f"{name} needs more memory than is free: make it smaller") from None
    except TooLarge:
        limit = MAX_PIXELS // 1_000_000
        raise Error(
            f"{name} has more than {limit} million pixels, or than {MAX_SIDE:,} on a side: make "
            "it smaller"
        ) from None
    except Damaged as damage:
        raise Error(f"{name} {describe_damage(path, damage)}") from None


def is_of_fair_size(width: int, height: int) -> bool:
    """Return whether a picture of so many pixels can be read in a fair amount of memory."""
    return width * height <= MAX_PIXELS and max(width, height) <= MAX_SIDE


def decode(
    file: BinaryIO,
    formats: Sequence[str],
    fits: Callable[[int, int], bool],
    room: Room = nullcontext,
) -> Grey:
    """Decode a picture, whatever the file holds.

    Args:
        file: read from its start.
        formats: the names of Pillow's decoders that may look at it.
        fits: whether a picture of a width and a height is to be decoded. Both are known before.
        room: a context for decoding so many pixels.

    Raises:
        TooLarge: it does not fit.
        Damaged: no decoder knows it, or the one that does gave up.
    """
    Image.init()
    known = [name for name in formats if name in Image.OPEN]
    try:
        image = Image.open(file, formats=known)
        if not fits(image.width, image.height):
            raise TooLarge
        with room(image.width * image.height):
            plane = to_grey(image)
            del image  # in colour, it takes four times as much memory as its grey pixels
            return np.array(plane)
    except (TooLarge, Image.DecompressionBombError):
        raise TooLarge from None
    except MemoryError:
        raise
    except Exception as problem:  # each decoder has its own way to fail: none may end a batch
        raise Damaged(one_line(problem)) from problem


def describe_damage(path: Path, damage: Damaged) -> str:
    """Return, for after the file's name, why it was not decoded and what to do."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return f"cannot be read ({damage}): check the file"
    if not head:
        return "is empty: save it again"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        return "is a HEIC photo, which cannot be read: save or export it as JPEG"
    if isinstance(damage.__cause__, UnidentifiedImageError):
        return "is not a picture in a known format: save it as PNG or JPEG"
    return f"is damaged or cut off ({damage}): save it again"


def one_line(problem: Exception) -> str:
    """Return what an exception says in one line; its name where it says nothing."""
    return printable(" ".join(str(problem).split())) or type(problem).__name__


def printable(text: str) -> str:
    """Return a text with control characters, line ends and undecodable bytes escaped.

    In a file name, they would break a message into several lines, or not be printed at all.
    """
    kinds = ("Cc", "Cs", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in kinds else c for c in text)


def to_grey(image: Image.Image) -> Image.Image:
    """Return a Pillow image of any mode as a grey one, turned upright by its EXIF orientation.

    Colour becomes grey so that coloured ink stays visible: of luminance, red, green and blue the
    one in which the picture shows most contrast (yellow on white shows in blue alone).
    """
    image.load()  # after which some decoders have turned it
    turn = None
    with contextlib.suppress(Exception):  # damaged metadata, whatever they raise, turn nothing
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    grey = find_plane(image)
    return grey if turn is None else grey.transpose(turn)


def find_plane(image: Image.Image) -> Image.Image:
    """Return the grey image in which most is seen of one of any mode."""
    if image.mode.startswith("I") or image.mode == "F":
        # The file does not say how many bits are used: what exceeds 8 is scaled by its brightest,
        # and so are real numbers from 0 to 1 or from -1 to 1.
        values = np.array(image, np.float32)
        known = values[np.isfinite(values)]
        lowest, brightest = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
        values = np.nan_to_num(values, copy=False, nan=lowest, posinf=brightest, neginf=lowest)
        values -= min(0.0, lowest)
        brightest -= min(0.0, lowest)
        fraction = image.mode == "F" and 0 < brightest <= 2
        values *= 255 / (brightest if fraction else max(255.0, brightest))
        return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = on_paper(image if image.mode == "RGBA" else image.convert("RGBA"))
    if image.mode in ("1", "L"):
        return image if image.mode == "L" else image.convert("L")
    if image.mode != "RGB":  # conversion to what it is would copy it
        image = image.convert("RGB")
    contrasts = [contrast(plane) for plane in planes(thumbnail(image))]
    contrasts[0] *= 1.25  # luminance has the least noise: leave it only for a clear gain
    best = int(np.argmax(contrasts))
    return image.getchannel(best - 1) if best else image.convert("L")


def on_paper(image: Image.Image) -> Image.Image:
    """Return a transparent picture on white paper; on black if white would hide its ink."""

    def on(paper: str, image: Image.Image) -> Image.Image:
        sheet = Image.new("RGB", image.size, paper)
        sheet.paste(image, mask=image.getchannel("A"))
        return sheet

    small = thumbnail(image)
    white, black = (max(map(contrast, planes(on(paper, small)))) for paper in ("white", "black"))
    return on("white" if 4 * white >= black else "black", image)


def planes(image: Image.Image) -> list[Image.Image]:
    """Return luminance, red, green and blue of an RGB image, each as a grey one."""
    return [image.convert("L"), *image.split()]


def thumbnail(image: Image.Image) -> Image.Image:
    """Return a copy of some 256 to 512 pixels, enough to judge a picture by."""
    return image.reduce(max(1, max(image.size) // 256))


def contrast(plane: Image.Image) -> float:
    """Return how much a grey image varies about its own surroundings: a deviation, in greys."""
    return float(above_surroundings(np.asarray(plane)).std())
