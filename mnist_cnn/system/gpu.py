"""What a training step needs so that a CUDA GPU does not wait for Python, nor Python for it."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

import torch

WARM_UP = 3  # ordinary steps before one is recorded: in them, libraries choose what they use

Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def record(step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> Step:
    """Return an equivalent of a training step: on an NVIDIA GPU a Recording, else the step."""
    nvidia = device.type == "cuda" and torch.version.hip is None  # AMD's GPUs go by that name, too
    return Recording(step, optimizer, device) if nvidia else step


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which steps are warmed up and recorded; the usual one cannot record.

    There is one per device: cuBLAS keeps a workspace for each stream that it is called on.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Recording:
    """A training step that is done a few times, then recorded as a CUDA graph, then played back.

    Python launches each operation of a step on the GPU, and there are more than a hundred: for a
    small network, launching takes longer than computing. A graph of all of them is launched once.
    It does exactly what was recorded, in the same memory; so the images, the labels and the
    learning rate are copied to where the recorded ones were. Random numbers still differ from step
    to step.

    No recording on a device may be dropped while another is still played: from 2.12 on, PyTorch
    then frees cuBLAS's workspace on their common stream.

    Args:
        step: takes images and labels, of the same shapes at every call, and returns two tensors. It
            must not wait for the GPU, nor depend on anything else that changes after WARM_UP calls.
        optimizer: what the step moves the weights with: "capturable", with one group of them.
        device: a CUDA GPU, where everything is.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.step = step
        self.device = device
        self.group = optimizer.param_groups[0]
        self.calls = 0
        self.graph = torch.cuda.CUDAGraph()
        self.stream = side_stream(device)

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do the step; what it returns is valid until the next call."""
        self.calls += 1
        if self.calls <= WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                results = self.step(images, labels)
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            return results
        if self.calls == WARM_UP + 1:
            self.record(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.lr.fill_(self.group["lr"])
        self.graph.replay()
        return self.results

    def record(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Record the step without doing it."""
        self.images, self.labels = images.clone(), labels.clone()
        self.lr = torch.zeros((), device=self.device)
        scheduled, self.group["lr"] = self.group["lr"], self.lr
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(self.graph, stream=self.stream):
                self.results = self.step(self.images, self.labels)
        finally:
            self.group["lr"] = scheduled


@contextlib.contextmanager
def loading_libraries(device: torch.device, call: Callable[[torch.device], None]) -> Iterator[None]:
    """While something else is done, let a CUDA GPU load the libraries that a function calls.

    A library, or a part of one, is loaded when it is first called: in a first training step, that
    takes half a second in all. What fails in the function will fail again where it is needed, and
    be reported there.
    """
    if device.type != "cuda":
        yield
        return

    def load() -> None:
        with contextlib.suppress(Exception), torch.cuda.device(device):
            call(device)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        thread.join()
