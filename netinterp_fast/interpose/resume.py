"""Forward passes that go on from a layer's output, so that what comes before it is computed once.

The first pass is an ordinary one. A `TorchFunctionMode` notes the calls before the layer's output was there, and which
of their results the model still holds at that moment. In a pass that resumes, the model's own Python code runs again
from the start; but up to that moment every call is answered with what it gave, without being carried out, and the rest
runs as ever. So nothing has to be known of the model: what bypasses the layer is among the results that it still held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import TensorWeakRef

Change = Callable[[torch.Tensor], torch.Tensor]

_VALUES = (bool, int, float, complex, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)


class CannotResumeError(RuntimeError):
    """The model does something before or behind the layer that a pass can not go on from."""


class _Slot(NamedTuple):
    """Stands for a tensor in the result of a call."""

    number: int


class _Call(NamedTuple):
    """A call: its result with slots in the place of tensors. A setting (such as switching gradients off) has neither
    tensors nor a result; it is carried out each time."""

    func: Callable
    result: Any
    is_setting: bool


class _Mode(TorchFunctionMode):
    """A mode until `ended` is set."""

    def __init__(self):
        super().__init__()
        self.ended = False
        self._refusal: CannotResumeError | None = None

    def refuse(self, why: str) -> None:
        self._refusal = self._refusal or CannotResumeError(why)
        raise self._refusal

    def check(self) -> None:
        """Raise again what was refused first: the model may have caught it."""
        if self._refusal is not None:
            raise self._refusal

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {})) if self.ended else self.call(func, args, kwargs or {})


class _Notes(_Mode):
    """Notes the calls of a pass."""

    def __init__(self, model: torch.nn.Module, inputs: torch.Tensor):
        super().__init__()
        self.calls: list[_Call] = []
        self._refs: list[TensorWeakRef] = []  # by number; weak, so that no more is held than the model holds
        self._numbers: dict[int, int] = {}  # by id
        # What was there from the start: changed in place by the first pass, it stays changed.
        self._state = {id(tensor) for tensor in (inputs, *model.parameters(), *model.buffers())}

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        given = [(x, x._version) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        result = func(*args, **kwargs)
        for tensor, version in given:
            if tensor._version != version and id(tensor) not in self._state and self._number(tensor) is None:
                self.refuse(f"{_name(func)} changes a tensor whose origin was not seen")
        self.calls.append(_Call(func, tree_map(self._noted, result), not given and result is None))
        return result

    def _noted(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            number = self._number(value)
            if number is None:
                number = self._numbers[id(value)] = len(self._refs)
                self._refs.append(TensorWeakRef(value))
            return _Slot(number)
        if not isinstance(value, _VALUES):
            self.refuse(f"a call before the layer gives a {type(value).__name__}, which may change unseen")
        return value

    def _number(self, tensor: torch.Tensor) -> int | None:
        number = self._numbers.get(id(tensor))
        return number if number is not None and self._refs[number]() is tensor else None

    def end(self, output: torch.Tensor) -> None:
        """The layer's output is there. It is copied: what comes next may change it in place."""
        self.ended = True
        self.output = output.clone()
        held = [ref() for ref in self._refs]
        self.versions = [(tensor, tensor._version) for tensor in held if tensor is not None and tensor is not output]
        self.tensors = [self.output if tensor is output else _or_nothing(tensor) for tensor in held]


class _Answers(_Mode):
    """Answers the calls of a pass with what was noted."""

    def __init__(self, notes: _Notes):
        super().__init__()
        self._notes, self._calls = notes, iter(notes.calls)

    def call(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        call = next(self._calls, None)
        if call is None or call.func != func:
            self.refuse(f"the model calls {_name(func)} where it called something else the first time")
        return func(*args, **kwargs) if call.is_setting else tree_map(self._found, call.result, is_leaf=_is_slot)

    def _found(self, value: Any) -> Any:
        return self._notes.tensors[value.number] if _is_slot(value) else value


class Resumable:
    """One forward pass, carried out at once, and others that go on from where it had the output of a layer.

    output          of the model
    layer_output    a tensor; of a layer that runs several times in a pass, the first

    Raises CannotResumeError, on construction or from `resume`, where that is not possible: what comes before the layer
    takes another course the second time, gives values that could be changed unseen (NumPy arrays), or is changed in
    place by what comes behind; and ValueError where the pass does not run the layer, or its output is not a tensor.
    """

    def __init__(self, model: torch.nn.Module, layer: str, inputs: torch.Tensor):
        self._model, self._layer, self._inputs = model, layer, inputs.clone()  # the model may change them in place
        self._notes = notes = _Notes(model, self._inputs)

        def see(output: torch.Tensor) -> torch.Tensor:
            if not notes.ended:
                notes.end(output)
                notes.versions.append((self._inputs, self._inputs._version))
            return output

        with changed_output(model, layer, see), notes:
            self.output = model(self._inputs)
        self.layer_output = notes.output
        self._check(notes)

    def resume(self, change: Change) -> Any:
        """The model's output where each output of the layer is change(output), which must return a new tensor."""
        answers = _Answers(self._notes)

        def changed(output: torch.Tensor) -> torch.Tensor:
            first, answers.ended = not answers.ended, True
            return change(self.layer_output if first else output)

        with changed_output(self._model, self._layer, changed), answers:
            output = self._model(self._inputs)
        self._check(answers)
        return output

    def _check(self, mode: _Mode) -> None:
        mode.check()
        if any(tensor._version != version for tensor, version in self._notes.versions):
            raise CannotResumeError("what was computed before the layer is changed in place behind it")


@contextmanager
def changed_output(model: torch.nn.Module, layer: str, change: Change) -> Iterator[None]:
    """While active, the layer's outputs are change(output). ValueError if one is not a tensor, and at the end if the
    layer was not run."""
    runs = 0

    def hook(module: torch.nn.Module, inputs: tuple, output: object) -> torch.Tensor:
        nonlocal runs
        runs += 1
        if not isinstance(output, torch.Tensor):
            raise ValueError(f"layer {layer!r} gives a {type(output).__name__}; it must give a tensor")
        return change(output)

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not runs:
        raise ValueError(
            f"the forward pass does not run the layer {layer!r} (or not in Python, as in a scripted or compiled model)"
        )


def _or_nothing(tensor: torch.Tensor | None) -> torch.Tensor:
    """A tensor without values, that no computation takes, for one that the model let go of."""
    return torch.empty(0, device="meta") if tensor is None else tensor


def _is_slot(value: Any) -> bool:
    return isinstance(value, _Slot)


def _name(func: Callable) -> str:
    owner = getattr(func, "__self__", None)
    return owner.__name__ if func.__name__ == "__get__" and owner is not None else func.__name__
