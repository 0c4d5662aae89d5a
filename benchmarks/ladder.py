"""The ladder from the usual tutorial to the recipe `fast`, one change a rung.

Every rung trains for one epoch, in a process of its own (what it sets in the C library holds for a
whole process). The processes take turns, a part of the epoch each, so that whatever else the
machine does is shared among them; a rung's speed is the median over the turns.

    python benchmarks/benchmark.py ladder       measures all rungs
    python benchmarks/ladder.py RUNG            is one rung: used by the former
"""

import argparse
import contextlib
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tutorial
from torch import nn

from mnist_cnn.data import Split, batches, load_split, pixel_statistics, split_validation, to_pixels
from mnist_cnn.datasets import SOURCES
from mnist_cnn.evaluate import evaluate
from mnist_cnn.model import CNN
from mnist_cnn.recipes import FAST
from mnist_cnn.system.device import keep_freed_memory, mixed_precision
from mnist_cnn.train import update_average

HERE = Path(__file__).parent
CPU = torch.device("cpu")
Figures = dict[str, Any]


@dataclass(frozen=True)
class Rung:
    """How one rung trains.

    title: for tables. The others: what it does our way instead of the usual tutorial's.
    """

    title: str
    network: bool = False
    tensor: bool = False
    batch_size: int = 64
    channels_last: bool = False
    keeps_memory: bool = False
    schedule: bool = False
    bfloat16: bool = False


def make_rungs() -> list[Rung]:
    """Return the rungs from bottom to top, each with one more change than the one before."""
    rungs = [Rung("the usual tutorial")]
    changes: list[tuple[str, Figures]] = [
        ("a smaller network, pooled early", {"network": True}),
        ("all images in one tensor, batches cut by index", {"tensor": True}),
        (f"batches of {FAST.batch_size} instead of 64", {"batch_size": FAST.batch_size}),
        ("`channels_last`", {"channels_last": True}),
        ("freed memory kept", {"keeps_memory": True}),
        ("Adam, one-cycle, averaged weights", {"schedule": True}),
        ("products in bfloat16, where the processor has it: `fast`", {"bfloat16": True}),
    ]
    for title, change in changes:
        rungs.append(replace(rungs[-1], title=title, **change))
    return rungs


# ------------------------------------------------------------------------------ one rung


class Normalised(nn.Module):
    """A network behind the normalisation that the tutorial's transform does."""

    def __init__(self, net: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.net, self.mean, self.std = net, mean, std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 1, 28, 28) in [0, 1] -> what the network gives."""
        scores: torch.Tensor = self.net((pixels - self.mean) / self.std)
        return scores


class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A split as torchvision has it: every image becomes a PIL image, and is then transformed."""

    def __init__(self, split: Split, mean: float, std: float) -> None:
        from torchvision import transforms

        self.split = split
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
        )

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        image = Image.fromarray(self.split.images[index].numpy())
        return self.transform(image), int(self.split.labels[index])


