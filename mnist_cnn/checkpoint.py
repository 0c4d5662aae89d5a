"""What a checkpoint holds: saving it completely or not at all, loading it, checking every part.

On disk a checkpoint is one dictionary of tensors and plain values:

    model         the weights and buffers, as model.state_dict() gives them
    model_args    the arguments that CNN was built with
    dataset       the data set it was trained on, by its name in datasets.SOURCES
    classes       the name of each class
    recipe        every hyperparameter of the training run (recipes.Recipe)
    overrides     those that the command line changed
    seed          of the run
    epoch         after which the weights were taken
    metrics       of that epoch (Metrics)
    temperature   at which the network's probabilities are shown; files from versions that fitted
                  none lack it, which counts as 1
    versions      of mnist_cnn and torch
    resume        in last.pt only: all that is needed to resume the run

In the program it is a `Trained` network (best.pt) or a `Paused` run (last.pt). This module converts
between these and the dictionary, which nothing else looks into.
"""

import csv
import io
import math
import os
import stat
import typing
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from mnist_cnn import Error
from mnist_cnn.datasets import SOURCES
from mnist_cnn.model import CNN, MAX_TEMPERATURE, MIN_TEMPERATURE
from mnist_cnn.recipes import Recipe
from mnist_cnn.system.container import read_container
from mnist_cnn.system.files import write_file
from mnist_cnn.system.process import is_out_of_memory

Weights = dict[str, torch.Tensor]


# ------------------------------------------------------------------------------ in the program


@dataclass(frozen=True)
class Plan:
    """What a run will do, and with what: all that is known before its first step.

    recipe: its hyperparameters, with the command line's changes.
    overrides: these changes, by the names of Recipe's fields.
    dataset: its name in datasets.SOURCES.
    seed: of all random numbers.
    mean, std: of the training images' pixels, in [0, 1]; the network normalises with them.
    versions: of mnist_cnn and torch.
    """

    recipe: Recipe
    overrides: dict[str, float]
    dataset: str
    seed: int
    mean: float
    std: float
    versions: dict[str, str]

    @property
    def classes(self) -> list[str]:
        """The name of each class."""
        return SOURCES[self.dataset].classes

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments of the network."""
        return {
            "channels": self.recipe.channels,
            "kernels": self.recipe.kernels,
            "hidden": self.recipe.hidden,
            "dropout": self.recipe.dropout,
            "classes": len(self.classes),
            "mean": self.mean,
            "std": self.std,
        }


@dataclass(frozen=True)
class Metrics:
    """The figures of an epoch: a row of history.csv.

    epoch: 1, 2, ...
    lr: the learning rate at its last step.
    train_loss: mean loss per image as it is minimised, in nats: with augmentation, dropout, label
        smoothing and pictures of no single digit. These keep it from falling to 0.
    val_loss: mean cross-entropy per image of the averaged weights, in nats.
    train_accuracy, val_accuracy: in [0, 1].
    seconds: training and validation together.
    images_per_second: training images in these seconds.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Trained:
    """A network as it was after an epoch: what best.pt holds.

    weights: the running average of the network's weights.
    temperature: fitted to its answers on the validation split (evaluate.fit_temperature); 1 in
        files from versions that fitted none.
    """

    plan: Plan
    metrics: Metrics
    weights: Weights
    temperature: float = 1.0

    def build_model(self) -> CNN:
        """Build the network, on the CPU, ready to evaluate."""
        model = CNN(**self.plan.model_args)
        model.load_state_dict(self.weights)
        model.temperature = self.temperature
        return model.to(memory_format=torch.channels_last).eval()


@dataclass
class Run:
    """A training run under way: everything that its steps and epochs update.

    net: the network that learns, on the device.
    averaged: the exponential moving average (EMA) of net's weights, which is validated and saved.
    losses: of every step of the whole run, float (steps,), in nats; 0 for steps not yet taken.
    step: how many steps have been taken.
    history: of the finished epochs.
    best: the network after the epoch with the best validation accuracy, the earlier on a tie.
    temperature: of the average after the last of these epochs.
    """

    plan: Plan
    net: CNN
    averaged: CNN
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    losses: torch.Tensor
    step: int = 0
    history: list[Metrics] = field(default_factory=list)
    best: Trained | None = None
    temperature: float = 1.0

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return len(self.losses) // self.plan.recipe.epochs


