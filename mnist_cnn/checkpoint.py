"""What a trained network is on disk: one dictionary of tensors and plain values.

model         the weights and buffers, as model.state_dict() gives them
model_args    the arguments that CNN was built with
dataset       the data set it was trained on, as data.SOURCES names it
classes       the name of each class
recipe        every hyperparameter of the training run (train.Recipe), and the recipe's name
overrides     those that the command line changed
seed, epoch   the run's seed, and the epoch after which the weights were taken
metrics       of that epoch: train_loss, train_accuracy, val_loss, val_accuracy, ...
versions      of mnist_cnn and torch
resume        in last.pt alone: all that is needed to go on with the run
"""

import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from mnist_cnn import Error
from mnist_cnn.data import SOURCES
from mnist_cnn.files import write_file
from mnist_cnn.model import CNN

Checkpoint = dict[str, Any]

TYPES: dict[str, type] = {
    "model": dict,
    "model_args": dict,
    "dataset": str,
    "classes": list,
    "recipe": dict,
    "overrides": dict,
    "seed": int,
    "epoch": int,
    "metrics": dict,
    "versions": dict,
}
RESUME_TYPES: dict[str, type] = {
    "model": dict,
    "optimizer": dict,
    "schedule": dict,
    "history": list,
    "losses": torch.Tensor,
    "best": dict,
}


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint: whole or not at all."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write_file(path, buffer.getvalue())


def load(path: str | Path) -> Checkpoint:
    """Reads a checkpoint onto the CPU and checks that it is one.

    With weights_only=True the unpickler builds tensors and plain values and calls nothing else,
    so that a file from a stranger cannot run code.

    Raises:
        Error: there is no such file, or it is not an undamaged checkpoint of this package.
    """
    if not os.path.exists(path):
        raise Error(
            f"there is no checkpoint {path}: run python -m mnist_cnn train first, "
            "or name another one"
        )
    try:
        with warnings.catch_warnings():  # of other files' formats: told below, in one line
            warnings.simplefilter("ignore")
            checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check(checkpoint)
    except IsADirectoryError:
        raise Error(f"{path} is a folder: name a checkpoint in it, such as best.pt") from None
    except PermissionError:
        raise Error(f"{path} may not be read: check its permissions") from None
    except Exception as error:  # whatever else the file does to the unpickler or to the checks
        why = str(error) if isinstance(error, _Wrong) else "damaged, or some other file"
        raise Error(
            f"{path} is not a checkpoint of this program ({why}): train one with "
            "python -m mnist_cnn train"
        ) from None
    return checkpoint


def build_model(checkpoint: Checkpoint) -> CNN:
    """The network that a checkpoint holds, on the CPU, ready to evaluate."""
    model = CNN(**checkpoint["model_args"])
    model.load_state_dict(checkpoint["model"])
    return model.to(memory_format=torch.channels_last).eval()


class _Wrong(Exception):
    """What is wrong with the contents of a checkpoint."""


def _check(checkpoint: Any) -> None:
    _check_types(checkpoint, TYPES)
    dataset, model_args = checkpoint["dataset"], checkpoint["model_args"]
    if dataset not in SOURCES or checkpoint["classes"] != SOURCES[dataset].classes:
        raise _Wrong("its data set or its classes are unknown")
    if model_args.get("classes") != len(checkpoint["classes"]):
        raise _Wrong("its classes are not those of its network")
    if not all(0 <= rate <= 1 for rate in model_args.get("dropout", ())):  # NaN is not, either
        raise _Wrong("its dropout rates are out of range")
    _check_weights(checkpoint["model"], model_args)
    if not checkpoint["model"]["std"] > 0:
        raise _Wrong("its standard deviation is not positive")
    if "resume" in checkpoint:
        for key in ("epochs", "batch_size"):
            if not isinstance(checkpoint["recipe"].get(key), int) or checkpoint["recipe"][key] < 1:
                raise _Wrong(f"its recipe's {key} is out of range")
        _check_types(checkpoint["resume"], RESUME_TYPES)
        _check_weights(checkpoint["resume"]["model"], checkpoint["model_args"])
        _check(checkpoint["resume"]["best"])


def _check_types(values: Any, types: dict[str, type]) -> None:
    if not isinstance(values, dict):
        raise _Wrong("it holds something else")
    for key, expected in types.items():
        if not isinstance(values.get(key), expected):
            raise _Wrong(f"its {key!r} is missing or of another kind")


def _check_weights(weights: dict[str, Any], model_args: dict[str, Any]) -> None:
    """Compares names, types and shapes with those of the network that would be built."""
    try:
        with torch.device("meta"):  # shapes alone: nothing is allocated, however large
            expected = CNN(**model_args).state_dict()
    except Exception:
        raise _Wrong("it holds another model's arguments") from None
    if weights.keys() != expected.keys():
        raise _Wrong("it holds another model's weights")
    for name, tensor in expected.items():
        given = weights[name]
        if not isinstance(given, torch.Tensor) or (given.shape, given.dtype) != (
            tensor.shape,
            tensor.dtype,
        ):
            raise _Wrong(f"its {name} is not of the shape {tuple(tensor.shape)}")
        if not given.isfinite().all():
            raise _Wrong(f"its {name} holds numbers that are not finite")
