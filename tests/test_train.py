"""Training: the loop moves the weights toward fewer mistakes, and keeps the best that it had."""

import copy
import csv
import itertools
import math
import warnings
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupt import stop_after
from torch import nn

import mnist_cnn
from mnist_cnn import Error, checkpoint
from mnist_cnn.augment import augment, weaken
from mnist_cnn.checkpoint import Metrics, Plan, Run
from mnist_cnn.data import Split, load_split, to_pixels
from mnist_cnn.enrich import NO_DIGIT
from mnist_cnn.evaluate import compute_logits, evaluate, fit_temperature
from mnist_cnn.model import MAX_TEMPERATURE, MIN_TEMPERATURE
from mnist_cnn.recipes import RECIPES, Augmentation
from mnist_cnn.start import MAX_STEPS, check_steps, plan_run, resume_run, start_run
from mnist_cnn.system.container import FLOAT, MAX_BYTES
from mnist_cnn.system.distributed import Ranks
from mnist_cnn.system.progress import Progress
from mnist_cnn.train import (
    derive_seed,
    describe_epoch,
    epoch_order,
    is_finite,
    learning_rates,
    train,
    train_epoch,
    validate,
)

CPU = torch.device("cpu")
STILL = Augmentation()


@pytest.fixture(scope="module")
def sample() -> Split:
    return load_split("sample", "train", "")


def first(split: Split, n: int) -> Split:
    return Split(split.images[:n], split.labels[:n])


def make_plan(split: Split, name: str = "standard", seed: int = 0, **changes: Any) -> Plan:
    """The plan of a run on the sample; changes are fields of Recipe."""
    overrides = {key: changes.pop(key) for key in ("epochs", "batch_size", "lr") if key in changes}
    plan = plan_run(name, overrides, seed, "sample", split)
    return replace(plan, recipe=replace(plan.recipe, **changes))


class Watch(nn.Module):
    """Stands between the loop and the network: keeps what the network was shown, and what it was.

    pixels: of each step, (N, 1, 28, 28). before: each step's weights, by their names, as they were
    then. training: whether dropout was on.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.pixels: list[torch.Tensor] = []
        self.before: list[dict[str, torch.Tensor]] = []
        self.was_training: list[bool] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.pixels.append(pixels.clone())
        self.before.append(copy.deepcopy(dict(self.net.named_parameters())))
        self.was_training.append(self.net.training)
        logits: torch.Tensor = self.net(pixels)
        return logits


def run_epoch(run: Run, split: Split, epoch: int = 1, ranks: Ranks = Ranks()) -> Watch:
    """Trains one epoch, and returns what was seen of it."""
    watch = Watch(run.net)
    with Progress("", run.steps_per_epoch, run.plan.recipe.batch_size, CPU, quiet=True) as progress:
        train_epoch(run, watch, split, epoch, progress, ranks)
    return watch


def loss_of(net: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return F.cross_entropy(net.eval()(to_pixels(split.images)), split.labels).item()


# ------------------------------------------------------------------------------ a step, an epoch


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_step_lowers_the_loss_markedly_and_moves_every_weight(seed: int, sample: Split) -> None:
    batch = first(sample, 100)
    plan = make_plan(
        batch, seed=seed, epochs=1, batch_size=100, lr=0.008, dropout=(0.0, 0.0),
        augmentation=STILL,
    )  # fmt: skip
    run = start_run(plan, 100, CPU)
    before = copy.deepcopy(run.net)
    run_epoch(run, batch)
    assert run.step == 1
    assert loss_of(run.net, batch) < loss_of(before, batch) - 0.1
    assert loss_of(run.averaged, batch) == loss_of(run.net, batch)
    for (weight, old), new in zip(before.named_parameters(), run.net.parameters(), strict=True):
        assert not torch.equal(old, new), weight


@pytest.mark.parametrize("decay", [0.0, 3.0])
def test_an_epoch_is_what_a_textbook_writes(
    decay: float, sample: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation, dropout and smoothing: Adam, a one-cycle rate, cross-entropy."""
    monkeypatch.setattr("mnist_cnn.train.mixed_precision", lambda device: nullcontext())
    split = first(sample, 120)
    plan = make_plan(
        split, seed=4, epochs=2, batch_size=20, dropout=(0.0, 0.0), augmentation=STILL, average=0.0,
        weight_decay=decay, betas=(0.8, 0.99),
    )  # fmt: skip
    run = start_run(plan, 120, CPU)
    net = copy.deepcopy(run.net)
    optimizer = torch.optim.Adam(net.parameters(), betas=plan.recipe.betas)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.recipe.lr, total_steps=12, cycle_momentum=False
    )
    for epoch in (1, 2):
        run_epoch(run, split, epoch)
        for batch in epoch_order(4, epoch, 120).split(20):
            loss = F.cross_entropy(net(to_pixels(split.images[batch])), split.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                for weight in net.parameters():
                    weight *= 1 - schedule.get_last_lr()[0] * decay
            optimizer.step()
            schedule.step()
    for expected, weight in zip(net.parameters(), run.net.parameters(), strict=True):
        # Within rounding, of which Adam makes a small part of a step (0.004 at most).
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-4)


