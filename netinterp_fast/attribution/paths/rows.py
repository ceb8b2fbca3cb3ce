"""How many rows a model gets at once: a fixed number, or as many as a memory budget admits."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..._memory import parsed_budget
from ..._numbers import check_counts


class _Usual(NamedTuple):
    """Bytes at once, where nothing is asked for: of the inputs; and where the affine beginning is left out, of what it
    makes of them, but of no more inputs than `most`."""

    inputs: int
    ends: int
    most: int


# What came out fastest on the CPU, where activations should fit the caches (10 to 16 images of 224 x 224), and enough
# to keep a GPU busy.
_USUAL = {"cpu": _Usual(6_200_000, 33_000_000, 9_700_000), "cuda": _Usual(64_000_000, 340_000_000, 100_000_000)}
_CONVOLUTIONS = {torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default}


class BudgetTooSmall(ValueError):
    """A single row takes more than the memory budget."""


class Rows:
    """The number of rows for the next pass. With a budget the first pass, of one row, is measured, and one of two where
    twice the memory would fit; memory is taken to grow by the same for each row more. An eighth of the budget is left
    for what libraries keep and no tensor shows.

    held: bytes that are there between the passes.
    """

    def __init__(self, batch_size: int | None, budget: int | str | None, example: tuple[torch.Tensor, ...]):
        asked = parsed_budget(budget)
        self.asked, self.budget = asked, None if asked is None else asked - asked // 8
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        self._bytes_a_row = max(sum(part[:1].nbytes for part in example), 1)
        self._usual = None if batch_size else _USUAL.get(example[0].device.type, _USUAL["cpu"])
        self._most = batch_size or max(self._usual.inputs // self._bytes_a_row, 1)
        self._peaks: list[int] = []  # of one row and of two
        self.held = 0

    def suit(self, ends: int) -> None:
        """Passes go on from values of so many bytes a row."""
        if self._usual:
            rows = min(self._usual.ends // max(ends, 1), self._usual.most // self._bytes_a_row)
            self._most = max(rows, 1)

    @property
    def measuring(self) -> bool:
        """The budget has not told a limit yet."""
        return self.budget is not None and not self._peaks

    @property
    def examples_at_once(self) -> int:
        """Examples whose ends may be held: with a budget, they take half of it at most."""
        if self.budget is None:
            return self._most
        if self.measuring:
            return 1
        return max(1, min(self.limit // 2, int(self.budget / 2 // max(self.held, 1))))

    @property
    def limit(self) -> int:
        """Rows of the next pass, at most."""
        if self.budget is None:
            return self._most
        if not self._peaks:
            return 1
        free = self.budget - self.held - self._peaks[0]
        if len(self._peaks) == 1:
            return min(2, self._most) if free >= self._peaks[0] else 1
        return max(1, min(self._most, 1 + int(free // max(self._peaks[1] - self._peaks[0], 1))))

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Around what stays between the passes."""
        if self.budget is None:
            yield
            return
        with PeakMemory() as memory:
            yield
        self.held = memory.live

    @contextmanager
    def counted(self, rows: int) -> Iterator[None]:
        """Around a pass."""
        if self.budget is None or len(self._peaks) >= 2 or rows != len(self._peaks) + 1:
            yield
            return
        with PeakMemory() as memory:
            yield
        self._peaks.append(memory.peak)
        if self.held + self._peaks[0] > self.budget:
            least = -(-(self.held + self._peaks[0]) * 8 // (7 * 2**20))
            raise BudgetTooSmall(
                f"memory_budget is {self.asked} bytes; a single point of one example takes more: "
                f"memory_budget='{least}MiB' is the least that works here"
            )

    def shrink(self, rows: int) -> bool:
        """After `rows` were too many: half of them from now on. False if there is nothing to halve."""
        self._most, self._usual = max(rows // 2, 1), None
        return rows > 1


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside took at once, and what convolutions on the CPU take besides: copies of
    their arguments in other layouts."""

    def __enter__(self):
        self.live, self.peak = 0, 0
        self._seen: set[int] = set()
        return super().__enter__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        tensors = _tensors(result)
        for tensor in tensors:
            is_view = tensor.untyped_storage()._cdata in given  # perhaps of what the model owns
            if not is_view and tensor.device.type != "meta":
                self._count(tensor)
        besides = 0
        if func in _CONVOLUTIONS and tensors and tensors[0].device.type == "cpu":
            besides = sum(t.nbytes for t in (*args, *tensors) if isinstance(t, torch.Tensor))
        self.peak = max(self.peak, self.live + besides)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._seen:
            self._seen.add(key)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def _tensors(values: object) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
