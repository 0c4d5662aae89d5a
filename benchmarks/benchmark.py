"""Measure the package: whole runs by the commands that users run, and the parts of a step.

    python benchmarks/benchmark.py seeds --recipe fast --seeds 5    a recipe over several seeds
    python benchmarks/benchmark.py compare --epochs 5               ours and the usual tutorial
    python benchmarks/benchmark.py process                          whole commands, start to end
    python benchmarks/benchmark.py speed                            start-up, step, inference
    python benchmarks/benchmark.py ladder                           from the tutorial to `fast`
    python benchmarks/benchmark.py plot                             a picture of their figures

Each except `plot` prints a table and writes its figures into benchmarks/results/ as JSON. Timings
are noisy: run one at a time on a machine that does nothing else.
"""

import argparse
import copy
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ladder import measure_ladder
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mnist_cnn.augment import augment
from mnist_cnn.checkpoint import load
from mnist_cnn.data import batches, load_split, split_validation
from mnist_cnn.datasets import SOURCES
from mnist_cnn.evaluate import compute_logits
from mnist_cnn.model import CNN
from mnist_cnn.recipes import RECIPES
from mnist_cnn.system.device import choose_device, keep_freed_memory, mixed_precision
from mnist_cnn.system.gpu import record
from mnist_cnn.train import update_average

Figures = dict[str, Any]
HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main() -> None:
    """Run one of the measurements, or draw their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", default="data", help="default: data")
    modes = parser.add_subparsers(required=True)
    seeds = modes.add_parser("seeds", help="one recipe over several seeds")
    seeds.add_argument("--recipe", default="standard", choices=RECIPES)
    seeds.add_argument("--seeds", type=int, default=5)
    seeds.add_argument("--device", default="auto")
    seeds.add_argument("--keep", metavar="DIR", help="keep seed N's run in DIR/RECIPE-N")
    seeds.set_defaults(measure=measure_seeds, name=lambda args: f"seeds-{args.recipe}")
    compare = modes.add_parser("compare", help="ours and the usual tutorial, in alternation")
    compare.add_argument("--epochs", type=int, default=5, help="epochs of the tutorial; default: 5")
    compare.set_defaults(measure=measure_compare, name=lambda args: "compare")
    process = modes.add_parser("process", help="whole commands beside `import torch`, in turns")
    process.add_argument("--turns", type=int, default=5, help="default: 5")
    process.set_defaults(measure=measure_process, name=lambda args: "process")
    speed = modes.add_parser("speed", help="start-up, training step, inference")
    speed.add_argument("--device", default="auto")
    speed.set_defaults(measure=measure_speed, name=lambda args: "speed")
    ladder = modes.add_parser("ladder", help="from the tutorial to `fast`, one change at a time")
    ladder.add_argument("--dataset", default="mnist", choices=("mnist", "sample"))
    ladder.add_argument("--turns", type=int, default=3, help="parts of the epoch; default: 3")
    ladder.set_defaults(measure=measure_ladder, name=lambda args: "ladder")
    plot = modes.add_parser("plot", help="draw accuracy against seconds into docs/accuracy.png")
    plot.set_defaults(measure=None)
    args = parser.parse_args()
    if args.measure is None:
        draw_accuracy(HERE.parent / "docs" / "accuracy.png")
        return
    figures = {"machine": describe_machine(), **args.measure(args)}
    RESULTS.mkdir(exist_ok=True)
    # On a CPU the name is the recipe's or the mode's alone.
    device = choose_device(getattr(args, "device", "cpu")).type
    path = RESULTS / f"{args.name(args)}{'' if device == 'cpu' else f'-{device}'}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {path}")


def describe_machine() -> Figures:
    """Return processor, threads, GPU and versions, which belong beside every figure."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    machine = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print("  ".join(f"{key} {value}" for key, value in machine.items() if value))
    return machine