def test_products_take_half_the_bits_and_weights_keep_all(
    sample: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    halved = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr("mnist_cnn.train.mixed_precision", lambda device: halved)
    batch = first(sample, 100)
    run = start_run(make_plan(batch, epochs=1, batch_size=100), 100, CPU)
    computed = set()
    for layer in (run.net.conv1, run.net.conv2, run.net.fc1, run.net.fc2):
        layer.register_forward_hook(lambda _, inputs, output: computed.add(output.dtype))
    run_epoch(run, batch)
    assert computed == {torch.bfloat16}
    kept = [*run.net.parameters(), *run.averaged.parameters(), run.losses]
    assert {weights.dtype for weights in kept} == {torch.float32}
    assert math.isfinite(run.losses.item())


def test_an_epoch_shows_every_image_once_but_those_left_over(sample: Split) -> None:
    split = Split(torch.arange(107, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28),
                  sample.labels[:107])  # fmt: skip
    plan = make_plan(split, epochs=3, batch_size=20, augmentation=STILL)
    run = start_run(plan, 107, CPU)
    orders = []
    for epoch in (1, 2, 3):
        watch = run_epoch(run, split, epoch)
        assert [len(pixels) for pixels in watch.pixels] == [20] * 5
        orders.append([round(255 * pixels[0, 0, 0].item()) for pixels in torch.cat(watch.pixels)])
        assert len(set(orders[-1])) == 100
        assert run.step == 5 * epoch
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert set().union(*orders) == set(range(107))


def test_the_network_sees_augmented_images_that_weaken_as_the_recipe_says(sample: Split) -> None:
    split = first(sample, 60)
    strengths = Augmentation(rotate=0.3, shift=0.1, elastic=0.6, stroke=0.4)
    plan = make_plan(
        split, seed=5, epochs=4, batch_size=20, augmentation=strengths, fade=0.5, dropout=(0.0, 0.0)
    )
    run = start_run(plan, 60, CPU)
    for epoch in (1, 3, 4):
        seen = run_epoch(run, split, epoch).pixels
        order = epoch_order(5, epoch, 60)
        torch.manual_seed(derive_seed(5, epoch, 1))
        for step, pixels in enumerate(seen):
            batch = split.images[order[20 * step : 20 * step + 20]]
            assert torch.equal(pixels, augment(batch, weaken(strengths, epoch, 4, 0.5)))
            assert not torch.equal(pixels, to_pixels(batch))


def test_of_a_picture_of_no_digit_a_tenth_for_each_is_asked(sample: Split) -> None:
    """The loss of such a picture is the mean of -log p over all ten."""
    split = Split(sample.images[:20], torch.full((20,), NO_DIGIT))
    still = {"augmentation": STILL, "dropout": (0.0, 0.0), "label_smoothing": 0.0}
    plan = make_plan(split, epochs=4, batch_size=20, non_digits=1.0, lr=1e-3, **still)
    run = start_run(plan, 20, CPU)
    with torch.no_grad():
        expected = -run.net(to_pixels(split.images)).log_softmax(1).mean().item()
    with Progress("", 1, 20, CPU, quiet=True) as progress:
        train_epoch(run, run.net, split, 1, progress, Ranks())
    assert progress.losses[0].item() == pytest.approx(expected, rel=1e-4)
    assert progress.digits.item() == 0


def test_dropout_is_on_in_training_whatever_was_before(sample: Split) -> None:
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=1, batch_size=20), 40, CPU)
    run.net.eval()
    assert run_epoch(run, split).was_training == [True, True]


