"""Downloading: one mirror after the other, whatever goes wrong, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Tiny

from mnist_cnn import Error, data

FAILINGS = [
    "refusing",
    "forbidden",
    "silent",
    "stalling",
    "dropping",
    "truncated",
    "damaged",
    "html",
    "no-http",
    "endless-redirect",
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert data.TIMEOUT == 10  # seconds, as the design says
    monkeypatch.setattr(data, "TIMEOUT", 0.3)


@pytest.mark.parametrize("failing", FAILINGS)
def test_the_next_mirror_is_tried_whatever_is_wrong_with_the_first(
    failing: str, tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    name = data.FILES["test"][1]
    raw = tiny_mnist.write(tmp_path)  # all is there but the smallest file
    (raw / name).unlink()
    mirrors = serve_mirrors(tiny_mnist.packed, failing, "good")
    data.download("mnist", tmp_path)
    assert not mirrors.outwaited
    assert mirrors.requests[-1] == f"good/{name}.gz"
    assert (raw / f"{name}.gz").read_bytes() == tiny_mnist.packed[f"{name}.gz"]
    assert len(data.load_split("mnist", "test", tmp_path).labels) == 60


@pytest.mark.parametrize("failing", FAILINGS)
def test_nothing_half_written_is_left_where_every_mirror_fails(
    failing: str, tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    mirrors = serve_mirrors(tiny_mnist.packed, failing)
    with pytest.raises(data.DownloadError, match="cannot be downloaded") as caught:
        data.load_split("mnist", "test", tmp_path)
    assert not mirrors.outwaited
    assert failing in str(caught.value) or failing == "refusing"  # the address that failed
    assert "\n" not in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_all_that_is_missing_is_downloaded_once(
    name: str, make_tiny: Callable[[str], Tiny], serve_mirrors: Callable, tmp_path: Path
) -> None:
    tiny = make_tiny(name)
    mirrors = serve_mirrors(tiny.packed, "good", dataset=tiny.dataset)
    for _ in range(2):
        assert len(data.load_split(name, "train", tmp_path / "new").labels) == 240
        assert len(data.load_split(name, "test", tmp_path / "new").labels) == 60
    assert sorted(mirrors.requests) == sorted(f"good/{file}" for file in tiny.packed)


def test_files_that_are_there_are_not_downloaded_again(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    raw = tiny_mnist.write(tmp_path)
    tiny_mnist.write(tmp_path / "other", packed=True)
    images, labels = data.FILES["train"]
    (raw / images).unlink()
    (raw / labels).unlink()
    (raw / f"{labels}.gz").write_bytes(tiny_mnist.packed[f"{labels}.gz"])
    mirrors = serve_mirrors(tiny_mnist.packed, "good")
    assert data.find_dataset(tmp_path) == ("mnist", "")
    assert mirrors.requests == [f"good/{images}.gz"]


def test_a_large_file_may_take_longer_than_the_time_out(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a silence that is too long, not a download: 0.5 s in all, no gap above 0.1 s."""
    mirrors = serve_mirrors(tiny_mnist.packed, "good")

    def send_slowly(request, content: bytes, length: int | None = None) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        size = len(content) // 5 + 1
        for start in range(0, len(content), size):
            request.wfile.write(content[start : start + size])
            mirrors.over.wait(0.1)

    monkeypatch.setattr(mirrors, "send", send_slowly)
    name = f"{data.FILES['test'][1]}.gz"
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    data._download_file(data.SOURCES["mnist"], raw, name)
    assert (raw / name).read_bytes() == tiny_mnist.packed[name]


def test_a_download_that_is_interrupted_leaves_nothing_half_written(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_mirrors(tiny_mnist.packed, "good")

    def interrupt(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnist_cnn.files.os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.download("mnist", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------ the commands


def test_train_downloads_what_it_trains_on(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, tmp_path: Path
) -> None:
    serve_mirrors(tiny_mnist.packed, "refusing", "good")
    outcome = cli("train", "--epochs", 1, "--batch-size", 50, "--device", "cpu")
    assert outcome.status == 0
    assert " of 60, mnist), checkpoint " in outcome.out
    assert "warning" not in outcome.err
    for name, content in tiny_mnist.packed.items():
        assert (tmp_path / "data" / "MNIST" / "raw" / name).read_bytes() == content


def test_auto_falls_back_on_the_sample_and_says_so(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, tmp_path: Path
) -> None:
    serve_mirrors(tiny_mnist.packed, "forbidden", "silent")
    outcome = cli(
        "train", "--recipe", "fast", "--epochs", 1, "--data-dir", "digits", "--quiet",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0
    assert outcome.out.endswith(" of 1000, sample), checkpoint checkpoints/best.pt\n")
    warning = next(line for line in outcome.err.splitlines() if line.startswith("warning: "))
    for promise in ("sample", "4,000", "Forbidden", "no answer", "98 %", "digits/MNIST/raw"):
        assert promise in warning
    assert cli("eval", "--json", "--device", "cpu").out.startswith('{"dataset": "sample"')


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_a_data_set_asked_for_by_name_is_not_replaced(
    name: str, make_tiny: Callable[[str], Tiny], serve_mirrors: Callable, cli: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    tiny = make_tiny(name)
    serve_mirrors(tiny.packed, "refusing", "damaged", dataset=tiny.dataset)
    outcome = cli("train", "--dataset", name)
    outcome.assert_refused("cannot be downloaded", "damaged", "--data-dir", "--dataset sample")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("command", ["eval", "show-predictions"])
def test_evaluation_never_falls_back(
    command: str, tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, sample_checkpoint: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    serve_mirrors(tiny_mnist.packed, "stalling")
    outcome = cli(command, "--ckpt", sample_checkpoint, "--dataset", "mnist", "--device", "cpu")
    outcome.assert_refused("--dataset sample")
    assert list(tmp_path.glob("*.png")) == []


def test_a_fallback_does_not_replace_what_was_trained_on_mnist(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, tmp_path: Path
) -> None:
    tiny_mnist.write(tmp_path / "data")
    options = ("--epochs", 1, "--batch-size", 50, "--quiet", "--device", "cpu")
    assert cli("train", *options).status == 0
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    serve_mirrors(tiny_mnist.packed, "refusing")
    cli("train", *options, "--data-dir", "none").assert_refused("best.pt", "mnist", "--out-dir")
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == files

    other = cli("train", *options, "--data-dir", "none", "--out-dir", "other")
    assert other.status == 0
    assert other.out.endswith("sample), checkpoint other/best.pt\n")

    loud = [option for option in options if option != "--quiet"]
    wanted = cli("train", *loud, "--dataset", "sample")
    assert wanted.status == 0
    assert "replacing" in wanted.err


def test_a_failed_download_is_an_error_that_the_user_can_mend() -> None:
    assert issubclass(data.DownloadError, Error)
