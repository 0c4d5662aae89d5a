"""The command `predict`: read the digits in your own pictures."""

import argparse
import json

from mnist_cnn.commands import options
from mnist_cnn.commands.shared import check_picture, load_digit_reader, say, write_picture

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
    from mnist_cnn.handwriting import use_one_thread

    use_one_thread()
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
        write_picture(predict.draw_answers(drawn, args.number), args.show_input)
        say(f"wrote {args.show_input}")
    return 1 if failed else 0
