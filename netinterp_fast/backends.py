"""Which implementation an op runs on: "auto" (native where there is one), "native" or "reference"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from . import _library

BACKENDS = ("auto", "native", "reference")


def _checked(backend: str, origin: str) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"{origin} is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    return backend


_initial = _checked(os.environ.get("NETINTERP_FAST_BACKEND", "auto"), "NETINTERP_FAST_BACKEND")
_backend: ContextVar[str] = ContextVar(
    "netinterp_fast_backend",
    default=_initial,
)


def current_backend() -> str:
    """The backend in force: "auto", "native" or "reference"."""
    return _backend.get()


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run the ops inside the `with` block on one backend.

    "auto" takes the native kernel where there is one and the pure-torch reference otherwise, "native" raises
    `RuntimeError` where there is none and says why, "reference" never uses a native kernel. The environment variable
    NETINTERP_FAST_BACKEND sets the same for a whole process. Code compiled by `torch.compile` always runs on "auto".
    """
    token = _backend.set(_checked(backend, "backend"))
    try:
        yield
    finally:
        _backend.reset(token)


def why_not(op: str, device: torch.device | str = "cpu") -> str | None:
    """Why the native kernel of `op` would not serve tensors on `device` here and now; None when it would."""
    device = torch.device(device)
    _library.reference(op)  # refuses unknown names
    if current_backend() == "reference":
        return "the backend is set to 'reference'"
    if _library.native_kernel(op, device):
        return None
    return _library.why_missing(device.type)


def run_op(op: str, device: torch.device, *args):
    """Call `op` on the backend in force; inside `torch.compile`, which cannot trace that choice, on "auto"."""
    backend = "auto" if torch.compiler.is_compiling() else current_backend()
    if backend == "reference":
        return _library.reference(op)(*args)
    if backend == "native" and not _library.native_kernel(op, device):
        raise RuntimeError(f"no native kernel of {op} for {device}: {_library.why_missing(device.type)}")
    return getattr(torch.ops.netinterp_fast, op).default(*args)
