"""Disks that are full, folders that are read-only or vanish: for every file that is written.

Whatever happens, there is the old file or the new one, whole, and nothing beside it; and the user
is told in one line what could not be written.
"""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Mirrors, Outcome, Tiny, leave_undrawn
from PIL import Image

from mnist_cnn import checkpoint, download, visualize
from mnist_cnn.__main__ import main
from mnist_cnn.datasets import FILES, SOURCES
from mnist_cnn.recipes import FAST, RECIPES
from mnist_cnn.system import files

CPU = ("--device", "cpu")
TRAIN = ("train", "--dataset", "mnist", "--recipe", "fast", "--batch-size", 50, *CPU, "--quiet")
PACKED = [f"{file}.gz" for split in FILES.values() for file in split]
# Every file that the program writes, in a folder "out", and the command that writes it.
WRITTEN: dict[str, tuple[object, ...]] = {
    "best.pt": (*TRAIN, "--out-dir", "out"),
    "last.pt": (*TRAIN, "--out-dir", "out"),
    "history.csv": (*TRAIN, "--out-dir", "out"),
    "curves.png": (*TRAIN, "--out-dir", "out"),
    "confusion.png": ("eval", "--confusion", "out/confusion.png", *CPU),
    "predictions.png": ("show-predictions", "--out", "out/predictions.png", *CPU),
    "features.pdf": ("show-features", "--out", "out/features.pdf", *CPU),
    "input.png": ("predict", "digit.png", "--show-input", "out/input.png", *CPU),
    "page.html": ("export", "out/page.html"),
    "net.onnx": ("export", "out/net.onnx"),
    **dict.fromkeys(PACKED, (*TRAIN, "--data-dir", "out", "--out-dir", "run")),
}


