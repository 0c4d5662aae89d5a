"""Memory: a long run needs no more of it than a short one, and where it is short that is said."""

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import mnist_cnn
from mnist_cnn.system.container import read_container
from mnist_cnn.system.process import is_out_of_memory

# A training that says after every epoch how many bytes of memory it has, without those that it has
# freed and that the C library keeps: of these there are now and then more, by a batch's worth.
TRAIN = """
import ctypes, sys
from resource import getpagesize
from mnist_cnn import train
from mnist_cnn.__main__ import main

save_run = train.save_run

def save_and_tell(*arguments, **options):
    save_run(*arguments, **options)
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    pages = int(open("/proc/self/statm").read().split()[1])
    print("resident", pages * getpagesize(), file=sys.stderr, flush=True)

train.save_run = save_and_tell
sys.exit(main(sys.argv[1:]))
"""


# Resumes a run again and again, in copies of one process; each has some MiB to spare.
RESUME = """
import json, os, resource, sys, traceback
import torch
from mnist_cnn import train, visualize
from mnist_cnn.__main__ import main

def limit_memory(mebibytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (300 << 20),) * 2)
    blocks = []
    for size in (1 << 20, 1 << 16, 1 << 12):  # what has been freed before is used up first
        try:
            while True:
                blocks.append(bytes(size))
        except MemoryError:
            pass
    del blocks[:mebibytes]
    return blocks

torch.set_num_threads(1)
visualize.save = lambda figure, suffix: b"a picture"
options = "train --dataset sample --recipe fast --device cpu --quiet".split()
stdout = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
main([*options, "--epochs", "2"])
outcomes = []
for mebibytes in (*range(1, 50), 250):
    child = os.fork()
    if child == 0:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        status = 70
        try:
            blocks = limit_memory(mebibytes)
            status = main("train --resume checkpoints/last.pt --out-dir new --device cpu".split())
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcomes.append((mebibytes, status, open("out").read(), open("err").read()))
os.write(stdout, json.dumps(outcomes).encode())
"""


def run_program(code: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs some code as a program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(mnist_cnn.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done


def resident_sizes(folder: Path, *options: object) -> list[int]:
    """Trains as a program of its own; its resident size after each epoch, in bytes."""
    done = run_program(TRAIN, folder, "train", "--device", "cpu", "--quiet", *options)
    lines = [line.split() for line in done.stderr.splitlines()]
    return [int(line[1]) for line in lines if line[0] == "resident"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
@pytest.mark.parametrize(("dataset", "early", "late"), [("mnist", 2, 10), ("sample", 2, 20)])
def test_many_epochs_need_no_more_memory_than_few(
    dataset: str, early: int, late: int, tmp_path: Path, count: Callable[[str], None]
) -> None:
    """The first steps are left out: they take memory that is used again in the others."""
    data = os.environ.get("MNIST_CNN_DATA_DIR")
    if dataset == "mnist" and not data:
        pytest.skip("needs MNIST: name the folder that has MNIST/raw in MNIST_CNN_DATA_DIR")
    options = ("--dataset", dataset, "--recipe", "fast", "--epochs", late, "--batch-size", 500)
    sizes = resident_sizes(tmp_path, *options, *(("--data-dir", data) if data else ()))
    assert len(sizes) == late
    before, after = sizes[early - 1], sizes[late - 1]
    count(
        f"memory, on {dataset}: {before / 1e6:.1f} MB after {early} epochs, {after / 1e6:.1f} MB "
        f"after {late} ({after / before - 1:+.2%})"
    )
    assert abs(after / before - 1) <= 0.02, sizes


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_resumed_run_that_lacks_memory_says_so(
    tmp_path: Path, count: Callable[[str], None]
) -> None:
    """Wherever it runs out: the file is not said to be damaged, and it is not touched."""
    tried = json.loads(run_program(RESUME, tmp_path).stdout)
    short = [outcome for outcome in tried if outcome[1] != 0]
    for mebibytes, status, out, err in short:
        assert (status, out) == (2, ""), (mebibytes, status, err)
        assert err.splitlines()[-1] == "error: out of memory: close other programs"
        assert "damaged" not in err
    assert 10 <= len(short) < len(tried)
    count(f"resumed with too little memory: {len(short)} times, and each time said so")


def test_an_error_that_comes_of_a_lack_of_memory_is_one() -> None:
    """As torch.save's is, which closes its file when a MemoryError has ended the writing."""
    with pytest.raises(RuntimeError) as caught:
        try:
            raise MemoryError
        finally:
            raise RuntimeError("unexpected pos 1792832 vs 1792724")
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("unexpected pos 1792832 vs 1792724"))


def test_a_small_checkpoint_asks_for_little_memory(sample_checkpoint: Path) -> None:
    tracemalloc.start()
    size = len(read_container(sample_checkpoint))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * size