@dataclass(frozen=True)
class Paused:
    """A run as it was saved after an epoch: what last.pt holds.

    latest: the average as it was then.
    net: the weights that are being trained.
    optimizer: Adam's state for each parameter, by the parameter's number.
    losses, step, history, best: as in Run.
    """

    latest: Trained
    net: Weights
    optimizer: dict[int, dict[str, torch.Tensor]]
    losses: torch.Tensor
    step: int
    history: list[Metrics]
    best: Trained

    @property
    def plan(self) -> Plan:
        """The plan of the run."""
        return self.latest.plan


# ------------------------------------------------------------------------------ saving


def save_run(folder: str | Path, run: Run, new_best: bool) -> None:
    """Write a run's last.pt and history.csv, and its best.pt if the best epoch is a new one."""
    assert run.best is not None
    folder = Path(folder)
    latest = Trained(run.plan, run.history[-1], run.averaged.state_dict(), run.temperature)
    if new_best:
        save(folder / "best.pt", run.best)
    paused = Paused(
        latest,
        run.net.state_dict(),
        run.optimizer.state_dict()["state"],
        run.losses,
        run.step,
        run.history,
        run.best,
    )
    save(folder / "last.pt", paused)
    table = io.StringIO()
    writer = csv.DictWriter(table, [column.name for column in fields(Metrics)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(metrics) for metrics in run.history)
    write_file(folder / "history.csv", table.getvalue().encode())


def save(path: str | Path, what: Trained | Paused) -> None:
    """Write a checkpoint, completely or not at all."""
    buffer = io.BytesIO()
    torch.save(trained_values(what) if isinstance(what, Trained) else paused_values(what), buffer)
    write_file(path, buffer.getvalue())


def trained_values(trained: Trained) -> dict[str, Any]:
    """Return a trained network as a dictionary of tensors and plain values."""
    plan, metrics = trained.plan, trained.metrics
    return {
        "model": trained.weights,
        "model_args": plain(plan.model_args),
        "dataset": plan.dataset,
        "classes": plan.classes,
        "recipe": plain(asdict(plan.recipe)),
        "overrides": plan.overrides,
        "seed": plan.seed,
        "epoch": metrics.epoch,
        "metrics": asdict(metrics),
        "temperature": trained.temperature,
        "versions": plan.versions,
    }


def paused_values(paused: Paused) -> dict[str, Any]:
    """Return a paused run as a dictionary of tensors and plain values."""
    return {
        **trained_values(paused.latest),
        "resume": {
            "model": paused.net,
            "optimizer": {"state": paused.optimizer},
            "schedule": {"last_epoch": paused.step, "total_steps": len(paused.losses)},
            "losses": paused.losses,
            "history": [asdict(metrics) for metrics in paused.history],
            "best": trained_values(paused.best),
        },
    }


def plain(value: Any) -> Any:
    """Turn tuples into lists, all the way down."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple) else value


# ------------------------------------------------------------------------------ loading


def load(path: str | Path) -> Trained:
    """Read the trained network from a checkpoint, onto the CPU, and check all of it.

    Raises:
        Error: there is no such file, or it is not an undamaged checkpoint of this package.
    """
    return read(path)[0]


def load_run(path: str | Path) -> Paused:
    """Read the run that a last.pt holds, onto the CPU, and check all of it.

    Raises:
        Error: as in `load`; or the file holds no run to resume.
    """
    _, paused = read(path)
    if paused is None:
        last = Path(path).with_name("last.pt")
        raise Error(f"{path} holds only the trained network: use --resume {last}")
    return paused


def read(path: str | Path) -> tuple[Trained, Paused | None]:
    """Read what a checkpoint holds: a trained network and, in last.pt, the run it comes from.

    With weights_only=True the unpickler builds tensors and plain values and calls nothing else,
    so that a file from a stranger cannot run code.

    Raises:
        Error: there is no such file, or it is not an undamaged checkpoint of this package.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise Error(
            f"there is no checkpoint {path}: run python -m mnist_cnn train first, "
            "or name another one"
        ) from None
    except OSError as error:
        raise Error(f"{path} cannot be read ({error.strerror}): check it, or its folder") from None
    if stat.S_ISDIR(found.st_mode):
        raise Error(f"{path} is a folder: name a checkpoint in it, best.pt, or last.pt to resume")
    try:
        content = io.BytesIO(read_container(path))
        with warnings.catch_warnings():  # about other file formats: reported below, in one line
            warnings.simplefilter("ignore")
            values = torch.load(content, map_location="cpu", weights_only=True)
        trained = parse_trained(values)
        return trained, parse_run(trained, values["resume"]) if "resume" in values else None
    except PermissionError:
        raise Error(f"{path} cannot be read: check its permissions") from None
    except Exception as error:  # whatever else the unpickler or the checks raise
        if is_out_of_memory(error):
            raise
        why = str(error) if isinstance(error, Wrong) else "damaged, or another kind of file"
        raise Error(
            f"{path} is not a checkpoint of this program ({why}): train one with "
            "python -m mnist_cnn train"
        ) from None


class Wrong(Exception):
    """What is wrong with the contents of a checkpoint: "its ... is ..."."""


def check(holds: Any, otherwise: str) -> None:
    """Raise Wrong, with the message given, unless a condition holds."""
    if not holds:
        raise Wrong(otherwise)


def parse_trained(values: Any) -> Trained:
    """Turn a dictionary that was read into the trained network that it describes.

    Raises:
        Wrong: something is missing, of the wrong type or out of range.
    """
    check(isinstance(values, dict), "it holds something else")
    arguments = parse(dict[str, object], values.get("model_args"), "model_args")
    plan = Plan(
        recipe=parse(Recipe, values.get("recipe"), "recipe"),
        overrides=parse(dict[str, float], values.get("overrides"), "overrides"),
        dataset=parse(str, values.get("dataset"), "dataset"),
        seed=parse(int, values.get("seed"), "seed"),
        mean=parse(float, arguments.get("mean"), "mean"),
        std=parse(float, arguments.get("std"), "std"),
        versions=parse(dict[str, str], values.get("versions"), "versions"),
    )
    check(plan.dataset in SOURCES, "its data set is unknown")
    check(values.get("classes") == plan.classes, "its classes are not those of its data set")
    check(plain(plan.model_args) == arguments, "its network is not that of its recipe")
    check(plan.std > 0, "its standard deviation is not positive")
    metrics = parse(Metrics, values.get("metrics"), "metrics")
    check(values.get("epoch") == metrics.epoch, "its epoch is not that of its metrics")
    check(1 <= metrics.epoch <= plan.recipe.epochs, "its epoch is out of range")
    temperature = parse(float, values.get("temperature", 1.0), "temperature")
    check(MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE, "its temperature is out of range")
    weights = values.get("model")
    check(0 <= plan.seed < 2**63, "its seed is out of range")
    with torch.device("meta"):  # shapes only: nothing is allocated, however large
        check_weights(weights, CNN(**plan.model_args).state_dict())
    check(weights["std"] > 0, "its standard deviation is not positive")
    return Trained(plan, metrics, weights, temperature)


def parse_run(latest: Trained, values: Any) -> Paused:
    """Turn the part of a dictionary that only last.pt has into the run that it describes.

    Raises:
        Wrong: something is missing, of the wrong type or out of range, or does not fit the rest.
    """
    plan = latest.plan
    parts = parse(dict[str, object], values, "resume")
    with torch.device("meta"):
        model = CNN(**plan.model_args)
    net, losses = parts.get("model"), parts.get("losses")
    check_weights(net, model.state_dict())
    rows = parts.get("history")
    check(not isinstance(rows, list) or len(rows) <= plan.recipe.epochs, "its history is too long")
    history = parse(list[Metrics], rows, "history")
    epochs = [metrics.epoch for metrics in history]
    check(history and history[-1] == latest.metrics, "its history does not end with its epoch")
    check(epochs == list(range(1, len(history) + 1)), "its history lacks an epoch")
    check(isinstance(losses, torch.Tensor) and losses.ndim == 1, "its losses are of the wrong type")
    assert isinstance(losses, torch.Tensor)
    steps, left = divmod(len(losses), plan.recipe.epochs)
    check(steps and not left, "its losses do not fit its epochs")
    check_tensor(losses, losses.shape, torch.float32, "losses")
    schedule = parse(dict[str, object], parts.get("schedule"), "schedule")
    step = steps * len(history)
    check(schedule.get("last_epoch") == step, "its schedule does not fit its history")
    check(schedule.get("total_steps") == len(losses), "its schedule does not fit its losses")
    optimizer = parse(dict[str, object], parts.get("optimizer"), "optimizer").get("state")
    check_optimizer(optimizer, list(model.parameters()))
    best = parse_trained(parts.get("best"))
    check(best.plan == plan and best.metrics in history, "its best epoch belongs to another run")
    return Paused(latest, net, optimizer, losses, step, history, best)


def parse(kind: Any, value: Any, name: str) -> Any:
    """Turn a plain value into what a type annotation asks for; dataclasses field by field.

    Args:
        kind: a plain type, a dataclass, or a list, dict or tuple of these.
        value: as it was read.
        name: what it is called, for the error.

    Raises:
        Wrong: it is of the wrong type, or out of the range that a dataclass allows.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    wrong_type = f"its {name} is missing or of the wrong type"
    if isinstance(kind, type) and is_dataclass(kind):
        check(isinstance(value, dict), wrong_type)
        kinds, given = typing.get_type_hints(kind), {}
        for part in fields(kind):
            if part.name in value:
                given[part.name] = parse(kinds[part.name], value[part.name], part.name)
            elif part.default is MISSING:
                raise Wrong(f"another version wrote it: its {name} lacks {part.name}")
        check(
            value.keys() == given.keys(), f"another version wrote it: its {name} has unknown fields"
        )
        try:
            return kind(**given)
        except ValueError as error:
            raise Wrong(f"its {error}") from None
    if origin is tuple:
        check(
            isinstance(value, list) and len(value) == len(inner), f"its {name} is of the wrong type"
        )
        return tuple(parse(each, item, name) for each, item in zip(inner, value))
    if origin is list:
        check(isinstance(value, list), wrong_type)
        return [parse(inner[0], item, name) for item in value]
    if origin is dict:
        check(isinstance(value, dict), wrong_type)
        return {parse(inner[0], k, name): parse(inner[1], v, name) for k, v in value.items()}
    expected = (int, float) if kind is float else kind
    right = isinstance(value, expected) and (kind is object or not isinstance(value, bool))
    check(right, wrong_type)
    check(kind is not float or math.isfinite(value), f"its {name} is not finite")
    return value


def check_weights(given: Any, expected: Mapping[str, torch.Tensor]) -> None:
    """Compare tensors with others that may be on the meta device: names, types and shapes.

    Raises:
        Wrong: they differ, or a number among those given is not finite.
    """
    check(
        isinstance(given, dict) and given.keys() == expected.keys(),
        "its weights are not those of its network",
    )
    for name, tensor in expected.items():
        check_tensor(given[name], tensor.shape, tensor.dtype, name)


def check_tensor(given: Any, shape: torch.Size, dtype: torch.dtype, name: str) -> None:
    """Make sure that something is a finite tensor of a given type and shape.

    Raises:
        Wrong: it is not.
    """
    same = isinstance(given, torch.Tensor) and (given.shape, given.dtype) == (shape, dtype)
    check(same and given.layout == torch.strided, f"its {name} is not of the shape {tuple(shape)}")
    size = math.prod(shape) * dtype.itemsize  # a few bytes can be made to look like gigabytes
    check(
        given.untyped_storage().nbytes() >= size,
        f"its {name} holds fewer numbers than its shape needs",
    )
    check(given.isfinite().all(), f"its {name} holds numbers that are not finite")


def check_optimizer(given: Any, parameters: list[torch.nn.Parameter]) -> None:
    """Make sure that Adam's state fits the parameters that it updates.

    Raises:
        Wrong: it does not.
    """
    numbers = range(len(parameters))
    check(isinstance(given, dict) and set(given) == set(numbers), "its optimizer is damaged")
    for number, parameter in enumerate(parameters):
        moments = given[number]
        names = {"step", "exp_avg", "exp_avg_sq"}
        check(isinstance(moments, dict) and moments.keys() == names, "its optimizer is damaged")
        check_tensor(moments["step"], torch.Size([]), torch.float32, "optimizer's step")
        for name in ("exp_avg", "exp_avg_sq"):
            check_tensor(moments[name], parameter.shape, parameter.dtype, f"optimizer's {name}")
        check((moments["exp_avg_sq"] >= 0).all() and moments["step"] >= 0, "its optimizer is wrong")
