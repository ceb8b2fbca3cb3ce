"""DeepLIFT by the rescale rule, as Captum does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import captum.attr
import torch
from captum._utils.common import _format_baseline
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from captum.attr._utils.common import _call_custom_attribution_func, _tensorize_baseline, _validate_input
from torch import nn

from ...attribution.relevance import operations
from ...interpose import Call
from ._inputs import (
    as_given,
    check_deterministic,
    check_dtypes,
    check_model,
    extra_arguments,
    gradients,
    input_tuple,
    leaf_of,
    selected,
    with_delta,
)
from ._module_calls import Known, ModuleCalls
from ._serving import PassOn, check_gradient_func, drop_in, replaces

_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


@replaces(captum.attr.DeepLift)
class DeepLift(captum.attr.DeepLift):
    """Contributions by the rescale rule. The model runs once on the baselines (on one example where they are all the
    same), and once on the inputs, whose backward pass uses the slope dy / dx of the activation modules that Captum
    knows, and the gradient of everything else, as Captum does.

    Max pooling that follows such a module is differentiated as it is, which is what Captum's hooks come to; the
    contributions are then not complete (`netinterp_fast.deep_lift` is). Passed on are other max pooling, softmax as a
    module, an activation module that is called twice or whose input goes elsewhere too, and modules in training mode.
    """

    @drop_in(captum.attr.DeepLift)
    def attribute(
        self,
        inputs,
        baselines=None,
        target=None,
        additional_forward_args=None,
        return_convergence_delta=False,
        custom_attribution_func=None,
    ):
        check_gradient_func(self)
        check_model(self.model)
        check_deterministic(self.model)
        given = input_tuple(inputs)
        reference = _format_baseline(baselines, given)
        _validate_input(given, reference)
        plain = self.multiplies_by_inputs and custom_attribution_func is None
        multipliers = _multipliers(
            self.model, given, reference, target, extra_arguments(additional_forward_args), self.eps, plain
        )
        detached = tuple(x.detach() for x in given)
        reference = tuple(r.detach() for r in _tensorize_baseline(detached, reference))
        if custom_attribution_func is not None:
            contributions = _call_custom_attribution_func(custom_attribution_func, multipliers, detached, reference)
        elif self.multiplies_by_inputs:
            contributions = tuple((x - r) * m for x, r, m in zip(detached, reference, multipliers, strict=True))
        else:
            contributions = multipliers
        result = as_given(isinstance(inputs, tuple), contributions)
        ends = reference, given
        return with_delta(self, return_convergence_delta, result, contributions, ends, additional_forward_args, target)


@replaces(captum.attr.DeepLiftShap)
class DeepLiftShap(captum.attr.DeepLiftShap, DeepLift):
    """Captum's mean over baselines, of `DeepLift`'s contributions."""


def _multipliers(model, inputs, baselines, target, extra, eps, plain: bool) -> tuple[torch.Tensor, ...]:
    """For the inputs; `plain` if only their products with the differences from the baselines count."""
    modules = _activations(model)
    if not plain and any(isinstance(module, _MAX_POOLS) for module in modules):
        raise PassOn("max pooling and multipliers by themselves")
    with gradients():
        record = _Record(model, modules=modules)
        try:
            with torch.no_grad(), record:
                model(*(record.start(r) for r in _references(inputs, baselines, extra)), *extra)
            record.check()
            leaves = [leaf_of(x) for x in inputs]
            run = _Multipliers(model, record.steps, eps, modules=modules)
            with run:
                output = model(*(run.start(x.view_as(x)) for x in leaves), *extra)
                output = run.current(output) if isinstance(output, torch.Tensor) else output
            run.check()
            return torch.autograd.grad(selected(output, target, inputs[0].shape[0]).sum(), leaves)
        finally:
            record.steps.clear()  # its tensors refer to the record in turn


def _activations(model: nn.Module) -> list[nn.Module]:
    """The modules that Captum takes as non-linear."""
    if type(model) in SUPPORTED_NON_LINEAR:
        raise PassOn("the model is one activation")
    return [m for m in model.modules() if type(m) in SUPPORTED_NON_LINEAR and not m._backward_hooks]


def _references(inputs, baselines, extra) -> list[torch.Tensor]:
    """What to run the model on for the baselines: one example where that is the baseline of all."""
    check_dtypes(inputs, baselines)
    alone = [isinstance(r, (int, float)) or r.shape[0] == 1 for r in baselines]
    if all(alone) and not any(isinstance(value, torch.Tensor) and value.dim() for value in extra):
        inputs = tuple(x[:1] for x in inputs)
    inputs = tuple(x.detach() for x in inputs)
    return [r.detach() for r in _tensorize_baseline(inputs, baselines)]


@dataclass(eq=False)
class _Step:
    """Input and output of an activation module on the baselines."""

    x: torch.Tensor
    y: torch.Tensor | None = None


class _Pass(ModuleCalls):
    """What both runs share."""

    def start(self, x: torch.Tensor) -> torch.Tensor:
        return self.mark(x, Known())

    def kind_of(self, module):
        return "max pooling" if isinstance(module, _MAX_POOLS) else "activation"

    def check_uses(self, uses):
        if len(uses) > 1 and set(uses) != {"function"}:
            self.refuse("the input of an activation goes elsewhere too, which Captum does not see")

    def entered(self, module, inputs):
        name = type(module).__name__
        if isinstance(module, nn.Softmax):
            self.refuse("softmax as a module")
        if module in self._last_call:
            self.refuse(f"one {name} is called more than once")
        follows = self.known(inputs[0]).made_by
        if isinstance(module, _MAX_POOLS) != (follows == "activation") or follows == "max pooling":
            self.refuse(f"{name} after {follows or 'no activation'}")

    def answer(self, call: Call):
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        result = self.compute(call)
        if self.module is None:
            self.note_function(call, result)
        return result

    def compute(self, call: Call) -> Any:
        """The call out of place, and differentiable with respect to the inputs alone."""
        result = call.with_tensors(lambda t: t if self.known(t) is not None else t.detach())
        return self.mark_all(result, self._knowledge_of)

    def _knowledge_of(self, tensor: torch.Tensor) -> Known | None:
        return self.known(tensor) or (Known() if tensor.is_floating_point() else None)


class _Record(_Pass):
    """The run on the baselines: `steps` of the activation modules."""

    def __init__(self, model, *, modules):
        super().__init__(model, modules=modules)
        self.steps: dict[nn.Module, _Step] = {}

    def entered(self, module, inputs):
        super().entered(module, inputs)
        self.steps[module] = _Step(inputs[0])

    def left(self, module, y):
        self.steps[module].y = y


class _Multipliers(_Pass):
    """The run on the inputs, its gradients being multipliers."""

    def __init__(self, model, steps: dict[nn.Module, _Step], eps: float, *, modules):
        super().__init__(model, modules=modules)
        self._steps, self._eps = steps, eps

    def compute(self, call: Call):
        if self.module is None or isinstance(self.module, _MAX_POOLS):
            return super().compute(call)
        x, step = call.argument(0, "input"), self._steps.get(self.module)
        if step is None or step.y is None or x.shape not in (step.x.shape, (len(x), *step.x.shape[1:])):
            self.refuse(f"{type(self.module).__name__} is called otherwise on the inputs than on the baselines")

        def again(value: torch.Tensor) -> torch.Tensor:
            return call.with_tensors(lambda t: value if t is x else t.detach())

        y = again(x.detach())
        return self.mark(
            _Rescale.apply(x, [y], step, self._eps, None if type(self.module) is nn.ReLU else again), Known()
        )


class _Rescale(torch.autograd.Function):
    """y = f(x), with the slope dy / dx from the baseline as its gradient, or its own where |dx| < eps. f: None for a
    ReLU."""

    @staticmethod
    def forward(ctx, x, value, step, eps, f):
        (y,) = value
        ctx.step, ctx.eps, ctx.f = step, eps, f
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, m):
        x, y = ctx.saved_tensors
        f, ctx.f = ctx.f, None  # it refers to x, which refers to y where it was overwritten
        dx = x - ctx.step.x
        to_x = m * (y - ctx.step.y) / dx
        near = m * (x > 0) if f is None else _gradient(f, x, m)
        return torch.where(dx.abs() < ctx.eps, near, to_x), None, None, None, None


def _gradient(f: Callable, x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x), x, m)[0]
