"""The implementations of the ops that this machine can run, for tests to be parametrised by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netinterp_fast import _library
from netinterp_fast.backends import use_backend

IMPLEMENTATIONS = ["reference", *_library.cpu_levels()]


@contextmanager
def running(implementation: str) -> Iterator[None]:
    """Run the ops on the reference, or natively at a CPU level."""
    if implementation == "reference":
        with use_backend("reference"):
            yield
        return
    before = _library.cpu_level()
    _library.set_cpu_level(implementation)
    try:
        with use_backend("native"):
            yield
    finally:
        _library.set_cpu_level(before)