@pytest.mark.parametrize(("average", "share"), [(0.0, 1.0), (0.5, 1 / 2.5), (1.0, 1 / 5)])
def test_the_average_moves_a_share_of_the_way_after_each_step(
    average: float, share: float, sample: Split
) -> None:
    split = first(sample, 100)
    run = start_run(make_plan(split, epochs=2, batch_size=20, average=average), 100, CPU)
    watches = [run_epoch(run, split, epoch) for epoch in (1, 2)]
    states = [weights for watch in watches for weights in watch.before][1:]
    states.append(dict(run.net.named_parameters()))
    expected = copy.deepcopy(states[0])  # it begins with the first weights that were learnt
    for weights in states[1:]:
        for name, weight in weights.items():
            expected[name] = (1 - share) * expected[name] + share * weight
    for name, weight in run.averaged.named_parameters():
        torch.testing.assert_close(weight, expected[name])


def test_the_rate_rises_to_its_peak_and_falls(sample: Split) -> None:
    split = first(sample, 100)
    run = start_run(make_plan(split, epochs=5, batch_size=10, lr=0.003), 100, CPU)
    rates = []
    for epoch in range(1, 6):
        with Progress("", 10, 10, CPU, quiet=True) as progress:
            train_epoch(run, run.net, split, epoch, progress, Ranks())
        rates.append(progress.lr)
    assert max(rates) <= 0.003
    assert max(rates) > 0.0025
    assert rates[-1] < 1e-4
    assert 0 < rates.index(max(rates)) < 4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_however_few_steps_a_run_has_it_learns(steps: int, sample: Split) -> None:
    split = first(sample, 100 * steps)
    plan = make_plan(
        split, epochs=1, batch_size=100, dropout=(0.0, 0.0), augmentation=STILL, average=0.0
    )
    run = start_run(plan, len(split.labels), CPU)
    before = loss_of(run.net, split)
    run_epoch(run, split)
    assert run.step == steps
    assert loss_of(run.net, split) < before - 0.1


def test_too_few_steps_for_a_cycle_are_taken_at_a_quarter_of_the_rate() -> None:
    for steps in (1, 2, 3):
        assert learning_rates(0.004, steps) == pytest.approx([0.001] * steps)
    rates = learning_rates(0.004, 4)  # rise to their peak and fall
    assert rates[0] < 0.001 and max(rates) > 0.003 and rates[-1] < 1e-6


def test_labels_can_be_smoothed(sample: Split) -> None:
    split = first(sample, 20)
    losses = []
    for smoothing in (0.0, 0.4):
        plan = make_plan(
            split, epochs=1, batch_size=20, label_smoothing=smoothing, dropout=(0.0, 0.0),
            augmentation=STILL,
        )  # fmt: skip
        run = start_run(plan, 20, CPU)
        logits = run.net(to_pixels(split.images)).detach()
        with Progress("", 1, 20, CPU, quiet=True) as progress:
            train_epoch(run, run.net, split, 1, progress, Ranks())
        losses.append(progress.losses.item())
        log = logits.log_softmax(1)
        right = log[torch.arange(20), split.labels]
        expected = -((1 - smoothing) * right + smoothing * log.mean(1)).mean()
        assert losses[-1] == pytest.approx(expected.item(), rel=1e-4)
    assert losses[0] != losses[1]


# ------------------------------------------------------------------------------ random numbers


def test_an_order_holds_every_image_once() -> None:
    assert sorted(epoch_order(0, 1, 1000).tolist()) == list(range(1000))


def test_epochs_and_seeds_are_random_each_in_its_own_way() -> None:
    epochs = list(itertools.product((0, 1, 2), (1, 2, 3)))
    assert len({tuple(epoch_order(seed, epoch, 50).tolist()) for seed, epoch in epochs}) == 9
    assert len({derive_seed(*epoch, stream) for epoch in epochs for stream in range(4)}) == 36


