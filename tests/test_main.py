"""The command line: help without torch, mistakes in one line, results on stdout alone."""

import argparse
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from conftest import Outcome, slow

import mnist_cnn
from mnist_cnn import __version__, checkpoint
from mnist_cnn.__main__ import build_parser, main
from mnist_cnn.commands.options import learning_rate
from mnist_cnn.commands.shared import what_failed
from mnist_cnn.datasets import SOURCES
from mnist_cnn.recipes import MAX_RATE, RECIPES
from mnist_cnn.system.process import Terminated, end_by_exceptions

if TYPE_CHECKING:
    from forked import Forker

ROOT = Path(mnist_cnn.__file__).parents[1]
COMMANDS = (
    "train", "eval", "show-predictions", "predict", "demo", "show-features", "summary", "export",
)  # fmt: skip

# ------------------------------------------------------------------------------ help, version

HELP = """
import sys
from mnist_cnn.__main__ import main
for arguments in sys.argv[1:]:
    try:
        main(arguments.split())
    except SystemExit as leaving:
        assert leaving.code == 0, arguments
heavy = {"torch", "torchvision", "matplotlib", "numpy", "PIL", "cv2", "gradio", "tqdm"}
print("LOADED", sorted(heavy & set(sys.modules)))
"""


def test_help_and_version_load_nothing_heavy(tmp_path: Path) -> None:
    asked = ["--help", "--version", *(f"{command} --help" for command in COMMANDS)]
    package = str(Path(mnist_cnn.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", HELP, *asked],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": package, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert f"mnist_cnn {__version__}\n" in done.stdout
    assert done.stderr == ""
    assert done.stdout.count("usage: ") == 1 + len(COMMANDS)


def options_of(command: str) -> dict[str, argparse.Action]:
    """The options of a command, by their names."""
    (commands,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(commands.choices) == set(COMMANDS)
    return {
        name: action
        for action in commands.choices[command]._actions
        for name in action.option_strings or [action.dest]
        if name not in ("-h", "--help")
    }


DATA = {"--dataset", "--data-dir", "--device"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("train", DATA | {"--recipe", "--epochs", "--batch-size", "--lr", "--seed", "--out-dir",
                          "--quiet", "--resume"}),
        ("eval", DATA | {"--ckpt", "--json", "--confusion"}),
        ("show-predictions", DATA | {"--ckpt", "--out", "--count", "--wrong"}),
        ("predict", {"images", "--ckpt", "--number", "--json", "--show-input", "--device"}),
        ("demo", {"--ckpt", "--port", "--device"}),
        ("show-features", DATA | {"--ckpt", "--index", "--image", "--out"}),
        ("summary", {"--ckpt", "--recipe"}),
        ("export", {"file", "--ckpt"}),
    ],
)  # fmt: skip
def test_every_promised_option_is_there(command: str, expected: set[str]) -> None:
    assert expected <= options_of(command).keys()


def test_recipes_and_data_sets_are_offered_by_name() -> None:
    assert tuple(options_of("train")["--recipe"].choices) == tuple(RECIPES)
    assert set(options_of("train")["--dataset"].choices) == {"auto", *SOURCES}
    assert tuple(options_of("summary")["--recipe"].choices) == tuple(RECIPES)
    for command in ("eval", "show-predictions", "show-features"):  # which never fall back
        assert set(options_of(command)["--dataset"].choices) == set(SOURCES)


def test_the_defaults_are_those_of_the_design() -> None:
    assert options_of("train")["--data-dir"].default == "data"
    assert options_of("train")["--device"].default == "auto"
    for command in COMMANDS[1:]:
        ckpt = options_of(command)["--ckpt"]
        assert ckpt.const == "checkpoints/best.pt"  # --ckpt without a value
        assert ckpt.default == (None if command == "summary" else "checkpoints/best.pt")
    assert options_of("show-predictions")["--count"].default == 25
    assert options_of("demo")["--port"].default == 7860


# ------------------------------------------------------------------------------ mistakes


def test_without_a_command_it_shows_the_help_and_says_what_is_missing(cli: Callable) -> None:
    outcome = cli()
    assert (outcome.status, outcome.out) == (2, "")
    lines = outcome.err.splitlines()
    assert lines[0].startswith("usage: ")
    assert lines[-1].startswith("error: ")
    assert "train" in lines[-1]
    assert len([line for line in lines if line.startswith("error:")]) == 1


MISTAKES = [
    ("nonsense", "show-predictions"),
    ("--nonsense", "--nonsense"),
    ("train --nonsense", "--nonsense"),
    ("train again", "again"),
    ("train --epoch 2", "--epoch"),  # no abbreviations: what they mean changes with new options
    ("train --epochs", "--epochs"),
    ("train --recipe nonsense", "standard"),
    ("train --dataset nonsense", "sample"),
    ("eval --dataset auto", "--dataset"),
    ("train --epochs 0", "--epochs"),
    ("train --epochs -3", "--epochs"),
    ("train --epochs 2.5", "--epochs"),
    ("train --epochs many", "--epochs"),
    ("train --epochs 1000000000000", "--epochs"),
    ("train --batch-size 0", "--batch-size"),
    ("train --batch-size -1", "--batch-size"),
    ("train --batch-size 1e3", "--batch-size"),
    ("train --dataset sample --batch-size 3601", "3600"),
    ("train --dataset sample --batch-size 99999999999999999999", "3600"),
    ("train --lr 0", "--lr"),
    ("train --lr -0.1", "--lr"),
    ("train --lr nan", "--lr"),
    ("train --lr inf", "--lr"),
    ("train --lr 1e400", "--lr"),
    ("train --lr fast", "--lr"),
    ("train --seed -1", "--seed"),
    ("train --seed 99999999999999999999", "--seed"),
    ("train --seed x", "--seed"),
    ("train --resume nothing.pt", "nothing.pt"),
    ("train --dataset sample --out-dir file", "--out-dir"),
    ("train --dataset sample --out-dir file/folder", "--out-dir"),
    ("train --dataset sample --device nonsense", "nonsense"),
    ("eval --ckpt nothing.pt", "nothing.pt"),
    ("eval --confusion matrix.txt", "--confusion"),
    ("eval --device nonsense", "nonsense"),
    ("show-predictions --count 0", "--count"),
    ("show-predictions --count -1", "--count"),
    ("show-predictions --count 1000000", "--count"),
    ("show-predictions --count all", "--count"),
    ("show-predictions --out picture.txt", "--out"),
    ("show-predictions --out picture", "--out"),
    ("show-predictions --out .", "--out"),
    ("show-predictions --out file/picture.png", "--out"),
    ("show-predictions --device nonsense", "nonsense"),
    ("predict", "IMAGE"),
    ("predict x.png --show-input file/picture.png", "--show-input"),
    ("predict x.png --device nonsense", "nonsense"),
    ("demo --port 0", "--port"),
    ("demo --port 65536", "--port"),
    ("demo --port web", "--port"),
]


@pytest.mark.parametrize(("mistake", "word"), MISTAKES, ids=[mistake for mistake, _ in MISTAKES])
def test_a_mistake_gets_one_line(mistake: str, word: str, cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cli(*mistake.split()).assert_refused(word)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # and nothing has been begun


def test_what_a_system_error_is_about_is_said_as_far_as_it_is_known() -> None:
    assert what_failed(OSError(errno.ENOENT, "No such file", "x.pt")) == "x.pt: No such file"
    assert what_failed(OSError("timed out")) == "the system: timed out"


def test_a_learning_rate_may_be_as_large_as_any_recipe_may_have() -> None:
    assert learning_rate("1e30") == MAX_RATE


DEVICES = ["nonsense", "cuda:-1", "cuda:99", "", "meta", "vulkan"]
DEVICES += ["mkldnn", "hpu", "privateuseone"]
if not torch.accelerator.is_available():
    DEVICES += ["cuda", "cuda:0", "mps", "xpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_is_not_there_is_refused(
    device: str, cli: Callable, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    outcome = cli("train", "--dataset", "sample", "--device", device)
    outcome.assert_refused(device, "cpu")
    assert [str(warning.message) for warning in recwarn] == []  # a further line on stderr
    assert list(tmp_path.iterdir()) == []


def test_auto_finds_a_device(cli: Callable, sample_checkpoint: Path) -> None:
    assert cli("eval", "--ckpt", sample_checkpoint, "--device", "auto").status == 0


def test_half_of_what_torchrun_says_is_refused(
    cli: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    for key in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    cli("train", "--dataset", "sample", "--device", "cpu").assert_refused("torchrun")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ the system's errors


def test_an_error_of_the_system_names_its_file(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device", "matrix.png")

    monkeypatch.setattr(os, "replace", fail)
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--confusion", "matrix.png")
    outcome.assert_refused("matrix.png", "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fail_in_convolutions(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets every convolution raise an error."""

    def prepare(error: BaseException) -> None:
        def fail(*args: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(torch.nn.functional, "conv2d", fail)

    return prepare


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1000 bytes."),
    MemoryError(),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=str)
def test_running_out_of_memory_is_told_in_one_line(
    error: BaseException, cli: Callable, sample_checkpoint: Path, fail_in_convolutions: Callable
) -> None:
    fail_in_convolutions(error)
    outcome = cli("eval", "--ckpt", sample_checkpoint)
    outcome.assert_refused("out of memory")
    assert "--batch-size" not in outcome.err  # which eval does not have


def test_running_out_of_memory_in_training_proposes_a_smaller_batch(
    cli: Callable, sample_checkpoint: Path, fail_in_convolutions: Callable
) -> None:
    fail_in_convolutions(OUT_OF_MEMORY[0])
    options = ("--device", "cpu", "--quiet")
    cli("train", "--dataset", "sample", *options).assert_refused("out of memory", "--batch-size")


def test_running_out_of_memory_while_resuming_is_no_damage_of_the_file(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OUT_OF_MEMORY[0]

    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", fail)
    last = sample_checkpoint.with_name("last.pt")
    outcome = cli("train", "--resume", last, "--out-dir", "new", "--quiet", "--device", "cpu")
    outcome.assert_refused("out of memory")
    assert "damaged" not in outcome.err
    assert "--batch-size" not in outcome.err  # which cannot be changed now


def test_running_out_of_memory_while_loading_is_no_damage_of_the_file(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    outcome = cli("eval", "--ckpt", sample_checkpoint)
    outcome.assert_refused("out of memory")
    assert str(sample_checkpoint) not in outcome.err


def test_another_error_that_mentions_memory_is_not_taken_for_its_end(
    cli: Callable, sample_checkpoint: Path, fail_in_convolutions: Callable
) -> None:
    fail_in_convolutions(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        cli("eval", "--ckpt", sample_checkpoint)


def test_ctrl_c_is_told_in_a_line(
    cli: Callable, sample_checkpoint: Path, fail_in_convolutions: Callable
) -> None:
    fail_in_convolutions(KeyboardInterrupt())
    outcome = cli("eval", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "\ninterrupted\n")


# ------------------------------------------------------------------------------ streams


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_before_is_done_without(
    name: str, sample_checkpoint: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, None)
        options = ["--ckpt", str(sample_checkpoint), "--json", "--confusion", "m.png"]
        assert main(["eval", *options]) == 0
        assert getattr(sys, name) is None
    out, err = capsys.readouterr()
    assert err == ("" if name == "stderr" else "wrote m.png\n")
    if name == "stderr":  # what belongs there does not come up among the results
        assert out.startswith("{") and out.count("\n") == 1
    else:
        assert out == ""


@pytest.mark.slow
def test_a_name_that_the_terminal_cannot_show_is_printed_escaped(
    start_program: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "四.pt").write_bytes(sample_checkpoint.read_bytes())
    running = start_program("eval", "--ckpt", "四.pt", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    out, err = running.communicate(timeout=300)
    assert (running.returncode, err) == (0, "")
    assert out.splitlines()[0].endswith("checkpoint \\u56db.pt")


@pytest.mark.skipif(os.name == "nt", reason="a pipe is closed in another way there")
@pytest.mark.parametrize("options", [["--json"], slow([])])
def test_a_reader_that_leaves_gets_no_traceback(
    options: list[str], start_program: Callable, sample_checkpoint: Path
) -> None:
    running = start_program("eval", "--ckpt", sample_checkpoint, *options)
    running.stdout.close()  # as `| head` does, before anything is printed
    err = running.stderr.read()
    assert running.wait(timeout=300) == 1
    assert err == ""


@pytest.mark.skipif(os.name == "nt", reason="a pipe is closed in another way there")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_for_a_reader_that_leaves_is_no_traceback_either(
    option: str, start_program: Callable
) -> None:
    running = start_program(option)
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait(timeout=300) == 1


@pytest.mark.skipif(os.name == "nt", reason="a pipe is closed in another way there")
def test_a_mistake_is_one_though_nobody_hears_of_it(start_program: Callable) -> None:
    running = start_program("eval", "--ckpt", "missing.pt")
    running.stderr.close()
    assert running.stdout.read() == ""
    assert running.wait(timeout=300) == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [("--help",), ("summary", "--recipe", "fast")])
def test_what_cannot_be_printed_is_an_error_in_one_line(arguments: tuple[str, ...]) -> None:
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mnist_cnn", *arguments]
        process = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 2
    why = os.strerror(errno.ENOSPC)
    assert process.stderr == f"error: the system: {why}: check it and try again\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_message_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mnist_cnn", *SLOW, "1", "--out-dir", str(tmp_path)]
    with open("/dev/full", "w") as full:
        process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True)
    assert process.returncode == 0
    assert process.stdout.startswith("test accuracy ")


# ------------------------------------------------------------------------------ start and end


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    paths = {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | paths,
        capture_output=True,
        text=True,
    )


MAIN = "import sys; from mnist_cnn.__main__ import main; sys.exit(main(['summary']))"


def test_a_missing_package_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    process = run_python(f"import sys; sys.modules['torch'] = None; {MAIN}", tmp_path)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert "torch" in process.stderr and "pip install -e ." in process.stderr


@pytest.mark.parametrize("name", ["random", "torch"])
def test_a_file_that_hides_a_module_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("print('hello')\n")
    process = run_python(MAIN, tmp_path)
    assert process.returncode == 2
    assert process.stderr == (
        f"error: {name}.py in the current folder hides the module {name}: rename it\n"
    )


@pytest.mark.skipif(os.name == "nt", reason="a folder in use cannot be removed there")
def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    code = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"
    process = run_python(f"{code}; {MAIN}", tmp_path)
    assert process.returncode == 2
    assert process.stderr == "error: the current folder is gone: cd to another one\n"


@pytest.mark.parametrize(
    ("end", "status"), [("return 3", 3), ("sys.exit(4)", 4), ("raise OSError('a bug')", 1)]
)
def test_a_program_ends_with_its_status_after_the_exit_handlers(
    end: str, status: int, tmp_path: Path
) -> None:
    """But without the rest of Python's shutdown: objects that are left are not taken apart."""
    code = f"""
import atexit, sys
from mnist_cnn.system import process

class Left:
    def __del__(self):
        print("taken apart")

def run():
    atexit.register(print, "handler")
    print("done")
    {end}

left = Left()
process.end_with(run)
"""
    process = run_python(code, tmp_path)
    assert (process.returncode, process.stdout) == (status, "done\nhandler\n")
    assert ("a bug" in process.stderr) == (status == 1)


def test_settings_of_matplotlib_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xe9\xff\n")
    code = "from mnist_cnn.visualize import import_matplotlib; import_matplotlib()"
    process = run_python(code, tmp_path, MPLBACKEND="")
    assert "mnist_cnn.Error: matplotlib cannot be loaded" in process.stderr
    assert process.stderr.endswith("check your matplotlibrc\n")


# ------------------------------------------------------------------------------ signals

SLOW = ("train", "--dataset", "sample", "--recipe", "fast", "--device", "cpu", "--epochs")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let programs begin with the system's own answer to Ctrl-C.

    Tests that a script runs in the background inherit a SIGINT that is ignored, and what they
    start inherits it from them.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_interrupted(outcome: Outcome, status: int, folder: Path) -> None:
    """A training of 5000 epochs has left a run to resume, and says how."""
    assert (outcome.status, outcome.out) == (status, "")
    last = checkpoint.load_run(folder / "last.pt")
    assert len(last.history) >= 1
    *epochs, line = outcome.err.splitlines()
    assert all(re.match(r"epoch +\d+/5000: |training on |$", text) for text in epochs)
    assert line == (
        f"interrupted: resume after epoch {len(last.history)} with "
        "python -m mnist_cnn train --resume checkpoints/last.pt --device cpu"
    )
    assert {path.name for path in folder.iterdir()} == {"best.pt", "last.pt", "history.csv"}
    checkpoint.load(folder / "best.pt")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send")
def test_an_interruption_is_not_lost_where_pickle_drops_every_exception() -> None:
    """copyreg does, where it notes what it knows of a class."""

    class Interrupting(type):
        def __setattr__(cls, name: str, value: object) -> None:
            super().__setattr__(name, value)
            os.kill(os.getpid(), signal.SIGTERM)

    class Pickled(metaclass=Interrupting):
        pass

    with pytest.raises(Terminated), end_by_exceptions(restore=True):
        Pickled().__reduce_ex__(2)
        time.sleep(10)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send")
@pytest.mark.parametrize(
    ("number", "times", "status"),
    [(signal.SIGINT, 1, 130), (signal.SIGINT, 3, 130), (signal.SIGTERM, 1, 143)],
)
def test_an_interrupted_training_leaves_a_run_to_resume_and_says_how(
    number: int, times: int, status: int, forker: "Forker", tmp_path: Path
) -> None:
    running = forker.start(*SLOW, 5000, "--batch-size", 100, cwd=tmp_path)
    running.wait_for("epoch    2/5000")
    for _ in range(times):
        running.send(number)
    running.wait()
    outcome = Outcome(running.status, running.stdout, running.stderr)
    assert_interrupted(outcome, status, tmp_path / "checkpoints")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "times", "status"),
    [(signal.SIGINT, 1, 130), (signal.SIGINT, 3, 130), (signal.SIGTERM, 1, 143)],
)
def test_an_interrupted_program_leaves_a_run_to_resume_and_says_how(
    number: int, times: int, status: int, start_program: Callable, tmp_path: Path
) -> None:
    """The same with the program as users start it, and all of the sample."""
    running = start_program(*SLOW, 5000)
    for line in running.stderr:
        if line.startswith("epoch    2/5000"):
            break
    for _ in range(times):
        running.send_signal(number)
    out, err = running.communicate(timeout=300)
    outcome = Outcome(running.returncode, out, err)
    assert_interrupted(outcome, status, tmp_path / "checkpoints")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals to send")
def test_a_program_in_the_background_may_ignore_ctrl_c(forker: "Forker", tmp_path: Path) -> None:
    """It does when whoever starts it has SIGINT ignored, as shells do for a command with a &."""
    options = (*SLOW, 20, "--batch-size", 100)
    running = forker.start(*options, cwd=tmp_path, ignores_ctrl_c=True)
    running.wait_for("epoch  1/20")
    running.send(signal.SIGINT)
    assert running.wait() == 0, running
    assert running.stdout.startswith("test accuracy ")


def test_a_command_leaves_the_signals_as_they_were(cli: Callable) -> None:
    def handle(number: int, frame: object) -> None:
        pass

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        cli("eval")
        left = {number: signal.getsignal(number) for number in before}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert set(left.values()) == {handle}
