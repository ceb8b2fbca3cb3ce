"""The affine beginning of a model.

Up to the first operation that is not affine, the path from a baseline to an input is a straight path too. So what the
beginning makes of all its points follows from what it makes of the two ends: these are computed once, and the model
goes on from points between them. What comes back there is summed first and pulled back through the beginning once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ...interpose import Call, Interposition
from ..relevance import layer_types as types
from ..relevance import operations

Run = Callable[[tuple[torch.Tensor, ...]], torch.Tensor]

# Affine row by row whatever their arguments are; reshaping too, as long as the number of rows stays.
_ALWAYS = set(types.RESIZES) | {name for name in types.MEANS if "pool" in name} | frozenset(
    "contiguous clone neg negative pixel_shuffle pixel_unshuffle channel_shuffle reshape view view_as reshape_as "
    "flatten unflatten".split()
)  # fmt: skip
_WITH_CONSTANTS = frozenset("add radd sub rsub subtract mul rmul".split())
_BEYOND = "beyond"  # what is known of a tensor that depends on the input in another way
_READS = frozenset("bool item tolist int float index numpy is_nonzero equal allclose".split())
_PLACES = frozenset("device is_cuda is_cpu is_meta get_device".split())


class _Step(NamedTuple):
    """A call on a tensor of the beginning: its name and, where it belongs to the beginning, what its results are like
    (on the meta device)."""

    name: str
    results: list[torch.Tensor] | None
    several: type | None


class _Unseen(Exception):
    """The model may depend on its input in a way that is not seen."""


class Cut(NamedTuple):
    """A tensor at which the beginning ends: its values and its place in the graph."""

    values: torch.Tensor
    edge: GradientEdge


class _Beginning(Interposition):
    """Numbers the tensors that depend on the input through affine operations alone."""

    def start(self, parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.number = 0
        return tuple(self.numbered(part.view_as(part)) for part in parts)

    def numbered(self, tensor: torch.Tensor) -> torch.Tensor:
        self.number += 1
        return self.mark(tensor, self.number)


class Recording(_Beginning):
    """One run, on one end of the paths: the steps of the beginning, and `cuts`, the tensors at which it ends. _Unseen
    where the model could depend on values of the beginning otherwise than through calls."""

    def __init__(self, model: Callable):
        super().__init__(model)
        self.steps: list[_Step] = []
        self.cuts: dict[int, Cut] = {}

    def output(self, run: Run, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The model's output. The graph of the beginning is kept; `parts` require gradients, which must be on."""
        self.rows = len(parts[0])
        points = self.start(parts)
        with self:
            output = self.current(run(points))
        if self.known(output) not in (None, _BEYOND):
            self._cut(output)
        return output.detach()

    def _cut(self, tensor: torch.Tensor) -> None:
        self.cuts[self.known(tensor)] = Cut(tensor.detach(), get_gradient_edge(tensor))

    def answer(self, call: Call):
        inputs = [tensor for tensor in call.tensors() if self.known(tensor) is not None]
        beginning = [tensor for tensor in inputs if self.known(tensor) is not _BEYOND]
        if call.name in _READS:
            raise _Unseen(f"the model reads values: {call.name}")
        if not beginning:
            return self._beyond(call)
        if not torch.is_grad_enabled():  # by the model, or in a function with a backward pass of its own
            raise _Unseen("the model switches gradients off")
        is_affine = len(beginning) == len(inputs) and _is_affine_by_rows(call, inputs)
        results = self._results(call) if is_affine else None
        if results is None or not all(len(part) == self.rows for part in results[0]):
            for tensor in beginning:
                self._cut(tensor)
            self.steps.append(_Step(call.name, None, None))
            return self._beyond(call)
        parts, several = results
        self.steps.append(_Step(call.name, [torch.empty_like(part, device="meta") for part in parts], several))
        return parts[0] if several is None else several(parts)

    def _beyond(self, call: Call):
        with torch.no_grad():
            result = call.with_tensors(torch.Tensor.detach)
        return self.mark_all(result, lambda out: _BEYOND)

    def is_like(self, other: Recording) -> bool:
        """Whether both runs took the same course and there is something to go on from."""
        names = [[step.name for step in recording.steps] for recording in (self, other)]
        return bool(self.cuts) and self.cuts.keys() == other.cuts.keys() and names[0] == names[1]

    def _results(self, call: Call) -> tuple[list[torch.Tensor], type | None]:
        result = call.with_tensors(lambda tensor: tensor if self.known(tensor) is not None else tensor.detach())
        several = None if isinstance(result, torch.Tensor) else type(result)
        parts = [result] if several is None else result
        return [self.numbered(part.view_as(part)) for part in parts], several


