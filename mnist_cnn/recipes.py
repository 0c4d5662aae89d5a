"""The recipes, by name: the sizes of the network and how it is trained (no torch in here)."""

import math
from dataclasses import dataclass

# A larger value is a typing error, or a file made to do harm.
MAX_EPOCHS = 10_000
MAX_RATE = 1e30  # a GPU keeps it in float32


@dataclass(frozen=True)
class Augmentation:
    """How strongly each kind of augmentation varies an image; 0 leaves it as it is.

    rotate: largest angle, in radians, either way.
    shift: largest shift along each axis, as a share of the image's side.
    scale: the largest change, as a share, in how much of the old image the new one shows along each
        axis: at 0.2, a digit gets up to a quarter larger or a sixth smaller.
    shear: largest slant, in pixels sideways per pixel of height.
    elastic: standard deviation of the elastic displacement, in pixels.
    stroke: how far strokes are thickened or thinned, from 0 (not at all) to 1 (by at most a whole
        pixel on each side). Half of the images keep their strokes as they are.
    """

    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    stroke: float = 0.0

    def __post_init__(self) -> None:
        """Refuse strengths out of range (ValueError)."""
        for name, strength in vars(self).items():
            require(math.isfinite(strength) and strength >= 0, f"augmentation's {name}")
        require(self.stroke <= 1, "augmentation's stroke")


@dataclass(frozen=True)
class Recipe:
    """Every hyperparameter of a training run.

    name: the recipe's name, as --recipe takes it.
    epochs: passes over the training images, at most MAX_EPOCHS.
    batch_size: images per step, over all processes.
    lr: the peak of the one-cycle learning rate (Smith and Topin, 2017).
    betas: Adam's decay rates for the mean of the gradient and of its square.
    average: the weights that are evaluated and saved are an exponential moving average (EMA), with
        a memory of about this many epochs; it smooths out the effect of the last few batches.
        (Polyak and Juditsky, 1992, averaged all steps alike.)
    label_smoothing: the share of each label's certainty spread over all classes.
    channels, kernels, hidden, dropout: the network's arguments (model.CNN).
    augmentation: how strongly the training images are varied.
    fade: over this last share of the epochs the augmentation weakens in equal steps, to nearly
        nothing, so that training ends on digits as people write them.
    flags: the share of the ones that get a flag before training starts (enrich.draw_flags).
    non_digits: how many pictures that show no single digit are added to the training images
        (enrich.put_side_by_side), as a share of these.
    weight_decay: each step also shrinks every weight by a share of it, weight_decay times the
        learning rate (AdamW: Loshchilov and Hutter, 2019); with 0 the optimizer is plain Adam.

    A field that is added later needs a default that leaves everything as it was, so that
    checkpoints written before it can still be read and resumed.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    betas: tuple[float, float]
    average: float
    label_smoothing: float
    channels: tuple[int, int]
    kernels: tuple[int, int]
    hidden: int
    dropout: tuple[float, float]
    augmentation: Augmentation
    fade: float
    flags: float = 0.0
    non_digits: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range (ValueError)."""
        require(self.name.isprintable() and len(self.name) < 100, "name")
        require(1 <= self.epochs <= MAX_EPOCHS, "epochs")
        require(self.batch_size >= 1, "batch_size")
        require(0 < self.lr <= MAX_RATE, "lr")
        require(all(0 <= beta < 1 for beta in self.betas), "betas")
        require(math.isfinite(self.average) and self.average >= 0, "average")
        require(0 <= self.label_smoothing <= 1, "label_smoothing")
        require(min(*self.channels, *self.kernels, self.hidden) >= 1, "network")
        require(all(0 <= share <= 1 for share in self.dropout), "dropout")
        require(0 <= self.fade <= 1, "fade")
        require(0 <= self.flags <= 1, "flags")
        require(0 <= self.non_digits <= 1, "non_digits")
        require(math.isfinite(self.weight_decay) and self.weight_decay >= 0, "weight_decay")

    def steps(self, images: int) -> int:
        """Return how many steps a run takes; an epoch leaves out a last batch that is not full.

        Args:
            images: how many are in the training split.
        """
        return self.epochs * (images // self.batch_size)


def require(in_range: bool, what: str) -> None:
    """Raise a ValueError that says what is out of range, unless it is in range."""
    if not in_range:
        raise ValueError(f"{what} is out of range")


FAST = Recipe(
    name="fast",
    epochs=1,
    batch_size=256,
    lr=0.01,
    betas=(0.7, 0.9),
    average=0.1,
    label_smoothing=0.1,
    channels=(24, 32),
    kernels=(5, 3),
    hidden=256,
    dropout=(0.0, 0.0),
    augmentation=Augmentation(),
    fade=0.0,
)
STANDARD = Recipe(
    name="standard",
    epochs=10,
    batch_size=128,
    lr=0.004,
    betas=(0.9, 0.999),
    average=0.3,  # short, to keep up while the augmentation weakens
    label_smoothing=0.0,
    channels=(24, 32),
    kernels=(5, 3),
    hidden=256,
    dropout=(0.1, 0.3),
    augmentation=Augmentation(
        rotate=0.3, shift=0.04, scale=0.18, shear=0.3, elastic=0.9, stroke=0.8
    ),
    fade=0.6,  # distortion as strong as this pays off only if it weakens before training ends
    flags=0.15,
    non_digits=0.05,
)
BEST = Recipe(
    name="best",
    epochs=36,
    batch_size=128,
    lr=0.003,
    betas=(0.9, 0.999),
    average=0.2,
    label_smoothing=0.0,
    # With larger filters in the second layer, each number after its pooling has seen 16x16 pixels
    # of the image instead of 12x12.
    channels=(32, 64),
    kernels=(5, 5),
    hidden=512,
    dropout=(0.3, 0.5),
    augmentation=Augmentation(
        rotate=0.35, shift=0.05, scale=0.2, shear=0.4, elastic=1.2, stroke=1.0
    ),
    fade=0.6,
    weight_decay=0.05,
)
RECIPES = {recipe.name: recipe for recipe in (FAST, STANDARD, BEST)}
