"""What the tests share: the command line in-process, small data sets, loopback mirrors."""

import asyncio
import dataclasses
import errno
import functools
import gzip
import hashlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# Before anything loads PyTorch: its threads, and those of the programs that tests start, leave the
# cores to others while they wait for work, of which tests of a few images have little.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

# Before anything loads matplotlib: a window that opens on somebody's desk waits for ever.
os.environ["MPLBACKEND"] = "agg"

import mnist_cnn
from mnist_cnn import illustrate, visualize
from mnist_cnn.__main__ import main
from mnist_cnn.data import load_split
from mnist_cnn.datasets import FILES, SOURCES

if TYPE_CHECKING:
    from forked import Forker


def slow(*values: Any) -> Any:
    """One case of a parametrized test, marked as slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Divides a whole run among the cores, up to four; what is named runs in this process."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if named else min(4, os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs a browser. Slow tests run where they are asked for.

    That is by -m slow, or by naming a folder with MNIST.
    """
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
    if "slow" in config.getoption("-m") or os.environ.get("MNIST_CNN_DATA_DIR"):
        return
    reason = "slow: asked for by -m slow, or by MNIST_CNN_DATA_DIR, the folder that has MNIST/raw"
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=reason))


# ------------------------------------------------------------------------------ what was counted

counts: list[str] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Sends them home, if this is one of several processes that share the tests."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = counts


