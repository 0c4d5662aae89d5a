"""Checkpoints: what they hold, how they are written, and what is refused in their place."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mnist_cnn
from mnist_cnn import Error, checkpoint, data
from mnist_cnn.files import write_file
from mnist_cnn.model import CNN


@pytest.fixture
def best(sample_checkpoint: Path) -> dict[str, Any]:
    return torch.load(sample_checkpoint, weights_only=True)


@pytest.fixture
def last(sample_checkpoint: Path) -> dict[str, Any]:
    return torch.load(sample_checkpoint.with_name("last.pt"), weights_only=True)


# ------------------------------------------------------------------------------ contents


def test_it_holds_what_the_network_is_and_where_it_comes_from(best: dict[str, Any]) -> None:
    assert (best["dataset"], best["classes"]) == ("sample", data.DIGITS)
    assert best["recipe"]["name"] == "standard"
    assert best["recipe"]["epochs"] == 15
    assert best["overrides"] == {"epochs": 15}
    assert best["seed"] == 0
    assert 1 <= best["epoch"] <= 15
    assert best["metrics"]["epoch"] == best["epoch"]
    assert 0.9 < best["metrics"]["val_accuracy"] <= 1
    versions = {"mnist_cnn": mnist_cnn.__version__, "torch": torch.__version__}
    assert best["versions"] == versions
    assert "resume" not in best


def test_it_holds_the_mean_and_deviation_of_the_training_images(best: dict[str, Any]) -> None:
    both = data.load_split("sample", "train", "")
    pixels = data.split_validation(both, 400)[0].images / 255
    assert best["model"]["mean"].item() == pytest.approx(pixels.mean().item(), rel=1e-4)
    assert best["model"]["std"].item() == pytest.approx(pixels.std().item(), rel=1e-4)


def test_last_holds_all_that_is_needed_to_go_on(last: dict[str, Any]) -> None:
    state = last["resume"]
    assert last["epoch"] == 15
    assert [row["epoch"] for row in state["history"]] == list(range(1, 16))
    assert {"optimizer", "schedule", "model"} <= state.keys()
    assert state["best"]["metrics"] == max(state["history"], key=lambda row: row["val_accuracy"])


def test_best_lies_in_last_as_well(best: dict[str, Any], last: dict[str, Any]) -> None:
    inner = last["resume"]["best"]
    assert inner.keys() == best.keys()
    assert all(torch.equal(inner["model"][key], value) for key, value in best["model"].items())
    assert {k: inner[k] for k in best if k != "model"} == {k: best[k] for k in best if k != "model"}


def test_the_network_can_be_built_from_it_alone(best: dict[str, Any]) -> None:
    model = checkpoint.build_model(best)
    assert not model.training
    assert all(torch.equal(best["model"][k], v) for k, v in model.state_dict().items())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def plain(value: Any) -> bool:
    """Whether it is a tensor or one of the plain kinds, all the way down."""
    if isinstance(value, dict):
        return all(type(key) in (str, int) and plain(item) for key, item in value.items())
    if type(value) is list:
        return all(plain(item) for item in value)
    return type(value) in (str, int, float, bool, torch.Tensor)


def test_it_holds_tensors_and_plain_values_alone(best: dict[str, Any]) -> None:
    assert [key for key, value in best.items() if not plain(value)] == []


# ------------------------------------------------------------------------------ loading


class Evil:
    """Unpickled carelessly, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def bad_files(best: dict[str, Any], whole: bytes, folder: Path) -> dict[str, Callable[[Path], Any]]:
    """Ways to write a file that is no good, by their names."""
    model, arguments = best["model"], best["model_args"]

    def saved(value: Any) -> Callable[[Path], Any]:
        return lambda path: torch.save(value, path)

    def written(content: bytes) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(content)

    def with_weight(name: str, value: Any) -> Callable[[Path], Any]:
        return saved({**best, "model": {**model, name: value}})

    nan = model["fc2.bias"].clone()
    nan[3] = float("nan")
    evil = Evil(folder / "evil")
    return {
        "empty": written(b""),
        "half": written(whole[: len(whole) // 2]),
        "all but the end": written(whole[:-50]),
        "text": written(b"not a checkpoint\n" * 99),
        "picture": written(b"\x89PNG\r\n\x1a\n" + bytes(99)),
        "zip": written(b"PK\x05\x06" + bytes(18)),
        "noise": written(os.urandom(5000)),
        "folder": lambda path: path.mkdir(),
        "pickle": written(pickle.dumps(evil, protocol=2)),
        "new pickle": written(pickle.dumps(evil, protocol=4)),
        "torch pickle": saved({**best, "seed": evil}),
        "torch pickle, old format": lambda path: torch.save(
            {**best, "seed": evil}, path, _use_new_zipfile_serialization=False
        ),
        "list": saved([1, 2]),
        "tensor": saved(torch.zeros(3)),
        "only weights": saved(model),
        "another model's weights": saved(torch.nn.Linear(3, 3).state_dict()),
        "another model": saved({**best, "model": torch.nn.Linear(3, 3).state_dict()}),
        "a weight too few": saved(
            {**best, "model": {k: v for k, v in model.items() if k != "fc1.bias"}}
        ),
        "a weight too many": with_weight("fc3.bias", torch.zeros(3)),
        "other shape": with_weight("fc1.weight", torch.zeros(256, 801)),
        "other type": with_weight("fc1.bias", torch.zeros(256, dtype=torch.float64)),
        "no tensor": with_weight("fc1.bias", [0.0] * 256),
        "sparse": with_weight("fc1.bias", torch.zeros(256).to_sparse()),
        "NaN": with_weight("fc2.bias", nan),
        "infinity": with_weight("mean", torch.tensor(float("inf"))),
        "other widths": saved({**best, "model_args": {**arguments, "hidden": 255}}),
        "absurd widths": saved({**best, "model_args": {**arguments, "hidden": 10**12}}),
        "unknown argument": saved({**best, "model_args": {**arguments, "layers": 3}}),
        "too few widths": saved({**best, "model_args": {**arguments, "channels": [24]}}),
        "other number of classes": saved({**best, "classes": data.DIGITS[:9]}),
        "classes that are no text": saved({**best, "classes": list(range(10))}),
        **{
            f"no {key}": saved({k: v for k, v in best.items() if k != key})
            for key in checkpoint.TYPES
        },
        "seed that is no number": saved({**best, "seed": "0"}),
        "damaged resume": saved({**best, "resume": {"history": []}}),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle", "ignore:Validating sparse")
def test_whatever_is_no_checkpoint_is_refused_by_name(
    best: dict[str, Any], sample_checkpoint: Path, tmp_path: Path
) -> None:
    wrong = []
    for name, write in bad_files(best, sample_checkpoint.read_bytes(), tmp_path).items():
        path = tmp_path / f"{name}.pt"
        write(path)
        try:
            checkpoint.load(path)
            wrong.append(f"{name}: it was loaded")
        except Error as error:
            if str(path) not in str(error) or "\n" in str(error):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
        if (tmp_path / "evil").exists():
            wrong.append(f"{name}: it ran code")
            (tmp_path / "evil").rmdir()
    assert wrong == []


COMMANDS = {
    "eval": ("eval", "--ckpt"),
    "show-predictions": ("show-predictions", "--ckpt"),
    "train --resume": ("train", "--resume"),
    "predict": ("predict", "digit.png", "--ckpt"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "kind", ["missing", "empty", "all but the end", "new pickle", "other shape"]
)
def test_every_command_refuses_it_in_one_line(
    command: str, kind: str, best: dict[str, Any], sample_checkpoint: Path, tmp_path: Path,
    cli: Callable, recwarn: pytest.WarningsRecorder,
) -> None:  # fmt: skip
    if command == "predict":
        pytest.importorskip("mnist_cnn.predict")
    (tmp_path / "digit.png").touch()
    if kind != "missing":
        bad_files(best, sample_checkpoint.read_bytes(), tmp_path)[kind](tmp_path / "bad.pt")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    outcome = cli(*COMMANDS[command], "bad.pt", "--device", "cpu")
    assert [str(warning.message) for warning in recwarn] == []  # a further line on stderr
    outcome.assert_refused("bad.pt", "python -m mnist_cnn train")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_without_a_checkpoint_training_is_proposed(cli: Callable) -> None:
    cli("eval").assert_refused("checkpoints/best.pt", "run python -m mnist_cnn train first")


def test_a_checkpoint_that_may_not_be_read_is_refused(
    sample_checkpoint: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(sample_checkpoint))

    monkeypatch.setattr(torch, "load", refuse)
    cli("eval", "--ckpt", sample_checkpoint).assert_refused(str(sample_checkpoint), "permission")


# ------------------------------------------------------------------------------ saving


def test_what_was_saved_is_loaded_again(best: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "again.pt", best)
    again = checkpoint.load(tmp_path / "again.pt")
    assert again.keys() == best.keys()
    model = checkpoint.build_model(again)
    assert isinstance(model, CNN)
    assert all(torch.equal(best["model"][k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best.pt").write_bytes(b"old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"mnist_cnn.files.os.{step}", fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "best.pt", b"new")
    assert (tmp_path / "best.pt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_whole_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = os.replace

    def replace(source: str, target: str) -> None:
        seen.append((Path(source).read_bytes(), Path(source).parent, (tmp_path / "x").exists()))
        real(source, target)

    monkeypatch.setattr("mnist_cnn.files.os.replace", replace)
    write_file(tmp_path / "x", b"content")
    assert seen == [(b"content", tmp_path, False)]  # in the same folder: no other disk to cross
    assert (tmp_path / "x").read_bytes() == b"content"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "x", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640
