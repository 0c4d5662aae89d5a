"""Training: the loop that turns random weights into a network that reads.

`train_epoch` shows all that happens to a batch, from memory to the weight update; `train` is the
loop around it, over the epochs.
"""

import copy
import dataclasses
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

import mnist_cnn
from mnist_cnn import Error
from mnist_cnn.augment import augment, weaken
from mnist_cnn.checkpoint import Metrics, Paused, Plan, Run, Trained, save_run
from mnist_cnn.data import Split, batches, pixel_statistics
from mnist_cnn.datasets import DIGITS, SIZE, SOURCES
from mnist_cnn.enrich import to_targets
from mnist_cnn.evaluate import compute_logits, fit_temperature
from mnist_cnn.model import CNN
from mnist_cnn.recipes import FAST, RECIPES, STANDARD
from mnist_cnn.system.device import fast_precision
from mnist_cnn.system.distributed import Ranks
from mnist_cnn.system.gpu import record
from mnist_cnn.system.progress import Progress

MAX_STEPS = 10_000_000  # of a run: last.pt has the loss of each, and has to stay readable
SHORTEST_CYCLE = 4  # steps: a cycle of fewer begins at its peak, or has no step at its peak


def train_epoch(
    run: Run, model: nn.Module, split: Split, epoch: int, progress: Progress, ranks: Ranks
) -> None:
    """Show every training image to the network once, and after each batch move its weights.

    Args:
        run: what the epoch moves on: its network, average, optimizer and schedule.
        model: the network that learns, run.net; with several processes, wrapped so that they
            average their gradients.
        split: the training images, on the device.
        epoch: 1, 2, ...
        progress: notes what each step gave.
        ranks: which of several processes this is; each takes an equal slice of every batch.
    """
    recipe, n, device = run.plan.recipe, len(split.labels), split.images.device
    order = seed_epoch(run.plan.seed, epoch, ranks.rank, n).to(device)
    strengths = weaken(recipe.augmentation, epoch, recipe.epochs, recipe.fade)
    share = 1 / max(1.0, recipe.average * run.steps_per_epoch)  # of the newest weights
    classes = len(run.plan.classes)
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def learn(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        targets = to_targets(labels, classes) if recipe.non_digits else labels
        pixels = augment(images, strengths)  # uint8 (N, 28, 28) -> float (N, 1, 28, 28) in [0, 1]
        with fast_precision(device):
            logits = model(pixels)  # (N, 10)
            loss = loss_function(logits, targets)
        run.optimizer.zero_grad()  # backward would add to the gradients of the last step
        loss.backward()  # the gradient of the loss with respect to every weight
        run.optimizer.step()  # every weight moves a little, against its gradient
        update_average(run.averaged, run.net, share if run.step else 1.0)
        return loss.detach(), logits.detach()

    step = record(learn, run.optimizer, device) if ranks.count == 1 else learn
    model.train()  # dropout on
    for images, labels in batches(split, order, recipe.batch_size, ranks.rank, ranks.count):
        loss, logits = step(images, labels)
        progress.add(loss, logits, labels, float(run.schedule.get_last_lr()[0]))
        run.schedule.step()  # the next learning rate
        run.step += 1


def train(
    run: Run,
    train_split: Split,
    validation: Split,
    out_dir: str | Path,
    quiet: bool = False,
    ranks: Ranks = Ranks(),
) -> None:
    """Train a network to the end of its run; write best.pt, last.pt and history.csv every epoch.

    Args:
        run: from start_run or resume_run; it is changed.
        train_split, validation: on the run's device.
        out_dir: an existing folder.
        quiet: report nothing on stderr.
        ranks: which of several processes this is.

    Raises:
        Error: the loss or a weight is no longer a finite number.
    """
    recipe, steps = run.plan.recipe, run.steps_per_epoch
    quiet = quiet or not ranks.first
    model = ranks.share_gradients(run.net)
    start = time.perf_counter()
    for epoch in range(len(run.history) + 1, recipe.epochs + 1):
        epoch_start = time.perf_counter()
        title = f"epoch {epoch}/{recipe.epochs}"
        with Progress(title, steps, recipe.batch_size, run.losses.device, quiet) as progress:
            train_epoch(run, model, train_split, epoch, progress, ranks)
        val_loss, val_accuracy, run.temperature = validate(run.averaged, validation, ranks)

        losses = ranks.sum(progress.losses) / ranks.count
        run.losses[run.step - steps : run.step] = losses
        seconds = time.perf_counter() - epoch_start
        metrics = Metrics(
            epoch=epoch,
            lr=progress.lr,
            train_loss=losses.mean().item(),
            train_accuracy=(ranks.sum(progress.correct) / ranks.sum(progress.digits)).item(),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=seconds,
            images_per_second=steps * recipe.batch_size / seconds,
        )
        if not (math.isfinite(metrics.train_loss + val_loss) and is_finite(run)):
            raise Error(
                f"the loss or a weight is not finite after epoch {epoch}: train with a smaller --lr"
            )
        run.history.append(metrics)
        if not quiet:
            print(describe_epoch(metrics, recipe.epochs), file=sys.stderr)

        new_best = run.best is None or val_accuracy > run.best.metrics.val_accuracy
        if new_best:
            weights = {name: w.cpu().clone() for name, w in run.averaged.state_dict().items()}
            run.best = Trained(run.plan, metrics, weights, run.temperature)
        if ranks.first:
            save_run(out_dir, run, new_best)
    if not quiet:
        print(f"training took {time.perf_counter() - start:.1f} s", file=sys.stderr)


def validate(net: nn.Module, validation: Split, ranks: Ranks) -> tuple[float, float, float]:
    """Return mean loss, accuracy and the best temperature on the validation split.

    Each rank looks at its own share of the images. Where all are read right there is nothing to fit
    a temperature by, and it stays 1.
    """
    images, labels = validation
    share = compute_logits(net, images[ranks.rank :: ranks.count])
    logits = share.new_zeros(len(labels), share.shape[1])
    logits[ranks.rank :: ranks.count] = share
    logits = ranks.sum(logits)  # now everyone has all of them
    loss = F.cross_entropy(logits, labels, reduction="sum").item() / len(labels)
    accuracy = (logits.argmax(1) == labels).sum().item() / len(labels)
    return loss, accuracy, fit_temperature(logits, labels) if accuracy < 1 else 1.0


def is_finite(run: Run) -> bool:
    """Tell whether all weights are finite, and all that Adam knows of them."""
    state = [value for known in run.optimizer.state.values() for value in known.values()]
    tensors = [*run.net.parameters(), *run.averaged.parameters(), *state]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def update_average(averaged: nn.Module, net: nn.Module, share: float) -> None:
    """Move every weight of the running average toward the network's, by a share of the way."""
    with torch.no_grad():
        for average, weight in zip(averaged.parameters(), net.parameters()):
            average.lerp_(weight, share)


def seed_epoch(seed: int, epoch: int, rank: int, n: int) -> torch.Tensor:
    """Seed an epoch's augmentation and dropout; return the order of its n images, int64 (n,).

    Everything random in an epoch follows from (seed, epoch, rank), so a run that is resumed needs
    no random states of the one that was stopped. The order is the same on every rank.
    """

    def derive(stream: int) -> int:  # 0: the order; 1 + rank: all else. Nearby ones are unrelated
        return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1)[0])

    torch.manual_seed(derive(1 + rank))
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(0)))


