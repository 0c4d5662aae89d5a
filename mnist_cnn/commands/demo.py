"""The command `demo`: open a page to draw on."""

import argparse

from mnist_cnn.commands import options
from mnist_cnn.commands.shared import load_digit_reader

HELP = "open a page to draw on"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    options.add_checkpoint(parser)
    parser.add_argument(
        "--port",
        type=options.whole(1, 65535),
        default=7860,
        metavar="N",
        help="port to serve the page on (default: 7860)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from mnist_cnn import demo
    from mnist_cnn.handwriting import use_one_thread

    use_one_thread()
    demo.check(args.port)
    demo.serve(load_digit_reader(args), args.port)
    return 0
