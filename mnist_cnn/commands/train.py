"""The command `train`: train the network, and evaluate it once on the test split."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mnist_cnn import Error
from mnist_cnn.commands import options
from mnist_cnn.commands.shared import describe_accuracy, load_data, say, what_failed, write_picture
from mnist_cnn.datasets import SOURCES
from mnist_cnn.recipes import MAX_EPOCHS, RECIPES

if TYPE_CHECKING:
    import torch

    from mnist_cnn.checkpoint import Metrics, Paused, Plan, Run
    from mnist_cnn.data import Split

HELP = "train the network, and evaluate it once on the test split"
OUTPUTS = ("best.pt", "last.pt", "history.csv", "curves.png")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; a run's have no default, so that --resume sees which are given."""
    options.add_device(parser)
    parser.add_argument(
        "--recipe",
        choices=tuple(RECIPES),
        help="fast takes seconds, standard half a minute, best minutes (default: standard)",
    )
    parser.add_argument(
        "--epochs",
        type=options.whole(1, MAX_EPOCHS),
        metavar="N",
        help="passes over the training images; overrides the recipe's",
    )
    parser.add_argument(
        "--batch-size",
        type=options.whole(1),
        metavar="N",
        help="images per step; overrides the recipe's",
    )
    parser.add_argument(
        "--lr",
        type=options.learning_rate,
        metavar="X",
        help="peak learning rate; overrides the recipe's",
    )
    parser.add_argument(
        "--seed",
        type=options.whole(0, 2**63 - 1),
        metavar="N",
        help="seed of all random numbers (default: 0)",
    )
    options.add_data(parser, auto=True)
    parser.add_argument("--out-dir", metavar="DIR", help="where results go (default: checkpoints)")
    parser.add_argument("--resume", metavar="CKPT", help="resume the run that wrote this last.pt")
    parser.add_argument(
        "--quiet", action="store_true", help="print only warnings, errors and the result"
    )


class Job(NamedTuple):
    """All that a run needs, checked before anything is written.

    plan: of the run.
    paused: the run to resume; None for a new one.
    out_dir: an existing folder.
    train, validation, test: for training, for choosing the best epoch, for the test at the end.
    """

    plan: "Plan"
    paused: "Paused | None"
    out_dir: str
    train: "Split"
    validation: "Split"
    test: "Split"


def run(args: argparse.Namespace) -> int:
    """Train a new run, or resume one, and print the result."""
    from mnist_cnn.checkpoint import save_run
    from mnist_cnn.start import dry_run, resume_run, start_run
    from mnist_cnn.system import distributed
    from mnist_cnn.system.device import choose_device, keep_freed_memory
    from mnist_cnn.system.gpu import loading_libraries
    from mnist_cnn.system.process import Terminated, is_closed_pipe
    from mnist_cnn.train import train

    ranks = distributed.find_ranks()
    device = choose_device(args.device, ranks.local_rank)
    keep_freed_memory()
    with ExitStack() as locks, distributed.connect(ranks, device):
        # One process decides, reads and checks, before anything is written.
        with loading_libraries(device, dry_run):
            job = ranks.on_first(lambda: prepare(args, ranks.world_size, locks))
        images = len(job.train.labels)
        if ranks.first and not args.quiet:
            say(describe_run(job.plan, device, ranks.world_size, job.train))
            if job.paused is not None:
                say(f"resuming after epoch {len(job.paused.history)} of {job.plan.recipe.epochs}")
        history = [] if job.paused is None else job.paused.history
        try:
            if job.paused is None:
                state = start_run(job.plan, images, device)
            else:
                state = resume_run(job.paused, images, device)
                if ranks.first:  # into another folder than before, perhaps
                    save_run(job.out_dir, state, new_best=True)
            history = state.history
            splits = job.train.to(device), job.validation.to(device)
            train(state, *splits, job.out_dir, args.quiet, ranks)
            if ranks.first:
                report(state, job.test.to(device), job.out_dir)
        except KeyboardInterrupt as interruption:
            if not ranks.first:
                raise SystemExit(143 if isinstance(interruption, Terminated) else 130) from None
            go_on = how_to_resume(job, history, args)
            interruption.args = (f": {go_on}" if go_on else "",)
            raise
        except OSError as error:
            go_on = how_to_resume(job, history, args)
            if not go_on or not ranks.first or is_closed_pipe(error):
                raise
            raise Error(f"{what_failed(error)}: check it, then {go_on}") from None
    return 0


