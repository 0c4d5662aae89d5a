"""The command line: python -m mnist_cnn, or mnist-cnn.

It reads the options and runs one of the commands. Every error that a user can fix ends here, as
one line on stderr and exit status 2. torch and matplotlib take seconds to import, so each command
imports what it needs when it runs, and --help imports neither.
"""

import argparse
import os
import sys
from typing import NoReturn

from mnist_cnn import Error, __version__
from mnist_cnn.commands import (
    demo,
    eval,
    export,
    predict,
    show_features,
    show_predictions,
    summary,
    train,
)
from mnist_cnn.commands.shared import say, what_failed
from mnist_cnn.system import process

COMMANDS = {
    "train": train,
    "eval": eval,
    "show-predictions": show_predictions,
    "predict": predict,
    "demo": demo,
    "show-features": show_features,
    "summary": summary,
    "export": export,
}


class Parser(argparse.ArgumentParser):
    """Like argparse's own, but a mistake gets one line instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with status 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands with their options."""
    parser = Parser(
        prog="python -m mnist_cnn",
        description="Train a two-convolution CNN to read handwritten digits, evaluate it, use it.",
        epilog="Start with: python -m mnist_cnn train",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mnist_cnn {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = command.HELP
        description = f"{text[0].upper()}{text[1:]}."
        added = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
        command.add_options(added)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status.

    0: done. 1: some input failed. 2: wrong usage or an error that the user can fix.
    130: Ctrl-C. 143: SIGTERM.

    Args:
        argv: the arguments; None: those of this process, which then ends with the command.
    """
    with process.print_anything(), process.end_by_exceptions(restore=argv is not None):
        try:
            args = parse(argv)
            check_current_folder()
            status: int = COMMANDS[args.command].run(args)
            sys.stdout.flush()
            return status
        except Error as error:
            say(f"error: {error}")
            return 2
        except KeyboardInterrupt as interruption:
            say(f"\ninterrupted{interruption}")
            return 143 if isinstance(interruption, process.Terminated) else 130
        except OSError as error:
            if process.is_closed_pipe(error):  # nobody is left to read a message
                return 1
            say(f"error: {what_failed(error)}: check it and try again")
            return 2
        except (MemoryError, RuntimeError, ImportError, AttributeError) as error:
            if process.is_out_of_memory(error):
                smaller = args.command == "train" and args.resume is None
                advice = ", or choose a smaller --batch-size" if smaller else ""
                why = f"out of memory: close other programs{advice}"
            else:
                why = explain_import(error)
            if not why:
                raise
            say(f"error: {why}")
            return 2


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; without a command, print the help and exit with status 2."""
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    finally:
        sys.stdout.flush()  # if --help or --version cannot be printed, that is reported, too
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.error("no command given: start with train")
    return args


def check_current_folder() -> None:
    """Make sure that there is a current folder: PyTorch's libraries cannot be loaded without.

    Raises:
        Error: it has been removed.
    """
    try:
        os.getcwd()
    except OSError:
        raise Error("the current folder is gone: cd to another one") from None


def explain_import(error: Exception) -> str:
    """Say what to do about a module that is missing or hidden; "" for any other error.

    Python looks into the current folder first, where a file called random.py, say, hides its own
    module of that name.
    """
    if not isinstance(error, (ImportError, AttributeError)):
        return ""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if "." not in name and file and os.path.dirname(file) == os.getcwd():
            return (
                f"{os.path.basename(file)} in the current folder hides the module {name}: rename it"
            )
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("mnist_cnn"):
        return f"{error}: activate the virtual environment, or install with pip install -e ."
    return ""


def program() -> NoReturn:
    """Run one command, and end the process."""
    process.end_with(main)


if __name__ == "__main__":
    program()
