"""How well real pictures of digits are read, and what each step of their preparation is worth.

    python benchmarks/handwriting.py FOLDER --ckpt checkpoints/best.pt

FOLDER holds the pictures and a labels.csv with the columns file and label and, if wanted, kind and
repository (or author). Several --ckpt give the mean over the checkpoints, such as one per seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder

from mnist_cnn import Error, checkpoint
from mnist_cnn.data import load_split
from mnist_cnn.handwriting import (
    NEEDED,
    STEPS,
    Read,
    find_digits,
    prepare,
    read_picture,
    use_one_thread,
)
from mnist_cnn.predict import make_reader

BLANK = np.zeros((28, 28), np.uint8)  # stands for a picture that could not be prepared


def tutorial(path: Path) -> np.ndarray:
    """Do what tutorials do: greyscale, resize to 28x28, invert if the border is light."""
    grey = ImageOps.exif_transpose(Image.open(path)).convert("L")
    small = np.array(grey.resize((28, 28)))
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    return 255 - small if border.mean() > 127 else small


def prepared(pictures: Sequence[np.ndarray | None], skip: Sequence[str] = ()) -> np.ndarray:
    """Prepare pictures: (N, 28, 28), blank where there is no picture or no ink in it."""
    images = []
    for picture in pictures:
        try:
            images.append(BLANK if picture is None else prepare(picture, skip).image)
        except Error:
            images.append(BLANK)
    return np.stack(images)


def picture_or_none(path: Path) -> np.ndarray | None:
    """Return the picture; None, with a message, if it cannot be read."""
    try:
        return read_picture(path)
    except Error as error:
        print(error, file=sys.stderr)
        return None


def edit_distance(a: str, b: str) -> int:
    """How many digits must be inserted, dropped or changed to make one text of the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_text(read: Read, picture: np.ndarray) -> str:
    """Return the digits found in a picture, in reading order; "" where there is no ink."""
    try:
        images = np.stack([digit.image for digit in find_digits(picture, read)])
    except Error:
        return ""
    return "".join(map(str, read(images).argmax(1)))


class Reader:
    """The networks of several checkpoints, each read by itself, their accuracies averaged."""

    def __init__(self, paths: Sequence[str]) -> None:
        models = [checkpoint.load(path).build_model() for path in paths]
        self.readers = [make_reader(model) for model in models]

    def right(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return, for each image, the share of the networks that read it right: (N,)."""
        return np.mean([r(images).argmax(1) == labels for r in self.readers], axis=0)


def single_digits(folder: Path, reader: Reader, failures: str | None) -> dict:
    """Accuracy over all pictures of a folder, by kind, by author, and without each step."""
    rows = read_table(folder / "labels.csv")
    labels = np.array([int(row["label"]) for row in rows])
    paths = [folder / row["file"] for row in rows]
    start = time.perf_counter()
    pictures = [picture_or_none(path) for path in paths]
    images = prepared(pictures)
    seconds = time.perf_counter() - start
    right = reader.right(images, labels)
    result: dict = {"pictures": len(rows), "seconds": seconds, "accuracy": float(right.mean())}
    for name, columns in (("by kind", ("kind",)), ("by author", ("repository", "author"))):
        column = next((c for c in columns if c in rows[0]), None)
        values = np.array([row[column] if column else "" for row in rows])
        result[name] = {str(v): float(right[values == v].mean()) for v in sorted(set(values)) if v}
    result["left out"] = {
        step.name: float(reader.right(prepared(pictures, [step.name]), labels).mean())
        for step in STEPS
        if step.name not in NEEDED
    }
    naive = [BLANK if p is None else tutorial(f) for p, f in zip(pictures, paths)]
    result["as tutorials do"] = float(reader.right(np.stack(naive), labels).mean())
    wrong = [i for i in range(len(rows)) if right[i] < 1]
    answers = np.stack([read(images).argmax(1) for read in reader.readers])
    result["failures"] = [
        {"file": rows[i]["file"], "label": int(labels[i]), "read as": answers[:, i].tolist()}
        for i in wrong
    ]
    if failures:
        texts = [f"{labels[i]} read as {set(answers[:, i].tolist())}" for i in wrong]
        draw_failures([pictures[i] for i in wrong], images[wrong], texts, failures)
    return result


def several_digits(table: Path, reader: Reader) -> dict:
    """1 - edit distance / digits, averaged over pictures and checkpoints."""
    rows, scores = read_table(table), []
    for row in rows:
        picture = picture_or_none(table.parent / row["file"])
        texts = ["" if picture is None else read_text(read, picture) for read in reader.readers]
        truth = row.get("text", row.get("label", ""))
        score = np.mean([1 - edit_distance(text, truth) / len(truth) for text in texts])
        scores.append({"file": row["file"], "text": truth, "read as": texts, "score": float(score)})
    return {"score": float(np.mean([s["score"] for s in scores])), "pictures": scores}


def mnist_again(data_dir: str, reader: Reader, count: int) -> dict:
    """MNIST's own test digits, written out as PNG and read back, against plain evaluation."""
    split = load_split("mnist", "test", data_dir)
    digits, labels = split.images[:count].numpy(), split.labels[:count].numpy()
    result = {"digits": len(labels), "plain": float(reader.right(digits, labels).mean())}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "digit.png")
        for name, side in (("28x28", 28), ("280x280 inverted", 280)):
            images = []
            for digit in digits:
                picture = digit if side == 28 else 255 - cv2.resize(digit, (side, side))
                Image.fromarray(picture).save(file)
                images.append(prepare(read_picture(file)).image)
            result[name] = float(reader.right(np.stack(images), labels).mean())
    return result


