"""What a command needs of its process: streams that print anything, signals, memory."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

# What PyTorch's errors say when memory is short, on CPUs and GPUs.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
PATIENCE = 5  # seconds between a first Ctrl-C and one that ends the program at once


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started the program asks it to end."""


@contextlib.contextmanager
def end_by_exceptions(restore: bool) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and, on Windows, Ctrl-Break end the program by an exception: once.

    Whoever presses Ctrl-C twice wants no more than whoever presses it once, and must not disturb
    what the program does on its way out. Only after PATIENCE seconds it ends at once; files are
    whole at any time.

    Args:
        restore: put the earlier handlers back in the end, also after a signal. A program that is
            about to exit had better ignore further ones: they would disturb its shutdown.
    """
    first = 0.0  # when the first signal came

    def handle(number: int, frame: object) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated
        if time.monotonic() - first > PATIENCE:
            os._exit(128 + number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # no other one is told of signals
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        for number in numbers:
            # Who starts a program in the background may have it ignore Ctrl-C: so it stays.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if restore or not first:
                signal.signal(number, handler)
            else:  # Python's shutdown would put the system's own in the place of ours
                signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def print_anything() -> Iterator[None]:
    """Make stdout and stderr take any text: what their encoding lacks is printed escaped.

    A stream that was closed before the program began takes everything and shows nothing.
    """
    with contextlib.ExitStack() as undo:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                undo.callback(setattr, sys, name, None)
                setattr(sys, name, undo.enter_context(open(os.devnull, "w", encoding="utf-8")))
            elif hasattr(stream, "reconfigure"):
                undo.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory has run out; PyTorch has no one type for that."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    )


def is_closed_pipe(error: OSError) -> bool:
    """Tell whether an error says that whoever read our output has gone."""
    # Windows calls that an invalid argument, and names no file.
    windows = sys.platform == "win32" and error.errno == 22 and error.filename is None
    return isinstance(error, BrokenPipeError) or windows
