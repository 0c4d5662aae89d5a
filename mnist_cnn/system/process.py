"""What a command needs of its process: streams that print anything, signals, memory."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

# What PyTorch's errors say when memory is short, on CPUs and GPUs.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started the program asks it to end."""


@contextlib.contextmanager
def end_by_exceptions() -> Iterator[None]:
    """Let SIGTERM, and Ctrl-Break on Windows, end the program as Ctrl-C does: by an exception.

    Only the main thread is told of signals: in another one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if sys.platform == "win32":
        before[signal.SIGBREAK] = signal.signal(signal.SIGBREAK, signal.default_int_handler)
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interruptions() -> None:
    """Ignore further signals: the program is about to end, by one that it has already had."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
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
