"""Several processes training one network together, started by torchrun.

torchrun tells each process its number (rank) and how many there are, in environment variables.
Without it there is one process, and everything here does nothing.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mnist_cnn import Error
from mnist_cnn.system.device import first_line
from mnist_cnn.system.process import ending_by_signals

T = TypeVar("T")
PATIENCE = 5  # seconds before a process says that it is waiting for others
# Words in gloo's and NCCL's errors when another process is gone.
LOST = ("gloo", "nccl", "connection", "socket", "peer", "timed out")


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this one is, in torchrun's words.

    rank: its number among all world_size processes. local_rank: among those of its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that reports, and writes files."""
        return self.rank == 0

    def share_gradients(self, net: nn.Module) -> nn.Module:
        """Wrap a network so that backward averages its gradients over all processes."""
        if self.world_size == 1:
            return net
        # With one input channel, two kinds of strides mean the same, of which channels_last has
        # one, and the gradients on a GPU have the other: DistributedDataParallel warns of that.
        for weight in net.parameters():
            if weight.dim() == 4 and weight.shape[1] == 1:
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        return DistributedDataParallel(net)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """All-reduce: add a tensor up over all processes, in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def on_first(self, function: Callable[[], T]) -> T:
        """Let rank 0 alone do something, and give its result, or its failure, to all.

        Raises:
            Error: on rank 0, whatever `function` raised.
            SystemExit: on the others, in silence: rank 0 has told the user.
        """
        if self.world_size == 1:
            return function()
        # In a group of their own, in which the others wait for as long as a download may take.
        group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
        assert isinstance(group, dist.ProcessGroup)
        outcome: list[object] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except (Error, OSError) as error:
                outcome[1] = str(error)
                dist.broadcast_object_list(outcome, group=group)
                raise
        dist.broadcast_object_list(outcome, group=group)
        if outcome[1] is not None:
            raise SystemExit(2)
        return cast(T, outcome[0])


def find_ranks() -> Ranks:
    """Return what torchrun says about this process; without torchrun, that it is the only one.

    Raises:
        Error: some of torchrun's variables are missing or wrong.
    """
    keys = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(key, "") for key in keys]
    if not any(values) or values[1] == "1":
        return Ranks()
    meeting_place = {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    numbers = [int(value) for value in values if value.isdecimal() and len(value) < 7]
    if not (meeting_place and len(numbers) == len(keys) and numbers[0] < numbers[1]):
        raise Error(
            f"{', '.join(keys)} do not fit together: start several processes with torchrun, or "
            "unset them for a single one"
        )
    return Ranks(*numbers)


@contextlib.contextmanager
def connect(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Connect the processes, so that they can exchange tensors: by NCCL on CUDA, else by gloo.

    Raises:
        Error: neither can serve the device, or it is not this process's own; or the processes do
            not find each other; or another one has ended.
        SystemExit: on the others, in silence, for an error that rank 0 reports.
    """
    if ranks.world_size == 1:
        yield
        return
    if device.type not in ("cpu", "cuda") or device.index not in (None, ranks.local_rank):
        raise Error(
            f"several processes cannot share {device}: use --device cpu, or --device cuda for a "
            "GPU each"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL uses the current one
    try:
        with patiently(ranks), ending_by_signals():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        advice = "use --device cpu" if device.type == "cuda" else "check how they are started"
        raise Error(f"the processes cannot be connected ({first_line(error)}): {advice}") from None
    try:
        yield
    except Error:
        if ranks.first:
            raise
        raise SystemExit(2) from None
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in LOST):
            raise
        raise Error(
            "another process of this run has ended: start the run again, with --resume if there "
            "is a last.pt"
        ) from None
    # Only after a run that went well: a process that fails leaves at once, and torchrun then ends
    # the others instead of letting them wait for it.
    dist.destroy_process_group()


@contextlib.contextmanager
def patiently(ranks: Ranks) -> Iterator[None]:
    """Say what a process is waiting for, if that takes long."""
    place = ":".join(os.environ.get(key, "") for key in ("MASTER_ADDR", "MASTER_PORT"))
    text = f"waiting at {place} for the other processes, {ranks.world_size} in all"
    timer = threading.Timer(PATIENCE, print, (text,), {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
