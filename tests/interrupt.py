"""Ctrl-C at a chosen moment of a run."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def ctrl_c(owner: Any, function: str, count: int, file: str = "") -> Iterator[None]:
    """Somebody presses Ctrl-C when a function of a library has been called so many times.

    Where a file is named, only the calls count that rename something to it.
    """
    real, calls = getattr(owner, function), 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        answer = real(*args, **options)
        if not file or Path(args[1]).name == file:
            calls += 1
            if calls == count:
                raise KeyboardInterrupt
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, function, call)
        yield


def stop_after(epoch: int) -> contextlib.AbstractContextManager[None]:
    """Ctrl-C when the last file of an epoch has been written."""
    return ctrl_c(os, "replace", epoch, "history.csv")
