"""Writing files so that a run that is killed never leaves half of one behind."""

import os
import tempfile
from pathlib import Path

from mnist_cnn import Error


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file under another name, flushes it to the disk, and renames it into place.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)  # mkstemp's own 0600 would shut out other users
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def check_folder(folder: str | Path, option: str) -> None:
    """Makes a folder if need be and makes sure that files can be written into it.

    Raises:
        Error: they cannot; the message names the command-line option to change.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Error(
            f"cannot write to {folder} ({error.strerror}): choose another folder with {option}"
        ) from None
