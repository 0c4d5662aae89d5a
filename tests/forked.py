"""Commands in processes of their own that start at once: copies of one that has loaded PyTorch.

A program spends seconds loading PyTorch, and some tests need hundreds of them, to kill them or to
measure them. Run as a program, this file is the process that is copied (by fork, which Windows
has not); `Forker`, in the tests, tells it what to start.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mnist_cnn
from mnist_cnn.__main__ import main
from mnist_cnn.datasets import SOURCES

SAMPLE = SOURCES["sample"]
KILL = 9  # the number of the signal, which Windows has not

# ------------------------------------------------------------------------------ in the tests


class Job:
    """A command under way: its process id, and the files that its output goes to."""

    def __init__(self, server: subprocess.Popen, pid: int, out: Path, err: Path) -> None:
        self.server, self.pid, self.out, self.err = server, pid, out, err
        self.status: int | None = None  # as in subprocess: negative for the signal that ended it
        self.peak = 0  # bytes of memory, at most
        self.seconds = 0.0
        self.cpu_seconds = 0.0  # the same however busy the machine is

    def send(self, number: int) -> None:
        """Sends it a signal, if it has not ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """Waits until it has ended, or kills it; returns its exit status."""
        if self.status is None:
            assert self.server.stdout is not None
            impatience = threading.Timer(timeout, self.send, (KILL,))
            impatience.start()
            answer = json.loads(self.server.stdout.readline())
            impatience.cancel()
            impatience.join()
            self.status, self.peak, self.seconds, self.cpu_seconds = answer
        return self.status

    def wait_for(self, text: str) -> None:
        """Waits until it has printed a text on stderr."""
        end = time.monotonic() + 120
        while text not in self.stderr:
            if time.monotonic() > end:
                self.send(KILL)  # the next job waits for the end of this one
                self.wait()
                raise AssertionError(self.stderr)
            time.sleep(0.01)

    @property
    def stdout(self) -> str:
        return self.out.read_text("utf-8")

    @property
    def stderr(self) -> str:
        return self.err.read_text("utf-8")

    def __repr__(self) -> str:
        return f"exit status {self.status}, stdout {self.stdout!r}, stderr {self.stderr!r}"


