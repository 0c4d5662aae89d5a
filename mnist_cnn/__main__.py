"""The command line: python -m mnist_cnn, or mnist-cnn.

It reads the options, calls one function per command and prints. Whatever a user can mend ends in
one line on stderr and exit status 2. torch and matplotlib take seconds to import, so that every
command imports what it needs, and --help nothing.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnist_cnn import Error, __version__
from mnist_cnn.system.terminal import escape_unprintable

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from mnist_cnn.checkpoint import Checkpoint
    from mnist_cnn.data import Split
    from mnist_cnn.evaluate import Evaluation
    from mnist_cnn.model import CNN

RECIPES = ("fast", "standard", "best")
DATASETS = ("mnist", "fashion-mnist", "kmnist", "sample")
PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# What PyTorch's errors say when memory is short, on CPUs and GPUs.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
MAX_COUNT = 1000  # images in one picture
MAX_SHOWN = 20  # pictures whose preparation is drawn


class Parser(argparse.ArgumentParser):
    """Like argparse's own, but a mistake gets one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and leaves with exit status 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = Parser(
        prog="mnist_cnn",
        description="Train a two-convolution CNN to read handwritten digits, evaluate it, use it.",
        epilog="Start with: python -m mnist_cnn train",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mnist_cnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(name: str, function: Callable[[argparse.Namespace], int], text: str) -> Parser:
        command: Parser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
        )
        command.set_defaults(function=function)
        command.add_argument(
            "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ... (default: auto)"
        )
        return command

    def add_checkpoint(command: Parser) -> None:
        command.add_argument(
            "--ckpt",
            nargs="?",
            const="checkpoints/best.pt",
            default="checkpoints/best.pt",
            metavar="CKPT",
            help="the trained network (default: checkpoints/best.pt)",
        )

    def add_data(command: Parser, auto: bool) -> None:
        command.add_argument(
            "--dataset",
            choices=("auto", *DATASETS) if auto else DATASETS,
            help="auto is mnist where it can be had, else the sample (default: auto)"
            if auto
            else "default: the data set that the network was trained on",
        )
        command.add_argument(
            "--data-dir", default="data", metavar="DIR", help="where data sets are (default: data)"
        )

    train = add("train", run_train, "train the network, and evaluate it once on the test split")
    train.add_argument("--recipe", choices=RECIPES, help="default: standard")
    train.add_argument("--epochs", type=whole(1, 10_000), metavar="N", help="override the recipe's")
    train.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="images per step; override the recipe's"
    )
    train.add_argument(
        "--lr", type=learning_rate, metavar="X", help="peak learning rate; override the recipe's"
    )
    train.add_argument("--seed", type=whole(0, 2**63 - 1), metavar="N", help="default: 0")
    add_data(train, auto=True)
    train.add_argument("--out-dir", metavar="DIR", help="where results go (default: checkpoints)")
    train.add_argument(
        "--resume", metavar="CKPT", help="go on with the run that wrote this last.pt"
    )
    train.add_argument("--quiet", action="store_true", help="only warnings, errors and the result")

    evaluate = add("eval", run_eval, "evaluate a trained network on the test split")
    add_checkpoint(evaluate)
    add_data(evaluate, auto=False)
    evaluate.add_argument("--json", action="store_true", help="print one JSON object")
    evaluate.add_argument("--confusion", metavar="FILE", help="draw the confusion matrix")

    show = add("show-predictions", run_show, "draw test images with what the network reads in them")
    add_checkpoint(show)
    add_data(show, auto=False)
    show.add_argument("--out", metavar="FILE", help="default: a window, else predictions.png")
    show.add_argument(
        "--count", type=whole(1, MAX_COUNT), default=25, metavar="N", help="default: 25"
    )
    show.add_argument("--wrong", action="store_true", help="the mistakes, the surest first")

    predict = add("predict", run_predict, "read the digits in your own pictures")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="picture files, or patterns")
    add_checkpoint(predict)
    predict.add_argument("--number", action="store_true", help="several digits in each picture")
    predict.add_argument("--json", action="store_true", help="print one JSON list")
    predict.add_argument(
        "--show-input", metavar="FILE", help=f"draw what the network saw, of {MAX_SHOWN} pictures"
    )

    demo = add("demo", run_demo, "open a page to draw on")
    add_checkpoint(demo)
    demo.add_argument(
        "--port", type=whole(1, 65535), default=7860, metavar="N", help="default: 7860"
    )
    return parser


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers from least to most."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            limit = f"at least {least}" if number < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: {limit}")
        return number

    return parse


