"""Run the tutorial's code, bring its outputs and pictures up to date, make the notebook.

    python docs/build.py          run every block; renew every figure in the text and the pictures
                                  in docs/tutorial/, so that they agree; write docs/tutorial.ipynb
    python docs/build.py check    run every block; only say what differs (the tests do this)
    python docs/build.py quotes   only update the quotations, tables and the notebook: runs nothing

docs/tutorial.md is the one source. What the code decides is marked in it:

    ```python                            a block, run in the order of the text, in one process
    ```text                              what the block above prints; options after the word say
                                         how far its figures may be off (see Tolerance)
    ```python quote=FILE:NAME            a function, class or constant of the package, as it is in
                                         that file, below a line that says so; with
                                         `without=docstring`, without that; with `run=yes`, it is
                                         run, and has no such line
    98.1 %<!--={100 * share:.1f} %-->    a figure in the prose: what an f-string gives at the end
                                         of the section; options may follow after a "|"
    <!-- table: NAME --> ... <!-- /table -->   a table made by the function NAME_table below
"""

import argparse
import ast
import contextlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
TEXT = DOCS / "tutorial.md"
NOTEBOOK = DOCS / "tutorial.ipynb"
PICTURES = DOCS / "tutorial"
RESULTS = ROOT / "benchmarks" / "results"
OUTPUT = "tutorial-output"  # the folder that the blocks write into

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
FIGURE = re.compile(r"<!--=(.*?)-->", re.S)
TABLE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- /table -->", re.S)
IMAGE = re.compile(r"!\[[^\]]*\]\(tutorial/([\w-]+)\.png\)\n?")


class BuildError(Exception):
    """Something in the text is wrong: its message names file and line."""


# ------------------------------------------------------------------------------ the text in pieces


@dataclass
class Prose:
    """Lines outside of blocks; `line` is the number of the first."""

    text: str
    line: int


@dataclass
class Fence:
    """A fenced block: its language, its options, its lines, and the number of the first.

    folded: whether it stands inside <details>.
    """

    language: str
    options: dict[str, str]
    text: str
    line: int
    head: str = field(default="", repr=False)
    folded: bool = False

    @property
    def runs(self) -> bool:
        """Whether it is Python to be run: quotations are only compared."""
        return self.language == "python" and ("quote" not in self.options or "run" in self.options)


def parse(text: str) -> list[Prose | Fence]:
    """Cut a text into prose and fenced blocks, in order.

    Raises:
        BuildError: a block is not closed.
    """
    pieces: list[Prose | Fence] = []
    lines, start, inside, folded = text.splitlines(keepends=True), 0, False, 0

    def add_prose(end: int) -> None:
        """Add the lines since the last block, cut at their headings."""
        first = start
        for here in [*(i for i in range(start + 1, end) if lines[i].startswith("#")), end]:
            if here > first:
                pieces.append(Prose("".join(lines[first:here]), first + 1))
            first = here

    for number, line in enumerate(lines):
        if not inside:
            folded += line.count("<details>") - line.count("</details>")
        if not line.startswith("```"):
            continue
        body = "".join(lines[start:number])
        if not inside:
            add_prose(number)
        else:
            language, *options = lines[start - 1].strip("`\n ").split() or [""]
            pairs = dict(option.split("=", 1) for option in options)
            head = lines[start - 1]
            pieces.append(Fence(language, pairs, body, start + 1, head, folded > 0))
        start, inside = number + 1, not inside
    if inside:
        raise BuildError(f"{TEXT.name}:{start}: this block is not closed")
    add_prose(len(lines))
    return pieces


def join(pieces: list[Prose | Fence]) -> str:
    """Put the pieces together again."""
    parts = []
    for piece in pieces:
        parts.append(piece.text if isinstance(piece, Prose) else f"{piece.head}{piece.text}```\n")
    return "".join(parts)


def output_of(pieces: list[Prose | Fence], index: int) -> int | None:
    """Return where the expected output of a block stands, if it has one."""
    for i in range(index + 1, min(index + 3, len(pieces))):
        piece = pieces[i]
        if isinstance(piece, Fence):
            return i if piece.language == "text" else None
        if piece.text.strip():
            return None
    return None


# ------------------------------------------------------------------------------ what may differ


