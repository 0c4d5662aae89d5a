"""The figures of an epoch's steps, and the bar that shows them."""

import io

import pytest
import torch

from mnist_cnn.system.progress import Progress

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 1, 2, 3])
RIGHT = torch.eye(10)[LABELS]  # logits
HALF = torch.eye(10)[torch.tensor([0, 1, 9, 9])]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def take_two_steps(quiet: bool, steps: int = 3) -> Progress:
    with Progress("epoch 3/10", steps, 4, CPU, quiet) as progress:
        progress.bar.mininterval = 0  # whatever comes is shown
        progress.add(torch.tensor(2.0, requires_grad=True), HALF, LABELS, 0.1)
        progress.add(torch.tensor(0.5, requires_grad=True), RIGHT, LABELS, 0.2)
    return progress


def test_the_losses_and_the_right_answers_of_all_steps_are_noted() -> None:
    progress = take_two_steps(quiet=True)
    assert progress.losses.tolist() == [2.0, 0.5, 0.0]
    assert not progress.losses.requires_grad  # what the steps needed can be freed
    assert progress.correct.item() == 6
    assert progress.correct.dtype == torch.int64
    assert progress.lr == 0.2
    assert progress.step == 2


def test_what_shows_no_digit_counts_neither_as_right_nor_as_wrong() -> None:
    with Progress("", 1, 4, CPU, quiet=True) as progress:
        labels = LABELS.clone()
        labels[0] = -1
        progress.add(torch.tensor(1.0), RIGHT, labels, 0.1)
    assert (progress.correct.item(), progress.digits.item()) == (3, 3)


def test_a_bar_bears_a_batch_without_any_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    with Progress("", 1, 4, CPU, quiet=False) as progress:
        progress.bar.mininterval = 0  # whatever comes is shown
        progress.add(torch.tensor(1.0), RIGHT, torch.full_like(LABELS, -1), 0.1)
    assert progress.digits.item() == 0


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    take_two_steps(quiet=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_on_a_terminal_a_bar_shows_the_newest_figures_and_goes(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = take_two_steps(quiet)  # kept: a bar that nobody holds goes by itself
    shown = terminal.getvalue()
    if quiet:
        assert shown == ""
    else:
        for figure in ("epoch 3/10", "loss=0.5", "accuracy=0.75", "8.00/12.0", " images"):
            assert figure in shown
        assert shown.split("\r")[-1].strip() == ""  # the line is empty again
    assert capsys.readouterr().out == ""
    assert progress.step == 2


def test_an_epoch_that_fails_takes_its_bar_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = Progress("epoch 1/1", 3, 4, CPU, False)
    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt
    assert "epoch 1/1" in terminal.getvalue()
    assert terminal.getvalue().split("\r")[-1].strip() == ""
