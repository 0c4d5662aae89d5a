"""The trained network in two forms that need no Python: a page to draw on, and ONNX.

The page is one file that fetches nothing from anywhere. Its content, style and behaviour are in the
files beside this one: page.html, page.css, and three scripts in plain JavaScript, of which
network.js matches model.py, and digit.js matches handwriting. The weights are added as text.
"""

import base64
import importlib.util
import json
import re
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist_cnn import Error
from mnist_cnn.datasets import SIZE
from mnist_cnn.model import CNN

LARGEST = 1_500_000  # bytes of a page: a slow connection still loads that quickly
BITS = 24  # of a weight in the page, its sign included
FEWEST_BITS = 14  # coarser than this, the logits would be off in the third decimal place
OPSET = 17  # of ONNX's operators: of 2022, so that most programs in use know it

Layer = nn.Conv2d | nn.Linear


def build_page(model: CNN, classes: list[str], trained_on: str) -> bytes:
    """Return a page, UTF-8, on which one draws a digit and sees the network at work.

    Every weight has 24 bits, at which the page's logits differ from PyTorch's in the sixth decimal
    place. If that makes a page of more than LARGEST bytes, the layer with the most weights is
    rounded, to as many bits as fit: it tolerates that better than the small layers do, and has
    nearly all of the weights.

    Args:
        classes: the name of each class.
        trained_on: what the page says that the network was trained on.

    Raises:
        Error: the network is too wide for such a page.
    """
    layers = weighted_layers(model)
    network = {
        "trained_on": trained_on,
        "classes": classes,
        "mean": float(model.mean),
        "std": float(model.std),
        "temperature": model.temperature,
        "layers": [describe_layer(layer) for layer in layers],
    }
    for bits in range(BITS, FEWEST_BITS - 1, -1):
        page = fill_template(network, pack_weights(layers, bits))
        if len(page) <= LARGEST:
            return page
    raise Error("the network has too many weights for a page: export it as .onnx")


def fill_template(network: dict[str, object], weights: bytes) -> bytes:
    """Put everything into page.html: style, script, the network's description and its weights."""
    folder = Path(__file__).parent
    scripts = [(folder / f"{name}.js").read_text("utf-8") for name in ("network", "digit", "page")]
    html = (folder / "page.html").read_text("utf-8")
    parts = {
        "style": (folder / "page.css").read_text("utf-8"),
        "script": "\n".join(scripts),
        "network": json.dumps(network).replace("<", r"\u003c"),  # no tag can end the script
        "weights": base64.b64encode(weights).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html).encode()


def weighted_layers(model: CNN) -> list[Layer]:
    """Return the layers that have weights, in the order in which an image passes them."""
    return [model.conv1, model.conv2, model.fc1, model.fc2]


def describe_layer(layer: Layer) -> dict[str, int]:
    """Return a layer's sizes; a fully connected one has filters of one pixel."""
    filters, channels, *kernel = layer.weight.shape
    return {"filters": filters, "channels": channels, "kernel": kernel[0] if kernel else 1}


def pack_weights(layers: list[Layer], bits: int) -> bytes:
    """Return all weights as `unpack` in network.js reads them, compressed (zlib, RFC 1950).

    First the biases and the scales of each layer, float32, little-endian; then the high bytes of
    all weights, the middle ones, the low ones.

    Args:
        layers: in order.
        bits: of each weight in the layer that has the most; the others keep BITS.
    """
    widest = max(layers, key=lambda layer: layer.weight.numel())
    floats, numbers = [], []
    for layer in layers:
        whole, scale = round_weights(layer.weight, bits if layer is widest else BITS)
        assert layer.bias is not None
        floats += [layer.bias.detach().numpy().astype("<f4"), scale.astype("<f4")]
        numbers.append(whole.ravel())
    # Four bytes of each number, the lowest first: (N, 4); the last only repeats the sign.
    planes = np.concatenate(numbers).astype("<i4").view(np.uint8).reshape(-1, 4)
    ordered = planes[:, [2, 1, 0]].T.tobytes()
    return zlib.compress(b"".join(part.tobytes() for part in floats) + ordered, 9)


def round_weights(weight: torch.Tensor, bits: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Write weights as whole numbers times a scale for each row.

    Args:
        weight: (N, ...), a row for each output.
        bits: how many of a number's BITS are used; the rest, the lowest, are 0.

    Returns:
        the numbers, int32 (N, inputs), and the scales, (N,).
    """
    rows = weight.detach().flatten(1).double().numpy()
    unit = 2 ** (BITS - bits)
    steps = 2 ** (bits - 1) - 1  # from 0 to the row's largest weight
    largest = np.abs(rows).max(1)
    scale = (np.where(largest > 0, largest, 1.0) / (steps * unit)).astype(np.float32)
    numbers = np.rint(rows / (scale[:, None].astype(np.float64) * unit)).clip(-steps, steps) * unit
    return numbers.astype(np.int32), scale


def check_onnx() -> None:
    """Make sure, before any work is done for it, that ONNX can be written.

    Raises:
        Error: the package for it is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise Error('ONNX needs another package: install it with pip install -e ".[onnx]"')


def build_onnx(model: CNN, classes: list[str]) -> bytes:
    """Return the network as an ONNX file, which many other programs can run.

    Its input `images` is float32 (N, 1, 28, 28), pixels in [0, 1]; its output `logits` float32
    (N, classes); N is free. The names of the classes are a JSON list in its metadata, `classes`.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracing exporter has been called legacy since PyTorch 2.9. It is enough for a network
        # without branches, and the new one needs further packages and ten seconds.
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, SIZE, SIZE),),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
        exported = onnx.load(path)
    onnx.helper.set_model_props(exported, {"classes": json.dumps(classes)})
    onnx.checker.check_model(exported, full_check=True)
    content: bytes = exported.SerializeToString()
    return content
