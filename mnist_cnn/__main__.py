"""The command line: python -m mnist_cnn, or mnist-cnn.

It reads the options and runs one of the commands. Whatever a user can mend ends here, in one line
on stderr and exit status 2. torch and matplotlib take seconds to import, so that every command
imports what it needs when it runs, and --help nothing.
"""

import argparse
import os
import sys
from typing import NoReturn

from mnist_cnn import Error, __version__
from mnist_cnn.commands import demo, eval, export, predict, show_predictions, train
from mnist_cnn.commands.shared import say

COMMANDS = {
    "train": train,
    "eval": eval,
    "show-predictions": show_predictions,
    "predict": predict,
    "demo": demo,
    "export": export,
}
# What PyTorch's errors say when memory is short, on CPUs and GPUs.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")


class Parser(argparse.ArgumentParser):
    """Like argparse's own, but a mistake gets one line instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit status 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands with their options."""
    parser = Parser(
        prog="mnist_cnn",
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

    0: done. 1: some input failed. 2: wrong usage or an error that the user can mend. 130: Ctrl-C.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.error("no command given: start with train")
    try:
        status: int = COMMANDS[args.command].run(args)
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
