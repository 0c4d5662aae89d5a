"""Checkpoints in the form in which version 1.0 wrote them, made from those of today."""

from pathlib import Path
from typing import Any

import torch

from mnist_cnn import checkpoint
from mnist_cnn.start import resume_run

# The entries of a recipe that 1.0 did not know, with what they are where it did what it did.
LATER: dict[str, Any] = {"flags": 0.0, "non_digits": 0.0, "weight_decay": 0.0}


def write_as_version_1(source: Path, target: Path) -> None:
    """Write what a file of today holds as version 1.0 would have written it.

    Where today's `resume` has only what does not follow from the plan, it had the whole of what
    the optimizer and the schedule give; a recipe without augmentation had an empty one and drew
    nothing beside its images; and no temperature was fitted.
    """
    values = torch.load(source, weights_only=True)
    if "resume" in values:
        paused = checkpoint.load_run(source)
        recipe = paused.plan.recipe
        images = len(paused.losses) // recipe.epochs * recipe.batch_size
        run = resume_run(paused, images, torch.device("cpu"))
        state = values["resume"]
        state["optimizer"] = run.optimizer.state_dict()
        state["schedule"] = run.schedule.state_dict()
        assert {"param_groups", "state"} == state["optimizer"].keys()
        assert {"base_lrs", "total_steps", "last_epoch"} <= state["schedule"].keys()
        rename(state["best"])
    rename(values)
    torch.save(values, target)


def rename(values: dict[str, Any]) -> None:
    """Give a trained network the recipe and the versions of 1.0, and no temperature."""
    del values["temperature"]
    for later in LATER:
        del values["recipe"][later]
    augmentation = values["recipe"]["augmentation"]
    if not any(augmentation.values()):
        augmentation.clear()
    values["versions"]["mnist_cnn"] = "1.0.0"
