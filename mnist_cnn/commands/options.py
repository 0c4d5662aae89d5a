"""Options that several commands share, and the values that options may take."""

import argparse
from collections.abc import Callable

from mnist_cnn.datasets import SOURCES
from mnist_cnn.recipes import MAX_RATE

BEST = "checkpoints/best.pt"


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)"
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add --ckpt."""
    parser.add_argument(
        "--ckpt",
        nargs="?",
        const=BEST,
        default=BEST,
        metavar="CKPT",
        help=f"the trained network (default: {BEST})",
    )


def add_data(parser: argparse.ArgumentParser, auto: bool = False) -> None:
    """Add --dataset and --data-dir; with `auto`, that is one of the data sets, too."""
    names, text = tuple(SOURCES), "default: the data set that the network was trained on"
    if auto:
        names = ("auto", *names)
        text = "auto: mnist if on disk or downloadable, else the sample (default: auto)"
    parser.add_argument("--dataset", choices=names, help=text)
    parser.add_argument(
        "--data-dir", default="data", metavar="DIR", help="folder of the data sets (default: data)"
    )


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from least to most."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            limit = f"at least {least}" if number < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: {limit}")
        return number

    return parse


def learning_rate(text: str) -> float:
    """Parse a learning rate: above 0, at most MAX_RATE."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < number <= MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text} is out of range: above 0, at most {MAX_RATE:g}")
    return number
