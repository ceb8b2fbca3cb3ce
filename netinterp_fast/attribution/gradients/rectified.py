"""Gradients that treat ReLUs in another way, wherever the model has them: modules, functions, in-place or reused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ...interpose import Call, Interposition
from ..relevance.rules import ActivationRule, ReLUDeconvNet, ReLUGuidedBackprop, ReLURectGrad
from ..relevance.steps import ActivationGradient
from ..targets import AnyTarget
from .explained import Explained, Inputs, Layer, input_gradients, per_target


def deconvnet(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
) -> Inputs:
    """The gradient with ReLUs that pass what is positive of it, whatever their input was (Zeiler and Fergus,
    "Visualizing and understanding convolutional networks", ECCV 2014).

    Arguments, result and errors as for `saliency`.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    return _with_rule(explained, target, targets, ReLUDeconvNet())


def guided_backprop(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
) -> Inputs:
    """The gradient with ReLUs that pass what is positive of it where their input was positive (Springenberg et al.,
    "Striving for simplicity", 2015).

    Arguments, result and errors as for `saliency`.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    return _with_rule(explained, target, targets, ReLUGuidedBackprop())


def rect_grad(
    model: Callable,
    inputs: Inputs,
    target: AnyTarget = None,
    *,
    threshold: float = 0.0,
    quantile: float | None = None,
    additional_forward_args: Any = None,
    layer: Layer = None,
    attribute_to_layer_input: bool = False,
    targets: torch.Tensor | None = None,
) -> Inputs:
    """The gradient with ReLUs that pass it where output times gradient exceeds a threshold (Kim et al., "Why are
    saliency maps noisy?", ICCV Workshops 2019). A threshold of -inf gives the plain gradient.

    Args:
        threshold: of the product.
        quantile: take this quantile of each example's products at each ReLU as the threshold; the paper takes 0.98.

    Other arguments, result and errors as for `saliency`.
    """
    explained = Explained(model, inputs, additional_forward_args, layer, attribute_to_layer_input)
    return _with_rule(explained, target, targets, ReLURectGrad(threshold, quantile))


def _with_rule(explained: Explained, target: AnyTarget, targets: torch.Tensor | None, rule: ActivationRule) -> Inputs:
    modules = explained.model.modules() if isinstance(explained.model, torch.nn.Module) else ()
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        raise TypeError(
            "the model has TorchScript parts, whose ReLUs can not be seen; use the modules they were made of"
        )
    return per_target(
        explained, input_gradients(explained, target, targets, _Rectified(explained.model, rule)), targets
    )


class _Rectified(Interposition):
    """Runs a model whose ReLUs have the gradient of a rule."""

    def __init__(self, model: Callable, rule: ActivationRule):
        super().__init__(model)
        self.rule = rule

    def known(self, tensor: torch.Tensor) -> object:
        """Not by marks alone, which functions with a backward pass of their own drop."""
        return super().known(tensor) or (tensor.grad_fn is not None or None)

    def answer(self, call: Call):
        if call.name == "relu":
            x = call.argument(0, "input")
            result = ActivationGradient.apply(x, [torch.relu(x.detach())], None, self.rule)
        else:
            result = call.with_tensors(lambda tensor: tensor)
        return self.mark_all(result, lambda out: out.requires_grad or None)
