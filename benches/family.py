"""What the families of benchmarks have in common: how they are run, and which of their parts can be."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch

from .timing import cache_bytes, interleaved, spread

PEERS = ("captum", "zennit")
DATA = "NETINTERP_FAST_TEST_DATA"  # the folder of photos and weights that some parts need


class Ceilings(NamedTuple):
    """What the device can do, measured: bytes a second of a large copy, read and written, and float32 operations a
    second of a large matrix product."""

    bytes_per_second: float
    operations_per_second: float


class Setting(NamedTuple):
    """How a family is run."""

    device: torch.device
    quick: bool
    ceilings: Ceilings

    @property
    def larger(self) -> int:
        """How many times larger the kernels' calls are than on a CPU: on a GPU a small one takes as long as to ask for
        it."""
        return 8 if self.device.type == "cuda" else 1


class Part(NamedTuple):
    """A part of a family: its figures, for JSON, and when it is left out."""

    measure: Callable[[Setting], object]
    in_quick: bool = True
    on_cuda: bool = True
    needs: tuple[str, ...] = ()  # of PEERS and DATA

    def why_not(self, setting: Setting) -> str | None:
        """Why it is left out; None where it is not."""
        if setting.quick and not self.in_quick:
            return "takes too long for --quick"
        if setting.device.type == "cuda" and not self.on_cuda:
            return "is measured on the CPU only"
        missing = [what for what in self.needs if not (os.environ.get(DATA) if what == DATA else peer_version(what))]
        if missing:
            return f"needs {' and '.join(missing)}, {_WHAT.get(missing[0], _PEERS_FROM)}"
        return None


_WHAT = {DATA: "a folder of photos and weights"}
_PEERS_FROM = 'of pip install "netinterp_fast[bench]"'


def peer_version(name: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class Copy(NamedTuple):
    """Copies a tensor of eight times the last cache, 256 MiB at least, into memory that is there."""

    source: torch.Tensor
    target: torch.Tensor

    @property
    def bytes(self) -> int:
        return self.source.nbytes + self.target.nbytes

    def __call__(self) -> None:
        self.target.copy_(self.source)


@lru_cache(maxsize=1)
def large_copy(device: torch.device) -> Copy:
    source = torch.rand(max(2**28, 8 * cache_bytes(device)) // 4, device=device)
    return Copy(source, source.clone())


def measured_ceilings(device: torch.device, side: int, repeats: int = 7) -> Ceilings:
    """By copies, and products of matrices [side, side]."""
    copy, (a, b) = large_copy(device), torch.rand(2, side, side, device=device)
    seconds = interleaved({"copy": copy, "product": lambda: a @ b}, repeats, device=device)
    of_copy, of_product = (spread(seconds[what])["median"] for what in ("copy", "product"))
    return Ceilings(copy.bytes / of_copy, 2 * side**3 / of_product)
