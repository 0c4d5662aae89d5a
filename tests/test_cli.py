"""The command line: help without torch, mistakes in one line, results on stdout alone."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from PIL import Image

from mnist_cnn import Error, __version__, checkpoint, data, distributed, train
from mnist_cnn import __main__ as program

COMMANDS = ("train", "eval", "show-predictions", "predict", "demo")
ACCELERATED = torch.accelerator.is_available()

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
    package = str(Path(data.__file__).parents[1])
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
    assert done.stdout.count("usage: ") == 6


def options_of(command: str) -> dict[str, argparse.Action]:
    """The options of a command, by their names."""
    (commands,) = (
        action
        for action in program.build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert tuple(commands.choices) == COMMANDS
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
    ],
)  # fmt: skip
def test_every_promised_option_is_there(command: str, expected: set[str]) -> None:
    assert expected <= options_of(command).keys()


def test_the_names_in_help_are_those_of_the_code() -> None:
    assert list(program.RECIPES) == list(train.RECIPES)
    assert list(program.DATASETS) == list(data.SOURCES)
    assert tuple(options_of("train")["--recipe"].choices) == tuple(train.RECIPES)
    assert set(options_of("train")["--dataset"].choices) == {"auto", *data.SOURCES}
    for command in ("eval", "show-predictions"):  # which never fall back
        assert set(options_of(command)["--dataset"].choices) == set(data.SOURCES)


def test_the_defaults_are_those_of_the_design(cli: Callable) -> None:
    assert options_of("train")["--data-dir"].default == "data"
    assert options_of("train")["--device"].default == "auto"
    for command in ("eval", "show-predictions", "predict", "demo"):
        assert options_of(command)["--ckpt"].default == "checkpoints/best.pt"
        assert options_of(command)["--ckpt"].const == "checkpoints/best.pt"
    assert options_of("show-predictions")["--count"].default == 25


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
    ("train --dataset sample --out-dir /dev/null/x", "--out-dir"),
    ("eval --ckpt nothing.pt", "nothing.pt"),
    ("eval --confusion matrix.txt", "--confusion"),
    ("show-predictions --count 0", "--count"),
    ("show-predictions --count -1", "--count"),
    ("show-predictions --count 1000000", "--count"),
    ("show-predictions --count all", "--count"),
    ("show-predictions --out picture.txt", "--out"),
    ("show-predictions --out picture", "--out"),
    ("show-predictions --out .", "--out"),
    ("show-predictions --out file/picture.png", "--out"),
    ("show-predictions --out /dev/null/picture.png", "--out"),
    ("predict", "IMAGE"),
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


DEVICES = ["nonsense", "cuda:-1", "cuda:99", "", "meta", "vulkan"]
DEVICES += ["mkldnn", "hpu", "privateuseone"]
if not ACCELERATED:
    DEVICES += ["cuda", "cuda:0", "mps", "xpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_is_not_there_is_refused(
    device: str, cli: Callable, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    outcome = cli("train", "--dataset", "sample", "--device", device)
    outcome.assert_refused(device, "cpu")
    assert [str(warning.message) for warning in recwarn] == []  # a further line on stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["eval", "show-predictions"])
def test_every_command_checks_its_device(
    command: str, cli: Callable, sample_checkpoint: Path
) -> None:
    cli(command, "--ckpt", sample_checkpoint, "--device", "nonsense").assert_refused("nonsense")


def test_auto_finds_a_device(cli: Callable, sample_checkpoint: Path) -> None:
    assert cli("eval", "--ckpt", sample_checkpoint, "--device", "auto").status == 0


def test_an_error_of_the_system_names_its_file(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device", "matrix.png")

    monkeypatch.setattr("mnist_cnn.files.os.replace", fail)
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--confusion", "matrix.png")
    outcome.assert_refused("matrix.png", "No space left on device")


def test_running_out_of_memory_is_told_in_one_line(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")

    monkeypatch.setattr("mnist_cnn.evaluate.compute_logits", fail)
    outcome = cli("eval", "--ckpt", sample_checkpoint)
    outcome.assert_refused("memory")
    assert "--batch-size" not in outcome.err  # which eval does not have


def test_another_error_that_mentions_memory_is_not_taken_for_its_end(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("mnist_cnn.evaluate.compute_logits", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        cli("eval", "--ckpt", sample_checkpoint)


# ------------------------------------------------------------------------------ data sets


def train_on(tiny: Tiny, cli: Callable, folder: Path) -> Path:
    """best.pt of a run of one epoch on a tiny data set."""
    tiny.write(folder / "data")
    options = ("--epochs", 1, "--batch-size", 50, "--quiet", "--device", "cpu")
    assert cli("train", "--dataset", tiny.name, "--out-dir", tiny.name, *options).status == 0
    return folder / tiny.name / "best.pt"


@pytest.mark.parametrize("command", ["eval", "show-predictions"])
def test_a_checkpoint_of_digits_is_not_used_on_clothes(
    command: str, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = cli(command, "--ckpt", sample_checkpoint, "--dataset", "fashion-mnist")
    outcome.assert_refused("sample", "fashion-mnist", "classes")
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded or drawn


def test_a_checkpoint_of_clothes_is_used_on_clothes(
    make_tiny: Callable[[str], Tiny], cli: Callable, tmp_path: Path
) -> None:
    best = train_on(make_tiny("fashion-mnist"), cli, tmp_path)
    outcome = cli("eval", "--ckpt", best)
    assert outcome.status == 0
    assert "Ankle boot" in outcome.out
    assert " of 60, fashion-mnist)" in outcome.out
    cli("eval", "--ckpt", best, "--dataset", "sample").assert_refused("fashion-mnist", "sample")
    cli("eval", "--ckpt", best, "--dataset", "kmnist").assert_refused("fashion-mnist", "kmnist")
    cli("predict", "seven.png", "--ckpt", best).assert_refused("fashion-mnist", "digits")


def test_a_checkpoint_of_mnist_on_the_sample_warns(
    tiny_mnist: Tiny, cli: Callable, tmp_path: Path
) -> None:
    best = train_on(tiny_mnist, cli, tmp_path)
    outcome = cli("eval", "--ckpt", best, "--dataset", "sample")
    assert outcome.status == 0
    assert outcome.err.startswith("warning: ")
    assert "seen" in outcome.err
    assert " of 1000, sample)" in outcome.out
    assert cli("eval", "--ckpt", best).err == ""


def test_a_checkpoint_of_the_sample_is_used_on_mnist(
    tiny_mnist: Tiny, cli: Callable, tmp_path: Path, sample_checkpoint: Path
) -> None:
    tiny_mnist.write(tmp_path / "data")
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--dataset", "mnist")
    assert (outcome.status, outcome.err) == (0, "")
    assert " of 60, mnist)" in outcome.out


# ------------------------------------------------------------------------------ show-predictions


def test_it_draws_the_first_predictions_and_prints_where(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (0, "predictions.png\n", "")
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    checkpoint.load(sample_checkpoint)  # untouched


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is given to visualize.draw_predictions; nothing is drawn."""
    from mnist_cnn import visualize

    calls: list[tuple] = []
    monkeypatch.setattr(
        visualize,
        "draw_predictions",
        lambda *given: calls.append(given) or visualize.new_figure(1, 1),
    )
    return calls


