"""Training: the recipes, and the loop that turns random weights into a network that reads.

Everything that happens to one batch, from memory to the weight update, is in `train` below.
"""

import copy
import csv
import dataclasses
import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

import mnist_cnn
from mnist_cnn import Error, checkpoint
from mnist_cnn.data import SOURCES, Split, augment, batches
from mnist_cnn.distributed import Ranks
from mnist_cnn.evaluate import compute_logits
from mnist_cnn.files import write_file
from mnist_cnn.model import CNN


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every hyperparameter of a training run.

    epochs: passes over the training images.
    batch_size: images per step, over all processes.
    lr: the peak of the one-cycle learning rate (Smith and Topin, 2017).
    betas: Adam's decay rates for the mean of the gradient and of its square.
    average: the weights that are evaluated and kept are a running average over about this many
        epochs (Polyak and Juditsky, 1992); it smooths out what the last few batches did.
    label_smoothing: the share of each label's certainty spread over all classes.
    channels, kernels, hidden, dropout: the network's (model.CNN).
    augmentation: the arguments of data.augment.
    fade: over this last share of the epochs the augmentation weakens in equal steps, to nearly
        nothing, so that training ends on digits as people write them.
    """

    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    average: float
    label_smoothing: float
    channels: tuple[int, int]
    kernels: tuple[int, int]
    hidden: int
    dropout: tuple[float, float]
    augmentation: dict[str, float]
    fade: float


RECIPES = {
    "fast": Recipe(
        epochs=1,
        batch_size=256,
        lr=0.01,
        betas=(0.7, 0.9),
        average=0.1,
        label_smoothing=0.1,
        channels=(24, 32),
        kernels=(5, 3),
        hidden=256,
        dropout=(0.0, 0.0),
        augmentation={},
        fade=0.0,
    ),
    "standard": Recipe(
        epochs=10,
        batch_size=128,
        lr=0.004,
        betas=(0.9, 0.999),
        average=1.0,
        label_smoothing=0.0,
        channels=(24, 32),
        kernels=(5, 3),
        hidden=256,
        dropout=(0.1, 0.3),
        augmentation=dict(rotate=0.17, shift=0.04, scale=0.1, shear=0.1, elastic=0.5, stroke=0.4),
        fade=0.0,
    ),
    "best": Recipe(
        epochs=36,
        batch_size=128,
        lr=0.003,
        betas=(0.9, 0.999),
        average=0.2,  # short, to keep up while the augmentation weakens
        label_smoothing=0.0,
        # Larger filters in the second layer see 16 pixels of the image at once instead of 12.
        channels=(32, 64),
        kernels=(5, 5),
        hidden=512,
        dropout=(0.3, 0.5),
        augmentation=dict(rotate=0.35, shift=0.05, scale=0.2, shear=0.4, elastic=1.2, stroke=1.0),
        fade=0.6,  # distortion as strong as this pays only if it weakens before training ends
    ),
}
# The sample has a fifteenth of MNIST's images: this many times more epochs take it where it can
# get, and are still over in a fraction of the time.
SAMPLE_EPOCHS = 4


def plan_run(
    name: str, overrides: dict[str, Any], seed: int, dataset: str, train_split: Split
) -> checkpoint.Checkpoint:
    """What will be done, with what: the part of a checkpoint that is known before training.

    Args:
        name: one of RECIPES.
        overrides: fields of Recipe to change.
        dataset: one of data.SOURCES.
        train_split: the network will normalise by the mean and the deviation of its pixels.

    Raises:
        Error: the batch is larger than the training split.
    """
    recipe = RECIPES[name]
    if dataset == "sample":
        recipe = dataclasses.replace(recipe, epochs=SAMPLE_EPOCHS * recipe.epochs)
    recipe = dataclasses.replace(recipe, **overrides)
    if recipe.batch_size > len(train_split.labels):
        raise Error(
            f"--batch-size {recipe.batch_size} is more than the "
            f"{len(train_split.labels)} training images of {dataset}: choose a smaller one"
        )
    mean, std = pixel_statistics(train_split.images)
    return {
        "model_args": {
            "channels": list(recipe.channels),
            "kernels": list(recipe.kernels),
            "hidden": recipe.hidden,
            "dropout": list(recipe.dropout),
            "classes": len(SOURCES[dataset].classes),
            "mean": mean,
            "std": std,
        },
        "dataset": dataset,
        "classes": SOURCES[dataset].classes,
        "recipe": {"name": name, **plain_values(recipe)},
        "overrides": overrides,
        "seed": seed,
        "versions": {"mnist_cnn": mnist_cnn.__version__, "torch": str(torch.__version__)},
    }


def plain_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a dictionary of numbers, lists and dictionaries."""
    values = dataclasses.asdict(recipe)
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def pixel_statistics(images: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of all pixels of uint8 images, on the scale from 0 to 1.

    From how often each of the 256 values occurs: the pixels themselves, as floats, would take
    a gigabyte.
    """
    counts = torch.bincount(images.flatten(), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean) ** 2).sum() / counts.sum()
    return mean.item(), variance.sqrt().item()


def train(
    run: checkpoint.Checkpoint,
    train_split: Split,
    validation: Split,
    out_dir: str | Path,
    device: torch.device,
    quiet: bool = False,
    ranks: Ranks = Ranks(),
) -> checkpoint.Checkpoint:
    """Trains a network; writes best.pt, last.pt and history.csv, and returns what last.pt holds.

    Args:
        run: from plan_run; or what last.pt holds, to go on from there.
        train_split, validation: on the device.
        out_dir: an existing folder.
        quiet: report nothing on stderr.
        ranks: which of several processes this is. Each takes an equal slice of every batch.

    Raises:
        Error: the loss is no longer a finite number.
    """
    recipe, n = run["recipe"], len(train_split.labels)
    epochs, batch_size = recipe["epochs"], recipe["batch_size"]
    steps = n // batch_size  # in an epoch; the few images left over wait for the next order
    quiet = quiet or ranks.rank > 0

    torch.manual_seed(run["seed"])  # of the first weights
    # channels_last keeps the channels of a pixel side by side in memory, which makes
    # convolutions on a CPU twice as fast.
    net = CNN(**run["model_args"]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = DistributedDataParallel(net) if ranks.count > 1 else net
    averaged = copy.deepcopy(net)
    share = 1 / max(1.0, recipe["average"] * steps)  # of the newest weights in the average
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
    fused = device.type in ("cpu", "cuda")  # one operation for all weights
    optimizer = torch.optim.Adam(net.parameters(), betas=recipe["betas"], fused=fused)
    # It sets Adam's learning rate; by default it would move the first of the betas too.
    schedule = OneCycleLR(optimizer, recipe["lr"], epochs * steps, cycle_momentum=False)
    # Half as many bits for the products, where a GPU computes with them faster: not before Ampere.
    bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    losses = torch.zeros(epochs * steps, device=device)  # of every step
    history: list[dict[str, float]] = []
    best: checkpoint.Checkpoint = {}
    if "resume" in run:
        state = run["resume"]
        try:
            net.load_state_dict(state["model"])
            averaged.load_state_dict(run["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            losses.copy_(state["losses"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise Error(f"the run to resume is damaged ({error}): start it anew") from None
        history, best = state["history"], state["best"]
        if ranks.rank == 0:  # into another folder than before, perhaps
            save_run(out_dir, run, new_best=True)

    start = time.perf_counter()
    for epoch in range(len(history) + 1, epochs + 1):
        epoch_start = time.perf_counter()
        order = seed_epoch(run["seed"], epoch, ranks.rank, n).to(device)
        augmentation = weaken(recipe["augmentation"], epoch, epochs, recipe["fade"])
        correct = torch.zeros((), dtype=torch.int64, device=device)
        first = step = (epoch - 1) * steps
        model.train()  # dropout on
        with progress_bar(f"epoch {epoch}/{epochs}", steps * batch_size, quiet) as bar:
            for images, labels in batches(train_split, order, batch_size, ranks.rank, ranks.count):
                pixels = augment(images, **augmentation)  # (N, 1, 28, 28) in [0, 1]
                with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                    logits = model(pixels)  # (N, 10)
                    loss = loss_function(logits, labels)
                optimizer.zero_grad()  # backward would add to the gradients of the last step
                loss.backward()  # the gradient of the loss with respect to every weight
                lr = schedule.get_last_lr()[0]
                optimizer.step()  # every weight moves a little, against its gradient
                schedule.step()  # the next learning rate
                update_average(averaged, net, share if step else 1.0)
                # These two stay on the device: to read them here, Python would wait for the GPU.
                losses[step] = loss.detach()
                correct += (logits.argmax(1) == labels).sum()
                step += 1
                if bar.update(batch_size) and device.type == "cpu":
                    seen = (step - first) * len(labels)
                    bar.set_postfix(loss=loss.item(), accuracy=correct.item() / seen)

        val_loss, val_accuracy = validate(averaged, validation, ranks)
        losses[first:step] = ranks.sum(losses[first:step]) / ranks.count
        seconds = time.perf_counter() - epoch_start
        metrics = {
            "epoch": epoch,
            "lr": lr,
            "train_loss": losses[first:step].mean().item(),
            "train_accuracy": ranks.sum(correct).item() / (steps * batch_size),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "seconds": seconds,
            "images_per_second": steps * batch_size / seconds,
        }
        if not math.isfinite(metrics["train_loss"] + val_loss):
            raise Error(f"the loss is not finite after epoch {epoch}: choose a smaller --lr")
        history.append(metrics)
        if not quiet:
            print(describe_epoch(metrics, epochs), file=sys.stderr)

        plan = {key: value for key, value in run.items() if key not in ("epoch", "resume")}
        weights = averaged.state_dict()
        run = {**plan, "epoch": epoch, "metrics": metrics, "model": weights}
        if not best or val_accuracy > best["metrics"]["val_accuracy"]:
            best = {**run, "model": {name: value.cpu().clone() for name, value in weights.items()}}
        run["resume"] = {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "losses": losses,
            "history": history,
            "best": best,
        }
        if ranks.rank == 0:
            save_run(out_dir, run, new_best=best["epoch"] == epoch)
    if not quiet:
        print(f"training took {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return run


def seed_epoch(seed: int, epoch: int, rank: int, n: int) -> torch.Tensor:
    """Seeds an epoch's augmentation and dropout; returns the order of its n images, int64 (n,).

    Everything random in an epoch follows from (seed, epoch, rank), so a run that is resumed needs
    no random states of the one that was stopped. The order is the same on every rank.
    """

    def derive(stream: int) -> int:  # 0: the order; 1 + rank: all else. Nearby ones are unrelated
        return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1)[0])

    torch.manual_seed(derive(1 + rank))
    return torch.randperm(n, generator=torch.Generator().manual_seed(derive(0)))


def update_average(averaged: nn.Module, net: nn.Module, share: float) -> None:
    """Moves every weight of the running average toward the network's, by a share of the way."""
    with torch.no_grad():
        for average, weight in zip(averaged.parameters(), net.parameters()):
            average.lerp_(weight, share)


def weaken(
    augmentation: dict[str, float], epoch: int, epochs: int, fade: float
) -> dict[str, float]:
    """The strengths of the augmentation in an epoch (1, 2, ...): less and less in the last ones.

    With fade 0.3, of 10 epochs the eighth has all of it, the ninth two thirds, the tenth a third.
    """
    left = (epochs - epoch + 1) / epochs  # of the run, in (0, 1]
    strength = min(1.0, left / fade) if fade else 1.0
    return {key: value * strength for key, value in augmentation.items()}


def validate(net: nn.Module, validation: Split, ranks: Ranks) -> tuple[float, float]:
    """The mean loss and the accuracy on the validation split; each rank looks at its own share."""
    images, labels = (part[ranks.rank :: ranks.count] for part in validation)
    logits = compute_logits(net, images)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum()
    sums = ranks.sum(torch.stack([loss, correct.float()]))
    return sums[0].item() / len(validation.labels), sums[1].item() / len(validation.labels)


def progress_bar(title: str, images: int, quiet: bool) -> tqdm:
    """A bar on a terminal, counting images; nothing elsewhere."""
    return tqdm(
        total=images,
        desc=title,
        unit=" images",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=True if quiet else None,
    )


def describe_epoch(metrics: dict[str, float], epochs: int) -> str:
    """One line about an epoch: its figures from training and from the validation split."""
    return (
        f"epoch {metrics['epoch']:{len(str(epochs))}}/{epochs}: "
        f"training loss {metrics['train_loss']:.4f}, accuracy {metrics['train_accuracy']:.2%}; "
        f"validation loss {metrics['val_loss']:.4f}, accuracy {metrics['val_accuracy']:.2%}; "
        f"{metrics['seconds']:.1f} s, {metrics['images_per_second']:,.0f} images/s"
    )


def save_run(out_dir: str | Path, run: checkpoint.Checkpoint, new_best: bool) -> None:
    """Writes last.pt, history.csv and, where it is a new one, best.pt."""
    folder, state = Path(out_dir), run["resume"]
    if new_best:
        checkpoint.save(folder / "best.pt", state["best"])
    checkpoint.save(folder / "last.pt", run)
    text = io.StringIO()
    table = csv.DictWriter(text, state["history"][0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(state["history"])
    write_file(folder / "history.csv", text.getvalue().encode())