@dataclass(frozen=True)
class Tolerance:
    """How far figures may be off: the text promises its reader the defaults.

    points: of a percentage, in percentage points.
    relative: of any other number with a decimal point, as a share.
    counts: of whole numbers, which have to be the same unless a block says otherwise.
    """

    points: float = 1.5
    relative: float = 0.05
    counts: float = 0

    def allows(self, written: str, computed: str) -> bool:
        """Whether two texts are the same but for figures that are close enough."""
        if NUMBER.sub("#", written).split() != NUMBER.sub("#", computed).split():
            return False
        ours, theirs = list(NUMBER.finditer(written)), list(NUMBER.finditer(computed))
        for one, other in zip(ours, theirs):
            a, b = (float(match[0].replace(",", "")) for match in (one, other))
            if computed[other.end() :].lstrip().startswith("%"):
                allowed = self.points + 1e-9
            elif "." in other[0] or "e" in other[0]:
                decimals = len(other[0].split("e")[0].partition(".")[2])
                allowed = max(self.relative * abs(b), 1.01 * 10**-decimals)
            else:
                allowed = self.counts
            if abs(a - b) > allowed:
                return False
        return True

    @classmethod
    def of(cls, options: dict[str, str]) -> "Tolerance":
        """Return the tolerance that the options of a block ask for."""
        return cls(**{name: float(value) for name, value in options.items()})


# ------------------------------------------------------------------------------ running it


@dataclass
class Report:
    """What a build found: `differences`, a line each, and the seconds that each block took."""

    differences: list[str] = field(default_factory=list)
    seconds: list[tuple[int, float]] = field(default_factory=list)


def results(name: str) -> Any:
    """Return the figures that benchmarks/ wrote under a name."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def run(pieces: list[Prose | Fence], report: Report, fresh: bool = False) -> None:
    """Run every block in the current folder; mend outputs and figures that are too far off.

    Args:
        fresh: mend them even where they are close enough.

    Raises:
        BuildError: a block raised an exception; the message has its line and the traceback.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    waiting: list[Prose] = []  # figures in prose are looked at when their section is over
    for index, piece in enumerate(list(pieces)):
        if isinstance(piece, Prose):
            if piece.text.startswith("#"):
                check_prose(waiting, namespace, report, fresh)
                waiting = []
            waiting.append(piece)
        elif piece.runs:
            start = time.perf_counter()
            printed = run_block(piece, namespace)
            report.seconds.append((piece.line, time.perf_counter() - start))
            compare_output(pieces, index, piece, printed, report, fresh)
    check_prose(waiting, namespace, report, fresh)


def run_block(block: Fence, namespace: dict[str, Any]) -> str:
    """Run a block, with the line numbers of the text, and return what it printed."""
    printed = io.StringIO()
    try:
        tree = ast.parse(block.text)
        ast.increment_lineno(tree, block.line - 1)
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, TEXT.name, "exec"), namespace)
    except Exception as error:
        trace = error.__traceback__
        lines = [
            frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == TEXT.name
        ]
        line = lines[-1] if lines else block.line + (getattr(error, "lineno", 1) or 1) - 1
        raise BuildError(
            f"{TEXT.name}:{line}: the block from line {block.line} failed:\n"
            + "".join(traceback.format_exception(error)[-6:])
        ) from error
    return printed.getvalue()


def compare_output(
    pieces: list[Prose | Fence],
    index: int,
    block: Fence,
    printed: str,
    report: Report,
    fresh: bool,
) -> None:
    """Compare what a block printed with what the text says; note and mend a difference."""
    place = output_of(pieces, index)
    printed = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    if place is None:
        if printed:
            report.differences.append(f"{TEXT.name}:{block.line}: prints, but shows no output")
            block.text += "```\n\n```text\n" + printed
        return
    shown = pieces[place]
    assert isinstance(shown, Fence)
    if Tolerance.of(shown.options).allows(shown.text, printed) and not fresh:
        return
    if shown.text != printed and not Tolerance.of(shown.options).allows(shown.text, printed):
        report.differences.append(
            f"{TEXT.name}:{shown.line}: the block from line {block.line} prints\n{printed}"
            f"where the text has\n{shown.text}"
        )
    shown.text = printed


def check_prose(prose: list[Prose], namespace: dict[str, Any], report: Report, fresh: bool) -> None:
    """Compare the marked figures of some prose with what they are; note and mend differences."""
    scope = {**namespace, "results": results}
    for piece in prose:
        done = 0
        while match := FIGURE.search(piece.text, done):
            line = piece.line + piece.text.count("\n", 0, match.start())
            template, _, options = match[1].partition(" | ")
            tolerance = Tolerance.of(dict(option.split("=", 1) for option in options.split()))
            try:
                value = str(eval(f'f"""{template}"""', scope))
            except Exception as error:
                raise BuildError(f"{TEXT.name}:{line}: {match[0]}: {error!r}") from error
            shape = r"\s+".join(re.escape(word) for word in NUMBER.sub("\0", value).split(" "))
            shape = shape.replace("\0", f"(?:{NUMBER.pattern})")
            written = re.search(f"(?:{shape})$", piece.text[: match.start()])
            if written is None:
                raise BuildError(
                    f"{TEXT.name}:{line}: {match[0]} gives {value!r}, before it stands "
                    f"{piece.text[max(0, match.start() - 30) : match.start()]!r}"
                )
            close = tolerance.allows(written[0], value)
            if not close:
                report.differences.append(
                    f"{TEXT.name}:{line}: {match[0]} gives {value}, the text has {written[0]}"
                )
            if (fresh or not close) and NUMBER.findall(written[0]) != NUMBER.findall(value):
                piece.text = piece.text[: written.start()] + value + piece.text[match.start() :]
                match = FIGURE.search(piece.text, written.start())
                assert match is not None
            done = match.end()


