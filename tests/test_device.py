"""Where the network runs: the device that is asked for, or one that works."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mnist_cnn
from mnist_cnn import Error
from mnist_cnn.system import device
from mnist_cnn.system.device import choose_device, first_line, mixed_precision, why_unusable

CPU = torch.device("cpu")
HERE = torch.accelerator.is_available()
# Accelerators that PyTorch knows; one at least is not here.
BROKEN = "xpu" if torch.backends.mps.is_available() else "mps"


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_there(name: str) -> None:
    assert choose_device(name) == CPU


@pytest.mark.skipif(HERE, reason="this machine has an accelerator")
def test_auto_is_the_cpu_where_there_is_no_accelerator() -> None:
    assert choose_device("auto") == choose_device() == CPU


@pytest.mark.skipif(not HERE, reason="this machine has no accelerator")
def test_auto_is_an_accelerator_where_there_is_one() -> None:
    device, found = choose_device(), torch.accelerator.current_accelerator()
    assert device.type == ("cpu" if why_unusable(found) else found.type)
    assert torch.ones(2, device=device).sum().item() == 2


def test_auto_passes_over_an_accelerator_that_does_not_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a virtual Mac PyTorch finds a GPU that has no memory at all."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(BROKEN))
    assert choose_device("auto") == CPU
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"warning: {BROKEN} cannot be used (") and err.count("\n") == 1


@pytest.mark.parametrize(("kind", "local_rank"), [("cuda", 0), ("mps", 1)])
def test_processes_on_the_cpu_may_be_several(
    kind: str, local_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no GPU for any of them, all choose the CPU."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(device, "why_unusable", lambda device: "no memory")
    assert choose_device("auto", local_rank) == CPU


@pytest.mark.parametrize(
    ("name", "expected"), [("cuda", "cuda:2"), ("cuda:1", "cuda:1"), ("mps", "mps"), ("cpu", "cpu")]
)
def test_a_process_takes_the_gpu_of_its_own_number(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "why_unusable", lambda device: "")
    assert str(choose_device(name, local_rank=2)) == expected


@pytest.mark.parametrize(
    ("message", "line"),
    [("", "RuntimeError"), ("one\ntwo", "one"), ("x" * 160, "x" * 160),
     ("x" * 161, "x" * 159 + "…")],
)  # fmt: skip
def test_of_an_error_one_line_of_bounded_length_is_told(message: str, line: str) -> None:
    assert first_line(RuntimeError(message)) == line


def test_more_processes_than_gpus_are_refused_and_not_put_on_the_cpu_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those on GPUs would wait for the others, which would wait for them in another way."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(Error, match="cuda cannot be used"):
        choose_device("auto", local_rank=999)


@pytest.mark.parametrize(
    "name", ["nonsense", "", "cpu:x", "cuda:-2", "cuda:999", "meta", "xla", "mkldnn"]
)
def test_a_device_that_is_not_there_is_refused_in_one_line(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(Error, match="cpu") as caught:
        choose_device(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not recwarn.list


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_bare_cuda_is_the_processs_own_gpu() -> None:
    assert choose_device("cuda") == torch.device("cuda", 0)
    beyond = torch.cuda.device_count()
    with pytest.raises(Error, match="cuda cannot be used"):
        choose_device("cuda", local_rank=beyond)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 clzero\n", torch.bfloat16),
        ("model name\t: \xff\nflags\t\t: avx512_bf16\n", torch.bfloat16),  # no UTF-8
        ("flags\t\t: fpu avx512f avx512_bf16_of_another_kind\n", torch.float32),
        ("Features\t: fp asimd bf16\n", torch.float32),  # ARM's: not measured
        (None, torch.float32),  # not Linux
    ],
)
def test_the_cpu_takes_half_the_bits_only_where_it_has_instructions_for_them(
    info: str | None, expected: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    path = tmp_path / "cpuinfo"
    if info is not None:
        path.write_bytes(info.encode("latin-1"))
    monkeypatch.setattr(device, "CPU_INFO", path)
    look = device.cpu_multiplies_bfloat16.__wrapped__  # each time anew
    monkeypatch.setattr(device, "cpu_multiplies_bfloat16", look)
    with mixed_precision(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
    assert isinstance(mixed_precision(torch.device("mps")), contextlib.nullcontext)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with mixed_precision(CPU):  # without the library that uses them
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_pytorch_that_does_without_avx512_computes_in_float32() -> None:
    code = """if True:
        import torch
        from mnist_cnn.system.device import mixed_precision
        with mixed_precision(torch.device("cpu")):
            print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2"},
        cwd=Path(mnist_cnn.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "torch.float32\n"


def test_keeping_freed_memory_is_possible_everywhere() -> None:
    """It holds to the end of a process: so in one of its own."""
    code = "from mnist_cnn.system.device import keep_freed_memory as keep; keep(); keep(); print(1)"
    package = Path(mnist_cnn.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("1\n", "")
