"""The usual MNIST tutorial, written anew from its description, to be compared with ours.

conv 32, conv 64, max-pool, dropout .25, fc 128, dropout .5, log-softmax; Adadelta with rate 1,
times .7 after each epoch; batches of 64 through a DataLoader, every image turned into a PIL image
and transformed by itself; all 60,000 training images, no validation split.

Before each epoch it waits for a line on stdin, and afterwards prints one JSON line, so that another
program can be measured in between.
"""

import argparse
import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import datasets, transforms


class Net(nn.Module):
    """Two convolutions without pooling between them: 1.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(64 * 12 * 12, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 28, 28) -> log-probabilities (N, 10)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))  # (N, 64, 24, 24)
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)  # (N, 64 * 12 * 12)
        return F.log_softmax(self.fc2(self.dropout2(F.relu(self.fc1(x)))), dim=1)


def main() -> None:
    """Trains until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    to_input = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    train_set = datasets.MNIST(args.data_dir, train=True, transform=to_input)
    test_set = datasets.MNIST(args.data_dir, train=False, transform=to_input)
    train_loader = torch.utils.data.DataLoader(train_set, batch_size=64, shuffle=True)
    test_loader = torch.utils.data.DataLoader(test_set, batch_size=1000)
    model = Net()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in sys.stdin:
        start = time.perf_counter()
        model.train()
        for images, labels in train_loader:
            optimizer.zero_grad()
            F.nll_loss(model(images), labels).backward()
            optimizer.step()
        schedule.step()
        seconds = time.perf_counter() - start
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(images).argmax(1) == labels).sum()) for images, labels in test_loader
            )
        figures = {
            "seconds": seconds,
            "images": len(train_set),
            "accuracy": right / len(test_set),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