def _is_affine_by_rows(call: Call, inputs: list[torch.Tensor]) -> bool:
    """Whether the call is affine in `inputs`, those of its arguments that depend on the input, row by row: as far as
    that can be told before its result is there, which must have as many rows."""
    name, x, alone = call.name, inputs[0], len(inputs) == 1
    if name in types.AFFINE:
        dims = call.argument(1, "weight").dim()
        return alone and x is call.argument(0, "input") and (x.dim() == dims or (name == "linear" and x.dim() > 2))
    if name == "batch_norm":
        return alone and not call.argument(5, "training", False)
    if name in operations.DROPOUTS:
        return not call.argument(2, "training", True)
    if name in _WITH_CONSTANTS:
        return (alone or "mul" not in name) and all(tensor.dim() <= x.dim() for tensor in call.tensors())
    if name in ("div", "truediv"):
        return alone and x is call.args[0] and not call.kwargs
    if name in ("cat", "concat", "concatenate"):
        return _not_rows(call.argument(1, "dim", 0), x.dim())
    if name == "getitem":
        index = call.args[1]
        return isinstance(index, tuple) and index[0] == slice(None) and not any(map(torch.is_tensor, index))
    return name in _ALWAYS or _keeps_rows_first(call, x)


def _keeps_rows_first(call: Call, x: torch.Tensor) -> bool:
    """Of operations that move dimensions."""
    dims = call.args[1:]
    if call.name == "permute":
        dims = dims[0] if dims and isinstance(dims[0], (tuple, list)) else dims
        return bool(dims) and dims[0] % x.dim() == 0
    if call.name in ("transpose", "swapaxes", "squeeze"):
        return bool(dims) and all(isinstance(dim, int) and _not_rows(dim, x.dim()) for dim in dims)
    return call.name == "unsqueeze" and bool(dims) and _not_rows(dims[0], x.dim() + 1)


def _not_rows(dim: int, n_dims: int) -> bool:
    return dim % n_dims != 0


class Replay(_Beginning):
    """A run whose calls of the beginning are not carried out: it goes on from points between the ends of the cuts."""

    def __init__(self, model: Callable, steps: list[_Step], points: Callable[[int, bool], torch.Tensor]):
        super().__init__(model)
        self._steps, self._position, self._points = steps, 0, points
        self._made: dict[int, torch.Tensor] = {}

    def output(self, run: Run, parts: tuple[torch.Tensor, ...], rows: int) -> torch.Tensor:
        """The model's output for so many rows; `parts` are like its inputs."""
        self.rows, self._like = rows, parts[0]
        with self:
            output = self.current(run(self.start(tuple(self._empty(part) for part in parts))))
        return self._real(output)

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        """Stands for a tensor of the beginning: it has a shape and a dtype, but no values."""
        return torch.empty((self.rows, *like.shape[1:]), dtype=like.dtype, device="meta")

    def _real(self, tensor: torch.Tensor) -> torch.Tensor:
        number = self.known(tensor)
        if number is None:
            return tensor
        if number not in self._made:
            self._made[number] = self._points(number, False)
        return self._made[number]

    def answer(self, call: Call):
        step = self._steps[self._position] if self._position < len(self._steps) else _Step("nothing", None, None)
        self._position += 1
        if step.name != call.name:
            raise RuntimeError(f"the model calls {call.name} where it called {step.name} on other rows")
        if step.results is not None:
            parts = [self.numbered(self._empty(like)) for like in step.results]
            return parts[0] if step.several is None else step.several(parts)
        if call.name == "relu":
            number = self.known(call.argument(0, "input"))
            if number not in self._made:
                return self._points(number, True)
        return call.with_tensors(self._real)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        asked = func.__self__.__name__ if func.__name__ == "__get__" else func.__name__
        if asked in _PLACES and self.known(args[0]) is not None:
            return func(self._like)
        return super().__torch_function__(func, types, args, kwargs)
