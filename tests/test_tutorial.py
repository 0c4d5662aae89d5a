"""The tutorial: every block runs and prints what it says, and all that it shows is up to date."""

import importlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "tutorial.md"

# What a beginner does not know. The page explains each in bold, where it uses it first.
TERMS = """
    accuracy, augmentation, autograd, backpropagation, batch, batch normalisation, bias, bfloat16,
    calibrated, channel, checkpoint, class, classification, CNN, confidence, confusion matrix,
    cross-entropy, data leakage, DataLoader, Dataset, distribution shift, dropout, epoch, F1,
    feature, feature map, filter, fully connected, gradient, hyperparameter, initialisation, kernel,
    label, layer, learning rate, linear, logit, loss, max pooling, momentum, one-cycle, optimizer,
    overfitting, padding, parameter, pixel, precision, recall, receptive field, regularisation,
    ReLU, schedule, seed, SGD, shape, slope, softmax, split, step, stride, tensor, test set,
    training set, translation equivariance, translation invariance, validation split, warm-up,
    weight, weight decay
"""


def load_build():
    """Return docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("tutorial_build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


build = load_build()


def run_page(text: str, folder: Path) -> "build.Report":
    """Run a page's blocks in a folder, and return what differs."""
    report = build.Report()
    build.build(text, folder, report)
    return report


# ------------------------------------------------------------------------------ the page itself


