"""Pictures of digits become what MNIST would have made of them.

The pictures are made here from the bundled digits, so the digit itself says what must come out.
"""

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mnist_cnn import Error, handwriting
from mnist_cnn.handwriting import find_digits, grey, prepare, read_picture

RAW = Path(handwriting.__file__).parent / "sample/MNIST/raw"
DIGITS = np.frombuffer((RAW / "t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
DIGITS = DIGITS.reshape(-1, 28, 28)
LABELS = np.frombuffer((RAW / "t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
TEN = [DIGITS[label == LABELS][3] for label in range(10)]


def likeness(a, b):
    """Correlation of two pictures at the best of nine shifts by up to a pixel: 1 if equal."""
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(np.corrcoef(np.roll(a, s, (0, 1)).ravel(), b.ravel())[0, 1] for s in shifts)


def enlarged(digit, side=280):
    return cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC)


def on_paper(digit, paper=None, side=240, left=90, top=60, dark=0.25):
    """A digit in dark ink on paper, brightness 0 to 255, float (H, W)."""
    paper = np.full((360, 420), 210.0) if paper is None else paper.copy()
    paper[top : top + side, left : left + side] *= 1 - enlarged(digit, side) / 255 * (1 - dark)
    return paper


def as_photo(picture, seed=0):
    """With a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, 4, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def assert_all_come_back(make, least=0.9):
    for digit in TEN:
        assert likeness(prepare(make(digit)).image, digit) > least


def assert_same_in_file(path, digit, least=0.9):
    assert likeness(prepare(read_picture(path)).image, digit) > least


@pytest.fixture
def digit():
    return TEN[5]


# ---- reading files ------------------------------------------------------------------------------


def test_upright_by_exif(tmp_path, digit):
    upright = on_paper(digit).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    picture = read_picture(tmp_path / "turned.jpg")
    assert picture.shape == upright.shape
    assert np.abs(picture.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("ink, shown", [(0, "dark on white"), (255, "light on black")])
def test_transparent_canvas_with_black_or_white_strokes(tmp_path, digit, ink, shown):
    pixels = np.full((280, 280, 4), ink, np.uint8)
    pixels[..., 3] = enlarged(digit)
    Image.fromarray(pixels).save(tmp_path / "strokes.png")
    picture = read_picture(tmp_path / "strokes.png")
    assert picture[0, 0] == (255 if shown == "dark on white" else 0)
    assert_same_in_file(tmp_path / "strokes.png", digit)


def test_strokes_on_a_sheet_with_transparent_corners_stay_on_white(digit):
    pixels = np.full((280, 280, 4), 255, np.uint8)
    pixels[..., :3] = 255 - enlarged(digit)[..., None]
    pixels[:30, :30, 3] = 0
    assert grey(Image.fromarray(pixels))[0, 0] == 255


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode(tmp_path, digit, mode):
    picture = Image.fromarray(255 - enlarged(digit))
    if mode == "I;16":
        picture = Image.fromarray((np.array(picture).astype(np.uint16)) * 257)
    elif mode == "LA":
        picture = picture.convert("RGBA").convert("LA")
    else:
        picture = picture.convert(mode, dither=Image.Dither.NONE)
    assert picture.mode == mode
    file = tmp_path / ("digit.tif" if mode in ("CMYK", "F", "I") else "digit.png")
    picture.save(file)
    assert_same_in_file(file, digit)


def test_sixteen_bit_of_which_twelve_are_used(digit):
    picture = (255 - enlarged(digit)).astype(np.uint16) * 16
    assert np.abs(grey(Image.fromarray(picture)).astype(int) - (255 - enlarged(digit))).max() <= 1


def test_palette_with_a_transparent_colour(tmp_path, digit):
    picture = Image.fromarray((enlarged(digit) > 127).astype(np.uint8), "P")
    picture.putpalette([255, 255, 255, 255, 255, 255])  # white on white: only transparency differs
    picture.save(tmp_path / "digit.png", transparency=0)
    assert_same_in_file(tmp_path / "digit.png", digit)


def test_first_frame_of_an_animation(tmp_path, digit):
    first, second = (Image.fromarray(255 - enlarged(d)) for d in (digit, TEN[0]))
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[second])
    assert_same_in_file(tmp_path / "moving.gif", digit)


@pytest.mark.parametrize(
    "ink, paper",
    [((0, 0, 255), (255, 255, 255)), ((255, 240, 0), (255, 255, 255)), ((220, 0, 0), (0, 112, 0))],
    ids=["blue on white", "yellow on white", "red on green, equally light"],
)
def test_coloured_ink_is_seen(digit, ink, paper):
    share = enlarged(digit)[..., None] / 255
    picture = Image.fromarray((share * ink + (1 - share) * paper).astype(np.uint8))
    assert np.ptp(grey(picture)) > 190
    assert likeness(prepare(grey(picture)).image, digit) > 0.9


def test_one_pixel(tmp_path):
    Image.new("L", (1, 1), 255).save(tmp_path / "dot.png")
    picture = read_picture(tmp_path / "dot.png")
    assert picture.shape == (1, 1)
    with pytest.raises(Error, match="no ink"):
        prepare(picture)


def test_48_megapixels_within_memory(digit):
    side = 4000
    picture = np.full((8000, 6000), 255, np.uint8)
    picture[2000:6000, 1000:5000] -= enlarged(digit, side)
    tracemalloc.start()
    prepared = prepare(picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert likeness(prepared.image, digit) > 0.9
    assert peak < 100e6


# ---- bad input ----------------------------------------------------------------------------------


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


def test_damaged_metadata_do_not_matter(tmp_path, digit):
    pixels = on_paper(digit).astype(np.uint8)
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
def test_truncated(tmp_path, digit, suffix):
    file = tmp_path / f"digit.{suffix}"
    Image.fromarray(on_paper(digit).astype(np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert_refused(file, "damaged or cut off")


def test_decompression_bomb_is_refused_before_decoding(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (12_000, 10_000)).save(file)
    head = file.read_bytes()
    file.write_bytes(head[:60])  # decoding it would complain of a damaged file
    assert_refused(file, "80 million pixels")


@pytest.mark.parametrize("level", [0, 127, 255])
def test_one_colour_has_no_ink(level):
    picture = np.full((100, 140), level, np.uint8)
    for make in (prepare, find_digits):
        with pytest.raises(Error, match="no ink"):
            make(picture)


# ---- the steps, one by one ----------------------------------------------------------------------


def test_surroundings_of_a_sheet_are_cleared(digit):
    sheet = 255.0 - enlarged(digit, 200)
    table = np.full((400, 400), 40.0)
    table[90:290, 110:310] = sheet
    turn = cv2.getRotationMatrix2D((200, 200), 8, 1)
    turned = cv2.warpAffine(table.astype(np.uint8), turn, (400, 400), borderValue=40)
    cleared = handwriting.clear_surroundings(turned)
    assert min(cleared[0, 0], cleared[-1, -1], cleared[0, -1]) > 240
    assert cleared[140:240, 160:260].min() < 60  # the digit is still there


def test_a_zero_is_not_taken_for_a_frame():
    picture = np.full((280, 280), 255, np.uint8)
    cv2.rectangle(picture, (60, 30), (220, 250), 0, 30)
    assert (handwriting.clear_surroundings(picture) == picture).all()


@pytest.mark.parametrize("which", range(10))
def test_ink_is_dark_whichever_way_the_picture_was(which):
    light_on_dark = TEN[which]
    assert (handwriting.dark_on_light(light_on_dark) == 255 - light_on_dark).all()
    assert (handwriting.dark_on_light(255 - light_on_dark) == 255 - light_on_dark).all()


def test_ink_is_dark_in_a_dark_corner():
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    paper = 200 * (1 - 0.45 * (x**2 + y**2))  # the edges of the picture are darker than its middle
    picture = on_paper(TEN[3], paper, 150, 75, 75).astype(np.uint8)
    assert (handwriting.dark_on_light(picture) == picture).all()


def test_shadow_is_evened_and_ink_stays():
    paper = np.full((360, 420), 210.0)
    paper[:, 200:] *= 0.5  # a sharp edge through the digit
    even = handwriting.even_light(on_paper(TEN[3], paper).astype(np.uint8))
    ink = enlarged(TEN[3], 240)
    window = even[60:300, 90:330]
    assert window[ink == 0].min() > 240
    assert window[ink == 255].max() < 80


def test_ink_from_faint_pencil_with_noise():
    paper = np.full((300, 300), 200.0)
    paper[100:200, 145:155] = 160
    ink = handwriting.find_ink(as_photo(paper))
    assert (ink[102:198, 147:153] > 128).mean() > 0.98
    assert (ink[:, :140] > handwriting.INK).mean() < 0.001


def test_ink_of_mnist_is_left_as_it_is(digit):
    assert np.abs(handwriting.find_ink(255 - digit).astype(int) - digit).max() <= 3


def test_lines_are_removed_and_strokes_closed():
    ink = np.zeros((400, 400), np.uint8)
    ink[100:300, 190:215] = 255  # a stroke
    alone = ink.copy()
    for y in range(40, 400, 60):
        cv2.line(ink, (0, y), (399, y + 8), 255, 2)
        cv2.line(ink, (y, 0), (y - 8, 399), 255, 2)
    assert (handwriting.remove_lines(ink) != alone).mean() < 0.003


def test_bar_of_a_seven_is_no_line():
    ink = np.zeros((400, 400), np.uint8)
    cv2.polylines(ink, [np.array([(60, 50), (340, 50), (160, 350)])], False, 255, 2)
    assert (handwriting.remove_lines(ink) == ink).all()


def test_specks_and_edges_are_dropped_and_pieces_kept():
    ink = np.zeros((200, 200), np.uint8)
    cv2.line(ink, (80, 60), (80, 100), 255, 8)
    cv2.ellipse(ink, (90, 125), (30, 25), 0, -90, 140, 255, 8)
    cv2.line(ink, (95, 55), (120, 55), 255, 8)  # the bar of the 5, apart from the rest
    digit = ink.copy()
    ink[:, :12] = 255  # the edge of a table: more ink than the digit has
    cv2.circle(ink, (170, 170), 2, 255, -1)
    assert (handwriting.keep_digit(ink) == digit).all()


@pytest.mark.parametrize("stroke, low, high", [(1, 1.9, 3.0), (44, 3.4, 4.8)])
def test_strokes_come_to_the_width_mnist_has(stroke, low, high):
    ink = np.zeros((200, 200), np.uint8)
    cv2.polylines(ink, [np.array([(60, 40), (140, 40), (90, 160)])], False, 255, stroke)
    mended = handwriting.mend_strokes(ink)
    width = handwriting.stroke_width(mended) * 20 / max(handwriting._cropped(mended).shape)
    assert low < width < high


def test_strokes_of_mnist_are_left_alone(digit):
    assert (handwriting.mend_strokes(digit) == digit[digit.any(1)][:, digit.any(0)]).all()


@pytest.mark.parametrize("shape", [(300, 100), (50, 200), (10, 10), (400, 3)])
def test_box_fits_20_by_20_in_its_own_proportions(shape):
    ink = np.zeros((500, 500), np.uint8)
    ink[20 : 20 + shape[0], 30 : 30 + shape[1]] = 255
    _, _, w, h = cv2.boundingRect(handwriting.fit_box(ink))
    assert max(w, h) == 20
    assert min(w, h) == max(1, round(20 * min(shape) / max(shape)))


def test_centre_of_mass_is_in_the_middle_and_nothing_is_cut_off():
    for digit in DIGITS[:50]:
        moved = np.roll(handwriting.fit_box(digit), (2, -2), (0, 1))
        centred = handwriting.centre_mass(moved)
        moments = cv2.moments(centred)
        assert abs(moments["m10"] / moments["m00"] - 14) <= 0.5
        assert abs(moments["m01"] / moments["m00"] - 14) <= 0.5
        assert centred.sum() == moved.sum()


# ---- the whole way ------------------------------------------------------------------------------


def test_mnist_itself_comes_through_almost_unchanged():
    differences = [
        np.abs(prepare(digit).image.astype(int) - digit).mean() for digit in DIGITS[::10]
    ]
    assert np.mean(differences) < 1.5


def test_enlarged_and_inverted():
    assert_all_come_back(lambda d: 255 - enlarged(d), 0.95)


def test_tinted_and_dim():
    assert_all_come_back(lambda d: 90 + enlarged(d) // 6, 0.95)


def test_slanting_light_and_noise():
    light = 120 + np.arange(420) / 4 + np.arange(360)[:, None] / 6
    assert_all_come_back(lambda d: as_photo(on_paper(d, light)))


def ruled(step, both, dark=0.5):
    paper = np.full((360, 420), 210.0)
    for at in range(20, 420, step):
        cv2.line(paper, (0, at), (419, at + 9), 210 * dark, 2)
        if both:
            cv2.line(paper, (at + 9, 0), (at, 359), 210 * dark, 2)
    return paper


@pytest.mark.parametrize("both", [False, True], ids=["ruled", "squared"])
def test_ruled_and_squared_paper(both):
    assert_all_come_back(lambda d: as_photo(on_paper(d, ruled(55, both), dark=0.2)), 0.85)


def test_ruled_sheet_half_in_the_shade_on_a_dark_table():
    """The shade is as far from the light as the table: one threshold would split the sheet."""
    light = 1 - 0.5 * np.arange(420) / 420
    corners = np.float32([[0, 0], [420, 0], [420, 360], [0, 360]])
    lying = np.float32([[48, 30], [430, 52], [412, 390], [22, 365]])
    askew = cv2.getPerspectiveTransform(corners, lying)

    def make(digit):
        sheet = on_paper(digit, ruled(55, False) * light + 30)
        table = np.full((420, 460), 45.0)
        there = cv2.warpPerspective(np.ones_like(sheet), askew, (460, 420))
        return as_photo(table * (1 - there) + cv2.warpPerspective(sheet, askew, (460, 420)) * there)

    assert_all_come_back(make, 0.8)


def test_paler_part_of_the_paper_is_no_sheet(digit):
    paper = np.full((360, 420), 250.0)
    paper[110:300, 120:300] = 228  # the digit reaches beyond it
    picture = on_paper(digit, paper).astype(np.uint8)
    assert (handwriting.clear_surroundings(picture) == picture).all()


@pytest.mark.parametrize("thickness, inset", [(3, 0), (3, 20), (30, 0)])
def test_framed(thickness, inset):
    def make(digit):
        picture = on_paper(digit, np.full((300, 300), 240.0), 220, 40, 40)
        cv2.rectangle(picture, (inset, inset), (299 - inset, 299 - inset), 10, thickness)
        return picture.astype(np.uint8)

    assert_all_come_back(make)


def test_black_square_on_a_white_page():
    def make(digit):
        page = np.full((400, 480), 255, np.uint8)
        page[60:340, 100:380] = enlarged(digit)
        return page

    assert_all_come_back(make)


@pytest.mark.parametrize("step", set(handwriting.STEPS) - {"ink", "box"})
def test_a_step_can_be_left_out(step, digit):
    # The other steps assume dark ink and a picture with something to be cleaned.
    picture = as_photo(on_paper(digit))
    full, less = prepare(picture), prepare(picture, skip=[step])
    assert less.image.shape == (28, 28)
    assert len(less.steps) == len(full.steps) - 1


def test_steps_can_be_drawn(digit):
    prepared = prepare(as_photo(on_paper(digit)))
    assert prepared.image.shape == (28, 28) and prepared.image.dtype == np.uint8
    assert len(prepared.steps) == len(handwriting.STEPS) + 1
    assert all(step.ndim == 2 and step.dtype == np.uint8 for _, step in prepared.steps)
    assert (prepared.steps[-1][1] == prepared.image).all()


# ---- several digits -----------------------------------------------------------------------------


def page_of(rows, gap=20, side=112):
    """Rows of digits, dark on light, and the box of each digit's ink."""
    height = 40 + len(rows) * (side + 30)
    page = np.full((height, 40 + max(map(len, rows)) * (side + gap)), 250, np.uint8)
    boxes = []
    for i, row in enumerate(rows):
        left = 20
        for digit in row:
            ink = enlarged(digit, side)
            ink = ink[:, np.nonzero((ink > 127).any(0))[0]]
            top = 20 + i * (side + 30)
            window = page[top : top + side, left : left + ink.shape[1]]
            np.minimum(window, 250 - np.minimum(ink, 250), out=window)
            filled = np.nonzero((ink > 127).any(1))[0]
            boxes.append((left, top + filled[0], left + ink.shape[1], top + filled[-1] + 1))
            left += ink.shape[1] + gap
    return page, boxes


def test_rows_of_digits_in_reading_order():
    rows = [TEN[:4], TEN[4:7], TEN[7:]]
    page, boxes = page_of(rows)
    digits = find_digits(page)
    assert [digit.row for digit in digits] == [0] * 4 + [1] * 3 + [2] * 3
    for digit, source, box in zip(digits, TEN, boxes):
        assert likeness(digit.image, source) > 0.85
        assert np.abs(np.subtract(digit.box, box)).max() <= 4


def test_boxes_are_in_pixels_of_the_full_size():
    page, _ = page_of([TEN[:3]])
    small = [digit.box for digit in find_digits(page)]
    large = [digit.box for digit in find_digits(np.kron(page, np.ones((6, 6), np.uint8)))]
    assert np.abs(np.array(large) / 6 - small).max() < 2


@pytest.mark.parametrize(
    "start, end", [((10, 38), (42, 38)), ((44, 62), (72, 62))], ids=["above", "beside"]
)
def test_a_broken_digit_is_one_digit(start, end):
    page = np.full((200, 300), 255, np.uint8)
    for left in (40, 180):  # two fives whose bars are apart from the rest
        cv2.line(page, (left, 60), (left, 100), 0, 8)
        cv2.ellipse(page, (left + 4, 125), (30, 25), 0, -100, 140, 0, 8)
        cv2.line(page, (left + start[0], start[1]), (left + end[0], end[1]), 0, 8)
    assert len(find_digits(page)) == 2


def test_touching_digits_are_cut_apart():
    page, _ = page_of([[TEN[0], TEN[6]]], gap=-1)
    digits = find_digits(page)
    assert len(digits) == 2
    for digit, source in zip(digits, (TEN[0], TEN[6])):
        assert likeness(digit.image, source) > 0.85


def test_the_network_decides_about_cuts():
    page, _ = page_of([[TEN[0], TEN[6]]], gap=-1)

    def sees_one_wide_digit(images):
        wide = (images.sum(1) > 0).sum(1) == 20
        high = (images.sum(2) > 0).sum(1) < 16
        probabilities = np.full((len(images), 10), 1e-9)
        probabilities[:, 0] = np.where(wide & high, 1.0, 1e-9)
        return probabilities

    assert len(find_digits(page, sees_one_wide_digit)) == 1
    assert len(find_digits(page, lambda images: np.ones((len(images), 10)))) > 1
