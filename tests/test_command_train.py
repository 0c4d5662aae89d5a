"""The command train: what it writes and says, that it is repeatable, and that it can be resumed."""

import contextlib
import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from conftest import Tiny, pack_idx, slow
from interrupt import ctrl_c, stop_after
from version_1 import LATER, write_as_version_1

from mnist_cnn import Error, checkpoint
from mnist_cnn.data import Split
from mnist_cnn.datasets import FILES, SOURCES
from mnist_cnn.recipes import RECIPES, Recipe
from mnist_cnn.system.files import lock_folder

if TYPE_CHECKING:
    from forked import Forker

# 200 images of a tiny data set to train on: an epoch has four steps.
OPTIONS = ("train", "--dataset", "mnist", "--epochs", 4, "--batch-size", 50, "--device", "cpu")


@pytest.fixture
def digits_and_curves(tiny_mnist: Tiny, tmp_path: Path) -> Tiny:
    """A tiny MNIST in the folder where the commands look for it."""
    tiny_mnist.write(tmp_path / "data")
    return tiny_mnist


@pytest.fixture
def digits(digits_and_curves: Tiny, undrawn: None) -> Tiny:
    """The same, for tests that do not look at the curves of a run."""
    return digits_and_curves


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


def assert_same_run(first: Path, second: Path) -> None:
    """Two folders hold one and the same run, except for how long it took."""
    for file in ("best.pt", "last.pt"):
        assert same(weights(first / file), weights(second / file))
    assert read_history(first) == read_history(second)
    runs = [torch.load(path / "last.pt", weights_only=True)["resume"] for path in (first, second)]
    assert torch.equal(runs[0]["losses"], runs[1]["losses"])  # of every step, for the curves
    assert same(runs[0]["model"], runs[1]["model"])


def result(out: str) -> str:
    """The result without the place where it was written."""
    return out.splitlines()[-1].partition(", checkpoint ")[0]


def epoch_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("epoch ")]


# ------------------------------------------------------------------------------ what it writes


@pytest.mark.usefixtures("digits_and_curves")
def test_it_writes_what_it_promises(cli: Callable, tmp_path: Path) -> None:
    outcome = cli(*OPTIONS)
    assert outcome.status == 0
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {
        "best.pt", "last.pt", "history.csv", "curves.png",
    }  # fmt: skip
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert 0 <= float(row["val_accuracy"]) <= 1
        assert float(row["seconds"]) > 0
        assert float(row["images_per_second"]) == pytest.approx(200 / float(row["seconds"]))
    assert checkpoint.load(folder / "last.pt").metrics.epoch == 4


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
        f"checkpoint {Path('checkpoints/best.pt')}"
    )
    first, *epochs, last = outcome.err.splitlines()
    assert first == (
        "training on 200 images of mnist and 10 non-digits: recipe standard, 4 epochs, "
        "batches of 50, seed 0, device cpu"
    )
    assert epochs == epoch_lines(outcome.err)
    assert len(epochs) == 4
    assert last.startswith("training took ")
    assert "\r" not in outcome.err  # no progress bar where there is no terminal


def test_quiet_leaves_the_result(cli: Callable, digits: Tiny) -> None:
    outcome = cli(*OPTIONS, "--quiet")
    assert outcome.err == ""
    assert outcome.out.startswith("test accuracy ")


