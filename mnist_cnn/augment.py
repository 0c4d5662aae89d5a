"""Augmentation: a batch of digits, varied at random as handwriting varies.

Everything is done to the whole batch at once, on whatever device it is on, so it takes only a small
part of a training step. The random numbers come from torch's global generator.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F

from mnist_cnn.datasets import SIZE
from mnist_cnn.recipes import Augmentation

BUMPS = 6  # of the elastic displacement, along each side of the image
SIGMA = 4.0  # the width (standard deviation) of such a bump, in pixels


def augment(images: torch.Tensor, strengths: Augmentation) -> torch.Tensor:
    """Vary each image at random.

    Args:
        images: uint8 (N, 28, 28), pixels from 0 to 255.
        strengths: how strong each kind of augmentation is.

    Returns:
        pixels, float (N, 1, 28, 28) in [0, 1].
    """
    pixels = images.unsqueeze(1)
    if strengths.stroke:
        pixels = vary_strokes(pixels, strengths.stroke)
    pixels = pixels.float().div_(255)
    if dataclasses.replace(strengths, stroke=0.0) == Augmentation():
        return pixels  # nothing moves
    grids = draw_grids(len(images), strengths, images.device)
    return F.grid_sample(pixels, grids, align_corners=False)


def weaken(strengths: Augmentation, epoch: int, epochs: int, fade: float) -> Augmentation:
    """Return the strengths for an epoch (1, 2, ...): they decrease over the last ones.

    With fade 0.3 and 10 epochs, the eighth has full strength, the ninth two thirds of it, the tenth
    a third.
    """
    left = (epochs - epoch + 1) / epochs  # of the run, in (0, 1]
    share = min(1.0, left / fade) if fade else 1.0
    return Augmentation(**{key: value * share for key, value in vars(strengths).items()})


def draw_grids(n: int, strengths: Augmentation, device: torch.device) -> torch.Tensor:
    """Draw n random grids: where in the old image each pixel of the new one is taken from.

    Returns:
        positions x, y in [-1, 1] across the image, as grid_sample expects them, or outside of it:
        float (n, 28, 28, 2).
    """
    angle, widen, heighten, slant, right, down = 2 * torch.rand(6, n, device=device) - 1
    sin, cos = torch.sin(angle * strengths.rotate), torch.cos(angle * strengths.rotate)
    widen, heighten = 1 + widen * strengths.scale, 1 + heighten * strengths.scale
    slant = slant * strengths.shear
    # Every grid is a weighted sum of the basis functions: one matrix product computes them all.
    basis = warp_basis(device)
    weights = torch.randn(len(basis), n, 2, device=device) * (strengths.elastic * 2 / SIZE)
    weights[0] = torch.stack([right, down], 1) * (2 * strengths.shift)
    weights[1] = torch.stack([cos * widen, sin * heighten], 1)
    weights[2] = torch.stack([(cos * slant - sin) * widen, (sin * slant + cos) * heighten], 1)
    looks_at = basis.T @ weights.view(len(basis), -1)  # (784, 39) @ (39, 2 n)
    return looks_at.view(SIZE, SIZE, n, 2).permute(2, 0, 1, 3)


@functools.cache
def warp_basis(device: torch.device) -> torch.Tensor:
    """Return the smooth functions of a pixel's position that every grid is a sum of: (39, 784).

    The first three, 1, x and y, give any affine map; the others are BUMPS by BUMPS Gaussian bumps,
    SIGMA pixels wide, whose random sums are the elastic displacement of Simard, Steinkraus and
    Platt, "Best Practices for Convolutional Neural Networks" (2003). They are scaled so that a sum
    with random weights of standard deviation 1 has a standard deviation near 1.
    """
    centre = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1  # of the pixels, in [-1, 1]
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    distance = (centre[:, None] - torch.linspace(-1, 1, BUMPS)) * SIZE / 2  # pixels, (28, 6)
    bump = torch.exp(-(distance**2) / (2 * SIGMA**2))
    elastic = torch.einsum("yi,xj->ijyx", bump, bump).reshape(-1, SIZE * SIZE)
    elastic /= elastic.square().sum(0).sqrt().mean()
    affine = torch.stack([torch.ones(SIZE, SIZE), x, y]).reshape(3, -1)
    return torch.cat([affine, elastic]).to(device)


def vary_strokes(images: torch.Tensor, strength: float) -> torch.Tensor:
    """Thicken strokes in the first half of a batch and thin them in the second.

    The order of a batch is random, so which half an image is in is random too (the one image of a
    batch of 1 can only be thinned); in each half, about every other image stays as it is. A pixel
    moves toward the brightest (thicker) or darkest (thinner) of itself and its four neighbours.

    Args:
        images: uint8 (N, 1, 28, 28).
        strength: how far a pixel moves at most, in [0, 1].

    Returns:
        float (N, 1, 28, 28), from 0 to 255.
    """
    half = len(images) // 2
    padded = F.pad(images, (1, 1, 1, 1))
    above, below = padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]
    left, right = padded[..., 1:-1, :-2], padded[..., 1:-1, 2:]
    thick, thin = images[:half], images[half:]
    for neighbour in (above, below, left, right):
        thick = torch.maximum(thick, neighbour[:half])
        thin = torch.minimum(thin, neighbour[half:])
    amount = torch.rand(len(images), 1, 1, 1, device=images.device) * 2 - 1
    amount = amount.clamp_(min=0) * strength
    return torch.lerp(images.float(), torch.cat([thick, thin]).float(), amount)
