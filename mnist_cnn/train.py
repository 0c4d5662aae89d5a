"""Training: the loop that turns random weights into a network that reads.

`train_epoch` shows everything that happens to a batch, from memory to the weight update; `train` is
the loop around it, over the epochs.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from mnist_cnn import Error
from mnist_cnn.augment import augment, weaken
from mnist_cnn.checkpoint import Metrics, Run, Trained, save_run
from mnist_cnn.data import Split, batches
from mnist_cnn.enrich import to_targets
from mnist_cnn.evaluate import compute_logits, fit_temperature
from mnist_cnn.recipes import Recipe
from mnist_cnn.system.device import mixed_precision
from mnist_cnn.system.distributed import Ranks
from mnist_cnn.system.gpu import record
from mnist_cnn.system.progress import Progress

# Steps. In a shorter cycle the rate never rises; in one of a single step it is 0.
SHORTEST_CYCLE = 4


def train_epoch(
    run: Run, model: nn.Module, split: Split, epoch: int, progress: Progress, ranks: Ranks
) -> None:
    """Show every training image to the network once, and update its weights after each batch.

    Args:
        run: what the epoch updates: network, running average, optimizer and schedule.
        model: the network that learns, run.net; with several processes, wrapped so that they
            average their gradients.
        split: the training images, on the device.
        epoch: 1, 2, ...
        progress: records the result of each step.
        ranks: which of several processes this is; each takes an equal slice of every batch.
    """
    recipe, n, device = run.plan.recipe, len(split.labels), split.images.device
    torch.manual_seed(derive_seed(run.plan.seed, epoch, 1 + ranks.rank))  # augmentation, dropout
    order = epoch_order(run.plan.seed, epoch, n).to(device)  # the same in every process
    strengths = weaken(recipe.augmentation, epoch, recipe.epochs, recipe.fade)
    # How much the newest weights count in the average.
    share = 1 / max(1.0, recipe.average * run.steps_per_epoch)
    classes = len(run.plan.classes)
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)

    def train_step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        targets = to_targets(labels, classes) if recipe.non_digits else labels
        pixels = augment(images, strengths)  # uint8 (N, 28, 28) -> float (N, 1, 28, 28) in [0, 1]
        with mixed_precision(device):
            logits = model(pixels)  # (N, 10)
            loss = loss_function(logits, targets)
        run.optimizer.zero_grad()  # backward would add to the gradients of the last step
        loss.backward()  # the gradient of the loss with respect to every weight
        run.optimizer.step()  # every weight moves a little, against its gradient
        # The first step sets the average.
        update_average(run.averaged, run.net, share if run.step else 1.0)
        return loss.detach(), logits.detach()

    step = record(train_step, run.optimizer, device) if ranks.world_size == 1 else train_step
    model.train()  # dropout on
    for images, labels in batches(split, order, recipe.batch_size, ranks.rank, ranks.world_size):
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
    """Train a network to the end of its run.

    After every epoch it writes last.pt and history.csv, and best.pt if the epoch is the best yet.

    Args:
        run: from start_run or resume_run; it is updated in place.
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
    start, done = time.perf_counter(), len(run.history)
    for epoch in range(done + 1, recipe.epochs + 1):
        epoch_start = time.perf_counter()
        title = f"epoch {epoch}/{recipe.epochs}"
        with Progress(title, steps, recipe.batch_size, run.losses.device, quiet) as progress:
            train_epoch(run, model, train_split, epoch, progress, ranks)
        val_loss, val_accuracy, run.temperature = validate(run.averaged, validation, ranks)

        losses = ranks.sum(progress.losses) / ranks.world_size
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

        new_best = keep_if_best(run)
        if ranks.first:
            save_run(out_dir, run, new_best)
    if not quiet and done < recipe.epochs:
        print(f"training took {time.perf_counter() - start:.1f} s", file=sys.stderr)


