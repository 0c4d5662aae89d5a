"""The command `show-features`: draw one digit's way through the network."""

import argparse
import os
from typing import TYPE_CHECKING

from mnist_cnn import Error
from mnist_cnn.commands import options
from mnist_cnn.commands.shared import (
    check_picture,
    load_digit_reader,
    load_trained,
    show_or_write,
)
from mnist_cnn.datasets import DIGITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from matplotlib.figure import Figure

    from mnist_cnn.model import CNN

HELP = "draw one digit's way through the network, and where the decision comes from"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    options.add_checkpoint(parser)
    options.add_data(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--index",
        type=options.whole(0),
        metavar="N",
        help="number of the image in the test split (default: 0)",
    )
    which.add_argument("--image", metavar="FILE", help="a picture of your own handwriting instead")
    parser.add_argument(
        "--out", metavar="FILE", help="default: a window, or features.png without a screen"
    )


def run(args: argparse.Namespace) -> int:
    """Draw the figure in a window, or into a file whose name is printed."""
    check_picture(args.out, "--out")
    if args.image is None:
        model, image, classes, title = take_test_image(args)
    else:
        model, image, classes, title = read_own_picture(args)
    show_or_write(
        lambda window: draw(model, image, classes, title, window), args.out, "features.png"
    )
    return 0


def take_test_image(
    args: argparse.Namespace,
) -> "tuple[CNN, torch.Tensor, Sequence[str], str]":
    """Return the network, the image of the test split that --index names, classes and a title.

    Raises:
        Error: there is no such image, or the network or its data are not available.
    """
    trained, model, dataset, test = load_trained(args)
    index, last = args.index or 0, len(test.labels) - 1
    if index > last:
        raise Error(f"--index {index} is out of range: the last test image is {last}")
    classes = trained.plan.classes
    label = classes[int(test.labels[index])]
    title = f"{dataset}, test split: image {index}, label {label}"
    return model, test.images[index], classes, title


def read_own_picture(
    args: argparse.Namespace,
) -> "tuple[CNN, torch.Tensor, Sequence[str], str]":
    """Return the network, the user's own picture as the network sees it, classes and a title.

    Raises:
        Error: it cannot be read, or the network was not trained on digits.
    """
    import torch

    from mnist_cnn.handwriting import prepare, read_picture
    from mnist_cnn.predict import without_warnings
    from mnist_cnn.visualize import shorten

    if args.dataset is not None:
        raise Error("--dataset chooses test images: leave it out with --image")
    model = load_digit_reader(args)
    with without_warnings():
        grey = read_picture(args.image)
    image = torch.from_numpy(prepare(grey).image)
    name = shorten(os.path.basename(args.image), 60)
    return model, image.to(model.mean.device), DIGITS, name


def draw(
    model: "CNN", image: "torch.Tensor", classes: "Sequence[str]", title: str, window: bool
) -> "Figure":
    """Compute what the network does with an image, uint8 (28, 28) on its device, and draw it."""
    from mnist_cnn import illustrate
    from mnist_cnn.evaluate import compute_logits, to_probabilities
    from mnist_cnn.features import SQUARE, feature_maps, occlusion_map, strongest_patch

    probabilities = to_probabilities(model, compute_logits(model, image[None]))[0].cpu()
    patch = strongest_patch(model, image)
    return illustrate.draw_features(
        image=image.cpu().numpy(),
        filters=model.conv1.weight.detach()[:, 0].cpu().numpy(),
        patch=(patch.filter, patch.row, patch.column),
        pixels=patch.pixels.numpy(),
        bias=patch.bias,
        response=patch.response,
        maps=[maps.cpu().numpy() for maps in feature_maps(model, image)],
        probabilities=probabilities.numpy(),
        occlusion=occlusion_map(model, image, int(probabilities.argmax()), SQUARE).numpy(),
        square=SQUARE,
        classes=classes,
        title=title,
        window=window,
    )