def test_each_process_varies_images_in_its_own_way(sample: Split) -> None:
    """All images are the same one, so that only the augmentation can tell two batches apart."""
    split = Split(sample.images[:1].expand(20, -1, -1), sample.labels[:1].expand(20))
    plan = make_plan(split, epochs=1, batch_size=20, augmentation=Augmentation(shift=0.1))
    seen = [
        run_epoch(start_run(plan, 20, CPU), split, 1, Ranks(rank, 2)).pixels[0] for rank in (0, 1)
    ]
    assert not torch.equal(*seen)


def test_the_ranks_share_out_the_images_of_an_epoch(sample: Split) -> None:
    split = Split(torch.arange(80, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 28, 28),
                  sample.labels[:80])  # fmt: skip
    plan = make_plan(split, epochs=1, batch_size=20, augmentation=STILL)
    seen = []
    for rank in (0, 1):
        watch = run_epoch(start_run(plan, 80, CPU), split, 1, Ranks(rank, 2))
        assert [len(pixels) for pixels in watch.pixels] == [10] * 4
        seen += [round(255 * pixels[0, 0, 0].item()) for pixels in torch.cat(watch.pixels)]
    assert sorted(seen) == list(range(80))


class Twin(Ranks):
    """One of two processes, by itself: it takes the other to have the same as it."""

    def share_gradients(self, net: nn.Module) -> nn.Module:
        return net

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_alone_reports_and_writes(
    rank: int, sample: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=1, batch_size=20), 40, CPU)
    train(run, split, split, tmp_path, ranks=Twin(rank, 2))
    assert bool(list(tmp_path.iterdir())) == bool(capsys.readouterr().err) == (rank == 0)
    assert run.best is not None  # but all know the same


def test_the_loss_of_a_step_is_the_mean_over_the_processes(sample: Split, tmp_path: Path) -> None:
    split = first(sample, 20)
    plan = make_plan(
        split, epochs=1, batch_size=20, non_digits=0.0, dropout=(0.0, 0.0), augmentation=STILL
    )
    run = start_run(plan, 20, CPU)
    mine = epoch_order(0, 1, 20)[:10]
    expected = loss_of(run.net, Split(split.images[mine], split.labels[mine]))
    train(run, split, split, tmp_path, quiet=True, ranks=Twin(0, 2))
    assert run.losses.item() == pytest.approx(expected, rel=0.01)  # bfloat16
    assert run.history[0].train_loss == run.losses.item()
    assert run.history[0].train_accuracy <= 1


def test_the_processes_share_out_the_images_that_they_validate(sample: Split) -> None:
    split = first(sample, 31)
    net = start_run(make_plan(split, epochs=1, batch_size=20), 31, CPU).net
    shares = []

    class Keep(Ranks):
        def sum(self, values: torch.Tensor) -> torch.Tensor:
            shares.append(values)
            return sum(shares)

    validate(net, split, Keep(1, 2))
    assert validate(net, split, Keep(0, 2)) == pytest.approx(validate(net, split, Ranks()))
    assert [int(share.any(1).sum()) for share in shares] == [15, 16]


# ------------------------------------------------------------------------------ a whole run


def mislabel(split: Split, share: float) -> Split:
    """The same images, of which the last ones have the label of the next class."""
    right = round(len(split.labels) * (1 - share))
    shifted = (split.labels[right:] + 1) % 10
    return Split(split.images, torch.cat([split.labels[:right], shifted]))


@pytest.fixture(scope="module")
def finished(sample: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Split, Path]:
    """A run whose validation accuracy rises and whose validation loss ends by rising too.

    A third of its validation labels are wrong: the surer the network, the more these cost.
    """
    folder = tmp_path_factory.mktemp("run")
    split, held_out = first(sample, 800), Split(sample.images[3940:], sample.labels[3940:])
    validation = mislabel(held_out, 1 / 3)
    plan = make_plan(split, "fast", epochs=8, batch_size=50, label_smoothing=0.0)
    run = start_run(plan, 800, CPU)
    train(run, split, validation, folder, quiet=True)
    return run, validation, folder


