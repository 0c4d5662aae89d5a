"""The network: two convolutions and two fully connected layers."""

import torch
import torch.nn.functional as F
from torch import nn

# The limits of a network's temperature. Without them, fitting it on a validation split would give 0
# where all answers are right, and infinity where the network knows nothing.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.25, 10.0


class CNN(nn.Module):
    """A small convolutional network for 28x28 grey images.

    It takes pixels as they are, float in [0, 1], and normalises them itself: the mean and the
    standard deviation are buffers, so they travel with the weights, and training, evaluation and
    prediction cannot disagree about them.

    Args:
        channels: how many filters the first and the second convolution learn.
        kernels: the side length of the first and the second convolution's filters, in pixels.
        hidden: the width of the fully connected layer between the filters and the answer.
        dropout: the share of inputs zeroed in training before each linear layer, in [0, 1].
        classes: the number of classes.
        mean, std: of the training images' pixels, in [0, 1].

    The attribute temperature, from MIN_TEMPERATURE to MAX_TEMPERATURE, is used when answers are
    shown as probabilities (evaluate.to_probabilities). It does not affect the logits.

    Raises:
        ValueError: the kernels are too large for a 28x28 image.

    With the default sizes it has 215,194 parameters. Its design goes back to LeCun et al.,
    "Gradient-Based Learning Applied to Document Recognition" (1998); dropout to Srivastava et
    al. (2014).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        channels: tuple[int, int] = (24, 32),
        kernels: tuple[int, int] = (5, 3),
        hidden: int = 256,
        dropout: tuple[float, float] = (0.25, 0.5),
        classes: int = 10,
        mean: float = 0.1307,
        std: float = 0.3081,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.temperature = 1.0  # for showing probabilities: it changes no answer
        self.conv1 = nn.Conv2d(1, channels[0], kernels[0])
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernels[1])
        # A convolution without padding makes the image kernel - 1 pixels smaller each way; pooling
        # halves what is left.
        side = ((28 - kernels[0] + 1) // 2 - kernels[1] + 1) // 2
        if side < 1:
            raise ValueError("the kernels are larger than the maps that they slide over")
        self.dropout1 = nn.Dropout(dropout[0])
        self.fc1 = nn.Linear(channels[1] * side * side, hidden)
        self.dropout2 = nn.Dropout(dropout[1])
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 1, 28, 28), float in [0, 1], to logits (N, classes), without a softmax.

        The shapes in the comments are for the default sizes.
        """
        x = (images - self.mean) / self.std
        # Pooling before the ReLU gives the same numbers as after it (the largest of four stays
        # the largest), with a quarter of the ReLUs to compute.
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (N, 1, 28, 28) -> (N, 24, 12, 12)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (N, 24, 12, 12) -> (N, 32, 5, 5)
        x = x.flatten(1)  # (N, 32, 5, 5) -> (N, 800)
        x = F.relu(self.fc1(self.dropout1(x)))  # (N, 800) -> (N, 256)
        logits: torch.Tensor = self.fc2(self.dropout2(x))  # (N, 256) -> (N, 10)
        return logits
