"""What the steps of an epoch leave behind, and the bar that shows it."""

import torch
from tqdm import tqdm


class Progress:
    """The losses of an epoch's steps, the right answers in it, and a bar on a terminal.

    The figures stay on the device until the epoch is over: to read one, Python would have to
    wait until a GPU has done all that it was asked to do. On the CPU there is nothing to wait
    for, and the bar shows them as they come.

    Args:
        title: stands before the bar.
        steps: how many there will be.
        batch_size: images in a step, over all processes.
        device: where losses and answers come from.
        quiet: show no bar. Without a terminal there is none either.

    Attributes:
        losses: of every step, float (steps,); 0 where there was none yet.
        correct: images that were read right so far, int64 ().
    """

    def __init__(
        self, title: str, steps: int, batch_size: int, device: torch.device, quiet: bool
    ) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.step = 0
        self.batch_size = batch_size
        self.bar = tqdm(
            total=steps * batch_size,
            desc=title,
            unit=" images",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=True if quiet else None,
        )

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Note a step: its loss (), what the network answered (N, classes), what is true (N,)."""
        self.losses[self.step] = loss.detach()
        self.correct += (logits.argmax(1) == labels).sum()
        self.step += 1
        if self.bar.update(self.batch_size) and loss.device.type == "cpu":
            accuracy = self.correct.item() / (self.step * len(labels))
            self.bar.set_postfix(loss=loss.item(), accuracy=accuracy)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()