def test_it_shows_the_first_images_of_the_test_split(
    cli: Callable, sample_checkpoint: Path, drawn: list[tuple]
) -> None:
    assert cli("show-predictions", "--ckpt", sample_checkpoint, "--count", 7).status == 0
    images, labels, predictions, confidences, classes, *_ = drawn[0]
    test = data.load_split("sample", "test", "")
    assert (images == test.images[:7].numpy()).all()
    assert labels == test.labels[:7].tolist()
    model = checkpoint.build_model(checkpoint.load(sample_checkpoint))
    with torch.no_grad():
        likeliest = model(data.to_pixels(test.images[:7])).softmax(1).max(1)
    assert predictions == likeliest.indices.tolist()
    assert confidences == pytest.approx(likeliest.values.tolist(), abs=1e-5)
    assert classes == data.DIGITS


def test_wrong_shows_the_mistakes_the_surest_first(
    cli: Callable, sample_checkpoint: Path, drawn: list[tuple]
) -> None:
    assert cli("show-predictions", "--ckpt", sample_checkpoint, "--wrong", "--count", 9).status == 0
    images, labels, predictions, confidences, *_ = drawn[0]
    assert len(images) == len(labels) == 9
    assert all(label != guess for label, guess in zip(labels, predictions, strict=True))
    assert confidences == sorted(confidences, reverse=True)
    test = data.load_split("sample", "test", "")
    for image, label in zip(images, labels, strict=True):
        (place,) = (test.images == torch.from_numpy(image)).all((1, 2)).nonzero().flatten()
        assert test.labels[place] == label


