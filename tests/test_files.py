"""Files: written whole or not at all, whatever happens meanwhile."""

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import mnist_cnn
from mnist_cnn import Error
from mnist_cnn.system.files import (
    check_folder,
    is_folder,
    lock_folder,
    remove_leavings,
    scratch_path,
    write_file,
)

PACKAGE = Path(mnist_cnn.__file__).parents[1]
WRITE_WITHOUT_END = """
import sys
from mnist_cnn.system.files import write_file
print("ready", flush=True)
while True:
    write_file(sys.argv[1], bytes(16_000_000))
"""
WRITE_BEYOND_A_LIMIT = """
import resource, sys
from mnist_cnn.system.files import write_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_file(sys.argv[1], bytes(5000))
"""


def start(code: str, path: Path) -> subprocess.Popen:
    """Starts a program with the name of a file."""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=PACKAGE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


# ------------------------------------------------------------------------------ write_file


def test_a_file_is_written_under_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_file(tmp_path / "x", b"first")
    write_file(str(tmp_path / "x"), b"content")
    assert (tmp_path / "x").read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.parametrize("name", ["ü 四.pt", ".hidden", "x" * 255, "四" * 85])
def test_a_file_may_have_an_odd_name(name: str, tmp_path: Path) -> None:
    write_file(tmp_path / name, b"content")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name == "nt", reason="Windows renames over no file that somebody has open")
def test_whoever_reads_meanwhile_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    old, new = bytes(2_000_000), b"\1" * 1_000_000
    path, seen, over = tmp_path / "x", [], threading.Event()
    write_file(path, old)

    def read() -> None:
        while not over.is_set():
            try:
                seen.append(path.read_bytes() in (old, new))
            except OSError:
                seen.append(False)

    reader = threading.Thread(target=read)
    reader.start()
    for content in [new, old] * 40:
        write_file(path, content)
    over.set()
    reader.join()
    assert len(seen) > 10
    assert all(seen)