class Forker:
    """A process that has loaded PyTorch, and starts one command after the other as a copy."""

    def __init__(self, folder: Path, small: Path) -> None:
        """Starts it.

        Args:
            folder: what its commands print goes to files in it.
            small: the folder of a sample with 240 + 60 images.
        """
        self.folder = folder
        package = str(Path(mnist_cnn.__file__).parents[1])
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, __file__, str(small), str(folder)],
            env={**os.environ, **single, "PYTHONPATH": package, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self.started = 0
        self.job: Job | None = None  # the last one

    def start(self, *arguments: object, cwd: Path, **settings: Any) -> Job:
        """Starts a command in a folder; one at a time. The settings are those of `prepare`."""
        assert self.server.stdin is not None and self.server.stdout is not None
        self.end_job()
        self.started += 1
        out, err = (self.folder / f"{self.started}.{name}" for name in ("out", "err"))
        for file in (out, err):
            file.touch()  # so that it can be read before the job has begun
        job = [[str(argument) for argument in arguments], str(cwd), str(out), str(err), settings]
        print(json.dumps(job), file=self.server.stdin, flush=True)
        pid = json.loads(self.server.stdout.readline())
        self.job = Job(self.server, pid, out, err)
        return self.job

    def run(self, *arguments: object, cwd: Path, **settings: Any) -> Job:
        """Runs a command to its end."""
        job = self.start(*arguments, cwd=cwd, **settings)
        job.wait()
        return job

    def end_job(self) -> None:
        """Ends the last job, if a test that failed has left it at work."""
        if self.job is not None and self.job.status is None:
            self.job.send(KILL)
            self.job.wait()

    def close(self) -> None:
        """Ends it, and its last job."""
        self.end_job()
        self.server.kill()
        self.server.communicate()


# ------------------------------------------------------------------------------ as the program


def load_everything(small: str, folder: str) -> None:
    """Load what the commands load, and do once what takes longer the first time.

    Args:
        small: the folder of the small sample, which this process and its copies will know instead
            of the real one.
        folder: where to train for a moment.
    """
    for name in ("predict", "train", "visualize", "system.distributed"):
        importlib.import_module(f"mnist_cnn.{name}")
    importlib.import_module("torch").set_num_threads(1)
    use_sample(small)
    options = "train --dataset sample --recipe fast --batch-size 100 --device cpu --quiet --out-dir"
    main([*options.split(), f"{folder}/first"])


def use_sample(folder: str) -> None:
    """Take 240 + 60 images in a folder for the sample."""
    counts = {"train": 240, "test": 60}
    SOURCES["sample"] = dataclasses.replace(
        SOURCES["sample"], folder=Path(folder), counts=counts, validation=40
    )


def prepare(
    real_sample: bool = False, real_pictures: bool = False, memory: int = 0, file_size: int = -1,
    signals: tuple[int, ...] = (), at_event: int = 0, at_cpu_seconds: float = 0, at_text: str = "",
    ignores_ctrl_c: bool = False,
) -> None:  # fmt: skip
    """Set limits and traps in the process that will run a command.

    Args:
        real_sample: use it; otherwise, the small one.
        real_pictures: draw them, though it takes longer than all else; otherwise, write something
            in their place.
        memory: bytes that it may ask for beyond what it has when it starts.
        file_size: bytes that a file may have; then writing fails as on a full disk.
        signals: what it sends itself, all at once, ...
        at_event: ... just before it changes a file in its folder for the n-th time, or
        at_cpu_seconds: ... when it has computed for so long, from the start or from when it
        at_text: ... has printed a text on stderr.
        ignores_ctrl_c: begin with a SIGINT that is ignored, as a program in the background does.
    """
    import resource  # Windows has none

    signal.signal(signal.SIGINT, signal.SIG_IGN if ignores_ctrl_c else signal.default_int_handler)
    if real_sample:
        SOURCES["sample"] = SAMPLE
    if not real_pictures:
        visualize = importlib.import_module("mnist_cnn.visualize")
        visualize.save = lambda figure, suffix: b"a picture"
    if memory:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    if file_size >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

    def send(*_: object) -> None:
        for number in signals:
            os.kill(os.getpid(), number)

    def start_clock() -> None:
        signal.signal(signal.SIGPROF, send)
        signal.setitimer(signal.ITIMER_PROF, at_cpu_seconds)

    if at_event:
        trap_event(at_event, send)
    elif at_text:
        trap_text(at_text, start_clock)
    elif at_cpu_seconds:
        start_clock()


def trap_event(count: int, function: Callable[[], None]) -> None:
    """Call a function just before a file in this folder is changed for the count-th time."""
    folder, left = os.getcwd(), count

    def hook(event: str, args: tuple) -> None:
        nonlocal left
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if event == "open" and isinstance(args[2], int):
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and os.path.abspath(os.fsdecode(args[0])).startswith(folder):
            left -= 1
            if left == 0:
                function()

    sys.addaudithook(hook)


def trap_text(text: str, function: Callable[[], None]) -> None:
    """Call a function when a text has been printed on stderr."""
    write = sys.stderr.write

    def trapping_write(printed: str) -> int:
        written = write(printed)
        if text in printed:
            function()
        return written

    sys.stderr.write = trapping_write  # type: ignore[method-assign]


def run_job(arguments: list[str], cwd: str, out: str, err: str, settings: dict[str, Any]) -> None:
    """Run a command in this process, and end it."""
    for number, path in ((1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, number)
        os.close(target)
    os.chdir(cwd)
    status: Any = None
    try:
        prepare(**settings)
        status = main(arguments)
    except SystemExit as leaving:
        status = leaving.code
    finally:
        if status is None:
            sys.excepthook(*sys.exc_info())
            status = 70
        sys.stdout.flush()
        os._exit(status)


def serve() -> None:
    """Run the commands that stdin names, each in a copy of this process."""
    with contextlib.redirect_stdout(sys.stderr):
        load_everything(*sys.argv[1:])
    for line in sys.stdin:
        job = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            run_job(*job)
        print(pid, flush=True)
        _, status, usage = os.wait4(pid, 0)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        times = [time.monotonic() - start, usage.ru_utime + usage.ru_stime]
        print(json.dumps([os.waitstatus_to_exitcode(status), peak, *times]), flush=True)


if __name__ == "__main__":
    serve()
