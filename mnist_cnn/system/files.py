"""Writing files so that a killed run never leaves half of one behind."""

import contextlib
import errno
import os
import re
import secrets
import stat
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from mnist_cnn import Error

LOCK = ".training.lock"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
TRIAL = "trial"  # what check_folder writes


def write_file(path: str | Path, content: bytes, make_folder: bool = False) -> None:
    """Write a file under another name, flush it to the disk, and rename it into place.

    Args:
        make_folder: make the folder, too, where it is missing.

    Raises:
        OSError: the folder is missing or cannot be written to, or the disk is full.
    """
    path = Path(path)
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_path(path)
    try:
        with open(scratch, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(scratch, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)  # after the renaming there is none
        if isinstance(error, OSError):  # it names the scratch file, which nobody knows, or none
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def scratch_path(path: Path) -> Path:
    """Return a path beside a file's own that no other process uses.

    A long name is cut: it may have 255 bytes in all, and a character takes up to four.
    """
    return path.with_name(f".{path.name[:50]}.{os.getpid()}-{secrets.token_hex(4)}")


def rename(scratch: Path, path: Path) -> None:
    """Rename a file over another one, if there is one.

    Windows refuses that while a program has the other one open, a virus scanner say, or `eval`:
    there it is tried again, for two seconds.
    """
    for _ in range(10 if sys.platform == "win32" else 0):
        try:
            return os.replace(scratch, path)
        except PermissionError:
            time.sleep(0.2)
    os.replace(scratch, path)


def remove_leavings(folder: str | Path, names: tuple[str, ...], alone: bool = True) -> None:
    """Remove what a killed `write_file` left in a folder, for files of these names only.

    The name TRIAL stands for what `check_folder` left.

    Args:
        alone: nobody else can be writing these files now. Otherwise, what a process that is still
            running may be about to rename is kept.
    """
    either = "|".join(map(re.escape, names))
    pattern = re.compile(rf"\.(?:{either})\.(\d+)-[0-9a-f]{{8}}")  # as scratch_path names them
    for path in Path(folder).iterdir():
        found = pattern.fullmatch(path.name)
        if found and (alone or not is_running(int(found[1]))):
            path.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Return whether there is a process with this number on this machine.

    On Windows the answer is always no: nothing can be removed there while a program has it open.
    """
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)  # sends no signal, only checks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # there is one, which belongs to somebody else
        pass
    return True


@contextlib.contextmanager
def lock_folder(folder: str | Path, option: str) -> Iterator[None]:
    """Keep other training runs out of an existing folder; a lock ends with its process.

    Raises:
        Error: another one is using it; the message names the command-line option to change.
    """
    lock = FileLock(Path(folder) / LOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it does instead
            lock.acquire(timeout=0)
    except Timeout:
        raise Error(
            f"another training run is writing into {folder}: wait until it ends, or choose another "
            f"folder with {option}"
        ) from None
    except NotImplementedError:  # a file system without locks has none, ...
        pass
    except OSError as error:
        if error.errno not in NO_LOCKS:  # ... or says so like this
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # on Windows it can be removed only when it is closed
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def is_folder(path: str | Path) -> bool:
    """Return whether there is a folder with this name.

    Raises:
        OSError: no file can have this name: it is too long, say.
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_folder(folder: str | Path, option: str, make: bool = False) -> None:
    """Make sure that files can be written into a folder, or into one in which it can be made.

    Args:
        make: make it, too; otherwise nothing is left behind, because the caller may still find a
            reason to write nothing.

    Raises:
        Error: they cannot; the message names the command-line option to change.
    """
    folder = Path(folder)
    # Not with tempfile: on Windows it mistakes a folder that cannot be written to for a name that
    # is taken, and tries two billion others (github.com/python/cpython/issues/66305).
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        there = (each for each in (folder, *folder.parents) if os.path.lexists(each))
        trial = scratch_path(next(there, folder) / TRIAL)
        open(trial, "xb").close()
        trial.unlink()
    except OSError as error:
        raise Error(
            f"cannot write to {folder} ({error.strerror}): choose another folder with {option}"
        ) from None
