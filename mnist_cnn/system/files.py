"""Writing files so that a run that is killed never leaves half of one behind."""

import os
import secrets
import tempfile
from pathlib import Path

from mnist_cnn import Error


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file under another name, flush it to the disk, and rename it into place.

    Raises:
        OSError: the folder is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(scratch, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)  # after the renaming there is none
        raise


def check_folder(folder: str | Path, option: str) -> None:
    """Make a folder if need be, and make sure that files can be written into it.

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