def draw_failures(
    pictures: Sequence[np.ndarray | None], images: np.ndarray, texts: Sequence[str], path: str
) -> None:
    """One column per failure: the picture, the 28x28 made of it, truth and answers."""
    side = 140
    canvas = Image.new("L", (max(1, len(texts)) * side, 2 * side + 14), 128)
    pen = ImageDraw.Draw(canvas)
    for i, (picture, image, text) in enumerate(zip(pictures, images, texts)):
        original = Image.fromarray(BLANK if picture is None else picture)
        original.thumbnail((side, side))
        canvas.paste(original, (i * side, 0))
        canvas.paste(Image.fromarray(image).resize((side, side), 0), (i * side, side))
        pen.text((i * side + 2, 2 * side + 1), text, fill=255)
    canvas.save(path)


def show(result: dict, indent: str = "") -> None:
    """Print figures, nested as they are; those between 0 and 1 as percentages."""
    for name, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            show(value, indent + "  ")
        elif isinstance(value, list):
            print(f"{indent}{name}")
            for item in value:
                print(f"{indent}  {', '.join(f'{k} {v}' for k, v in item.items())}")
        elif isinstance(value, float) and name != "seconds":
            print(f"{indent}{name:20s} {100 * value:6.2f} %")
        else:
            print(f"{indent}{name:20s} {value:.4g}")


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="pictures and their labels.csv")
    parser.add_argument("--ckpt", nargs="+", default=["checkpoints/best.pt"])
    parser.add_argument("--multi", type=Path, metavar="CSV", help="several digits: file,text")
    parser.add_argument("--mnist", metavar="DATA_DIR", help="MNIST's test digits written and read")
    parser.add_argument("--count", type=int, default=10_000, help="how many of MNIST's digits")
    parser.add_argument("--failures", metavar="FILE", help="draw the misread pictures into FILE")
    parser.add_argument("--json", metavar="FILE", help="write all figures into FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    use_one_thread()
    result = {}
    try:
        reader = Reader(args.ckpt)
        if args.folder:
            result["single digits"] = single_digits(args.folder, reader, args.failures)
        if args.multi:
            result["several digits"] = several_digits(args.multi, reader)
        if args.mnist:
            result["MNIST again"] = mnist_again(args.mnist, reader, args.count)
    except (Error, OSError) as error:
        parser.error(str(error))
    if not result:
        parser.error("nothing to do: give a folder of pictures, --multi or --mnist")
    show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