def test_out_dir_is_made_and_named_in_the_result(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    outcome = cli(*OPTIONS, "--out-dir", "new/runs/first")
    assert outcome.out.endswith(f", checkpoint {Path('new/runs/first/best.pt')}\n")
    assert (tmp_path / "new" / "runs" / "first" / "best.pt").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_replacing_an_earlier_run_is_said(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    assert "replacing" not in cli(*OPTIONS).err
    before = weights(tmp_path / "checkpoints" / "best.pt")
    outcome = cli(*OPTIONS, "--seed", 1)
    assert "replacing the earlier run in checkpoints\n" in outcome.err
    assert not same(weights(tmp_path / "checkpoints" / "best.pt"), before)
    assert cli(*OPTIONS, "--quiet").err == ""


def test_a_disk_that_is_full_in_the_middle_of_a_run_does_not_cost_the_run(
    cli: Callable, digits: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, []

    def replace_or_fail(source: str, target: str) -> None:
        if Path(target).name == "last.pt":
            calls.append(target)
        if len(calls) == 3:  # in the third epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_fail)
        outcome = cli(*OPTIONS, "--quiet")
    outcome.assert_refused(
        f"{os.strerror(errno.ENOSPC)}: check it, then resume after epoch 2 with python", "--resume"
    )
    resumed = cli("train", "--resume", "checkpoints/last.pt")
    assert resumed.status == 0 and result(resumed.out) == result(cli(*OPTIONS).out)


def test_a_disk_that_is_full_before_anything_is_saved_offers_nothing_to_resume(
    cli: Callable, digits: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        outcome = cli(*OPTIONS, "--quiet")
    outcome.assert_refused(f"{os.strerror(errno.ENOSPC)}: check it and try again")
    assert "resume" not in outcome.err


def test_what_is_made_beside_the_images_follows_the_seed_and_the_recipe(
    cli: Callable, digits: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(split: Split, recipe: Recipe, seed: int) -> Split:
        raise Error(f"{len(split.labels)} images, recipe {recipe.name}, seed {seed}")

    monkeypatch.setattr("mnist_cnn.enrich.enrich", note)
    outcome = cli(*OPTIONS, "--recipe", "best", "--seed", 3)
    outcome.assert_refused("200 images, recipe best, seed 3")


def test_a_run_that_has_saved_nothing_does_not_offer_the_one_before_it(
    cli: Callable, digits: Tiny
) -> None:
    cli(*OPTIONS)
    with ctrl_c(torch.optim.Adam, "step", 2):
        outcome = cli(*OPTIONS)
    assert outcome.status == 130
    assert outcome.err.splitlines()[-1] == "interrupted"


def test_resuming_a_copy_beside_another_run_says_that_this_is_replaced(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS)
    folder = tmp_path / "checkpoints"
    shutil.copy(folder / "last.pt", folder / "first.pt")
    cli(*OPTIONS, "--seed", 1)
    outcome = cli("train", "--resume", "checkpoints/first.pt")
    assert "replacing the earlier run in checkpoints\n" in outcome.err


def test_what_is_resumed_is_what_lies_there_once_the_folder_is_free(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = cli(*OPTIONS, "--out-dir", "whole")
    with stop_after(1):
        cli(*OPTIONS)

    @contextlib.contextmanager
    def wait_for_the_other(folder: str, option: str) -> Iterator[None]:
        for name in ("best.pt", "last.pt", "history.csv"):  # which has come to its end
            shutil.copy(tmp_path / "whole" / name, tmp_path / "checkpoints" / name)
        yield

    monkeypatch.setattr("mnist_cnn.system.files.lock_folder", wait_for_the_other)
    resumed = cli("train", "--resume", "checkpoints/last.pt")
    assert "validation" not in resumed.err and "training took" not in resumed.err  # no epoch
    assert result(resumed.out) == result(whole.out)


def test_an_earlier_run_is_one_without_its_best_too(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS)
    (tmp_path / "checkpoints" / "best.pt").rename(tmp_path / "kept.pt")
    assert "replacing the earlier run in checkpoints\n" in cli(*OPTIONS).err


@pytest.mark.parametrize(
    "mistake",
    [("--batch-size", 201), ("--device", "nonsense"), ("--data-dir", "file"),
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


@pytest.mark.usefixtures("digits_and_curves")
def test_curves_that_cannot_be_drawn_cost_no_result(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "curves.png").mkdir(parents=True)
    outcome = cli(*OPTIONS, "--quiet")
    assert outcome.status == 0
    assert outcome.out.startswith("test accuracy ")
    assert outcome.err.startswith("warning: curves.png cannot be drawn (")
    assert outcome.err.count("\n") == 1


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    mine = [".last.pt", ".notes.txt.12-0123abcd", ".last.pt.bak", "last.pt.12-0123abcd"]
    for name in (".last.pt.12-0123abcd", ".best.pt.7-89abcdef", ".curves.png.1-00000000", *mine):
        (folder / name).write_text("half")
    assert cli(*OPTIONS).status == 0
    assert {path.name for path in folder.iterdir()} == {
        "best.pt", "last.pt", "history.csv", "curves.png", *mine,
    }  # fmt: skip


# ------------------------------------------------------------------------------ choosing


def test_the_test_split_chooses_nothing(cli: Callable, digits: Tiny, tmp_path: Path) -> None:
    cli(*OPTIONS, "--out-dir", "first")
    images, labels = FILES["test"]
    digits.replace(labels, pack_idx(torch.arange(60) % 10))
    digits.replace(images, pack_idx(torch.zeros(60, 28, 28)))
    digits.write(tmp_path / "other")
    outcome = cli(*OPTIONS, "--out-dir", "second", "--data-dir", "other")
    assert "accuracy 10.00 % (54 errors of 60, mnist)" in outcome.out  # all alike: one class right
    assert_same_run(tmp_path / "first", tmp_path / "second")


def blank(trained: checkpoint.Trained) -> checkpoint.Trained:
    """A network that takes everything for a 0, and is thought to be perfect."""
    weights = {name: torch.zeros_like(value) for name, value in trained.weights.items()}
    weights["std"] += 1
    weights["fc2.bias"] = torch.eye(10)[0]
    return replace(trained, metrics=replace(trained.metrics, val_accuracy=1.0), weights=weights)


def put_best(last: Path, best: checkpoint.Trained) -> None:
    """Changes what a last.pt has for the best epoch so far, in its history too."""
    paused = checkpoint.load_run(last)
    history = [best.metrics if metrics.epoch == best.metrics.epoch else metrics
               for metrics in paused.history]  # fmt: skip
    latest = replace(paused.latest, metrics=history[-1])
    checkpoint.save(last, replace(paused, latest=latest, history=history, best=best))


def test_the_result_is_that_of_best_and_not_of_last(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    last = tmp_path / "checkpoints" / "last.pt"
    cli(*OPTIONS)
    put_best(last, blank(checkpoint.load_run(last).best))
    trained = cli("train", "--resume", last)
    assert trained.status == 0
    zeros = (digits.files[FILES["test"][1]][8:]).count(0)
    assert f"({60 - zeros} errors of 60, mnist)" in trained.out
    assert result(cli("eval", "--ckpt").out.partition(", loss")[0]) == result(trained.out)
    evaluated = cli("eval", "--ckpt", "checkpoints/last.pt").out.partition(", loss")[0]
    assert evaluated != result(trained.out)


# ------------------------------------------------------------------------------ repeating


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    first = cli(*OPTIONS, "--out-dir", "first")
    torch.manual_seed(12345)  # whatever was drawn before
    second = cli(*OPTIONS, "--out-dir", "second", "--seed", 0)
    assert_same_run(tmp_path / "first", tmp_path / "second")
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


MOMENTS = {  # when it is interrupted, and after which epoch it can go on then
    "after the first epoch": (1, os, "replace", 1, "history.csv"),
    "after the third epoch": (3, os, "replace", 3, "history.csv"),
    "after the last epoch": (4, os, "replace", 4, "history.csv"),
    "in the middle of the third epoch": (2, torch.Tensor, "backward", 10),
    "when the history of the second epoch is still to be written": (2, os, "replace", 2, "last.pt"),
    "when the curves are drawn": (4, os, "replace", 1, "curves.png"),
}


@pytest.mark.parametrize(
    ("moment", "elsewhere"),
    [*((moment, False) for moment in MOMENTS), ("after the first epoch", True),
     *(slow(moment, True) for moment in list(MOMENTS)[1:])],
)  # fmt: skip
def test_a_run_that_was_stopped_and_resumed_is_the_uninterrupted_one_bit_for_bit(
    moment: str, elsewhere: bool, cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    epoch, *when = MOMENTS[moment]
    whole = cli(*OPTIONS, "--out-dir", "whole", "--lr", 0.01)
    with ctrl_c(*when):
        stopped = cli(*OPTIONS, "--out-dir", "parts", "--lr", 0.01)
    assert stopped.status == 130
    assert stopped.out == (whole.out.replace("whole", "parts") if "curves" in moment else "")
    assert stopped.err.splitlines()[-1].startswith(
        f"interrupted: resume after epoch {epoch} with python -m mnist_cnn train --resume "
    )
    where = ("--out-dir", "new") if elsewhere else ()
    resumed = cli("train", "--resume", "parts/last.pt", *where, "--device", "cpu")
    assert resumed.status == 0
    folder = tmp_path / ("new" if elsewhere else "parts")
    assert resumed.out.endswith(f", checkpoint {Path(folder.name, 'best.pt')}\n")
    assert result(resumed.out) == result(whole.out)
    assert_same_run(folder, tmp_path / "whole")
    assert (folder / "curves.png").exists()
    assert f"\nresuming after epoch {epoch} of 4\n" in resumed.err
    assert len(epoch_lines(resumed.err)) == 4 - epoch
    assert "replacing" not in resumed.err


def test_an_interruption_before_anything_is_saved_proposes_nothing(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS, "--seed", 1)  # an earlier run, which is not this one
    with ctrl_c(torch.Tensor, "backward", 2):
        stopped = cli(*OPTIONS)
    assert (stopped.status, stopped.out) == (130, "")
    assert stopped.err.splitlines()[-1] == "interrupted"
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt").plan.seed == 1


def test_the_way_to_go_on_is_told_as_a_command_that_works(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    shutil.move(tmp_path / "data", tmp_path / "my data")
    with stop_after(2):
        stopped = cli(*OPTIONS, "--data-dir", "my data", "--out-dir", "a run", "--quiet")
    assert stopped.status == 130
    lines = stopped.err.splitlines()
    assert lines[-1].partition(" with ")[2] == (
        "python -m mnist_cnn train --resume 'a run/last.pt' --data-dir 'my data' --device cpu"
    ) or os.name == "nt"  # fmt: skip
    resumed = cli("train", "--resume", "a run/last.pt", "--data-dir", "my data", "--device", "cpu")
    assert resumed.status == 0


def test_a_run_that_does_not_fit_its_data_is_refused_before_anything_is_made(
    cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*OPTIONS, "--out-dir", "run").status == 0
    fewer = replace(SOURCES["mnist"], validation=90)  # and so 150 to train on instead of 200
    monkeypatch.setitem(SOURCES, "mnist", fewer)
    outcome = cli("train", "--resume", "run/last.pt", "--out-dir", "new")
    outcome.assert_refused("damaged", "its steps do not match its data")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_version_1_began_ends_as_if_it_had_ended_it(
    recipe: str, cli: Callable, digits: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, recipe, replace(RECIPES[recipe], **LATER))
    options = (*OPTIONS, "--recipe", recipe, "--quiet")
    whole = cli(*options, "--out-dir", "whole")
    with stop_after(2):
        cli(*options, "--out-dir", "parts")
    (tmp_path / "old").mkdir()
    write_as_version_1(tmp_path / "parts" / "last.pt", tmp_path / "old" / "last.pt")
    resumed = cli("train", "--resume", "old/last.pt", "--device", "cpu")
    assert resumed.status == 0
    assert result(resumed.out) == result(whole.out)
    assert_same_run(tmp_path / "old", tmp_path / "whole")


@pytest.mark.usefixtures("digits_and_curves")
def test_resuming_into_another_folder_leaves_the_first_as_it_is(
    cli: Callable, tmp_path: Path
) -> None:
    with stop_after(2):
        cli(*OPTIONS)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    assert cli("train", "--resume", "checkpoints/last.pt", "--out-dir", "new").status == 0
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_epoch_may_lie_before_the_stop(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    last = tmp_path / "checkpoints" / "last.pt"
    with stop_after(1):
        cli(*OPTIONS)
    best = blank(checkpoint.load_run(last).best)
    put_best(last, best)  # which no later epoch can surpass
    assert cli("train", "--resume", last, "--out-dir", "new").status == 0
    kept = checkpoint.load(tmp_path / "new" / "best.pt")
    assert kept.metrics == best.metrics
    assert same(kept.weights, best.weights)
    assert len(read_history(tmp_path / "new")) == 4


def test_a_loss_that_is_no_number_keeps_what_was_saved_before(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    last = tmp_path / "checkpoints" / "last.pt"
    with stop_after(1):
        cli(*OPTIONS)
    paused = checkpoint.load_run(last)
    wild = {name: value * (1e30 if "weight" in name else 1) for name, value in paused.net.items()}
    checkpoint.save(last, replace(paused, net=wild))
    cli("train", "--resume", last, "--quiet").assert_refused("not finite", "epoch 2", "--lr")
    for name in ("best.pt", "last.pt"):
        assert checkpoint.load(last.with_name(name)).metrics.epoch == 1


def test_a_finished_run_trains_nothing_and_prints_its_result(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    finished = cli(*OPTIONS)
    history = (tmp_path / "checkpoints" / "history.csv").read_bytes()
    before = weights(tmp_path / "checkpoints" / "last.pt")
    again = cli("train", "--resume", "checkpoints/last.pt")
    assert again.status == 0
    assert again.out == finished.out
    assert epoch_lines(again.err) == []
    assert "replacing" not in again.err
    assert (tmp_path / "checkpoints" / "history.csv").read_bytes() == history
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
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    with stop_after(2):
        cli(*OPTIONS)
    shutil.move(tmp_path / "data", tmp_path / "moved")
    resumed = cli("train", "--resume", "checkpoints/last.pt", "--data-dir", "moved")
    assert resumed.status == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_resuming_without_the_data_offers_no_other_data_set(
    split: str, cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS)
    for name in FILES[split]:
        (tmp_path / "data" / digits.dataset / "raw" / name).unlink()
    outcome = cli("train", "--resume", "checkpoints/last.pt", "--quiet")
    outcome.assert_refused("connect to the internet, or name a folder", "--data-dir")
    assert "--dataset" not in outcome.err


def test_resuming_into_the_folder_of_another_run_says_that_it_is_replaced(
    cli: Callable, digits: Tiny
) -> None:
    cli(*OPTIONS, "--out-dir", "first")
    cli(*OPTIONS, "--out-dir", "second", "--seed", 1)
    outcome = cli("train", "--resume", "first/last.pt", "--out-dir", "second")
    assert "replacing the earlier run in second\n" in outcome.err


def test_resuming_best_names_last(cli: Callable, sample_checkpoint: Path) -> None:
    outcome = cli("train", "--resume", sample_checkpoint)
    outcome.assert_refused(f"--resume {sample_checkpoint.with_name('last.pt')}")


def test_a_run_begun_by_another_version_is_refused(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    run = torch.load(sample_checkpoint.with_name("last.pt"), weights_only=True)
    del run["recipe"]["fade"]
    torch.save(run, tmp_path / "last.pt")
    outcome = cli("train", "--resume", tmp_path / "last.pt", "--out-dir", "new")
    outcome.assert_refused("another version", "fade")
    assert not (tmp_path / "new").exists()


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


# ------------------------------------------------------------------------------ options


def test_overrides_take_the_place_of_the_recipe_and_are_recorded(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    cli(*OPTIONS, "--lr", 0.002, "--seed", 7, "--recipe", "fast")
    plan = checkpoint.load(tmp_path / "checkpoints" / "best.pt").plan
    given = {"epochs": 4, "batch_size": 50, "lr": 0.002}
    assert plan.overrides == given
    assert plan.recipe == replace(RECIPES["fast"], **given)
    assert plan.seed == 7
    values = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert values["recipe"]["augmentation"] == asdict(RECIPES["fast"].augmentation)


def test_without_options_the_recipe_is_standard(cli: Callable, digits: Tiny) -> None:
    assert "recipe standard, 1 epoch, batches of 50, seed 0" in cli(*OPTIONS, "--epochs", 1).err


def test_a_batch_as_large_as_the_training_split_is_one_step(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    options = ("train", "--dataset", "mnist", "--epochs", 1, "--device", "cpu", "--batch-size")
    assert cli(*options, 200).status == 0
    assert len(checkpoint.load_run(tmp_path / "checkpoints" / "last.pt").losses) == 1
    cli(*options, 201).assert_refused("201", "200", "--batch-size")


# ------------------------------------------------------------------------------ two at once


def test_a_training_into_a_folder_in_use_is_refused(
    cli: Callable, digits: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    with lock_folder("checkpoints", "--out-dir"):
        cli(*OPTIONS).assert_refused("another training", "checkpoints", "--out-dir")
    assert cli(*OPTIONS).status == 0


def test_a_second_training_into_the_same_folder_is_refused_while_the_first_lives(
    forker: "Forker", cli: Callable, undrawn: None, tmp_path: Path
) -> None:
    options = ("train", "--dataset", "sample", "--recipe", "fast", "--device", "cpu", "--epochs")
    running = forker.start(*options, 5000, "--batch-size", 100, cwd=tmp_path)
    running.wait_for("epoch    2/5000")  # the files of the first are there
    cli(*options, 1).assert_refused("another training", "checkpoints", "--out-dir")
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt").plan.recipe.epochs == 5000
    running.send(signal.SIGKILL)
    running.wait()
    outcome = cli(*options, 1)
    assert outcome.status == 0
    assert "replacing the earlier run in checkpoints\n" in outcome.err
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "best.pt", "last.pt", "history.csv", "curves.png",
    }  # fmt: skip
