"""A model's functional calls, seen and replaced while it runs.

A `TorchFunctionMode` that is active during the forward pass receives every call on a tensor, whether it comes from an
`nn.Module`, a function, an operator or an in-place method. A subclass of `Interposition` answers the calls on tensors
that depend on the input with its own computation of the same output and another backward pass. Nothing is left on the
model when the mode ends.
"""

from __future__ import annotations

import functools
import types as python_types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

# Calls that only ask about a tensor.
_QUESTIONS = frozenset(
    "shape size dim ndim dtype device numel stride is_contiguous requires_grad is_floating_point is_complex is_cuda "
    "is_cpu is_nested is_sparse is_quantized layout grad_fn is_leaf len element_size storage_offset names "
    "is_inference base version is_view get_device type data_ptr untyped_storage repr format".split()
)


class NoRuleError(RuntimeError):
    """The method has no rule for an operation that its backward pass reached."""


class Call:
    """One functional call: `name` is the same for a module, a function, an operator and an in-place form of it."""

    __slots__ = ("_changes_argument", "_func", "args", "in_place", "kwargs", "name")

    def __init__(self, func: Callable, args: tuple, kwargs: dict):
        name = func.__name__
        if name == "__get__":
            name = func.__self__.__name__  # a property of Tensor
        method_in_place = name.endswith("_") and not name.endswith("__")
        self.name = name.strip("_")
        self.in_place = method_in_place or bool(kwargs.get("inplace")) or name == "__setitem__"
        self._func, self._changes_argument = func, method_in_place
        self.args, self.kwargs = args, kwargs

    @property
    def func(self) -> Callable:
        """What is called, in the form that changes no argument."""
        return _out_of_place(self._func) if self._changes_argument else self._func

    def tensors(self) -> list[torch.Tensor]:
        """The tensors among the arguments, also those in lists."""
        found = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, torch.Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found.extend(item for item in value if isinstance(item, torch.Tensor))
        return found

    def with_tensors(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        """Run the call, out of place, on converted tensors."""
        kwargs = {key: _converted(value, convert) for key, value in self.kwargs.items()}
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        args = tuple(_converted(value, convert) for value in self.args)
        if self.name != "setitem":
            return self.func(*args, **kwargs)
        result = args[0].clone()
        result[args[1]] = args[2]
        return result

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument that may be given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


def _converted(value: Any, convert: Callable) -> Any:
    if isinstance(value, torch.Tensor):
        return convert(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
        return type(value)([convert(item) if isinstance(item, torch.Tensor) else item for item in value])
    return value


_WITHOUT_OTHER_FORM = {
    "zero": torch.zeros_like,
    "fill": torch.full_like,
    "copy": lambda x, source, non_blocking=False: source.expand_as(x).to(x),
}


@functools.cache
def _out_of_place(func: Callable) -> Callable:
    name = func.__name__.rstrip("_")
    if name in _WITHOUT_OTHER_FORM:
        return _WITHOUT_OTHER_FORM[name]
    for owner in (torch.Tensor, torch, torch.nn.functional):
        if hasattr(owner, name):
            return getattr(owner, name)
    raise NoRuleError(f"{func.__name__} changes its argument in place and has no other form")


@functools.cache
def _without_dispatch(func: Callable) -> Callable:
    """A Python function of torch that does not hand itself to the mode again, though the calls in it do."""
    scope = {**func.__globals__, "has_torch_function": lambda tensors: False}
    copy = python_types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


class _Changed(NamedTuple):
    """Stands for a tensor that was changed in place through a view; `through` is the new value of the view, if that was
    the only one."""

    through: torch.Tensor | None


class Interposition(TorchFunctionMode, ABC):
    """Runs a model while `answer` replaces the calls on tensors that depend on its input.

    A tensor that depends on the input is one that `self.mark` was called on: it carries the subclass's knowledge of it.
    All other tensors (parameters, buffers, constants) are handled by torch as ever.
    """

    # Calls that are taken apart: the mode sees the calls inside them.
    COMPOUND = frozenset({"multi_head_attention_forward"})

    def __init__(self, model: torch.nn.Module | Callable):
        super().__init__()
        modules = model.named_modules() if isinstance(model, torch.nn.Module) else ()
        self._owners = {
            id(parameter): (name, module)
            for name, module in reversed(list(modules))
            for parameter in module.parameters(recurse=False)
        }
        self.last_layer = ""
        self._replaces = False  # whether an in-place call was seen
        self._annotated: list[torch.Tensor] = []

    @abstractmethod
    def answer(self, call: Call) -> Any:
        """The result of a call with a marked tensor among its arguments."""

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside an answer, where calls go to torch directly: see them too."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def run(self, model: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """The model's output for a marked input; ValueError unless it is a tensor that depends on it."""
        with self:
            output = model(inputs)
            output = self.current(output) if isinstance(output, torch.Tensor) else output
        if not isinstance(output, torch.Tensor) or self.known(output) is None:
            raise ValueError("the model's output is not a tensor that depends on its input")
        return output

    def mark(self, tensor: torch.Tensor, knowledge: Any) -> torch.Tensor:
        """Note what is known of a tensor that depends on the input."""
        tensor._interposed = (self, knowledge)
        return tensor

    def mark_all(self, result: Any, knowledge_of: Callable[[torch.Tensor], Any]) -> Any:
        """Mark the tensors in a call's result; those of which there is no knowledge (None) are constants."""
        if isinstance(result, torch.Tensor):
            knowledge = knowledge_of(result)
            return result if knowledge is None else self.mark(result, knowledge)
        if isinstance(result, (list, tuple)):
            return type(result)([self.mark_all(part, knowledge_of) for part in result])
        return result

    def known(self, tensor: torch.Tensor) -> Any:
        """What `mark` noted of a tensor in this run, or None."""
        owner, knowledge = getattr(tensor, "_interposed", (None, None))
        return knowledge if owner is self else None

    def layer_of(self, parameter: torch.Tensor | None) -> tuple[str, torch.nn.Module | None]:
        """Name and module that a parameter, or a view of one, belongs to; ("", None) for other tensors."""
        base = parameter if parameter is None or parameter._base is None else parameter._base
        name, module = self._owners.get(id(base), ("", None))
        if name:
            self.last_layer = name
        return name, module

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        call = Call(func, args, kwargs)
        if call.name in _QUESTIONS:
            return func(*args, **kwargs)
        if self._replaces:
            if call.name == "setitem":
                self._complete_item(*call.args)
            call.args = tuple(_converted(value, self.current) for value in args)
            call.kwargs = {key: _converted(value, self.current) for key, value in kwargs.items()}
        if not any(self.known(tensor) is not None for tensor in call.tensors()):
            return func(*call.args, **call.kwargs)
        if call.name in self.COMPOUND:
            with self.again():
                return _without_dispatch(func)(*call.args, **call.kwargs)
        if kwargs.get("out") is not None:
            raise NoRuleError(f"{call.name} writes to out=; use its result instead")
        result = self.answer(call)
        if not call.in_place:
            return result
        target = call.args[0] if args else next(iter(call.kwargs.values()))
        self._replace(target, result)
        return target if self.known(target) is None else result  # `self.buffer += x` must not put another one there

    def _replace(self, target: torch.Tensor, result: torch.Tensor) -> None:
        """An in-place call computes a new tensor, which from then on stands for the changed one."""
        if result is target:
            return
        self._replaces = True
        self._annotate(target, result)
        base = target._base
        if base is not None:  # changed too, in a way that is not followed
            untouched = self._replacement(base) is base
            self._annotate(base, _Changed(result if untouched else None))

    def _annotate(self, tensor: torch.Tensor, replacement: torch.Tensor | _Changed) -> None:
        if self.known(tensor) is None and not hasattr(tensor, "_replaced_by"):
            self._annotated.append(tensor)  # it may be the model's own, and must not keep the note
        tensor._replaced_by = (self, replacement)

    def _complete_item(self, target: torch.Tensor, index: Any, value: Any) -> None:
        """`x[i] += y` changes the view x[i] and then sets the item: so x is not lost."""
        while isinstance(changed := self._replacement(target), torch.Tensor) and changed is not target:
            target = changed
        new = self._replacement(value) if isinstance(value, torch.Tensor) else value
        if isinstance(changed, _Changed) and changed.through is not None and changed.through is new:
            target._replaced_by = (None, None)

    def current(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor that stands for this one after in-place calls."""
        while (replacement := self._replacement(tensor)) is not tensor:
            if isinstance(replacement, _Changed):
                raise NoRuleError("a tensor is used again after a view of it was changed in place")
            tensor = replacement
        base = tensor._base
        if base is not None and self._replacement(base) is not base:
            raise NoRuleError("a view is used again after the tensor it belongs to was changed in place")
        return tensor

    def _replacement(self, tensor: torch.Tensor) -> torch.Tensor | _Changed:
        owner, replacement = getattr(tensor, "_replaced_by", (None, None))
        return replacement if owner is self else tensor

    def __exit__(self, *exception):
        try:
            return super().__exit__(*exception)
        finally:
            for tensor in self._annotated:
                del tensor._replaced_by
            self._annotated.clear()


class _StopWithoutRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, message):
        ctx.message = message
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        raise NoRuleError(ctx.message)


def stop_without_rule(tensor: torch.Tensor, message: str) -> torch.Tensor:
    """The tensor, which raises `NoRuleError(message)` once a backward pass reaches it."""
    return _StopWithoutRule.apply(tensor, message)
