"""The figures of an epoch's steps, and the bar that shows them."""

import torch
from tqdm import tqdm


class Progress:
    """The losses and right answers of an epoch's steps, and a bar on a terminal.

    The figures stay on the device until the epoch is over: to read one, Python would have to wait
    until a GPU has finished all its work. On the CPU there is nothing to wait for, and the bar
    shows them as they come.

    Args:
        title: printed before the bar.
        steps: how many there will be.
        batch_size: images in a step, over all processes.
        device: where losses and answers come from.
        quiet: show no bar. Without a terminal there is none either.

    Attributes:
        losses: of every step, float (steps,), in nats; 0 for steps not yet taken.
        digits: how many images so far show a digit, int64 ().
        correct: how many of them were read right, int64 ().
        lr: the learning rate of the last step.
    """

    def __init__(
        self, title: str, steps: int, batch_size: int, device: torch.device, quiet: bool
    ) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.digits = torch.zeros((), dtype=torch.int64, device=device)
        self.lr = 0.0
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

    def add(
        self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, lr: float
    ) -> None:
        """Record a step.

        Args:
            loss: of the batch, ().
            logits: what the network answered, (N, classes).
            labels: the true classes, (N,); negative where there is none.
            lr: the learning rate.
        """
        self.losses[self.step] = loss.detach()
        self.digits += (labels >= 0).sum()
        self.correct += (logits.argmax(1) == labels).sum()
        self.lr = lr
        self.step += 1
        if self.bar.update(self.batch_size) and loss.device.type == "cpu":
            accuracy = self.correct.item() / max(1, self.digits.item())
            self.bar.set_postfix(loss=loss.item(), accuracy=accuracy)

    def __enter__(self) -> "Progress":
        """Begin the epoch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self.bar.close()