def learning_rate(text: str) -> float:
    """Parses a learning rate: finite, above 0."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(number) or number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is out of range: finite, above 0")
    return number


def say(text: str) -> None:
    """A message to the person at the terminal; results go to stdout, by print."""
    print(text, file=sys.stderr)


def load_data(name: str, split: str, data_dir: str, quiet: bool = False) -> "Split":
    """data.load_split, for a data set that nothing may stand in for."""
    from mnist_cnn.data import DownloadError, load_split

    try:
        return load_split(name, split, data_dir, quiet)
    except DownloadError as error:
        raise Error(
            f"{error}: connect to the internet, name a folder that has the files with --data-dir, "
            "or use --dataset sample"
        ) from None


def check_picture(path: str | None, option: str) -> None:
    """Makes sure, before any work is done for it, that a picture can be written."""
    from mnist_cnn.files import check_folder

    if path is None:
        return
    if Path(path).suffix.lower() not in PICTURES:
        raise Error(f"{option} {path}: end the name in one of {', '.join(PICTURES)}")
    if Path(path).is_dir():
        raise Error(f"{option} {path} is a folder: name a file in it")
    check_folder(Path(path).parent, option)


def write_picture(figure: "Figure", path: str | Path) -> None:
    """Writes a figure in the form that the file's name asks for."""
    from mnist_cnn import visualize
    from mnist_cnn.files import write_file

    write_file(path, visualize.save(figure, Path(path).suffix))


# ------------------------------------------------------------------------------ train


def run_train(args: argparse.Namespace) -> int:
    """The command `train`."""
    from mnist_cnn import distributed
    from mnist_cnn.device import choose_device
    from mnist_cnn.train import train

    ranks = distributed.find_ranks()
    device = choose_device(args.device, ranks.local)
    with distributed.connect(ranks, device):
        # One process decides, reads and checks, before anything is written.
        run, out_dir, splits = ranks.on_first(lambda: prepare_training(args, ranks.count))
        train_split, validation, test = (split.to(device) for split in splits)
        if ranks.rank == 0 and not args.quiet:
            say(describe_run(run, device, ranks.count, len(train_split.labels)))
        run = train(run, train_split, validation, out_dir, device, args.quiet, ranks)
        if ranks.rank == 0:
            report_training(run, test, out_dir, device)
    if ranks.count > 1:
        distributed.leave()
    return 0


def prepare_training(
    args: argparse.Namespace, processes: int
) -> "tuple[Checkpoint, str, tuple[Split, Split, Split]]":
    """Checks options, data and folders: returns the plan of the run, its folder, and the splits.

    The splits are those to train on, to validate on, and to test on at the end.
    """
    from dataclasses import fields

    from mnist_cnn import checkpoint, data
    from mnist_cnn.files import check_folder
    from mnist_cnn.train import Recipe, plan_run

    fallen_back = ""
    if args.resume is not None:
        refuse_beside_resume(args)
        run = checkpoint.load(args.resume)
        if "resume" not in run:
            last = Path(args.resume).with_name("last.pt")
            raise Error(f"{args.resume} holds only the trained network: use --resume {last}")
        missing = {field.name for field in fields(Recipe)} - run["recipe"].keys()
        if missing:
            raise Error(
                f"{args.resume} was begun by another version of this program (its recipe has no "
                f"{min(missing)}): start the run anew"
            )
        dataset = run["dataset"]
        out_dir = str(Path(args.resume).parent) if args.out_dir is None else args.out_dir
    else:
        out_dir = "checkpoints" if args.out_dir is None else args.out_dir
        dataset = args.dataset or "auto"
        if dataset == "auto":
            dataset, fallen_back = data.find_dataset(args.data_dir, args.quiet)

    both = load_data(dataset, "train", args.data_dir, args.quiet)
    test = load_data(dataset, "test", args.data_dir, args.quiet)
    train_split, validation = data.split_validation(both, data.SOURCES[dataset].validation)
    if args.resume is None:
        given = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr}
        overrides = {key: value for key, value in given.items() if value is not None}
        recipe, seed = args.recipe or "standard", args.seed or 0
        run = plan_run(recipe, overrides, seed, dataset, train_split)
    batch_size = run["recipe"]["batch_size"]
    if batch_size % processes:
        raise Error(
            f"a batch of {batch_size} cannot be divided equally among {processes} processes: "
            f"use --batch-size {batch_size // processes * processes or processes}"
        )

    check_folder(out_dir, "--out-dir")
    best = Path(out_dir) / "best.pt"
    going_on = args.resume is not None and best.parent.samefile(Path(args.resume).parent)
    if best.exists() and not going_on:
        if fallen_back and trained_on(best) == "mnist":
            raise Error(
                f"{best} was trained on mnist, which cannot be had now ({fallen_back}): to train "
                "on the sample without replacing it, choose another folder with --out-dir"
            )
        if not args.quiet:
            say(f"replacing the earlier run in {out_dir}")
    if fallen_back:
        say(
            "warning: training on the bundled sample of 4,000 digits, because MNIST is not in "
            f"{args.data_dir} and {fallen_back}. Expect about 98 % instead of 99.5 %. For the full "
            "data set run this again with an internet connection, or put the four .gz files of "
            f"MNIST into {Path(args.data_dir) / 'MNIST' / 'raw'}"
        )
    return run, out_dir, (train_split, validation, test)


