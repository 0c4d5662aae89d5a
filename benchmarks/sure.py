"""How sure the networks are of their answers, how sure they should be, and what `doubtful` marks.

    python benchmarks/sure.py --ckpt s0/best.pt s1/best.pt s2/best.pt [--test] [--pictures FOLDER]

By default, it uses what may be used for making choices: the validation digits, and pictures made up
of them, which go through all of the preparation as a user's would: photos of digits, varied a
little and strongly; small drawings of one bit a pixel; and ones with a flag and no foot. With
--test, the test split is used as well; FOLDER holds pictures and a labels.csv with the columns file
and label.

Each is shown at temperature 1 and at the networks' own. The figures are means over the checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from handwriting import read_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder

from mnist_cnn import Error, checkpoint
from mnist_cnn.augment import augment
from mnist_cnn.data import Split, load_split, split_validation
from mnist_cnn.datasets import SOURCES
from mnist_cnn.evaluate import compute_logits, evaluate, reliability
from mnist_cnn.handwriting import prepare, read_picture, use_one_thread
from mnist_cnn.model import CNN
from mnist_cnn.predict import SURE
from mnist_cnn.recipes import Augmentation

BINS = 15  # of the expected calibration error, as Guo et al. (2017) have it
# How digits vary: whatever a recipe does in training, so that figures can be compared.
LITTLE = Augmentation(rotate=0.17, shift=0.04, scale=0.1, shear=0.1, elastic=0.5, stroke=0.4)
STRONG = Augmentation(rotate=0.35, shift=0.05, scale=0.2, shear=0.4, elastic=1.2, stroke=1.0)
LEVELS = (0.8, 0.85, 0.9, 0.95)  # below which an answer might be called doubtful


# ------------------------------------------------------------------------------ made-up pictures


def photo(digit: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Draw a digit with some pen on a sheet in slanting light, and take a noisy photo of it."""
    side = int(chance.integers(120, 260))
    ink = change_pen(cv2.resize(digit, (side, side), interpolation=cv2.INTER_CUBIC), 3, chance)
    height, width = side + chance.integers(20, 200, 2)
    y, x = np.mgrid[0:height, 0:width]
    angle = 2 * np.pi * chance.random()
    slope = np.cos(angle) * x / width + np.sin(angle) * y / height
    sheet = chance.uniform(150, 240) + chance.uniform(0, 50) * slope
    top, left = chance.integers(0, height - side + 1), chance.integers(0, width - side + 1)
    sheet[top : top + side, left : left + side] *= 1 - ink / 255 * chance.uniform(0.5, 0.9)
    noise = chance.normal(0, chance.uniform(1, 8), sheet.shape)
    return np.clip(sheet + noise, 0, 255).astype(np.uint8)


