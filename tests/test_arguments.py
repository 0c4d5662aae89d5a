"""Whatever arguments a command gets: it does its work, or refuses in words and changes nothing.

The arguments are made by hypothesis: right options and wrong ones, values that are no numbers,
empty, of thousands of characters, names of files, of folders and of nothing.
"""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, Tiny, leave_undrawn, slow
from hypothesis import configuration, given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_cnn import demo, visualize
from mnist_cnn.datasets import SOURCES
from mnist_cnn.recipes import RECIPES

# Without a slash that could lead out of the folder. The last one stands for a byte that is no
# UTF-8, as Python hands it on; no other surrogate can come from a command line there.
ODD = "aÄ四😀 \n\t\x1b\"'$*?[]{}!~#%&;|<>()=+-.,:\\@0" + ("" if os.name == "nt" else "\udcff")
TEXT = st.text(ODD, max_size=8)
PICTURES = ["digit.png", "a\nb.png", "$HOME [1]*?.png"] if os.name == "posix" else ["digit.png"]
INPUTS = [
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "text.txt",
    "data",
    "checkpoints",
    *PICTURES,
]
ENDINGS = (".png", ".pdf", ".svg", ".webp", ".PNG", ".txt", ".html", ".onnx", "")
PATHS = st.one_of(
    st.sampled_from(INPUTS),
    st.sampled_from(
        ["", ".", "..", "none", "none/x.png", "new/folder/x.png", "new/x.html", "text.txt/x.png",
         "checkpoints/x.png", "checkpoints/", "*.png", "[", "$(exit 1)", "~", "-", "=",
         "/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem"]
    ),
    st.builds(str.__add__, TEXT | st.sampled_from(["x" * n for n in (250, 300, 5000)]),
              st.sampled_from(ENDINGS)),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from(["0", "-1", "-0", "1", "+2", " 3 ", "٣", "1_0", "0x10", "1e3", "1.5", ".", "",
                     "nan", "NaN", "-nan", "inf", "1e999", "-1e999", "1e-999", "1e30", "9" * 19,
                     "9" * 20, "9" * 5000, "1" + "0" * 400, "None", "one"]),
    TEXT,
)  # fmt: skip
WRONG = st.one_of(NUMBERS, PATHS, TEXT)


