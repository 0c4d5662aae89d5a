"""The files of a data set: read and checked, packed or not, and downloaded where they are missing.

Downloading goes from one mirror to the next, whatever goes wrong, and leaves nothing half-written.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import torch
from conftest import Tiny, pack_idx

from mnist_cnn import Error, download
from mnist_cnn.data import Split, load_split
from mnist_cnn.datasets import FILES, SOURCES
from mnist_cnn.download import DownloadError, choose_dataset

TRAIN_IMAGES, TRAIN_LABELS = FILES["train"]
TEST_LABELS = FILES["test"][1]  # the smallest file
DOWNLOADED = ("mnist", "fashion-mnist", "kmnist")
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
    "endless",
    "endless-redirect",
]


def load_both(folder: Path, name: str = "mnist") -> tuple[Split, Split]:
    return load_split(name, "train", folder), load_split(name, "test", folder)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ------------------------------------------------------------------------------ files on disk


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", DOWNLOADED)
def test_files_on_disk_are_read_packed_or_not(
    make_tiny: Callable[[str], Tiny], name: str, packed: bool, tmp_path: Path
) -> None:
    tiny = make_tiny(name)
    tiny.write(tmp_path, packed=packed)
    train, test = load_both(tmp_path, name)
    expected = load_split("sample", "train", "")
    assert torch.equal(train.images, expected.images[:240])
    assert torch.equal(train.labels, expected.labels[:240])
    assert len(test.labels) == 60


def test_packed_files_are_unpacked_beside_themselves(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path, packed=True)
    load_both(tmp_path)
    for name, content in tiny_mnist.files.items():
        assert (raw / name).read_bytes() == content
    assert len(list(raw.iterdir())) == 8  # and no scratch file is left


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
@pytest.mark.parametrize("file", [TRAIN_IMAGES, TRAIN_LABELS])
@pytest.mark.parametrize("damage", ["short", "long", "empty", "header", "text"])
def test_a_damaged_file_is_named_with_the_way_to_mend_it(
    make_tiny: Callable[[str], Tiny], tmp_path: Path, name: str, file: str, damage: str
) -> None:
    raw = make_tiny(name).write(tmp_path)
    content = (raw / file).read_bytes()
    damaged = {
        "short": content[:-1],
        "long": content + b"\0",
        "empty": b"",
        "header": content[:3] + bytes([content[3] ^ 2]) + content[4:],
        "text": b"<html>".ljust(len(content)),
    }
    (raw / file).write_bytes(damaged[damage])
    with pytest.raises(Error, match="damaged") as caught:
        load_split(name, "train", tmp_path)
    assert str(raw / file) in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (raw / file).read_bytes() == damaged[damage]  # it may be all that its owner has


def test_one_wrong_byte_in_mnist_is_noticed(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path)
    content = bytearray((raw / TRAIN_IMAGES).read_bytes())
    content[10_000] ^= 1
    (raw / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(Error, match=f"{TRAIN_IMAGES} is damaged"):
        load_split("mnist", "train", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_label_that_is_no_class_is_noticed(
    make_tiny: Callable[[str], Tiny], tmp_path: Path, packed: bool
) -> None:
    tiny = make_tiny("kmnist")
    labels = torch.arange(240) % 11
    tiny.replace(TRAIN_LABELS, pack_idx(labels))
    tiny.write(tmp_path, packed=packed)
    with pytest.raises(Error, match=rf"{TRAIN_LABELS}.*label 10\b"):
        load_split("kmnist", "train", tmp_path)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_damaged_packed_file_is_an_error_even_beside_an_unpacked_one(
    make_tiny: Callable[[str], Tiny], tmp_path: Path, name: str, beside: bool
) -> None:
    tiny = make_tiny(name)
    raw = tiny.write(tmp_path, packed=True)
    packed = raw / f"{TRAIN_IMAGES}.gz"
    packed.write_bytes(packed.read_bytes()[:-7])
    if beside:
        (raw / TRAIN_IMAGES).write_bytes(tiny.files[TRAIN_IMAGES])
    with pytest.raises(Error, match="damaged") as caught:
        load_split(name, "train", tmp_path)
    assert not isinstance(caught.value, DownloadError)
    assert str(packed) in str(caught.value)
    assert packed.exists()


def test_a_packed_file_that_unpacks_to_something_else_is_named(
    tiny_mnist: Tiny, tmp_path: Path
) -> None:
    """Its sum may be right (a mirror's new file), and its contents still be of no use."""
    tiny_mnist.replace(TRAIN_IMAGES, tiny_mnist.files[TRAIN_IMAGES][:-1])
    raw = tiny_mnist.write(tmp_path, packed=True)
    with pytest.raises(Error, match=f"{TRAIN_IMAGES}.gz is damaged"):
        load_split("mnist", "train", tmp_path)
    assert not (raw / TRAIN_IMAGES).exists()


def test_auto_does_not_pass_over_a_damaged_mnist(
    tiny_mnist: Tiny, tmp_path: Path, cli: Callable
) -> None:
    raw = tiny_mnist.write(tmp_path / "data")
    (raw / TRAIN_IMAGES).write_bytes(b"short")
    cli("train", "--epochs", 1).assert_refused(str(Path("data/MNIST/raw") / TRAIN_IMAGES))
    assert not (tmp_path / "checkpoints").exists()


def test_a_file_that_is_a_folder_is_named(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path)
    (raw / TRAIN_IMAGES).unlink()
    (raw / TRAIN_IMAGES).mkdir()
    with pytest.raises(Error, match="--data-dir") as caught:
        load_split("mnist", "train", tmp_path)
    assert str(raw / TRAIN_IMAGES) in str(caught.value)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device without an end")
def test_a_file_that_has_no_end_is_refused(tiny_mnist: Tiny, tmp_path: Path) -> None:
    raw = tiny_mnist.write(tmp_path)
    (raw / TRAIN_IMAGES).unlink()
    (raw / TRAIN_IMAGES).symlink_to("/dev/zero")
    with pytest.raises(Error, match="not a file of a data set"):
        load_split("mnist", "train", tmp_path)


@pytest.mark.parametrize("dataset", ["auto", "mnist", "kmnist"])
def test_a_data_dir_that_is_a_file_is_refused(dataset: str, cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    cli("train", "--dataset", dataset).assert_refused("data", "--data-dir")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_data_dir_that_cannot_be_made_is_refused(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cli("train", "--dataset", "mnist", "--data-dir", "file/x").assert_refused("--data-dir")


@pytest.mark.parametrize("packed", [False, True])
def test_a_complete_data_dir_may_be_read_only(
    tiny_mnist: Tiny, tmp_path: Path, forbid_writing: Callable[[Path], None], packed: bool
) -> None:
    raw = tiny_mnist.write(tmp_path / "data", packed=packed)
    before = sorted(raw.iterdir())
    forbid_writing(tmp_path / "data")
    assert choose_dataset(tmp_path / "data") == ("mnist", "")
    train, test = load_both(tmp_path / "data")
    assert (len(train.labels), len(test.labels)) == (240, 60)
    assert sorted(raw.iterdir()) == before


def test_a_read_only_data_dir_that_lacks_a_file_is_refused(
    tiny_mnist: Tiny, tmp_path: Path, forbid_writing: Callable[[Path], None], cli: Callable
) -> None:
    raw = tiny_mnist.write(tmp_path / "data")
    (raw / TRAIN_IMAGES).unlink()
    forbid_writing(tmp_path / "data")
    cli("train", "--data-dir", tmp_path / "data").assert_refused("--data-dir", "Permission denied")


def test_a_sample_that_lost_a_file_asks_to_be_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCES["sample"]
    shutil.copytree(source.folder, tmp_path / "sample")
    monkeypatch.setitem(SOURCES, "sample", replace(source, folder=tmp_path / "sample"))
    assert len(load_split("sample", "train", tmp_path).labels) == 4000
    (tmp_path / "sample" / "MNIST" / "raw" / TRAIN_LABELS).unlink()
    with pytest.raises(Error, match="install the package") as caught:
        load_split("sample", "train", tmp_path)
    assert TRAIN_LABELS in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (URLError(TimeoutError("timed out")), "no answer for 10 s"),
        (URLError(OSError(113, "No route to host")), "[Errno 113] No route to host"),
        (HTTPError("http://x", 403, "Forbidden", Message(), None), "HTTP Error 403: Forbidden"),
        (ValueError("two\nlines"), "two lines"),
        (OSError(), "OSError"),
    ],
)
def test_what_went_wrong_is_said_in_a_few_words(error: Exception, words: str) -> None:
    assert download.describe_failure(error) == words


# ------------------------------------------------------------------------------ downloading


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives a mirror up after half a second without a byte instead of 10."""
    monkeypatch.setattr(download, "TIMEOUT", 0.5)


def test_a_mirror_is_given_up_after_10_s_without_data() -> None:
    assert download.TIMEOUT == 10


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("failing", FAILINGS)
def test_the_next_mirror_is_tried_whatever_is_wrong_with_the_first(
    failing: str, tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    raw = tiny_mnist.write(tmp_path)  # all is there but the smallest file
    (raw / TEST_LABELS).unlink()
    mirrors = serve_mirrors(tiny_mnist.packed, failing, "good")
    download.download("mnist", tmp_path)
    assert not mirrors.outwaited
    assert mirrors.requests[-1] == f"good/{TEST_LABELS}.gz"
    assert (raw / f"{TEST_LABELS}.gz").read_bytes() == tiny_mnist.packed[f"{TEST_LABELS}.gz"]
    assert len(load_split("mnist", "test", tmp_path).labels) == 60


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("failing", FAILINGS)
def test_nothing_half_written_is_left_where_every_mirror_fails(
    failing: str, tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    mirrors = serve_mirrors(tiny_mnist.packed, failing)
    with pytest.raises(DownloadError, match="cannot be downloaded") as caught:
        load_split("mnist", "test", tmp_path)
    assert not mirrors.outwaited
    assert failing in str(caught.value) or failing == "refusing"  # the address that failed
    assert "\n" not in str(caught.value)
    assert files_in(tmp_path) == []


def test_a_mirror_that_sends_without_end_is_given_up_at_what_the_file_can_have(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    mirrors = serve_mirrors(tiny_mnist.packed, "endless")
    with pytest.raises(DownloadError, match=r"more than \d+ bytes arrived") as caught:
        load_split("mnist", "train", tmp_path)
    assert not mirrors.outwaited
    most = int(str(caught.value).partition("more than ")[2].split()[0])
    largest = max(map(len, tiny_mnist.files.values()))
    assert largest <= most <= largest + 10_000


def test_a_file_that_does_not_compress_is_not_too_much(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    """Packed, noise is larger than it was."""
    noise = torch.randint(0, 256, (240, 28, 28))
    tiny_mnist.replace(TRAIN_IMAGES, pack_idx(noise))
    assert len(tiny_mnist.packed[f"{TRAIN_IMAGES}.gz"]) > len(tiny_mnist.files[TRAIN_IMAGES])
    serve_mirrors(tiny_mnist.packed, "good")
    assert torch.equal(load_split("mnist", "train", tmp_path).images, noise.to(torch.uint8))


@pytest.mark.parametrize("name", DOWNLOADED)
def test_all_that_is_missing_is_downloaded_once(
    name: str, make_tiny: Callable[[str], Tiny], serve_mirrors: Callable, tmp_path: Path
) -> None:
    tiny = make_tiny(name)
    mirrors = serve_mirrors(tiny.packed, "good", dataset=tiny.dataset)
    for _ in range(2):
        train, test = load_both(tmp_path / "new", name)
        assert (len(train.labels), len(test.labels)) == (240, 60)
    assert sorted(mirrors.requests) == sorted(f"good/{file}" for file in tiny.packed)


def test_files_that_are_there_are_not_downloaded_again(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    raw = tiny_mnist.write(tmp_path)
    (raw / TRAIN_IMAGES).unlink()
    (raw / TRAIN_LABELS).unlink()
    (raw / f"{TRAIN_LABELS}.gz").write_bytes(tiny_mnist.packed[f"{TRAIN_LABELS}.gz"])
    mirrors = serve_mirrors(tiny_mnist.packed, "good")
    assert choose_dataset(tmp_path) == ("mnist", "")
    assert mirrors.requests == [f"good/{TRAIN_IMAGES}.gz"]


def test_a_large_file_may_take_longer_than_the_time_out(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a silence that is too long, not a download: this one has no gap above 0.3 s."""
    monkeypatch.setattr(download, "TIMEOUT", 1.0)
    raw = tiny_mnist.write(tmp_path)
    (raw / TEST_LABELS).unlink()
    mirrors = serve_mirrors(tiny_mnist.packed, "slow")
    download.download("mnist", tmp_path)
    assert mirrors.longest > download.TIMEOUT
    assert (raw / f"{TEST_LABELS}.gz").read_bytes() == tiny_mnist.packed[f"{TEST_LABELS}.gz"]


def test_a_proxy_is_seen_as_it_is_now(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors = serve_mirrors(tiny_mnist.packed, "good")
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", mirrors.url("refusing"))
    with pytest.raises(DownloadError):
        download.download("mnist", tmp_path)
    assert mirrors.requests == []
    monkeypatch.delenv("HTTP_PROXY")
    download.download("mnist", tmp_path)
    assert len(mirrors.requests) == 4


def test_a_proxy_is_used(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the proxy can be reached; it is asked for the mirror's whole address."""
    from torchvision.datasets import MNIST

    proxy = serve_mirrors(tiny_mnist.packed, "good")
    monkeypatch.setattr(MNIST, "mirrors", ["http://mirror.example/good/"])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server.server_port}")
    download.download("mnist", tmp_path)
    assert sorted(proxy.requests) == sorted(f"good/{file}" for file in tiny_mnist.packed)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot interrupt a thread that waits")
def test_a_download_that_is_interrupted_leaves_nothing_half_written(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path
) -> None:
    mirrors = serve_mirrors(tiny_mnist.packed, "stalling")

    def press_ctrl_c() -> None:
        while not mirrors.requests:
            time.sleep(0.01)
        time.sleep(0.2)  # half of the file is there
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # Tests that a script runs in the background inherit a SIGINT that is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            download.download("mnist", tmp_path)
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    assert len(mirrors.requests) == 1
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_downloaded_is_said_unless_told_otherwise(
    tiny_mnist: Tiny, serve_mirrors: Callable, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], quiet: bool,
) -> None:  # fmt: skip
    mirrors = serve_mirrors(tiny_mnist.packed, "good")
    capsys.readouterr()
    download.download("mnist", tmp_path, quiet=quiet)
    out, err = capsys.readouterr()
    assert out == ""
    said = [f"downloading {mirrors.url('good')}{file}" for file in tiny_mnist.packed]
    assert sorted(err.splitlines()) == ([] if quiet else sorted(said))


def test_a_failed_download_is_an_error_that_the_user_can_mend() -> None:
    assert issubclass(DownloadError, Error)


# ------------------------------------------------------------------------------ the commands


def test_train_downloads_what_it_trains_on(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, undrawn: None, tmp_path: Path
) -> None:
    serve_mirrors(tiny_mnist.packed, "refusing", "good")
    outcome = cli("train", "--epochs", 1, "--batch-size", 50, "--device", "cpu")
    assert outcome.status == 0
    assert " of 60, mnist), checkpoint " in outcome.out
    assert "warning" not in outcome.err
    for name, content in tiny_mnist.packed.items():
        assert (tmp_path / "data" / "MNIST" / "raw" / name).read_bytes() == content


@pytest.mark.usefixtures("impatient")
def test_auto_falls_back_on_the_sample_and_says_so(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, undrawn: None
) -> None:
    serve_mirrors(tiny_mnist.packed, "forbidden", "silent")
    outcome = cli(
        "train", "--recipe", "fast", "--epochs", 1, "--data-dir", "digits", "--quiet",
        "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0
    checkpoint = Path("checkpoints/best.pt")
    assert outcome.out.endswith(f" of 1000, sample), checkpoint {checkpoint}\n")
    warning = next(line for line in outcome.err.splitlines() if line.startswith("warning: "))
    raw = str(Path("digits/MNIST/raw"))
    for promise in ("sample", "4,000", "Forbidden", "no answer", "98 %", raw):
        assert promise in warning
    assert cli("eval", "--json", "--device", "cpu").out.startswith('{"dataset": "sample"')


def test_what_the_sample_is_too_small_for_is_refused_with_the_reason(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, tmp_path: Path
) -> None:
    serve_mirrors(tiny_mnist.packed, "forbidden")
    outcome = cli("train", "--batch-size", 5000, "--quiet")
    outcome.assert_refused("--batch-size 5000", "stands in for mnist", "Forbidden")
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_that_cannot_be_written_is_noticed_before_anything_is_downloaded(
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, tmp_path: Path
) -> None:
    serve_mirrors(tiny_mnist.packed, "good")
    (tmp_path / "checkpoints").write_text("a file")
    cli("train").assert_refused("checkpoints", "--out-dir")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_a_data_set_asked_for_by_name_is_not_replaced(
    name: str, make_tiny: Callable[[str], Tiny], serve_mirrors: Callable, cli: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    tiny = make_tiny(name)
    serve_mirrors(tiny.packed, "refusing", "damaged", dataset=tiny.dataset)
    outcome = cli("train", "--dataset", name)
    outcome.assert_refused("cannot be downloaded", "damaged", "--data-dir")
    # To train on the sample instead makes sense for digits alone.
    assert ("--dataset sample" in outcome.err) == (name == "mnist")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.usefixtures("impatient")
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
    tiny_mnist: Tiny, serve_mirrors: Callable, cli: Callable, undrawn: None, tmp_path: Path
) -> None:
    tiny_mnist.write(tmp_path / "data")
    options = ("--recipe", "fast", "--epochs", 1, "--batch-size", 200, "--quiet", "--device", "cpu")
    assert cli("train", *options).status == 0
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    serve_mirrors(tiny_mnist.packed, "forbidden")
    cli("train", *options, "--data-dir", "none").assert_refused("best.pt", "mnist", "--out-dir")
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == files
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"of another version, perhaps")
    cli("train", *options, "--data-dir", "none").assert_refused("best.pt", "cannot be read")
    (tmp_path / "checkpoints" / "best.pt").unlink()
    cli("train", *options, "--data-dir", "none").assert_refused("last.pt", "mnist", "--out-dir")

    other = cli("train", *options, "--data-dir", "none", "--out-dir", "other")
    assert other.status == 0
    assert other.out.endswith(f"sample), checkpoint {Path('other/best.pt')}\n")

    loud = [option for option in options if option != "--quiet"]
    wanted = cli("train", *loud, "--dataset", "sample")
    assert wanted.status == 0
    assert "replacing" in wanted.err
