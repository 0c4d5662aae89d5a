"""Evaluation: every figure against one worked out by hand, and never NaN."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mnist_cnn import checkpoint, data
from mnist_cnn.data import Split
from mnist_cnn.evaluate import (
    Evaluation,
    compute_logits,
    confusion_matrix,
    evaluate,
    most_confused,
    per_class,
)
from mnist_cnn.model import CNN

# Three classes and a fourth that nothing belongs to and nothing is taken for:
#                                0  0  0  0  1  1  1  2
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
GUESSES = torch.tensor([0, 0, 0, 1, 1, 2, 2, 0])
MADE_UP = Evaluation(0.5, LABELS, GUESSES, torch.ones(8))


def test_errors_and_accuracy() -> None:
    assert MADE_UP.errors == 4
    assert type(MADE_UP.errors) is int
    assert MADE_UP.accuracy == 0.5


def test_the_confusion_matrix_has_a_row_per_true_class() -> None:
    assert confusion_matrix(MADE_UP, 4).tolist() == [
        [3, 1, 0, 0],
        [0, 1, 2, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_precision_recall_and_f1() -> None:
    rows = per_class(confusion_matrix(MADE_UP, 4), ["a", "b", "c", "d"])
    assert rows == [
        {"label": "a", "n": 4, "precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4},
        {"label": "b", "n": 3, "precision": 1 / 2, "recall": 1 / 3, "f1": 0.4},
        {"label": "c", "n": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0},
        {"label": "d", "n": 0, "precision": 0.0, "recall": 0.0, "f1": 0.0},
    ]


def test_the_commonest_mistakes_come_first() -> None:
    assert most_confused(confusion_matrix(MADE_UP, 4), 5) == [(1, 2, 2), (0, 1, 1), (2, 0, 1)]
    assert most_confused(confusion_matrix(MADE_UP, 4), 1) == [(1, 2, 2)]
    assert most_confused(torch.diag(torch.tensor([5, 6])), 5) == []


class Fixed(nn.Module):
    """A network that answers with the brightness of the first pixels, ten times as large."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, :10] * 10


def test_evaluate_agrees_with_figures_worked_out_by_hand() -> None:
    images = torch.zeros(3, 28, 28, dtype=torch.uint8)
    images[0, 0, 4] = 255  # logit 10 for the 4, 0 for the nine others
    images[1, 0, 7] = 255
    result = evaluate(Fixed(), Split(images, torch.tensor([4, 1, 0])))
    total = math.log(math.exp(10) + 9)
    assert result.loss == pytest.approx(((total - 10) + total + math.log(10)) / 3)
    assert result.predictions[:2].tolist() == [4, 7]
    assert result.labels.tolist() == [4, 1, 0]
    sure = math.exp(10) / (math.exp(10) + 9)
    assert result.confidences.tolist() == pytest.approx([sure, sure, 0.1])


@pytest.mark.parametrize("n", [1, 249, 250, 251, 500])
def test_every_image_is_evaluated_whatever_their_number(n: int) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8)
    model = CNN().eval()
    logits = compute_logits(model, images)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(data.to_pixels(images)), atol=1e-5, rtol=1e-5)
    labels = torch.randint(0, 10, (n,))
    expected = nn.functional.cross_entropy(logits, labels).item()
    assert evaluate(model, Split(images, labels)).loss == pytest.approx(expected, rel=1e-5)


def test_evaluation_is_without_dropout_and_leaves_the_network_as_it_was() -> None:
    model, images = CNN(), torch.randint(0, 256, (9, 28, 28), dtype=torch.uint8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    assert torch.equal(compute_logits(model, images), compute_logits(model, images))
    assert model.training
    model.eval()
    compute_logits(model, images)
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------ the command


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
    model = checkpoint.build_model(checkpoint.load(sample_checkpoint))
    images, labels = data.load_split("sample", "test", "")
    with torch.no_grad():
        logits = model(images[:, None].float() / 255)
    assert answer["errors"] == (logits.argmax(1) != labels).sum().item()
    assert answer["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), 1e-4)


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
    confused = [line for line in rows if " read as " in line]
    assert 1 <= len(confused) <= 5
    counts = [int(line.rpartition(":")[2]) for line in confused]
    assert counts == sorted(counts, reverse=True)


def test_confusion_draws_the_matrix(cli: Callable, sample_checkpoint: Path, tmp_path: Path) -> None:
    outcome = cli("eval", "--ckpt", sample_checkpoint, "--json", "--confusion", "new/matrix.png")
    assert outcome.status == 0
    json.loads(outcome.out)  # and nothing beside it
    assert (tmp_path / "new" / "matrix.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("file", ["matrix.txt", "matrix", "", "folder.png", "file/matrix.png"])
def test_a_matrix_that_cannot_be_written_is_refused(
    file: str, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    cli("eval", "--ckpt", sample_checkpoint, "--confusion", file).assert_refused("--confusion")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]