def test_fewer_mistakes_than_asked_for_is_no_error(
    cli: Callable, sample_checkpoint: Path, drawn: list[tuple]
) -> None:
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint, "--wrong", "--count", 900)
    assert outcome.status == 0
    assert outcome.out == "predictions.png\n"
    mistakes = len(drawn[0][0])
    assert 0 < mistakes < 100
    assert str(mistakes) in outcome.err


def test_no_mistake_at_all_is_said_and_no_error(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = data.load_split("sample", "test", "").labels
    logits = torch.nn.functional.one_hot(labels, 10) * 20.0
    monkeypatch.setattr("mnist_cnn.evaluate.compute_logits", lambda *_: logits)
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint, "--wrong")
    assert (outcome.status, outcome.out) == (0, "")
    assert "0 mistakes" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["new/folder/a b.png", "ü.PNG", "./x.pdf", "x.svg"])
def test_out_may_lie_in_odd_places(
    out: str, cli: Callable, sample_checkpoint: Path, drawn: list[tuple], tmp_path: Path
) -> None:
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint, "--out", out)
    assert (outcome.status, outcome.out) == (0, f"{out}\n")
    assert (tmp_path / out).stat().st_size > 0
    assert not (tmp_path / "predictions.png").exists()


def test_a_window_is_opened_where_there_is_one(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mnist_cnn import visualize

    shown = []
    monkeypatch.setattr(visualize, "can_show", lambda: True)
    monkeypatch.setattr(visualize, "show", lambda: shown.append(True))
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint, "--count", 2)
    assert (outcome.status, outcome.out, shown) == (0, "", [True])
    assert list(tmp_path.iterdir()) == []
    assert cli("show-predictions", "--ckpt", sample_checkpoint, "--out", "x.png").out == "x.png\n"
    assert shown == [True]


# ------------------------------------------------------------------------------ a real process


def test_a_backend_that_matplotlib_does_not_know_is_named(
    start_program: Callable, sample_checkpoint: Path
) -> None:
    options = ("eval", "--ckpt", sample_checkpoint, "--confusion", "matrix.png")
    process = start_program(*options, MPLBACKEND="nonsense")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "MPLBACKEND=nonsense" in err


def test_a_backend_that_cannot_open_windows_here_draws_into_a_file(
    start_program: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    process = start_program(
        "show-predictions", "--ckpt", sample_checkpoint, "--count", 2,
        MPLBACKEND="module://not_installed_here",
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "predictions.png\n"), err
    assert (tmp_path / "predictions.png").exists()


def test_half_of_what_torchrun_says_is_refused(
    cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    for key in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    cli("train", "--dataset", "sample", "--device", "cpu").assert_refused("torchrun")


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_several_processes_cannot_share_an_accelerator(device: str) -> None:
    ranks = distributed.Ranks(rank=0, count=2, local=0)
    shared = distributed.connect(ranks, torch.device(device))
    with pytest.raises(Error, match="--device cuda for a GPU each"):
        shared.__enter__()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_training_with_130_and_leaves_a_run_to_resume(
    start_program: Callable, tmp_path: Path
) -> None:
    # Tests that a script runs in the background inherit a SIGINT that is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    running = start_program("train", "--dataset", "sample", "--recipe", "fast", "--epochs", 500)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("epoch   2/500"):
            break
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted" in err
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.pt", "last.pt", "history.csv"}
    last = checkpoint.load(folder / "last.pt")
    assert last["epoch"] == len(last["resume"]["history"]) >= 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_reader_that_leaves_gets_no_traceback(
    start_program: Callable, sample_checkpoint: Path
) -> None:
    running = start_program("eval", "--ckpt", sample_checkpoint)
    running.stdout.close()  # as `| head` does, before anything is printed
    err = running.stderr.read()
    assert running.wait(timeout=300) != 2
    assert err == ""
