"""The command show-features: a picture in a file whose name is printed, or a line that says why."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny, slow
from pictures import claiming
from PIL import Image, ImageDraw

from mnist_cnn import checkpoint, illustrate
from mnist_cnn.data import load_split
from mnist_cnn.datasets import SOURCES
from mnist_cnn.recipes import RECIPES


def draw_one(path: Path) -> Path:
    """A picture of a one, drawn with a thick pen."""
    picture = Image.new("L", (200, 200), 250)
    ImageDraw.Draw(picture).line([(110, 40), (95, 160)], fill=20, width=14)
    picture.save(path)
    return path


@pytest.fixture
def clothes_checkpoint(tmp_path: Path) -> Path:
    """An untrained network of best's sizes that knows fashion-mnist's classes."""
    plan = checkpoint.Plan(RECIPES["best"], {}, "fashion-mnist", 0, 0.2860, 0.3530, {})
    torch.manual_seed(0)
    weights = checkpoint.CNN(**plan.model_args).state_dict()
    metrics = checkpoint.Metrics(1, 0.001, 2.3, 0.1, 2.3, 0.1, 1.0, 1.0)
    path = tmp_path / "clothes.pt"
    checkpoint.save(path, checkpoint.Trained(plan, metrics, weights))
    return path


def test_without_options_the_first_test_image_is_drawn(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = cli("show-features", "--ckpt", sample_checkpoint)
    assert (outcome.status, outcome.out, outcome.err) == (0, "features.png\n", "")
    picture = Image.open(tmp_path / "features.png")
    assert min(picture.size) > 1000
    again = cli("show-features", "--ckpt", sample_checkpoint, "--index", 0, "--out", "same.png")
    assert (again.status, again.out) == (0, "same.png\n")
    assert np.array_equal(np.asarray(picture), np.asarray(Image.open(tmp_path / "same.png")))


@pytest.mark.parametrize(
    ("out", "start"),
    [("$^$.svg", b"<?xml"), slow("a/b.PDF", b"%PDF")],
)
def test_the_last_image_in_other_formats(
    out: str, start: bytes, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    outcome = cli("show-features", "--ckpt", sample_checkpoint, "--index", 999, "--out", out)
    assert (outcome.status, outcome.out) == (0, f"{out}\n")
    assert (tmp_path / out).read_bytes().startswith(start)
    assert not (tmp_path / "features.png").exists()


@pytest.mark.parametrize("name", [
    "$^$.png", slow("a\nb.png"),
    slow(b"\xff\xfe.png"),
])  # fmt: skip
def test_a_picture_of_your_own(
    name: str | bytes, cli: Callable, sample_checkpoint: Path, tmp_path: Path
) -> None:
    file = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    try:
        draw_one(tmp_path / "drawn.png").rename(tmp_path / file)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    outcome = cli("show-features", "--ckpt", sample_checkpoint, "--image", file)
    assert (outcome.status, outcome.out) == (0, "features.png\n"), outcome.err
    assert (tmp_path / "features.png").stat().st_size > 10_000


@pytest.mark.parametrize("options", [(), ("--index", 5)])
def test_what_is_drawn_is_what_the_network_does(
    options: tuple[object, ...], cli: Callable, sample_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch, undrawn: None,
) -> None:  # fmt: skip
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(illustrate, "draw_features", lambda **values: drawn.update(values))
    trained = replace(checkpoint.load(sample_checkpoint), temperature=3.0)
    checkpoint.save("warm.pt", trained)
    assert cli("show-features", "--ckpt", "warm.pt", *options).status == 0
    index, model = options[1] if options else 0, trained.build_model()
    images, labels = load_split("sample", "test", "")
    assert drawn["title"] == f"sample, test split: image {index}, label {labels[index]}"
    assert np.array_equal(drawn["image"], images[index])
    with torch.no_grad():
        logits = model(images[index][None, None] / 255)
    probabilities = (logits / 3).softmax(1)[0].numpy()
    np.testing.assert_allclose(drawn["probabilities"], probabilities, atol=1e-5)
    assert drawn["occlusion"][0, 0] == pytest.approx(probabilities.max(), abs=0.05)
    number, row, column = drawn["patch"]
    pixels = images[index][row : row + 5, column : column + 5] / 255
    np.testing.assert_allclose(drawn["pixels"], (pixels - model.mean) / model.std, atol=1e-5)
    products = drawn["pixels"] * drawn["filters"][number]
    assert drawn["bias"] == model.conv1.bias[number].item()
    assert drawn["response"] == pytest.approx(products.sum() + drawn["bias"], abs=1e-4)
    assert drawn["square"] == 9 and drawn["window"] is False


def test_a_huge_picture_is_refused_in_one_line(
    cli: Callable, sample_checkpoint: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "huge.png").write_bytes(claiming(9_500, 9_500))  # of which Pillow would warn
    outcome = cli("show-features", "--ckpt", sample_checkpoint, "--image", "huge.png")
    outcome.assert_refused("huge.png", "million pixels")
    assert list(recwarn) == []


def test_best_sizes_and_long_names(
    cli: Callable, make_tiny: Callable[[str], Tiny], clothes_checkpoint: Path, tmp_path: Path
) -> None:
    make_tiny("fashion-mnist").write(tmp_path / "data")
    options = ("show-features", "--ckpt", clothes_checkpoint, "--index", 59)
    outcome = cli(*options)
    assert (outcome.status, outcome.out) == (0, "features.png\n"), outcome.err
    assert Image.open(tmp_path / "features.png").height > 1000
    cli(*options[:3], "--index", 60).assert_refused("--index 60", "59")
    draw_one(tmp_path / "one.png")
    cli(*options[:3], "--image", "one.png").assert_refused("fashion-mnist", "digits")


def test_refusals(cli: Callable, sample_checkpoint: Path, tmp_path: Path) -> None:
    draw_one(tmp_path / "one.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("not a picture")
    before = sorted(tmp_path.iterdir())
    options = ("show-features", "--ckpt", sample_checkpoint)
    count = SOURCES["sample"].counts["test"]
    cli(*options, "--index", count).assert_refused(f"--index {count}", f"{count - 1}")
    cli(*options, "--index", -1).assert_refused("--index", "-1")
    cli(*options, "--index", "x").assert_refused("--index", "x")
    cli(*options, "--index", 0, "--image", "one.png").assert_refused("--index", "--image")
    cli(*options, "--image", "one.png", "--index", 5).assert_refused("--index", "--image")
    cli(*options, "--image", "one.png", "--dataset", "sample").assert_refused("--dataset")
    cli(*options, "--image", "missing.png").assert_refused("missing.png")
    cli(*options, "--image", "blank.png").assert_refused("no ink")
    cli(*options, "--image", "text.png").assert_refused("text.png")
    cli(*options, "--out", "x.txt").assert_refused("--out", ".png")
    cli(*options, "--out", ".").assert_refused("--out")
    cli(*options, "--dataset", "kmnist").assert_refused("kmnist")
    cli("show-features").assert_refused("checkpoints/best.pt", "train")
    assert sorted(tmp_path.iterdir()) == before


def test_a_window_is_opened_where_there_is_one(
    cli: Callable, sample_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from matplotlib import pyplot

    from mnist_cnn import visualize

    shown = []
    monkeypatch.setattr(visualize, "can_show", lambda: True)
    monkeypatch.setattr(visualize, "show", lambda: shown.extend(pyplot.get_fignums()))
    outcome = cli("show-features", "--ckpt", sample_checkpoint)
    pyplot.close("all")
    assert (outcome.status, outcome.out, len(shown)) == (0, "", 1)
    assert list(tmp_path.iterdir()) == []
