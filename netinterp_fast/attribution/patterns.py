"""PatternNet and PatternAttribution: the gradient with other weights, learnt from data.

A unit with the weights w sees patches x and gives y = w^T x. Of x = signal + distractor only the signal moves y; its
direction a, the unit's pattern, is the regression of x on y over the patches that make the unit fire:

    a = (E+[x y] - E+[x] E[y]) / w^T (E+[x y] - E+[x] E[y])           w^T a = 1

E+ is the mean over the patches with a positive pre-activation, E over all of them. With all patches in place of the
firing ones this is the linear estimator cov(x, y) / var(y). The gradient with a in place of w is PatternNet, which
shows the signal; with w * a it is PatternAttribution (Kindermans et al., "Learning how to explain neural networks:
PatternNet and PatternAttribution", ICLR 2018).

No patch is taken out of its image: over the patches of a convolution, sum g x is its weight gradient for the output
gradient g.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from tqdm import tqdm

from ..interpose import Call, Interposition, NoRuleError
from .relevance import operations
from .relevance.layer import BatchNorm
from .targets import check_inputs, checked_targets, output_weights

ESTIMATORS = ("two_component", "linear")

_LAYERS = frozenset("linear conv1d conv2d conv3d".split())
# Layers too when they use parameters of the model's, but their patches are not defined here.
_WITHOUT_PATTERNS = operations.MATRIX_PRODUCTS | frozenset(
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution addmm addmv baddbmm addbmm mv einsum tensordot "
    "inner bilinear lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell "
    "native_multi_head_attention transformer_encoder_layer_fwd".split()
)
_RELATIVE_VARIANCE = 1e-12  # of y, below which it is the rounding of a constant


class Patterns(Mapping):
    """The patterns of a model's layers, by layer name: tensors of the shape and dtype of the layer's weight.

    A name is the module's; of a parameter that is not called `weight`, the parameter's.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], estimator: str):
        self._tensors, self.estimator = dict(tensors), estimator

    def __getitem__(self, layer: str) -> torch.Tensor:
        return self._tensors[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Patterns({self.estimator}, {len(self)} layers)"

    def save(self, path: str | os.PathLike) -> Path:
        """Write a safetensors file, all or nothing; return its path."""
        path = Path(path)
        tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in self._tensors.items()}
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_bytes(save(tensors, {"estimator": self.estimator}))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> Patterns:
        """Read what `save` wrote. FileNotFoundError or ValueError, naming the file, for what is missing or damaged."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{os.fspath(path)} is not a file")
        try:
            with safe_open(os.fspath(path), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                estimator = (file.metadata() or {}).get("estimator")
        except SafetensorError as error:
            raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
        if estimator not in ESTIMATORS:
            raise ValueError(f"{os.fspath(path)} holds no saved patterns")
        return cls(tensors, estimator)


# ---- layers ---------------------------------------------------------------------------------------------------------


class _Layer:
    """A linear layer or a convolution, as the two linear maps that its patches define.

    weight  [units, ...]: the units are dimension 1 - weight.dim() of the output
    """

    def __init__(self, name: str, call: Call):
        self.name, self.kind = name, call.name
        self.weight, self.bias = call.argument(1, "weight").detach(), call.argument(2, "bias")
        self.groups = 1
        if self.kind != "linear":
            n = self.weight.dim() - 2
            self.stride = _each(call.argument(3, "stride", 1), n)
            self.dilation = _each(call.argument(5, "dilation", 1), n)
            self.groups = call.argument(6, "groups", 1)
            self.padding, self.surplus = self._padding(call.argument(4, "padding", 0), n)

    def _padding(self, padding, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Zeros at both ends of each dimension, and further ones at its end."""
        if padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
            return tuple(t // 2 for t in totals), tuple(t % 2 for t in totals)
        return _each(0 if padding == "valid" else padding, n), (0,) * n

    def patch_sum(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Sum over the patches of g x, [units, ...]: x is the layer's input, g is of its output's shape."""
        if self.kind == "linear":
            return g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        x, g = (t if t.dim() == self.weight.dim() else t[None] for t in (x, g))
        x = F.pad(x, [zeros for surplus in reversed(self.surplus) for zeros in (0, surplus)])
        gradient = getattr(torch.nn.grad, f"{self.kind}_weight")
        shape = (g.shape[1], *self.weight.shape[1:])
        return gradient(x, shape, g, self.stride, self.padding, self.dilation, self.groups)

    def pull(self, g: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """The gradient of an input of that shape, W^T g, with any weights."""
        if self.kind == "linear":
            return g @ weight
        batched = shape if len(shape) == weight.dim() else (1, *shape)
        padded = (*batched[:2], *(s + surplus for s, surplus in zip(batched[2:], self.surplus, strict=True)))
        gradient = getattr(torch.nn.grad, f"{self.kind}_input")
        g = g.reshape(batched[0], *g.shape[1 - weight.dim() :])
        x = gradient(padded, weight, g, self.stride, self.padding, self.dilation, self.groups)
        return x[tuple(slice(s) for s in batched)].reshape(shape)

    def of_each_unit(self, y: torch.Tensor) -> torch.Tensor:
        """An output as [units, patches]."""
        units = y.movedim(1 - self.weight.dim(), 0)
        return units.reshape(len(units), -1)

    def without_bias(self, y: torch.Tensor) -> torch.Tensor:
        """w^T x, float64, of the output w^T x + b."""
        if self.bias is None:
            return y.double()
        return y.double() - self.bias.detach().double().view(-1, *[1] * (self.weight.dim() - 2))


def _each(value, n: int) -> tuple[int, ...]:
    """A convolution's option for each of its n dimensions."""
    value = (value,) if isinstance(value, int) else tuple(value)
    return value * n if len(value) == 1 else value


class _LayerCalls(Interposition):
    """Runs a model and finds its layers."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._constants = {id(buffer) for buffer in model.buffers()}

    def answer(self, call: Call):
        if call.name in _LAYERS:
            layer = self._layer(call)
            return self.gradient(call) if layer is None else self.layer(call, layer)
        if call.name == "batch_norm":
            if call.argument(5, "training", False):
                raise ValueError(
                    "a batch norm is in training mode: its outputs mix the batch's examples; call model.eval()"
                )
            return self.batch_norm(call)
        if call.name in _WITHOUT_PATTERNS:
            self._refuse_parameters(call)
        return self.gradient(call)

    def layer(self, call: Call, layer: _Layer) -> torch.Tensor:
        raise NotImplementedError

    def batch_norm(self, call: Call) -> torch.Tensor:
        raise NotImplementedError

    def gradient(self, call: Call):
        """The output of any other operation, which is passed as the gradient passes it."""
        raise NotImplementedError

    def _layer(self, call: Call) -> _Layer | None:
        """None for a fixed filter, a buffer of the model's."""
        x, weight, bias = (call.argument(i, name) for i, name in enumerate(("input", "weight", "bias")))
        name, module = self.layer_of(weight)
        if self.known(x) is None or any(t is not None and self.known(t) is not None for t in (weight, bias)):
            raise NoRuleError(f"{call.name} (after layer {self.last_layer!r}) has weights that depend on the input")
        if module is None:
            if id(weight if weight._base is None else weight._base) in self._constants:
                return None
            raise NoRuleError(
                f"{call.name} (after layer {self.last_layer!r}) has weights that are no parameter of the model's; its "
                "pattern would have no name"
            )
        return _Layer(_parameter_name(name, module, weight), call)

    def _refuse_parameters(self, call: Call) -> None:
        for tensor in call.tensors():
            name, module = self.layer_of(tensor)
            if module is not None:
                raise NoRuleError(
                    f"layer {name!r} is a {call.name}; patterns are those of linear layers and convolutions"
                )


def _parameter_name(name: str, module: nn.Module, weight: torch.Tensor) -> str:
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if parameter is weight:
            return name if parameter_name == "weight" else f"{name}.{parameter_name}".removeprefix(".")
    raise NoRuleError(f"layer {name!r} uses a part or a view of its weights; patterns are those of whole weights")


# ---- patterns -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Moments:
    """What is summed over the patches that a layer's units saw; all float64.

    weight    the layer's, as it is
    patches   how many there were
    y         [units]: sum of y
    firing    [units]: how many patches count for E+
    x, xy     of the weight's shape: sums of x and x y over those
    """

    weight: torch.Tensor
    patches: int = 0
    y: torch.Tensor | float = 0.0
    firing: torch.Tensor | float = 0.0
    x: torch.Tensor | float = 0.0
    xy: torch.Tensor | float = 0.0

    def pattern(self) -> torch.Tensor:
        """a = (E+[x y] - E+[x] E[y]) / w^T (E+[x y] - E+[x] E[y]), 0 for units that never fire or never change."""
        per_unit = (-1, *[1] * (self.weight.dim() - 1))
        firing, y = self.firing.clamp(min=1).view(per_unit), self.y.view(per_unit) / self.patches
        direction = (self.xy - self.x * y) / firing
        variance, power = (
            (self.weight.double() * t).flatten(1).sum(1).view(per_unit) for t in (direction, self.xy / firing)
        )
        varies = variance.abs() > _RELATIVE_VARIANCE * power.abs()
        return torch.where(varies, direction / variance, 0.0).to(self.weight.dtype)


@dataclass(eq=False)
class _Output:
    """A layer's output y for the input x, not counted yet: a batch norm may follow, whose sign is then the unit's."""

    layer: _Layer
    x: torch.Tensor
    y: torch.Tensor = field(repr=False)


class _Fit(_LayerCalls):
    """Sums the moments of all layers while the model runs. What is known of a tensor is its `_Output`, else True."""

    def __init__(self, model: nn.Module, estimator: str):
        super().__init__(model)
        self.linear = estimator == "linear"
        self.moments: dict[str, _Moments] = {}
        self._waiting: dict[int, _Output] = {}

    def add(self, model: nn.Module, inputs: torch.Tensor) -> None:
        """Count a batch."""
        try:
            with self:
                model(self.mark(inputs.detach().view_as(inputs), True))
            for output in list(self._waiting.values()):
                self._count(output, output.y)
        finally:
            self._waiting.clear()

    def answer(self, call: Call):
        if call.name != "batch_norm":
            for tensor in call.tensors():
                self._count(self.known(tensor), tensor)
        return super().answer(call)

    def layer(self, call: Call, layer: _Layer) -> torch.Tensor:
        y = self.gradient(call)
        self._waiting[id(y)] = output = _Output(layer, call.argument(0, "input"), y)
        return self.mark(y, output)

    def batch_norm(self, call: Call) -> torch.Tensor:
        y = self.gradient(call)
        self._count(self.known(call.argument(0, "input")), y)
        return y

    def gradient(self, call: Call):
        return self._mark_all(call.with_tensors(torch.Tensor.detach))

    def _mark_all(self, result):
        if isinstance(result, torch.Tensor):
            return self.mark(result, True)
        if isinstance(result, (list, tuple)):
            return type(result)([self._mark_all(part) for part in result])
        return result

    def _count(self, output: _Output | bool | None, sign: torch.Tensor) -> None:
        """Add a layer's output, whose units fire where `sign` is positive."""
        if not isinstance(output, _Output):
            return
        self.mark(output.y, True)
        del self._waiting[id(output.y)]
        layer, x, y = output.layer, output.x.double(), output.layer.without_bias(output.y)
        moments = self.moments.setdefault(layer.name, _Moments(layer.weight))
        moments.patches += y.numel() // max(len(layer.weight), 1)
        moments.y += layer.of_each_unit(y).sum(1)
        fires = torch.ones_like(y) if self.linear else (sign > 0).double()
        moments.firing += layer.of_each_unit(fires).sum(1)
        moments.xy += layer.patch_sum(x, y * fires)
        moments.x += self._sum_of_all(layer, x, fires) if self.linear else layer.patch_sum(x, fires)

    @staticmethod
    def _sum_of_all(layer: _Layer, x: torch.Tensor, ones: torch.Tensor) -> torch.Tensor:
        """Sum over all patches of x: the same for all units of a group."""
        one_each = ones.narrow(1 - layer.weight.dim(), 0, layer.groups)
        return layer.patch_sum(x, one_each).repeat_interleave(len(layer.weight) // layer.groups, 0)


def fit_patterns(
    model: nn.Module, loader: Iterable, *, estimator: str = "two_component", progress: bool = False
) -> Patterns:
    """Learn the patterns of a model's layers from data, in one pass (Kindermans et al., ICLR 2018, section 4).

    Layers are linear layers and convolutions, as modules or as functions, told apart by their weight; one that is used
    again counts all its uses. A batch norm that takes a convolution's output decides whether a unit fires; y stays the
    convolution's output. A bias changes only that too: it cancels in the formula. Padding is part of the patches.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor; it is not changed.
        loader: yields floating-point tensors [B, ...], or tuples that begin with one; they are moved to the model's
            device.
        estimator: "two_component", over the patches that make a unit fire, or "linear", over all patches.
        progress: show a progress bar of the batches.

    Returns:
        `Patterns` of the layers that ran. 0 for units that never fire or whose output never changes.

    Raises:
        TypeError, ValueError: for arguments that do not fit, an empty loader, values that are not finite, or a batch
            norm in training mode.
        NoRuleError: for layers of another kind.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be 'two_component' or 'linear'")
    if isinstance(loader, torch.Tensor):
        raise TypeError("loader is a tensor; it must yield batches: pass [tensor]")
    device = next((parameter.device for parameter in model.parameters()), None)
    fit = _Fit(model, estimator)
    examples = 0
    with torch.no_grad():
        for number, item in enumerate(tqdm(loader, desc="patterns", unit="batch", disable=not progress)):
            inputs = _inputs_of(item, number)
            examples += len(inputs)
            if len(inputs):
                fit.add(model, inputs.to(device))
        if not examples:
            raise ValueError("loader is empty: patterns are learnt from data")
        patterns = {name: moments.pattern() for name, moments in fit.moments.items()}
    for name, moments in fit.moments.items():
        if not (moments.xy.isfinite().all() and patterns[name].isfinite().all()):
            raise ValueError(f"layer {name!r} has inputs or outputs that are not finite, so it has no pattern")
    return Patterns(patterns, estimator)


def _inputs_of(item, number: int) -> torch.Tensor:
    inputs = item[0] if isinstance(item, (tuple, list)) and len(item) else item
    if not isinstance(inputs, torch.Tensor) or not inputs.is_floating_point():
        kind = inputs.dtype if isinstance(inputs, torch.Tensor) else type(inputs).__name__
        raise TypeError(f"batch {number} of the loader has inputs of type {kind}; they must be floating-point tensors")
    if inputs.dim() == 0:
        raise ValueError(f"batch {number} of the loader has a single number as its inputs; they must be [B, ...]")
    if not inputs.isfinite().all():
        raise ValueError(f"batch {number} of the loader has values that are not finite")
    return inputs


# ---- attributions ---------------------------------------------------------------------------------------------------


class _OtherBackward(torch.autograd.Function):
    """The value y of a function of x, computed before, with another backward pass."""

    @staticmethod
    def forward(ctx, x, value, backward):
        ctx.backward_of_x = backward
        return value[0]

    @staticmethod
    def backward(ctx, grad):
        return ctx.backward_of_x(grad), None, None


class _PatternGradient(_LayerCalls):
    """Runs a model so that the gradient of its output is that with the weights a, or w * a.

    A batch norm is a layer too, of one weight a unit, whose pattern is its inverse: for y = s x + t every estimator
    gives a = 1 / s, w a = 1. So a convolution and its batch norm count as the one convolution that they amount to.
    """

    def __init__(self, model: nn.Module, patterns: Mapping[str, torch.Tensor], attribution: bool):
        super().__init__(model)
        self.patterns, self.attribution = patterns, attribution

    def layer(self, call: Call, layer: _Layer) -> torch.Tensor:
        weight = self._pattern(layer)
        if self.attribution:
            weight = layer.weight * weight
        shape = call.argument(0, "input").shape
        return self._replaced(call, lambda g: layer.pull(g, weight, shape))

    def batch_norm(self, call: Call) -> torch.Tensor:
        if self.attribution:
            return self._replaced(call, lambda g: g)
        parts = (call.argument(1 + i, name) for i, name in enumerate(("running_mean", "running_var", "weight", "bias")))
        scale = BatchNorm(*parts, call.argument(7, "eps", 1e-5)).scale
        x = call.argument(0, "input")
        inverse = torch.where(scale == 0, 0, 1 / scale).to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        return self._replaced(call, lambda g: g * inverse)

    def gradient(self, call: Call):
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        return self._mark_all(call.with_tensors(lambda t: t.detach() if self.known(t) is None else t))

    def _replaced(self, call: Call, backward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        value = call.with_tensors(torch.Tensor.detach)
        return self.mark(_OtherBackward.apply(call.argument(0, "input"), [value], backward), True)

    def _mark_all(self, result):
        if isinstance(result, torch.Tensor):
            return self.mark(result, True) if result.requires_grad else result
        if isinstance(result, (list, tuple)):
            return type(result)([self._mark_all(part) for part in result])
        return result

    def _pattern(self, layer: _Layer) -> torch.Tensor:
        if layer.name not in self.patterns:
            raise ValueError(f"layer {layer.name!r} has no pattern; there are patterns of {', '.join(self.patterns)}")
        pattern = self.patterns[layer.name]
        if pattern.shape != layer.weight.shape:
            raise ValueError(
                f"layer {layer.name!r} has a pattern of shape {list(pattern.shape)}; its weight's shape is "
                f"{list(layer.weight.shape)}"
            )
        return pattern.detach().to(layer.weight)


def pattern_net(
    model: nn.Module,
    inputs: torch.Tensor,
    target: int | torch.Tensor | None = None,
    patterns: Mapping[str, torch.Tensor] | None = None,
    *,
    targets: torch.Tensor | None = None,
) -> torch.Tensor:
    """PatternNet: the gradient with each layer's weights replaced by its patterns, an estimate of the signal in the
    input that an output answers to (Kindermans et al., ICLR 2018). A linear model's is a.

    A batch norm counts as a layer, whose pattern is the inverse of its scale. All other operations, ReLU and pooling
    among them, pass the gradient. The model is neither changed nor hooked.

    Args:
        model: any `nn.Module` in evaluation mode that takes one tensor and returns one, usually logits [B, n].
        inputs: floating-point tensor [B, ...].
        target: which output to explain: an int, a LongTensor [B] or None for each example's largest output, whose
            gradient is then 1; or a float tensor of the output's shape, the output's gradient. With one that holds the
            output's value, as the paper has it, the result is the signal itself.
        patterns: what `fit_patterns` or `Patterns.load` returned.
        targets: LongTensor [T], classes that are explained for all examples with one forward pass, instead of `target`.

    Returns:
        Tensor of the shape of `inputs`; [T, *inputs.shape] with `targets`.

    Raises:
        TypeError, ValueError: for arguments that do not fit, and for a layer without a pattern or with a pattern of
            another shape than its weight; the error names it.
        NoRuleError: for layers of other kinds than linear layers and convolutions.
    """
    return _explain(model, inputs, target, patterns, targets, attribution=False)


def pattern_attribution(
    model: nn.Module,
    inputs: torch.Tensor,
    target: int | torch.Tensor | None = None,
    patterns: Mapping[str, torch.Tensor] | None = None,
    *,
    targets: torch.Tensor | None = None,
) -> torch.Tensor:
    """PatternAttribution: the gradient with each layer's weights w replaced by w * a, how much each input's signal adds
    to an output (Kindermans et al., ICLR 2018). A linear model's is w * a.

    A batch norm, whose scale times its pattern is 1, passes the gradient as it is. Everything else, arguments, result
    and errors, is as for `pattern_net`.
    """
    return _explain(model, inputs, target, patterns, targets, attribution=True)


def _explain(model, inputs, target, patterns, targets, attribution: bool) -> torch.Tensor:
    check_inputs(inputs)
    if not isinstance(patterns, Mapping):
        raise TypeError(f"patterns is a {type(patterns).__name__}; it must be what fit_patterns returned")
    classes = checked_targets(targets, target)
    leaf = inputs.detach().requires_grad_()
    run = _PatternGradient(model, patterns, attribution)
    with torch.enable_grad():
        output = run.run(model, run.mark(leaf.view_as(leaf), True))
    if classes is None:
        return torch.autograd.grad(output, leaf, output_weights(output, target))[0]
    grads = [torch.autograd.grad(output, leaf, output_weights(output, c), retain_graph=True)[0] for c in classes]
    return torch.stack(grads)