def pytest_testnodedown(node: Any) -> None:
    """Takes them from such a process; one that has died has sent none."""
    counts.extend(getattr(node, "workeroutput", {}).get("counts", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints, at the end of the run, what the tests have counted."""
    if counts:
        terminalreporter.section("what was counted")
        for line in sorted(counts):
            terminalreporter.line(line)


@pytest.fixture
def count() -> Callable[[str], None]:
    """Adds a line to those that pytest prints at the end: how much a test has tried."""
    return counts.append


# ------------------------------------------------------------------------------ no network


@pytest.fixture(scope="session", autouse=True)
def offline() -> Iterator[None]:
    """Keep the tests, their session fixtures and all programs they start on this machine."""
    real = socket.getaddrinfo

    def only_loopback(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", "::1", "", None):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", only_loopback)
        # Other programs ask a proxy, and nobody listens there.
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setenv("https_proxy", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "True")  # as Gradio does when it serves a page
        # These tests are one process even where torchrun started them.
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        # argparse colours its help from Python 3.14 on.
        patch.delenv("FORCE_COLOR", raising=False)
        patch.setenv("NO_COLOR", "1")
        yield


# ------------------------------------------------------------------------------ leftovers


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Load what writes into the environment when it is first loaded: that is no test's doing."""
    for name in ("cv2", "torchvision"):
        importlib.import_module(name)


# pytest's own, and what PyTorch, up to 2.6 at least, sets when it looks for a GPU.
NOT_THE_TESTS = {"PYTEST_CURRENT_TEST", "CUDA_MODULE_LOADING"}


def process_state() -> dict[str, object]:
    """Return what a test could change for the tests after it."""
    return {
        "the environment": {
            name: value for name, value in os.environ.items() if name not in NOT_THE_TESTS
        },
        "the working directory": os.getcwd(),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        # A library that is loaded during a test may well set one for its own kinds of warning.
        "warnings.filters": [
            entry for entry in warnings.filters if entry[2].__module__ == "builtins"
        ],
        "the number of torch's threads": torch.get_num_threads(),
        "torch's default type": torch.get_default_dtype(),
    }


def lasting_threads() -> set[threading.Thread]:
    """Return the threads that keep a process alive.

    The helpers of an event loop do not count: a fixture that serves a whole module has them.
    """
    alive = {thread for thread in threading.enumerate() if not thread.daemon}
    return {thread for thread in alive if not thread.name.startswith("asyncio_")}


def restore(state: dict[str, object]) -> None:
    """Undo what has changed; pytest itself brings the filters of warnings back."""
    environment = state["the environment"]
    for name in os.environ.keys() - environment.keys() - NOT_THE_TESTS:
        del os.environ[name]
    os.environ.update(environment)
    os.chdir(state["the working directory"])
    for number, handler in state["signal handlers"].items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    torch.set_num_threads(state["the number of torch's threads"])
    torch.set_default_dtype(state["torch's default type"])


def describe_change(name: str, before: object, after: object) -> str:
    """Say what has changed; of variables only the names, for some hold secrets."""
    if not isinstance(before, dict):
        return f"{name} ({before} -> {after})"
    keys = {key for key, _ in before.items() ^ after.items()}
    return f"{name} ({', '.join(sorted(map(str, keys)))})"


@pytest.fixture(autouse=True)
def leave_as_found() -> Iterator[None]:
    """Let every test start from the same seed, and fail the one that leaves something behind."""
    before, threads = process_state(), lasting_threads()
    torch.manual_seed(0)  # Python's and NumPy's generators are seeded by pytest-randomly
    yield
    after = process_state()
    restore(before)
    for thread in lasting_threads() - threads:
        thread.join(5)  # those that are about to end may do so
    changed = [name for name in before if before[name] != after[name]]
    left = [describe_change(name, before[name], after[name]) for name in changed]
    left += [f"the thread {thread.name}" for thread in lasting_threads() - threads]
    assert not left, f"the test left behind: {', '.join(left)}"


read_only: set[Path] = set()


def refuse_writing(event: str, args: tuple) -> None:
    """Refuse, as an audit hook, whatever would change something in the folders of read_only."""
    if not read_only:
        return
    paths = args[:2] if event == "os.rename" else args[:1]
    if event == "open":
        refused = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        refused = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
    for path in paths if refused else ():
        if isinstance(path, (str, bytes, os.PathLike)):
            absolute = Path(os.path.abspath(os.fsdecode(path)))
            if not read_only.isdisjoint([absolute, *absolute.parents]):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.fixture(scope="session")
def refusing_hook() -> None:
    """Install refuse_writing, once: Python keeps an audit hook to its end."""
    sys.addaudithook(refuse_writing)


@pytest.fixture
def forbid_writing(refusing_hook: None) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only for this process, for root and on Windows too, during the test."""
    yield lambda folder: read_only.add(Path(folder).absolute())
    read_only.clear()


# ------------------------------------------------------------------------------ the command line


@dataclass
class Outcome:
    """What a command left: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    def assert_refused(self, *words: str) -> None:
        """Exit status 2, nothing on stdout, and one line of error that holds all the words."""
        assert self.status == 2, self
        assert self.out == ""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if not line.startswith("downloading ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert len(lines[0]) > len("error: ") + 10
        for word in words:
            assert word in lines[0]


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Outcome]:
    """Runs a command in this process, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            status = leaving.code
        return Outcome(status, *capsys.readouterr())

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the commands write something in the place of pictures.

    To draw them takes longer than all else that a command does on few images.
    """
    leave_undrawn(monkeypatch)
    monkeypatch.setattr(visualize, "save", lambda figure, suffix: b"a picture")


def leave_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces all functions that draw; what they give cannot be saved as a picture."""
    for module in (visualize, illustrate):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            monkeypatch.setattr(module, name, lambda *args, **options: None)


@pytest.fixture
def start_program(tmp_path: Path) -> Callable[..., subprocess.Popen]:
    """Starts `python -m mnist_cnn ...` as a process of its own, in the test's folder."""
    started = []
    package = str(Path(mnist_cnn.__file__).parents[1])
    paths = [package, os.environ.get("PYTHONPATH")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PYTHONIOENCODING": "utf-8",
    }
    environment.pop("PYTHONUNBUFFERED", None)  # which hides what fails when a stream is emptied

    def start(*arguments: object, launcher: tuple[str, ...] = (), **extra: str) -> subprocess.Popen:
        command = [sys.executable, *launcher, "-m", "mnist_cnn", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def forker(
    tmp_path_factory: pytest.TempPathFactory, offline: None, small_sample: Path
) -> Iterator["Forker"]:
    """Starts commands in processes that need not load PyTorch first (forked.py)."""
    if os.name == "nt":
        pytest.skip("Windows has no fork")
    from forked import Forker

    server = Forker(tmp_path_factory.mktemp("forked"), small_sample)
    yield server
    server.close()


@pytest.fixture(scope="session")
def sample_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.pt of a short training run on the sample; last.pt and the rest lie beside it."""
    folder = tmp_path_factory.mktemp("sample")
    options = "train --dataset sample --recipe standard --epochs 8 --device cpu --quiet"
    assert main([*options.split(), "--out-dir", str(folder)]) == 0
    return folder / "best.pt"


# ------------------------------------------------------------------------------ small data sets


def pack_idx(values: torch.Tensor) -> bytes:
    """An IDX file: its header, then one byte per value."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return header + values.to(torch.uint8).numpy().tobytes()


@functools.cache
def pack_gzip(content: bytes) -> bytes:
    """A .gz file, which is made once: hundreds of tests want the same ones."""
    return gzip.compress(content, mtime=0)


@dataclass
class Tiny:
    """A data set with 240 + 60 images in the place of a real one: its files, by their names."""

    name: str
    dataset: str
    monkeypatch: pytest.MonkeyPatch
    files: dict[str, bytes] = field(default_factory=dict)
    packed: dict[str, bytes] = field(default_factory=dict)

    def replace(self, name: str, content: bytes) -> None:
        """Puts other content in a file, as if the data set had always been so."""
        self.files[name] = content
        self.packed[f"{name}.gz"] = pack_gzip(content)
        packed = {key.removesuffix(".gz"): value for key, value in self.packed.items()}
        source = dataclasses.replace(
            SOURCES[self.name],
            counts={"train": 240, "test": 60},
            validation=40,
            packed_md5={key: hashlib.md5(value).hexdigest() for key, value in packed.items()},
            md5={key: hashlib.md5(value).hexdigest() for key, value in self.files.items()}
            if self.name == "mnist"
            else {},
        )
        self.monkeypatch.setitem(SOURCES, self.name, source)

    def write(self, folder: Path, packed: bool = False) -> Path:
        """Writes the four files into folder/<data set>/raw, and returns that folder."""
        raw = folder / self.dataset / "raw"
        raw.mkdir(parents=True)
        for name, content in (self.packed if packed else self.files).items():
            (raw / name).write_bytes(content)
        return raw


@pytest.fixture(scope="session")
def small_files() -> dict[str, bytes]:
    """The four files of a data set with 240 + 60 of the sample's images, by their names."""
    return {
        name: pack_idx(values[:count])
        for split, count in (("train", 240), ("test", 60))
        for name, values in zip(FILES[split], load_split("sample", split, ""), strict=True)
    }


@pytest.fixture
def make_tiny(
    monkeypatch: pytest.MonkeyPatch, small_files: dict[str, bytes]
) -> Callable[[str], Tiny]:
    """Shrink a data set, in datasets.SOURCES, to 300 of the sample's images."""

    def make(name: str) -> Tiny:
        tiny = Tiny(name, SOURCES[name].dataset, monkeypatch)
        for file, content in small_files.items():
            tiny.replace(file, content)
        return tiny

    return make


@pytest.fixture
def tiny_mnist(make_tiny: Callable[[str], Tiny]) -> Tiny:
    """MNIST, shrunk."""
    return make_tiny("mnist")


@pytest.fixture(scope="session")
def small_sample(tmp_path_factory: pytest.TempPathFactory, small_files: dict[str, bytes]) -> Path:
    """The folder of a sample with 240 + 60 images, which the forker's commands take for it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for name, content in small_files.items():
        (folder / "MNIST" / "raw" / name).write_bytes(content)
    return folder


# ------------------------------------------------------------------------------ mirrors


class Mirrors:
    """An HTTP server on this machine whose folders are mirrors, each with its own failing."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.requests: list[str] = []
        self.over = threading.Event()
        self.outwaited = False  # whether somebody waited for 20 s or took 16 MB
        self.longest = 0.0  # how many seconds a slow mirror took
        mirrors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, name = self.path.split("/")[-2:]  # all before them is there for a proxy
                mirrors.requests.append(f"{kind}/{name}")
                mirrors.answer(self, kind, files[name])

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # of clients that go away: nothing to tell
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, kind: str) -> str:
        """The address of a mirror; kind is a method's name below, or "refusing"."""
        if kind == "refusing":  # a port that nothing listens on
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                return f"http://127.0.0.1:{free.getsockname()[1]}/"
        return f"http://127.0.0.1:{self.server.server_port}/{kind}/"

    def answer(self, request: BaseHTTPRequestHandler, kind: str, content: bytes) -> None:
        """Sends a file as that kind of mirror does."""
        half = len(content) // 2
        if kind == "forbidden":
            request.send_error(403)
        elif kind == "silent":
            self.wait()
        elif kind == "html":
            self.send(request, b"<html>Welcome to this network, please log in</html>")
        elif kind == "truncated":
            self.send(request, content[:half])
        elif kind == "damaged":
            self.send(request, content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])
        elif kind in ("dropping", "stalling"):
            self.send(request, content[:half], length=len(content))
            if kind == "stalling":
                self.wait()
        elif kind == "slow":
            start = time.monotonic()
            self.send(request, b"", length=len(content))
            step = len(content) // 5 + 1
            for first in range(0, len(content), step):
                self.over.wait(0.3)
                self.longest = time.monotonic() - start
                request.wfile.write(content[first : first + step])
        elif kind == "endless":  # without a length it lasts until somebody hangs up
            request.send_response(200)
            request.end_headers()
            for _ in range(256):
                request.wfile.write(content[:1] * (1 << 16))
            self.outwaited = True
        elif kind == "endless-redirect":
            request.send_response(302)
            request.send_header("Location", request.path)
            request.end_headers()
        elif kind == "no-http":
            request.wfile.write(b"220 this is no web server\r\n")
        else:
            assert kind == "good", kind
            self.send(request, content)

    def wait(self) -> None:
        """Says nothing until the test is over."""
        self.outwaited |= not self.over.wait(20)

    @staticmethod
    def send(request: BaseHTTPRequestHandler, content: bytes, length: int | None = None) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(length or len(content)))
        request.end_headers()
        request.wfile.write(content)
        request.wfile.flush()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve_mirrors(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Mirrors]]:
    """Puts mirrors of the given kinds, in this order, in the place of a data set's own."""
    import torchvision

    running = []

    def serve(files: dict[str, bytes], *kinds: str, dataset: str = "MNIST") -> Mirrors:
        mirrors = Mirrors(files)
        running.append(mirrors)
        urls = [mirrors.url(kind) for kind in kinds]
        monkeypatch.setattr(getattr(torchvision.datasets, dataset), "mirrors", urls)
        return mirrors

    yield serve
    for mirrors in running:
        mirrors.close()


