"""Checkpoints that are damaged, or made to harm: refused in a line, by every command alike."""

import copy
import dataclasses
import io
import pickle
import random
import struct
import sys
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from conftest import Outcome, Tiny, slow
from PIL import Image
from version_1 import LATER

from mnist_cnn import visualize
from mnist_cnn.recipes import FAST, RECIPES

if TYPE_CHECKING:
    from forked import Forker

GIGABYTE = 1_000_000_000
SECONDS = 10  # of processor time
REFUSED = "error: x.pt is not a checkpoint of this program"
COMMANDS = {
    "eval": ("eval", "--ckpt"),
    "predict": ("predict", "digit.png", "--ckpt"),
    "resume": ("train", "--out-dir", "out", "--resume"),
}


@pytest.fixture
def trained(
    tiny_mnist: Tiny, cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """The folder with best.pt and last.pt of a finished run; beside it, a picture of a one.

    The network is small, so that hundreds of them can be written and read in a moment; no curves
    are drawn, which would take longer than all else.
    """
    monkeypatch.setattr(visualize, "save", lambda figure, suffix: b"a picture")
    monkeypatch.setitem(RECIPES, "fast", dataclasses.replace(FAST, channels=(2, 3), hidden=8))
    tiny_mnist.write(tmp_path / "data")
    picture = Image.new("L", (280, 280), "white")
    picture.paste("black", (130, 60, 150, 220))
    picture.save(tmp_path / "digit.png")
    options = "train --dataset mnist --recipe fast --epochs 2 --batch-size 100 --device cpu"
    assert cli(*options.split()).status == 0
    return tmp_path / "checkpoints"


def processor_time(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


# ------------------------------------------------------------------------------ damaged ones


def damage(whole: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Flips a byte or cuts a file short; says what it did.

    Most of a file are weights. Every second flip is in what describes them: the pickle at its
    beginning, or the zip file's list at its end.
    """
    if chance.random() < 0.3:
        size = chance.randrange(len(whole))
        return f"cut to {size} bytes", whole[:size]
    weights, directory = whole.index(b"PK\3\4", 4), whole.index(b"PK\1\2")
    ends = [chance.randrange(weights), chance.randrange(directory, len(whole))]
    place = chance.choice([*ends, *[chance.randrange(len(whole)) for _ in ends]])
    flipped = bytearray(whole)
    flipped[place] ^= chance.randrange(1, 256)
    return f"byte {place} flipped", bytes(flipped)


@pytest.mark.parametrize("number_of_files", [30, slow(300)])
def test_damaged_checkpoints(
    trained: Path, cli: Callable[..., Outcome], count: Callable[[str], None], tmp_path: Path,
    number_of_files: int,
) -> None:  # fmt: skip
    """Each is refused in a line; or it does not matter, and the answer is that of the whole one."""
    options = ("--device", "cpu")
    files = {name: (trained / name).read_bytes() for name in ("best.pt", "last.pt")}
    tests = [(name, command) for name in files for command in COMMANDS]
    right = {}
    for name, command in tests:
        (tmp_path / "x.pt").write_bytes(files[name])
        right[name, command] = cli(*COMMANDS[command], "x.pt", *options)
        assert right[name, command].status == (2 if (name, command) == ("best.pt", "resume") else 0)
    chance = random.Random(0)
    refused, longest, wrong = 0, 0.0, []
    for number in range(number_of_files):
        name = "best.pt" if number % 2 else "last.pt"
        how, content = damage(files[name], chance)
        (tmp_path / "x.pt").write_bytes(content)
        for command, beginning in COMMANDS.items():
            outcome, seconds = processor_time(lambda: cli(*beginning, "x.pt", *options))  # noqa: B023
            longest = max(longest, seconds)
            if outcome.status == 2:
                refused += 1
                line = outcome.err
                if outcome.out or line.count("\n") != 1 or not line.startswith("error: x.pt"):
                    wrong.append((name, how, command, outcome))
            elif outcome.out != right[name, command].out:
                wrong.append((name, how, command, outcome))
    assert wrong == []
    assert longest < SECONDS
    outcomes = number_of_files * len(COMMANDS)
    assert refused > outcomes * 2 / 3
    count(
        f"damaged checkpoints: {number_of_files}, through {', '.join(COMMANDS)}: {refused} times "
        f"refused in a line, {outcomes - refused} times the damage did not matter and the answer "
        "was right"
    )


# ------------------------------------------------------------------------------ crafted ones


class Evil:
    """Unpickled carelessly, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def write_zip(
    entries: list[tuple[str, bytes]], method: int = 0, claims: dict[str, int] | None = None,
    again: Sequence[str] = (), offset: int = 0, repeat: int = 1,
) -> bytes:  # fmt: skip
    """A zip file as torch.save writes it, which zipfile would not write if it lies.

    Args:
        entries: their names and contents.
        method: how the contents are packed: 0, not at all.
        claims: sizes after unpacking, where they are not those of the contents.
        again: further names for the content of the last entry.
        offset: of the place where the list is, from where the end of the file says that it is.
        repeat: how many times the last entry stands in the list.
    """
    content, directory = bytearray(), bytearray()
    for number, (name, data) in enumerate(entries):
        sums = zlib.crc32(data), len(data), (claims or {}).get(name, len(data))
        names = [name, *again] if number == len(entries) - 1 else [name]
        for key in names:
            common = struct.pack("<HHHHHIIIHH", 0, 0, method, 0, 0, *sums, len(key.encode()), 0)
            listed = b"PK\1\2" + bytes(2) + common
            listed += struct.pack("<HHHII", 0, 0, 0, 0, len(content)) + key.encode()
            directory += listed
        content += b"PK\3\4" + struct.pack(
            "<HHHHHIIIHH", 0, 0, method, 0, 0, *sums, len(name.encode()), 0
        ) + name.encode() + data  # fmt: skip
    directory += listed * (repeat - 1)
    total = len(entries) + len(again) + repeat - 1
    size, start = len(directory), len(content) - offset
    end_64 = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, total, total, size, start)
    locator = struct.pack("<IQI", 0, len(content) + size, 1)
    end = struct.pack("<HHHHIIH", 0, 0, total & 0xFFFF, total & 0xFFFF, size, start, 0)
    return b"".join([content, directory, b"PK\6\6", end_64, b"PK\6\7", locator, b"PK\5\6", end])


def entries_of(whole: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(whole)) as container:
        return [(name, container.read(name)) for name in container.namelist()]


def with_pickle(whole: bytes, pickled: bytes) -> bytes:
    """A checkpoint with another pickle in it."""
    return write_zip([(n, pickled if n.endswith("data.pkl") else d) for n, d in entries_of(whole)])


def save(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer, **options)
    return buffer.getvalue()


def change(values: dict[str, Any], path: str, new: Any) -> bytes:
    """A checkpoint in which one value is another: path is "resume history 0 lr", say.

    The new value may be a function of the old one; None takes it away.
    """
    changed = copy.deepcopy(values)
    inner: Any = changed
    *keys, last = [int(key) if key.isdecimal() else key for key in path.split()]
    for key in keys:
        inner = inner[key]
    if new is None:
        del inner[last]
    else:
        inner[last] = new(inner[last]) if callable(new) else new
    return save(changed)


def code(whole: bytes, best: dict[str, Any], last: dict[str, Any], evil: Path) -> dict[str, bytes]:
    """Files that would make the folder `evil` if the code in them were run."""
    runs = Evil(os_mkdir, str(evil))
    named = f"(Vos.mkdir({str(evil)!r})\nios\nsystem\n.".encode()  # the oldest kind of call
    return {
        **{f"pickle {n}": pickle.dumps(runs, protocol=n) for n in range(5)},
        **{
            f"pickle {n} in a checkpoint": with_pickle(whole, pickle.dumps(runs, protocol=n))
            for n in range(5)
        },
        "oldest call": with_pickle(whole, named),
        "a value": save({**best, "seed": runs}),
        "a value, old format": save({**best, "seed": runs}, _use_new_zipfile_serialization=False),
        "a weight": save({**best, "model": {**best["model"], "fc1.bias": runs}}),
        "a key": save({**best, runs: 1}),
        "deep in resume": change(last, "resume history 0 lr", lambda old: runs),
        "eval": save({**best, "seed": Evil(eval, f"__import__('os').mkdir({str(evil)!r})")}),
        "a whole module": save(torch.nn.Linear(3, 3)),
    }


def os_mkdir(path: str) -> None:
    """Stands for any function of this machine that a pickle can name."""
    Path(path).mkdir()


def wrong_values(best: dict[str, Any], last: dict[str, Any]) -> dict[str, bytes]:
    """Checkpoints in which one thing is of another kind, size or value than it can be."""
    nan = float("nan")

    def put(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda old: old.clone().index_fill_(0, torch.tensor([0]), value)

    in_best = {
        **{f"model {name}": None for name in best["model"]},
        **dict.fromkeys(key for key in best if key != "temperature"),  # 1.0 wrote none
        **{
            f"recipe {key}": None
            for key in best["recipe"]
            if key not in LATER
        },
        "recipe flags": 1.5,
        "recipe non_digits": -0.5,
        "recipe weight_decay": nan,
        **{f"metrics {key}": None for key in best["metrics"]},
        "model fc1.bias": torch.zeros(255),
        "model fc1.weight": lambda old: old.t(),
        "model fc2.weight": lambda old: old.double(),
        "model conv1.bias": lambda old: old.int(),
        "model conv1.weight": lambda old: old.to_sparse(),
        "model conv2.weight": lambda old: torch.quantize_per_tensor(old, 0.1, 0, torch.qint8),
        "model conv2.bias": lambda old: old.tolist(),
        "model fc2.bias": put(nan),
        "model mean": torch.tensor(float("inf")),
        "model std": torch.tensor(0.0),
        "model new": torch.zeros(3),
        "model_args hidden": 10**12,
        "model_args kernels": [29, 29],
        "model_args std": 0.0,
        "dataset": "cifar",
        "classes 3": "drei",
        "recipe epochs": 10**9,
        "recipe batch_size": 0,
        "recipe lr": nan,
        "recipe betas": [0.9],
        "recipe dropout": [0.1, 2.0],
        "recipe channels": [24.0, 32.0],
        "recipe name": "fast\n\x1b[2J",
        "recipe more": 1,
        "recipe augmentation rotate": -1.0,
        "recipe augmentation elastic": float("inf"),
        "recipe augmentation stroke": 1.5,
        "recipe augmentation shear": "strong",
        "recipe augmentation flip": 0.5,
        "overrides epochs": "many",
        "seed": -1,
        "epoch": 0,
        "metrics epoch": 2.0,
        "metrics val_loss": nan,
        "metrics seconds": True,
        "metrics more": 1.0,
        "temperature": 0.0,
        "versions torch": 2,
    }  # fmt: skip
    cases = {}
    for path, new in in_best.items():
        cases[f"{path}, {'missing' if new is None else 'other'}"] = change(best, path, new)
    in_resume: dict[str, list[Any]] = {
        "": [[], 1],
        "model": [None],
        "optimizer": [None, []],
        "schedule": [None],
        "model fc1.bias": [None, torch.zeros(255), put(nan)],
        "optimizer state": [None, {}, []],
        "optimizer state 3": [None, {}],
        "optimizer state 3 step": [None, torch.tensor(-1.0), torch.tensor(nan), 28],
        "optimizer state 3 exp_avg": [None, torch.zeros(77), put(nan)],
        "optimizer state 3 exp_avg_sq": [torch.zeros(77), put(-1.0), put(float("inf"))],
        "optimizer state 8": [{}],
        "schedule last_epoch": [None, -1, 3, 10**9],
        "schedule total_steps": [None, 0, 10**9, "4"],
        "losses": [None, torch.zeros(0), torch.zeros(3), torch.zeros(2, 2), torch.zeros(4).double(),
                   put(nan), [0.0] * 4],
        "history": [None, [], {}, [1, 2], lambda old: old[:1], lambda old: old[::-1],
                    lambda old: [*old, old[-1]], lambda old: [old[1], old[1]]],
        "history 0": [{}],
        "history 0 lr": [None, nan, "0.01"],
        "history 1 val_accuracy": [0.123],
        "best": [None, {}],
        "best model fc1.bias": [put(nan)],
        "best metrics val_loss": [lambda old: old + 1],
        "best seed": [7],
        "best recipe lr": [0.5],
        "best epoch": [3],
        "best temperature": [-1.0, nan, 1e300, "1", torch.tensor(1.0)],
    }  # fmt: skip
    for path, news in in_resume.items():
        for number, new in enumerate(news):
            key = f"resume {path}".strip()
            cases[f"{key}, {'missing' if new is None else number}"] = change(last, key, new)
    return cases


def recursions(whole: bytes, best: dict[str, Any]) -> dict[str, bytes]:
    """Values that hold themselves, or that hold others without end."""
    itself: dict[str, Any] = {}
    itself.update(best, recipe=itself, metrics=itself, model=itself)
    rows: list[Any] = []
    rows.append(rows)
    laughs: list[Any] = ["ha"] * 10
    for _ in range(30):
        laughs = [laughs] * 10
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return {
        "a dictionary in itself": save(itself),
        "a list in itself": save({**best, "classes": rows, "resume": {"history": rows}}),
        "ten to the 30 laughs": save({**best, "classes": laughs, "versions": {"x": laughs}}),
        "100,000 lists in each other": with_pickle(whole, deep),
    }


def other_files(whole: bytes, best: dict[str, Any]) -> dict[str, bytes]:
    """What is no checkpoint of this program at all."""
    pickled = next(data for name, data in entries_of(whole) if name.endswith("data.pkl"))
    benign = [(name, data) for name, data in entries_of(whole) if not name.endswith("data.pkl")]
    return {
        "empty": b"",
        "a byte": b"P",
        "text": b"not a checkpoint\n" * 99,
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(99),
        "empty zip": b"PK\5\6" + bytes(18),
        "noise": random.Random(0).randbytes(5000),
        "a list": save([1, 2]),
        "a tensor": save(torch.zeros(3)),
        "only weights": save(best["model"]),
        "another order of its parts": save(OrderedDict(reversed(best.items())))[:-1],
        "two pickles": write_zip([*entries_of(whole), ("archive/data.pkl", pickled)]),
        "a name that ends early": write_zip([*benign, ("archive/data.pkl\0", pickled)]),
        "two lists of entries": write_zip(entries_of(whole), offset=1),
        "no pickle": write_zip(benign),
        "a pickle without end": with_pickle(whole, pickled[:-1]),
    }


@pytest.mark.filterwarnings("ignore")  # of what torch.save thinks of these values
@pytest.mark.parametrize("by", ["one command", slow("all")])
def test_crafted_checkpoints_are_refused_in_a_line(
    by: str, trained: Path, cli: Callable[..., Outcome], count: Callable[[str], None],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Each by all commands or, where that takes too long, by one of them in turn."""
    whole = (trained / "best.pt").read_bytes()
    best, last = (torch.load(trained / n, weights_only=True) for n in ("best.pt", "last.pt"))
    evil = tmp_path / "evil"
    kinds = {
        "with code": code(whole, best, last, evil),
        "with one wrong value": wrong_values(best, last),
        "that hold themselves": recursions(whole, best),
        "of another kind": other_files(whole, best),
    }
    control = [with_pickle(whole, dict(entries_of(whole))["archive/data.pkl"]), save(best)]
    for content in control:  # what the crafted ones are made with makes good ones, too
        (tmp_path / "x.pt").write_bytes(content)
        assert cli("eval", "--ckpt", "x.pt", "--device", "cpu").status == 0
    wrong, longest = [], 0.0
    files = {f"{kind}: {name}": file for kind in kinds for name, file in kinds[kind].items()}
    for number, (name, content) in enumerate(files.items()):
        (tmp_path / "x.pt").write_bytes(content)
        taken = list(COMMANDS) if by == "all" else [list(COMMANDS)[number % len(COMMANDS)]]
        for command in taken:
            beginning = COMMANDS[command]
            try:
                outcome, seconds = processor_time(lambda: cli(*beginning, "x.pt"))  # noqa: B023
            except Exception as error:
                wrong.append(f"{name}: {command}: {error!r}")
                continue
            longest = max(longest, seconds)
            line = outcome.err
            if (outcome.status, outcome.out, line.count("\n")) != (2, "", 1):
                wrong.append(f"{name}: {command}: {outcome}")
            elif not line.startswith(REFUSED) or not line[:-1].isprintable():
                wrong.append(f"{name}: {command}: {line!r}")
            if evil.exists():
                wrong.append(f"{name}: {command}: it ran code")
                evil.rmdir()
    assert wrong == []
    assert not (tmp_path / "out").exists()
    assert longest < SECONDS
    told = ", ".join(f"{len(files)} {kind}" for kind, files in kinds.items())
    whom = ", ".join(COMMANDS) if by == "all" else f"one of {', '.join(COMMANDS)}"
    count(f"crafted checkpoints: {told}: refused in a line by {whom}")


# ------------------------------------------------------------------------------ claims


def claims(whole: bytes, best: dict[str, Any]) -> dict[str, Callable[[Path], Any]]:
    """Ways to write a small file that asks for gigabytes, or for minutes, by their names."""
    entries = entries_of(whole)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    long = b"\x80\x02\x8b" + (2_000_000).to_bytes(4, "little") + b"\1" * 2_000_001
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = block * 10_000  # a mebibyte of zeros each
    ten = (10**10).to_bytes(5, "little")
    shapes = {name: weight.shape for name, weight in best["model"].items()}

    def written(content: bytes) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(content)

    def expand(width: int) -> bytes:
        arguments = {**best["model_args"], "hidden": width}
        recipe = {**best["recipe"], "hidden": width}
        sizes = {**shapes, "fc1.weight": (width, shapes["fc1.weight"][1]), "fc1.bias": (width,),
                 "fc2.weight": (10, width)}  # fmt: skip
        model = {name: torch.ones(()).expand(size) for name, size in sizes.items()}
        return save({**best, "model": model, "model_args": arguments, "recipe": recipe})

    def make_sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.write(whole)
            file.truncate(10 * GIGABYTE)

    def call(module: bytes, name: bytes) -> bytes:
        return b"\x80\x02c" + module + b"\n" + name + b"\n\x8a\5" + ten + b"\x85R."

    several = [f"archive/data/{number}" for number in range(len(entries), len(entries) + 120)]
    return {
        "a file of 10 GB": make_sparse,
        "a zip bomb": written(
            write_zip([("archive/data.pkl", bomb)], 8, {"archive/data.pkl": 0xFFFFFF00})
        ),
        "a packed pickle": written(write_zip([("archive/data.pkl", bomb)], 8)),
        "120 names for 80 MB": written(
            write_zip([*entries, ("archive/data/x", bytes(80_000_000))], again=several)
        ),
        "a million entries": written(write_zip(entries, repeat=1_000_000)),
        "weights that repeat a number": written(expand(8)),
        "weights of 300 GB that repeat a number": written(expand(10**9)),
        "a bytearray": written(with_pickle(whole, call(b"builtins", b"bytearray"))),
        "a storage": written(with_pickle(whole, call(b"torch.storage", b"UntypedStorage"))),
        "a longer tensor than its entry": written(
            write_zip([(n, data[:4] if n.endswith("data/6") else data) for n, data in entries])
        ),
        "3 MB of lists": written(with_pickle(whole, b"\x80\x02" + b"]" * 2_990_000)),
        "90 MB of lists": written(with_pickle(whole, b"\x80\x02" + b"]" * 90_000_000)),
        "a number of 2 MB": written(with_pickle(whole, long)),
        "300,000 equal epochs": written(
            change(
                torch.load(io.BytesIO(pickled_last(whole, best)), weights_only=True),
                "resume history", lambda old: [old[0]] * 300_000,
            )
        ),
    }  # fmt: skip


def pickled_last(whole: bytes, best: dict[str, Any]) -> bytes:
    """A last.pt with a run in it, made of a best.pt; its history is not looked at."""
    return save({**best, "resume": {"model": best["model"], "history": [best["metrics"]]}})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's peak memory")
def test_no_checkpoint_takes_a_gigabyte_or_ten_seconds(
    forker: "Forker", trained: Path, count: Callable[[str], None], tmp_path: Path
) -> None:
    whole = (trained / "best.pt").read_bytes()
    best = torch.load(trained / "best.pt", weights_only=True)
    wrong, largest, longest = [], 0, 0.0
    ways = claims(whole, best)
    for name, write in ways.items():
        write(tmp_path / "x.pt")
        for command, beginning in COMMANDS.items():
            job = forker.run(*beginning, "x.pt", cwd=tmp_path)
            largest, longest = max(largest, job.peak), max(longest, job.cpu_seconds)
            line = job.stderr
            if (job.status, job.stdout, line.count("\n")) != (2, "", 1):
                wrong.append(f"{name}: {command}: {job}")
            elif not line.startswith(REFUSED):
                wrong.append(f"{name}: {command}: {line}")
            if job.peak > GIGABYTE or job.cpu_seconds > SECONDS:
                wrong.append(f"{name}: {command}: {job.peak} bytes, {job.cpu_seconds} s")
        (tmp_path / "x.pt").unlink()
    assert wrong == []
    count(
        f"checkpoints that claim gigabytes or minutes: {len(ways)}, through {', '.join(COMMANDS)}: "
        f"at most {largest / 1e6:.0f} MB, PyTorch included, and {longest:.1f} s"
    )
