"""The network: its size, its shapes, what it does to pixels, and what travels with it."""

import pytest
import torch
import torch.nn.functional as F

from mnist_cnn.model import CNN


def test_it_has_215194_parameters_at_its_default_widths() -> None:
    assert sum(parameter.numel() for parameter in CNN().parameters()) == 215_194


@pytest.mark.parametrize("n", [1, 2, 7])
def test_images_become_ten_logits_each(n: int) -> None:
    logits = CNN()(torch.rand(n, 1, 28, 28))
    assert logits.shape == (n, 10)
    assert logits.dtype == torch.float32


def test_it_answers_with_logits_and_no_softmax() -> None:
    logits = CNN().eval()(torch.rand(8, 1, 28, 28))
    assert logits.min() < 0
    assert not torch.allclose(logits.sum(1), torch.ones(8), atol=0.05)


def test_the_widths_change_the_number_of_parameters_as_one_reckons() -> None:
    first, second = 32 * (1 * 5 * 5) + 32, 64 * (32 * 5 * 5) + 64
    # 28 - 4 = 24, pooled 12; 12 - 4 = 8, pooled 4
    linear = 512 * (64 * 4 * 4) + 512 + 10 * 512 + 10
    model = CNN(channels=(32, 64), kernels=(5, 5), hidden=512)
    assert sum(parameter.numel() for parameter in model.parameters()) == first + second + linear


def test_its_layers_are_those_of_the_design() -> None:
    layers = {name: type(layer).__name__ for name, layer in CNN().named_children()}
    assert layers == {
        "conv1": "Conv2d",
        "conv2": "Conv2d",
        "dropout1": "Dropout",
        "fc1": "Linear",
        "dropout2": "Dropout",
        "fc2": "Linear",
    }


def test_its_answers_are_those_of_the_textbook() -> None:
    """Each convolution is followed by ReLU and pooling, the first linear layer by ReLU."""
    model, images = CNN(mean=0.0, std=1.0).eval(), torch.rand(4, 1, 28, 28)
    x = F.max_pool2d(F.relu(F.conv2d(images, model.conv1.weight, model.conv1.bias)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, model.conv2.weight, model.conv2.bias)), 2)
    x = F.relu(x.flatten(1) @ model.fc1.weight.T + model.fc1.bias)
    expected = x @ model.fc2.weight.T + model.fc2.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_it_normalises_the_pixels_itself() -> None:
    images = torch.rand(4, 1, 28, 28)
    plain = CNN(mean=0.0, std=1.0).eval()
    own = CNN(mean=0.3, std=0.2).eval()
    own.load_state_dict({**plain.state_dict(), "mean": own.mean, "std": own.std})
    torch.testing.assert_close(own(images), plain((images - 0.3) / 0.2))
    assert not torch.allclose(own(images), plain(images))


def test_by_default_it_expects_mnists_pixels_and_shows_its_answers_as_they_are() -> None:
    model = CNN()
    assert (model.mean.item(), model.std.item()) == pytest.approx((0.1307, 0.3081))
    assert model.temperature == 1


def test_mean_and_deviation_travel_with_the_weights_and_are_not_trained() -> None:
    model = CNN(mean=0.25, std=0.5)
    assert model.state_dict()["mean"].item() == 0.25
    assert model.state_dict()["std"].item() == 0.5
    assert {name for name, _ in model.named_parameters()}.isdisjoint({"mean", "std"})


def test_widths_classes_and_dropout_are_its_arguments() -> None:
    model = CNN(channels=(3, 5), hidden=11, dropout=(0.1, 0.9), classes=4)
    assert model.conv1.weight.shape == (3, 1, 5, 5)
    assert model.conv2.weight.shape == (5, 3, 3, 3)
    assert model.fc1.weight.shape == (11, 5 * 5 * 5)
    assert (model.dropout1.p, model.dropout2.p) == (0.1, 0.9)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 4)


def test_an_image_is_read_alike_alone_and_among_others() -> None:
    model, images = CNN().eval(), torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(model(images)[3:4], model(images[3:4]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dropout", [(0.5, 0.0), (0.0, 0.5)])
def test_dropout_works_in_training_only(dropout: tuple[float, float]) -> None:
    model, images = CNN(dropout=dropout), torch.rand(4, 1, 28, 28)
    assert not torch.equal(model.train()(images), model(images))
    assert torch.equal(model.eval()(images), model(images))


def test_every_parameter_gets_a_gradient() -> None:
    model = CNN()
    model(torch.rand(16, 1, 28, 28)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("kernels", [(29, 3), (28, 5), (27, 1), (5, 12), (5, 20), (31, 31)])
def test_kernels_that_leave_nothing_of_an_image_are_refused(kernels: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="kernels"):
        CNN(kernels=kernels)
    assert CNN(kernels=(5, 11))(torch.rand(1, 1, 28, 28)).shape == (1, 10)
