"""Attribution of a model's output to its input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ...attribution.relevance.composites import Composite
from ._context import context

AttrOutput = torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


class Gradient:
    """The gradient of a model, or what a composite makes of it.

    Args:
        model: any `nn.Module` that takes one tensor.
        composite: a composite, or None for the plain gradient.
        attr_output: what is handed to the output as its gradient: a tensor of the output's shape, or a function that
            returns it for the output. None is the output itself.
        create_graph, retain_graph: as for `torch.autograd.grad`.

    As a context manager (`with Gradient(model, composite) as attributor:`) it applies the composite's canonizers once
    for all calls in it, otherwise for each call.
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None = None,
        attr_output: AttrOutput | None = None,
        create_graph: bool = False,
        retain_graph: bool | None = None,
    ):
        if composite is not None and not isinstance(composite, Composite):
            kind = type(composite)
            raise TypeError(
                f"composite is a {kind.__module__}.{kind.__name__}; it must be one of "
                "netinterp_fast.compat.zennit.composites"
            )
        self.model, self.composite = model, composite
        self.attr_output = _checked(attr_output)
        self.create_graph, self.retain_graph = create_graph, retain_graph
        self._context: AbstractContextManager | None = None
        self._entered: nn.Module | None = None

    def __call__(self, input: torch.Tensor, attr_output: AttrOutput | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's output and the attribution, which has the shape of `input`.

        Raises TypeError for arguments of another kind; `attr_output` is used in place of that of the constructor."""
        if not isinstance(input, torch.Tensor):
            raise TypeError(f"input is a {type(input).__name__}; it must be a tensor")
        attr_output = self.attr_output if attr_output is None else _checked(attr_output)
        if self._entered is not None:
            return self._attribute(self._entered, input, attr_output)
        with self._modified(guard=False) as model:
            return self._attribute(model, input, attr_output)

    def _attribute(self, model, input, attr_output):
        leaf = input if input.requires_grad else input.detach().requires_grad_()
        with torch.enable_grad():
            output = model(leaf)
            seed = output if attr_output is None else attr_output(output) if callable(attr_output) else attr_output
        (attribution,) = torch.autograd.grad(
            output, leaf, seed, create_graph=self.create_graph, retain_graph=self.retain_graph
        )
        return output, attribution

    def _modified(self, guard: bool) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.model) if self.composite is None else context(self.model, self.composite, guard)

    def __enter__(self) -> Gradient:
        if self._context is not None:
            raise RuntimeError("this attributor is in use as a context manager already")
        opened = self._modified(guard=True)
        self._entered = opened.__enter__()
        self._context = opened
        return self

    def __exit__(self, *exception) -> bool | None:
        opened, self._context, self._entered = self._context, None, None
        return opened.__exit__(*exception)


def _checked(attr_output: AttrOutput | None) -> AttrOutput | None:
    if attr_output is None or isinstance(attr_output, torch.Tensor) or callable(attr_output):
        return attr_output
    raise TypeError(f"attr_output is {attr_output!r}; it must be a tensor, a function of the output or None")
