"""Training on a CUDA GPU: a step that is recorded does what it does when it is not."""

import contextlib
import copy
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interrupt import stop_after

from mnist_cnn import checkpoint
from mnist_cnn.checkpoint import Run
from mnist_cnn.data import Split, load_split
from mnist_cnn.enrich import enrich
from mnist_cnn.evaluate import compute_logits
from mnist_cnn.start import dry_run, plan_run, resume_run, start_run
from mnist_cnn.system.distributed import Ranks
from mnist_cnn.system.gpu import loading_libraries, record
from mnist_cnn.train import train

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_elsewhere_a_step_is_done_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, labels

    optimizer = torch.optim.Adam([torch.zeros(1)])
    assert record(step, optimizer, CPU) is step
    assert record(step, optimizer, torch.device("mps")) is step
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD's, which PyTorch calls cuda, too
    assert record(step, optimizer, torch.device("cuda")) is step


def test_elsewhere_no_libraries_are_loaded() -> None:
    done: list[torch.device] = []
    with loading_libraries(CPU, done.append):
        pass
    assert not done


def test_libraries_are_loaded_beside_what_is_done_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And before it goes on, also where that fails."""
    monkeypatch.setattr("torch.cuda.device", lambda device: contextlib.nullcontext())
    loading, begun, ended = threading.Event(), threading.Event(), []

    def load(device: torch.device) -> None:
        loading.set()
        assert begun.wait(10)
        ended.append(device)

    device = torch.device("cuda", 3)
    with pytest.raises(ValueError, match="meanwhile"), loading_libraries(device, load):
        assert loading.wait(10)
        begun.set()
        raise ValueError("meanwhile")
    assert ended == [device]


def test_where_libraries_cannot_be_loaded_it_is_left_to_training_to_say_so(
    capfd: pytest.CaptureFixture[str],
) -> None:
    beyond = torch.device("cuda", 99)
    with loading_libraries(beyond, dry_run):
        pass
    assert capfd.readouterr() == ("", "")


def test_what_a_step_calls_for_can_be_called_for() -> None:
    dry_run(CPU)


# ------------------------------------------------------------------------------ on a GPU


@pytest.fixture(scope="module")
def sample() -> Split:
    return load_split("sample", "train", "")


def train_on_gpu(sample: Split, folder: Path, epochs: int = 3, paused_after: int = 0) -> Run:
    """Trains with everything that `standard` has, 15 steps an epoch."""
    device = torch.device("cuda", 0)
    plan = plan_run("standard", {"epochs": epochs}, 7, "sample", sample)
    plan = replace(plan, recipe=replace(plan.recipe, flags=0.2, non_digits=0.1, weight_decay=0.05))
    split = enrich(Split(sample.images[:1800], sample.labels[:1800]), plan.recipe, plan.seed)
    validation = Split(sample.images[1800:2000], sample.labels[1800:2000]).to(device)
    run = start_run(plan, len(split.labels), device)
    if paused_after:
        with pytest.raises(KeyboardInterrupt), stop_after(paused_after):
            train(run, split.to(device), validation, folder, True, Ranks())
        run = resume_run(checkpoint.load_run(folder / "last.pt"), len(split.labels), device)
    train(run, split.to(device), validation, folder, True, Ranks())
    return run


def assert_alike(one: Run, other: Run) -> None:
    """The same but for rounding, which may differ from run to run on some GPUs, and grows."""
    assert one.step == other.step
    torch.testing.assert_close(one.losses, other.losses, rtol=0.05, atol=0.02)
    assert distance_to_average(one) == pytest.approx(distance_to_average(other), rel=0.2)


def distance_to_average(run: Run) -> float:
    pairs = zip(run.net.parameters(), run.averaged.parameters(), strict=True)
    return math.hypot(*((weight - average).norm().item() for weight, average in pairs))


@needs_gpu
def test_recorded_or_not_the_run_is_the_same(
    sample: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = train_on_gpu(sample, tmp_path)
    monkeypatch.setattr("mnist_cnn.train.record", lambda step, optimizer, device: step)
    assert_alike(recorded, train_on_gpu(sample, tmp_path))
    assert len(set(recorded.losses.tolist())) == len(recorded.losses)


@needs_gpu
def test_a_recorded_run_is_resumed_as_if_nothing_had_happened(
    sample: Split, tmp_path: Path
) -> None:
    whole = train_on_gpu(sample, tmp_path)
    assert_alike(whole, train_on_gpu(sample, tmp_path, paused_after=1))


@needs_gpu
def test_many_recordings_take_no_more_memory_than_a_few(sample: Split, tmp_path: Path) -> None:
    taken = []
    for epochs in (2, 20):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train_on_gpu(sample, tmp_path, epochs)
        taken.append(torch.cuda.max_memory_reserved())
    assert taken[1] <= taken[0] * 1.1


@needs_gpu
def test_a_recorded_step_sees_new_images_labels_and_rates() -> None:
    """Plain descent on a number: each step moves it by rate * (image - label)."""
    device = torch.device("cuda", 0)
    number = torch.nn.Parameter(torch.zeros((), device=device))
    optimizer = torch.optim.Adam([number], lr=1.0, capturable=True)
    seen = []

    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        number.sub_((images - labels).sum() * optimizer.param_groups[0]["lr"])
        return number.clone(), labels.sum()

    with torch.no_grad():
        recorded = record(step, optimizer, device)
        expected = 0.0
        for turn in range(8):
            rate = optimizer.param_groups[0]["lr"] = 0.5**turn
            images = torch.tensor([float(turn), 3.0], device=device)
            labels = torch.tensor([1.0, float(turn * turn)], device=device)
            value, total = recorded(images, labels)
            expected -= (turn + 3 - 1 - turn * turn) * rate
            seen.append((value.item() - expected, total.item() - 1 - turn * turn))
            assert optimizer.param_groups[0]["lr"] == rate
    assert seen == [(0.0, 0.0)] * 8


@needs_gpu
def test_gpu_and_cpu_read_the_same(sample: Split, tmp_path: Path) -> None:
    run = train_on_gpu(sample, tmp_path)
    assert run.best is not None
    net = run.best.build_model()
    on_cpu = compute_logits(net, sample.images)
    on_gpu = compute_logits(copy.deepcopy(net).cuda(), sample.images.cuda()).cpu()
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-4)
    assert torch.equal(on_gpu.argmax(1), on_cpu.argmax(1))