# ------------------------------------------------------------------------------ what runs nothing


def mend_quotes(pieces: list[Prose | Fence], report: Report) -> None:
    """Compare every quotation with the code, and every table with its figures; mend them."""
    for piece in pieces:
        if isinstance(piece, Fence):
            if "quote" not in piece.options:
                continue
            file, _, name = piece.options["quote"].partition(":")
            source = quote(ROOT / file, name, piece.options.get("without") == "docstring")
            if "run" not in piece.options:
                source = f"# {file}: to read, not to paste\n{source}"
            if source != piece.text:
                report.differences.append(
                    f"{TEXT.name}:{piece.line}: this is not {name} as it is in {file}: "
                    "run python docs/build.py quotes"
                )
                piece.text = source
            continue
        for match in reversed(list(TABLE.finditer(piece.text))):
            table = TABLES[match[1]]()
            if table != match[2]:
                line = piece.line + piece.text.count("\n", 0, match.start())
                report.differences.append(f"{TEXT.name}:{line}: the table {match[1]} has changed")
                piece.text = piece.text[: match.start(2)] + table + piece.text[match.end(2) :]


def quote(path: Path, name: str, without_docstring: bool) -> str:
    """Return the source of a function, class, method (Class.method) or constant of a file.

    Raises:
        BuildError: the file holds no such name.
    """
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    body: list[ast.stmt] = ast.parse(source).body
    node: ast.stmt | None = None
    for part in name.split("."):
        node = next((one for one in body if part in names_of(one)), None)
        if node is None:
            raise BuildError(f"{path.relative_to(ROOT)} has no {name} to quote")
        body = getattr(node, "body", [])
    assert node is not None and node.end_lineno is not None
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    taken = list(range(first - 1, node.end_lineno))
    if without_docstring and body and ast.get_docstring(node) is not None:  # type: ignore[arg-type]
        text = body[0]
        assert text.end_lineno is not None
        after = text.end_lineno + (not lines[text.end_lineno].strip())  # a blank line goes with it
        taken = [i for i in taken if not text.lineno - 1 <= i < after]
    return "".join(f"{lines[i][node.col_offset :]}\n" for i in taken)


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def ladder_table() -> str:
    """Return the rungs of benchmarks/ladder.py as a table."""
    figures = results("ladder")
    rows = ["| one change per rung | ms per 1,000 images | what it is worth | after one epoch |"]
    rows += ["|---|---|---|---|"]
    previous = None
    for rung in figures["rungs"]:
        cost = rung["ms_per_1000"]
        gain = f"{previous / cost:.2f} times as fast" if previous else ""
        rows.append(f"| {rung['title']} | {cost:,.0f} | {gain} | {100 * rung['accuracy']:.2f} % |")
        previous = cost
    first, last = (figures["rungs"][i]["ms_per_1000"] for i in (0, -1))
    rows.append(f"| **all of it** | | **{first / last:.1f} times as fast** | |")
    return "\n" + "\n".join(rows) + "\n\n"


TABLES = {"ladder": ladder_table}


# ------------------------------------------------------------------------------ the notebook


SETUP = """\
# In Colab, and wherever else the package is missing, this installs it.
%matplotlib inline
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("mnist_cnn") is None:
    here = next((up for up in Path.cwd().parents if (up / "mnist_cnn").is_dir()), None)
    if here is not None:  # this notebook lies in a copy of the project: take that
        sys.path.insert(0, str(here))
    else:
        %pip install -q mnist_cnn
"""


