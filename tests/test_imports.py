"""Imports point one way, as the map in CONTRIBUTING.md draws them."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mnist_cnn
from mnist_cnn.__main__ import build_parser

PACKAGE = Path(mnist_cnn.__file__).parent
GUIDE = PACKAGE.parent / "CONTRIBUTING.md"

# From top to bottom: a module may import what stands in a line below its own, and nothing else of
# the package. A folder stands for all that is in it; "" is mnist_cnn itself (Error, __version__).
LAYERS = [
    {"__main__"},
    {"commands"},
    {"demo"},
    {"start"},
    {"predict", "train", "features", "illustrate"},
    {"evaluate", "handwriting", "visualize", "checkpoint", "export"},
    {"enrich"},
    {"data"},
    {"augment", "download"},
    {"recipes", "datasets"},
    {"model", "system"},
    {""},
]
# The same within handwriting, which is a chain; "handwriting" is its __init__.
CHAIN = ["handwriting", "number", "digit", "ink", "picture", "arrays"]
# What may be imported by the modules that anybody may take away and use by themselves.
ALONE = {"": set(), "model": set(), "visualize": {""}, "illustrate": {"visualize"}}

Sources = dict[str, str]  # of each module, by its name within the package: "handwriting.ink"


def read_package() -> Sources:
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        sources[name] = path.read_text("utf-8")
    return sources


@functools.cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def imports_of(module: str, sources: Sources) -> set[str]:
    """The modules of the package that a module imports, anywhere in it: in functions, too."""
    found = set()
    for name in imported_names(module, sources):
        if name == "mnist_cnn" or name.startswith("mnist_cnn."):
            name = name.removeprefix("mnist_cnn").removeprefix(".")
            while name not in sources:  # what is imported may be a function of a module
                name = name.rpartition(".")[0]
            found.add(name)
    return found


def imported_names(module: str, sources: Sources) -> Iterator[str]:
    """Everything that is imported, with the dots before it: mnist_cnn.data.Split, torch.nn."""
    is_folder = module == "" or any(name.startswith(f"{module}.") for name in sources)
    here = ["mnist_cnn", *module.split(".")] if module else ["mnist_cnn"]
    for node in ast.walk(parse(sources[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:  # one dot: the folder that the module is in
                base = [*here[: len(here) - node.level + is_folder], *base]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def layer_of(module: str) -> int | None:
    """The line in LAYERS that a module stands in."""
    top = module.partition(".")[0]
    return next((i for i, names in enumerate(LAYERS) if top in names), None)


def broken_rules(sources: Sources) -> list[str]:
    """Every import that goes another way than down."""
    wrong = []
    for module in sources:
        if layer_of(module) is None:
            wrong.append(f"{module} has no place in LAYERS")
            continue
        for imported in imports_of(module, sources) - {module}:
            if layer_of(imported) is not None and not is_right(module, imported, sources):
                wrong.append(f"{module or 'mnist_cnn'} imports {imported or 'mnist_cnn'}")
    return sorted(wrong)


def is_right(module: str, imported: str, sources: Sources) -> bool:
    """Whether one module of the package may import the other."""
    folder, other = module.partition(".")[0], imported.partition(".")[0]
    if module in ALONE:
        return imported in ALONE[module]
    if folder != other:
        return layer_of(module) < layer_of(imported)
    if folder == "handwriting":
        return place_in_chain(module) < place_in_chain(imported)
    if folder == "commands" and module != folder and imported in commands(sources):
        return False  # what commands share stands beside them, not in one of them
    return module not in reachable(imported, sources)


def place_in_chain(module: str) -> int:
    return CHAIN.index(module.rpartition(".")[2])


def reachable(module: str, sources: Sources) -> set[str]:
    """All that a module imports, and what that imports, and so on; itself if there is a circle."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports_of(waiting.pop(), sources) - found
        found |= new
        waiting += new
    return found


def commands(sources: Sources) -> set[str]:
    """The files in commands/ that are commands, which have a function `run`, and no helpers."""
    return {
        module
        for module, source in sources.items()
        if module.startswith("commands.")
        and any(getattr(node, "name", "") == "run" for node in parse(source).body)
    }


# ------------------------------------------------------------------------------ the package


