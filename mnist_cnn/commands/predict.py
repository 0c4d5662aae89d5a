"""The command `predict`: read the digits in your own pictures."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from mnist_cnn.commands import options
from mnist_cnn.commands.shared import check_picture, load_digit_reader, say, write_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from mnist_cnn.handwriting.arrays import Box
    from mnist_cnn.predict import Answer, Reading

HELP = "read the digits in your own pictures"
MAX_SHOWN = 20  # pictures whose preparation is drawn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_device(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or patterns")
    options.add_checkpoint(parser)
    parser.add_argument("--number", action="store_true", help="read several digits in each picture")
    parser.add_argument("--json", action="store_true", help="print the answers as one JSON list")
    parser.add_argument(
        "--show-input",
        metavar="FILE",
        help=f"draw what the network saw of the first {MAX_SHOWN} pictures into FILE",
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
    lines: list[str] = []
    # A picture is drawn before any result is printed: if that fails, stdout must stay empty.
    tell = lines.append if args.show_input else print
    for answer in read(model, files, MAX_SHOWN if args.show_input else 0):
        if answer.error:
            failed = True
            say(f"error: {answer.error}")
        elif answer.steps:
            drawn.append(answer)
        if args.json:
            answers.append(to_json(answer, args.number))
        elif not answer.error:
            tell(to_text(answer, args.number))
    if drawn:
        write_picture(draw_answers(drawn, args.number), args.show_input)
        say(f"wrote {args.show_input}")
    elif args.show_input:
        say(f"{args.show_input} was not written: none of the first pictures could be read")
    for line in lines:
        print(line)
    if args.json:
        print(json.dumps(answers))
    return 1 if failed else 0


def to_json(answer: "Answer", number: bool) -> dict[str, Any]:
    """Return an answer as plain values, in the form that `predict --json` prints."""
    if answer.error:
        return {"file": answer.file, "error": answer.error}
    if number:
        return {
            "file": answer.file,
            "number": answer.number,
            "doubtful": answer.doubtful,
            "digits": [{**digit_to_json(one), "box": one.box} for one in answer.readings],
        }
    one = answer.readings[0]
    return {
        "file": answer.file,
        **digit_to_json(one),
        "probabilities": one.probabilities.tolist(),
    }


def digit_to_json(one: "Reading") -> dict[str, Any]:
    """Return what is said of a digit, be it alone or one of a number."""
    return {"digit": one.digit, "confidence": one.confidence, "doubtful": one.doubtful}


def to_text(answer: "Answer", number: bool) -> str:
    """Return an answer as a line: photo.jpg: 7 (61.0 %), then 1 (35.2 %), doubtful."""
    from mnist_cnn.handwriting.picture import printable

    file, mark = printable(answer.file), ", doubtful" if answer.doubtful else ""
    if number:
        least = 100 * min(one.confidence for one in answer.readings)
        least = min(least, 99.9)  # no digit is certain, whatever the rounding makes of it
        return f"{file}: {answer.number} (each at least {least:.1f} %){mark}"
    one = answer.readings[0]
    second = float(one.probabilities[one.runner_up])
    return (
        f"{file}: {one.digit} ({100 * one.confidence:.1f} %), "
        f"then {one.runner_up} ({100 * second:.1f} %){mark}"
    )


def draw_answers(answers: "Sequence[Answer]", number: bool) -> "Figure":
    """Draw what the network saw of each picture, from answers whose steps were kept.

    Args:
        answers: at least one, without errors.
        number: whether each picture may hold several digits.
    """
    from mnist_cnn import visualize

    names = [answer.file for answer in answers]
    if not number:
        probabilities = [answer.readings[0].probabilities for answer in answers]
        return visualize.draw_inputs(names, [answer.steps for answer in answers], probabilities)
    boxes = [
        [scale_box(one.box, answer.scale) for one in answer.readings if one.box]
        for answer in answers
    ]
    pictures = [answer.steps[0][1] for answer in answers]
    digits = [[one.digit for one in answer.readings] for answer in answers]
    return visualize.draw_boxes(names, pictures, boxes, digits)


def scale_box(box: "Box", scale: float) -> "Box":
    """Return a box in pixels of a picture that was scaled."""
    left, top, right, bottom = (round(side * scale) for side in box)
    return left, top, right, bottom