def test_best_is_the_epoch_with_the_best_validation_accuracy(sample: Split, tmp_path: Path) -> None:
    """Its labels are the network's answers after one epoch, five of them wrong: right only then."""
    split = first(sample, 400)
    plan = make_plan(split, "fast", epochs=4, batch_size=20, lr=0.003)
    run = start_run(plan, 400, CPU)
    run_epoch(run, split)
    with torch.no_grad():
        answers = run.averaged.eval()(to_pixels(split.images)).argmax(1)
    right = answers == split.labels
    chosen = torch.cat([right.nonzero()[:200, 0], (~right).nonzero()[:5, 0]])
    run = start_run(plan, 400, CPU)
    train(run, split, Split(split.images[chosen], answers[chosen]), tmp_path, quiet=True)
    first_epoch, *later = run.history
    assert first_epoch.val_accuracy == 1 > max(metrics.val_accuracy for metrics in later)
    # Otherwise this test could not tell: the loss would choose another.
    assert first_epoch.val_loss > max(metrics.val_loss for metrics in later)
    assert checkpoint.load(tmp_path / "best.pt").metrics == first_epoch
    kept = checkpoint.load_run(tmp_path / "last.pt").best
    assert kept.metrics == first_epoch
    assert kept.temperature == checkpoint.load(tmp_path / "best.pt").temperature
    assert checkpoint.load(tmp_path / "last.pt").metrics == run.history[-1]


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_the_temperature_is_that_of_the_weights_beside_it(
    name: str, finished: tuple[Run, Split, Path]
) -> None:
    _, validation, folder = finished
    model = checkpoint.load(folder / name).build_model()
    expected = fit_temperature(compute_logits(model, validation.images), validation.labels)
    assert model.temperature == pytest.approx(expected, rel=1e-4)
    assert MIN_TEMPERATURE * 1.1 < expected < MAX_TEMPERATURE / 1.1 and abs(expected - 1) > 0.01


def test_where_all_is_right_the_temperature_stays_1(sample: Split) -> None:
    split = first(sample, 40)
    net = start_run(make_plan(split, epochs=1, batch_size=20), 40, CPU).net
    answers = compute_logits(net, split.images).argmax(1)
    assert validate(net, Split(split.images, answers), Ranks())[1:] == (1.0, 1.0)
    answers[0] = (answers[0] + 1) % 10
    accuracy, temperature = validate(net, Split(split.images, answers), Ranks())[1:]
    assert accuracy == 39 / 40
    assert temperature != 1


def test_the_first_epoch_is_kept_where_nothing_changes(sample: Split, tmp_path: Path) -> None:
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=3, batch_size=20, lr=1e-30), 40, CPU)
    train(run, split, split, tmp_path, quiet=True)
    assert len({metrics.val_accuracy for metrics in run.history}) == 1
    assert checkpoint.load(tmp_path / "best.pt").metrics.epoch == 1


def test_the_figures_of_an_epoch_are_those_of_the_weights_that_are_kept(
    finished: tuple[Run, Split, Path],
) -> None:
    _, validation, folder = finished
    for name in ("best.pt", "last.pt"):
        trained = checkpoint.load(folder / name)
        result = evaluate(trained.build_model(), validation)
        assert trained.metrics.val_accuracy == pytest.approx(result.accuracy)
        assert trained.metrics.val_loss == pytest.approx(result.loss, rel=1e-5)


def test_what_is_kept_is_the_average_and_goes_on_being_what_it_was(
    finished: tuple[Run, Split, Path],
) -> None:
    run, _, folder = finished
    best, last = checkpoint.load(folder / "best.pt"), checkpoint.load(folder / "last.pt")
    assert run.best is not None
    for name, weight in run.averaged.state_dict().items():
        assert torch.equal(last.weights[name], weight)
        assert torch.equal(best.weights[name], run.best.weights[name])
    assert not torch.equal(best.weights["fc1.weight"], last.weights["fc1.weight"])


