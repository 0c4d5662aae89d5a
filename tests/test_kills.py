"""Runs that are killed, and resumed: in the end there is what they would have given undisturbed."""

import csv
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import slow
from forked import KILL, Forker, Job

OUTPUTS = {"best.pt", "last.pt", "history.csv", "curves.png"}
SMALL = ("train", "--dataset", "sample", "--recipe", "fast", "--epochs", 2, "--batch-size", 100,
         "--device", "cpu")  # fmt: skip
SAMPLE = ("train", "--dataset", "sample", "--recipe", "fast", "--epochs", 2, "--device", "cpu")


def same(first: object, second: object) -> bool:
    """Whether two values from checkpoints are equal but for the time that an epoch took."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = first.keys() - {"seconds", "images_per_second"}
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in keys)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return first == second


def assert_same_run(folder: Path, whole: Path) -> None:
    """Weights, optimizer and history are those of a whole run; and there is nothing else."""
    for name in ("best.pt", "last.pt"):
        ours, theirs = (torch.load(f / name, weights_only=True) for f in (folder, whole))
        assert same(ours, theirs), name
    tables = [list(csv.DictReader((f / "history.csv").open())) for f in (folder, whole)]
    assert same(*tables)
    assert {path.name for path in folder.iterdir()} == OUTPUTS


def start_on(forker: Forker, folder: Path, start: tuple, **settings: object) -> Job:
    """Goes on with the run in a folder, or starts it where nothing has been saved yet."""
    if (folder / "checkpoints" / "last.pt").exists():
        start = ("train", "--resume", "checkpoints/last.pt", "--device", "cpu")
    return forker.start(*start, cwd=folder, **settings)


@pytest.fixture(scope="module")
def whole_small(forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the small sample that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    job = forker.run(*SMALL, cwd=folder)
    assert job.status == 0, job
    return folder / "checkpoints"


@pytest.mark.parametrize("stride", [3, slow(1)])
def test_a_run_that_is_killed_before_any_change_of_a_file_goes_on_as_if_it_had_not_been(
    forker: Forker, whole_small: Path, tmp_path: Path, stride: int,
    count: Callable[[str], None],
) -> None:  # fmt: skip
    """The run is killed before the first change of a file; another, before the second; ...

    With a longer stride, before every third: files are opened and renamed in turns, and both
    are met.
    """
    killed, runs = 0, 0
    while killed == runs:
        event = 1 + runs * stride
        runs += 1
        folder = tmp_path / str(event)
        folder.mkdir()
        job = forker.run(*SMALL, cwd=folder, at_event=event, signals=[KILL])
        killed += job.status == -KILL
        if killed == runs:
            job = start_on(forker, folder, SMALL)
        assert job.wait() == 0, job
        assert_same_run(folder / "checkpoints", whole_small)
    assert killed > 15 // stride
    which = "each" if stride == 1 else f"one in {stride}"
    count(f"kill -9: {killed} runs, before {which} of the changes of a file: all the same end")


def test_a_run_that_is_killed_again_and_again_comes_to_its_end(
    forker: Forker, whole_small: Path, tmp_path: Path,
    count: Callable[[str], None],
) -> None:  # fmt: skip
    """Each time it gets one change further; the third time it has gone on with a run."""
    kills = 0
    for event in range(3, 60):
        settings = {"at_event": event, "signals": [KILL]}
        job = start_on(forker, tmp_path, SMALL, **settings)
        if job.wait() == 0:
            break
        assert job.status == -KILL, job
        kills += 1
    assert job.status == 0
    assert kills > 5
    assert_same_run(tmp_path / "checkpoints", whole_small)
    count(f"kill -9: {kills} in a row, in one run and while it was resumed: the same end")


@pytest.mark.slow
def test_kills_at_random_instants_of_a_run_on_the_sample(
    forker: Forker, tmp_path: Path, count: Callable[[str], None]
) -> None:
    """Every third run is killed a second time, while it is resumed."""
    whole = tmp_path / "whole"
    whole.mkdir()
    undisturbed = forker.run(*SAMPLE, cwd=whole, real_sample=True)
    assert undisturbed.status == 0, undisturbed
    chance, kills, runs = random.Random(0), 0, 0
    while kills < 40:
        folder = tmp_path / str(runs)
        folder.mkdir()
        for _ in range(2 if runs % 3 == 0 else 1):
            job = start_on(forker, folder, SAMPLE, real_sample=True)
            time.sleep(chance.uniform(0, undisturbed.seconds))
            job.send(KILL)
            assert job.wait() in (0, -KILL), job
            kills += job.status == -KILL
        job = start_on(forker, folder, SAMPLE, real_sample=True)
        assert job.wait() == 0, job
        assert_same_run(folder / "checkpoints", whole / "checkpoints")
        shutil.rmtree(folder)
        runs += 1
        assert runs < 80
    count(f"kill -9: {kills} at random instants of {runs} runs on the sample: all the same end")
