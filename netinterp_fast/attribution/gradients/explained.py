"""A model's outputs as a function of what they are attributed to: its inputs, or a layer's outputs or inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ..._layers import check_layers
from ...interpose import Interposition
from ..targets import AnyTarget, Selection, check_inputs, checked_targets, selection

Inputs = torch.Tensor | tuple[torch.Tensor, ...]
Layer = torch.nn.Module | str | None


class Explained:
    """A model with its inputs and further arguments.

    `values` are what is attributed, one row an example: the inputs themselves, or what a layer makes of them.
    `examples`, LongTensor [rows], says which example each row of some points belongs to.
    """

    def __init__(
        self,
        model: Callable,
        inputs: Inputs,
        additional_forward_args: Any = None,
        layer: Layer = None,
        attribute_to_layer_input: bool = False,
    ):
        self.model = model
        self.inputs = checked_inputs(inputs)
        self.is_tuple = isinstance(inputs, tuple)
        self.batch = len(self.inputs[0])
        self.everyone = torch.arange(self.batch, device=self.inputs[0].device)
        self.arguments = _checked_arguments(additional_forward_args)
        self._site = None if layer is None else _LayerSite(model, layer, attribute_to_layer_input)
        if layer is None and attribute_to_layer_input:
            raise ValueError("attribute_to_layer_input is True, but layer is None")

    def values(self, inputs: tuple[torch.Tensor, ...] | None = None, examples: torch.Tensor | None = None):
        """What is attributed, at these inputs of these examples; at the model's own by default. A tuple of tensors."""
        inputs = self.inputs if inputs is None else inputs
        if self._site is None:
            return inputs
        rows = self.everyone if examples is None else examples
        with torch.no_grad(), self._site.seen() as seen:
            self.model(*copies(inputs), *self._of_rows(self.arguments, rows))
        values = self._site.checked(seen)
        self.is_tuple = self._site.is_tuple
        return values

    def output(self, points: tuple[torch.Tensor, ...], examples: torch.Tensor) -> torch.Tensor:
        """The model's output where the attributed values are `points`, which it may change in place."""
        arguments = self._of_rows(self.arguments, examples)
        if self._site is None:
            output = self.model(*points, *arguments)
        else:
            with self._site.replaced(points):
                output = self.model(*copies(self._of_rows(self.inputs, examples)), *arguments)
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"the model returned a {type(output).__name__}; it must return a tensor")
        if output.dim() == 0 or len(output) != len(examples):
            raise ValueError(f"the model's output has shape {list(output.shape)}; it must be [{len(examples)}, ...]")
        return output

    def _of_rows(self, arguments: Sequence, examples: torch.Tensor) -> tuple:
        if examples is self.everyone:
            return tuple(arguments)
        return tuple(rows_of(value, examples, self.batch) for value in arguments)

    def formatted(self, parts: Sequence[torch.Tensor]) -> Inputs:
        """A tensor for each attributed tensor, in the form in which these were given."""
        return tuple(parts) if self.is_tuple else parts[0]


def checked_inputs(inputs: object, name: str = "inputs") -> tuple[torch.Tensor, ...]:
    """The inputs, a tensor or a tuple of them, as a tuple of detached tensors [B, ...] on one device."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if not parts:
        raise ValueError(f"{name} is an empty tuple")
    for part in parts:
        check_inputs(part, name)
        if part.dim() == 0 or len(part) != len(parts[0]) or part.device != parts[0].device:
            shapes = [list(part.shape) for part in parts]
            raise ValueError(f"{name} has shapes {shapes}; all must be [B, ...] with one B, on one device")
    with torch.inference_mode(False):  # a clone made in that mode could not require gradients either
        return tuple(part.clone() if part.is_inference() else part.detach() for part in parts)


def _checked_arguments(given: Any) -> tuple:
    """The further arguments; tensors of inference mode as ones that a graph may hold."""
    arguments = given if isinstance(given, tuple) else () if given is None else (given,)
    with torch.inference_mode(False):
        return tuple(a.clone() if isinstance(a, torch.Tensor) and a.is_inference() else a for a in arguments)


def copies(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """For a model that may change its inputs in place: not the caller's tensors, nor leaves of the graph."""
    return tuple(tensor.clone() for tensor in tensors)


def rows_of(value: Any, rows: torch.Tensor, batch: int) -> Any:
    """A tensor with one entry an example, repeated as the rows are, LongTensor of examples; anything else as it is."""
    is_batched = isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == batch
    return value[rows.to(value.device)] if is_batched else value