def test_the_figures_of_training_are_those_of_its_steps(finished: tuple[Run, Split, Path]) -> None:
    run, _, folder = finished
    losses = checkpoint.load_run(folder / "last.pt").losses.view(8, 16)
    for metrics, steps in zip(run.history, losses, strict=True):
        assert metrics.train_loss == pytest.approx(steps.mean().item())
        assert 0 <= metrics.train_accuracy <= 1
        assert metrics.images_per_second == pytest.approx(800 / metrics.seconds)
    rates = learning_rates(run.plan.recipe.lr, 8 * 16)
    assert [metrics.lr for metrics in run.history] == pytest.approx(rates[15::16])
    assert run.history[0].train_accuracy < run.history[-1].train_accuracy > 0.95
    assert run.history[0].train_loss > 3 * run.history[-1].train_loss


def test_history_is_a_table_with_a_row_an_epoch(finished: tuple[Run, Split, Path]) -> None:
    run, _, folder = finished
    assert (folder / "history.csv").read_bytes().count(b"\r") == 0
    with open(folder / "history.csv", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == [field.name for field in fields(Metrics)]
    assert header == [
        "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
        "images_per_second",
    ]  # fmt: skip
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(1, 9)]
    assert [float(row[5]) for row in rows] == [metrics.val_accuracy for metrics in run.history]


def test_the_speed_is_that_of_the_images_that_were_shown(sample: Split, tmp_path: Path) -> None:
    split = first(sample, 45)
    run = start_run(make_plan(split, epochs=1, batch_size=20), 45, CPU)  # five are left over
    train(run, split, split, tmp_path, quiet=True)
    (metrics,) = run.history
    assert metrics.images_per_second == pytest.approx(40 / metrics.seconds)


@pytest.mark.parametrize("quiet", [False, True])
def test_an_epoch_is_a_line_on_stderr(
    quiet: bool, sample: Split, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=2, batch_size=20), 40, CPU)
    train(run, split, split, tmp_path, quiet)
    out, err = capsys.readouterr()
    assert out == ""
    if quiet:
        assert err == ""
        return
    *epochs, end = err.splitlines()
    assert epochs == [describe_epoch(metrics, 2) for metrics in run.history]
    assert end.startswith("training took ") and end.endswith(" s")


def test_a_line_says_how_an_epoch_went() -> None:
    metrics = Metrics(7, 0.1, 0.25, 0.9321, 0.125, 0.9876, 2.04, 26960.8)
    assert describe_epoch(metrics, 10) == (
        "epoch  7/10: training loss 0.2500, accuracy 93.21%; "
        "validation loss 0.1250, accuracy 98.76%; 2.0 s, 26,961 images/s"
    )


