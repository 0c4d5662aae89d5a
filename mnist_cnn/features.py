"""What a network does with one image: layer by layer, patch by patch, with a part covered.

Nothing here changes a network. illustrate.py draws the numbers.
"""

import copy
import dataclasses
import math
import operator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from mnist_cnn.augment import augment
from mnist_cnn.data import Split, to_pixels
from mnist_cnn.datasets import SIZE
from mnist_cnn.evaluate import compute_logits, exact_convolutions, to_probabilities
from mnist_cnn.model import CNN
from mnist_cnn.recipes import Augmentation

SQUARE = 9  # pixels along each side of the square that occlusion_map slides

# ------------------------------------------------------------------------------ layer by layer


class Step(NamedTuple):
    """One step of a network's forward pass, and its output.

    name: of the layer, such as "conv1"; of a function, its own, such as "relu".
    layer: None where the step is a function.
    output: (N, ...), on the network's device.
    """

    name: str
    layer: nn.Module | None
    output: torch.Tensor


def trace_steps(model: nn.Module, pixels: torch.Tensor) -> list[Step]:
    """Run a network and return its steps one by one, plain arithmetic left out.

    torch.fx reads the steps off the model's own forward, so nothing of it is repeated here.

    Args:
        model: any whose forward does not branch on its input. Dropout is off.
        pixels: what it takes: for CNN, float (N, 1, 28, 28) in [0, 1], on its device.
    """
    traced = fx.symbolic_trace(copy.deepcopy(model).eval())
    interpreter = fx.Interpreter(traced, garbage_collect_values=False)
    with torch.inference_mode(), exact_convolutions(pixels.device):
        interpreter.run(pixels)
    steps = []
    for node in traced.graph.nodes:
        if node.op == "call_module":
            name, layer = str(node.target), traced.get_submodule(str(node.target))
        elif node.op == "call_method":
            name, layer = str(node.target), None
        elif node.op == "call_function" and not hasattr(operator, node.target.__name__):
            name, layer = node.target.__name__, None
        else:
            continue
        output = interpreter.env[node]
        assert isinstance(output, torch.Tensor)
        steps.append(Step(name, layer, output))
    return steps


class Layer(NamedTuple):
    """A row of the layer table.

    name: as in Step.
    kind: such as "Conv2d 5x5"; "" where the step is a function.
    shape: of its output for one image.
    parameters: the numbers that training changes.
    multiply_adds: multiplications, each with an addition, for one image; biases are not counted,
        nor are comparisons, as in pooling and ReLU.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layer_table(model: CNN) -> list[Layer]:
    """Return a row for each step that an image goes through, the image itself first."""
    pixels = torch.zeros(1, 1, SIZE, SIZE, device=model.mean.device)
    table = [Layer("image", "", (1, SIZE, SIZE), 0, 0)]
    for name, layer, output in trace_steps(model, pixels):
        shape = tuple(output.shape[1:])
        kind, parameters, multiply_adds = "", 0, 0
        if layer is not None:
            kind = type(layer).__name__
            parameters = sum(parameter.numel() for parameter in layer.parameters())
        if isinstance(layer, nn.Conv2d):
            kind += f" {layer.kernel_size[0]}x{layer.kernel_size[1]}"
            # Every filter is applied at every position, so each weight is used once at each.
            multiply_adds = layer.weight.numel() * math.prod(shape[1:])
        elif isinstance(layer, nn.Linear):
            multiply_adds = layer.weight.numel()
        table.append(Layer(name, kind, shape, parameters, multiply_adds))
    return table


def feature_maps(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the feature maps of one image after each convolution, pooling and ReLU.

    Args:
        image: uint8 (28, 28), on the model's device.

    Returns:
        of each convolution, float (channels, height, width), 0 or more.
    """
    steps = trace_steps(model, to_pixels(image[None]))
    return [step.output[0] for step in steps if step.name == "relu" and step.output.ndim == 4]


# ------------------------------------------------------------------------------ one patch


class Patch(NamedTuple):
    """A patch of one image, and a filter of the first convolution that is applied to it.

    filter: its number, from 0.
    row, column: of the patch's upper left pixel; also of the response in the filter's map.
    pixels: of the patch, normalised: float (K, K).
    weights: of the filter, float (K, K).
    bias: of the filter.
    """

    filter: int
    row: int
    column: int
    pixels: torch.Tensor
    weights: torch.Tensor
    bias: float

    @property
    def response(self) -> float:
        """The filter's response to the patch: the sum of the products, plus the bias."""
        return float((self.pixels * self.weights).sum()) + self.bias


def normalised(model: CNN, image: torch.Tensor) -> torch.Tensor:
    """Return an image's pixels as the first convolution gets them.

    Args:
        image: uint8 (28, 28), on the model's device.

    Returns:
        float (28, 28); over the training images, their mean is 0 and their standard deviation 1.
    """
    return (to_pixels(image[None])[0, 0] - model.mean) / model.std


