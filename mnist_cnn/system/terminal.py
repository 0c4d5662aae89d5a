"""Printing on terminals that cannot show every character."""

import io
import sys


def escape_unprintable() -> None:
    r"""Let stdout and stderr escape what their encoding lacks (as \u4e03), instead of failing.

    A file may have any name, and a terminal, or a pipe under LANG=C, may know ASCII alone. This
    concerns the whole process, so that it is the command line's to call.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # and not closed by whoever started the program
            stream.reconfigure(errors="backslashreplace")
