"""The command `summary`: print the network's layers, their shapes, parameters and work."""

import argparse
from typing import TYPE_CHECKING

from mnist_cnn.commands import options
from mnist_cnn.recipes import RECIPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.features import Layer
    from mnist_cnn.model import CNN

HELP = "print the network's layers, their shapes, parameters and multiply-adds"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--ckpt",
        nargs="?",
        const=options.BEST,
        metavar="CKPT",
        help=f"describe this trained network (without a value: {options.BEST})",
    )
    which.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="describe the network that this recipe trains (default: standard)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the layer table of a trained network, or of a recipe's untrained one."""
    from mnist_cnn.features import layer_table

    print("\n".join(describe(layer_table(build_model(args)))))
    return 0


def build_model(args: argparse.Namespace) -> "CNN":
    """Build the network that --ckpt or --recipe names."""
    from mnist_cnn import checkpoint
    from mnist_cnn.model import CNN

    if args.ckpt is not None:
        return checkpoint.load(args.ckpt).build_model()
    recipe = RECIPES[args.recipe or "standard"]
    return CNN(recipe.channels, recipe.kernels, recipe.hidden, recipe.dropout)


def describe(table: "Sequence[Layer]") -> list[str]:
    """Format the layer table as lines: text aligned left, numbers right."""
    rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
    for name, kind, shape, parameters, work in table:
        sides = " x ".join(map(str, shape))
        rows.append((name, kind, sides, separate(parameters), separate(work)))
    parameters = sum(layer.parameters for layer in table)
    work = sum(layer.multiply_adds for layer in table)
    rows.append(("total", "", "", separate(parameters), separate(work)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 3 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return [*lines[:-1], "-" * max(map(len, lines)), lines[-1]]


def separate(number: int) -> str:
    """Return a number with its thousands separated; an empty string for 0."""
    return f"{number:,}" if number else ""
