"""Training: it learns, it repeats itself bit for bit, and it can be stopped and resumed."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Tiny, pack_idx

from mnist_cnn import Error, checkpoint, data
from mnist_cnn import train as training
from mnist_cnn.__main__ import DATASETS
from mnist_cnn.model import CNN

CPU = torch.device("cpu")
# 200 images of a tiny data set to train on: an epoch has four steps.
OPTIONS = ("train", "--dataset", "mnist", "--epochs", 4, "--batch-size", 50, "--device", "cpu")


@pytest.fixture
def digits(tiny_mnist: Tiny, tmp_path: Path) -> Tiny:
    """A tiny MNIST in the folder where the commands look for it."""
    tiny_mnist.write(tmp_path / "data")
    return tiny_mnist


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def read_history(folder: Path) -> list[dict[str, str]]:
    """history.csv without its timings."""
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in rows]  # fmt: skip


def result(out: str) -> str:
    """The result without the place where it was written."""
    return out.splitlines()[-1].partition(", checkpoint ")[0]


# ------------------------------------------------------------------------------ one step


def plan(split: data.Split, dataset: str = "sample", **overrides: Any) -> dict[str, Any]:
    run = training.plan_run("standard", overrides, 0, dataset, split)
    run["recipe"]["augmentation"] = {}
    return run


def first_weights(run: dict[str, Any]) -> CNN:
    torch.manual_seed(run["seed"])
    return CNN(**run["model_args"])


def test_one_step_lowers_the_loss_and_moves_every_weight(tmp_path: Path) -> None:
    images, labels = data.load_split("sample", "train", "")
    batch = data.Split(images[:100], labels[:100])
    run = plan(batch, epochs=1, batch_size=100, dropout=(0.0, 0.0), average=0.0)
    before = first_weights(run)
    after = checkpoint.build_model(training.train(run, batch, batch, tmp_path, CPU, quiet=True))
    with torch.no_grad():
        losses = [
            F.cross_entropy(model.eval()(data.to_pixels(batch.images)), batch.labels)
            for model in (before, after)
        ]
    assert losses[1] < losses[0]
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(old, new), name


def test_training_learns(sample_checkpoint: Path) -> None:
    history = read_history(sample_checkpoint.parent)
    assert float(history[0]["train_loss"]) > 2 * float(history[-1]["train_loss"])
    assert float(history[-1]["val_accuracy"]) > 0.9


def test_the_rate_rises_to_its_peak_and_falls(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    cli(*OPTIONS, "--lr", 0.003)
    rates = [float(row["lr"]) for row in read_history(tmp_path / "checkpoints")]
    assert max(rates) <= 0.003
    assert max(rates) > 0.0025
    assert rates[-1] < 1e-4
    assert rates.index(max(rates)) < len(rates) - 1


def test_every_training_image_but_those_left_over_is_seen_once_in_an_epoch() -> None:
    order = training.seed_epoch(0, 1, 0, 1000)
    assert sorted(order.tolist()) == list(range(1000))


def test_epochs_seeds_and_ranks_are_random_each_in_its_own_way() -> None:
    orders = [training.seed_epoch(seed, epoch, 0, 50).tolist()
              for seed in (0, 1, 2) for epoch in (1, 2, 3)]  # fmt: skip
    assert len({tuple(order) for order in orders}) == 9
    draws = []
    for rank in (0, 1):
        order = training.seed_epoch(0, 1, rank, 50).tolist()
        assert order == orders[0]  # all ranks cut their slices out of the same order
        draws.append(torch.rand(1).item())
    assert draws[0] != draws[1]  # but draw other augmentations


def test_the_augmentation_weakens_over_the_last_epochs_of_a_recipe_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = data.load_split("sample", "train", "")
    split = data.Split(images[:50], labels[:50])
    run = plan(split, epochs=10, batch_size=50, fade=0.3)
    run["recipe"]["augmentation"] = {"rotate": 0.3, "elastic": 0.6}
    strengths = []

    def augment(images: torch.Tensor, rotate: float, elastic: float) -> torch.Tensor:
        strengths.append((rotate, elastic))
        return data.to_pixels(images)

    monkeypatch.setattr(training, "augment", augment)
    training.train(run, split, split, tmp_path, CPU, quiet=True)
    expected = [(0.3, 0.6)] * 8 + [(0.2, 0.4), (0.1, 0.2)]
    assert strengths == [pytest.approx(pair) for pair in expected]


def test_a_recipe_that_does_not_say_so_keeps_its_augmentation_to_the_end() -> None:
    augmentation = {"rotate": 0.3}
    assert [training.weaken(augmentation, epoch, 2, 0.0) for epoch in (1, 2)] == [augmentation] * 2


# ------------------------------------------------------------------------------ what it writes


def test_train_writes_what_it_promises(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    outcome = cli(*OPTIONS)
    assert outcome.status == 0
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {
        "best.pt", "last.pt", "history.csv", "curves.png",
    }  # fmt: skip
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds",
        "images_per_second",
    ]  # fmt: skip
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert 0 <= float(row["val_accuracy"]) <= 1
        assert float(row["seconds"]) > 0
        assert float(row["images_per_second"]) == pytest.approx(200 / float(row["seconds"]))


def test_the_result_is_the_last_line_and_the_rest_goes_to_stderr(
    cli: Callable, digits: Tiny
) -> None:
    outcome = cli(*OPTIONS)
    assert outcome.out.count("\n") == 1
    line = outcome.out.strip()
    errors = int(line.partition("(")[2].partition(" errors")[0])
    accuracy = 100 * (60 - errors) / 60
    assert line == (
        f"test accuracy {accuracy:.2f} % ({errors} errors of 60, mnist), "
        "checkpoint checkpoints/best.pt"
    )
    lines = [text for text in outcome.err.splitlines() if text.startswith("epoch ")]
    assert len(lines) == 4
    assert "\r" not in outcome.err  # no progress bar where there is no terminal


def test_quiet_leaves_the_result(cli: Callable, digits: Tiny) -> None:
    outcome = cli(*OPTIONS, "--quiet")
    assert outcome.err == ""
    assert outcome.out.startswith("test accuracy ")


def test_out_dir_is_made_and_named_in_the_result(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    outcome = cli(*OPTIONS, "--out-dir", "new/runs/first")
    assert outcome.out.endswith(", checkpoint new/runs/first/best.pt\n")
    assert (tmp_path / "new" / "runs" / "first" / "best.pt").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_replacing_an_earlier_run_is_said(cli: Callable, digits: Tiny) -> None:
    assert "replacing" not in cli(*OPTIONS).err
    assert "replacing the earlier run in checkpoints" in cli(*OPTIONS).err


@pytest.mark.parametrize(
    "mistake",
    [("--batch-size", 201), ("--device", "nonsense"), ("--data-dir", "/dev/null/x"),
     ("--epochs", 0), ("--out-dir", "file"), ("--out-dir", "file/x")],
    ids=str,
)  # fmt: skip
def test_an_earlier_run_outlives_a_mistake(
    mistake: tuple[str, object], cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_text("precious")
    (tmp_path / "file").write_text("precious too")
    cli(*OPTIONS, *mistake).assert_refused()
    assert (tmp_path / "checkpoints" / "best.pt").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "precious too"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


# ------------------------------------------------------------------------------ choosing


def script(monkeypatch: pytest.MonkeyPatch, *figures: tuple[float, float]) -> None:
    """Lets the validation of each epoch give a loss and an accuracy that were written before."""
    remaining = iter(figures)
    monkeypatch.setattr(training, "validate", lambda *_: next(remaining))


def test_best_is_the_epoch_with_the_best_validation_accuracy_the_earlier_on_a_tie(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss would choose otherwise: it is accuracy that counts.
    script(monkeypatch, (0.4, 0.5), (0.9, 0.8), (0.3, 0.8), (0.1, 0.7))
    kept = {}
    real = training.save_run

    def save_run(out_dir: Any, run: dict[str, Any], new_best: bool) -> None:
        kept[run["epoch"]] = {k: v.clone() for k, v in run["model"].items()}
        real(out_dir, run, new_best)

    monkeypatch.setattr(training, "save_run", save_run)
    assert cli(*OPTIONS).status == 0
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert best["epoch"] == 2
    assert best["metrics"]["val_accuracy"] == 0.8
    assert same(best["model"], kept[2])
    assert not same(best["model"], kept[3])
    last = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert last["epoch"] == 4
    assert last["resume"]["best"]["epoch"] == 2


def test_best_is_there_after_every_epoch(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 1)
    cli(*OPTIONS)
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["epoch"] == 1


def test_the_test_split_chooses_nothing(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    cli(*OPTIONS, "--out-dir", "first")
    images, labels = data.FILES["test"]
    digits.replace(labels, pack_idx(torch.arange(60) % 10))
    digits.replace(images, pack_idx(torch.zeros(60, 28, 28)))
    digits.write(tmp_path / "other")
    outcome = cli(*OPTIONS, "--out-dir", "second", "--data-dir", "other")
    assert "accuracy 10.00 % (54 errors of 60, mnist)" in outcome.out  # all alike: one class right
    assert same(weights(tmp_path / "first" / "best.pt"), weights(tmp_path / "second" / "best.pt"))
    assert read_history(tmp_path / "first") == read_history(tmp_path / "second")


def test_the_result_is_that_of_best_and_not_of_last(
    cli: Callable, digits: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, (1, 0.9), (1, 0.1), (1, 0.1), (1, 0.1))
    trained = result(cli(*OPTIONS).out)
    evaluated = cli("eval", "--ckpt").out.splitlines()[0].partition(", loss")[0]
    assert trained == evaluated
    last = cli("eval", "--ckpt", "checkpoints/last.pt").out.splitlines()[0].partition(", loss")[0]
    assert trained != last


def test_a_loss_that_is_no_number_ends_the_run(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = training.augment, []

    def augment(images: torch.Tensor, **strengths: float) -> torch.Tensor:
        calls.append(len(images))
        return real(images, **strengths) * (float("nan") if len(calls) == 7 else 1)

    monkeypatch.setattr(training, "augment", augment)
    outcome = cli(*OPTIONS, "--quiet")
    outcome.assert_refused("not finite", "epoch 2", "--lr")
    assert checkpoint.load(tmp_path / "checkpoints" / "best.pt")["epoch"] == 1


# ------------------------------------------------------------------------------ repeating


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    first = cli(*OPTIONS, "--out-dir", "first")
    torch.manual_seed(12345)  # whatever was drawn before
    second = cli(*OPTIONS, "--out-dir", "second", "--seed", 0)
    for file in ("best.pt", "last.pt"):
        assert same(weights(tmp_path / "first" / file), weights(tmp_path / "second" / file))
    assert read_history(tmp_path / "first") == read_history(tmp_path / "second")
    assert result(first.out) == result(second.out)


def test_another_seed_gives_other_weights(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    cli(*OPTIONS, "--out-dir", "first")
    cli(*OPTIONS, "--out-dir", "second", "--seed", 1)
    assert not same(weights(tmp_path / "first/last.pt"), weights(tmp_path / "second/last.pt"))


def test_the_first_weights_follow_the_seed(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        cli(*OPTIONS, "--lr", 1e-30, "--seed", seed, "--out-dir", name)  # they stay where they are
    a, b, c = (weights(tmp_path / name / "last.pt")["conv1.weight"] for name in "abc")
    assert torch.equal(b, c)
    assert not torch.allclose(a, b, atol=0.01)


# ------------------------------------------------------------------------------ resuming


def stop_after(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Interrupts a run as soon as it has saved that epoch."""
    real = training.save_run

    def save_run(out_dir: Any, run: dict[str, Any], new_best: bool) -> None:
        real(out_dir, run, new_best)
        if run["epoch"] == epoch:
            monkeypatch.setattr(training, "save_run", real)
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_run", save_run)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_run_that_was_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit(
    epoch: int, elsewhere: bool, cli: Callable, digits: Tiny, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    whole = cli(*OPTIONS, "--out-dir", "whole", "--lr", 0.01)
    stop_after(monkeypatch, epoch)
    stopped = cli(*OPTIONS, "--out-dir", "parts", "--lr", 0.01)
    assert (stopped.status, stopped.out) == (130, "")
    where = ("--out-dir", "new") if elsewhere else ()
    resumed = cli("train", "--resume", "parts/last.pt", *where, "--device", "cpu")
    assert resumed.status == 0
    folder = tmp_path / ("new" if elsewhere else "parts")
    assert resumed.out.endswith(f", checkpoint {folder.name}/best.pt\n")
    assert result(resumed.out) == result(whole.out)
    for file in ("best.pt", "last.pt"):
        assert same(weights(folder / file), weights(tmp_path / "whole" / file))
    assert read_history(folder) == read_history(tmp_path / "whole")
    assert (folder / "curves.png").exists()
    losses = [
        torch.load(path / "last.pt", weights_only=True)["resume"]["losses"]
        for path in (folder, tmp_path / "whole")
    ]
    assert torch.equal(*losses)  # of every step, for the curves
    assert len([line for line in resumed.err.splitlines() if line.startswith("epoch ")]) == (
        4 - epoch
    )


