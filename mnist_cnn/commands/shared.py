"""What several commands share: load a network and its data, write a picture, print a message."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import Error
from mnist_cnn.datasets import DIGITS, SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from matplotlib.figure import Figure

    from mnist_cnn.checkpoint import Trained
    from mnist_cnn.data import Split
    from mnist_cnn.evaluate import Evaluation
    from mnist_cnn.model import CNN

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def say(text: str) -> None:
    """Print a message to stderr; results go to stdout, by print."""
    print(text, file=sys.stderr)


def what_failed(error: OSError) -> str:
    """Say in one line which file a system error is about, and what it is."""
    return f"{error.filename or 'the system'}: {error.strerror or error}"


def load_data(
    name: str, split: str, data_dir: str, quiet: bool = False, free: bool = True
) -> "Split":
    """Load a split of a data set; nothing else may take its place.

    Args:
        free: whether the user may name another data set.

    Raises:
        Error: as data.load_split, with what can be done about a missing file.
    """
    from mnist_cnn.data import load_split
    from mnist_cnn.download import DownloadError

    try:
        return load_split(name, split, data_dir, quiet)
    except DownloadError as error:
        ways = ["connect to the internet", "name a folder that has the files with --data-dir"]
        if free and SOURCES[name].classes == DIGITS:
            ways.append("use --dataset sample")
        raise Error(f"{error}: {', '.join(ways[:-1])}, or {ways[-1]}") from None


def load_checkpoint(args: argparse.Namespace) -> "tuple[Trained, torch.device]":
    """Load what --ckpt names, and choose the device that --device asks for.

    Raises:
        Error: one of them is not available.
    """
    from mnist_cnn import checkpoint
    from mnist_cnn.system.device import choose_device, keep_freed_memory

    device = choose_device(args.device)
    keep_freed_memory()
    return checkpoint.load(args.ckpt), device


def load_trained(args: argparse.Namespace) -> "tuple[Trained, CNN, str, Split]":
    """Load what --ckpt, --device, --dataset and --data-dir name.

    Returns:
        the checkpoint, its network on the device, the data set's name, and its test split there.

    Raises:
        Error: one of them is not available, or the network and the data set differ in classes.
    """
    trained, device = load_checkpoint(args)
    trained_on = trained.plan.dataset
    dataset = args.dataset or trained_on
    if trained.plan.classes != SOURCES[dataset].classes:
        raise Error(
            f"{args.ckpt} was trained on {trained_on}, which has other classes than "
            f"{dataset}: leave --dataset out, or train on {dataset} first"
        )
    if SOURCES[dataset].part_of == trained_on:
        say(
            f"warning: this network was trained on {trained_on}, so it has seen the {dataset}'s "
            "test digits"
        )
    test = load_data(dataset, "test", args.data_dir).to(device)
    return trained, trained.build_model().to(device), dataset, test


def load_digit_reader(args: argparse.Namespace) -> "CNN":
    """Load the network that --ckpt names, onto --device, if it was trained on digits.

    Raises:
        Error: it was not, or it is not available.
    """
    trained, device = load_checkpoint(args)
    if trained.plan.classes != DIGITS:
        raise Error(
            f"{args.ckpt} was trained on {trained.plan.dataset}, not on digits: "
            "name a checkpoint trained on mnist or sample with --ckpt"
        )
    return trained.build_model().to(device)


def describe_accuracy(result: "Evaluation", dataset: str) -> str:
    """Put a result into words, such as "test accuracy 99.52 % (48 errors of 10000, mnist)"."""
    return (
        f"test accuracy {100 * result.accuracy:.2f} % "
        f"({result.errors} errors of {len(result.labels)}, {dataset})"
    )


def check_picture(path: str | None, option: str) -> None:
    """Make sure, before any work is done for it, that a picture can be written.

    Raises:
        Error: it cannot; the message names the option.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in PICTURES:
        raise Error(f"{option} {path}: end the name in one of {', '.join(PICTURES)}")
    check_file(path, option)


def check_file(path: str, option: str) -> None:
    """Make sure that a file can be written, and that its name is not a folder's.

    Raises:
        Error: it cannot; the message names the option.
    """
    from mnist_cnn.system.files import check_folder, is_folder

    if is_folder(path):
        raise Error(f"{option} {path} is a folder: name a file in it")
    check_folder(Path(path).parent, option)


def write_picture(figure: "Figure", path: str | Path) -> None:
    """Write a figure in the form that the file's name asks for."""
    from mnist_cnn import visualize
    from mnist_cnn.system.files import write_file

    write_file(path, visualize.save(figure, Path(path).suffix), make_folder=True)


def show_or_write(draw: "Callable[[bool], Figure]", out: str | None, default: str) -> None:
    """Show a figure in a window if one can be opened and no file is named; else write it to a file.

    If a file is written, its name is printed.

    Args:
        draw: draws the figure, for a window or not.
        out: the file that was asked for.
        default: the file if no window can be opened.
    """
    from mnist_cnn import visualize

    if out is None:
        if visualize.can_show():
            draw(True)
            visualize.show()
            return
        out = default
        check_file(out, "--out")
    write_picture(draw(False), out)
    print(out)
