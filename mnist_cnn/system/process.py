"""What a command needs from its process: streams that print anything, signals, memory."""

import atexit
import contextlib
import copyreg
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO, cast

# What errors say when memory is short: PyTorch's, on CPUs and GPUs, and that of loading a library.
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "not enough memory",
    "alloc_failed",
    "failed to map segment",
)
PATIENCE = 5  # seconds between a first Ctrl-C and one that ends the program at once
LOADING = 1  # seconds for which an interruption waits while modules are loaded


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever started the program asks it to end."""


@contextlib.contextmanager
def end_by_exceptions(restore: bool) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and, on Windows, Ctrl-Break end the program by an exception: once.

    Pressing Ctrl-C twice means no more than pressing it once, and must not disturb what the program
    does on its way out. Only after PATIENCE seconds does another signal end it at once; files are
    complete at any time.

    No exception is raised while a module is being loaded: PyTorch's may lose it, or abort. It is
    postponed, but not for long: before all modules are loaded, no work has begun. It is postponed
    in copyreg, too, which would lose it while a checkpoint is written.

    Args:
        restore: put the earlier handlers back at the end. A program that is about to exit should
            rather ignore further signals: they would disturb its shutdown.
    """
    first = 0.0  # when the first signal came
    signals: list[int] = []  # its number
    raised = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first, raised
        now = time.monotonic()
        if not signals:
            signals.append(number)
            first = now
        if raised:
            if now - first > PATIENCE:
                os._exit(128 + signals[0])
            return
        if must_wait(frame):
            if sys.platform != "win32" and now - first < LOADING:
                before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, handle))
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                return
            if not restore:
                print("\ninterrupted", file=sys.stderr, flush=True)
                os._exit(128 + signals[0])
        raised = True
        raise KeyboardInterrupt if signals[0] == signal.SIGINT else Terminated

    before = set_handlers(handle)
    try:
        yield
    finally:
        if signals and sys.platform != "win32":
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            # Not ours: Python's shutdown would put the system's own in its place.
            signal.signal(number, handler if restore else signal.SIG_IGN)


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Let signals end the process at once, while code runs that Python cannot interrupt."""
    before = set_handlers(signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_handlers(handler: Any) -> dict[signal.Signals, Any]:
    """Handle the signals that ask a program to end; return the handlers that they had.

    A program started in the background may ignore Ctrl-C: then it still does.
    """
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only this one gets signals
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    return before


def must_wait(frame: FrameType | None) -> bool:
    """Return whether a stack frame, or one of its callers, is loading a module or is in copyreg.

    copyreg, which pickle calls for every object, drops all exceptions in one place.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or file == copyreg.__file__:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def print_anything() -> Iterator[None]:
    """Make stdout and stderr take any text: what their encoding lacks is printed escaped.

    A stream that was closed before the program began takes everything and shows nothing; so does
    one that cannot be written to, at the end, when Python tries once more. What cannot be written
    to stderr is lost: a message that nobody can read is no reason to end a run.
    """
    with contextlib.ExitStack() as undo:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                undo.callback(setattr, sys, name, None)
                setattr(sys, name, undo.enter_context(open(os.devnull, "w", encoding="utf-8")))
            elif hasattr(stream, "reconfigure"):
                undo.callback(stream.reconfigure, errors=stream.errors)
                undo.callback(empty, stream)
                stream.reconfigure(errors="backslashreplace")
        undo.callback(setattr, sys, "stderr", sys.stderr)
        sys.stderr = cast(TextIO, Unfailing(sys.stderr))
        yield


class Unfailing:
    """A stream that loses what cannot be written to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text if possible; return its length."""
        with contextlib.suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what was buffered if possible."""
        with contextlib.suppress(OSError):
            self.stream.flush()


def end_with(run: Callable[[], int]) -> NoReturn:
    """Run a function and end the process with the status that it returns.

    Of Python's shutdown, only the exit handlers run. The rest takes half a second and 130 MB, most
    of it for PyTorch's libraries, and can abort while threads of a process group are at work.
    """
    status: int | str | None = 1  # of an exception that nobody catches

    def leave() -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                empty(stream)
        os._exit(status if isinstance(status, int) else 1)

    atexit.register(leave)  # the first handler to be registered is the last to be called
    try:
        status = run()
    except SystemExit as leaving:
        status = leaving.code or 0
        raise
    sys.exit(status)


def empty(stream: TextIO) -> None:
    """Flush a stream or, if that is not possible, let what it holds go nowhere."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory has run out; PyTorch has no single type for that.

    Or whether an error that led to it does: after one, torch.save, say, still tries to complete
    its file in memory, and fails again.
    """
    text = str(error).lower()
    if isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError))
        and any(words in text for words in OUT_OF_MEMORY)
    ):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def is_closed_pipe(error: OSError) -> bool:
    """Return whether an error says that whoever read our output is gone."""
    # Windows calls that an invalid argument, and names no file.
    windows = sys.platform == "win32" and error.errno == 22 and error.filename is None
    return isinstance(error, BrokenPipeError) or windows
