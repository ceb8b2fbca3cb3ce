"""A model run so that the backward pass is a composite's, while the model stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...attribution.relevance.composites import Composite
from ...attribution.relevance.flow import Flow, NeedsRelevance


class ModifiedModel(nn.Module):
    """What `context` yields: called like the model, and with the model's parameters, submodules and attributes.

    The gradient of an output with respect to an input is the relevance of the input when the gradient of the output is
    the relevance of the output. Parameters get no gradient.
    """

    def __init__(self, model: nn.Module, composite: Composite):
        super().__init__()
        shared = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "training")
        self.__dict__.update({name: model.__dict__[name] for name in shared})
        self.__dict__.update(_model=model, _composite=composite, _running=False)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._model, name)

    def forward(self, *args, **kwargs) -> Any:
        self._running = True
        try:
            if self._composite is None or not _asks_for_gradients((args, kwargs)):
                return self._model(*args, **kwargs)
            return _run(self._model, self._composite, args, kwargs)
        finally:
            self._running = False


@contextmanager
def context(model: nn.Module, composite: Composite, guard: bool = True) -> Iterator[ModifiedModel]:
    """The model as the composite modifies it. Canonizers are applied until the context ends.

    guard: a call of the model itself on an input that requires a gradient raises RuntimeError, for the gradient would
    be the plain one.
    """
    modified = ModifiedModel(model, composite)
    with ExitStack() as stack:
        for canonizer in composite.canonizers:
            for instance in canonizer.apply(model):
                stack.callback(instance.remove)
        if guard:
            for module in model.modules():
                stack.callback(module.register_forward_pre_hook(_guard(modified)).remove)
        try:
            yield modified
        finally:
            modified._composite = None


def _guard(modified: ModifiedModel):
    def check(module, args):
        if not modified._running and _asks_for_gradients(args):
            raise RuntimeError(
                f"{type(module).__name__} was called itself, and would pass the plain gradient: within a composite's "
                "context, call the object that context() yields (`with composite.context(model) as modified_model:`)"
            )

    return check


def _asks_for_gradients(values: Any) -> bool:
    return torch.is_grad_enabled() and any(isinstance(v, torch.Tensor) and v.requires_grad for v in tree_leaves(values))


def _run(model: nn.Module, composite: Composite, args: tuple, kwargs: dict) -> Any:
    """The model's output; its tensors expect relevance."""
    for keep in (False, True):
        flow = Flow(model, composite, keep)

        def start(tensor: torch.Tensor, flow: Flow = flow) -> torch.Tensor:
            return flow.start(tensor.view_as(tensor)) if tensor.requires_grad else tensor

        def end(tensor: torch.Tensor, flow: Flow = flow) -> torch.Tensor:
            tensor = flow.current(tensor)
            return tensor if flow.known(tensor) is None else flow.relevance(tensor)

        try:
            with flow:
                inputs, options = tree_map_only(torch.Tensor, start, (args, kwargs))
                output = model(*inputs, **options)
            return tree_map_only(torch.Tensor, end, output)
        except NeedsRelevance:
            continue
        finally:
            flow.forget()
    raise RuntimeError("a rule needs the relevance of a tensor that the model made outside of torch's functions")