def describe_epoch(metrics: Metrics, epochs: int) -> str:
    """Put an epoch into one line: its figures from training and from the validation split."""
    return (
        f"epoch {metrics.epoch:{len(str(epochs))}}/{epochs}: "
        f"training loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:.2%}; "
        f"validation loss {metrics.val_loss:.4f}, accuracy {metrics.val_accuracy:.2%}; "
        f"{metrics.seconds:.1f} s, {metrics.images_per_second:,.0f} images/s"
    )


# ------------------------------------------------------------------------------ the start of a run


def plan_run(
    name: str, overrides: dict[str, float], seed: int, dataset: str, train_split: Split
) -> Plan:
    """Settle what a run will do, with what.

    Args:
        name: one of recipes.RECIPES.
        overrides: fields of Recipe to change.
        dataset: one of datasets.SOURCES.
        train_split: the network will normalise by the mean and the deviation of its pixels.

    Raises:
        Error: the batch is larger than the training split, or there are too many steps.
    """
    recipe = RECIPES[name]
    recipe = dataclasses.replace(recipe, epochs=SOURCES[dataset].epochs * recipe.epochs)
    recipe = dataclasses.replace(recipe, **overrides)  # type: ignore[arg-type]
    if SOURCES[dataset].classes != DIGITS:  # what is drawn on digits is no use on others
        recipe = dataclasses.replace(recipe, flags=0.0, non_digits=0.0)
    if recipe.batch_size > len(train_split.labels):
        raise Error(
            f"--batch-size {recipe.batch_size} is more than the "
            f"{len(train_split.labels)} training images of {dataset}: choose a smaller one"
        )
    if recipe.epochs * (len(train_split.labels) // recipe.batch_size) > MAX_STEPS:
        raise Error(
            f"this run would have more than {MAX_STEPS:,} steps: use a larger --batch-size or "
            "fewer --epochs"
        )
    mean, std = pixel_statistics(train_split.images)
    versions = {"mnist_cnn": mnist_cnn.__version__, "torch": str(torch.__version__)}
    return Plan(recipe, overrides, dataset, seed, mean, std, versions)


def start_run(plan: Plan, images: int, device: torch.device) -> Run:
    """Build all that a run changes, as it is before the first step.

    Args:
        plan: what is to be done.
        images: how many are in the training split.
        device: where the network is to learn.
    """
    recipe = plan.recipe
    steps = recipe.epochs * (images // recipe.batch_size)
    torch.manual_seed(plan.seed)  # of the first weights
    net = CNN(**plan.model_args).to(device)
    if device.type != "mps":  # on Macs PyTorch's gradients can be wrong then: its issue 107214
        # channels_last keeps the channels of a pixel side by side in memory, which makes
        # convolutions on a CPU faster.
        net = net.to(memory_format=torch.channels_last)
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    optimizer = kind(
        net.parameters(),
        recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one operation for all weights
        capturable=device.type == "cuda",  # can be recorded
    )
    schedule: LRScheduler
    if steps < SHORTEST_CYCLE:
        # Without a cycle to grow in, the full rate can be too much for fresh weights.
        schedule = ConstantLR(optimizer, factor=0.25, total_iters=SHORTEST_CYCLE)
    else:
        # It sets Adam's learning rate; by default it would move the first of the betas too.
        schedule = OneCycleLR(optimizer, recipe.lr, steps, cycle_momentum=False)
    losses = torch.zeros(steps, device=device)
    return Run(plan, net, copy.deepcopy(net), optimizer, schedule, losses)


def learning_rates(plan: Plan, images: int) -> list[float]:
    """Return the learning rate of every step of a run, from a run that takes no step.

    Args:
        images: in the training split.
    """
    run = start_run(plan, images, torch.device("cpu"))
    rates = []
    for _ in range(len(run.losses)):
        rates.append(float(run.schedule.get_last_lr()[0]))
        run.optimizer.step()  # nothing moves, for want of gradients; the schedule comes after it
        run.schedule.step()
    return rates


def check_steps(paused: Paused, images: int) -> None:
    """Make sure that a run fits a training split of so many images.

    Raises:
        Error: it has another number of steps.
    """
    recipe = paused.plan.recipe
    if len(paused.losses) != recipe.epochs * (images // recipe.batch_size):
        raise Error(
            "the run to resume is damaged (its steps are not those of its data): start it anew"
        )


def resume_run(paused: Paused, images: int, device: torch.device) -> Run:
    """Build all that a run changes, as it was when it was laid aside.

    Args:
        paused: a run that check_steps has passed.
        images: how many are in the training split.
        device: where the network is to learn.
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


def learn_nothing(device: torch.device) -> None:
    """Do what a training step does, on zeros and without the optimizer: system.gpu says why."""
    images = torch.zeros(FAST.batch_size, SIZE, SIZE, dtype=torch.uint8, device=device)
    labels = torch.zeros(FAST.batch_size, dtype=torch.int64, device=device)
    net = CNN().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = augment(images, STANDARD.augmentation)
    with fast_precision(device):
        logits = net(pixels)
        loss = nn.CrossEntropyLoss(label_smoothing=FAST.label_smoothing)(logits, labels)
    loss.backward()
    (logits.argmax(1) == labels).sum().item()