def small_drawing(digit: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Draw a digit without greys, in any width of pen, and shrink it to 24 to 63 pixels."""
    ink = cv2.resize(digit, (280, 280), interpolation=cv2.INTER_CUBIC)
    ink = change_pen(np.where(ink > 127, 255, 0).astype(np.uint8), 7, chance)
    side = int(chance.integers(24, 64))
    return cv2.resize(ink, (side, side), interpolation=cv2.INTER_AREA)


def change_pen(ink: np.ndarray, most: int, chance: np.random.Generator) -> np.ndarray:
    """Make all strokes broader or narrower, by up to `most` pixels on each side."""
    reach = int(chance.integers(0, most + 1))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return (cv2.dilate if chance.random() < 0.5 else cv2.erode)(ink, disk)


def flagged_one(chance: np.random.Generator) -> np.ndarray:
    """Draw a 1 with a flag and no foot."""
    height, lean = int(chance.integers(140, 230)), int(chance.integers(-15, 50))
    pen = int(chance.integers(8, 26))
    top, bottom = (140 + lean // 2, 140 - height // 2), (140 - lean // 2, 140 + height // 2)
    flag, angle = height * chance.uniform(0.15, 0.5), np.deg2rad(chance.uniform(20, 60))
    tip = (int(top[0] - flag * np.cos(angle)), int(top[1] + flag * np.sin(angle)))
    picture = np.zeros((280, 280), np.uint8)
    for end in (bottom, tip):
        cv2.line(picture, top, end, 255, pen, cv2.LINE_AA)
    return picture


def prepared(pictures: Iterable[np.ndarray], labels: Iterable[int]) -> Split:
    """Prepare pictures as predict does; those without ink are left out, as it gives no answer."""
    images, kept = [], []
    for picture, label in zip(pictures, labels):
        try:
            images.append(prepare(picture).image)
        except Error:
            continue
        kept.append(label)
    return Split(torch.from_numpy(np.stack(images)), torch.tensor(kept))


def make_pictures(validation: Split, count: int) -> dict[str, Split]:
    """Return made-up pictures of `count` validation digits, by their kind."""
    torch.manual_seed(0)
    chance = np.random.default_rng(0)
    order = torch.randperm(len(validation.labels))[:count]
    labels = validation.labels[order].tolist()
    kinds: dict[str, tuple[Augmentation, Callable]] = {
        "photos": (LITTLE, photo),
        "photos, strongly varied": (STRONG, photo),
        "small drawings": (LITTLE, small_drawing),
    }
    made = {}
    for name, (strengths, picture) in kinds.items():
        varied = augment(validation.images[order], strengths)
        digits = (255 * varied[:, 0]).byte().numpy()
        made[name] = prepared((picture(digit, chance) for digit in digits), labels)
    made["flagged ones"] = prepared((flagged_one(chance) for _ in range(300)), [1] * 300)
    return made


def read_folder(folder: Path) -> Split:
    """Return a folder's pictures, prepared."""
    rows = read_table(folder / "labels.csv")
    pictures = (read_picture(folder / row["file"]) for row in rows)
    return prepared(pictures, [int(row["label"]) for row in rows])


# ------------------------------------------------------------------------------ figures


def judge(models: list[CNN], split: Split) -> dict[str, dict[str, float]]:
    """Return all figures of a split, at temperature 1 and at the networks' own."""
    results = {}
    for name, own in (("temperature 1", False), ("their own", True)):
        rows, right, wrong = [], [], []
        for model in models:
            kept, model.temperature = model.temperature, model.temperature if own else 1.0
            result = evaluate(model, split)
            logits = compute_logits(model, split.images) / model.temperature
            model.temperature = kept
            hit = result.predictions == split.labels
            right.append(result.confidences[hit])
            wrong.append(result.confidences[~hit])
            gaps = [one.n * abs(one.accuracy - one.confidence) for one in reliability(result, BINS)]
            rows.append(
                {
                    "accuracy": result.accuracy,
                    "mean confidence": float(result.confidences.mean()),
                    "calibration error": sum(gaps) / len(split.labels),
                    "log likelihood": -F.cross_entropy(logits, split.labels).item(),
                }
            )
        figures = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        good, bad = torch.cat(right), torch.cat(wrong)
        figures |= {"wrong answers": len(bad), "their confidence": mean(bad)}
        for level in LEVELS:
            figures[f"wrong below {level}"] = mean(bad < level)
            figures[f"right below {level}"] = mean(good < level)
        results[name] = figures
    return results


def mean(values: torch.Tensor) -> float:
    """Return the mean of some values, 0.0 where there are none: JSON knows no NaN."""
    return float(values.double().mean()) if len(values) else 0.0


def show(name: str, split: Split, results: dict[str, dict[str, float]]) -> None:
    """Print a split's figures: shares in percent; log likelihood in nats."""
    print(f"\n{name}: {len(split.labels)} images")
    for kind, f in results.items():
        print(
            f"  {kind:13}  {100 * f['accuracy']:.2f} right, {100 * f['mean confidence']:.2f} sure, "
            f"calibration error {100 * f['calibration error']:.2f}, "
            f"log likelihood {f['log likelihood']:.4f}"
        )
        print(f"    {f['wrong answers']} wrong answers, {100 * f['their confidence']:.0f} sure")
        for level in LEVELS:
            wrong, right = (100 * f[f"{which} below {level}"] for which in ("wrong", "right"))
            print(f"    less than {level} sure: {wrong:.1f} of the wrong, {right:.2f} of the right")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the networks, the data, and where to write the figures."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", nargs="+", default=["checkpoints/best.pt"])
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--json", metavar="FILE", help="write all figures into FILE")
    return parser


def open_networks(paths: list[str]) -> list[CNN]:
    """Load the networks of some checkpoints, to read on one thread.

    Raises:
        Error: a checkpoint cannot be read.
    """
    torch.set_num_threads(1)
    use_one_thread()
    return [checkpoint.load(path).build_model() for path in paths]


def validation_digits(data_dir: str) -> Split:
    """Load MNIST's validation digits.

    Raises:
        Error: they cannot be read.
    """
    both = load_split("mnist", "train", data_dir)
    return split_validation(both, SOURCES["mnist"].validation)[1]


def main() -> None:
    """Measure what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=2000, help="digits to make pictures of")
    parser.add_argument("--test", action="store_true", help="use the test split as well")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="folder of people's own digits"
    )
    args = parser.parse_args()
    try:
        models, validation = open_networks(args.ckpt), validation_digits(args.data_dir)
        splits = {"validation digits": validation, **make_pictures(validation, args.count)}
        if args.test:
            splits["test digits"] = load_split("mnist", "test", args.data_dir)
        if args.pictures:
            splits["pictures"] = read_folder(args.pictures)
    except (Error, OSError) as error:
        parser.error(str(error))
    temperatures = [round(model.temperature, 3) for model in models]
    print("temperatures " + ", ".join(f"{one:.3f}" for one in temperatures))
    print(f"doubtful: less than {100 * SURE:.0f} % sure")
    figures = {name: judge(models, split) for name, split in splits.items()}
    for name, split in splits.items():
        show(name, split, figures[name])
    if args.json:
        content = json.dumps({"temperatures": temperatures, **figures}, indent=1)
        Path(args.json).write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
