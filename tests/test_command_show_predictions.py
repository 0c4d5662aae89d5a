"""The command show-predictions: the images that it draws are looked for in the picture itself."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import Tiny, pack_idx
from PIL import Image

from mnist_cnn import checkpoint
from mnist_cnn.data import load_split, to_pixels
from mnist_cnn.datasets import FILES

# A backend that opens a window which needs no screen, and writes down that it was shown.
WINDOW = """
from matplotlib.backends.backend_agg import FigureCanvasAgg

class FigureCanvas(FigureCanvasAgg):
    def __init__(self, *args):
        super().__init__(*args)
        self.required_interactive_framework = "made up"

def show(*args, **options):
    import os
    from matplotlib import pyplot
    with open(os.environ["SHOWN"], "w") as file:
        for number in pyplot.get_fignums():
            file.write(pyplot.figure(number)._suptitle.get_text() + "\\n")
"""


class Drawn(NamedTuple):
    """An image of a picture: its index in the sample's test split, and what is written above it."""

    index: int
    right: bool
    guess: str
    confidence: float
    label: str


def read_picture(path: Path) -> list[Drawn]:
    """Read the images of a picture that show-predictions has drawn as SVG.

    matplotlib puts every image into it as a PNG, and every text as a comment beside its shapes.
    """
    images = load_split("sample", "test", "").images.numpy().astype(float)
    svg = path.read_text(encoding="utf-8")
    titles = r"<!-- ([✓✗]) ([^\n]+)  ([\d.]+)% -->.*?<!-- true ([^\n]+) -->"
    texts = re.findall(titles, svg, re.DOTALL)
    drawn = []
    for content, (mark, guess, percent, label) in zip(
        re.findall(r'base64,\s*([^"]+)"', svg), texts, strict=True
    ):
        png = Image.open(io.BytesIO(base64.b64decode(content))).convert("L")
        small = 255.0 - np.asarray(png.resize((28, 28), Image.Resampling.BOX), float)
        # Whichever way up matplotlib stores it.
        errors = [((way - images) ** 2).mean((1, 2)) for way in (small, np.flipud(small))]
        index = int(np.minimum(*errors).argmin())
        assert np.minimum(*errors)[index] < 100
        drawn.append(Drawn(index, mark == "✓", guess, float(percent) / 100, label))
    return drawn


