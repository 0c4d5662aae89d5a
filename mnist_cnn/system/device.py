"""Where the network runs: the CPU, or whatever accelerator PyTorch finds."""

import contextlib
import ctypes
import functools
import sys
import warnings
from pathlib import Path

import torch

from mnist_cnn import Error

LONGEST = 160  # characters: longer messages of PyTorch's are cut off when they are repeated
CPU_INFO = Path("/proc/cpuinfo")  # what Linux knows about the processor


def choose_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Turn a --device option into a device that works.

    Args:
        name: "auto" (an accelerator where one works, else the CPU), "cpu", "cuda", "cuda:1", ...
        local_rank: of several processes on one machine, which one this is: a bare "cuda" means
            the process's own device.

    Raises:
        Error: PyTorch does not know the device, or there is none here, or not for each process.
    """
    auto = name == "auto"
    if auto:
        # Asked first, because PyTorch 2.6 raises an error where there is no accelerator.
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        name = found.type if found else "cpu"
    try:
        with warnings.catch_warnings():  # about names that PyTorch is deprecating
            warnings.simplefilter("ignore")
            device = torch.device(name)
    except RuntimeError:
        raise Error(f"unknown device {name!r}: use auto, cpu or cuda") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "meta":
        raise Error("the device meta computes nothing: use auto, cpu or cuda")
    if device.index is None and device.type == "cuda":
        device = torch.device("cuda", local_rank)
    why = why_unusable(device)
    more_processes_than_gpus = device.type == "cuda" and local_rank > 0
    if why and auto and not more_processes_than_gpus:
        # On a virtual Mac, say, a GPU is found, but it has no memory.
        print(f"warning: {name} cannot be used ({why}): running on the CPU", file=sys.stderr)
        return torch.device("cpu")
    if why:
        raise Error(f"the device {name} cannot be used ({why}): use --device cpu")
    return device


def why_unusable(device: torch.device) -> str:
    """Try a device out; return why it does not work, in one line, or "" if it does."""
    try:
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # each kind of device fails in its own way where it is missing
        return first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its start; its type's name if it has none."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def mixed_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context for mixed precision where that is faster, else an empty one.

    Products are then computed in bfloat16: as wide a range as float32's, with 8 bits of precision
    instead of 24. NVIDIA's GPUs from Ampere on have instructions for it, and so do recent
    processors; everything else computes in float32.
    """
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        faster = device.type == "cpu" and cpu_multiplies_bfloat16()
    return torch.autocast(device.type, torch.bfloat16) if faster else contextlib.nullcontext()


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Return whether PyTorch multiplies bfloat16 with AVX-512's instructions for it.

    Linux lists them in CPU_INFO, and PyTorch uses them through oneDNN. Where it has to emulate
    them, it is slower than in float32. With ATEN_CPU_CAPABILITY=avx2 in the environment, PyTorch
    does without AVX-512, and this package without bfloat16.
    """
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    try:
        instructions = CPU_INFO.read_text(errors="replace").split()
    except OSError:  # not Linux, or not to be read
        return False
    return onednn and avx512 and "avx512_bf16" in instructions


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next step instead of returning it.

    glibc gives every large block back to the kernel when it is freed, and the next training step
    pays for over a thousand page faults to get it again. The two numbers are M_MMAP_THRESHOLD and
    M_TRIM_THRESHOLD (man 3 mallopt). This holds for the whole process, to its end, so it is for
    commands to call. Elsewhere than on Linux, or with another C library, nothing happens.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            # glibc before 2.35 takes at most 32 MiB as the first, which holds a batch's images.
            mallopt(-3, 1 << 30) or mallopt(-3, 1 << 25)
            mallopt(-1, (1 << 31) - 1)