def test_resuming_into_another_folder_leaves_the_first_as_it_is(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2)
    cli(*OPTIONS)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    assert cli("train", "--resume", "checkpoints/last.pt", "--out-dir", "new").status == 0
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_the_best_epoch_may_lie_before_the_stop(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, (1, 0.9), (1, 0.2), (1, 0.9), (1, 0.3))
    stop_after(monkeypatch, 2)
    cli(*OPTIONS)
    first = weights(tmp_path / "checkpoints" / "best.pt")
    assert cli("train", "--resume", "checkpoints/last.pt", "--out-dir", "new").status == 0
    best = checkpoint.load(tmp_path / "new" / "best.pt")
    assert best["epoch"] == 1
    assert same(best["model"], first)


def test_a_finished_run_trains_nothing_and_prints_its_result(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = cli(*OPTIONS)
    before = weights(tmp_path / "checkpoints" / "last.pt")
    monkeypatch.setattr(training, "batches", lambda *_: pytest.fail("it trained"))
    again = cli("train", "--resume", "checkpoints/last.pt")
    assert again.status == 0
    assert again.out == finished.out
    assert "replacing" not in again.err
    assert same(weights(tmp_path / "checkpoints" / "last.pt"), before)


def test_a_lost_best_comes_back(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    finished = cli(*OPTIONS)
    before = weights(tmp_path / "checkpoints" / "best.pt")
    (tmp_path / "checkpoints" / "best.pt").unlink()
    (tmp_path / "checkpoints" / "history.csv").unlink()
    assert cli("train", "--resume", "checkpoints/last.pt").out == finished.out
    assert same(weights(tmp_path / "checkpoints" / "best.pt"), before)
    assert len(read_history(tmp_path / "checkpoints")) == 4


def test_resuming_finds_the_data_where_it_is_now(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 2)
    cli(*OPTIONS)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    resumed = cli("train", "--resume", "checkpoints/last.pt", "--data-dir", "moved")
    assert resumed.status == 0


def test_resuming_best_names_last(cli: Callable, sample_checkpoint: Path) -> None:
    outcome = cli("train", "--resume", sample_checkpoint)
    outcome.assert_refused(str(sample_checkpoint.with_name("last.pt")))


def test_a_run_begun_by_another_version_is_refused(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    run = checkpoint.load(sample_checkpoint.with_name("last.pt"))
    del run["recipe"]["fade"]
    checkpoint.save(tmp_path / "last.pt", run)
    outcome = cli("train", "--resume", tmp_path / "last.pt", "--out-dir", "new")
    outcome.assert_refused("another version", "fade")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--recipe", "standard"), ("--epochs", 6), ("--batch-size", 128), ("--lr", 0.004),
     ("--seed", 0), ("--dataset", "sample")],
)  # fmt: skip
def test_training_options_beside_resume_are_refused(
    option: str, value: object, cli: Callable, sample_checkpoint: Path
) -> None:
    last = sample_checkpoint.with_name("last.pt")
    before = last.read_bytes()
    cli("train", "--resume", last, option, value).assert_refused(option, "--resume")
    assert last.read_bytes() == before


# ------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", training.RECIPES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_recipe_can_be_planned_for_every_data_set(name: str, dataset: str) -> None:
    images, labels = data.load_split("sample", "test", "")
    run = training.plan_run(name, {}, 3, dataset, data.Split(images, labels))
    assert run["recipe"]["name"] == name
    assert run["recipe"]["epochs"] >= 1
    assert (run["seed"], run["dataset"], run["overrides"]) == (3, dataset, {})
    assert run["classes"] == data.SOURCES[dataset].classes
    CNN(**run["model_args"])
    data.augment(images[:2], **run["recipe"]["augmentation"])


def test_overrides_take_the_place_of_the_recipe_and_are_recorded(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS, "--lr", 0.002, "--seed", 7, "--recipe", "fast")
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    given = {"epochs": 4, "batch_size": 50, "lr": 0.002}
    assert best["overrides"] == given
    assert {key: best["recipe"][key] for key in given} == given
    assert best["seed"] == 7
    assert best["recipe"]["name"] == "fast"
    assert best["recipe"]["augmentation"] == training.RECIPES["fast"].augmentation


def test_a_batch_as_large_as_the_training_split_is_one_step(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    options = ("train", "--dataset", "mnist", "--epochs", 1, "--device", "cpu", "--batch-size")
    assert cli(*options, 200).status == 0
    last = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert len(last["resume"]["losses"]) == 1
    cli(*options, 201).assert_refused("201", "200", "--batch-size")


def test_a_batch_larger_than_the_split_is_an_error_of_its_own() -> None:
    images, labels = data.load_split("sample", "test", "")
    with pytest.raises(Error, match="--batch-size 1001"):
        training.plan_run("standard", {"batch_size": 1001}, 0, "sample", data.Split(images, labels))
