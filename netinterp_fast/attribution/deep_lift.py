"""DeepLIFT: contributions to the difference from a reference (Shrikumar et al., "Learning important features through
propagating activation differences", ICML 2017).

The model runs twice: on the baseline, where the inputs and outputs of non-linear operations are recorded in order, and
on the input, where each such operation gets the multiplier m = dy / dx of the differences from the record as its
gradient. Affine operations have their own gradient. So the contributions m * (x - x') sum to f(x) - f(x').
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..interpose import Call, Interposition, NoRuleError, stop_without_rule
from .baselines import checked_baseline
from .relevance import layer_types as types
from .relevance import operations
from .relevance.layer import AffineLayer, BatchNorm, Variants
from .targets import Target, check_inputs, output_weights

_ELEMENTWISE = frozenset("exp log log1p sqrt rsqrt square pow abs reciprocal erf sin cos".split())
_MAX_POOLS = {
    f"{kind}max_pool{n}d{suffix}" for kind in ("", "adaptive_") for n in (1, 2, 3) for suffix in ("", "_with_indices")
}
_CHOICES = frozenset("amax max maximum minimum amin min where sort topk masked_select".split())
_AFFINE = (
    (operations.STRUCTURE - _MAX_POOLS - _CHOICES) | set(types.AFFINE) | set(types.SUMS) | set(types.MEANS)
    | set(types.RESIZES) | {"batch_norm"}
)  # fmt: skip
_PRODUCTS = operations.PRODUCTS | operations.MATRIX_PRODUCTS


def deep_lift(
    model: torch.nn.Module,
    inputs: torch.Tensor,
    target: Target = None,
    *,
    baseline: torch.Tensor | float | None = None,
    mode: str = "rescale",
) -> torch.Tensor:
    """Contributions of the inputs to f(x) - f(x'), to which they sum exactly, through max pooling and products too.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor and returns logits [B, n].
        inputs: floating-point tensor [B, ...], x.
        target: an int, a LongTensor [B] or None for each example's largest output; or float weights of the outputs.
        baseline: x', a tensor of the inputs' shape or [1, ...], a number, or None for zeros.
        mode: "rescale", m = dy / dx; or "reveal_cancel", which follows positive and negative contributions to the
            input of a non-linearity apart: dy+ = (f(x' + dx+) - f(x') + f(x' + dx+ + dx-) - f(x' + dx-)) / 2.

    Returns:
        Tensor of the shape of `inputs`.

    Raises:
        TypeError, ValueError: for arguments that do not fit.
        NoRuleError: for an operation without a rule, named.
    """
    check_inputs(inputs)
    if mode not in ("rescale", "reveal_cancel"):
        raise ValueError(f"mode is {mode!r}; it must be 'rescale' or 'reveal_cancel'")
    reference = checked_baseline(baseline, inputs)
    with torch.no_grad(), _Record(model) as record:
        model(record.start(reference))
    leaf = inputs.detach().requires_grad_()
    with torch.enable_grad():
        flow = _Multipliers(model, record.steps, reveal=mode == "reveal_cancel")
        output = flow.run(model, flow.start(leaf.view_as(leaf)))
    multipliers = torch.autograd.grad(output, leaf, output_weights(output, target))[0]
    return multipliers * (leaf.detach() - reference)


@dataclass(eq=False)
class _Step:
    """A recorded operation on the baseline."""

    name: str
    inputs: list[torch.Tensor]
    result: Any


def _is_elementwise(name: str) -> bool:
    return name in _ELEMENTWISE or types.activation_type(name) is not None


class _Pass(Interposition):
    """What both runs share: operations that are taken apart into others."""

    def start(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.mark(inputs, _Origin())

    def answer(self, call: Call):
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        if call.name in operations.DROPOUTS and not call.argument(2, "training", True):
            return call.args[0]
        if call.name == "batch_norm":
            BatchNorm.of_call(call)  # refuses training mode
        apart = _APART.get(call.name)
        if apart is not None and (apart is not _quotient or self._is_input(call.argument(1, "other"))):
            with self.again():
                return apart(call)
        return self.step(call)

    @abstractmethod
    def step(self, call: Call):
        """The result of an operation that is not taken apart."""

    def _is_input(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and self.known(value) is not None

    def _inputs(self, call: Call) -> list[torch.Tensor]:
        return [tensor for tensor in call.tensors() if self.known(tensor) is not None]

    def _mark_all(self, result: Any, origin: _Origin | None = None) -> Any:
        return self.mark_all(result, lambda t: (origin or _Origin()) if t.is_floating_point() else None)


def _recorded(call: Call, n_inputs: int) -> bool:
    """Whether an operation is not affine in its inputs, or must be known for `reveal_cancel`."""
    return call.name not in _AFFINE or call.name in types.AFFINE or (call.name in _PRODUCTS and n_inputs > 1)


class _Record(_Pass):
    """The run on the baseline."""

    def __init__(self, model):
        super().__init__(model)
        self.steps: list[_Step] = []

    def step(self, call: Call):
        inputs = self._inputs(call)
        result = (
            _with_indices(call)(torch.Tensor.detach)
            if call.name in _MAX_POOLS
            else call.with_tensors(torch.Tensor.detach)
        )
        if _recorded(call, len(inputs)):
            self.steps.append(_Step(call.name, [t.detach() for t in inputs], result))
        if call.name in _MAX_POOLS and not _asks_indices(call):
            result = result[0]
        return self._mark_all(result)


@dataclass(eq=False)
class _Origin:
    """The affine layer that a tensor is the output of, and that layer's input on the baseline."""

    layer: AffineLayer | None = None
    reference: torch.Tensor | None = None


class _Multipliers(_Pass):
    """The run on the input, its gradients being multipliers."""

    def __init__(self, model, steps: list[_Step], reveal: bool):
        super().__init__(model)
        self.steps, self.reveal = iter(steps), reveal
        self.variants = Variants(many_passes=False)

    def step(self, call: Call):
        inputs = self._inputs(call)
        if call.name in types.AFFINE:
            self.layer_of(call.argument(1, "weight"))  # for error messages
        reference = self._next(call) if _recorded(call, len(inputs)) else None
        if call.name in _MAX_POOLS:
            return self._max_pool(call, reference)
        if call.name == "max" and call.argument(1, "dim") is not None and call.argument(2, "keepdim", False):
            return self._maximum(call, inputs[0], reference)
        if _is_elementwise(call.name) and len(inputs) == 1:
            return self._elementwise(call, inputs[0], reference)
        if call.name in _PRODUCTS:
            return self._product(call, inputs, reference)
        result = call.with_tensors(lambda t: t if self.known(t) is not None else t.detach())
        if call.name in _AFFINE:
            return self._mark_all(result, self._origin(call, reference))
        message = f"no rule of DeepLIFT for {call.name} (after layer {self.last_layer!r})"
        return self._mark_all(stop_without_rule(result, message))

    def _next(self, call: Call) -> _Step:
        step = next(self.steps, None)
        if step is None or step.name != call.name:
            raise NoRuleError(f"the model calls {call.name} for the input and {step and step.name} for the baseline")
        return step

    def _origin(self, call: Call, reference: _Step | None) -> _Origin | None:
        """For reveal_cancel: the layer that a non-linearity may follow."""
        if not self.reveal:
            return None
        if call.name in types.AFFINE and len(self._inputs(call)) == 1:
            layer = AffineLayer.of_call(call, self.variants)
            self.variants.calls[layer.weight.data_ptr()] += 1  # either sign of the weights is used twice
            return _Origin(layer, reference.inputs[0])
        if call.name == "batch_norm":
            before = self.known(call.argument(0, "input"))
            if before.layer is not None and before.layer.weight.dim() == call.argument(0, "input").dim():
                return _Origin(before.layer.with_batch_norm(BatchNorm.of_call(call)), before.reference)
        return None

    def _elementwise(self, call: Call, x: torch.Tensor, reference: _Step):
        f = lambda value: call.with_tensors(lambda t: value if t is x else t.detach())  # noqa: E731
        origin = self.known(x)
        if self.reveal and origin.layer is not None:
            y = _RevealCancel.apply(origin.layer.x, x, f, origin, reference)
        else:
            y = _Rescale.apply(x, f, reference)
        return self._mark_all(y)

    def _max_pool(self, call: Call, reference: _Step):
        x = call.argument(0, "input")
        y, indices = _with_indices(call)(torch.Tensor.detach)
        spatial = int(call.name.split("max_pool")[1][0])
        y = self._mark_all(_Maximum.apply(x, [y], indices, reference, lambda t: t.flatten(-spatial)))
        return (y, indices) if _asks_indices(call) else y

    def _maximum(self, call: Call, x: torch.Tensor, reference: _Step):
        """x.max(dim, keepdim=True)"""
        dim = call.argument(1, "dim")
        y, indices = call.with_tensors(torch.Tensor.detach)
        y = self._mark_all(_Maximum.apply(x, [y], indices, reference, lambda t: t.movedim(dim, -1)))
        return torch.return_types.max((y, indices))

    def _product(self, call: Call, inputs: list[torch.Tensor], reference: _Step | None):
        """xy - x'y' = (x - x') (y + y') / 2 + (y - y') (x + x') / 2: each factor's gradient at the other's mean."""
        if len(inputs) < 2:
            return self._mark_all(call.with_tensors(lambda t: t if self.known(t) is not None else t.detach()))
        a, b = inputs
        a_mean, b_mean = ((t.detach() + r) / 2 for t, r in zip(inputs, reference.inputs, strict=True))
        value = call.with_tensors(torch.Tensor.detach)
        halves = call.func(a, b_mean) + call.func(a_mean, b)
        return self._mark_all(halves + (value - halves.detach()))


def _softmax(call: Call):
    """exp(x - max x) / sum exp(x - max x)"""
    x, dim = call.argument(0, "input"), call.argument(1, "dim", -1)
    shifted = torch.exp(x - x.max(dim, keepdim=True).values)
    return shifted * torch.reciprocal(shifted.sum(dim, keepdim=True))


def _layer_norm(call: Call):
    x, shape = call.argument(0, "input"), tuple(call.argument(1, "normalized_shape"))
    weight, bias, eps = call.argument(2, "weight"), call.argument(3, "bias"), call.argument(4, "eps", 1e-5)
    dims = tuple(range(-len(shape), 0))
    centred = x - x.mean(dims, keepdim=True)
    y = centred * torch.rsqrt(torch.square(centred).mean(dims, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _quotient(call: Call):
    return call.args[0] * torch.reciprocal(call.args[1])


def _attention(call: Call):
    """softmax(q k^T / sqrt(d) + mask) v"""
    query, key, value = (call.argument(i, name) for i, name in enumerate(("query", "key", "value")))
    mask, is_causal = call.argument(3, "attn_mask"), call.argument(5, "is_causal", False)
    scale = call.kwargs.get("scale") or query.shape[-1] ** -0.5
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min / 2  # of infinities there are no differences
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, lowest)
        scores = scores + mask.clamp(min=lowest)
    return torch.matmul(torch.softmax(scores, -1), value)


# Operations that are taken apart into others.
_APART = {
    "softmax": _softmax, "layer_norm": _layer_norm, "truediv": _quotient, "div": _quotient,
    "scaled_dot_product_attention": _attention,
}  # fmt: skip


def _asks_indices(call: Call) -> bool:
    return "with_indices" in call.name or bool(call.kwargs.get("return_indices"))


def _with_indices(call: Call) -> Callable:
    """A max pool that returns its indices too."""
    if _asks_indices(call):
        return call.with_tensors
    function = getattr(F, f"{call.name}_with_indices")
    kwargs = {key: value for key, value in call.kwargs.items() if key != "return_indices"}
    return lambda convert: function(convert(call.args[0]), *call.args[1:], **kwargs)


def _slope(f: Callable, x: torch.Tensor, y: torch.Tensor, x_ref: torch.Tensor, y_ref: torch.Tensor) -> torch.Tensor:
    """dy / dx; where the difference is lost in rounding, the derivative half way."""
    dx = x - x_ref
    tiny = dx.abs() <= torch.finfo(x.dtype).eps ** 0.5 * (x.abs() + x_ref.abs())
    slope = torch.where(tiny, 0, (y - y_ref) / torch.where(tiny, 1, dx))
    if not tiny.any():
        return slope
    with torch.enable_grad():
        middle = ((x + x_ref) / 2).requires_grad_()
        derivative = torch.autograd.grad(f(middle).sum(), middle)[0]
    return torch.where(tiny, derivative, slope)


class _Rescale(torch.autograd.Function):
    """y = f(x), with the multiplier dy / dx as its gradient."""

    @staticmethod
    def forward(ctx, x, f, reference):
        y = f(x.detach())
        ctx.f, ctx.reference = f, reference
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx, m):
        x, y = ctx.saved_tensors
        return m * _slope(ctx.f, x, y, ctx.reference.inputs[0], ctx.reference.result), None, None


class _Maximum(torch.autograd.Function):
    """The maximum over the last dimension, once `lay` has arranged the input so. Its difference lies between those of
    the two winners, i for the input and j for the baseline:
    y - y' = l (x_i - x'_i) + (1 - l) (x_j - x'_j) with l in [0, 1]."""

    @staticmethod
    def forward(ctx, x, value, indices, reference, lay):
        ctx.reference, ctx.lay = reference, lay
        ctx.save_for_backward(x, value[0], indices)
        return value[0]

    @staticmethod
    def backward(ctx, m):
        x, y, i = ctx.saved_tensors
        y_ref, j = ctx.reference.result
        d, i, j, dy, m = map(ctx.lay, (x - ctx.reference.inputs[0], i, j, y - y_ref, m))
        d_i, d_j = d.gather(-1, i), d.gather(-1, j)
        differ = (i != j) & (d_i != d_j)
        share = torch.where(differ, (dy - d_j) / torch.where(differ, d_i - d_j, 1), 1)
        to_x = torch.zeros(x.shape, dtype=x.dtype, device=x.device)  # contiguous: lay gives a view
        ctx.lay(to_x).scatter_add_(-1, i, share * m).scatter_add_(-1, j, (1 - share) * m)
        return to_x, None, None, None, None


class _RevealCancel(torch.autograd.Function):
    """y = f(z) after an affine layer, with multipliers of the layer's input that follow positive and negative
    contributions to z apart."""

    @staticmethod
    def forward(ctx, x, z, f, origin, reference):
        ctx.f, ctx.origin, ctx.reference = f, origin, reference
        ctx.save_for_backward(x)
        return f(z.detach())

    @staticmethod
    def backward(ctx, m):
        (x,) = ctx.saved_tensors
        f, layer = ctx.f, ctx.origin.layer
        dx, z_ref, y_ref = x - ctx.origin.reference, ctx.reference.inputs[0], ctx.reference.result
        d_plus, pull_plus = layer.pull_signed(dx, (1, 0), (0, 1), ("bias",))
        d_minus, pull_minus = layer.pull_signed(dx, (0, 1), (1, 0), ("bias",))
        both, plus, minus = f(z_ref + d_plus + d_minus), f(z_ref + d_plus), f(z_ref + d_minus)
        y_plus = ((plus - y_ref) + (both - minus)) / 2
        y_minus = ((minus - y_ref) + (both - plus)) / 2
        m_plus = torch.where(d_plus != 0, y_plus / torch.where(d_plus != 0, d_plus, 1), 0)
        m_minus = torch.where(d_minus != 0, y_minus / torch.where(d_minus != 0, d_minus, 1), 0)
        return pull_plus(m * m_plus) + pull_minus(m * m_minus), None, None, None, None