@dataclasses.dataclass
class House:
    """A folder with a trained network and its data, in which the commands are run."""

    folder: Path
    cli: Callable[..., Outcome]

    def place(self, name: str) -> Path:
        """Where a file is written."""
        packed = self.folder / "out" / "MNIST" / "raw"
        return (packed if name in PACKED else self.folder / "out") / name

    def put_old(self, name: str) -> None:
        """Puts an older file in the place of the one that is about to be written.

        Not of one of the data, which would not be downloaded again.
        """
        place = self.place(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if name not in PACKED:
            place.write_bytes(b"old")

    def run(self, name: str) -> Outcome:
        return self.cli(*WRITTEN[name])

    def assert_told(self, name: str, outcome: Outcome, *words: str) -> None:
        """One line names the file and says why; a result that does not need it comes first."""
        if name == "curves.png":
            assert outcome.status == 0, outcome
            assert outcome.out.startswith("test accuracy ")
            assert outcome.err.startswith("warning: curves.png cannot be drawn (")
            assert outcome.err.count("\n") == 1
        else:
            outcome.assert_refused(name)
        for word in words:
            assert word in outcome.err
        assert str(os.getpid()) not in outcome.err  # no name that nobody has heard of

    def assert_untouched(self, name: str) -> None:
        """The old file is there, or none, and nothing that is half written."""
        place = self.place(name)
        assert list(self.folder.rglob(".*")) == []
        if name in PACKED:
            assert not place.exists()
        else:
            assert place.read_bytes() == b"old"


@pytest.fixture(scope="module")
def built(small_files: dict[str, bytes]) -> Iterator[Tiny]:
    """A small MNIST and a mirror that has it; a small network; pictures are 100,000 zeros.

    To draw them would take longer than all else.
    """
    import torchvision

    with pytest.MonkeyPatch.context() as patch:
        tiny = Tiny("mnist", SOURCES["mnist"].dataset, patch)
        for file, content in small_files.items():
            tiny.replace(file, content)
        mirrors = Mirrors(tiny.packed)
        patch.setattr(torchvision.datasets.MNIST, "mirrors", [mirrors.url("good")])
        patch.setattr(visualize, "save", lambda figure, suffix: bytes(100_000))
        leave_undrawn(patch)
        patch.setitem(RECIPES, "fast", dataclasses.replace(FAST, channels=(2, 3), hidden=8))
        yield tiny
    mirrors.close()


@pytest.fixture(scope="module")
def example(built: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data, a trained network and a picture."""
    folder = tmp_path_factory.mktemp("example")
    built.write(folder / "data")
    picture = Image.new("L", (280, 280), "white")
    picture.paste("black", (130, 60, 150, 220))
    picture.save(folder / "digit.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([str(option) for option in TRAIN]) == 0
    return folder


@pytest.fixture
def house(example: Path, cli: Callable[..., Outcome], tmp_path: Path) -> House:
    shutil.copytree(example, tmp_path, dirs_exist_ok=True)
    return House(tmp_path, cli)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Limits the size of the files that this process writes, as a full disk would.

    Only for as long as a command runs: what pytest itself prints may go into a file.
    """
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def before_writing(name: str, action: Callable[[Path], object]) -> Iterator[None]:
    """Does something just before the file of that name is written."""
    real = files.scratch_path

    def scratch_path(path: Path) -> Path:
        if path.name == name:
            action(path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "scratch_path", scratch_path)
        yield


@contextlib.contextmanager
def no_space(name: str) -> Iterator[None]:
    """Lets the disk be full when a file of that name is to be flushed to it."""
    real = os.fsync

    def fsync(number: int) -> None:
        scratch = Path.cwd().rglob(f".{name}.*")
        if any(os.path.samestat(os.fstat(number), path.stat()) for path in scratch):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


tried: set[tuple[str, str]] = set()


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Counts the ways in which files could not be written."""
    from conftest import counts

    yield
    ways = sorted({way for _, way in tried})
    if ways:
        counts.append(
            f"files that cannot be written: {len(tried)} cases ({', '.join(ways)}) of "
            f"{len({name for name, _ in tried})} files: each time the old one or the new one"
        )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("name", sorted(WRITTEN.keys() - {"history.csv", *PACKED[1:]}))
def test_a_file_that_the_disk_has_no_room_for(name: str, house: House) -> None:
    """There is room for one byte less than it needs.

    And so for the files before it; those before which a larger one is written are left out.
    """
    house.put_old(name)
    assert house.run(name).status == 0
    size = house.place(name).stat().st_size
    assert size > 20
    shutil.rmtree(house.folder / "out")
    house.put_old(name)
    with room_for(size - 1):
        outcome = house.run(name)
    house.assert_told(name, outcome, os.strerror(errno.EFBIG))
    house.assert_untouched(name)
    tried.add((name, "no room"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_disk_that_says_at_the_end_that_it_is_full(name: str, house: House) -> None:
    house.put_old(name)
    with no_space(name):
        outcome = house.run(name)
    house.assert_told(name, outcome, os.strerror(errno.ENOSPC))
    house.assert_untouched(name)
    tried.add((name, "a full disk"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_that_is_read_only(
    name: str, house: House, forbid_writing: Callable[[Path], None]
) -> None:
    """That is noticed before any work is done for it."""
    house.put_old(name)
    before = sorted(house.folder.rglob("*"))
    forbid_writing(house.folder / "out")
    outcome = house.run(name)
    outcome.assert_refused("out", "Permission denied")
    house.assert_untouched(name)
    assert sorted(house.folder.rglob("*")) == before
    tried.add((name, "a read-only folder"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_that_becomes_read_only_meanwhile(
    name: str, house: House, forbid_writing: Callable[[Path], None]
) -> None:
    house.put_old(name)
    with before_writing(name, lambda path: forbid_writing(path.parent)):
        outcome = house.run(name)
    house.assert_told(name, outcome, "Permission denied")
    left = {path.name for path in house.folder.rglob(".*")}
    assert left <= {files.LOCK}  # which cannot be removed any more
    assert name in PACKED or house.place(name).read_bytes() == b"old"
    tried.add((name, "a folder that becomes read-only"))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_folder_that_vanishes_meanwhile(name: str, house: House) -> None:
    """It is not made again: whoever removed it may have had a reason."""
    house.put_old(name)
    with before_writing(name, lambda path: shutil.rmtree(path.parent)):
        outcome = house.run(name)
    house.assert_told(name, outcome, os.strerror(errno.ENOENT))
    assert not house.place(name).parent.exists()
    tried.add((name, "a folder that vanishes"))


@pytest.mark.parametrize("name", ["curves.png", "best.pt"])
def test_a_folder_in_the_place_of_a_file_is_left_as_it_is(name: str, house: House) -> None:
    (house.folder / "out" / name).mkdir(parents=True)
    (house.folder / "out" / name / "mine").write_text("mine")
    outcome = house.run(name)
    house.assert_told(name, outcome)
    assert (house.folder / "out" / name / "mine").read_text() == "mine"
    assert list(house.folder.rglob(".*")) == []


# ------------------------------------------------------------------------------ a real small disk


@pytest.fixture
def small_disk(house: House) -> Iterator[Path]:
    """A file system of one megabyte, in the folder "out"."""
    disk = house.folder / "out"
    disk.mkdir()
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
    if mount is None or subprocess.run([mount, *options], capture_output=True).returncode:
        pytest.skip("needs leave to mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path, room: int) -> None:
    """Leaves room for so many bytes."""
    (disk / "filler").write_bytes(b"")
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - room))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
@pytest.mark.parametrize(
    "name", ["best.pt", "confusion.png", "predictions.png", "features.pdf", "input.png",
             "page.html", "net.onnx", PACKED[0]],
)  # fmt: skip
def test_a_real_disk_that_is_full(name: str, house: House, small_disk: Path) -> None:
    house.put_old(name)
    fill(small_disk, 0)
    outcome = house.run(name)
    house.assert_told(name, outcome, os.strerror(errno.ENOSPC))
    house.assert_untouched(name)
    (small_disk / "filler").unlink()
    assert house.run(name).status == 0
    tried.add((name, "a real disk that is full"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_training_onto_a_real_disk_of_any_size(house: House, small_disk: Path) -> None:
    """Whatever file is the first that finds no room: what is there is whole."""
    failed = []
    for pages in range(0, 200, 2):
        for path in small_disk.iterdir():
            path.unlink()
        fill(small_disk, pages * 4096)
        outcome = house.run("last.pt")
        assert list(house.folder.rglob(".*")) == []
        for path in small_disk.glob("*.pt"):
            checkpoint.load(path)
        if outcome.status == 0 and not outcome.err:
            break
        failed.append(re.search(r"(best|last|history|curves)\.\w+", outcome.err)[0])
        house.assert_told(failed[-1], outcome, os.strerror(errno.ENOSPC))
    assert {"best.pt", "last.pt", "curves.png"} <= set(failed)
    assert outcome.status == 0
    tried.update((name, "a real disk that is full") for name in failed)


# ------------------------------------------------------------------------------ data


@pytest.mark.parametrize("way", ["no space", "read-only"])
def test_data_that_cannot_be_unpacked_on_the_disk_is_used_all_the_same(
    way: str, house: House, built: Tiny, forbid_writing: Callable[[Path], None]
) -> None:
    raw = built.write(house.folder / "out", packed=True)
    if way == "read-only":
        forbid_writing(raw)
        outcome = house.run(PACKED[0])
    else:
        with contextlib.ExitStack() as full:
            for name in built.files:
                full.enter_context(no_space(name))
            outcome = house.run(PACKED[0])
    assert outcome.status == 0
    assert {path.name for path in raw.iterdir()} == set(PACKED)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_what_a_killed_download_left_goes_with_the_next_one(house: House) -> None:
    """And nothing that somebody else is writing at the moment."""
    raw = house.place(PACKED[0]).parent
    raw.mkdir(parents=True)
    killed = os.fork()
    if killed == 0:
        os.replace = lambda *names: os._exit(9)
        try:
            download.keep(house.place(PACKED[0]), b"half")
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert [path.name.partition(f".{killed}-")[0] for path in raw.iterdir()] == [f".{PACKED[0]}"]
    other = raw / f".{PACKED[1]}.{os.getppid()}-01234567"
    other.touch()
    assert house.run(PACKED[0]).status == 0
    assert [path for path in raw.iterdir() if path.name.startswith(".")] == [other]


# ------------------------------------------------------------------------------ the result first


@pytest.mark.slow
def test_a_backend_that_matplotlib_does_not_know_costs_no_result(start_program: Callable) -> None:
    options = ("--dataset", "sample", "--recipe", "fast", "--epochs", 1, *CPU, "--quiet")
    running = start_program("train", *options, MPLBACKEND="nonsense")
    out, err = running.communicate(timeout=300)
    assert running.returncode == 0
    assert out.startswith("test accuracy ") and out.count("\n") == 1
    assert err.startswith("warning: curves.png cannot be drawn (") and err.count("\n") == 1
    assert "MPLBACKEND=nonsense" in err