def refuse_beside_resume(args: argparse.Namespace) -> None:
    """The one-cycle schedule was planned over the whole run: nothing of it can change now."""
    for option in ("recipe", "epochs", "batch_size", "lr", "seed", "dataset"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise Error(f"--{name} cannot be changed with --resume: leave it out, or start anew")


def trained_on(path: Path) -> str:
    """The data set of an earlier checkpoint; "" where it cannot be read."""
    from mnist_cnn import checkpoint

    try:
        return str(checkpoint.load(path)["dataset"])
    except Error:
        return ""


def describe_run(run: "Checkpoint", device: "torch.device", processes: int, images: int) -> str:
    """What is about to be trained, where, in one line."""
    recipe = run["recipe"]
    where = f"{device}" if processes == 1 else f"{processes} processes, {device.type}"
    plural = "s" if recipe["epochs"] > 1 else ""
    return (
        f"training on {images} images of {run['dataset']}: recipe {recipe['name']}, "
        f"{recipe['epochs']} epoch{plural}, batches of {recipe['batch_size']}, "
        f"seed {run['seed']}, "
        f"device {where}"
    )


def report_training(run: "Checkpoint", test: "Split", out_dir: str, device: "torch.device") -> None:
    """Draws the curves, evaluates the best epoch once on the test split, prints the result."""
    from mnist_cnn import visualize
    from mnist_cnn.checkpoint import build_model
    from mnist_cnn.evaluate import evaluate

    state = run["resume"]
    curves = visualize.draw_curves(state["history"], state["losses"].tolist())
    write_picture(curves, Path(out_dir) / "curves.png")
    result = evaluate(build_model(state["best"]).to(device), test)
    path = Path(out_dir) / "best.pt"
    print(f"{describe_accuracy(result, run['dataset'])}, checkpoint {path}")


def describe_accuracy(result: "Evaluation", dataset: str) -> str:
    """For example: test accuracy 99.52 % (48 errors of 10000, mnist)."""
    count = len(result.labels)
    return (
        f"test accuracy {100 * result.accuracy:.2f} % "
        f"({result.errors} errors of {count}, {dataset})"
    )


# ------------------------------------------------------------------------------ eval


def load_trained(args: argparse.Namespace) -> "tuple[Checkpoint, CNN, str, Split]":
    """The checkpoint, its network on the device, the data set's name, and its test split there."""
    from mnist_cnn import checkpoint
    from mnist_cnn.data import SOURCES
    from mnist_cnn.device import choose_device

    device = choose_device(args.device)
    trained = checkpoint.load(args.ckpt)
    dataset = args.dataset or trained["dataset"]
    if trained["classes"] != SOURCES[dataset].classes:
        raise Error(
            f"{args.ckpt} was trained on {trained['dataset']}, which has other classes than "
            f"{dataset}: leave --dataset out, or train on {dataset} first"
        )
    if (trained["dataset"], dataset) == ("mnist", "sample"):
        say("warning: this network was trained on mnist, so it has seen the sample's test digits")
    test = load_data(dataset, "test", args.data_dir).to(device)
    return trained, checkpoint.build_model(trained).to(device), dataset, test


def run_eval(args: argparse.Namespace) -> int:
    """The command `eval`."""
    from mnist_cnn import visualize
    from mnist_cnn.evaluate import confusion_matrix, evaluate, most_confused, per_class

    check_picture(args.confusion, "--confusion")
    trained, model, dataset, test = load_trained(args)
    classes = trained["classes"]
    result = evaluate(model, test)
    confusion = confusion_matrix(result, len(classes))
    rows = per_class(confusion, classes)
    if args.confusion:
        title = f"{dataset}, test split: {result.errors} errors in {len(result.labels)}"
        write_picture(visualize.draw_confusion(confusion.numpy(), classes, title), args.confusion)
        say(f"wrote {args.confusion}")
    if args.json:
        answer = {
            "dataset": dataset,
            "split": "test",
            "n": len(result.labels),
            "accuracy": result.accuracy,
            "loss": result.loss,
            "errors": result.errors,
            "per_class": rows,
            "checkpoint": args.ckpt,
        }
        print(json.dumps(answer))
        return 0

    print(f"{describe_accuracy(result, dataset)}, loss {result.loss:.4f}, checkpoint {args.ckpt}")
    width = max(5, *map(len, classes))
    print(f"\n{'class':{width}}  images  precision    recall        F1")
    for row in rows:
        figures = "".join(f"{100 * row[key]:8.2f} %" for key in ("precision", "recall", "f1"))
        print(f"{row['label']:{width}}  {row['n']:6} {figures}")
    pairs = most_confused(confusion, 5)
    if pairs:
        print("\nmost confused")
    for true, guess, count in pairs:
        print(f"{classes[true]} read as {classes[guess]}: {count}")
    return 0


# ------------------------------------------------------------------------------ show-predictions


def run_show(args: argparse.Namespace) -> int:
    """The command `show-predictions`."""
    import torch

    from mnist_cnn import visualize
    from mnist_cnn.evaluate import evaluate

    check_picture(args.out, "--out")
    trained, model, dataset, test = load_trained(args)
    result = evaluate(model, test)
    if args.wrong:
        wrong = (result.predictions != result.labels).nonzero().flatten()
        chosen = wrong[result.confidences[wrong].argsort(descending=True, stable=True)]
        chosen = chosen[: args.count]
        title = f"{dataset}, test split: the surest of {result.errors} mistakes"
        if len(chosen) < args.count:
            say(f"the network makes only {result.errors} mistakes on this split")
        if not len(chosen):
            return 0
    else:
        if args.count > len(test.labels):
            raise Error(f"--count {args.count} is more than the {len(test.labels)} test images")
        chosen = torch.arange(args.count)
        title = f"{dataset}, test split: the first {args.count}"
    window = args.out is None and visualize.can_show()
    figure = visualize.draw_predictions(
        test.images.cpu()[chosen].numpy(),
        result.labels[chosen].tolist(),
        result.predictions[chosen].tolist(),
        result.confidences[chosen].tolist(),
        trained["classes"],
        title,
        window,
    )
    if window:
        visualize.show()
    else:
        path = args.out or "predictions.png"
        write_picture(figure, path)
        print(path)
    return 0


# ------------------------------------------------------------------------------ predict, demo


def load_digit_reader(args: argparse.Namespace) -> "CNN":
    """The network of a checkpoint that was trained on digits, on the device."""
    from mnist_cnn import checkpoint
    from mnist_cnn.data import DIGITS
    from mnist_cnn.device import choose_device

    device = choose_device(args.device)
    trained = checkpoint.load(args.ckpt)
    if trained["classes"] != DIGITS:
        raise Error(
            f"{args.ckpt} was trained on {trained['dataset']}, not on digits: "
            "name a checkpoint trained on mnist or sample with --ckpt"
        )
    return checkpoint.build_model(trained).to(device)


def run_predict(args: argparse.Namespace) -> int:
    """The command `predict`."""
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


def run_demo(args: argparse.Namespace) -> int:
    """The command `demo`."""
    from mnist_cnn import demo
    from mnist_cnn.handwriting import use_one_thread

    demo.check(args.port)
    use_one_thread()
    demo.serve(load_digit_reader(args), args.port)
    return 0


# ------------------------------------------------------------------------------ main


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    0: done. 1: some input failed. 2: wrong usage or an error that the user can mend. 130: Ctrl-C.
    """
    escape_unprintable()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.error("no command given: start with train")
    try:
        status: int = args.function(args)
        if sys.stdout is not None:  # closed by whoever started the program
            sys.stdout.flush()
        return status
    except Error as error:
        say(f"error: {error}")
    except BrokenPipeError:  # whoever read our output has gone: nothing to tell, no one to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f"error: {error.filename or 'the system'}: {error.strerror}: check it and try again")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            words in str(error).lower() for words in OUT_OF_MEMORY
        ):
            raise
        smaller = args.command == "train" and args.resume is None
        advice = ", or choose a smaller --batch-size" if smaller else ""
        say(f"error: out of memory: close other programs{advice}")
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