def test_the_first_chapter_runs_and_prints_what_the_page_says(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    chapter = text[: text.index("\n## 2. ") + 1]
    report = run_page(chapter, tmp_path)
    assert report.differences == []
    assert len(report.seconds) == 8  # blocks


@pytest.mark.slow
def test_every_block_runs_and_prints_what_the_page_says():
    process = subprocess.run(
        [sys.executable, str(DOCS / "build.py"), "check"],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_every_block_runs_in_a_notebook(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    before = signal.getsignal(signal.SIGINT)  # none, perhaps, in the background of a script
    try:
        client.execute(env=environment)
    finally:
        signal.signal(signal.SIGINT, before)  # asyncio leaves Python's own
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    drawn = set(build.IMAGE.findall(PAGE.read_text(encoding="utf-8")))
    assert {path.stem for path in (tmp_path / "tutorial-output").glob("*.png")} == drawn
    assert len(shown) >= len(drawn) - 3  # those drawn in the middle of a block show none


def test_the_notebook_is_made_from_the_page():
    made = json.loads(build.to_notebook(PAGE.read_text(encoding="utf-8")))
    stored = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    assert stored == made, "run python docs/build.py quotes"


def test_the_notebook_has_every_block_of_the_page_in_order():
    blocks = [
        piece.text.strip("\n")
        for piece in build.parse(PAGE.read_text(encoding="utf-8"))
        if isinstance(piece, build.Fence) and piece.runs
    ]
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert "pip install" in cells[0]
    assert cells[1:] == blocks


def test_quotations_and_tables_are_up_to_date():
    report = build.Report()
    build.mend_quotes(build.parse(PAGE.read_text(encoding="utf-8")), report)
    assert report.differences == []


def test_pictures_are_there_and_small():
    shown = build.IMAGE.findall(PAGE.read_text(encoding="utf-8"))
    files = {path.stem: path.stat().st_size for path in (DOCS / "tutorial").glob("*.png")}
    assert sorted(files) == sorted(shown)
    assert max(files.values()) < 200_000
    assert sum(files.values()) < 1_500_000


def test_links_lead_somewhere():
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (DOCS / target.partition("#")[0]).exists(), target


def test_terms_are_explained_where_they_are_used_first():
    prose = "".join(
        piece.text
        for piece in build.parse(PAGE.read_text(encoding="utf-8"))
        if isinstance(piece, build.Prose) and not piece.text.startswith("# ")
    )
    prose = re.sub(
        r"`[^`]*`|^#+ .*$|^\|.*$|!?\[[^\]]*\]\([^)]*\)|<!--.*?-->", "", prose, flags=re.M
    )
    for term in (" ".join(term.split()) for term in TERMS.split(",")):
        word = r"\s+".join(map(re.escape, term.split()))
        first = re.search(rf"\b{word}(?:e?s|ed)?\b", prose, re.I)
        assert first, f"{term} does not occur"
        before = prose[: first.start()].count("**")
        line = prose[max(0, first.start() - 60) : first.end() + 20].replace("\n", " ")
        assert before % 2 == 1, f"{term} is used before it is explained: ...{line}..."


# ------------------------------------------------------------------------------ the tester itself


PAGE_OF_TWO = """\
# A page

```python
value = 0.5
print(f"{value} and 3")
```

```text
0.5 and 3
```

It was 0.5<!--={value}-->.
"""


def test_a_page_that_is_right_passes(tmp_path):
    assert run_page(PAGE_OF_TWO, tmp_path).differences == []


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (PAGE_OF_TWO.replace("0.5 and 3\n", "0.5 and 4\n"), 9),
        (PAGE_OF_TWO.replace("0.5 and 3\n", "0.8 and 3\n"), 9),
        (PAGE_OF_TWO.replace("0.5 and 3\n", "0.5 or 3\n"), 9),
        (PAGE_OF_TWO.replace("0.5<!--", "0.7<!--"), 12),
        (PAGE_OF_TWO.replace("```text\n0.5 and 3\n```\n", ""), 4),
        (PAGE_OF_TWO + "\n```python quote=mnist_cnn/model.py:CNN.forward\nno\n```\n", 15),
    ],
)
def test_what_differs_is_reported_with_its_line(tmp_path, wrong, line):
    (difference,) = run_page(wrong, tmp_path).differences
    assert difference.startswith(f"tutorial.md:{line}: ")


def test_a_block_that_fails_is_reported_with_its_line(tmp_path):
    page = PAGE_OF_TWO + "\n```python\nfine = 1\nfine / 0\n```\n"
    with pytest.raises(build.BuildError, match=r"tutorial.md:16: .*\n(.*\n)*ZeroDivisionError"):
        run_page(page, tmp_path)


def test_a_block_that_is_no_python_is_reported_with_its_line(tmp_path):
    page = PAGE_OF_TWO + "\n```python\nfine = 1\nif\n```\n"
    with pytest.raises(build.BuildError, match=r"tutorial.md:16: "):
        run_page(page, tmp_path)


def test_a_picture_that_no_block_draws_is_reported(tmp_path):
    page = PAGE_OF_TWO + "\n![nothing](tutorial/nothing.png)\n"
    assert "nothing.png" in run_page(page, tmp_path).differences[0]


def test_a_build_mends_what_differs(tmp_path):
    wrong = PAGE_OF_TWO.replace("0.5 and 3\n", "7.5 and 4\n").replace("0.5<!--", "0.7<!--")
    assert build.build(wrong, tmp_path, build.Report()) == PAGE_OF_TWO


@pytest.mark.parametrize(
    ("written", "computed", "allowed"),
    [
        ("accuracy 97.0 %", "accuracy 98.4 %", True),
        ("accuracy 97.0 %", "accuracy 98.6 %", False),
        ("loss 1.00", "loss 1.04", True),
        ("loss 1.00", "loss 1.10", False),
        ("loss 0.00", "loss 0.01", True),
        ("loss 0.00", "loss 0.03", False),
        ("1,000 images", "1,000 images", True),
        ("1,000 images", "1,001 images", False),
        ("-0.5", "0.5", False),
        ("right", "wrong", False),
    ],
)
def test_figures_may_differ_as_far_as_the_page_promises(written, computed, allowed):
    assert build.Tolerance().allows(written, computed) == allowed


def test_a_block_can_ask_for_another_tolerance():
    assert build.Tolerance.of({"points": "5"}).allows("90.0 %", "94.0 %")
    assert build.Tolerance.of({"counts": "2"}).allows("7 wrong", "9 wrong")
    assert not build.Tolerance.of({"counts": "2"}).allows("7 wrong", "10 wrong")


def test_a_fold_with_code_in_it_is_open_in_the_notebook():
    page = PAGE_OF_TWO + (
        "\n<details>\n<summary>Answer</summary>\n\nSo:\n\n```python\nvalue += 1\n```\n"
        "\n</details>\n"
        "\n<details>\n<summary>Other</summary>\n\nText.\n\n</details>\n"
    )
    cells = json.loads(build.to_notebook(page))["cells"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert "**Answer:**" in text[1]
    assert "<details>" not in text[1]
    assert "<details>" in text[2]
    assert "</details>" in text[2]
    folded = [cell for cell in cells if cell["cell_type"] == "code"][-1]
    assert folded["metadata"]["jupyter"]["source_hidden"]


# ------------------------------------------------------------------------------ the ladder


@pytest.fixture
def ladder(monkeypatch):
    """Return benchmarks/ladder.py as a module."""
    pytest.importorskip("resource", reason="the benchmarks are for systems with this module")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("ladder")


def test_each_rung_of_the_ladder_changes_one_thing(ladder):
    rungs = [vars(rung) for rung in ladder.make_rungs()]
    for lower, higher in pairwise(rungs):
        changed = [name for name in lower if lower[name] != higher[name]]
        assert len(changed) == 2
        assert changed[0] == "title"


def test_the_ladder_ends_with_the_recipe_fast(ladder):
    from mnist_cnn.recipes import FAST

    top = ladder.make_rungs()[-1]
    assert top.batch_size == FAST.batch_size
    assert all(vars(top).values())


@pytest.mark.parametrize("number", [1, -1])
def test_a_rung_trains(ladder, tiny_mnist, tmp_path, monkeypatch, capsys, number):
    tiny_mnist.write(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n"))
    # Small batches, because the data set is; and the C library stays as it is in this process.
    rung = replace(ladder.make_rungs()[number], batch_size=32, keeps_memory=False)
    ladder.climb(rung, "mnist", str(tmp_path), turns=2)
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["images"] == last["images"] == 96
    assert "accuracy" not in first
    assert 0 <= last["accuracy"] <= 1
