"""Folders of results that appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_occupied(folder: Path) -> bool:
    """Whether something would be lost by writing there: a file, or a folder that is not empty."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, beside `target`; it becomes `target` when the block ends without an error.

    What stood at `target` before is replaced then: the caller has made sure that it may be.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
        folder, previous = Path(work) / "new", Path(work) / "previous"
        folder.mkdir()
        yield folder
        if target.exists():
            target.rename(previous)
        try:
            folder.rename(target)
        except BaseException:
            if previous.exists():
                previous.rename(target)
            raise


def flush(path: Path) -> None:
    """Have the system write a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
