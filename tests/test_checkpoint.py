"""Checkpoints: what they hold, how they are written, and what is refused in their place."""

import builtins
import csv
import errno
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from version_1 import LATER, write_as_version_1

import mnist_cnn
from mnist_cnn import Error, checkpoint
from mnist_cnn.checkpoint import Metrics, Paused, Plan, Trained, Weights
from mnist_cnn.data import load_split, split_validation
from mnist_cnn.datasets import DIGITS
from mnist_cnn.model import CNN, MAX_TEMPERATURE, MIN_TEMPERATURE
from mnist_cnn.recipes import RECIPES

# Of sample_checkpoint's run: 8 epochs, 3600 images and 180 non-digits, batches of 128.
STEPS = 8 * (3780 // 128)


@pytest.fixture
def best(sample_checkpoint: Path) -> dict[str, Any]:
    return torch.load(sample_checkpoint, weights_only=True)


@pytest.fixture
def last_pt(sample_checkpoint: Path) -> Path:
    return sample_checkpoint.with_name("last.pt")


@pytest.fixture
def last(last_pt: Path) -> dict[str, Any]:
    return torch.load(last_pt, weights_only=True)


def same(first: Any, second: Any) -> bool:
    """Whether two values are alike, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, Trained | Paused):
        parts = [field.name for field in fields(first)]
        return all(same(getattr(first, part), getattr(second, part)) for part in parts)
    return bool(first == second)


# ------------------------------------------------------------------------------ contents


def test_it_holds_what_the_network_is_and_where_it_comes_from(best: dict[str, Any]) -> None:
    assert list(best) == [
        "model", "model_args", "dataset", "classes", "recipe", "overrides", "seed", "epoch",
        "metrics", "temperature", "versions",
    ]  # fmt: skip
    assert (best["dataset"], best["classes"]) == ("sample", DIGITS)
    assert best["recipe"]["name"] == "standard"
    assert best["recipe"]["epochs"] == 8
    assert best["recipe"]["augmentation"] == asdict(RECIPES["standard"].augmentation)
    assert best["overrides"] == {"epochs": 8}
    assert best["seed"] == 0
    assert 1 <= best["epoch"] <= 8
    assert best["metrics"]["epoch"] == best["epoch"]
    assert 0.9 < best["metrics"]["val_accuracy"] <= 1
    assert MIN_TEMPERATURE < best["temperature"] < MAX_TEMPERATURE and best["temperature"] != 1
    versions = {"mnist_cnn": mnist_cnn.__version__, "torch": torch.__version__}
    assert best["versions"] == versions


def test_it_holds_the_mean_and_deviation_of_the_training_images(best: dict[str, Any]) -> None:
    both = load_split("sample", "train", "")
    pixels = split_validation(both, 400)[0].images / 255
    for values in (best["model"], best["model_args"]):
        assert float(values["mean"]) == pytest.approx(pixels.mean().item(), rel=1e-4)
        assert float(values["std"]) == pytest.approx(pixels.std().item(), rel=1e-4)


def test_last_holds_all_that_is_needed_to_go_on(last: dict[str, Any]) -> None:
    state = last["resume"]
    assert set(state) == {"model", "optimizer", "schedule", "losses", "history", "best"}
    assert last["epoch"] == 8
    assert [row["epoch"] for row in state["history"]] == list(range(1, 9))
    assert state["history"][-1] == last["metrics"]
    assert state["best"]["metrics"] == max(state["history"], key=lambda row: row["val_accuracy"])
    assert state["losses"].shape == (STEPS,)
    assert (state["losses"] > 0).all()
    assert state["schedule"] == {"last_epoch": STEPS, "total_steps": STEPS}
    moments = state["optimizer"]["state"]
    assert len(moments) == len(list(CNN().parameters()))
    assert {one["step"].item() for one in moments.values()} == {STEPS}


def test_best_lies_in_last_as_well(best: dict[str, Any], last: dict[str, Any]) -> None:
    assert same(last["resume"]["best"], best)


def test_the_history_is_a_table_too(sample_checkpoint: Path, last: dict[str, Any]) -> None:
    with open(sample_checkpoint.with_name("history.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{key: float(text) for key, text in row.items()} for row in rows] == (
        last["resume"]["history"]
    )


def test_the_network_can_be_built_from_it_alone(
    sample_checkpoint: Path, best: dict[str, Any]
) -> None:
    model = checkpoint.load(sample_checkpoint).build_model()
    assert not model.training
    assert model.temperature == best["temperature"]
    assert same(dict(model.state_dict()), best["model"])
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def plain(value: Any) -> bool:
    """Whether it is a tensor or one of the plain kinds, all the way down."""
    if isinstance(value, dict):
        return all(type(key) in (str, int) and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(plain(item) for item in value)
    return type(value) in (str, int, float, bool, torch.Tensor)


def test_it_holds_tensors_and_plain_values_alone(
    best: dict[str, Any], last: dict[str, Any]
) -> None:
    for values in (best, last, last["resume"]):
        values["model"] = dict(values["model"])  # an ordered one, as state_dict gives it
    last["resume"]["best"]["model"] = dict(last["resume"]["best"]["model"])
    assert [key for key, value in best.items() if not plain(value)] == []
    assert [key for key, value in last.items() if not plain(value)] == []


# ------------------------------------------------------------------------------ in the program


def test_a_trained_network_comes_with_its_plan_and_its_figures(
    sample_checkpoint: Path, best: dict[str, Any]
) -> None:
    trained = checkpoint.load(sample_checkpoint)
    assert trained.plan.recipe == replace(RECIPES["standard"], epochs=8)
    assert (trained.plan.dataset, trained.plan.seed) == ("sample", 0)
    assert trained.plan.classes == DIGITS
    assert trained.plan.overrides == {"epochs": 8}
    assert asdict(trained.metrics) == best["metrics"]
    assert same(trained.weights, best["model"])


def test_the_last_epochs_network_can_be_had_of_a_run(last_pt: Path, last: dict[str, Any]) -> None:
    trained = checkpoint.load(last_pt)
    assert trained.metrics.epoch == 8
    assert same(trained.weights, last["model"])


def test_a_run_laid_aside_comes_with_all_that_it_did(
    sample_checkpoint: Path, last_pt: Path, last: dict[str, Any]
) -> None:
    paused = checkpoint.load_run(last_pt)
    assert same(paused.latest, checkpoint.load(last_pt))
    assert same(paused.best, checkpoint.load(sample_checkpoint))
    assert paused.plan == paused.best.plan
    assert [asdict(metrics) for metrics in paused.history] == last["resume"]["history"]
    assert paused.step == len(paused.losses) == STEPS
    assert same(paused.net, last["resume"]["model"])
    assert not same(paused.net, paused.latest.weights)  # which are an average
    assert same(paused.optimizer, last["resume"]["optimizer"]["state"])


def test_a_trained_network_alone_is_no_run_to_go_on_with(sample_checkpoint: Path) -> None:
    with pytest.raises(Error, match="holds only the trained network") as caught:
        checkpoint.load_run(sample_checkpoint)
    assert f"--resume {sample_checkpoint.with_name('last.pt')}" in str(caught.value)


def test_what_was_saved_is_loaded_again(
    sample_checkpoint: Path, last_pt: Path, tmp_path: Path
) -> None:
    trained, paused = checkpoint.load(sample_checkpoint), checkpoint.load_run(last_pt)
    checkpoint.save(tmp_path / "trained.pt", trained)
    checkpoint.save(tmp_path / "paused.pt", paused)
    assert same(checkpoint.load(tmp_path / "trained.pt"), trained)
    assert same(checkpoint.load_run(tmp_path / "paused.pt"), paused)
    assert len(list(tmp_path.iterdir())) == 2


# ------------------------------------------------------------------------------ version 1.0


def make_run(folder: Path, recipe: str) -> Paused:
    """Writes best.pt and last.pt of a run that was never trained, and returns what last.pt has."""
    plan = Plan(
        replace(RECIPES[recipe], epochs=2, **LATER),
        {"epochs": 2},
        "sample",
        3,
        0.13,
        0.31,
        {"torch": "2.6"},
    )
    net = CNN(**plan.model_args)
    first, second = (Metrics(epoch, 0.001, 2.3, 0.1, 2.3, 0.1, 1.5, 2400.0) for epoch in (1, 2))
    best = Trained(plan, first, net.state_dict())
    steps = 3600 // plan.recipe.batch_size
    moments = {
        number: {
            "step": torch.tensor(2.0 * steps),
            "exp_avg": torch.full_like(parameter, number / 7).detach(),
            "exp_avg_sq": torch.full_like(parameter, number / 3).detach(),
        }
        for number, parameter in enumerate(net.parameters())
    }
    latest = Trained(plan, second, CNN(**plan.model_args).state_dict())
    losses = torch.linspace(2.3, 0.1, 2 * steps)
    net_weights = CNN(**plan.model_args).state_dict()
    paused = Paused(latest, net_weights, moments, losses, 2 * steps, [first, second], best)
    checkpoint.save(folder / "best.pt", best)
    checkpoint.save(folder / "last.pt", paused)
    return paused


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_of_version_1_are_read_as_if_they_were_written_today(
    recipe: str, tmp_path: Path
) -> None:
    paused = make_run(tmp_path, recipe)
    for name in ("best.pt", "last.pt"):
        write_as_version_1(tmp_path / name, tmp_path / f"old {name}")
    old = torch.load(tmp_path / "old last.pt", weights_only=True)
    assert (old["recipe"]["augmentation"] == {}) == (recipe == "fast")
    assert "temperature" not in old and "temperature" not in old["resume"]["best"]
    trained, old_run = (
        checkpoint.load(tmp_path / "old best.pt"),
        checkpoint.load_run(tmp_path / "old last.pt"),
    )
    assert trained.plan.versions == {"torch": "2.6", "mnist_cnn": "1.0.0"}
    for one in (trained, old_run.latest, old_run.best):
        assert one.temperature == 1.0
        one.plan.versions.pop("mnist_cnn")
    assert same(trained, paused.best)
    assert same(old_run, paused)


def test_an_old_file_evaluates_as_the_new_one(
    sample_checkpoint: Path, last_pt: Path, tmp_path: Path, cli: Callable
) -> None:
    for path in (sample_checkpoint, last_pt):
        write_as_version_1(path, tmp_path / "old.pt")
        new, old = (cli("eval", "--ckpt", file, "--device", "cpu") for file in (path, "old.pt"))
        assert (old.status, old.err) == (0, "")
        assert old.out.replace("old.pt", str(path)) == new.out


# ------------------------------------------------------------------------------ loading


class Evil:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k != key}


def changed(values: dict[str, Any], *path: Any) -> dict[str, Any]:
    """A copy with another value somewhere in it: the last of path, under the keys before it."""
    key, *rest = path
    copy = dict(values) if isinstance(values, dict) else list(values)
    copy[key] = rest[0] if len(rest) == 1 else changed(copy[key], *rest)
    return copy


def in_network(best: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A checkpoint whose recipe and network have another size, in both places."""
    return changed(changed(best, "recipe", name, value), "model_args", name, value)


def in_metrics(best: dict[str, Any], epoch: int) -> dict[str, Any]:
    """A checkpoint after another epoch, in both places."""
    return changed(changed(best, "epoch", epoch), "metrics", "epoch", epoch)


def bad_files(best: dict[str, Any], whole: bytes, folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Ways to write a file that is no good, by their names."""
    model = best["model"]

    def saved(value: Any) -> Callable[[Path], Any]:
        return lambda path: torch.save(value, path)

    def written(content: bytes) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(content)

    def put(*path: Any) -> Callable[[Path], Any]:
        return saved(changed(best, *path))

    nan = model["fc2.bias"].clone()
    nan[3] = float("nan")
    evil = Evil(folder / "evil")
    return {
        "empty": written(b""),
        "half": written(whole[: len(whole) // 2]),
        "all but the end": written(whole[:-50]),
        "text": written(b"not a checkpoint\n" * 99),
        "picture": written(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        "zip": written(b"PK\x05\x06" + bytes(18)),
        "noise": written(os.urandom(5000)),
        "folder": lambda path: path.mkdir(),
        "pickle": written(pickle.dumps(evil, protocol=2)),
        "new pickle": written(pickle.dumps(evil, protocol=4)),
        "torch pickle": put("seed", evil),
        "torch pickle, old format": lambda path: torch.save(
            {**best, "seed": evil}, path, _use_new_zipfile_serialization=False
        ),
        "list": saved([1, 2]),
        "tensor": saved(torch.zeros(3)),
        "only weights": saved(model),
        "another model's weights": saved(nn.Linear(3, 3).state_dict()),
        "another model": put("model", nn.Linear(3, 3).state_dict()),
        "a weight too few": put("model", without(model, "fc1.bias")),
        "a weight too many": put("model", "fc3.bias", torch.zeros(3)),
        "other shape": put("model", "fc1.weight", torch.zeros(256, 801)),
        "other type": put("model", "fc1.bias", torch.zeros(256, dtype=torch.float64)),
        "no tensor": put("model", "fc1.bias", [0.0] * 256),
        "sparse": put("model", "fc1.bias", torch.zeros(256).to_sparse()),
        "NaN": put("model", "fc2.bias", nan),
        "infinity": put("model", "mean", torch.tensor(float("inf"))),
        "no deviation": put("model", "std", torch.tensor(0.0)),
        "other widths": saved(in_network(best, "hidden", 255)),
        "absurd widths": saved(in_network(best, "hidden", 10**12)),
        "no widths": saved(in_network(best, "hidden", 0)),
        "too few widths": saved(in_network(best, "channels", [24])),
        "filters larger than the image": saved(in_network(best, "kernels", [40, 3])),
        "another network than the recipe's": put("model_args", "dropout", [0.0, 0.0]),
        "unknown argument": put("model_args", "layers", 3),
        "other number of classes": put("classes", DIGITS[:9]),
        "other classes": put("classes", [*DIGITS[:9], "ten"]),
        "classes that are no text": put("classes", list(range(10))),
        "unknown data set": put("dataset", "emnist"),
        **{f"no {key}": saved(without(best, key)) for key in best if key != "temperature"},
        **{f"{key} that is a tensor": put(key, torch.zeros(2)) for key in best},
        **{f"no {k} in the metrics": put("metrics", without(best["metrics"], k)) for k in ("lr",)},
        "recipe without fade": put("recipe", without(best["recipe"], "fade")),
        "recipe with more": put("recipe", "momentum", 0.9),
        "recipe without end": put("recipe", "epochs", 10**9),
        "augmentation of another kind": put("recipe", "augmentation", "blur", 0.3),
        "augmentation without end": put("recipe", "augmentation", "rotate", float("inf")),
        "temperature below all": put("temperature", MIN_TEMPERATURE * 0.99),
        "temperature above all": put("temperature", MAX_TEMPERATURE * 1.01),
        "temperature of nothing": put("temperature", 0.0),
        "temperature below nothing": put("temperature", -1.0),
        "temperature that is no number": put("temperature", float("nan")),
        "temperature without end": put("temperature", float("inf")),
        "temperature in words": put("temperature", "1.0"),
        "temperature that is true": put("temperature", True),
        "no temperature, but None": put("temperature", None),
        "seed that is no number": put("seed", "0"),
        "seed below 0": put("seed", -1),
        "another epoch than that of the metrics": put("epoch", best["epoch"] + 1),
        "an epoch before the first": saved(in_metrics(best, 0)),
        "an epoch after the last": saved(in_metrics(best, 9)),
        "metrics that are not finite": put("metrics", "val_loss", float("nan")),
        "damaged resume": put("resume", {"history": []}),
        "resume of another kind": put("resume", [1, 2]),
    }


def bad_runs(last: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Runs that cannot be resumed, although the network is intact, by what is wrong."""
    state = last["resume"]
    history, losses, moments = state["history"], state["losses"], state["optimizer"]["state"]

    def put(*path: Any) -> dict[str, Any]:
        return changed(last, "resume", *path)

    def put_moment(name: str, value: Any) -> dict[str, Any]:
        return put("optimizer", "state", 0, name, value)

    mean = moments[0]["exp_avg"]
    return {
        **{f"no {key}": changed(last, "resume", without(state, key)) for key in state},
        **{f"{key} that is a number": put(key, 1) for key in state},
        "no history": put("history", []),
        "an epoch too few": put("history", history[1:]),
        "an epoch twice": put("history", [*history, history[-1]]),
        "epochs in another order": put("history", [history[1], history[0], *history[2:]]),
        "history that is not finite": put("history", 3, "train_loss", float("inf")),
        "history of strings": put("history", 3, "train_loss", "1.0"),
        "a loss too many": put("losses", torch.cat([losses, losses[:1]])),
        "no losses": put("losses", losses[:0]),
        "losses that are not finite": put("losses", losses * float("inf")),
        "losses of another type": put("losses", losses.long()),
        "losses of another shape": put("losses", losses[:, None]),
        "another schedule": put("schedule", "total_steps", 421),
        "a schedule that is elsewhere": put("schedule", "last_epoch", 419),
        "a network of another shape": put("model", "fc2.bias", torch.zeros(9)),
        "a network that is not finite": put("model", "fc2.bias", torch.full((10,), float("nan"))),
        "no moments": put("optimizer", "state", {}),
        "moments too few": put("optimizer", "state", without(moments, 0)),
        "moments of another shape": put_moment("exp_avg", mean[:1]),
        "moments that are not finite": put_moment("exp_avg", mean * float("nan")),
        "squares below zero": put_moment("exp_avg_sq", mean.abs() - 1),
        "a step that is text": put_moment("step", "224"),
        "more moments": put_moment("max_exp_avg_sq", mean.abs()),
        "best of another run": put("best", "seed", 1),
        "best that is damaged": put("best", "model", {}),
        "best that never was": put("best", "metrics", "val_loss", 0.125),
    }


@pytest.fixture
def no_deprecated() -> Iterator[None]:
    """PyTorch warns of some of the files that these tests write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refusals(files: dict[str, Callable[[Path], Any]], load: Callable, folder: Path) -> list[str]:
    """What was wrong with how files were refused: no word about those that were refused well."""
    wrong = []
    for name, write in files.items():
        path = folder / f"{name}.pt"
        write(path)
        try:
            load(path)
            wrong.append(f"{name}: it was loaded")
        except Error as error:
            if str(path) not in str(error) or "\n" in str(error):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
        if (folder / "evil").exists():
            wrong.append(f"{name}: it ran code")
            (folder / "evil").rmdir()
    return wrong


@pytest.mark.usefixtures("no_deprecated")
def test_whatever_is_no_checkpoint_is_refused_by_name(
    best: dict[str, Any], sample_checkpoint: Path, tmp_path: Path
) -> None:
    files = bad_files(best, sample_checkpoint.read_bytes(), tmp_path)
    assert len(files) > 60
    assert refusals(files, checkpoint.load, tmp_path) == []


@pytest.mark.usefixtures("no_deprecated")
def test_a_run_that_does_not_fit_together_is_refused_by_name(
    last: dict[str, Any], tmp_path: Path
) -> None:
    def writer(values: dict[str, Any]) -> Callable[[Path], None]:
        return lambda path: torch.save(values, path)

    files = {name: writer(values) for name, values in bad_runs(last).items()}
    assert refusals(files, checkpoint.load_run, tmp_path) == []
    assert refusals(files, checkpoint.load, tmp_path) == []


def test_another_version_is_told_from_damage(
    best: dict[str, Any], last: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(changed(best, "recipe", without(best["recipe"], "fade")), tmp_path / "less.pt")
    torch.save(changed(last, "recipe", "momentum", 0.9), tmp_path / "more.pt")
    torch.save(changed(best, "dataset", "emnist"), tmp_path / "newer.pt")
    with pytest.raises(Error, match="its data set is unknown"):
        checkpoint.load(tmp_path / "newer.pt")
    with pytest.raises(Error, match="another version wrote it: its recipe lacks fade"):
        checkpoint.load(tmp_path / "less.pt")
    with pytest.raises(Error, match="another version wrote it: its recipe has unknown fields"):
        checkpoint.load_run(tmp_path / "more.pt")


COMMANDS = {
    "eval": ("eval", "--ckpt"),
    "show-predictions": ("show-predictions", "--ckpt"),
    "train --resume": ("train", "--resume"),
    "predict": ("predict", "digit.png", "--ckpt"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind", ["missing", "empty", "all but the end", "new pickle", "other shape"]
)
def test_every_command_refuses_it_in_one_line(
    command: str, kind: str, best: dict[str, Any], sample_checkpoint: Path, tmp_path: Path,
    cli: Callable, recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    (tmp_path / "digit.png").touch()
    if kind != "missing":
        bad_files(best, sample_checkpoint.read_bytes(), tmp_path)[kind](tmp_path / "bad.pt")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    outcome = cli(*COMMANDS[command], "bad.pt", "--device", "cpu")
    assert [str(warning.message) for warning in recwarn] == []  # a further line on stderr
    outcome.assert_refused("bad.pt", "python -m mnist_cnn train")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_without_a_checkpoint_training_is_proposed(cli: Callable) -> None:
    cli("eval").assert_refused("checkpoints/best.pt", "run python -m mnist_cnn train first")


class Harm:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_even_a_file_that_was_taken_for_ours_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two things stand in its way: here the first, which looks through the file, lets it pass."""
    path = tmp_path / "x.pt"
    torch.save({"model": Harm(tmp_path / "harm")}, path)
    monkeypatch.setattr(checkpoint, "read_container", lambda path: Path(path).read_bytes())
    with pytest.raises(Error, match="is not a checkpoint of this program"):
        checkpoint.load(path)
    assert not (tmp_path / "harm").exists()


def test_a_folder_is_told_from_a_file(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    cli("eval", "--ckpt", "runs").assert_refused("runs is a folder", "best.pt")


@pytest.mark.skipif(os.name == "nt", reason="other names are too long there")
def test_a_checkpoint_that_cannot_be_looked_at_is_not_called_missing(cli: Callable) -> None:
    cli("eval", "--ckpt", "x" * 300).assert_refused(
        "cannot be read", os.strerror(errno.ENAMETOOLONG)
    )


def test_a_checkpoint_that_may_not_be_read_is_refused(
    sample_checkpoint: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.open

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if path == str(sample_checkpoint):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    cli("eval", "--ckpt", sample_checkpoint).assert_refused(str(sample_checkpoint), "permission")


# ------------------------------------------------------------------------------ saving


def test_a_disk_that_is_full_leaves_the_old_checkpoint(
    sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = checkpoint.load(sample_checkpoint)
    checkpoint.save(tmp_path / "best.pt", trained)
    weights: Weights = {name: torch.zeros_like(value) for name, value in trained.weights.items()}

    def fail(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fsync", fail)
        checkpoint.save(tmp_path / "best.pt", replace(trained, weights=weights))
    assert same(checkpoint.load(tmp_path / "best.pt"), trained)
    assert len(list(tmp_path.iterdir())) == 1