def take_patch(model: CNN, image: torch.Tensor, number: int, row: int, column: int) -> Patch:
    """Return a patch of an image with one of the first convolution's filters, on the CPU.

    Args:
        image: uint8 (28, 28), on the model's device.
        number: of the filter, from 0.
        row, column: of the patch's upper left pixel, from 0 to 28 - K for filters of K x K.
    """
    weights = model.conv1.weight.detach()[number, 0].cpu()
    assert model.conv1.bias is not None
    bias = float(model.conv1.bias.detach()[number])
    height, width = weights.shape
    pixels = normalised(model, image)[row : row + height, column : column + width].cpu()
    return Patch(number, row, column, pixels, weights, bias)


def strongest_patch(model: CNN, image: torch.Tensor) -> Patch:
    """Return the patch and the filter of the first convolution with the strongest response.

    Args:
        image: uint8 (28, 28), on the model's device.
    """
    responses = trace_steps(model, to_pixels(image[None]))[0].output[0]  # (filters, 24, 24)
    _, height, width = responses.shape
    number, place = divmod(int(responses.argmax()), height * width)
    return take_patch(model, image, number, *divmod(place, width))


# ------------------------------------------------------------------------------ one image


def occlusion_map(
    model: nn.Module, image: torch.Tensor, answer: int, side: int = SQUARE, grey: int = 128
) -> torch.Tensor:
    """Slide a grey square over an image and record how probable an answer remains.

    The idea is that of Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks"
    (2014). Grey is half-way between paper and ink: where the square makes a difference, either ink
    was needed there, or blank paper.

    Args:
        image: uint8 (28, 28), on the model's device.
        answer: the class whose probability is recorded.
        side: of the square, in pixels, odd. At the image's edge a part of it lies outside.
        grey: of its pixels, from 0 (paper) to 255 (ink).

    Returns:
        the probability with the square around each pixel: float (28, 28) in [0, 1], on the CPU.
    """
    reach = side // 2
    covered = image.repeat(SIZE * SIZE, 1, 1)  # (784, 28, 28)
    for place, one in enumerate(covered):
        row, column = divmod(place, SIZE)
        above, left = max(0, row - reach), max(0, column - reach)
        one[above : row + reach + 1, left : column + reach + 1] = grey
    probabilities = to_probabilities(model, compute_logits(model, covered))[:, answer]
    return probabilities.view(SIZE, SIZE).cpu()


def dropout_passes(model: nn.Module, image: torch.Tensor, passes: int = 20) -> torch.Tensor:
    """Return a network's answers while dropout is on, as in training: each pass differs.

    Args:
        image: uint8 (28, 28), on the model's device.
        passes: how many.

    Returns:
        probabilities, float (passes, classes), on the CPU; the sum of each row is 1.
    """
    learning = copy.deepcopy(model).train()
    with torch.inference_mode():
        logits: torch.Tensor = learning(to_pixels(image.repeat(passes, 1, 1)))
    return to_probabilities(model, logits).cpu()


def vary_by_kind(
    image: torch.Tensor, strengths: Augmentation, count: int = 16
) -> dict[str, torch.Tensor]:
    """Vary an image at random in each way by itself, and in all of them together.

    Args:
        image: uint8 (28, 28).
        strengths: how strong each way is; ways of strength 0 are left out.
        count: of variants of each kind.

    Returns:
        by the kind's name, Augmentation's own or "all": float (count, 28, 28) in [0, 1].
    """
    alone = {
        kind: dataclasses.replace(Augmentation(), **{kind: strength})
        for kind, strength in vars(strengths).items()
        if strength
    }
    copies = image.repeat(count, 1, 1)
    return {kind: augment(copies, some)[:, 0] for kind, some in {**alone, "all": strengths}.items()}


# ------------------------------------------------------------------------------ one weight


class LossCurve(NamedTuple):
    """The loss as one weight moves and all others stay.

    values: that the weight takes, (K,).
    losses: mean cross-entropy per image at each of them, in nats, (K,).
    weight, loss: the network's own.
    slope: how fast the loss grows with the weight there: the weight's gradient.
    """

    values: list[float]
    losses: list[float]
    weight: float
    loss: float
    slope: float


def loss_along_weight(
    model: nn.Module,
    batch: Split,
    name: str,
    index: tuple[int, ...],
    reach: float = 1.0,
    points: int = 41,
) -> LossCurve:
    """Compute the loss on a batch for many values of one weight, with dropout off.

    Args:
        batch: images and labels, on the model's device.
        name: of the weight's tensor, such as "conv1.weight".
        index: of the weight in it, such as (0, 0, 2, 2).
        reach: how far it moves from where it is, either way.
        points: how many values to try.
    """
    changed = copy.deepcopy(model).eval()
    pixels = to_pixels(batch.images)
    tensor = changed.get_parameter(name)
    loss = F.cross_entropy(changed(pixels), batch.labels)
    (gradient,) = torch.autograd.grad(loss, tensor)
    slope, weight = float(gradient[index]), float(tensor.detach()[index])
    values = torch.linspace(weight - reach, weight + reach, points).tolist()
    losses = []
    with torch.no_grad():
        for value in values:
            tensor[index] = value
            losses.append(F.cross_entropy(changed(pixels), batch.labels).item())
    return LossCurve(values, losses, weight, loss.item(), slope)