def test_it_draws_the_first_predictions_and_prints_where(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    before = sample_checkpoint.read_bytes()
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (0, "predictions.png\n", "")
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    assert sample_checkpoint.read_bytes() == before


def test_it_shows_the_first_images_of_the_test_split(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    options = ("--ckpt", sample_checkpoint, "--count", 7, "--out", "x.svg", "--device", "cpu")
    assert cli("show-predictions", *options).status == 0
    drawn = read_picture(tmp_path / "x.svg")
    assert [one.index for one in drawn] == list(range(7))
    images, labels = load_split("sample", "test", "")
    assert [one.label for one in drawn] == [str(label) for label in labels[:7].tolist()]
    model = checkpoint.load(sample_checkpoint).build_model()
    with torch.no_grad():
        likeliest = (model(to_pixels(images[:7])) / model.temperature).softmax(1).max(1)
    assert [one.guess for one in drawn] == [str(guess) for guess in likeliest.indices.tolist()]
    confidences = [one.confidence for one in drawn]
    assert confidences == pytest.approx(likeliest.values.tolist(), abs=0.00051)  # as it is rounded


def test_wrong_shows_the_mistakes_the_most_confident_first(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    options = ("--ckpt", sample_checkpoint, "--wrong", "--count", 9, "--out", "x.svg")
    assert cli("show-predictions", *options).status == 0
    drawn = read_picture(tmp_path / "x.svg")
    assert len(drawn) == 9
    labels = load_split("sample", "test", "").labels
    for one in drawn:
        assert one.label == str(labels[one.index].item()) != one.guess
        assert not one.right
    confidences = [one.confidence for one in drawn]
    assert confidences == sorted(confidences, reverse=True)


def test_fewer_mistakes_than_asked_for_is_no_error(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    options = ("--ckpt", sample_checkpoint, "--wrong", "--count", 900, "--out", "x.svg")
    outcome = cli("show-predictions", *options)
    assert (outcome.status, outcome.out) == (0, "x.svg\n")
    mistakes = len(read_picture(tmp_path / "x.svg"))
    assert 0 < mistakes < 100
    assert outcome.err == f"the network makes only {mistakes} mistakes on this split\n"


@pytest.mark.parametrize(("mistakes", "words"), [(0, "0 mistakes"), (1, "1 mistake")])
def test_hardly_a_mistake_is_said_and_no_error(
    mistakes: int, words: str, tiny_mnist: Tiny, cli: Callable, sample_checkpoint: Path,
    undrawn: None, tmp_path: Path,
) -> None:  # fmt: skip
    """A network that takes everything for a 0 makes none where all is one."""
    trained = checkpoint.load(sample_checkpoint)
    weights = {name: torch.zeros_like(value) for name, value in trained.weights.items()}
    weights |= {"std": torch.tensor(1.0), "fc2.bias": torch.eye(10)[0]}
    checkpoint.save(tmp_path / "zero.pt", replace(trained, weights=weights))
    labels = torch.cat([torch.ones(mistakes), torch.zeros(60 - mistakes)])
    tiny_mnist.replace(FILES["test"][1], pack_idx(labels))
    tiny_mnist.write(tmp_path / "data")
    outcome = cli("show-predictions", "--ckpt", "zero.pt", "--dataset", "mnist", "--wrong")
    assert outcome.status == 0
    assert outcome.err == f"the network makes only {words} on this split\n"
    drawn = ["predictions.png"] if mistakes else []
    assert outcome.out.split() == drawn
    assert {path.name for path in tmp_path.iterdir()} == {"data", "zero.pt", *drawn}


def test_more_images_than_there_are_is_refused(
    tiny_mnist: Tiny, cli: Callable, sample_checkpoint: Path, undrawn: None, tmp_path: Path
) -> None:
    tiny_mnist.write(tmp_path / "data")
    options = ("--ckpt", sample_checkpoint, "--dataset", "mnist", "--count")
    cli("show-predictions", *options, 61).assert_refused("--count 61", "60 test images")
    assert cli("show-predictions", *options, 60).status == 0


@pytest.mark.parametrize("out", ["new/folder/a b.png", "ü.PNG", "./x.pdf", "x.svg"])
def test_out_may_lie_in_odd_places(
    out: str, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    options = ("--ckpt", sample_checkpoint, "--out", out, "--count", 2)
    outcome = cli("show-predictions", *options)
    assert (outcome.status, outcome.out) == (0, f"{out}\n")
    start = (tmp_path / out).read_bytes()[:5]
    kinds = {".png": b"\x89PNG\r", ".pdf": b"%PDF-", ".svg": b"<?xml"}
    assert start == kinds[Path(out).suffix.lower()]
    assert not (tmp_path / "predictions.png").exists()


def test_a_window_is_opened_where_there_is_one(
    start_program: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "window.py").write_text(WINDOW)
    options = ("show-predictions", "--ckpt", sample_checkpoint, "--count", 2)
    backend = "module://window"
    plain = start_program(*options, MPLBACKEND=backend, SHOWN="plain.txt")
    into_a_file = start_program(*options, "--out", "x.png", MPLBACKEND=backend, SHOWN="file.txt")
    out, err = plain.communicate(timeout=300)
    assert (plain.returncode, out, err) == (0, "", "")
    assert (tmp_path / "plain.txt").read_text() == "sample, test split: the first 2\n"
    out, err = into_a_file.communicate(timeout=300)
    assert (into_a_file.returncode, out, err) == (0, "x.png\n", "")
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {
        "window.py", "plain.txt", "x.png",
    }  # fmt: skip


def test_a_backend_that_cannot_open_windows_here_draws_into_a_file(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot

    def fail(*args: object, **options: object) -> None:
        raise ImportError("no screen")

    monkeypatch.setattr(pyplot, "figure", fail)
    outcome = cli("show-predictions", "--ckpt", sample_checkpoint, "--count", 2)
    assert (outcome.status, outcome.out) == (0, "predictions.png\n"), outcome.err
    assert (tmp_path / "predictions.png").exists()


@pytest.mark.slow
def test_a_backend_that_is_not_installed_draws_into_a_file(
    start_program: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    process = start_program(
        "show-predictions", "--ckpt", sample_checkpoint, "--count", 2,
        MPLBACKEND="module://not_installed_here",
    )  # fmt: skip
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "predictions.png\n"), err
    assert (tmp_path / "predictions.png").exists()