def test_a_program_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """And at most what it was writing, under a name that tells whose it was."""
    old, new, leavings = b"old", bytes(16_000_000), 0
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        (folder / "best.pt").write_bytes(old)
        writer = start(WRITE_WITHOUT_END, folder / "best.pt")
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.003 * attempt)
        writer.kill()
        writer.communicate()
        assert (folder / "best.pt").read_bytes() in (old, new)
        left = [path.name for path in folder.iterdir() if path.name != "best.pt"]
        assert all(re.fullmatch(rf"\.best\.pt\.{writer.pid}-[0-9a-f]{{8}}", name) for name in left)
        leavings += len(left)
        if leavings >= 3:
            return
    assert leavings, "no writer was killed while it wrote"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    writer = start(WRITE_BEYOND_A_LIMIT, tmp_path / "x")
    _, err = writer.communicate()
    assert writer.returncode == 1
    assert "OSError: [Errno 27]" in err
    assert err.endswith(f"{str(tmp_path / 'x')!r}\n")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_bytes(b"mine")
    with pytest.raises(OSError):
        write_file(tmp_path / "x", b"content")
    assert (tmp_path / "x" / "mine").read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_file(tmp_path / "none" / "x", b"content")
    assert caught.value.filename == str(tmp_path / "none" / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_read_only_is_an_error_of_the_system(
    tmp_path: Path, forbid_writing: Callable[[Path], None]
) -> None:
    (tmp_path / "x").write_bytes(b"old")
    forbid_writing(tmp_path)
    with pytest.raises(PermissionError) as caught:
        write_file(tmp_path / "x", b"content")
    assert caught.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    step: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "best.pt").write_bytes(b"old")

    def fail(*args: object) -> None:
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)) as caught:
        write_file(tmp_path / "best.pt", b"new")
    if isinstance(failure, OSError):  # the user's file is named, not what is beside it meanwhile
        assert str(caught.value) == f"[Errno 5] Input/output error: {str(tmp_path / 'best.pt')!r}"
    assert (tmp_path / "best.pt").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_just_after_the_file_has_its_name_is_ctrl_c_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses its power could be left with an empty file under the name."""
    flushed, real_fsync, real_replace = [], os.fsync, os.replace

    def fsync(number: int) -> None:
        flushed.append((os.fstat(number).st_size, (tmp_path / "x").exists()))
        real_fsync(number)

    def replace(source: Path, target: Path) -> None:
        assert flushed == [(7, False)]
        assert Path(source).parent == tmp_path  # in the same folder: no other disk to cross
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_file(tmp_path / "x", b"content")
    assert (tmp_path / "x").read_bytes() == b"content"


@pytest.mark.parametrize(("platform", "tries"), [("win32", 3), ("linux", 1)])
def test_windows_is_asked_again_while_somebody_has_the_file_open(
    platform: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = os.replace, []

    def replace(source: Path, target: Path) -> None:
        asked.append(target)
        if len(asked) < 3:
            raise PermissionError(13, "The process cannot access the file")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(sys, "platform", platform)
    (tmp_path / "x").write_bytes(b"old")
    if tries == 1:
        with pytest.raises(PermissionError):
            write_file(tmp_path / "x", b"content")
    else:
        write_file(tmp_path / "x", b"content")
    assert len(asked) == tries
    assert (tmp_path / "x").read_bytes() == (b"old" if tries == 1 else b"content")
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o077, 0o600), (0o000, 0o666)])
def test_files_are_as_readable_as_the_umask_says(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_file(tmp_path / "x", b"content")
    finally:
        left = os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode
    assert left == umask


# ------------------------------------------------------------------------------ remove_leavings


def test_what_a_process_is_writing_is_left_alone_and_what_is_left_of_others_goes(
    tmp_path: Path,
) -> None:
    ended = start("", tmp_path)
    ended.communicate()
    mine, others = f".x.gz.{os.getpid()}-01234567", f".x.gz.{ended.pid}-01234567"
    no_process = f".x.gz.{10**30}-01234567"
    kept = ["x.gz", ".x.gz", ".y.gz.1-01234567", f".x.gz.{ended.pid}-0123456"]
    kept.append(f".x_gz.{ended.pid}-01234567")
    for name in (mine, others, no_process, *kept):
        (tmp_path / name).touch()
    remove_leavings(tmp_path, ("x.gz",), alone=False)
    if os.name == "posix":  # elsewhere, what a program has open cannot be removed
        assert {path.name for path in tmp_path.iterdir()} == {mine, *kept}
    remove_leavings(tmp_path, ("x.gz",))
    assert {path.name for path in tmp_path.iterdir()} == set(kept)


# ------------------------------------------------------------------------------ is_folder


@pytest.mark.skipif(sys.platform == "win32", reason="Windows is not asked")
def test_what_somebody_elses_process_is_writing_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(process: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    (tmp_path / ".best.pt.1-0123abcd").touch()
    remove_leavings(tmp_path, ("best.pt",), alone=False)
    assert list(tmp_path.iterdir()) != []


def test_what_a_process_with_the_same_number_left_is_not_in_the_way(tmp_path: Path) -> None:
    """In a container, numbers come again."""
    assert scratch_path(tmp_path / "best.pt") != scratch_path(tmp_path / "best.pt")


def test_a_folder_is_told_from_a_file_and_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_folder(tmp_path)
    assert not any(is_folder(tmp_path / name) for name in ("file", "file/x", "none", "none/x"))


def test_a_name_that_no_file_can_have_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        is_folder(tmp_path / ("x" * 5000))


# ------------------------------------------------------------------------------ check_folder


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_is_made_with_those_above_it_if_it_is_wanted(make: bool, tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--out-dir", make)
    made = [tmp_path / "a", tmp_path / "a" / "b"] if make else []
    assert list(tmp_path.rglob("*")) == made


def test_a_folder_that_is_there_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    check_folder(tmp_path, "--out-dir")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("make", [False, True])
@pytest.mark.parametrize("folder", ["mine", "mine/new", "mine/new/er"])
def test_a_file_in_the_way_is_named_with_the_option_to_change(
    folder: str, make: bool, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    with pytest.raises(Error, match=r"choose another folder with --out-dir") as caught:
        check_folder(tmp_path / folder, "--out-dir", make)
    assert str(tmp_path / folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "mine").read_bytes() == b"mine"


@pytest.mark.skipif(os.name != "posix", reason="links are not for everybody to make")
@pytest.mark.parametrize("make", [False, True])
def test_a_link_to_nothing_in_the_way_is_named_too(make: bool, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(Error, match=r"link.*choose another folder with --out-dir"):
        check_folder(tmp_path / "link" / "new", "--out-dir", make)


@pytest.mark.parametrize("make", [False, True])
@pytest.mark.parametrize("folder", ["", "new"])
def test_a_read_only_folder_is_named_with_the_option_to_change(
    folder: str, make: bool, tmp_path: Path, forbid_writing: Callable[[Path], None]
) -> None:
    forbid_writing(tmp_path)
    with pytest.raises(Error, match=r"Permission denied.*--data-dir") as caught:
        check_folder(tmp_path / folder, "--data-dir", make)
    assert str(tmp_path / folder) in str(caught.value)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_none(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: object, timeout: float) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mnist_cnn.system.files.FileLock.acquire", refuse)
    with lock_folder(tmp_path, "--out-dir"):
        pass


def test_a_lock_that_fails_otherwise_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: object, timeout: float) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("mnist_cnn.system.files.FileLock.acquire", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), lock_folder(tmp_path, "--out-dir"):
        pass
