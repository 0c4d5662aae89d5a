"""The command `predict`: read the digits in your own pictures."""

import argparse
import json
from typing import TYPE_CHECKING

from mnist_cnn.commands import options
from mnist_cnn.commands.shared import check_picture, load_digit_reader, say, write_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mnist_cnn.predict import Answer

HELP = "read the digits in your own pictures"
MAX_SHOWN = 20  # pictures whose preparation is drawn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or patterns")
    options.add_checkpoint(parser)
    parser.add_argument("--number", action="store_true", help="several digits in each picture")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument(
        "--show-input", metavar="FILE", help=f"draw what the network saw, of {MAX_SHOWN} pictures"
    )


def run(args: argparse.Namespace) -> int:
    """Read the pictures and print the answers; 1 if some picture could not be read."""
    check_picture(args.show_input, "--show-input")
    model = load_digit_reader(args)

    from mnist_cnn import predict

    read = predict.predict_numbers if args.number else predict.predict
    files = predict.expand_patterns(args.images)
    answers, drawn, failed = [], [], False
    for answer in read(model, files, MAX_SHOWN if args.show_input else 0):
        if answer.error:
            failed = True
            say(f"error: {answer.error}")
        elif answer.steps:
            drawn.append(answer)
        if args.json:
            answers.append(predict.to_json(answer, args.number))
        elif not answer.error:
            print(predict.to_text(answer, args.number))
    if args.json:
        print(json.dumps(answers))
    if drawn:
        write_picture(draw(drawn, args.number), args.show_input)
        say(f"wrote {args.show_input}")
    return 1 if failed else 0


def draw(answers: "list[Answer]", number: bool) -> "Figure":
    """Draw what the network saw: the steps of each picture, or the boxes of its digits."""
    from mnist_cnn import visualize

    names = [answer.file for answer in answers]
    if not number:
        probabilities = [answer.readings[0].probabilities for answer in answers]
        return visualize.draw_inputs(names, [answer.steps for answer in answers], probabilities)
    return visualize.draw_boxes(
        names,
        [answer.steps[0][1] for answer in answers],
        [[one.box for one in answer.readings if one.box] for answer in answers],
        [[one.digit for one in answer.readings] for answer in answers],
    )
