"""The command `export`: write the trained network as a page to draw on, or as ONNX."""

import argparse
from pathlib import Path

from mnist_cnn import Error
from mnist_cnn.commands import options
from mnist_cnn.commands.shared import check_file
from mnist_cnn.datasets import DIGITS, SOURCES

HELP = "write the trained network as a page to draw on, or as ONNX"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="FILE.html: one page that shows the network at work, for any browser; "
        "FILE.onnx: for other programs",
    )
    options.add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file and print its name."""
    kind = check_name(args.file)

    from mnist_cnn import checkpoint, export
    from mnist_cnn.system.files import write_file

    if kind == ".onnx":
        export.check_onnx()
    trained = checkpoint.load(args.ckpt)
    model, plan = trained.build_model(), trained.plan
    if kind == ".onnx":
        content = export.build_onnx(model, plan.classes)
    elif plan.classes != DIGITS:
        raise Error(
            f"{args.ckpt} was trained on {plan.dataset}, and the page is for drawing digits: "
            "name a checkpoint trained on mnist or sample with --ckpt, or export it as .onnx"
        )
    else:
        source = SOURCES[plan.dataset]
        trained_on = f"a sample of {source.dataset}" if source.part_of else source.dataset
        content = export.build_page(model, plan.classes, trained_on)
    write_file(args.file, content, make_folder=True)
    print(args.file)
    return 0


def check_name(path: str) -> str:
    """Make sure, before any work is done for it, that a file can be written; return its suffix.

    Raises:
        Error: it cannot.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".html", ".onnx"):
        raise Error(f"{path}: end the name in .html, for a page to draw on, or in .onnx")
    check_file(path, "FILE")
    return ending