def test_imports_point_one_way() -> None:
    assert broken_rules(read_package()) == []


def test_every_command_has_a_file_of_its_own() -> None:
    (choices,) = (action.choices for action in build_parser()._actions if action.dest == "command")
    expected = {f"commands.{name.replace('-', '_')}" for name in choices}
    assert commands(read_package()) == expected


def test_the_map_names_every_module_and_no_other() -> None:
    guide = GUIDE.read_text("utf-8")
    section = re.search(r"^## The map of the house$(.*?)^## ", guide, re.MULTILINE | re.DOTALL)
    assert section
    drawn = re.findall(r"^ *((?:\w+/)*\w+\.py)\b", section[1], re.MULTILINE)
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(drawn) == sorted(there)


# ------------------------------------------------------------------------------ the rules


@pytest.mark.parametrize(
    ("module", "line", "what"),
    [
        ("data", "from mnist_cnn.train import train", "train"),
        ("data", "from mnist_cnn import Error, train", "train"),
        ("data", "import mnist_cnn.train as training", "train"),
        ("data", "from . import train", "train"),
        ("data", "from .train import train", "train"),
        ("data", "def load():\n    from mnist_cnn.train import train", "train"),
        ("data", "if TYPE_CHECKING:\n    from mnist_cnn.train import train", "train"),
        ("checkpoint", "from mnist_cnn.evaluate import evaluate", "evaluate"),
        ("model", "from mnist_cnn import Error", "mnist_cnn"),
        ("visualize", "from mnist_cnn.data import DIGITS", "data"),
        ("system.files", "from mnist_cnn.model import CNN", "model"),
        ("system.files", "from ..model import CNN", "model"),
        ("handwriting.ink", "from mnist_cnn.handwriting.digit import fit", "handwriting.digit"),
        ("handwriting.ink", "from mnist_cnn.handwriting import prepare", "handwriting"),
        ("handwriting.ink", "from .digit import fit", "handwriting.digit"),
        ("commands.train", "from mnist_cnn.commands import eval", "commands.eval"),
        ("", "from mnist_cnn.train import train", "train"),
    ],
)
def test_an_import_that_goes_another_way_is_noticed(module: str, line: str, what: str) -> None:
    sources = made_up()
    sources[module] += f"\n{line}\n"
    found = broken_rules(sources)
    assert f"{module or 'mnist_cnn'} imports {what}" in found


def test_a_circle_among_neighbours_is_noticed() -> None:
    sources = made_up()
    sources["system.files"] += "\nfrom mnist_cnn.system.device import choose\n"
    assert broken_rules(sources) == []
    sources["system.device"] += "\nfrom mnist_cnn.system import files\n"
    assert "system.device imports system.files" in broken_rules(sources)


def test_a_module_without_a_place_is_noticed() -> None:
    assert broken_rules({**made_up(), "helpers": ""}) == ["helpers has no place in LAYERS"]


def test_what_points_down_is_let_pass() -> None:
    assert broken_rules(made_up()) == []


def made_up() -> Sources:
    """A small package in which every import is right."""
    return {
        "": "class Error(Exception): ...",
        "__main__": "def main():\n    from mnist_cnn.commands import train",
        "commands": "from mnist_cnn.commands import eval, train",
        "commands.options": "from mnist_cnn.recipes import RECIPES",
        "commands.train": "from mnist_cnn.commands.options import add\ndef run():\n"
        "    from mnist_cnn.train import train",
        "commands.eval": "from .options import add\ndef run(): ...",
        "train": "import torch\nimport mnist_cnn\nfrom mnist_cnn.data import load",
        "evaluate": "from .data import load",
        "checkpoint": "from mnist_cnn.system.files import write_file",
        "visualize": "from mnist_cnn import Error",
        "handwriting": "from mnist_cnn.handwriting import digit, ink",
        "handwriting.digit": "from mnist_cnn.handwriting.ink import INK",
        "handwriting.ink": "from mnist_cnn import Error",
        "data": "from mnist_cnn.recipes import Recipe",
        "recipes": "import math",
        "model": "import torch",
        "system": "",
        "system.files": "from mnist_cnn import Error",
        "system.device": "",
    }
