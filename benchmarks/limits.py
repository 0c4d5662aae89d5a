"""What limits a recipe: the test images that every one of its networks reads wrong.

    python benchmarks/limits.py --ckpt s0/best.pt s1/best.pt s2/best.pt [--out missed.png]

An image that one seed reads right and another wrong is a matter of chance, and more training, or
the mean of several networks' answers, may fix it. What all of them miss is not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from sure import make_parser, open_networks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package beside this folder

from mnist_cnn import Error, visualize
from mnist_cnn.data import load_split
from mnist_cnn.datasets import DIGITS
from mnist_cnn.evaluate import compute_logits, to_probabilities


def main() -> None:
    """Measure what the command line asks for."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", metavar="FILE", help="draw what all of them miss")
    args = parser.parse_args()
    try:
        models = open_networks(args.ckpt)
        images, labels = load_split("mnist", "test", args.data_dir)
    except (Error, OSError) as error:
        parser.error(str(error))
    answers = torch.stack(
        [to_probabilities(model, compute_logits(model, images)) for model in models]
    )  # (networks, N, 10)
    wrong = answers.argmax(2) != labels
    together = answers.mean(0)
    missed = wrong.all(0).nonzero()[:, 0]
    missed = missed[together[missed].amax(1).argsort(descending=True)]
    guesses = together[missed].argmax(1)
    agreed = (answers[:, missed].argmax(2) == guesses).all(0)
    figures = {
        "mistakes": wrong.sum(1).tolist(),
        "mistakes of the mean of their answers": int((together.argmax(1) != labels).sum()),
        "missed by at least one": int(wrong.any(0).sum()),
        "missed by all": len(missed),
        "with the same answer": int(agreed.sum()),
    }
    for name, figure in figures.items():
        print(f"{name}: {figure}")
    named = [
        {
            "index": int(index),
            "label": int(labels[index]),
            "answers": answers[:, index].argmax(1).tolist(),
            "probability": round(float(together[index].max()), 3),
        }
        for index in missed
    ]
    for one in named:
        read = " ".join(map(str, one["answers"]))
        print(
            f"  image {one['index']:4}: {one['label']}, read {read}, {one['probability']:.0%} sure"
        )
    if args.json:
        text = json.dumps({**figures, "images": named}, indent=1) + "\n"
        Path(args.json).write_text(text, encoding="utf-8")
    if args.out:
        figure = visualize.draw_predictions(
            images[missed].numpy(),
            labels[missed].tolist(),
            guesses.tolist(),
            together[missed].amax(1).tolist(),
            list(DIGITS),
            f"missed by all of {len(models)} networks",
        )
        Path(args.out).write_bytes(visualize.save(figure, Path(args.out).suffix))


if __name__ == "__main__":
    main()
