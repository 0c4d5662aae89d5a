"""Files of every kind become grey pixels, or an error in one line."""

import contextlib
import os
import warnings

import numpy as np
import pytest
from pictures import FIVE, TEN, claiming, enlarged, likeness, on_paper
from PIL import Image, ImageFile

from mnist_cnn import Error
from mnist_cnn.handwriting import prepare, read_picture
from mnist_cnn.handwriting.picture import to_grey


def assert_same_in_file(path, digit, least=0.9):
    assert likeness(prepare(read_picture(path)).image, digit) > least


def test_upright_by_exif(tmp_path):
    upright = on_paper(FIVE).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture = read_picture(tmp_path / "turned.jpg")
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("ink, shown", [(0, "dark on white"), (255, "light on black")])
def test_transparent_canvas_with_black_or_white_strokes(tmp_path, ink, shown):
    pixels = np.full((280, 280, 4), ink, np.uint8)
    pixels[..., 3] = enlarged(FIVE)
    Image.fromarray(pixels).save(tmp_path / "strokes.png")
    picture = read_picture(tmp_path / "strokes.png")
    assert picture[0, 0] == (255 if shown == "dark on white" else 0)
    assert_same_in_file(tmp_path / "strokes.png", FIVE)


def test_strokes_on_a_sheet_with_transparent_corners_stay_on_white():
    pixels = np.full((280, 280, 4), 255, np.uint8)
    pixels[..., :3] = 255 - enlarged(FIVE)[..., None]
    pixels[:30, :30, 3] = 0
    assert to_grey(Image.fromarray(pixels)).getpixel((0, 0)) == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode(tmp_path, mode):
    picture = Image.fromarray(255 - enlarged(FIVE))
    if mode == "I;16":
        picture = Image.fromarray((np.array(picture).astype(np.uint16)) * 257)
    elif mode == "LA":
        picture = picture.convert("RGBA").convert("LA")
    else:
        picture = picture.convert(mode, dither=Image.Dither.NONE)
    assert picture.mode == mode
    file = tmp_path / ("digit.tif" if mode in ("CMYK", "F", "I") else "digit.png")
    picture.save(file)
    assert_same_in_file(file, FIVE)


def test_sixteen_bit_of_which_twelve_are_used():
    picture = (255 - enlarged(FIVE)).astype(np.uint16) * 16
    grey = np.array(to_grey(Image.fromarray(picture)))
    assert np.abs(grey.astype(int) - (255 - enlarged(FIVE))).max() <= 1


@pytest.mark.parametrize(
    "change",
    [lambda grey: grey, lambda grey: grey / 255, lambda grey: 0.9 * grey / 255,
     lambda grey: grey / 127.5 - 1, lambda grey: np.where(grey == grey[0, 0], np.inf, grey)],
    ids=["to 255", "to 1", "to 0.9", "from -1 to 1", "paper is infinite"],
)  # fmt: skip
def test_real_numbers(change, tmp_path):
    grey = 255 - enlarged(FIVE).astype(np.float32)
    Image.fromarray(change(grey).astype(np.float32)).save(tmp_path / "digit.tif")
    assert_same_in_file(tmp_path / "digit.tif", FIVE)


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan, -np.inf])
def test_real_numbers_that_show_nothing(value):
    assert not np.array(to_grey(Image.fromarray(np.full((9, 9), value, np.float32)))).any()


def test_a_picture_too_long_for_memory_is_refused(tmp_path):
    (tmp_path / "strip.png").write_bytes(claiming(70_000, 1))
    assert_refused(tmp_path / "strip.png", "65,535 on a side")


def test_palette_with_a_transparent_colour(tmp_path):
    picture = Image.fromarray((enlarged(FIVE) > 127).astype(np.uint8), "P")
    picture.putpalette([255, 255, 255, 255, 255, 255])  # white on white: only transparency differs
    picture.save(tmp_path / "digit.png", transparency=0)
    assert_same_in_file(tmp_path / "digit.png", FIVE)


def test_first_frame_of_an_animation(tmp_path):
    first, second = (Image.fromarray(255 - enlarged(d)) for d in (FIVE, TEN[0]))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert_same_in_file(tmp_path / "moving.gif", FIVE)


@pytest.mark.parametrize(
    "ink, paper",
    [((0, 0, 255), (255, 255, 255)), ((255, 240, 0), (255, 255, 255)), ((220, 0, 0), (0, 112, 0))],
    ids=["blue on white", "yellow on white", "red on green, equally light"],
)
def test_coloured_ink_is_seen(ink, paper):
    share = enlarged(FIVE)[..., None] / 255
    picture = Image.fromarray((share * ink + (1 - share) * paper).astype(np.uint8))
    grey = np.array(to_grey(picture))
    assert np.ptp(grey) > 190
    assert likeness(prepare(grey).image, FIVE) > 0.9