def to_notebook(text: str) -> str:
    """Return the text as a Jupyter notebook, without outputs.

    Blocks become code cells; all else stays text, without what the blocks will print and draw.
    """
    cells: list[dict[str, Any]] = []

    def add(kind: str, source: str, **metadata: Any) -> None:
        source = source.strip("\n")
        if not source:
            return
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{len(cells):03}"}
        cell |= {"metadata": metadata, "source": source.splitlines(keepends=True)}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)

    pieces = parse(text)
    drawn = {name for piece in pieces if isinstance(piece, Fence) for name in pictures_of(piece)}
    written = ""
    first = True
    for index, piece in enumerate(pieces):
        if isinstance(piece, Prose):
            written += for_notebook(piece.text, drawn, holds_code(pieces, index))
        elif piece.runs:
            add("markdown", written)
            if first:
                add("code", SETUP)
                first = False
            written = ""
            hidden = {"jupyter": {"source_hidden": True}} if piece.folded else {}
            add("code", piece.text, **hidden)
        elif (
            piece.language == "text"
            and index
            and any(
                output_of(pieces, i) == index
                for i in range(max(0, index - 2), index)
                if isinstance(pieces[i], Fence) and pieces[i].runs  # type: ignore[union-attr]
            )
        ):
            continue  # the cell above prints it
        else:
            written += f"```{piece.language}\n{piece.text}```\n"
    add("markdown", written)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def pictures_of(block: Fence) -> list[str]:
    """Return what may be the names of the pictures that a block draws: its strings."""
    return re.findall(r'"([\w-]+)"', block.text) if block.runs and "show(" in block.text else []


def holds_code(pieces: list[Prose | Fence], index: int) -> bool:
    """Whether a <details> that a prose piece opens last holds a block that runs."""
    following = pieces[index + 1] if index + 1 < len(pieces) else None
    return isinstance(following, Fence) and following.folded


def for_notebook(text: str, drawn: set[str], opens_code: bool) -> str:
    """Return prose as a notebook shows it.

    Without the marks of build.py, without the pictures that cells draw; and a fold that holds
    cells, which a notebook cannot fold, becomes a line in bold.
    """
    text = FIGURE.sub("", text)
    text = re.sub(r"<!-- /?table.*?-->\n", "", text)
    text = IMAGE.sub(lambda match: "" if match[1] in drawn else match[0], text)
    parts = re.split(r"(<details>.*?</details>)", text, flags=re.S)  # whole folds stay folded
    for i in range(0, len(parts), 2):
        part = parts[i]
        part = re.sub(r"<details>\s*<summary>(.*?)</summary>", r"**\1:**", part, flags=re.S)
        parts[i] = part.replace("</details>", "")
    return "".join(parts)


# ------------------------------------------------------------------------------ the command


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Run the blocks in a folder; the package is that of this copy of the project."""
    before, path = Path.cwd(), list(sys.path)
    sys.path.insert(0, str(ROOT))
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path


def build(text: str, folder: Path, report: Report, fresh: bool = False) -> str:
    """Run a text's blocks in a folder, and return it with all that the code decides mended.

    Raises:
        BuildError: a block failed, or a mark cannot be understood.
    """
    pieces = parse(text)
    mend_quotes(pieces, report)
    with working_in(folder):
        run(pieces, report, fresh)
    for name in IMAGE.findall(text):
        if not (folder / OUTPUT / f"{name}.png").exists():
            report.differences.append(f"{TEXT.name}: no block draws tutorial/{name}.png")
    return join(pieces)


def shrink(source: Path, target: Path) -> None:
    """Copy a picture; with a palette of 200 colours where it is large."""
    from PIL import Image

    image = Image.open(source).convert("RGB")
    if source.stat().st_size > 60_000:
        image = image.quantize(200, dither=Image.Dither.NONE)
    image.save(target, optimize=True)


def main() -> int:
    """Do what the command line asks for; 1 if something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", nargs="?", default="build", choices=("build", "check", "quotes"))
    parser.add_argument("--times", action="store_true", help="say what each block took")
    args = parser.parse_args()
    text, report = TEXT.read_text(encoding="utf-8"), Report()
    try:
        if args.action == "quotes":
            pieces = parse(text)
            mend_quotes(pieces, report)
            text = join(pieces)
        else:
            with tempfile.TemporaryDirectory() as scratch:
                text = build(text, Path(scratch), report, args.action == "build")
                if args.action == "build":
                    shutil.rmtree(PICTURES, ignore_errors=True)
                    PICTURES.mkdir()
                    for picture in sorted(Path(scratch, OUTPUT).glob("*.png")):
                        shrink(picture, PICTURES / picture.name)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 2
    for difference in report.differences:
        print(difference, file=sys.stderr)
    if args.times:
        for line, seconds in sorted(report.seconds, key=lambda pair: -pair[1])[:15]:
            print(f"line {line:5}: {seconds:6.2f} s", file=sys.stderr)
    if report.seconds:
        total = math.fsum(seconds for _, seconds in report.seconds)
        print(f"{len(report.seconds)} blocks took {total:.1f} s", file=sys.stderr)
    if args.action == "check":
        return 1 if report.differences else 0
    TEXT.write_text(text, encoding="utf-8", newline="\n")
    NOTEBOOK.write_text(to_notebook(text), encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