def endless_batches(
    rung: Rung, split: Split, mean: float, std: float
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Hand out pixels (N, 1, 28, 28) and labels (N,), one epoch after the other.

    From the tensor pixels lie in [0, 1]; the loader normalises them.
    """
    while True:
        if rung.tensor:
            order = torch.randperm(len(split.labels))
            for images, labels in batches(split, order, rung.batch_size):
                yield to_pixels(images), labels
        else:
            loader = torch.utils.data.DataLoader(
                Pictures(split, mean, std), rung.batch_size, shuffle=True, drop_last=True
            )
            yield from loader


def make_step(
    rung: Rung, model: nn.Module, averaged: nn.Module, steps: int
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a function that takes one training step."""
    if rung.schedule:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(
            model.parameters(), betas=FAST.betas, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, FAST.lr, steps, cycle_momentum=False
        )
        loss_function = nn.CrossEntropyLoss(label_smoothing=FAST.label_smoothing)
        share, taken = 1 / max(1.0, FAST.average * steps), 0

        def step(pixels: torch.Tensor, labels: torch.Tensor) -> None:
            nonlocal taken
            with mixed_precision(CPU) if rung.bfloat16 else contextlib.nullcontext():
                loss = loss_function(model(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_average(averaged, model, share if taken else 1.0)
            schedule.step()
            taken += 1

        return step

    # In one epoch the tutorial's schedule, a factor after each epoch, changes nothing.
    adadelta = torch.optim.Adadelta(model.parameters(), lr=1.0)

    def usual_step(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        adadelta.zero_grad()
        # Taking the log-softmax of log-probabilities leaves them as they are.
        F.cross_entropy(model(pixels), labels).backward()
        adadelta.step()

    return usual_step


def climb(rung: Rung, dataset: str, data_dir: str, turns: int) -> None:
    """Train one epoch in so many turns, one for each line on stdin; print the time of each.

    After the last turn, the line has the accuracy on the test split as well.
    """
    if rung.keeps_memory:
        keep_freed_memory()
    everything = load_split(dataset, "train", data_dir)
    split, _ = split_validation(everything, SOURCES[dataset].validation)
    mean, std = pixel_statistics(split.images)
    torch.manual_seed(0)
    dropout = FAST.dropout if rung.schedule else (0.25, 0.5)
    model: nn.Module = tutorial.Net()
    if rung.network:  # it normalises by itself, unless the loader does
        shift, scale = (mean, std) if rung.tensor else (0.0, 1.0)
        model = CNN(dropout=dropout, mean=shift, std=scale)
    if rung.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(model)
    steps = len(split.labels) // rung.batch_size
    step, source = make_step(rung, model, averaged, steps), endless_batches(rung, split, mean, std)
    model.train()
    done = 0
    for turn in range(turns):
        sys.stdin.readline()
        until = steps * (turn + 1) // turns
        start = time.perf_counter()
        images = (until - done) * rung.batch_size
        for _ in range(until - done):
            step(*next(source))
        seconds = time.perf_counter() - start
        done = until
        figures: Figures = {"images": images, "seconds": seconds}
        if turn + 1 == turns:
            test = load_split(dataset, "test", data_dir)
            result = averaged if rung.schedule else model
            judged = result if rung.tensor else Normalised(result, mean, std)
            figures["accuracy"] = evaluate(judged, test).accuracy
            figures["parameters"] = sum(weights.numel() for weights in model.parameters())
            figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures), flush=True)


# ------------------------------------------------------------------------------ all of them


def measure_ladder(args: argparse.Namespace) -> Figures:
    """Let all rungs take turns, and return the figures of each, from the bottom to the top."""
    rungs = make_rungs()
    options = ["--dataset", args.dataset, "--data-dir", args.data_dir, "--turns", str(args.turns)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "ladder.py"), str(number), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(len(rungs))
    ]
    answers: list[list[Figures]] = [[] for _ in rungs]
    try:
        for _ in range(args.turns):
            for number, process in enumerate(processes):
                assert process.stdin and process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"rung {number}, {rungs[number].title} failed")
                answers[number].append(json.loads(line))
    finally:
        for process in processes:
            process.communicate()

    print(f"\n{'rung':56} {'ms per 1,000 images':>20} {'times as fast':>14} {'accuracy':>9}")
    figures: list[Figures] = []
    for rung, turns in zip(rungs, answers):
        costs = [1e6 * turn["seconds"] / turn["images"] for turn in turns]
        cost = statistics.median(costs)
        gain = figures[-1]["ms_per_1000"] / cost if figures else 1.0
        last = turns[-1]
        figures.append(
            {
                "title": rung.title,
                "ms_per_1000": cost,
                "ms_per_1000_of_turns": costs,
                "images_per_second": 1e6 / cost,
                "accuracy": last["accuracy"],
                "parameters": last["parameters"],
                "peak_mb": last["peak_mb"],
            }
        )
        print(f"{rung.title:56} {cost:20,.1f} {gain:14.2f} {last['accuracy']:9.2%}")
    first, last_cost = figures[0]["ms_per_1000"], figures[-1]["ms_per_1000"]
    print(f"all of it: {first / last_cost:.1f} times as fast")
    return {"dataset": args.dataset, "turns": args.turns, "rungs": figures}


def main() -> None:
    """Be one rung."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rung", type=int)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    climb(make_rungs()[args.rung], args.dataset, args.data_dir, args.turns)


if __name__ == "__main__":
    main()
