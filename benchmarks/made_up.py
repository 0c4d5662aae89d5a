"""Made-up pictures of the kinds that are hard to read: how many of each are read right.

    python benchmarks/made_up.py --ckpt s0/best.pt s1/best.pt s2/best.pt

Drawn ones with flags, some with a foot, and sevens that resemble them; printed digits; and
numbers of validation digits that stand apart, touch or overlap, or stand apart on a sheet with
smudges, or with print that shines through from its back. With --fonts FOLDER, also digits and
numbers in each of its fonts (.ttf, .otf, .woff): those of Google Fonts that are drawn after
handwriting are as many hands. All of them go through all of the preparation. The figures are means
over the checkpoints.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from handwriting import edit_distance, read_text
from PIL import Image, ImageDraw, ImageFont
from sure import flagged_one, make_parser, open_networks, prepared, validation_digits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder

from mnist_cnn import Error
from mnist_cnn.data import Split
from mnist_cnn.evaluate import evaluate
from mnist_cnn.model import CNN
from mnist_cnn.predict import make_reader

FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")  # DejaVu's come with matplotlib
# Those called "Display" have no digits.
USUAL_FONTS = [file for file in sorted(FONTS.glob("DejaVu*.ttf")) if "Display" not in file.name]
FONT_FILES = (".ttf", ".otf", ".woff")

Picture = np.ndarray  # uint8 (H, W)
Depth = np.ndarray  # how much darker than paper, float32 (H, W), from 0 to 255


# ------------------------------------------------------------------------------ single digits


def footed_one(chance: np.random.Generator) -> Picture:
    """Draw a 1 with a flag and a foot."""
    picture = flagged_one(chance)
    rows, columns = np.nonzero(picture)
    bottom = int(rows.max())
    middle = columns[rows >= bottom - 3].mean()
    half, pen = chance.uniform(25, 60), int(chance.integers(8, 22))
    ends = (int(middle - half), bottom), (int(middle + half), bottom)
    cv2.line(picture, *ends, 255, pen, cv2.LINE_AA)
    return picture


def seven(chance: np.random.Generator) -> Picture:
    """Draw a 7, every other one with a bar through its stem."""
    height, pen = int(chance.integers(140, 230)), int(chance.integers(8, 26))
    width = height * chance.uniform(0.4, 0.75)
    right, top = 140 + width / 2, 140 - height / 2
    foot = right - (chance.uniform(0, 0.45) + 0.1) * height, top + height
    lines = [
        ((right - width, top + chance.uniform(-0.08, 0.12) * height), (right, top)),
        ((right, top), foot),
    ]
    if chance.random() < 0.5:
        x, y = (right + foot[0]) / 2, (top + foot[1]) / 2
        half = width * chance.uniform(0.25, 0.4)
        lines.append(((x - half, y), (x + half, y - chance.uniform(-0.05, 0.1) * height)))
    picture = np.zeros((300, 300), np.uint8)
    for start, end in lines:
        ends = [(int(x), int(y)) for x, y in (start, end)]
        cv2.line(picture, *ends, 255, pen, cv2.LINE_AA)
    return picture


def printed_digits(files: Sequence[Path], chance: np.random.Generator) -> Split:
    """Print every digit three times in each of some fonts."""
    pictures, labels = [], []
    for file in files:
        for digit in [*range(10)] * 3:
            pictures.append(printed(str(digit), file, 160, chance))
            labels.append(digit)
    return prepared(pictures, labels)


def printed(text: str, file: Path, height: int, chance: np.random.Generator) -> Picture:
    """Print a text, turned by up to 6 degrees, on an unevenly lit sheet, and photograph it.

    Args:
        file: of the font.
        height: of the font's digits, in pixels.
    """
    _, top, _, bottom = ImageFont.truetype(str(file), 100).getbbox("0123456789")
    font = ImageFont.truetype(str(file), round(100 * height / (bottom - top)))
    left, top, right, bottom = font.getbbox(text)
    sheet = Image.new("L", (int(right - left) + height, int(bottom - top) + height), 0)
    ImageDraw.Draw(sheet).text((height // 2 - left, height // 2 - top), text, font=font, fill=255)
    turned = sheet.rotate(chance.uniform(-6, 6), Image.Resampling.BICUBIC, expand=True)
    depth = cv2.GaussianBlur(np.array(turned, np.float32), (0, 0), chance.uniform(0.5, 1.5))
    return photographed(depth * chance.uniform(0.55, 0.9), chance)


def photographed(depth: Depth, chance: np.random.Generator) -> Picture:
    """Photograph a sheet in uneven light, with noise."""
    light = chance.uniform(0.75, 1) * np.linspace(1, chance.uniform(0.7, 1), depth.shape[1])
    page = (255 - depth) * light + chance.normal(0, chance.uniform(1, 4), depth.shape)
    return np.clip(page, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------ numbers


def number(digits: Split, kind: str, chance: np.random.Generator) -> tuple[Picture, str]:
    """Write two to four digits side by side, dark on light.

    Args:
        digits: to choose from.
        kind: "apart"; "touching": each is pushed to the left until its ink meets that of the one
            before; "overlapping": further, by up to a tenth of a digit's side.
    """
    count, side = int(chance.integers(2, 5)), int(chance.integers(80, 160))
    page, text = np.zeros((2 * side, side * (count + 2)), np.uint8), ""
    for i in range(count):
        one = int(chance.integers(len(digits.labels)))
        text += str(digits.labels[one].item())
        ink = cv2.resize(digits.images[one].numpy(), (side, side), interpolation=cv2.INTER_CUBIC)
        columns = np.nonzero((ink > 100).any(0))[0]
        ink = ink[:, columns[0] : columns[-1] + 1]
        top = side // 2 + int(chance.integers(-side // 12, side // 12 + 1))
        row, width = page[top : top + side], ink.shape[1]
        left = side // 2
        if i:
            left = page.shape[1] - width - 1
            while left > 1 and not (np.minimum(row[:, left : left + width], ink) > 100).any():
                left -= 1
            gaps = {"apart": (0.05, 0.3), "touching": (0, 0), "overlapping": (-0.1, -0.02)}
            left = max(1, left + int(side * chance.uniform(*gaps[kind])))
        window = row[:, left : left + width]
        np.maximum(window, ink, out=window)
    columns = np.nonzero((page > 100).any(0))[0]
    page = page[:, max(0, columns[0] - 30) : columns[-1] + 30]
    return 255 - (page * chance.uniform(0.6, 1)).astype(np.uint8), text


def print_from_the_back(rows: int, columns: int, digit: int, chance: np.random.Generator) -> Depth:
    """Print letters that shine through from the back, 8 to 35 % as deep as black."""
    size = int(digit * chance.uniform(0.25, 0.8))
    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), size)
    sheet = Image.new("L", (columns, rows), 0)
    apart = int(size * chance.uniform(1.3, 3))
    for top in range(0, rows, apart):
        letters = "".join(chance.choice([*string.ascii_letters, *"      "], size=40))
        ImageDraw.Draw(sheet).text((0, top), letters, font=font, fill=255)
    mirrored = np.array(sheet, np.float32)[:, ::-1]
    return cv2.GaussianBlur(mirrored, (0, 0), 2) * chance.uniform(0.08, 0.35)


def smudges(rows: int, columns: int, digit: int, chance: np.random.Generator) -> Depth:
    """Smudge a sheet in one to three places, 20 to 60 % as deep as black."""
    depth = np.zeros((rows, columns), np.float32)
    for _ in range(int(chance.integers(1, 4))):
        smudge = np.zeros_like(depth)
        start = chance.uniform(0, (columns, rows))
        points = start + np.cumsum(chance.normal(0, digit * 0.2, (6, 2)), 0)
        thick = max(2, int(digit * chance.uniform(0.03, 0.3)))
        cv2.polylines(smudge, [points.astype(np.int32)], False, 255, thick)
        smudge = cv2.GaussianBlur(smudge, (0, 0), digit * chance.uniform(0.03, 0.1))
        depth = np.maximum(depth, smudge * chance.uniform(0.2, 0.6))
    return depth


# What else is on the sheet of some numbers, of so many rows and columns, whose digits are so high.
TRACES: dict[str, Callable[[int, int, int, np.random.Generator], Depth]] = {
    "shining through": print_from_the_back,
    "smudged": smudges,
}


def on_a_used_sheet(picture: Picture, kind: str, chance: np.random.Generator) -> Picture:
    """Put a number, dark on light, on a larger sheet, unevenly lit, with some of TRACES."""
    height, width = picture.shape
    rows, columns = int(height * chance.uniform(1.2, 2.5)), int(width * chance.uniform(1.2, 2))
    depth = TRACES[kind](rows, columns, height // 2, chance)
    top, left = chance.integers(0, rows - height + 1), chance.integers(0, columns - width + 1)
    window = depth[top : top + height, left : left + width]
    np.maximum(window, 255.0 - picture, out=window)
    return photographed(depth, chance)


def made_up_numbers(digits: Split, kind: str, count: int) -> Iterator[tuple[Picture, str]]:
    """Yield so many pictures of numbers of a kind, with what they say."""
    chance = np.random.default_rng(7)
    for _ in range(count):
        picture, text = number(digits, "apart" if kind in TRACES else kind, chance)
        if kind in TRACES:
            picture = on_a_used_sheet(picture, kind, chance)
        yield picture, text


def printed_numbers(files: Sequence[Path], count: int) -> Iterator[tuple[Picture, str]]:
    """Yield so many pictures of numbers of two to six digits in some fonts, with what they say."""
    chance = np.random.default_rng(7)
    for _ in range(count):
        file = files[int(chance.integers(len(files)))]
        text = "".join(map(str, chance.integers(0, 10, int(chance.integers(2, 7)))))
        yield printed(text, file, int(chance.integers(60, 140)), chance), text


def read_numbers(model: CNN, numbers: Iterable[tuple[Picture, str]]) -> tuple[float, float]:
    """Return the share of numbers that are read right, and that of digits by edit distance."""
    read = make_reader(model)
    right = wrong = length = count = 0
    for picture, text in numbers:
        answer = read_text(read, picture)
        right += answer == text
        wrong += edit_distance(answer, text)
        length += len(text)
        count += 1
    return right / count, 1 - wrong / length


# ------------------------------------------------------------------------------ figures


def main() -> None:
    """Measure what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--fonts", type=Path, help="a folder of fonts drawn after handwriting")
    parser.add_argument("--count", type=int, default=300, help="pictures of each drawn kind")
    args = parser.parse_args()
    try:
        models, validation = open_networks(args.ckpt), validation_digits(args.data_dir)
    except (Error, OSError) as error:
        parser.error(str(error))
    drawn: dict[str, tuple[Callable, int]] = {
        "ones with a flag": (flagged_one, 1),
        "ones with flag and foot": (footed_one, 1),
        "sevens": (seven, 7),
    }
    kinds = {}
    for name, (draw, label) in drawn.items():
        chance = np.random.default_rng(0)
        kinds[name] = prepared((draw(chance) for _ in range(args.count)), [label] * args.count)
    kinds["printed digits"] = printed_digits(USUAL_FONTS, np.random.default_rng(0))
    if args.fonts:
        fonts = [file for file in sorted(args.fonts.iterdir()) if file.suffix in FONT_FILES]
        kinds["digits in fonts"] = printed_digits(fonts, np.random.default_rng(0))
    results: dict[str, list] = {}
    for name, split in kinds.items():
        results[name] = [evaluate(model, split).accuracy for model in models]
    numbers = {
        kind: list(made_up_numbers(validation, kind, args.count))
        for kind in ("apart", "touching", "overlapping", *TRACES)
    }
    if args.fonts:
        numbers["in fonts"] = list(printed_numbers(fonts, args.count))
    for kind, pictures in numbers.items():
        pairs = [read_numbers(model, pictures) for model in models]
        results[f"numbers, {kind}"], results[f"their digits, {kind}"] = map(list, zip(*pairs))
    for name, shares in results.items():
        each = ", ".join(f"{100 * share:.1f}" for share in shares)
        print(f"{name:28} {100 * np.mean(shares):5.1f} %  ({each})")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
