"""Every hyperparameter, by name: the recipes fit the data sets, and are within their ranges."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import pytest

import mnist_cnn
from mnist_cnn.augment import augment
from mnist_cnn.data import Split, load_split
from mnist_cnn.datasets import SOURCES
from mnist_cnn.model import CNN
from mnist_cnn.recipes import MAX_EPOCHS, RECIPES, Augmentation
from mnist_cnn.start import plan_run


@pytest.fixture(scope="module")
def split() -> Split:
    return load_split("sample", "test", "")


@pytest.mark.parametrize("dataset", SOURCES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_planned_for_every_data_set(
    name: str, dataset: str, split: Split
) -> None:
    plan = plan_run(name, {}, 3, dataset, split)
    assert plan.recipe.name == name
    assert plan.recipe.epochs == RECIPES[name].epochs * (4 if dataset == "sample" else 1)
    expected = dataclasses.replace(RECIPES[name], epochs=plan.recipe.epochs)
    if dataset not in ("mnist", "sample"):  # neither clothes nor letters have flags
        expected = dataclasses.replace(expected, flags=0.0, non_digits=0.0)
    assert plan.recipe == expected
    assert (plan.seed, plan.dataset, plan.overrides) == (3, dataset, {})
    assert plan.classes == SOURCES[dataset].classes
    pixels = augment(split.images[:2], plan.recipe.augmentation)
    assert CNN(**plan.model_args)(pixels).shape == (2, 10)


def test_the_recipes_are_those_that_are_promised() -> None:
    assert list(RECIPES) == ["fast", "standard", "best"]
    assert [recipe.name for recipe in RECIPES.values()] == list(RECIPES)


def test_names_and_hyperparameters_are_had_without_loading_torch() -> None:
    code = "import sys, mnist_cnn.recipes; print(*sys.modules)"
    package = Path(mnist_cnn.__file__).parents[1]
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=package, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "mnist_cnn.recipes" in loaded
    assert not {"torch", "torchvision", "numpy", "matplotlib"} & set(loaded)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("epochs", MAX_EPOCHS + 1),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", 1.1e30),
        ("lr", math.inf),
        ("lr", math.nan),
        ("betas", (0.9, 1.0)),
        ("betas", (-0.1, 0.9)),
        ("betas", (math.nan, 0.9)),
        ("average", -1.0),
        ("average", math.inf),
        ("label_smoothing", 1.1),
        ("label_smoothing", math.nan),
        ("channels", (0, 32)),
        ("kernels", (5, 0)),
        ("hidden", 0),
        ("dropout", (0.1, 1.1)),
        ("dropout", (-0.1, 0.3)),
        ("fade", 1.1),
        ("fade", -0.1),
        ("flags", 1.1),
        ("flags", -0.1),
        ("non_digits", 1.1),
        ("non_digits", -0.1),
        ("weight_decay", -0.1),
        ("weight_decay", math.inf),
        ("weight_decay", math.nan),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="out of range"):
        dataclasses.replace(RECIPES["standard"], **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1),
        ("epochs", MAX_EPOCHS),
        ("batch_size", 1),
        ("lr", 1e-6),
        ("betas", (0.0, 0.0)),
        ("average", 0.0),
        ("label_smoothing", 0.0),
        ("label_smoothing", 1.0),
        ("dropout", (0.0, 1.0)),
        ("fade", 0.0),
        ("fade", 1.0),
    ],
)
def test_the_ends_of_the_ranges_are_taken(name: str, value: object) -> None:
    recipe = dataclasses.replace(RECIPES["standard"], **{name: value})
    assert getattr(recipe, name) == value


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Augmentation)])
@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_no_augmentation_is_weaker_than_none_or_without_end(name: str, strength: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is out of range"):
        Augmentation(**{name: strength})


def test_no_stroke_moves_further_than_to_its_neighbour() -> None:
    """Beyond 1 pixels would leave the range of 0 to 1."""
    assert Augmentation(stroke=1.0).stroke == 1
    with pytest.raises(ValueError, match="stroke is out of range"):
        Augmentation(stroke=1.01)


def test_a_recipe_stays_as_it_is() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["fast"].epochs = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        RECIPES["best"].augmentation.rotate = 2.0  # type: ignore[misc]