def run_command(command: list[str]) -> Figures:
    """Run a program; return what it prints, its seconds and its memory.

    The peak memory is at least that of this process, as a copy of which the new one begins.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        out.seek(0)
        log.seek(0)
        printed, told = out.read(), log.read()
    if status:
        raise SystemExit(told)
    took = re.search(r"training took ([\d.]+) s", told)
    return {
        "printed": printed,
        "seconds": seconds,
        "training_seconds": float(took[1]) if took else 0.0,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


# ------------------------------------------------------------------------------ seeds


def train_once(recipe: str, seed: int, data_dir: str, out_dir: str, device: str) -> Figures:
    """Run the command `train`; return its accuracy and clocks as a user sees them, its memory."""
    command = [sys.executable, "-m", "mnist_cnn", "train", "--recipe", recipe, "--seed", str(seed)]
    command += ["--dataset", "mnist", "--data-dir", data_dir, "--out-dir", out_dir]
    run = run_command([*command, "--device", device])
    errors, images = map(int, re.search(r"\((\d+) errors of (\d+)", run["printed"]).groups())  # type: ignore[union-attr]
    rows = (Path(out_dir) / "history.csv").read_text().splitlines()
    best = load(Path(out_dir) / "best.pt")
    return {
        "seed": seed,
        "accuracy": (images - errors) / images,
        "val_accuracy": best.metrics.val_accuracy,
        "training_seconds": run["training_seconds"],
        "process_seconds": run["seconds"],
        "epochs": len(rows) - 1,
        "peak_mb": run["peak_mb"],
    }


def measure_seeds(args: argparse.Namespace) -> Figures:
    """Measure mean, standard deviation and extremes of a recipe over seeds 0, 1, 2, ..."""
    runs = []
    print(f"\n{args.recipe}: seed  test accuracy  validation  training  process  memory")
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = f"{args.keep}/{args.recipe}-{seed}" if args.keep else scratch
            run = train_once(args.recipe, seed, args.data_dir, folder, args.device)
        runs.append(run)
        print(
            f"{seed:{len(args.recipe) + 6}} {run['accuracy']:14.2%} {run['val_accuracy']:11.2%}"
            f" {run['training_seconds']:7.1f} s {run['process_seconds']:6.1f} s"
            f" {run['peak_mb']:4.0f} MB",
            flush=True,
        )
    summary = {"recipe": args.recipe, "runs": runs}
    for key in ("accuracy", "val_accuracy", "training_seconds", "process_seconds", "peak_mb"):
        values = [run[key] for run in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        summary[key] = {"mean": statistics.mean(values), "sd": deviation}
        summary[key] |= {"min": min(values), "max": max(values)}
    accuracy, training = summary["accuracy"], summary["training_seconds"]
    print(
        f"mean of {args.seeds}: {accuracy['mean']:.3%}, standard deviation {accuracy['sd']:.3%}, "
        f"lowest {accuracy['min']:.2%}; training {training['mean']:.1f} s "
        f"(longest {training['max']:.1f}), process {summary['process_seconds']['mean']:.1f} s"
    )
    return summary


# ------------------------------------------------------------------------------ compare


def measure_compare(args: argparse.Namespace) -> Figures:
    """Measure one run of our `fast` and one epoch of the tutorial, in alternation."""
    ours: list[Figures] = []
    theirs: list[Figures] = []
    tutorial = subprocess.Popen(
        [sys.executable, HERE / "tutorial.py", "--data-dir", args.data_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tutorial.stdin and tutorial.stdout
    for turn in range(args.epochs):
        with tempfile.TemporaryDirectory() as scratch:
            ours.append(train_once("fast", turn, args.data_dir, scratch, "cpu"))
        tutorial.stdin.write("\n")
        tutorial.stdin.flush()
        theirs.append(json.loads(tutorial.stdout.readline()))
        print(
            f"turn {turn + 1}: ours {ours[-1]['training_seconds']:.1f} s, "
            f"{ours[-1]['accuracy']:.2%}; the tutorial's epoch {turn + 1} "
            f"{theirs[-1]['seconds']:.1f} s, {theirs[-1]['accuracy']:.2%}",
            flush=True,
        )
    tutorial.stdin.close()
    tutorial.wait()

    images = 55_000
    our_epoch = statistics.median(run["training_seconds"] / run["epochs"] for run in ours)
    their_epoch = statistics.median(epoch["seconds"] for epoch in theirs)
    reached = next((i for i, e in enumerate(theirs) if e["accuracy"] >= 0.99), None)
    to_99 = sum(e["seconds"] for e in theirs[: reached + 1]) if reached is not None else None
    our_99 = statistics.median(run["training_seconds"] for run in ours)
    figures = {
        "ours": {
            "epoch_seconds": our_epoch,
            "images_per_second": images / our_epoch,
            "seconds_to_99": our_99 if min(run["accuracy"] for run in ours) >= 0.99 else None,
            "accuracy": statistics.mean(run["accuracy"] for run in ours),
            "peak_mb": max(run["peak_mb"] for run in ours),
        },
        "tutorial": {
            "epoch_seconds": their_epoch,
            "images_per_second": theirs[0]["images"] / their_epoch,
            "seconds_to_99": to_99,
            "accuracy": theirs[-1]["accuracy"],
            "peak_mb": max(epoch["peak_mb"] for epoch in theirs),
        },
    }
    print(f"\n{'':20} {'ours (fast)':>14} {'tutorial':>14} {'better by':>10}")
    for key in figures["ours"]:
        a, b = figures["ours"][key], figures["tutorial"][key]
        ratio = f"{max(a, b) / min(a, b):9.1f}x" if a and b and key != "accuracy" else ""
        print(f"{key:20} {shorten(a):>14} {shorten(b):>14} {ratio}")
    return {**figures, "our_runs": ours, "tutorial_epochs": theirs}


def shorten(value: float | None) -> str:
    """Return a figure as text; shares up to 1 become percentages."""
    if value is None:
        return "not reached"
    return f"{value:.2%}" if value <= 1 else f"{value:,.1f}"


def draw_accuracy(path: Path) -> None:
    """Draw test accuracy against seconds of training: our recipes, and the tutorial's epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    epochs = json.loads((RESULTS / "compare.json").read_text())["tutorial_epochs"]
    seconds = [sum(e["seconds"] for e in epochs[: i + 1]) for i in range(len(epochs))]
    accuracies = [100 * e["accuracy"] for e in epochs]
    label = "the usual tutorial, by epoch (1 seed)"
    axes.plot(seconds, accuracies, "s--", color="#666666", label=label)
    for name in RECIPES:
        file = RESULTS / f"seeds-{name}.json"
        if not file.exists():
            continue
        runs = json.loads(file.read_text())["runs"]
        x = statistics.mean(run["training_seconds"] for run in runs)
        y = [100 * run["accuracy"] for run in runs]
        axes.scatter([x] * len(y), y, s=18, color="#0072b2", alpha=0.4, linewidths=0)
        label = f"ours: {len(runs)} seeds and their mean" if name == "fast" else None
        axes.plot(x, statistics.mean(y), "o", color="#0072b2", markersize=8, label=label)
        axes.annotate(
            f"{name}\n{statistics.mean(y):.2f} %",
            (x, statistics.mean(y)),
            xytext=(9, -4),
            textcoords="offset points",
            color="#0072b2",
            va="top",
        )
    axes.set_xscale("log")
    ticks = [2, 5, 10, 30, 60, 120, 300]
    axes.set_xticks(ticks, [f"{t} s" if t < 60 else f"{t // 60} min" for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training time on two CPU cores (logarithmic)")
    axes.set_ylabel("accuracy on MNIST's test set (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


# ------------------------------------------------------------------------------ process


def measure_process(args: argparse.Namespace) -> Figures:
    """Measure whole commands on the CPU, in alternation with `import torch`, a part of each."""
    runs: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        picture, checkpoint = f"{folder}/digit.png", f"{folder}/best.pt"
        digit = 255 - load_split("sample", "test", "").images[0]  # dark on white paper
        Image.fromarray(digit.numpy()).resize((280, 280)).save(picture)
        program = [sys.executable, "-m", "mnist_cnn"]
        data = ["--data-dir", args.data_dir, "--dataset", "mnist", "--device", "cpu"]
        trained = ["--ckpt", checkpoint, "--device", "cpu"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "train": [*program, "train", "--recipe", "fast", "--out-dir", folder, *data],
            "eval": [*program, "eval", *trained, *data],
            "show-predictions": [
                *program, "show-predictions", "--out", f"{folder}/x.png", *trained, *data
            ],
            "predict": [*program, "predict", picture, *trained],
        }  # fmt: skip
        for _ in range(args.turns):
            for name, command in commands.items():
                runs.setdefault(name, []).append(run_command(command))

    figures: Figures = {}
    print(f"\n{'median':17} seconds  training  beyond torch's import  processor")
    for name, each in runs.items():
        keys = ("seconds", "training_seconds", "processor_seconds")
        figures[name] = {key: statistics.median(run[key] for run in each) for key in keys}
        one = figures[name]
        one["seconds_beyond_import"] = statistics.median(
            run["seconds"] - run["training_seconds"] - base["seconds"]
            for run, base in zip(each, runs["import torch"])
        )
        print(
            f"{name:16} {one['seconds']:6.2f} s {one['training_seconds']:7.1f} s"
            f" {one['seconds_beyond_import']:20.2f} s {one['processor_seconds']:8.2f} s"
        )
    figures["train"]["peak_mb"] = max(run["peak_mb"] for run in runs["train"])
    print(f"peak memory of train: {figures['train']['peak_mb']:,.0f} MB")
    return figures


# ------------------------------------------------------------------------------ speed


def measure_speed(args: argparse.Namespace) -> Figures:
    """Measure start-up, the parts of a training step, the share of the peak, and inference."""
    device = choose_device(args.device)
    keep_freed_memory()
    figures: Figures = {"device": str(device)}
    figures["help_seconds"] = min(time_command(["--help"]) for _ in range(3))
    print(f"\n--help: {figures['help_seconds']:.2f} s")

    source = SOURCES["mnist"]
    start = time.perf_counter()
    splits = split_validation(load_split("mnist", "train", args.data_dir), source.validation)
    split = splits[0].to(device)
    print(f"reading and checking MNIST's training set: {time.perf_counter() - start:.2f} s")

    peak = measure_peak(device)
    figures["peak_gflops"] = peak
    print(f"2048x2048 matrix product, FP32: {peak:,.0f} GFLOP/s")
    print("\nrecipe      step   cutting  augmenting  network   images/s  GFLOP/s  of peak")
    figures["steps"] = {}
    for name, recipe in RECIPES.items():
        net = CNN(recipe.channels, recipe.kernels, recipe.hidden, recipe.dropout).to(device)
        net = net.to(memory_format=torch.channels_last)
        averaged = copy.deepcopy(net)
        cuda = device.type == "cuda"
        optimizer = torch.optim.Adam(net.parameters(), fused=True, capturable=cuda)
        size = recipe.batch_size
        order = torch.randperm(len(split.labels)).to(device)
        images, labels = next(batches(split, order, size))
        pixels = augment(images, recipe.augmentation)

        def vary(images: Any, labels: Any, recipe: Any = recipe) -> Any:
            return augment(images, recipe.augmentation), labels

        def learn(pixels: Any, labels: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            with mixed_precision(device):
                logits = net(pixels)
                loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_average(averaged, net, 0.01)  # noqa: B023
            return loss.detach(), logits.detach()

        with FlopCounterMode(display=False) as counter:
            learn(pixels, labels)
        cutting = time_calls(lambda: next(batches(split, order, size)), device)  # noqa: B023
        varying, step = (record(function, optimizer, device) for function in (vary, learn))
        augmenting = time_calls(lambda: varying(images, labels), device)  # noqa: B023
        network = time_calls(lambda: step(pixels, labels), device)  # noqa: B023
        whole = cutting + augmenting + network
        rate = counter.get_total_flops() / whole / 1e9
        figures["steps"][name] = {
            "batch_size": size,
            "cutting_ms": 1e3 * cutting,
            "augmenting_ms": 1e3 * augmenting,
            "network_ms": 1e3 * network,
            "images_per_second": size / whole,
            "gflops": rate,
            "of_peak": rate / peak,
        }
        print(
            f"{name:9} {1e3 * whole:5.2f} ms {cutting / whole:7.1%} {augmenting / whole:11.1%}"
            f" {network / whole:8.1%} {size / whole:10,.0f} {rate:8.1f} {rate / peak:8.1%}"
        )

    net = CNN().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    test = load_split("mnist", "test", args.data_dir).to(device).images
    figures["inference"] = {}
    print("\ninference, images at a time and images/s:", end="")
    for size in (1, 10, 100, 1000, 10_000):
        rate = size / time_calls(lambda: compute_logits(net, test[:size]), device)  # noqa: B023
        figures["inference"][size] = rate
        print(f"  {size}: {rate:,.0f}", end="")
    print()
    return figures


def measure_peak(device: torch.device) -> float:
    """Measure what a matrix product reaches in float32, in GFLOP/s."""
    matrix = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / time_calls(lambda: matrix @ matrix, device) / 1e9


def time_calls(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call: the median of 5 rounds of at least 0.2 s, after a warm-up."""

    def run(calls: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    run(5)
    calls = max(1, int(0.2 / max(run(1), 1e-6)))
    return statistics.median(run(calls) / calls for _ in range(5))


def time_command(arguments: list[str]) -> float:
    """Return the seconds that a command of the package takes, as a whole."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "mnist_cnn", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