def test_one_pixel(tmp_path):
    Image.new("L", (1, 1), 255).save(tmp_path / "dot.png")
    picture = read_picture(tmp_path / "dot.png")
    assert picture.shape == (1, 1)
    with pytest.raises(Error, match="no ink"):
        prepare(picture)


def assert_refused(path, why):
    with pytest.raises(Error, match=why) as refused:
        read_picture(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_missing_and_folder(tmp_path):
    assert_refused(tmp_path / "none.png", "does not exist")
    assert_refused(tmp_path, "folder")
    (tmp_path / "notes.txt").write_text("seven")
    assert_refused(tmp_path / "notes.txt" / "seven.png", "does not exist")


def test_damaged_metadata_do_not_matter(tmp_path):
    pixels = on_paper(FIVE).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png", exif=b"Exif\0\0II*\0")
    assert np.array_equal(read_picture(tmp_path / "digit.png"), pixels)


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC.*JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "HEIC.*JPEG"),
    ],
)
def test_no_picture(tmp_path, content, why):
    (tmp_path / "photo.png").write_bytes(content)
    assert_refused(tmp_path / "photo.png", why)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_truncated(tmp_path, suffix):
    file = tmp_path / f"digit.{suffix}"
    Image.fromarray(on_paper(FIVE).astype(np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_refused(file, "damaged or cut off")


def test_decompression_bomb_is_refused_before_decoding(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (12_000, 10_000)).save(file)
    head = file.read_bytes()
    file.write_bytes(head[:60])  # decoding it would complain of a damaged file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, which says the same
        assert_refused(file, "80 million pixels")


@pytest.mark.parametrize("problem", [RuntimeError("Failed to decode\nframe 0"), IndexError()])
def test_whatever_a_decoder_raises_is_the_files_error(tmp_path, problem):
    """Also what no decoder is known to raise today."""

    class Broken(ImageFile.ImageFile):
        format = "PNG"

        def _open(self):
            self._size, self._mode = (9, 9), "L"

        def load(self):
            raise problem

    path = tmp_path / "digit.png"
    path.write_bytes(b"whatever")
    Image.preinit()  # Pillow would do so when it first opens a picture
    opened, accept = Image.OPEN["PNG"]
    Image.register_open("PNG", Broken, lambda prefix: True)
    try:
        said = "Failed to decode frame 0" if str(problem) else "IndexError"
        assert_refused(path, rf"damaged or cut off \({said}\)")
    finally:
        Image.register_open("PNG", opened, accept)


def test_a_picture_is_not_called_damaged_where_memory_runs_out(tmp_path, monkeypatch):
    def run_out(image):
        raise MemoryError

    monkeypatch.setattr("mnist_cnn.handwriting.picture.to_grey", run_out)
    Image.new("L", (9, 9)).save(tmp_path / "digit.png")
    assert_refused(tmp_path / "digit.png", "more memory than is free")


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and symbolic links")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert_refused(tmp_path / "pipe.png", "not a regular file")
    assert_refused(tmp_path / "link.png", "not a regular file")
    assert_refused(tmp_path / "a.png", "cannot be read")


def test_names_are_told_in_one_line(tmp_path):
    with pytest.raises(Error) as refused:
        read_picture(tmp_path / "two\nlines\x1b[2J\udcff.png")
    assert r"two\nlines\x1b[2J\udcff.png does not exist" in str(refused.value)
    with pytest.raises(Error, match="cannot be read"):
        read_picture("no\0name.png")
    with pytest.raises(Error, match="cannot be read"):
        read_picture(tmp_path / f"{'long' * 99}.png")


def test_a_large_photo_waits_for_room(tmp_path):
    """And gives the room back, whether it can be decoded or not."""
    whole, half = tmp_path / "whole.png", tmp_path / "half.png"
    Image.fromarray(on_paper(FIVE).astype(np.uint8)).save(whole)
    half.write_bytes(whole.read_bytes()[:900])
    entered, left = [], []

    @contextlib.contextmanager
    def room(pixels):
        entered.append(pixels)
        try:
            yield
        finally:
            left.append(pixels)

    assert read_picture(whole, room).shape == (360, 420)
    with pytest.raises(Error):
        read_picture(half, room)
    assert entered == left == [360 * 420] * 2
