"""The processes that share one dissection."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist

_PATIENCE = timedelta(days=7)  # a rank that starts again from a damaged checkpoint may keep the others waiting
_T = TypeVar("_T")
State = Mapping[str, torch.Tensor]


class Part(Protocol):
    """What was computed of a part of the data."""

    sections: Sequence[str]

    def state(self, section: str) -> State: ...

    def merge(self, section: str, state: State) -> None: ...


_Part = TypeVar("_Part", bound=Part)


def n_ranks() -> int:
    """How many processes share the work: those of the default process group, else as many as `torchrun` started."""
    if not dist.is_available():
        return 1
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def check_alone(what: str) -> None:
    """ValueError where several processes share the work."""
    if n_ranks() > 1:
        raise ValueError(f"{what} is the work of one process; here {n_ranks()} share it, in a process group")


class Ranks:
    """This process among those that share the work; rank 0 of 1 when it is alone.

    Joins the default process group. Where there is none and WORLD_SIZE says that there are other processes (as
    `torchrun` does), one is made, with nccl for a CUDA device and gloo otherwise; it stays until the process ends.
    """

    def __init__(self, device: torch.device):
        if n_ranks() > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1
        self.device = device
        if self.size > 1 and device.type == "cuda":
            if device.index is None:
                self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)  # nccl talks through the current device

    def gather(self, value: _T) -> list[_T]:
        """Every rank's value, in the order of the ranks; every rank must call it. Tensors are to be on the CPU."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def merged(self, part: _Part, empty: _Part) -> _Part:
        """The parts of all ranks as one; `empty` is a part that nothing was added to."""
        if self.size == 1:
            return part
        for section in part.sections:
            for state in self.gather(part.state(section)):
                empty.merge(section, state)
        return empty


def _leave() -> None:
    if dist.is_initialized():  # gloo's threads, still running at the end, may abort the process
        dist.destroy_process_group()
