"""The start of a training run: from a recipe, or from where an earlier one was stopped."""

import copy
import dataclasses
from typing import Any

import torch
from torch import nn

import mnist_cnn
from mnist_cnn import Error
from mnist_cnn.augment import augment
from mnist_cnn.checkpoint import Paused, Plan, Run
from mnist_cnn.data import Split, pixel_statistics
from mnist_cnn.datasets import DIGITS, SIZE, SOURCES
from mnist_cnn.model import CNN
from mnist_cnn.recipes import FAST, RECIPES, STANDARD
from mnist_cnn.system.device import mixed_precision
from mnist_cnn.train import make_optimizer, make_schedule

MAX_STEPS = 10_000_000  # of a run: last.pt holds the loss of each, and must stay readable


def plan_run(
    name: str, overrides: dict[str, Any], seed: int, dataset: str, train_split: Split
) -> Plan:
    """Decide what a run will do, and with what.

    Args:
        name: one of recipes.RECIPES.
        overrides: fields of Recipe to change.
        dataset: one of datasets.SOURCES.
        train_split: the network will normalise with the mean and standard deviation of its
            pixels.

    Raises:
        Error: the batch is larger than the training split, or there are too many steps.
    """
    recipe, source, images = RECIPES[name], SOURCES[dataset], len(train_split.labels)
    changes = {"epochs": source.epochs * recipe.epochs, **overrides}
    if source.classes != DIGITS:  # flags and pairs of digits: no use elsewhere
        changes |= {"flags": 0.0, "non_digits": 0.0}
    recipe = dataclasses.replace(recipe, **changes)
    if recipe.batch_size > images:
        raise Error(
            f"--batch-size {recipe.batch_size} is larger than the {images} training images of "
            f"{dataset}: choose a smaller batch"
        )
    if recipe.steps(images) > MAX_STEPS:
        raise Error(
            f"this run would have more than {MAX_STEPS:,} steps: use a larger --batch-size or "
            "fewer --epochs"
        )
    mean, std = pixel_statistics(train_split.images)
    versions = {"mnist_cnn": mnist_cnn.__version__, "torch": str(torch.__version__)}
    return Plan(recipe, overrides, dataset, seed, mean, std, versions)


def start_run(plan: Plan, images: int, device: torch.device) -> Run:
    """Build everything that a run updates, as it is before the first step.

    Args:
        plan: of the run.
        images: how many are in the training split.
        device: where the network is trained.
    """
    recipe, steps = plan.recipe, plan.recipe.steps(images)
    torch.manual_seed(plan.seed)  # for the initial weights
    net = CNN(**plan.model_args).to(device)
    if device.type != "mps":  # on Macs, it can make PyTorch's gradients wrong: its issue 107214
        # channels_last keeps the channels of a pixel side by side in memory, which makes
        # convolutions on a CPU faster.
        net = net.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(net, recipe, device)
    schedule = make_schedule(optimizer, recipe.lr, steps)
    losses = torch.zeros(steps, device=device)
    return Run(plan, net, copy.deepcopy(net), optimizer, schedule, losses)


def check_steps(paused: Paused, images: int) -> None:
    """Make sure that a run's number of steps fits a training split of so many images.

    Raises:
        Error: it does not.
    """
    if len(paused.losses) != paused.plan.recipe.steps(images):
        raise Error(
            "the run to resume is damaged (its steps do not match its data): start a new run"
        )


def resume_run(paused: Paused, images: int, device: torch.device) -> Run:
    """Build everything that a run updates, as it was when the run was saved.

    Args:
        paused: a run that has passed check_steps.
        images: how many are in the training split.
        device: where the network is trained.
    """
    run = start_run(paused.plan, images, device)
    run.net.load_state_dict(paused.net)
    run.averaged.load_state_dict(paused.latest.weights)
    groups = run.optimizer.state_dict()["param_groups"]  # they follow from the plan
    run.optimizer.load_state_dict({"state": paused.optimizer, "param_groups": groups})
    # The schedule follows from the plan and the number of steps.
    run.schedule.load_state_dict({"last_epoch": paused.step - 1, "_step_count": paused.step + 1})
    run.schedule.step()
    run.losses.copy_(paused.losses)
    run.step, run.history, run.best = paused.step, paused.history, paused.best
    run.temperature = paused.latest.temperature
    return run


def dry_run(device: torch.device) -> None:
    """Go forward and backward once, on zeros, so that a GPU loads its libraries (system/gpu.py)."""
    images = torch.zeros(FAST.batch_size, SIZE, SIZE, dtype=torch.uint8, device=device)
    labels = torch.zeros(FAST.batch_size, dtype=torch.int64, device=device)
    net = CNN().to(device).to(memory_format=torch.channels_last)
    pixels = augment(images, STANDARD.augmentation)
    with mixed_precision(device):
        logits = net(pixels)
        loss = nn.CrossEntropyLoss(label_smoothing=FAST.label_smoothing)(logits, labels)
    loss.backward()
    (logits.argmax(1) == labels).sum().item()
