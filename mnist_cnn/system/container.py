"""A look through what torch.save wrote, before torch.load sees it.

It is an uncompressed zip file (a folder of entries): archive/data.pkl is a pickle of everything
except the numbers of the tensors, which are in archive/data/0, archive/data/1, ... With
weights_only=True torch.load runs no code from a stranger's pickle. But it does not look at the
zip file's checksums, which reveal changed numbers; it makes a bytearray of any size; and not every
version checks that an entry holds as many numbers as the pickle claims.
"""

import io
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

MAX_BYTES = 100_000_000  # of a file: eight times what the largest recipe's last.pt has
MAX_PICKLE = 3_000_000  # bytes of everything but numbers: a history of 10,000 epochs fits, ...
MAX_OPERATIONS = 1_000_000  # ... and so it does in these: a byte can ask for a list of 56
MAX_ENTRIES = 1_000  # in the zip file: ten times as many as last.pt has
FLOAT = 4  # bytes
# The end of the zip file, three records: size and start of the list of entries in 8 bytes each,
# where that is, and both again in 4 bytes each (PKWARE's APPNOTE.TXT, 4.3.14 to 4.3.16).
END = "<40sQQ 20s 12sIIH"
BUILDERS = {  # all that a pickle of our values calls
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
}


def read_container(path: str | Path) -> bytes:
    """Return the content of a file that torch.save wrote, if undamaged and of bounded size.

    Raises:
        ValueError, zipfile.BadZipFile, ...: it is something else.
        OSError: it cannot be read.
    """
    require(os.path.isfile(path))  # a pipe or a device may have no end
    with open(path, "rb") as file:  # read allocates what it is asked for, however small the file is
        content = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
    require(len(content) <= MAX_BYTES)
    # A zip file can be read in more than one way. The next lines make sure that zipfile and
    # torch.load see the same: one list of entries, just before the fixed end that torch.save
    # writes, with plain names. Every entry in the list begins with the same four bytes.
    _, in_64, start, *_, in_32, start_32, _ = struct.unpack(END, content[-struct.calcsize(END) :])
    require((in_64, start) == (in_32, start_32))
    require(start + in_64 == len(content) - struct.calcsize(END))
    require(content.count(b"PK\1\2") <= MAX_ENTRIES)
    with zipfile.ZipFile(io.BytesIO(content)) as container:
        entries = container.infolist()
        for entry in entries:
            require(entry.compress_type == zipfile.ZIP_STORED and not entry.extra)
            require(entry.filename == entry.orig_filename)
        sizes = {entry.filename.lower(): entry.file_size for entry in entries}
        require(len(sizes) == len(entries))  # no name stands for two entries
        require(sum(sizes.values()) <= len(content))  # and no bytes for two entries
        require(container.testzip() is None)
        (pickle,) = (name for name in container.namelist() if name.endswith("/data.pkl"))
        require(sizes[pickle] <= MAX_PICKLE)
        folder = pickle.removesuffix(".pkl")
        check_pickle(container.read(pickle), folder, sizes)
    return content


def check_pickle(content: bytes, folder: str, sizes: Mapping[str, int]) -> None:
    """Make sure that a pickle calls only what ours call, and tells the truth about its tensors.

    torch.save names the numbers of a tensor by a tuple ("storage", type, "3", "cpu", count), which
    it pushes item by item on the pickle's stack just before it refers to entry 3.

    Args:
        folder: of the entries with numbers.
        sizes: bytes of every entry, by its name in lower case.

    Raises:
        ValueError: it does not.
    """
    pushed: list[object] = []  # by each operation so far that pushes one plain value; else None
    memo: dict[object, object] = {}
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        require(number < MAX_OPERATIONS)
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            require(argument in BUILDERS)
        if operation.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = pushed[-1] if pushed else None
        elif operation.name in ("BINGET", "LONG_BINGET"):
            pushed.append(memo.get(argument))
        elif operation.name in ("BINPERSID", "PERSID"):
            require(operation.name == "BINPERSID" and len(pushed) >= 4)
            name, _, count, is_tuple = pushed[-4:]
            require(is_tuple is tuple)
            size = sizes.get(f"{folder}/{name}".lower())
            require(isinstance(count, int) and size == FLOAT * count)
            pushed.append(None)
        elif operation.name == "TUPLE":
            pushed.append(tuple)
        else:
            plain = not operation.stack_before and len(operation.stack_after) == 1
            pushed.append(argument if plain else None)


def require(condition: bool) -> None:
    """Raise a ValueError unless a condition holds."""
    if not condition:
        raise ValueError("this is not what torch.save writes")
