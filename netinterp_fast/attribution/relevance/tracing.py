"""What is known of the tensors of a forward pass, and the forms in which an operation can take one."""

from __future__ import annotations

import functools
import weakref

import torch
from torch import nn

from ...interpose import Call, Interposition
from . import steps
from .composites import Composite
from .layer import Variants
from .module_rules import ModuleRules
from .steps import Arrives, Traced


class NeedsRelevance(Exception):
    """A rule needs the relevance of a tensor for which this was not kept: run again with keep=True."""


class Tracing(Interposition):
    """What `Flow` knows of the tensors of a forward pass, and the forms in which it hands them to an operation."""

    def __init__(
        self,
        model: nn.Module,
        composite: Composite,
        keep: bool = False,
        many_passes: bool = False,
        differentiable: bool = False,
    ):
        super().__init__(model)
        self.composite, self.keep, self.differentiable = composite, keep, differentiable
        self.rules = composite.assign(model)
        self._rule_of_type = functools.cache(composite.functional_rule)
        self._module_rules = ModuleRules(model, self.rules, self._rule_of_type)
        self.variants = Variants(many_passes)
        self._all_traced: list[weakref.ref[Traced]] = []

    def __enter__(self):
        self._module_rules.watch()
        return super().__enter__()

    def __exit__(self, *exception):
        self._module_rules.release()
        return super().__exit__(*exception)

    def start(self, inputs: torch.Tensor, plain: torch.Tensor | None = None) -> torch.Tensor:
        """The model's input; its gradient will be its relevance."""
        return self.note(inputs, Traced(Arrives.RELEVANCE, plain=plain))

    def note(self, tensor: torch.Tensor, traced: Traced) -> torch.Tensor:
        return self.mark(tensor, self._noted(traced))

    def _noted(self, traced: Traced) -> Traced:
        self._all_traced.append(weakref.ref(traced))
        return traced

    def forget(self) -> None:
        """Drop what is known of all tensors. Each step that was made of a tensor refers back to it through the graph, a
        circle that Python's garbage collector does not see."""
        for traced in self._all_traced:
            if (traced := traced()) is not None:
                traced.forget()
        self._all_traced.clear()

    def multiplier(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the forward pass as an operation takes it that returns multipliers."""
        traced = self.known(tensor)
        if traced is None:
            return tensor.detach()
        if traced.arrives is Arrives.MULTIPLIER:
            return tensor
        self._general_output(tensor, traced)
        if traced.multiplier is None:
            plain = self._saved(tensor, tensor)
            traced.multiplier = steps.Activation.apply(tensor, [tensor.detach()], plain, traced, False)
        return traced.multiplier

    def relevance(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the forward pass as an operation takes it that returns relevance."""
        traced = self.known(tensor)
        if traced is None:
            return tensor.detach()
        self._general_output(tensor, traced)
        if traced.arrives is Arrives.RELEVANCE:
            return tensor
        if traced.relevance is None and traced.arrives is Arrives.RATIO:
            traced.relevance = steps.Ratio.apply(tensor, self._saved(tensor), traced.stabilizer)
        elif callable(traced.relevance):
            traced.relevance = traced.relevance()
        if traced.relevance is None:
            raise NeedsRelevance
        return traced.relevance

    def _general_output(self, tensor: torch.Tensor, traced: Traced) -> None:
        """Something other than a ReLU uses a layer's output: relevance may come to negative ones too."""
        if traced.layer is not None:
            traced.layer.output = self.plain(tensor)

    # ---- results that are to be differentiated

    def plain(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the forward pass as a number in the backward pass: with the model's own gradient where the result
        is to be differentiated, a constant where not."""
        traced = self.known(tensor)
        if traced is not None:
            traced.read = True
        return tensor.detach() if traced is None or traced.plain is None else traced.plain

    def _saved(self, *tensors: torch.Tensor) -> steps.Plain:
        """What a step uses in its backward pass in place of its own tensors."""
        return tuple(self.plain(tensor) for tensor in tensors) if self.differentiable else None

    def _value(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        """The output of a call: for a step, and as a number in its backward pass."""
        value = call.with_tensors(self.plain)
        return value.detach(), value

    def _note_plain(self, result, plain) -> None:
        if isinstance(result, torch.Tensor):
            traced = self.known(result)
            if traced is not None and traced.plain is None:
                traced.plain = plain
        elif isinstance(result, (list, tuple)):
            for part, part_plain in zip(result, plain, strict=True):
                self._note_plain(part, part_plain)
