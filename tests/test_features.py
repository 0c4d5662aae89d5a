"""What a network does with one image: every number against one worked out another way."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_cnn import checkpoint
from mnist_cnn.data import Split, load_split, to_pixels
from mnist_cnn.evaluate import (
    Evaluation,
    compute_logits,
    reliability,
    to_probabilities,
    wilson_interval,
)
from mnist_cnn.features import (
    dropout_passes,
    feature_maps,
    layer_table,
    loss_along_weight,
    normalised,
    occlusion_map,
    strongest_patch,
    take_patch,
    trace_steps,
    vary_by_kind,
)
from mnist_cnn.model import CNN
from mnist_cnn.recipes import RECIPES, Augmentation


def make_model(name: str = "standard") -> CNN:
    recipe = RECIPES[name]
    torch.manual_seed(1)
    return CNN(recipe.channels, recipe.kernels, recipe.hidden, recipe.dropout)


@pytest.fixture(scope="module")
def test_split() -> Split:
    return load_split("sample", "test", "")


@pytest.fixture(scope="module")
def trained(sample_checkpoint: Path) -> CNN:
    return checkpoint.load(sample_checkpoint).build_model()


# ------------------------------------------------------------------------------ layer by layer


@pytest.mark.parametrize("name", RECIPES)
def test_the_tables_totals_are_pytorchs_own(name: str) -> None:
    model = make_model(name)
    table = layer_table(model)
    parameters = sum(layer.parameters for layer in table)
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28))
    assert 2 * sum(layer.multiply_adds for layer in table) == counter.get_total_flops()


def test_the_default_network_has_the_parameters_that_are_promised() -> None:
    assert sum(layer.parameters for layer in layer_table(CNN())) == 215_194


def test_the_table_has_a_row_for_each_step_of_forward() -> None:
    rows = [(layer.name, layer.shape) for layer in layer_table(CNN())]
    assert rows == [
        ("image", (1, 28, 28)),
        ("conv1", (24, 24, 24)), ("max_pool2d", (24, 12, 12)), ("relu", (24, 12, 12)),
        ("conv2", (32, 10, 10)), ("max_pool2d", (32, 5, 5)), ("relu", (32, 5, 5)),
        ("flatten", (800,)),
        ("dropout1", (800,)), ("fc1", (256,)), ("relu", (256,)),
        ("dropout2", (256,)), ("fc2", (10,)),
    ]  # fmt: skip
    conv2 = layer_table(CNN())[4]
    assert conv2.kind == "Conv2d 3x3"
    assert conv2.parameters == 32 * (24 * 3 * 3 + 1)
    assert conv2.multiply_adds == 32 * 10 * 10 * 24 * 3 * 3


def test_the_last_step_is_the_answer(test_split: Split) -> None:
    model = make_model()
    images = test_split.images[:5]
    logits = trace_steps(model, to_pixels(images))[-1].output
    assert torch.equal(logits, compute_logits(model, images))


@pytest.mark.parametrize("name", ["standard", "best"])
def test_feature_maps_are_what_the_layers_give(name: str, test_split: Split) -> None:
    model = make_model(name)
    first, second = feature_maps(model, test_split.images[3])
    x = normalised(model, test_split.images[3])[None, None]
    with torch.no_grad():
        x = F.relu(F.max_pool2d(model.conv1(x), 2))
        assert torch.allclose(first, x[0], atol=1e-5)
        x = F.relu(F.max_pool2d(model.conv2(x), 2))
    assert torch.allclose(second, x[0], atol=1e-5)


# ------------------------------------------------------------------------------ one patch


def test_the_sum_worked_out_is_what_the_convolution_gives(test_split: Split) -> None:
    model = make_model()
    image = test_split.images[7]
    with torch.no_grad():
        responses = model.conv1(normalised(model, image)[None, None])[0]
    for number, row, column in [(0, 0, 0), (5, 10, 12), (23, 23, 23)]:
        patch = take_patch(model, image, number, row, column)
        assert patch.response == pytest.approx(responses[number, row, column].item(), abs=1e-5)
        by_hand = patch.bias
        for y in range(5):
            for x in range(5):
                pixel = (image[row + y, column + x].item() / 255 - 0.1307) / 0.3081
                by_hand += pixel * model.conv1.weight[number, 0, y, x].item()
        assert patch.response == pytest.approx(by_hand, abs=1e-4)


@pytest.mark.parametrize("name", ["standard", "best"])
def test_the_strongest_patch_is_the_strongest(name: str, test_split: Split) -> None:
    model = make_model(name)
    for image in test_split.images[:3]:
        patch = strongest_patch(model, image)
        with torch.no_grad():
            responses = model.conv1(normalised(model, image)[None, None])[0]
        assert patch.response == pytest.approx(responses.max().item(), abs=1e-5)
        at = responses[patch.filter, patch.row, patch.column].item()
        assert patch.response == pytest.approx(at, abs=1e-5)


# ------------------------------------------------------------------------------ occlusion


def test_a_square_on_the_empty_corner_changes_nothing(trained: CNN, test_split: Split) -> None:
    image = test_split.images[0]
    assert image[:4, :4].max() == 0
    answer = int(compute_logits(trained, image[None]).argmax())
    sure = to_probabilities(trained, compute_logits(trained, image[None]))[0, answer].item()
    covered = occlusion_map(trained, image, answer)
    assert covered.shape == image.shape
    assert covered[0, 0].item() == pytest.approx(sure, abs=0.01)
    # A square of paper on paper is no square at all.
    blank = occlusion_map(trained, image, answer, side=7, grey=0)
    assert blank[0, 0].item() == pytest.approx(sure, abs=1e-6)


def test_what_is_left_is_at_the_networks_temperature(trained: CNN, test_split: Split) -> None:
    image, hot = test_split.images[0], copy.deepcopy(trained)
    hot.temperature = 5.0
    logits = compute_logits(trained, image[None])
    answer = int(logits.argmax())
    blank = occlusion_map(hot, image, answer, side=1, grey=int(image[14, 14]))
    expected = (logits / 5).softmax(1)[0, answer].item()
    assert blank[14, 14].item() == pytest.approx(expected, abs=1e-6)
    cold = dropout_passes(without_dropout(trained), image, 2)
    assert (dropout_passes(without_dropout(hot), image, 2)[:, answer] < cold[:, answer]).all()


def without_dropout(model: CNN) -> CNN:
    still = copy.deepcopy(model)
    still.dropout1.p = still.dropout2.p = 0.0
    return still


def test_a_square_on_the_strokes_changes_the_answer(trained: CNN, test_split: Split) -> None:
    lowest = []
    for image in test_split.images[::100]:
        answer = int(compute_logits(trained, image[None]).argmax())
        covered = occlusion_map(trained, image, answer)
        assert covered.min() >= 0 and covered.max() <= 1
        lowest.append(covered.min().item())
    assert sorted(lowest)[2] < 0.5  # of ten digits; how many it is differs from machine to machine


@pytest.mark.parametrize(("row", "column"), [(5, 20), (0, 1), (27, 0), (1, 27)])
def test_the_map_says_where_the_square_was(row: int, column: int) -> None:
    """A network that looks at one pixel alone, in the middle or at the edge."""

    class Looks(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.stack([pixels[:, 0, row, column] * 10, pixels[:, 0, row, column] * 0], 1)

    blank = torch.zeros(28, 28, dtype=torch.uint8)
    covered = occlusion_map(Looks(), blank, 0, side=3, grey=255)
    expected = torch.full((28, 28), 0.5)
    expected[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 1 / (1 + math.exp(-10))
    assert torch.allclose(covered, expected)
    # By default, nine pixels a side, half-way between paper and ink.
    half = occlusion_map(Looks(), blank, 0)
    expected[max(0, row - 4) : row + 5, max(0, column - 4) : column + 5] = 1 / (1 + math.exp(-5))
    assert torch.allclose(half, expected, atol=1e-3)


# ------------------------------------------------------------------------------ dropout


def test_passes_with_dropout_differ_and_can_be_had_again(trained: CNN, test_split: Split) -> None:
    image = test_split.images[0]
    torch.manual_seed(3)
    first = dropout_passes(trained, image)
    assert first.shape == (20, 10)
    assert torch.allclose(first.sum(1), torch.ones(20), atol=1e-5)
    assert len(first.unique(dim=0)) == 20
    torch.manual_seed(3)
    assert torch.equal(dropout_passes(trained, image), first)


def test_without_dropout_every_pass_is_the_same(test_split: Split) -> None:
    model = make_model("fast")  # its dropout is 0
    image = test_split.images[0]
    expected = compute_logits(model, image[None]).softmax(1)
    passes = dropout_passes(model, image, 3)
    assert torch.allclose(passes, expected.expand(3, 10), atol=1e-6)


# ------------------------------------------------------------------------------ augmentation


def test_each_kind_of_augmentation_is_drawn_by_itself(test_split: Split) -> None:
    image = test_split.images[0]
    torch.manual_seed(0)
    kinds = vary_by_kind(image, Augmentation(rotate=0.3, stroke=1.0), count=8)
    assert list(kinds) == ["rotate", "stroke", "all"]
    for variants in kinds.values():
        assert variants.shape == (8, 28, 28)
        assert variants.min() >= 0 and variants.max() <= 1
        assert len(variants.unique(dim=0)) > 2
    # Strokes neither move nor turn: what was ink in the original's middle stays ink.
    thick = kinds["stroke"][:4]
    assert (thick >= to_pixels(image[None])[0, 0] - 1e-6).all()


# ------------------------------------------------------------------------------ one weight


def test_the_loss_along_a_weight_has_the_slope_that_nudging_shows(test_split: Split) -> None:
    model = make_model().eval()
    batch = Split(test_split.images[:100], test_split.labels[:100])

    def loss_at(change: float) -> float:
        with torch.no_grad():
            model.fc2.weight[3, 5] += change
            loss = F.cross_entropy(model(to_pixels(batch.images)).double(), batch.labels)
            model.fc2.weight[3, 5] -= change
        return loss.item()

    training = copy.deepcopy(model).train()  # dropout is off in any case
    curve = loss_along_weight(training, batch, "fc2.weight", (3, 5), reach=0.5, points=5)
    weight = model.fc2.weight[3, 5].item()
    assert curve.weight == weight
    assert curve.values == pytest.approx(
        [weight + change for change in (-0.5, -0.25, 0, 0.25, 0.5)], abs=1e-6
    )
    assert curve.losses == pytest.approx(
        [loss_at(c) for c in (-0.5, -0.25, 0, 0.25, 0.5)], abs=1e-4
    )
    assert curve.loss == pytest.approx(loss_at(0), abs=1e-5)
    nudged = (loss_at(0.05) - loss_at(-0.05)) / 0.1
    assert curve.slope == pytest.approx(nudged, rel=0.05)


# ------------------------------------------------------------------------------ all of them


@pytest.mark.parametrize(
    "look",
    [
        lambda model, split: layer_table(model),
        lambda model, split: feature_maps(model, split.images[0]),
        lambda model, split: strongest_patch(model, split.images[0]),
        lambda model, split: dropout_passes(model, split.images[0], 2),
        lambda model, split: loss_along_weight(
            model, Split(split.images[:9], split.labels[:9]), "conv1.bias", (0,), points=3
        ),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(
    look: Callable[[CNN, Split], object], training: bool, test_split: Split
) -> None:
    model = make_model().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    look(model, test_split)
    assert all(module.training == training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------ reliability


def test_bins_compare_confidence_with_accuracy() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    guesses = torch.tensor([0, 0, 1, 0, 1, 0])
    confidences = torch.tensor([0.95, 1.0, 0.91, 0.33, 0.37, 0.55])
    bins = reliability(Evaluation(0.0, labels, guesses, confidences), 10)
    assert [one.n for one in bins] == [2, 1, 3]
    assert [one.confidence for one in bins] == pytest.approx([0.35, 0.55, 0.9533333])
    assert [one.accuracy for one in bins] == pytest.approx([1, 0, 2 / 3])
    for one in bins:
        assert 0 <= one.low <= one.accuracy + 1e-9 and one.accuracy - 1e-9 <= one.high <= 1


def test_an_interval_is_the_one_in_the_tables() -> None:
    # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), method 3.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0.0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson_interval(1.0, 20) == pytest.approx((0.8389, 1), abs=1e-4)
