"""Evaluation: every figure against one worked out by hand, and never NaN."""

import json
import math
import threading

import pytest
import torch
from torch import nn

from mnist_cnn import Error
from mnist_cnn.data import Split, to_pixels
from mnist_cnn.evaluate import (
    ClassFigures,
    Evaluation,
    compute_logits,
    confusion_matrix,
    evaluate,
    exact_convolutions,
    fit_temperature,
    most_confused,
    per_class,
)
from mnist_cnn.model import CNN, MAX_TEMPERATURE, MIN_TEMPERATURE

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
        ClassFigures(label="a", n=4, precision=3 / 4, recall=3 / 4, f1=3 / 4),
        ClassFigures(label="b", n=3, precision=1 / 2, recall=1 / 3, f1=0.4),
        ClassFigures(label="c", n=1, precision=0.0, recall=0.0, f1=0.0),
        ClassFigures(label="d", n=0, precision=0.0, recall=0.0, f1=0.0),
    ]
    assert {type(row.n) for row in rows} == {int}
    assert {type(figure) for row in rows for figure in row[2:]} == {float}
    json.dumps([row._asdict() for row in rows], allow_nan=False)


def test_the_most_confident_mistakes_come_first() -> None:
    confidences = torch.tensor([0.9, 0.9, 0.9, 0.5, 0.9, 0.7, 0.8, 0.7])
    # The mistakes are 3, 5, 6 and 7; of the two that are as sure the earlier comes first.
    mistakes = MADE_UP._replace(confidences=confidences).most_confident_mistakes()
    assert mistakes.tolist() == [6, 5, 7, 3]
    assert MADE_UP._replace(predictions=LABELS).most_confident_mistakes().tolist() == []


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


# ------------------------------------------------------------------------------ how sure


def test_the_temperature_makes_logits_as_sure_as_they_are_right() -> None:
    # Always the same two logits, and three answers of four right: they should say 75 %, which they
    # do where gap / temperature = ln(0.75 / 0.25).
    for gap in (0.5, 1.1, 3.0):
        logits = torch.tensor([[gap, 0.0]]).repeat(400, 1)
        labels = (torch.arange(400) % 4 == 3).long()
        temperature = fit_temperature(logits, labels)
        assert temperature == pytest.approx(gap / math.log(3), rel=1e-5)
        assert (logits / temperature).softmax(1)[0, 0].item() == pytest.approx(0.75, abs=1e-5)


def test_no_other_temperature_gives_a_smaller_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 10, generator=generator) * 3
    labels = (logits / 1.7).softmax(1).multinomial(1, generator=generator).flatten()

    def loss(temperature: float) -> float:
        return nn.functional.cross_entropy(logits.double() / temperature, labels).item()

    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(1.7, rel=0.1)
    assert all(loss(temperature) < loss(temperature * k) for k in (0.5, 0.97, 1.03, 2))


def test_the_temperature_has_limits() -> None:
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    never, half = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 0, 1])
    assert fit_temperature(logits, never) == pytest.approx(MIN_TEMPERATURE, rel=1e-6)
    assert fit_temperature(logits, half) == pytest.approx(MAX_TEMPERATURE, rel=1e-6)
    assert (
        MIN_TEMPERATURE
        <= fit_temperature(logits, never)
        < fit_temperature(logits, half)
        <= MAX_TEMPERATURE
    )


def test_a_temperature_changes_how_sure_answers_are_and_nothing_else() -> None:
    model = CNN(dropout=(0.0, 0.0)).eval()
    split = Split(torch.randint(0, 256, (50, 28, 28), dtype=torch.uint8), torch.arange(50) % 10)
    before = evaluate(model, split)
    logits = compute_logits(model, split.images)
    model.temperature = 2.5
    after = evaluate(model, split)
    assert torch.equal(compute_logits(model, split.images), logits)
    assert after.loss == before.loss
    assert torch.equal(after.predictions, before.predictions)
    torch.testing.assert_close(after.confidences, (logits / 2.5).softmax(1).max(1).values)
    assert (after.confidences < before.confidences).all()


def test_answers_that_are_no_numbers_are_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, 0, :10] / 0

    split = Split(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([4, 1]))
    with pytest.raises(Error, match="not finite"):
        evaluate(Broken(), split)


@pytest.mark.parametrize("n", [1, 249, 250, 251, 500])
def test_every_image_is_evaluated_whatever_their_number(n: int) -> None:
    images = torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8)
    model = CNN().eval()
    logits = compute_logits(model, images)
    with torch.no_grad():
        torch.testing.assert_close(logits, model(to_pixels(images)), atol=1e-5, rtol=1e-5)
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


def test_two_threads_do_not_undo_each_others_settings() -> None:
    """They are the process's: the second thread waits until the first has put them back."""
    before = torch.backends.cudnn.allow_tf32
    inside = threading.Event()

    def enter() -> None:
        with exact_convolutions(torch.device("cuda")):
            inside.set()

    other = threading.Thread(target=enter)
    with exact_convolutions(torch.device("cuda")):
        other.start()
        assert not inside.wait(0.1)
        assert not torch.backends.cudnn.allow_tf32
    other.join(timeout=10)
    assert inside.is_set()
    assert torch.backends.cudnn.allow_tf32 == before
