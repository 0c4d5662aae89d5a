"""What a checkpoint holds, saving it whole or not at all, loading it and checking every part.

On disk a checkpoint is one dictionary of tensors and plain values:

    model         the weights and buffers, as model.state_dict() gives them
    model_args    the arguments that CNN was built with
    dataset       the data set it was trained on, by its name in datasets.SOURCES
    classes       the name of each class
    recipe        every hyperparameter of the training run (recipes.Recipe)
    overrides     those that the command line changed
    seed          of the run
    epoch         after which the weights were taken, and
    metrics       of that epoch (Metrics)
    versions      of mnist_cnn and torch
    resume        in last.pt alone: all that is needed to go on with the run

In the program it is a `Trained` (best.pt), or a `Run` (last.pt); this module turns one into the
other, and nothing else looks into the dictionary.
"""

import csv
import io
import math
import os
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
from mnist_cnn.model import CNN
from mnist_cnn.recipes import MAX_EPOCHS, Recipe
from mnist_cnn.system.files import write_file

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """What a run will do, with what: all that is known before its first step.

    recipe: its hyperparameters, with the command line's changes.
    overrides: these changes, by the names of Recipe's fields.
    dataset: its name in datasets.SOURCES.
    seed: of all random numbers.
    mean, std: of the training images' pixels, in [0, 1]; the network normalises by them.
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
    train_loss, val_loss: mean cross-entropy per image, in nats.
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

    weights: of its average, on the CPU.
    """

    plan: Plan
    metrics: Metrics
    weights: Weights

    def build_model(self) -> CNN:
        """Build the network, on the CPU, ready to evaluate."""
        model = CNN(**self.plan.model_args)
        model.load_state_dict(self.weights)
        return model.to(memory_format=torch.channels_last).eval()


@dataclass
class Run:
    """A training run under way: all that its steps and epochs change, and what last.pt holds.

    net: learns; on the device.
    averaged: a running average of net's weights, which is validated and kept.
    losses: of every step of the run, float (steps,), in nats; 0 where there was none yet.
    history: of the epochs that are over.
    best: the network after the epoch with the best validation accuracy, the earlier on a tie.
    """

    plan: Plan
    net: CNN
    averaged: CNN
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    losses: torch.Tensor
    history: list[Metrics] = field(default_factory=list)
    best: Trained | None = None
