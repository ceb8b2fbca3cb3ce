"""Relevance propagation as Captum's LRP does it.

There a module without submodules has a rule or, as an activation, passes relevance on; all functions between modules
pass the gradient of the relevance. A rule changes the module's weights and then applies the epsilon rule,
R_i = x_i (W'^T R / (z' + epsilon sign z'))_i, whatever the signs of the inputs.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule, PropagationRule
from torch import nn

from ...attribution.relevance import layer_types as types
from ...attribution.relevance import operations, steps
from ...attribution.relevance.composites import Composite
from ...attribution.relevance.flow import Flow
from ...attribution.relevance.rules import AffineRule, Epsilon, Norm, Pass, Rule, ratio
from ...attribution.relevance.steps import Arrives, Traced
from ...interpose import Call
from ._module_calls import ModuleCalls
from ._serving import PassOn

_CHOICES = frozenset("amax max maximum minimum amin min sort topk masked_select".split()) | {
    name for name in operations.STRUCTURE if "max_pool" in name
}
_LINEAR = (operations.STRUCTURE - _CHOICES) | operations.SCALED | set(types.SUMS) | set(types.MEANS)


class ChangedWeights(AffineRule):
    """c = W'^T (R / (z' + epsilon sign z')), z' = x W' + b."""

    def __init__(self, rule: PropagationRule):
        super().__init__(rule.STABILITY_FACTOR, "bias" if rule.set_bias_to_zero else None)

    @abstractmethod
    def change(self, weight: torch.Tensor) -> torch.Tensor:
        """W' of W."""

    def backward(self, layer, x, relevance):
        weight, _ = layer.modified(self.change, ("bias",))
        z, pull = layer.pull([x], [weight], None if self.zero_params else layer.bias)
        return pull(ratio(relevance, z, self.stabilizer))[0]


class Gamma(ChangedWeights):
    """W' = W + gamma W+."""

    def __init__(self, rule: GammaRule):
        super().__init__(rule)
        self.gamma = rule.gamma

    def change(self, weight):
        return weight + self.gamma * weight.clamp(min=0)


class Positive(ChangedWeights):
    """W' = W+."""

    def change(self, weight):
        return weight.clamp(min=0)


def leaves(model: nn.Module) -> list[nn.Module]:
    """The modules without submodules below a model, as often as they occur."""
    found: list[nn.Module] = []
    for child in model.children():
        found += leaves(child) if list(child.children()) else [child]
    return found


def rule_of(module: nn.Module) -> Rule | None:
    """Our rule for a module without submodules: `Pass` for the identity rule, None for an activation.

    PassOn where Captum would raise or there is none."""
    kind = type(module)
    if not hasattr(module, "rule"):
        if kind in SUPPORTED_LAYERS_WITH_RULES:
            return Epsilon(SUPPORTED_LAYERS_WITH_RULES[kind]().STABILITY_FACTOR)
        if kind in SUPPORTED_NON_LINEAR_LAYERS:
            return None
        raise PassOn(f"{kind.__name__} has no rule")
    rule = module.rule
    if kind in SUPPORTED_NON_LINEAR_LAYERS:
        raise PassOn(f"{kind.__name__}, an activation, has a rule")
    if type(rule) is EpsilonRule:
        return Epsilon(rule.STABILITY_FACTOR)
    if type(rule) is IdentityRule:
        return Pass()
    if type(rule) not in (GammaRule, Alpha1_Beta0_Rule):
        raise PassOn(f"the rule {type(rule).__name__} is not known here")
    if not hasattr(module, "weight"):
        return Epsilon(rule.STABILITY_FACTOR)
    if not isinstance(module, types.Linear) or not isinstance(module._parameters.get("weight"), nn.Parameter):
        raise PassOn(f"{type(rule).__name__} for {kind.__name__}")
    return Gamma(rule) if type(rule) is GammaRule else Positive(rule)


def rules_of(model: nn.Module) -> dict[nn.Module, Rule | None]:
    """The rules of all modules without submodules, PassOn where Captum would raise or does something else."""
    modules = leaves(model)
    rules = {module: rule_of(module) for module in modules}
    given = [module.rule for module in rules if isinstance(rules[module], Pass)]
    if len({id(rule) for rule in given}) < len(given):
        raise PassOn("several modules share one IdentityRule")
    return rules


