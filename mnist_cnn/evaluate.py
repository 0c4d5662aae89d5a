"""How good a network is: loss, accuracy, figures per class, and which classes it confuses."""

import contextlib
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mnist_cnn import Error
from mnist_cnn.data import Split, to_pixels
from mnist_cnn.model import MAX_TEMPERATURE, MIN_TEMPERATURE

# The largest activation, (250, 24, 24, 24) floats by default, is 14 MB: it stays in the cache.
BATCH_SIZE = 250
# Held while exact_convolutions has changed flags that all threads share.
CUDNN_LOCK = threading.Lock()


def compute_logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return a network's logits, in float32, without augmentation or dropout.

    Args:
        model: takes float (N, 1, 28, 28) in [0, 1].
        images: uint8 (N, 28, 28), on the model's device.

    Returns:
        logits, float32 (N, classes), on the same device; see to_probabilities.
    """
    was_training = model.training
    model.eval()
    with torch.inference_mode(), exact_convolutions(images.device):
        starts = range(0, len(images), BATCH_SIZE)
        parts = [model(to_pixels(images[start : start + BATCH_SIZE])) for start in starts]
    model.train(was_training)
    return torch.cat(parts)


@contextlib.contextmanager
def exact_convolutions(device: torch.device) -> Iterator[None]:
    """Keep recent GPUs from rounding the inputs of convolutions to 10 bits (TF32)."""
    if device.type != "cuda":
        yield
        return
    # These flags belong to the whole process. Of two threads, such as those that read pictures for
    # the demo page, the first to leave would reset them for the other, and the other might then
    # restore, for good, what the first had set.
    with CUDNN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of PyTorch call these flags deprecated
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield


def to_probabilities(model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Turn a network's logits (N, classes) into probabilities, at the network's own temperature."""
    temperature: float = getattr(model, "temperature", 1.0)  # other networks than CNN have none
    return (logits / temperature).softmax(1)


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Find what to divide logits by so that their softmax is as sure as it is right.

    It is the temperature at which the mean cross-entropy is lowest (Guo et al., "On Calibration of
    Modern Neural Networks", 2017): above 1 for an overconfident network, below 1 for an
    underconfident one, as label smoothing makes it. No answer changes.

    Args:
        logits: float (N, classes), of images that the network has not been trained on.
        labels: int64 (N,).

    Returns:
        the temperature, from MIN_TEMPERATURE to MAX_TEMPERATURE. Without these limits it would be
        0 where all N answers are right, and infinite where the network knows nothing.
    """
    logits, labels = logits.cpu().double(), labels.cpu()  # MPS has no double
    right = logits.gather(1, labels[:, None]).mean()
    # As a function of b = 1 / temperature, the loss has a single minimum, and its slope is the mean
    # logit expected under the probabilities minus that of the right class.
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for _ in range(30):  # halvings: to within a hundred-millionth
        b = (low + high) / 2
        expected = ((b * logits).softmax(1) * logits).sum(1).mean()
        low, high = (b, high) if expected < right else (low, b)
    return 2 / (low + high)


class Evaluation(NamedTuple):
    """A network's results on a split of N images.

    loss: the mean cross-entropy per image, in nats, of the logits at temperature 1.
    labels, predictions: int64 (N,).
    confidences: the probability that the network gives its prediction, at its temperature, float
        (N,) in [0, 1].
    """

    loss: float
    labels: torch.Tensor
    predictions: torch.Tensor
    confidences: torch.Tensor

    @property
    def errors(self) -> int:
        """How many predictions are wrong."""
        return int((self.predictions != self.labels).sum())

    @property
    def accuracy(self) -> float:
        """The share of predictions that are right, in [0, 1]."""
        return (len(self.labels) - self.errors) / len(self.labels)

    def most_confident_mistakes(self) -> torch.Tensor:
        """Return the indices of the misread images, the most confident first: int64 (errors,)."""
        wrong = (self.predictions != self.labels).nonzero().flatten()
        return wrong[self.confidences[wrong].argsort(descending=True, stable=True)]


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate a network on a split that is on its device; the result is on the CPU.

    Raises:
        Error: the network's answers are not finite numbers.
    """
    logits = compute_logits(model, split.images)
    loss = F.cross_entropy(logits, split.labels, reduction="sum").item() / len(split.labels)
    if not math.isfinite(loss):
        raise Error(
            "this network's answers are not finite: its weights are damaged, train it again"
        )
    predictions = logits.argmax(1)  # not of the probabilities: rounding can make two of them equal
    confidences = to_probabilities(model, logits).max(1).values
    return Evaluation(loss, split.labels.cpu(), predictions.cpu(), confidences.cpu())


def confusion_matrix(evaluation: Evaluation, classes: int) -> torch.Tensor:
    """Count answers: int64 (classes, classes); row, the true class; column, the predicted one."""
    cells = evaluation.labels * classes + evaluation.predictions
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)


class ClassFigures(NamedTuple):
    """The figures of one class; all but n are in [0, 1], and 0.0 where they are undefined.

    n: images that belong to the class.
    precision: of the images that the network assigned to this class, the share that belong to it.
    recall: of the images that belong to this class, the share that the network found.
    f1: the harmonic mean of the two.
    """

    label: str
    n: int
    precision: float
    recall: float
    f1: float


def per_class(confusion: torch.Tensor, classes: Sequence[str]) -> list[ClassFigures]:
    """Return the figures of each class, from the counts of confusion_matrix."""
    rows = []
    for i, label in enumerate(classes):
        right = int(confusion[i, i])
        n, given = int(confusion[i].sum()), int(confusion[:, i].sum())
        precision = right / given if given else 0.0
        recall = right / n if n else 0.0
        f1 = 2 * right / (n + given) if n + given else 0.0
        rows.append(ClassFigures(label, n, precision, recall, f1))
    return rows


def most_confused(confusion: torch.Tensor, count: int) -> list[tuple[int, int, int]]:
    """Return the most frequent mistakes, in order: (true class, predicted class, how often)."""
    mistakes = confusion - torch.diag(confusion.diag())
    cells = mistakes.flatten().argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(cell // len(confusion), cell % len(confusion)) for cell in cells]
    return [
        (true, guess, int(mistakes[true, guess])) for true, guess in pairs if mistakes[true, guess]
    ]


class Bin(NamedTuple):
    """Images of which a network is about equally sure.

    confidence: the mean of the probabilities that it gives its predictions, in [0, 1].
    accuracy: the share of the images that it reads right, in [0, 1].
    low, high: the 95 % confidence interval of that share, in [0, 1].
    n: how many images there are, at least 1.
    """

    confidence: float
    accuracy: float
    low: float
    high: float
    n: int


def reliability(evaluation: Evaluation, bins: int = 10) -> list[Bin]:
    """Compare how sure a network is with how often it is right, in bins of equal width.

    Bins without images are left out. The idea is DeGroot and Fienberg's (1983), in the form of
    Guo et al., "On Calibration of Modern Neural Networks" (2017).
    """
    right = (evaluation.predictions == evaluation.labels).double()
    places = (evaluation.confidences * bins).long().clamp(max=bins - 1)
    found = []
    for place in range(bins):
        inside = places == place
        n = int(inside.sum())
        if n:
            share = float(right[inside].mean())
            sure = float(evaluation.confidences[inside].double().mean())
            found.append(Bin(sure, share, *wilson_interval(share, n), n))
    return found


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share observed in n trials (Wilson, 1927)."""
    z = 1.96  # 95 % of a normal distribution lies within so many standard deviations of its mean
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)
