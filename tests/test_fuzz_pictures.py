"""Thousands of damaged pictures in every format: each is read, or refused in one line.

A picture is made from (seed, format, number) alone. MNIST_CNN_FUZZ_SEED chooses another seed than
0, MNIST_CNN_FUZZ_COUNT how many pictures of each format. Without -m slow it is a tenth of them.
"""

import io
import os
import warnings

import numpy as np
import pytest
from conftest import slow
from pictures import FIVE, enlarged
from PIL import Image, features

from mnist_cnn import Error
from mnist_cnn.handwriting import find_digits, prepare, read_picture
from mnist_cnn.handwriting.picture import FORMATS

SEED = int(os.environ.get("MNIST_CNN_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("MNIST_CNN_FUZZ_COUNT", "360"))  # of each of about 15 kinds: over 5,000
QUICK = COUNT // 10  # the first of them, where slow tests are not asked for
WORK = 200_000  # pixels: what is larger is only read, not prepared

# Kind: Pillow's format, the picture's mode, and how it is written.
KINDS = {
    "PNG grey": ("PNG", "L", {}),
    "PNG transparent": ("PNG", "RGBA", {}),
    "PNG palette": ("PNG", "P", {"transparency": 0}),
    "PNG 16 bit": ("PNG", "I;16", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG progressive": ("JPEG", "CMYK", {"progressive": True}),
    "MPO": ("MPO", "RGB", {"save_all": True}),
    "GIF": ("GIF", "P", {"save_all": True}),
    "BMP": ("BMP", "RGB", {}),
    "WEBP": ("WEBP", "RGBA", {}),
    "WEBP lossless": ("WEBP", "RGB", {"lossless": True}),
    "TIFF": ("TIFF", "RGB", {}),
    "TIFF packed": ("TIFF", "L", {"compression": "tiff_lzw"}),
    "TIFF fax": ("TIFF", "1", {"compression": "group4"}),
    "TIFF float": ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
    "PPM": ("PPM", "RGB", {}),
    "AVIF": ("AVIF", "RGB", {}),
}
NEEDS = {"WEBP": "webp", "AVIF": "avif", "TIFF": "libtiff", "JPEG": "jpg", "MPO": "jpg"}


def can_write(kind):
    name = KINDS[kind][0]
    Image.init()
    return name in Image.SAVE and (name not in NEEDS or features.check(NEEDS[name]))


def write(kind):
    """A small picture of a digit, with EXIF metadata where the format has them."""
    name, mode, options = KINDS[kind]
    picture = Image.fromarray(255 - enlarged(FIVE, 48))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    if options.get("save_all"):
        options = {**options, "append_images": [picture.rotate(90)]}
    if name in ("PNG", "JPEG", "MPO", "WEBP", "AVIF"):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {**options, "exif": exif}
    file = io.BytesIO()
    picture.save(file, name, **options)
    return file.getvalue()


def damage(content, others, rng):
    """Bytes changed, cut off, left out, repeated, or replaced by some of another file."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not content:
            break
        start = int(rng.integers(len(content)))
        if rng.random() < 0.3:  # headers are short, and decide much
            start = min(start, int(rng.integers(64)))
        end = start + int(rng.integers(1, 32))
        how = rng.choice(["flip", "flip", "noise", "extreme", "cut", "drop", "repeat", "splice"])
        if how == "flip":
            content[start] ^= 1 << int(rng.integers(8))
        elif how == "noise":
            content[start:end] = rng.bytes(end - start)
        elif how == "extreme":
            content[start : start + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])
        elif how == "cut":
            del content[start:]
        elif how == "drop":
            del content[start:end]
        elif how == "repeat":
            content[start:start] = content[start:end] * int(rng.integers(1, 9))
        else:
            other = others[int(rng.integers(len(others)))]
            content[start:] = other[min(start, len(other) - 1) :]
    return bytes(content)


def test_formats_are_all_among_the_kinds():
    assert {name for name, _, _ in KINDS.values()} == set(FORMATS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [QUICK, slow(COUNT)])
def test_damaged_pictures_are_read_or_refused(count, kind, tmp_path):
    if not can_write(kind):
        pytest.skip(f"Pillow cannot write {kind} here")
    whole = write(kind)
    others = [whole, *(write(other) for other in KINDS if can_write(other))]
    number = list(KINDS).index(kind)
    path = tmp_path / "picture"
    read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(whole)
        assert min(read_picture(path).shape) >= 48
        for i in range(count):
            rng = np.random.default_rng([SEED, number, i])
            path.write_bytes(damage(whole, others, rng))
            try:
                picture = read_picture(path)
                read += 1
                if picture.size <= WORK:
                    prepare(picture)
                    find_digits(picture)
            except Error as refused:
                assert "\n" not in str(refused) and len(str(refused)) < 500
            except Exception as problem:
                raise AssertionError(f"seed {SEED}, {kind}, number {i}: {problem!r}") from problem
    print(f"seed {SEED}, {kind}: {count} damaged, {read} of them read, {count - read} refused")