class CaptumFlow(ModuleCalls, Flow):
    """Runs a model so that the backward pass of its output is Captum's relevance propagation.

    rules: of the modules without submodules
    taps: modules at whose "input" or "output" relevance is wanted; `tapped` then has the tensors, whose gradient it is
    """

    def __init__(self, model: nn.Module, rules: dict[nn.Module, Rule | None], taps: dict[nn.Module, str], keep: bool):
        super().__init__(model, Composite(unknown="gradient"), keep, modules=rules)
        self._rules, self._taps = rules, taps
        self._changes_weights = any(isinstance(rule, ChangedWeights) for rule in rules.values())
        self._is_done = False  # the operation of the module that is being called
        self._follows = False  # it takes the output of an activation
        self._after_activation: set[Traced] = set()
        self._tapping = False
        self.tapped: dict[nn.Module, torch.Tensor] = {}
        self._tapped_inputs: list[Traced] = []

    # ---- modules

    def kind_of(self, module):
        rule = self._rules[module]
        return "activation" if rule is None else "identity" if isinstance(rule, Pass) else "layer"

    def check_uses(self, uses):
        """Captum's hooks see the sum of what comes back to a tensor: multipliers from layers, relevance from functions;
        those of an activation and of the identity rule replace it."""
        if len(uses) > 1 and set(uses) not in ({"layer"}, {"function"}):
            self.refuse(f"one tensor goes to {' and '.join(sorted(set(uses)))}, whose relevance Captum mixes up")

    def entered(self, module, inputs):
        x, self._is_done = inputs[0], False
        kind, name = self.kind_of(module), type(module).__name__
        self._follows = self.known(x).made_by == "activation"
        if kind == "activation" and not self.fresh_since_last_call(module, x):
            self.refuse(f"one {name} is called on branches of the model")
        if kind != "activation" and module in self._last_call:
            self.refuse(f"one {name} is called more than once")
        self._check_after_activation(module, kind, self.known(x))
        if self._taps.get(module) != "input":
            return None
        if len(inputs) > 1:
            self.refuse("the layer has several inputs")
        self._tapped_inputs.append(self.known(x))
        return self._tap(module, x)

    def _check_after_activation(self, module: nn.Module, kind: str, before: Traced) -> None:
        """What Captum's hooks see of a module directly after an activation is its gradient, not its rule. Where that
        module is an activation too, relevance passes it as a function."""
        if before.made_by != "activation" or kind == "layer":
            return
        changes = self._changes_weights and not isinstance(module, nn.Dropout)
        if kind == "identity" or changes or before in self._after_activation:
            self.refuse(f"{type(module).__name__} directly after an activation, which Captum takes otherwise")

    def left(self, module, y):
        if self.kind_of(module) == "activation" and self._follows:
            self._after_activation.add(self.known(y))
        return self._tap(module, y) if self._taps.get(module) == "output" else None

    def _tap(self, module: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
        self._tapping = True
        try:
            self.tapped[module] = tensor.view_as(tensor)  # comes back as a call
        finally:
            self._tapping = False
        return self.tapped[module]

    def _expecting_relevance(self, tensor: torch.Tensor) -> torch.Tensor:
        nonneg, relevance = self.known(tensor).nonneg, self.relevance(tensor)
        return self.note(relevance.view_as(relevance), Traced(Arrives.RELEVANCE, nonneg=nonneg))

    def forget(self):
        """And the tensors at the taps, which refer to this object."""
        super().forget()
        self.tapped.clear()

    def check(self):
        if any(len(traced.uses) > 1 for traced in self._tapped_inputs):
            raise PassOn("the input of the layer goes to other layers too")
        super().check()

    # ---- calls

    def _answer(self, call: Call):
        if self._tapping:
            return self._expecting_relevance(call.args[0])
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        if self.module is None:
            return self.note_function(call, self._function(call))
        rule = self._rules[self.module]
        return self._activation_module(call) if rule is None else self._layer(call, rule)

    def _function(self, call: Call):
        """A function outside of the modules: relevance passes as its gradient."""
        if call.name in operations.DROPOUTS:
            if call.argument(2, "training", True):
                self.refuse(f"{call.name} is in training mode")
            return call.args[0]
        if self._changes_weights and not self._is_linear(call):
            self.refuse(f"{call.name} as a function, whose inputs differ in Captum where a rule changes weights")
        if call.name in operations.STRUCTURE:
            return self._structure(call)
        return self._relu_function(call) if call.name == "relu" else self._gradient(call)

    def _relu_function(self, call: Call):
        """As the module where a multiplier comes back: where the output is 0 there is no relevance then."""
        x = call.argument(0, "input")
        y = self._pass(call, x, self.known(x))
        self.known(y).relevance = self._kept(lambda: call.with_tensors(self.relevance))
        return y

    def _is_linear(self, call: Call) -> bool:
        inputs = [tensor for tensor in call.tensors() if self.known(tensor) is not None]
        return call.name in _LINEAR or (call.name in operations.PRODUCTS and len(inputs) == 1)

    def _activation_module(self, call: Call):
        x = call.argument(0, "input")
        if call.name in operations.DROPOUTS:  # another tensor, as any module's output is
            return self._structure(Call(torch.Tensor.view_as, (x, x), {}))
        if self._follows:  # another activation
            return self._relu_function(call) if call.name == "relu" else self._gradient(call)
        return self._pass(call, x, self.known(x))

    def _layer(self, call: Call, rule: Rule):
        """A call in a module that has a rule: one operation, before which values may be rearranged."""
        if call.name in operations.STRUCTURE - _CHOICES and not isinstance(rule, Pass):
            return self._structure(call)
        if self._is_done:
            self.refuse(f"{type(self.module).__name__} has a rule and consists of several operations")
        self._is_done = True
        if isinstance(rule, Pass):
            return self._identity(call)
        if call.name in types.AFFINE:
            return self._affine(call)
        if call.name == "batch_norm" and call.argument(5, "training", False):
            self.refuse("a batch norm uses the statistics of the batch")
        return self._norm(call, Norm(rule.stabilizer))

    def _identity(self, call: Call):
        (x,) = (tensor for tensor in call.tensors() if self.known(tensor) is not None)
        value, _ = self._value(call)
        if value.shape != x.shape:
            self.refuse(f"{type(self.module).__name__} has the IdentityRule and changes the shape")
        return self.note(steps.Same.apply(self.relevance(x), [value]), Traced(Arrives.RELEVANCE))

    # ---- what the core asks a composite for

    def _functional_rule(self, kind):
        return Pass()  # only to say that there is one: for `_structure`

    def _rule_for(self, parameter, kind):
        return self._rules[self.module]

    def _unknown(self, call):
        return self._gradient(call)