def validate(net: nn.Module, validation: Split, ranks: Ranks) -> tuple[float, float, float]:
    """Return the mean loss, the accuracy and the best temperature on the validation split.

    Each rank evaluates its own share of the images. If all answers are right, there is nothing to
    fit a temperature to, and it is 1.
    """
    images, labels = validation
    share = compute_logits(net, images[ranks.rank :: ranks.world_size])
    logits = share.new_zeros(len(labels), share.shape[1])
    logits[ranks.rank :: ranks.world_size] = share
    logits = ranks.sum(logits)  # now every rank has all of them
    loss = F.cross_entropy(logits, labels, reduction="sum").item() / len(labels)
    accuracy = (logits.argmax(1) == labels).sum().item() / len(labels)
    return loss, accuracy, fit_temperature(logits, labels) if accuracy < 1 else 1.0


def keep_if_best(run: Run) -> bool:
    """Keep the averaged weights if no earlier epoch was as good on the validation split."""
    metrics = run.history[-1]
    if run.best is not None and metrics.val_accuracy <= run.best.metrics.val_accuracy:
        return False
    weights = {name: w.cpu().clone() for name, w in run.averaged.state_dict().items()}
    run.best = Trained(run.plan, metrics, weights, run.temperature)
    return True


def is_finite(run: Run) -> bool:
    """Return whether all weights, and all of Adam's state, are finite."""
    state = [value for known in run.optimizer.state.values() for value in known.values()]
    tensors = [*run.net.parameters(), *run.averaged.parameters(), *state]
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def update_average(averaged: nn.Module, net: nn.Module, share: float) -> None:
    """Move the exponential moving average (EMA) of the weights toward the network's weights.

    PyTorch's own is torch.optim.swa_utils.AveragedModel.

    Args:
        share: how far each average moves toward the new weight, in [0, 1]; what others call the
            decay is 1 - share.
    """
    with torch.no_grad():
        for average, weight in zip(averaged.parameters(), net.parameters()):
            average.lerp_(weight, share)


def epoch_order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """Return the order in which an epoch shows its n images, int64 (n,)."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive_seed(seed, epoch, 0)))


def derive_seed(seed: int, epoch: int, stream: int) -> int:
    """Return the seed of one stream of an epoch's random numbers.

    Everything random in an epoch follows from the run's seed, the epoch and the rank, so a
    resumed run needs no random state from the one that was stopped. SeedSequence makes unrelated
    seeds even from numbers that differ by 1.
    """
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1)[0])


def describe_epoch(metrics: Metrics, epochs: int) -> str:
    """Describe an epoch in one line: its figures from training and from the validation split."""
    return (
        f"epoch {metrics.epoch:{len(str(epochs))}}/{epochs}: "
        f"training loss {metrics.train_loss:.4f}, accuracy {metrics.train_accuracy:.2%}; "
        f"validation loss {metrics.val_loss:.4f}, accuracy {metrics.val_accuracy:.2%}; "
        f"{metrics.seconds:.1f} s, {metrics.images_per_second:,.0f} images/s"
    )


# ------------------------------------------------------------------------------ optimizer, schedule


def make_optimizer(net: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """Return Adam over a network's weights; AdamW if the recipe has weight decay."""
    kind = torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam
    return kind(
        net.parameters(),
        recipe.lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one operation for all weights
        capturable=device.type == "cuda",  # so that a CUDA graph can record it
    )


def make_schedule(optimizer: torch.optim.Optimizer, peak: float, steps: int) -> LRScheduler:
    """Return the one-cycle schedule of a run; for a very short one, a quarter of the peak rate."""
    if steps < SHORTEST_CYCLE:
        # Without a rate that rises slowly, the full one can be too high for untrained weights.
        return ConstantLR(optimizer, factor=0.25, total_iters=SHORTEST_CYCLE)
    # By default, it would vary the first of Adam's betas, too.
    return OneCycleLR(optimizer, peak, steps, cycle_momentum=False)


def learning_rates(peak: float, steps: int) -> list[float]:
    """Return the learning rate of every step of a run, by a dry run without a network."""
    optimizer = torch.optim.SGD([torch.zeros(1)], peak)
    schedule = make_schedule(optimizer, peak, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimizer.step()  # moves nothing, without a gradient; PyTorch wants it first
        schedule.step()
    return rates
