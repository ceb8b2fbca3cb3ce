"""Relevance propagation as a modified backward pass.

The gradient that reaches a tensor t of the forward pass is one of three things, noted in `Traced.arrives`:

    MULTIPLIER  c, the relevance of t being t * c. The usual state: reshaping, slicing, pooling by maximum and scaling
                are then right as they are, and a ReLU costs what it costs the gradient.
    RATIO       s = R / (t + epsilon sign t): t is the output of an affine layer under the epsilon rule, whose own
                gradient W^T s is the multiplier of its input.
    RELEVANCE   R itself: t is the output of a layer whose rule needs it.

An activation that follows turns c into what its input expects in one step (`steps.Activation`); before any other
operation `Flow.multiplier` inserts that step alone. `Flow.relevance` gives the tensor as a layer needs it that hands R
itself to its input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

from ...interpose import Call, stop_without_rule
from . import layer_types as types
from . import operations, steps
from .composites import Composite
from .layer import AffineLayer, BatchNorm
from .normalization import affine_normalization
from .rules import ActivationRule, AffineRule, Epsilon, Norm, Pass, Rule
from .steps import Arrives, Traced
from .tracing import NeedsRelevance, Tracing

# Modules whose own rule is that of the call that uses their parameters.
_OWN_CALLS = (*types.Linear, *types.BatchNorm, nn.PReLU)


def run(
    model: nn.Module,
    leaf: torch.Tensor,
    composite: Composite,
    many_passes: bool = False,
    plain: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's output for `leaf`, as values and as the start of the backward pass: it expects relevance, and the
    gradient of `leaf` is then its relevance. With `plain`, the same tensor as `leaf`, the result can be differentiated
    with respect to it."""
    for keep in (False, True):
        flow = Flow(model, composite, keep, many_passes, differentiable=plain is not None)
        try:
            output = flow.run(model, flow.start(leaf.view_as(leaf), plain))
            return flow.plain(output), flow.relevance(output)
        except NeedsRelevance:
            continue
        finally:
            flow.forget()
    raise RuntimeError("a rule needs the relevance of a tensor that the model made outside of torch's functions")


