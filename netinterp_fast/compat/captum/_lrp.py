"""Layer-wise relevance propagation."""

from __future__ import annotations

from typing import Any

import captum.attr
import torch
from captum.attr._utils.lrp_rules import IdentityRule
from torch import nn

from ...attribution.relevance.tracing import NeedsRelevance
from ._inputs import (
    as_given,
    check_deterministic,
    check_model,
    extra_arguments,
    gradients,
    input_tuple,
    leaf_of,
    selected,
)
from ._lrp_flow import CaptumFlow, leaves, rules_of
from ._serving import PassOn, check_gradient_func, drop_in, replaces


@replaces(captum.attr.LRP)
class LRP(captum.attr.LRP):
    """Relevance by the rules of the model's modules (`module.rule`), or the epsilon rule with 1e-9 for the types of
    module that Captum knows, in one forward and one backward pass.

    As with Captum, functions and operators between modules (x + y, F.softmax) pass the gradient of the relevance, and
    the rules are taken off the modules by the call; `netinterp_fast.lrp` has rules for functions and sums. Passed on to
    Captum are what it refuses (a reused layer, a type of module without a rule), own rules, modules in training mode,
    and models in which its hooks mix things up: a tensor that goes both to a layer and to an activation or a function,
    or that an in-place module overwrites and another uses; functions other than linear ones where a rule changes
    weights; three activations in a row, or the identity rule after one. Results carry no gradient.
    """

    @drop_in(captum.attr.LRP)
    def attribute(
        self, inputs, target=None, additional_forward_args=None, return_convergence_delta=False, verbose=False
    ):
        check_gradient_func(self)
        relevance, output = _relevance(self.model, inputs, target, additional_forward_args, verbose)
        result = as_given(isinstance(inputs, tuple), relevance)
        return (result, self.compute_convergence_delta(relevance, output)) if return_convergence_delta else result


@replaces(captum.attr.LayerLRP)
class LayerLRP(LRP, captum.attr.LayerLRP):
    """Relevance of the outputs, or inputs, of one layer or several; see `LRP`. The backward pass ends at the lowest.

    Passed on besides: a layer without a rule, one whose rule others share, and the inputs of a layer that has several
    of them, or one that goes elsewhere too.
    """

    @drop_in(captum.attr.LayerLRP)
    def attribute(
        self,
        inputs,
        target=None,
        additional_forward_args=None,
        return_convergence_delta=False,
        attribute_to_layer_input=False,
        verbose=False,
    ):
        check_gradient_func(self)
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        taps = dict.fromkeys(layers, "input" if attribute_to_layer_input else "output")
        if len(taps) < len(layers):
            raise PassOn("one layer is named twice")
        _check_taps(self.model, taps)
        relevance, output = _relevance(self.model, inputs, target, additional_forward_args, verbose, taps)
        result = list(relevance) if isinstance(self.layer, list) else relevance[0]
        if not return_convergence_delta:
            return result
        deltas = [self.compute_convergence_delta(of_layer, output) for of_layer in relevance]
        return result, deltas if isinstance(self.layer, list) else deltas[0]


def _check_taps(model: nn.Module, taps: dict[nn.Module, str]) -> None:
    given = [module.rule for module in set(leaves(model)) if hasattr(module, "rule")]
    for layer, place in taps.items():
        rule = getattr(layer, "rule", None)
        if sum(other is rule for other in given) > 1:
            raise PassOn("a rule that several modules share records the relevance of one of them")
        if place == "input" and isinstance(rule, IdentityRule):
            raise PassOn("the identity rule does not record the relevance of its input")


def _relevance(
    model: nn.Module,
    inputs: Any,
    target: Any,
    additional_forward_args: Any,
    verbose: bool,
    taps: dict[nn.Module, str] | None = None,
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Relevance of the inputs, or at the taps, and the outputs that it is of. Takes the rules off the modules."""
    check_model(model)
    check_deterministic(model)
    rules = rules_of(model)
    given = input_tuple(inputs)
    if any(rules.get(layer) is None for layer in taps or {}):
        raise PassOn("the layer has no rule")
    with gradients():
        starts, ends, output = _run(model, given, extra_arguments(additional_forward_args), rules, taps or {})
        output, ends = (selected(t, target, given[0].shape[0]) for t in (output, ends))
        relevance = torch.autograd.grad(ends, starts, output)
    if verbose:
        for module, rule in rules.items():
            if rule is not None:
                print(f"Applied {getattr(module, 'rule', rule)} on layer {module}")
    for module in rules:
        module.__dict__.pop("rule", None)
    return relevance, output


def _run(model, inputs, extra, rules, taps) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """The tensors whose gradient is relevance, the output where that starts, and the output's values."""
    for keep in (False, True):
        flow = CaptumFlow(model, rules, taps, keep)
        starts = [leaf_of(x) for x in inputs]
        try:
            with flow:
                output = model(*(flow.start(x.view_as(x)) for x in starts), *extra)
                output = flow.current(output) if isinstance(output, torch.Tensor) else output
            flow.check()
            if not isinstance(output, torch.Tensor) or flow.known(output) is None:
                raise PassOn("the model's output is not a tensor that depends on its inputs")
            if taps:
                starts = [flow.tapped[layer] for layer in taps]
            return starts, flow.relevance(output), output.detach()
        except NeedsRelevance:
            continue
        finally:
            flow.forget()
    raise PassOn("a tensor is made outside of torch's functions")