def test_a_loss_that_is_no_number_ends_the_run(sample: Split, tmp_path: Path) -> None:
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=2, batch_size=10, lr=1e30), 40, CPU)
    with pytest.raises(Error, match="not finite after epoch 1: train with a smaller --lr"):
        train(run, split, split, tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ the start of a run


def test_a_plan_is_the_recipe_with_what_was_changed(sample: Split) -> None:
    plan = plan_run("fast", {"epochs": 3, "lr": 0.5}, 9, "mnist", sample)
    assert plan.recipe == replace(RECIPES["fast"], epochs=3, lr=0.5)
    assert (plan.overrides, plan.seed, plan.dataset) == ({"epochs": 3, "lr": 0.5}, 9, "mnist")
    assert plan.versions == {"mnist_cnn": mnist_cnn.__version__, "torch": torch.__version__}
    pixels = sample.images / 255
    assert plan.mean == pytest.approx(pixels.mean().item(), rel=1e-4)
    assert plan.std == pytest.approx(pixels.std().item(), rel=1e-4)


def test_a_batch_may_be_as_large_as_the_training_split_and_no_larger(sample: Split) -> None:
    split = first(sample, 100)
    assert plan_run("standard", {"batch_size": 100}, 0, "sample", split).recipe.batch_size == 100
    with pytest.raises(Error, match="--batch-size 101 is larger than the 100 training images"):
        plan_run("standard", {"batch_size": 101}, 0, "sample", split)


@pytest.mark.parametrize("what", ["a weight", "the average", "what Adam knows"])
def test_all_that_a_run_goes_on_with_has_to_be_finite(what: str, sample: Split) -> None:
    split = first(sample, 100)
    run = start_run(make_plan(split, epochs=1, batch_size=50), 100, CPU)
    run_epoch(run, split)
    assert is_finite(run)
    known = run.optimizer.state[run.net.fc2.bias]["exp_avg_sq"]
    tensors = {"a weight": run.net.fc2.bias, "the average": run.averaged.fc2.bias}
    tensors.get(what, known).data[3] = math.inf
    assert not is_finite(run)


@pytest.mark.parametrize("what", ["training loss", "validation loss", "weights"])
def test_one_figure_that_is_no_number_is_enough_to_end_a_run(
    what: str, sample: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_wrongly(*args: Any) -> None:
        train_epoch(*args)
        args[4].losses[0] = math.inf

    if what == "training loss":
        monkeypatch.setattr("mnist_cnn.train.train_epoch", train_wrongly)
    elif what == "validation loss":
        monkeypatch.setattr("mnist_cnn.train.validate", lambda *args: (math.inf, 0.5, 1.0))
    else:
        monkeypatch.setattr("mnist_cnn.train.is_finite", lambda run: False)
    split = first(sample, 40)
    run = start_run(make_plan(split, epochs=2, batch_size=20), 40, CPU)
    with pytest.raises(Error, match="not finite after epoch 1"):
        train(run, split, split, tmp_path, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_more_steps_than_last_pt_has_room_for_is_refused(
    sample: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_STEPS * FLOAT < MAX_BYTES / 2
    monkeypatch.setattr("mnist_cnn.start.MAX_STEPS", 900)
    split = first(sample, 100)  # 20 steps an epoch
    plan_run("fast", {"epochs": 45, "batch_size": 5}, 0, "sample", split)
    with pytest.raises(Error, match="more than 900 steps: use a larger --batch-size or fewer"):
        plan_run("fast", {"epochs": 46, "batch_size": 5}, 0, "sample", split)


def test_the_first_weights_follow_the_seed(sample: Split) -> None:
    runs = []
    for seed, drawn_before in ((0, 1), (1, 2), (1, 3)):
        torch.manual_seed(drawn_before)
        runs.append(start_run(make_plan(sample, seed=seed), 3600, CPU))
    a, b, c = (run.net.state_dict() for run in runs)
    assert all(torch.equal(b[name], c[name]) for name in b)
    for name in ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"):
        assert not torch.allclose(a[name], b[name], atol=0.01)


def test_a_run_begins_with_nothing_done(sample: Split) -> None:
    run = start_run(make_plan(sample), 3600, CPU)
    assert (run.step, run.history, run.best) == (0, [], None)
    assert run.losses.shape == (40 * 28,)
    assert run.steps_per_epoch == 28
    assert run.net.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    averaged = run.averaged.state_dict()
    assert all(torch.equal(weight, averaged[name]) for name, weight in run.net.state_dict().items())


@pytest.mark.parametrize("steps", [2, 6])  # in all: with a rate that stays, and with a cycle
def test_a_run_that_is_resumed_is_what_it_was(steps: int, sample: Split, tmp_path: Path) -> None:
    split = first(sample, 20 * steps // 2)
    plan = make_plan(split, epochs=2, batch_size=20)
    left = start_run(plan, len(split.labels), CPU)
    with pytest.raises(KeyboardInterrupt), stop_after(1):
        train(left, split, split, tmp_path, quiet=True)
    assert (left.step, len(left.history)) == (steps // 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch's: of a schedule that is ahead of its optimizer
        back = resume_run(checkpoint.load_run(tmp_path / "last.pt"), len(split.labels), CPU)
    assert (back.plan, back.step, back.history) == (left.plan, left.step, left.history)
    assert back.temperature == left.temperature
    assert back.schedule.get_last_lr() == left.schedule.get_last_lr()
    pairs = [(back.net, left.net), (back.averaged, left.averaged)]
    for one, other in pairs:
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    for run in (left, back):
        train(run, split, split, tmp_path, quiet=True)
    for one, other in pairs:
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert torch.equal(back.losses, left.losses)


def test_a_run_on_another_number_of_images_is_refused(finished: tuple[Run, Split, Path]) -> None:
    paused = checkpoint.load_run(finished[2] / "last.pt")
    with pytest.raises(Error, match="its steps do not match its data"):
        check_steps(paused, 700)
    check_steps(paused, 800)
