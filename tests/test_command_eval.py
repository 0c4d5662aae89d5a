"""The command eval: figures that agree with a calculation of one's own, as a table and as JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from torch import nn

from mnist_cnn import checkpoint
from mnist_cnn.data import load_split


def test_json_is_one_object_with_the_promised_keys(cli: Callable, sample_checkpoint: Path) -> None:
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--json", "--device", "cpu")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.count("\n") == 1
    answer = json.loads(outcome.out, parse_constant=pytest.fail)
    assert (answer["dataset"], answer["split"], answer["n"]) == ("sample", "test", 1000)
    assert answer["checkpoint"] == str(sample_checkpoint)
    assert isinstance(answer["errors"], int)
    assert 0 < answer["errors"] < 100
    assert answer["accuracy"] == (1000 - answer["errors"]) / 1000
    assert 0 < answer["loss"] < 0.5
    assert [row["label"] for row in answer["per_class"]] == list("0123456789")
    assert all(list(row) == ["label", "n", "precision", "recall", "f1"]
               for row in answer["per_class"])  # fmt: skip
    assert [row["n"] for row in answer["per_class"]] == [100] * 10
    recalled = sum(row["recall"] * row["n"] for row in answer["per_class"])
    assert recalled == pytest.approx(1000 - answer["errors"])


def test_json_agrees_with_a_calculation_of_its_own(cli: Callable, sample_checkpoint: Path) -> None:
    answer = json.loads(cli("eval", "--ckpt", sample_checkpoint, "--json").out)
    model = checkpoint.load(sample_checkpoint).build_model()
    images, labels = load_split("sample", "test", "")
    with torch.no_grad():
        logits = model(images[:, None].float() / 255)
    assert answer["errors"] == (logits.argmax(1) != labels).sum().item()
    assert answer["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), 1e-4)
    out = cli("eval", "--ckpt", sample_checkpoint).out
    for true, guess, count in re.findall(r"(\d) read as (\d): (\d+)", out):
        read_so = (labels == int(true)) & (logits.argmax(1) == int(guess))
        assert read_so.sum().item() == int(count) > 0


def test_the_table_says_what_the_json_says(cli: Callable, sample_checkpoint: Path) -> None:
    answer = json.loads(cli("eval", "--ckpt", sample_checkpoint, "--json").out)
    out = cli("eval", "--ckpt", sample_checkpoint).out
    first, *rows = out.splitlines()
    assert f"test accuracy {100 * answer['accuracy']:.2f} % ({answer['errors']} errors" in first
    assert f"loss {answer['loss']:.4f}" in first
    for expected in answer["per_class"]:
        (row,) = [line.split() for line in rows if line.split()[:2] == [expected["label"], "100"]]
        shown = [float(text) for text in row[2:] if text != "%"]
        exact = [100 * expected[key] for key in ("precision", "recall", "f1")]
        assert shown == pytest.approx(exact, abs=0.0051)
    header, row, *_ = rows[1:]
    assert header.index("images") + 6 == row.index("100") + 3 and len(row) == len(header)
    confused = [line for line in rows if " read as " in line]
    assert 1 <= len(confused) <= 5
    counts = [int(line.rpartition(":")[2]) for line in confused]
    assert counts == sorted(counts, reverse=True)


def test_confusion_draws_the_matrix(cli: Callable, sample_checkpoint: Path, tmp_path: Path) -> None:
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--json", "--confusion", "new/matrix.png")
    assert outcome.status == 0
    json.loads(outcome.out)  # and nothing beside it
    assert outcome.err == "wrote new/matrix.png\n"
    assert (tmp_path / "new" / "matrix.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("file", ["matrix.txt", "matrix", "", "folder.png", "file/matrix.png"])
def test_a_matrix_that_cannot_be_written_is_refused(
    file: str, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    cli("eval", "--ckpt", sample_checkpoint, "--confusion", file).assert_refused("--confusion")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.slow
def test_a_backend_that_matplotlib_does_not_know_is_named(
    start_program: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    options = ("eval", "--ckpt", sample_checkpoint, "--confusion", "matrix.png")
    process = start_program(*options, MPLBACKEND="nonsense")
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "MPLBACKEND=nonsense" in err
    assert list(tmp_path.iterdir()) == []


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
    make_tiny: Callable[[str], Tiny], cli: Callable, undrawn: None, tmp_path: Path
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
    tiny_mnist: Tiny, cli: Callable, undrawn: None, tmp_path: Path
) -> None:
    best = train_on(tiny_mnist, cli, tmp_path)
    outcome = cli("eval", "--ckpt", best, "--dataset", "sample")
    assert outcome.status == 0
    assert outcome.err == (
        "warning: this network was trained on mnist, so it has seen the sample's test digits\n"
    )
    assert " of 1000, sample)" in outcome.out
    assert cli("eval", "--ckpt", best).err == ""


def test_a_checkpoint_of_the_sample_is_used_on_mnist(
    tiny_mnist: Tiny, cli: Callable, tmp_path: Path, sample_checkpoint: Path
) -> None:
    tiny_mnist.write(tmp_path / "data")
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--dataset", "mnist")
    assert (outcome.status, outcome.err) == (0, "")
    assert " of 60, mnist)" in outcome.out


def test_a_network_whose_answers_are_no_numbers_is_refused(
    sample_checkpoint: Path, cli: Callable, tmp_path: Path
) -> None:
    trained = checkpoint.load(sample_checkpoint)
    for name, value in trained.weights.items():
        if "weight" in name:
            value *= 1e30  # each a number, their products none
    checkpoint.save(tmp_path / "wild.pt", trained)
    cli("eval", "--ckpt", "wild.pt").assert_refused("not finite", "train it again")