# ------------------------------------------------------------------------------ the demo page


@pytest.fixture(scope="module")
def closed_loops() -> Iterator[None]:
    """Closes the event loops that Gradio makes, one for every lock of a page, and leaves open.

    Otherwise they come up as unclosed in whatever test runs when they are collected.
    """
    made: list[asyncio.AbstractEventLoop] = []
    new_event_loop = asyncio.new_event_loop

    def note_new_event_loop() -> asyncio.AbstractEventLoop:
        made.append(new_event_loop())
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", note_new_event_loop)
        yield
    for loop in made:
        if not loop.is_running():  # as that of Playwright
            loop.close()


# ------------------------------------------------------------------------------ a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER_OPTIONS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium or Chrome, driven by Playwright; without one the test is skipped."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("needs a Chromium or Chrome on the PATH")
    with sync_playwright() as running:
        options = BROWSER_OPTIONS.split()
        browser = running.chromium.launch(executable_path=executable, args=options)
        yield browser
        browser.close()


def zoom(page: Any) -> None:
    """Zooms a page in a window of 1920 x 900 by a half: less fits into it, and it is sharper."""
    screen = {"width": 1280, "height": 600, "deviceScaleFactor": 1.5, "mobile": False}
    page.context.new_cdp_session(page).send("Emulation.setDeviceMetricsOverride", screen)
    page.wait_for_function("devicePixelRatio === 1.5")