def one_of(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


DEVICE = {"--device": one_of("cpu", "cpu", "cpu", "auto")}
CKPT = {"--ckpt": one_of("checkpoints/best.pt", "checkpoints/last.pt")}
DATA = {"--dataset": one_of("mnist", "sample"), "--data-dir": one_of("data", "./data", "new")}
DRAWN = one_of("x.png", "new/x.svg", "checkpoints/x.pdf", *PICTURES)
# What every command has, with values that are right; None where there is no value.
OPTIONS: dict[str, dict[str, st.SearchStrategy[str] | None]] = {
    "train": {
        **DEVICE, "--recipe": one_of(*RECIPES), "--epochs": one_of("1", "2", " 3 "),
        "--batch-size": one_of("20", "100", "200"), "--lr": one_of("0.01", "1e-300", "1e30"),
        "--seed": one_of("0", "7", "9223372036854775807"), **DATA,
        "--out-dir": one_of("checkpoints", "new", "new/er", "", "a\tb"),
        "--resume": one_of("checkpoints/last.pt", "checkpoints/best.pt"), "--quiet": None,
    },
    "eval": {**DEVICE, **CKPT, **DATA, "--json": None, "--confusion": DRAWN},
    "show-predictions": {
        **DEVICE, **CKPT, **DATA, "--out": DRAWN, "--count": one_of("1", "9", "61", "1000"),
        "--wrong": None,
    },
    "predict": {**DEVICE, **CKPT, "--number": None, "--json": None, "--show-input": DRAWN},
    "demo": {**DEVICE, **CKPT, "--port": one_of("1", "7860", "65535")},
    "show-features": {
        **DEVICE, **CKPT, **DATA, "--index": one_of("0", "59", "60"),
        "--image": one_of(*PICTURES, "text.txt"), "--out": DRAWN,
    },
    "summary": {"--ckpt": one_of("checkpoints/best.pt"), "--recipe": one_of(*RECIPES)},
    "export": {**CKPT},
    "": {"--version": None},
}  # fmt: skip
POSITIONAL = {
    "predict": st.lists(st.one_of(one_of(*PICTURES, "*.png"), PATHS), max_size=4),
    "export": st.one_of(
        st.tuples(one_of("x.html", "new/x.onnx", "$.HTML")).map(list), st.lists(PATHS, max_size=2)
    ),
    "": st.lists(st.one_of(TEXT, one_of("trains", "Train", "help", "--nonsense")), max_size=2),
}


@st.composite
def argument_lists(draw: st.DrawFn, command: str) -> list[str]:
    """Most options with a right value; others with a wrong one, without, twice, or unknown."""
    options = OPTIONS[command]
    arguments = draw(POSITIONAL.get(command, st.just([])))
    for _ in range(draw(st.integers(0, 4))):
        option = draw(st.sampled_from([*options]))
        right = options[option]
        how = draw(st.sampled_from(["right"] * 7 + ["wrong"] * 2 + ["=", "missing", "unknown"]))
        if how == "unknown":
            arguments.append(draw(st.one_of(TEXT, one_of("--help", "-h", "--", "--nonsense=1"))))
        elif how == "missing" or (right is None and how == "right"):
            arguments.append(option)
        elif how == "=" or right is None:
            arguments.append(f"{option}={draw(WRONG)}")
        else:
            arguments += [option, draw(right if how == "right" else WRONG)]
    return [command, *arguments] if command else arguments


@pytest.fixture(scope="module", autouse=True)
def hypothesis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What hypothesis keeps is not kept in the folder where a test happens to be."""
    configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))
    yield
    configuration.set_hypothesis_home_dir(None)


@pytest.fixture
def example(
    tiny_mnist: Tiny, small_sample: Path, cli: Callable[..., Outcome], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A folder with a small network, a picture under several names, and what is none of these.

    All recipes are short and their networks small, both data sets have 240 + 60 images, figures
    are not rendered, and whoever opens the demo page presses Ctrl-C at once.
    """
    counts = {"train": 240, "test": 60}
    sample = dataclasses.replace(
        SOURCES["sample"], folder=small_sample, counts=counts, validation=40, epochs=1
    )
    monkeypatch.setitem(SOURCES, "sample", sample)
    small = {"epochs": 1, "batch_size": 100, "channels": (2, 3), "hidden": 8}
    for name, recipe in RECIPES.items():
        monkeypatch.setitem(RECIPES, name, dataclasses.replace(recipe, **small))
    monkeypatch.setattr(visualize, "save", lambda figure, suffix: b"a picture")

    def press_ctrl_c(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "serve", press_ctrl_c)
    folder = tmp_path / "example" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    tiny_mnist.write(folder / "data")
    picture = Image.new("L", (70, 70), "white")
    picture.paste("black", (32, 15, 38, 55))
    for name in PICTURES:
        picture.save(folder / name)
    (folder / "text.txt").write_text("mine")
    assert cli("train", "--dataset", "mnist", "--device", "cpu", "--quiet").status == 0
    return folder.parent


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with what it holds, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("examples", [20, slow(200)])
@pytest.mark.parametrize("command", OPTIONS)
def test_any_arguments_are_used_or_refused(
    command: str, examples: int, example: Path, cli: Callable[..., Outcome],
    count: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    if examples == 20:  # for more there is time to draw, if not to write a picture
        leave_undrawn(monkeypatch)
    before = contents(example)
    statuses: Counter[int] = Counter()

    @settings(max_examples=examples, deadline=None, database=None)
    @given(argument_lists(command))
    def check(arguments: list[str]) -> None:
        folder = tmp_path / "copy"
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(example, folder)
        monkeypatch.chdir(folder / "here")
        outcome = cli(*arguments)
        statuses[outcome.status] += 1
        assert outcome.status in (0, 1, 2, 130)
        assert "Traceback" not in outcome.err
        if outcome.status == 2:
            assert outcome.out == ""
            assert [line[:7] for line in outcome.err.splitlines()].count("error: ") == 1
            # A training that fails has begun: its folder is there, and an older run no more.
            assert contents(folder) == before or "is not finite" in outcome.err

    check()
    tried = sum(statuses.values())
    assert examples <= tried
    assert 0 < statuses[2] < tried  # some of both kinds, or the arguments prove little
    told = ", ".join(f"{statuses[status]} with exit status {status}" for status in sorted(statuses))
    count(f"argument lists for {command or 'no command'}: {tried}: {told}")