@contextmanager
def gradients_on() -> Iterator[None]:
    """Gradients are computed, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def input_gradients(
    explained: Explained,
    target: AnyTarget = None,
    targets: torch.Tensor | None = None,
    interposed: Interposition | None = None,
    values: tuple[torch.Tensor, ...] | None = None,
) -> list[list[torch.Tensor]]:
    """The gradients of the chosen outputs with respect to what is attributed, one list a target; a forward pass for
    all of them. `interposed`: what the model runs under; `values`: those of `explained`, where they are known."""
    classes = checked_targets(targets, target)
    with gradients_on():
        values = explained.values() if values is None else values
        leaves = tuple(value.detach().requires_grad_() for value in values)
        output = run_interposed(explained, leaves, interposed)
        choices = [selection(t, output, explained.everyone, explained.batch) for t in classes or [target]]
        return gradients_of(output, explained.everyone, choices, leaves)


def run_interposed(explained: Explained, leaves: tuple, mode: Interposition | None) -> torch.Tensor:
    """The output at the leaves, under an interposition that is told of them."""
    if mode is None:
        return explained.output(copies(leaves), explained.everyone)
    points = tuple(mode.mark(leaf.view_as(leaf), True) for leaf in leaves)
    with mode:
        return mode.current(explained.output(points, explained.everyone))


def gradients_of(
    output: torch.Tensor, rows: torch.Tensor, choices: Sequence[Selection], leaves: Sequence[torch.Tensor]
) -> list[list[torch.Tensor]]:
    """The gradients of each choice with respect to the leaves; zeros for one that it does not depend on."""
    results = []
    for i, choose in enumerate(choices):
        grads = grads_or_none(choose(output, rows), leaves, again=i + 1 < len(choices))
        results.append([torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)])
    return results


def grads_or_none(chosen: torch.Tensor, leaves: Sequence[torch.Tensor], again: bool) -> Sequence[torch.Tensor | None]:
    """The gradients of the sum of the chosen outputs; None for a leaf that it does not depend on."""
    if not chosen.requires_grad:
        raise ValueError("the model's output does not depend on its input through differentiable operations")
    return torch.autograd.grad(chosen.sum(), leaves, retain_graph=again, allow_unused=True)


def per_target(explained: Explained, parts: list[list[torch.Tensor]], targets: torch.Tensor | None) -> Inputs:
    """Attributions, one list a target, as they are returned: [T, ...] where several targets were asked for."""
    if targets is None:
        return explained.formatted(parts[0])
    return explained.formatted([torch.stack(of_targets) for of_targets in zip(*parts, strict=True)])


class _LayerSite:
    """A layer whose outputs, or inputs, are looked at or replaced while the model runs, by a hook that is removed
    afterwards. A layer that runs several times is taken the first time."""

    def __init__(self, model: Callable, layer: torch.nn.Module | str, at_input: bool):
        self.module, self.name = _checked_layer(model, layer)
        self.at_input = at_input
        self.is_tuple = False

    @contextmanager
    def seen(self) -> Iterator[list]:
        found: list = []

        def see(module, values, output=None):
            if not found:
                found.append(_cloned(values if self.at_input else output))  # the model may change them in place

        with self._hooked(see):
            yield found

    def checked(self, seen: list) -> tuple[torch.Tensor, ...]:
        if not seen:
            raise ValueError(f"the forward pass does not run the layer {self.name!r}")
        value = seen[0]
        if self.at_input and len(value) == 1:
            value = value[0]
        self.is_tuple = isinstance(value, tuple)
        parts = value if self.is_tuple else (value,)
        if not parts or not all(isinstance(part, torch.Tensor) and part.is_floating_point() for part in parts):
            raise TypeError(f"layer {self.name!r} does not deal in floating-point tensors alone")
        return parts

    @contextmanager
    def replaced(self, points: tuple[torch.Tensor, ...]) -> Iterator[None]:
        done = False

        def replace(module, values, output=None):
            nonlocal done
            if done:
                return None
            done = True
            new = tuple(point.clone() for point in points)  # the model may change them in place
            return new if self.at_input or self.is_tuple else new[0]

        with self._hooked(replace):
            yield

    def _hooked(self, hook: Callable) -> AbstractContextManager:
        register = self.module.register_forward_pre_hook if self.at_input else self.module.register_forward_hook
        return _removed_afterwards(register(hook))


def _cloned(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_cloned, value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


@contextmanager
def _removed_afterwards(handle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def _checked_layer(model: Callable, layer: torch.nn.Module | str) -> tuple[torch.nn.Module, str]:
    names = dict(model.named_modules()) if isinstance(model, torch.nn.Module) else {}
    if isinstance(layer, torch.nn.Module):
        found = [name for name, module in names.items() if module is layer]
        if names and not found:
            raise ValueError(f"layer is a {type(layer).__name__} that is not part of the model")
        return layer, found[0] if found else type(layer).__name__
    if not isinstance(layer, str) or not names:
        raise TypeError(f"layer is {layer!r}; it must be a module of the model or, where that is a module, its name")
    return names[check_layers(model, [layer])[0]], layer