def prepare(args: argparse.Namespace, processes: int, locks: ExitStack) -> Job:
    """Check options, data and folders, and decide what will be done.

    Args:
        locks: keeps other training runs out of the folder until it is closed.

    Raises:
        Error: something is wrong; nothing has been written except missing files of the data set.
    """
    import torch

    from mnist_cnn import checkpoint
    from mnist_cnn.data import split_validation
    from mnist_cnn.download import choose_dataset
    from mnist_cnn.enrich import enrich
    from mnist_cnn.start import check_steps
    from mnist_cnn.system.files import TRIAL, check_folder, lock_folder, remove_leavings

    fallen_back = ""
    paused = None
    if args.resume is not None:
        refuse_beside_resume(args)
        paused = checkpoint.load_run(args.resume)
        dataset = paused.plan.dataset
        out_dir = str(Path(args.resume).parent) if args.out_dir is None else args.out_dir
    else:
        out_dir = "checkpoints" if args.out_dir is None else args.out_dir
        dataset = args.dataset or "auto"
        check_folder(out_dir, "--out-dir")  # before anything is downloaded
        if dataset == "auto":
            dataset, fallen_back = choose_dataset(args.data_dir, args.quiet)

    free = paused is None  # the user may choose another data set or batch size
    both = load_data(dataset, "train", args.data_dir, args.quiet, free)
    test = load_data(dataset, "test", args.data_dir, args.quiet, free)
    train_split, validation = split_validation(both, SOURCES[dataset].validation)
    plan = paused.plan if paused else plan_new_run(args, dataset, train_split, fallen_back)
    train_split = enrich(train_split, plan.recipe, plan.seed)
    if paused is not None:
        check_steps(paused, len(train_split.labels))
    batch_size = plan.recipe.batch_size
    if batch_size % processes:
        smaller = f"--batch-size {batch_size // processes * processes or processes}"
        raise Error(
            f"a batch of {batch_size} cannot be divided equally among {processes} processes: "
            f"use {smaller if free else 'another number of processes'}"
        )

    # The first optimizer loads PyTorch's compiler, which takes a second and cannot be interrupted.
    # From here on, an interruption is to find a run that can say how it is resumed.
    torch.optim.SGD([torch.zeros(1)])
    check_folder(out_dir, "--out-dir", make=True)
    locks.enter_context(lock_folder(out_dir, "--out-dir"))
    if paused is not None:  # whoever held the lock may have resumed it
        paused = checkpoint.load_run(args.resume)
        if paused.plan != plan:
            raise Error(f"another run has replaced {args.resume} meanwhile: run the command again")
    remove_leavings(out_dir, (*OUTPUTS, TRIAL))
    spare_earlier_run(args, Path(out_dir), fallen_back)
    if fallen_back:
        warn_of_sample(args.data_dir, fallen_back)
    return Job(plan, paused, out_dir, train_split, validation, test)


def refuse_beside_resume(args: argparse.Namespace) -> None:
    """Refuse options that change a run: its one-cycle schedule was planned for the whole of it."""
    for option in ("recipe", "epochs", "batch_size", "lr", "seed", "dataset"):
        if getattr(args, option) is not None:
            name = option.replace("_", "-")
            raise Error(
                f"--{name} cannot be changed with --resume: leave it out, or start a new run"
            )


def plan_new_run(
    args: argparse.Namespace, dataset: str, train_split: "Split", fallen_back: str
) -> "Plan":
    """Plan a run as the options say.

    Args:
        fallen_back: why the data set had to be the sample; "" if it did not have to.

    Raises:
        Error: as start.plan_run.
    """
    from mnist_cnn.start import plan_run

    given = {"epochs": args.epochs, "batch_size": args.batch_size, "lr": args.lr}
    overrides = {key: value for key, value in given.items() if value is not None}
    name, seed = args.recipe or "standard", args.seed or 0
    try:
        return plan_run(name, overrides, seed, dataset, train_split)
    except Error as error:
        if not fallen_back:
            raise
        raise Error(f"{error} (it stands in for mnist: {fallen_back})") from None


