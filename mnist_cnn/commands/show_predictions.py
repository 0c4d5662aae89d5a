"""The command `show-predictions`: draw test images with the network's answers."""

import argparse
from typing import TYPE_CHECKING

from mnist_cnn import Error
from mnist_cnn.commands import options
from mnist_cnn.commands.shared import check_picture, load_trained, say, show_or_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = "draw test images with the network's answers"
MAX_COUNT = 1000  # images in one picture


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    options.add_checkpoint(parser)
    options.add_data(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="default: a window, or predictions.png without a screen"
    )
    parser.add_argument(
        "--count",
        type=options.whole(1, MAX_COUNT),
        default=25,
        metavar="N",
        help="number of images (default: 25)",
    )
    parser.add_argument(
        "--wrong", action="store_true", help="only the mistakes, the most confident first"
    )


def run(args: argparse.Namespace) -> int:
    """Draw the images in a window, or into a file whose name is printed."""
    import torch

    from mnist_cnn import visualize
    from mnist_cnn.evaluate import evaluate

    check_picture(args.out, "--out")
    trained, model, dataset, test = load_trained(args)
    result = evaluate(model, test)
    if args.wrong:
        chosen = result.most_confident_mistakes()[: args.count]
        title = f"{dataset}, test split: the most confident of {result.errors} mistakes"
        if len(chosen) < args.count:
            plural = "" if result.errors == 1 else "s"
            say(f"the network makes only {result.errors} mistake{plural} on this split")
        if not len(chosen):
            return 0
    else:
        if args.count > len(test.labels):
            raise Error(
                f"--count {args.count} is more than the {len(test.labels)} test images: choose a "
                "smaller number"
            )
        chosen = torch.arange(args.count)
        title = f"{dataset}, test split: the first {args.count}"

    def draw(window: bool) -> "Figure":
        return visualize.draw_predictions(
            test.images.cpu()[chosen].numpy(),
            result.labels[chosen].tolist(),
            result.predictions[chosen].tolist(),
            result.confidences[chosen].tolist(),
            trained.plan.classes,
            title,
            window,
        )

    show_or_write(draw, args.out, "predictions.png")
    return 0