class Flow(Tracing):
    """Runs a model so that the backward pass of its output is the relevance propagation of a composite."""

    # ---- which call is answered how

    def answer(self, call: Call):
        result = self._answer(call)
        if self.differentiable:
            self._note_plain(result, call.with_tensors(self.plain))
        return result

    def _answer(self, call: Call):
        name = call.name
        if name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        if name in operations.DROPOUTS and not call.argument(2, "training", True):
            return call.args[0]
        return self._handler(name)(call)

    def _handler(self, name: str) -> Callable:
        if name in types.AFFINE:
            return self._affine
        if name == "batch_norm":
            return self._batch_norm
        if name in types.SUMS or name in types.MEANS or name in types.RESIZES:
            return self._sum
        if name in types.NORMALIZATIONS:
            return self._normalization
        if name == "softmax":
            return self._softmax
        if types.activation_type(name) is not None:
            return self._activation
        if name in operations.PRODUCTS:
            return self._product
        if name in operations.MATRIX_PRODUCTS:
            return self._matrix_product
        if name == "scaled_dot_product_attention":
            return self._attention
        if name in operations.SCALED or name in operations.DROPOUTS:
            return functools.partial(self._scaled, factor=None)
        if name in operations.STRUCTURE:
            return self._structure
        return self._unknown

    def _functional_rule(self, kind: type[nn.Module]) -> Rule | None:
        """The rule of a call without parameters, by what it counts as."""
        return self._module_rules.rule_inside if self._module_rules.inside else self._rule_of_type(kind)

    def _rule_for(self, parameter: torch.Tensor | None, kind: type[nn.Module]) -> Rule | None:
        """By the module that owns a parameter where it is one of those that composites map, or mapped by its name; else
        by what the call counts as, such as the projections of attention."""
        name, module = self.layer_of(parameter)
        rule = self.rules.get(name)
        by_module = module is not None and (isinstance(module, _OWN_CALLS) or isinstance(rule, AffineRule))
        return rule if by_module else self._functional_rule(kind)

    def _gradient(self, call: Call):
        """No rule: relevance passes as the gradient of the operation."""
        result = call.with_tensors(self.relevance)
        if self.differentiable and isinstance(result, torch.Tensor):
            inputs = [tensor for tensor in call.tensors() if self.known(tensor) is not None]
            plain = [self.plain(tensor) for tensor in inputs]
            result = steps.PlainGradient.apply(self._again(call, inputs), plain, *map(self.relevance, inputs))
        return self._note_all(result, lambda out: Traced(Arrives.RELEVANCE))

    @staticmethod
    def _again(call: Call, inputs: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
        """The call as a function of its inputs."""

        def function(*values: torch.Tensor) -> torch.Tensor:
            by_input = {id(tensor): value for tensor, value in zip(inputs, values, strict=True)}
            return call.with_tensors(lambda t: by_input.get(id(t), t.detach()))

        return function

    def _note_all(self, result, traced_of: Callable[[torch.Tensor], Traced]):
        """Note the tensors that depend on the input in a call's result."""
        return self.mark_all(result, lambda out: self._noted(traced_of(out)) if out.requires_grad else None)

    # ---- affine layers

    def _affine(self, call: Call):
        x, weight = call.argument(0, "input"), call.argument(1, "weight")
        bias = call.argument(2, "bias")
        kind = types.AFFINE[call.name]
        rule = self._rule_for(weight if self.layer_of(weight)[0] else bias, kind)  # a computed weight belongs to none
        if self.known(x) is None or any(t is not None and self.known(t) is not None for t in (weight, bias)):
            return self._unknown(call)
        if rule is None:
            return self._gradient(call)
        if not isinstance(rule, AffineRule):
            raise TypeError(f"layer {self.last_layer!r} has the rule {rule}, which is not for layers with weights")
        return self._apply(AffineLayer.of_call(call, self.variants, self.known(x).nonneg), rule, None)

    def _apply(self, layer: AffineLayer, rule: AffineRule, output: torch.Tensor | None) -> torch.Tensor:
        """A layer's output, which a batch norm may have given already."""
        if isinstance(rule, Epsilon) and not rule.zero_params:
            y = layer.op(self.multiplier(layer.x), layer.weight, layer.bias) if output is None else output
            return self.note(y, Traced(Arrives.RATIO, rule.stabilizer, layer=layer, rule=rule))
        x = self.relevance(layer.x) if rule.returns_relevance else self.multiplier(layer.x)
        layer.linear = rule.goes_through_layer(layer)
        if output is None:
            output = layer.op(x if layer.linear else x.detach(), layer.weight, layer.bias)
        linear = output if layer.linear else None
        y = steps.WithRule.apply(x, linear, [output.detach()], self._saved(layer.x), layer, rule)
        return self.note(y, Traced(Arrives.RELEVANCE, layer=layer, rule=rule, linear=linear))

    def _batch_norm(self, call: Call):
        norm, x = BatchNorm.of_call(call), call.argument(0, "input")
        rule = self._rule_for(norm.weight, nn.BatchNorm2d)
        traced = self.known(x)
        of_layer = traced.layer is not None and traced.layer.weight.dim() == x.dim()  # else over another dimension
        if not of_layer:
            return self._gradient(call) if rule is None else self._batch_norm_alone(call, x, rule)
        merged = traced.layer.with_batch_norm(norm)
        source = x if traced.arrives is Arrives.RATIO else traced.linear
        y = call.with_tensors(lambda t: source if t is x and source is not None else t.detach())
        return self._apply(merged, traced.rule, y)

    def _batch_norm_alone(self, call: Call, x: torch.Tensor, rule: Rule):
        """A batch norm that follows no affine layer."""
        if isinstance(rule, (Norm, Epsilon)):
            return self._norm(call, rule)
        y, _ = self._value(call)
        return self.note(steps.Same.apply(self.relevance(x), [y]), Traced(Arrives.RELEVANCE))

    # ---- sums, averages and products

    def _sum(self, call: Call):
        kind = types.SUMS.get(call.name) or types.MEANS.get(call.name) or types.RESIZES[call.name]
        rule = self._functional_rule(kind)
        return self._gradient(call) if rule is None else self._norm(call, rule)

    def _norm(self, call: Call, rule: Rule):
        """Affine in its inputs as it is: Epsilon is the same there."""
        if not isinstance(rule, (Norm, Epsilon)):
            raise TypeError(f"{call.name} (after layer {self.last_layer!r}) has the rule {rule}; it must be Norm")
        nonneg = call.name not in ("sub", "rsub", "subtract") and self._all_nonneg(call)
        y = call.with_tensors(self.multiplier)
        return self._note_all(y, lambda out: Traced(Arrives.RATIO, rule.stabilizer, nonneg=nonneg))

    def _all_nonneg(self, call: Call) -> bool:
        known = [self.known(tensor) for tensor in call.tensors()]
        numbers = [v for v in (*call.args[1:], call.kwargs.get("alpha", 1)) if isinstance(v, (int, float))]
        weights_are_nonneg = call.kwargs.get("mode") != "bicubic"
        return weights_are_nonneg and all(t and t.nonneg for t in known) and all(v >= 0 for v in numbers)

    def _normalization(self, call: Call):
        """A layer norm with its statistics as constants is affine: value = mean and standard deviation detached."""
        rule = self._functional_rule(types.NORMALIZATIONS[call.name])
        if rule is None:
            return self._gradient(call)
        x = call.argument(0, "input")
        y = affine_normalization(call, self.multiplier(x), self.plain(x))
        return self.note(y, Traced(Arrives.RATIO, rule.stabilizer))

    def _product(self, call: Call):
        """x * y where one factor is a constant or a gate: the other one's multiplier is scaled."""
        a, b = call.args[:2] if len(call.args) > 1 else (call.args[0], next(iter(call.kwargs.values())))
        traced = [self.known(t) if isinstance(t, torch.Tensor) else None for t in (a, b)]
        if "div" in call.name and traced[1] is not None:
            return self._unknown(call)
        factors = [i for i in (0, 1) if traced[i] is None or traced[i].gate]
        if len(factors) != 1:
            return self._unknown(call)
        return self._scaled(call, (a, b)[factors[0]])

    def _scaled(self, call: Call, factor: torch.Tensor | float | None):
        """Each value times a number: its relevance stays what it was. The number may be one of the arguments."""
        if self._functional_rule(types.Sum) is None:
            return self._gradient(call)
        y = call.with_tensors(lambda t: self.plain(t) if t is factor else self.multiplier(t))
        others = [t for t in call.tensors() if t is not factor and self.known(t) is not None]
        known = self.known(factor) if isinstance(factor, torch.Tensor) else None
        nonneg = known is not None and known.nonneg and self.known(others[0]).nonneg
        return self.note(y, Traced(nonneg=nonneg, relevance=self._kept(lambda: self._same(others[0], y.detach()))))

    def _matrix_product(self, call: Call):
        a, b = call.args[:2]
        traced = [self.known(t) for t in (a, b)]
        factors = [i for i in (0, 1) if traced[i] is None or traced[i].gate]
        rule = self._functional_rule(nn.MultiheadAttention)
        if len(factors) != 1:
            return self._unknown(call)
        if rule is None:
            return self._gradient(call)
        factor = (a, b)[factors[0]]
        y = call.with_tensors(lambda t: self.plain(t) if t is factor else self.multiplier(t))
        return self.note(y, Traced(Arrives.RATIO, rule.stabilizer))

    def _softmax(self, call: Call):
        """Attention weights are constants: nothing goes back through them."""
        if self._functional_rule(nn.MultiheadAttention) is None:
            return self._gradient(call)
        message = (
            f"{call.name} (after layer {self.last_layer!r}) is taken as attention weights, which are constants; "
            "to explain a class, explain its logit before the softmax"
        )
        y = call.with_tensors(self.relevance if self.composite.unknown == "gradient" else self.multiplier)
        if self.composite.unknown == "error":
            y = stop_without_rule(y, message)
        return self.note(y, Traced(Arrives.RELEVANCE, gate=True, nonneg=True))

    def _attention(self, call: Call):
        rule = self._functional_rule(nn.MultiheadAttention)
        if rule is None:
            return self._gradient(call)
        query, key, value = (call.argument(i, role) for i, role in enumerate(("query", "key", "value")))
        rest = {name: option for name, option in call.kwargs.items() if name not in ("query", "key", "value")}
        y = call.func(self.plain(query), self.plain(key), self.multiplier(value), *call.args[3:], **rest)
        return self.note(y, Traced(Arrives.RATIO, rule.stabilizer))

    # ---- activations and structure

    def _activation(self, call: Call):
        x = call.argument(0, "input")
        traced = self.known(x)
        rule = self._activation_rule(call)
        if rule is None:
            return self._gradient(call)
        if isinstance(rule, ActivationRule):
            value, plain = self._value(call)
            saved = (plain, self.plain(x)) if self.differentiable else None
            y = steps.ActivationGradient.apply(self.relevance(x), [value], saved, rule)
            return self.note(y, Traced(Arrives.RELEVANCE))
        if not isinstance(rule, Pass):
            raise TypeError(f"{call.name} (after layer {self.last_layer!r}) has the rule {rule}; it must be Pass")
        return self._pass(call, x, traced)

    def _activation_rule(self, call: Call) -> Rule | None:
        kind = types.activation_type(call.name)
        return self._rule_for(call.args[1], kind) if call.name == "prelu" else self._functional_rule(kind)

    def _pass(self, call: Call, x: torch.Tensor, traced: Traced):
        is_relu = call.name == "relu"
        value, plain = self._activation_value(call, x, traced)
        saved = (plain, self.plain(x)) if self.differentiable else None
        if traced.arrives is not Arrives.MULTIPLIER:
            if is_relu and traced.layer is not None:
                traced.layer.relu_follows = True
            else:
                self._general_output(x, traced)
            y = steps.Activation.apply(x, [value], saved, traced, is_relu)
        elif call.name in operations.ZERO_AT_ZERO:
            y = steps.Quotient.apply(x, [value], saved)
        else:
            y = steps.Activation.apply(self.relevance(x), [value], saved, Traced(Arrives.RELEVANCE), False)
        kept = self._kept(lambda: self._same(x, value))
        return self.note(
            y, Traced(nonneg=call.name in operations.NONNEGATIVE, gate=call.name in operations.GATES, relevance=kept)
        )

    def _activation_value(self, call: Call, x: torch.Tensor, traced: Traced) -> tuple[torch.Tensor, torch.Tensor]:
        """f(x) as `_value`, written over x where the model does so and no backward step needs x."""
        own = traced.layer is not None or traced.arrives is Arrives.RATIO  # not the model's input
        used = traced.multiplier is not None or traced.relevance is not None or traced.read or self.keep
        if call.in_place and call.name == "relu" and own and not used and not callable(traced.stabilizer):
            value = torch.relu_(x.data)  # unlike that of detach(), not a view of x
            return value, value
        return self._value(call)

    def _structure(self, call: Call):
        if self._functional_rule(types.Sum) is None:
            return self._gradient(call)
        tensors = call.tensors()
        result = call.with_tensors(self.multiplier)
        for tensor in tensors:
            if self.known(tensor) is not None and result is self.multiplier(tensor):
                return tensor  # as it was: contiguous(), to() and the like
        known = [self.known(tensor) for tensor in (tensors[:1] if call.name.endswith("_as") else tensors)]
        nonneg = all(t.nonneg if t else not c.is_floating_point() for t, c in zip(known, tensors, strict=False))
        nonneg = nonneg and self._fills_with_nonneg(call)
        gate = all(traced is not None and traced.gate for traced in known)
        repeated = functools.cache(lambda: call.with_tensors(self.relevance))

        def noted(part, i: int | None = None):
            def make() -> torch.Tensor:
                return repeated() if i is None else repeated()[i]

            return self._note_all(
                part, lambda out: Traced(nonneg=nonneg, gate=gate, relevance=self._kept(make, out._is_view()))
            )

        if isinstance(result, torch.Tensor):
            return noted(result)
        return type(result)([noted(part, i) for i, part in enumerate(result)])

    def _unknown(self, call: Call):
        """No rule is known: an error once relevance reaches it, unless the composite passes the gradient."""
        if self.composite.unknown == "gradient":
            return self._gradient(call)
        message = (
            f"no rule of relevance propagation for {call.name} (after layer {self.last_layer!r}); "
            "a composite with unknown='gradient' passes the gradient"
        )
        result = call.with_tensors(self.multiplier)
        if isinstance(result, torch.Tensor) and result.requires_grad:
            return self.note(stop_without_rule(result, message), Traced(Arrives.RELEVANCE))
        return self._note_all(result, lambda out: Traced(Arrives.RELEVANCE))

    @staticmethod
    def _fills_with_nonneg(call: Call) -> bool:
        """Whether numbers that a call puts in are not negative."""
        numbers = [value for value in (*call.args[1:], *call.kwargs.values()) if isinstance(value, float)]
        if call.name in ("where", "masked_fill", "setitem", "pad"):
            numbers += [value for value in call.args[2:] if isinstance(value, int)]
        return all(value >= 0 for value in numbers)

    def _same(self, source: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return steps.Same.apply(self.relevance(source), [value])

    def _kept(self, make: Callable[[], torch.Tensor], cheap: bool = False) -> Callable[[], torch.Tensor] | None:
        """How to make a tensor that expects relevance; forgotten where it is seldom needed and costs memory to keep."""
        return make if self.keep or cheap else None
