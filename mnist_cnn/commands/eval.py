"""The command `eval`: evaluate a trained network on the test split."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from mnist_cnn.commands import options
from mnist_cnn.commands.shared import (
    check_picture,
    describe_accuracy,
    load_trained,
    say,
    write_picture,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from mnist_cnn.evaluate import ClassFigures, Evaluation

HELP = "evaluate a trained network on the test split"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    options.add_checkpoint(parser)
    options.add_data(parser)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("--confusion", metavar="FILE", help="draw the confusion matrix into FILE")


def run(args: argparse.Namespace) -> int:
    """Evaluate; print the figures as text or as JSON, and draw the confusion matrix."""
    from mnist_cnn import visualize
    from mnist_cnn.evaluate import confusion_matrix, evaluate, per_class

    check_picture(args.confusion, "--confusion")
    trained, model, dataset, test = load_trained(args)
    classes = trained.plan.classes
    result = evaluate(model, test)
    confusion = confusion_matrix(result, len(classes))
    rows = per_class(confusion, classes)
    if args.confusion:
        title = f"{dataset}, test split: {result.errors} errors in {len(result.labels)}"
        write_picture(visualize.draw_confusion(confusion.numpy(), classes, title), args.confusion)
        say(f"wrote {args.confusion}")
    if args.json:
        print(json.dumps(to_json(result, rows, dataset, args.ckpt)))
    else:
        accuracy = describe_accuracy(result, dataset)
        print(f"{accuracy}, loss {result.loss:.4f}, checkpoint {args.ckpt}")
        print_table(rows)
        print_confusions(confusion, classes)
    return 0


def to_json(
    result: "Evaluation", rows: "list[ClassFigures]", dataset: str, checkpoint: str
) -> dict[str, Any]:
    """Return the figures as plain values, in the form that --json prints."""
    return {
        "dataset": dataset,
        "split": "test",
        "n": len(result.labels),
        "accuracy": result.accuracy,
        "loss": result.loss,
        "errors": result.errors,
        "per_class": [row._asdict() for row in rows],
        "checkpoint": checkpoint,
    }


def print_table(rows: "list[ClassFigures]") -> None:
    """Print the figures of each class."""
    width = max(5, *(len(row.label) for row in rows))
    print(f"\n{'class':{width}}  images  precision    recall        F1")
    for row in rows:
        figures = "".join(f"{100 * share:8.2f} %" for share in (row.precision, row.recall, row.f1))
        print(f"{row.label:{width}}  {row.n:6} {figures}")


def print_confusions(confusion: "torch.Tensor", classes: "Sequence[str]") -> None:
    """Print the five most frequent confusions, if there are any."""
    from mnist_cnn.evaluate import most_confused

    pairs = most_confused(confusion, 5)
    if pairs:
        print("\nmost confused")
    for true, guess, count in pairs:
        print(f"{classes[true]} read as {classes[guess]}: {count}")
