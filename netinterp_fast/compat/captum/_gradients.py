"""Gradients, as they are, times the input, and with other ReLUs."""

from __future__ import annotations

import captum.attr
import torch
from torch import nn

from ...attribution.gradients import input_x_gradient, saliency
from ...attribution.gradients.explained import Explained, input_gradients
from ...attribution.relevance import operations
from ...attribution.relevance.rules import ActivationRule, ReLUDeconvNet, ReLUGuidedBackprop
from ...attribution.relevance.steps import ActivationGradient
from ...interpose import Call
from ._inputs import as_given, check_model, input_tuple, target_of
from ._module_calls import Known, ModuleCalls
from ._serving import PassOn, check_gradient_func, drop_in, replaces


@replaces(captum.attr.Saliency)
class Saliency(captum.attr.Saliency):
    """The gradient, or its absolute value. Results carry no gradient."""

    @drop_in(captum.attr.Saliency)
    def attribute(self, inputs, target=None, abs=True, additional_forward_args=None):
        check_gradient_func(self)
        given = input_tuple(inputs)
        return saliency(
            self.forward_func,
            inputs,
            target_of(target, given),
            absolute=abs,
            additional_forward_args=additional_forward_args,
        )


@replaces(captum.attr.InputXGradient)
class InputXGradient(captum.attr.InputXGradient):
    """The gradient times the input. Results carry no gradient."""

    @drop_in(captum.attr.InputXGradient)
    def attribute(self, inputs, target=None, additional_forward_args=None):
        check_gradient_func(self)
        given = input_tuple(inputs)
        return input_x_gradient(
            self.forward_func, inputs, target_of(target, given), additional_forward_args=additional_forward_args
        )


@replaces(captum.attr.GuidedBackprop)
class GuidedBackprop(captum.attr.GuidedBackprop):
    """The gradient with ReLUs that pass what is positive of it where their input was positive.

    As with Captum these are the modules `nn.ReLU` and not functions (`netinterp_fast.guided_backprop` takes both).
    Passed on to Captum are subclasses of `nn.ReLU`, and ReLUs whose input comes straight from another or goes elsewhere
    too. Results carry no gradient.
    """

    @drop_in(captum.attr.GuidedBackprop)
    def attribute(self, inputs, target=None, additional_forward_args=None):
        check_gradient_func(self)
        return _rectified(self.model, inputs, target, additional_forward_args, ReLUGuidedBackprop())


@replaces(captum.attr.Deconvolution)
class Deconvolution(captum.attr.Deconvolution):
    """The gradient with ReLUs that pass what is positive of it, whatever their input was; otherwise as
    `GuidedBackprop`. Also passed on is a ReLU that is called on branches of the model."""

    @drop_in(captum.attr.Deconvolution)
    def attribute(self, inputs, target=None, additional_forward_args=None):
        check_gradient_func(self)
        return _rectified(self.model, inputs, target, additional_forward_args, ReLUDeconvNet())


def _rectified(model: nn.Module, inputs, target, additional_forward_args, rule: ActivationRule):
    check_model(model)
    given = input_tuple(inputs)
    explained = Explained(model, inputs, additional_forward_args)
    flow = _ReLUModules(model, rule)
    (gradients,) = input_gradients(explained, target_of(target, given), interposed=flow)
    flow.check()
    return as_given(isinstance(inputs, tuple), gradients)


class _ReLUModules(ModuleCalls):
    """Runs a model whose modules `nn.ReLU` have the gradient of a rule."""

    def __init__(self, model: nn.Module, rule: ActivationRule):
        relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
        if model in relus or any(type(module) is not nn.ReLU for module in relus):
            raise PassOn("a subclass of ReLU, or a model that is a ReLU")
        super().__init__(model, modules=relus)
        self._rule = rule

    def kind_of(self, module):
        return "ReLU"

    def check_uses(self, uses):
        if len(uses) > 1 and "ReLU" in uses:
            self.refuse("the input of a ReLU goes elsewhere too, whose gradient Captum takes for the ReLU's")

    def entered(self, module, inputs):
        if self.known(inputs[0]).made_by is not None:
            self.refuse("a ReLU directly after another")
        if isinstance(self._rule, ReLUDeconvNet) and not self.fresh_since_last_call(module, inputs[0]):
            self.refuse("one ReLU is called on branches of the model")

    def mark(self, tensor, knowledge):
        return super().mark(tensor, knowledge if isinstance(knowledge, Known) else Known())

    def answer(self, call: Call):
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        if self.module is None:
            result = call.with_tensors(lambda tensor: tensor)
            return self.note_function(call, self.mark_all(result, self._knowledge_of))
        x = call.argument(0, "input")
        return self.mark(ActivationGradient.apply(x, [torch.relu(x.detach())], None, self._rule), Known())

    def _knowledge_of(self, tensor: torch.Tensor) -> Known | None:
        return self.known(tensor) or (Known() if tensor.requires_grad else None)