def spare_earlier_run(args: argparse.Namespace, out_dir: Path, fallen_back: str) -> None:
    """Say that an earlier run will be replaced; refuse to replace a better one with the sample's.

    Args:
        fallen_back: why it had to be the sample; "" if it did not have to.
    """
    earlier = [out_dir / name for name in ("best.pt", "last.pt") if (out_dir / name).exists()]
    last = out_dir / "last.pt"
    going_on = args.resume is not None and last.exists() and last.samefile(args.resume)
    if not earlier or going_on:
        return
    for path in earlier if fallen_back else ():
        dataset = trained_on(path)
        if dataset in ("mnist", ""):
            was = "was" if dataset else "cannot be read, and may have been"
            raise Error(
                f"{path} {was} trained on mnist, which is not available now ({fallen_back}): to "
                "train on the sample without replacing it, choose another folder with --out-dir"
            )
    if not args.quiet:
        say(f"replacing the earlier run in {out_dir}")


def trained_on(path: Path) -> str:
    """Return the data set of an earlier checkpoint; "" if it cannot be read."""
    from mnist_cnn import checkpoint

    try:
        return checkpoint.load(path).plan.dataset
    except Error:
        return ""


def warn_of_sample(data_dir: str, fallen_back: str) -> None:
    """Say that the sample stands in for MNIST, why, what to expect of it, and what helps."""
    say(
        "warning: training on the bundled sample of 4,000 digits, because MNIST is not complete in "
        f"{data_dir} and {fallen_back}. With the recipe standard, expect about 98 % instead of "
        "99.5 %. For the full data set, run this again with an internet connection, or put the "
        f"four .gz files of MNIST into {Path(data_dir) / 'MNIST' / 'raw'}"
    )


def describe_run(plan: "Plan", device: "torch.device", processes: int, train: "Split") -> str:
    """Say in one line what is about to be trained, and where."""
    recipe = plan.recipe
    where = f"{device}" if processes == 1 else f"{processes} processes, {device.type}"
    plural = "s" if recipe.epochs > 1 else ""
    digits = int((train.labels >= 0).sum())
    others = len(train.labels) - digits
    beside = f" and {others} non-digits" if others else ""
    return (
        f"training on {digits} images of {plan.dataset}{beside}: recipe {recipe.name}, "
        f"{recipe.epochs} epoch{plural}, batches of {recipe.batch_size}, seed {plan.seed}, "
        f"device {where}"
    )


def report(state: "Run", test: "Split", out_dir: str) -> None:
    """Evaluate the best epoch once on the test split, print the result, draw the curves."""
    from mnist_cnn.evaluate import evaluate

    assert state.best is not None
    result = evaluate(state.best.build_model().to(test.images.device), test)
    accuracy = describe_accuracy(result, state.plan.dataset)
    print(f"{accuracy}, checkpoint {Path(out_dir) / 'best.pt'}", flush=True)
    try:
        draw_curves(state, Path(out_dir) / "curves.png")
    except Exception as error:  # the result stands, whatever becomes of its picture
        say(f"warning: curves.png cannot be drawn ({error})")


def draw_curves(state: "Run", path: Path) -> None:
    """Draw how the run went."""
    from mnist_cnn import visualize
    from mnist_cnn.train import learning_rates

    history = state.history
    curves = visualize.draw_curves(
        state.losses.tolist(),
        learning_rates(state.plan.recipe.lr, len(state.losses)),
        [metrics.val_loss for metrics in history],
        [metrics.train_accuracy for metrics in history],
        [metrics.val_accuracy for metrics in history],
    )
    write_picture(curves, path)


def how_to_resume(job: Job, history: "list[Metrics]", args: argparse.Namespace) -> str:
    """Say how a run that ends early can be resumed: "resume ..."; "" if none of it was saved.

    Args:
        history: of the run, so far.
        args: of which some options may be given again with --resume.
    """
    from mnist_cnn import checkpoint

    last = Path(job.out_dir) / "last.pt"
    try:
        paused = checkpoint.load_run(last)
    except Error:
        return ""
    saved = history[: len(paused.history)]  # the last epoch may not have been saved yet
    if paused.plan != job.plan or paused.history != saved:  # an earlier run's
        return ""
    command = ["python", "-m", "mnist_cnn", "train", "--resume", str(last)]
    if args.data_dir != "data":
        command += ["--data-dir", args.data_dir]
    if args.device != "auto":
        command += ["--device", args.device]
    if sys.platform == "win32":
        from subprocess import list2cmdline as join
    else:
        from shlex import join
    return f"resume after epoch {len(paused.history)} with {join(command)}"
