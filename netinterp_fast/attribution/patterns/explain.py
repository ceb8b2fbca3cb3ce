"""The gradient with patterns in place of weights, or their product."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ...interpose import Call
from ..relevance import operations
from ..relevance.layer import BatchNorm
from ..targets import Target, check_inputs, checked_targets, output_weights
from .layers import Layer, LayerCalls


class _OtherBackward(torch.autograd.Function):
    """The value y of a function of x, computed before, with another backward pass."""

    @staticmethod
    def forward(ctx, x, value, backward):
        ctx.backward_of_x = backward
        return value[0]

    @staticmethod
    def backward(ctx, grad):
        return ctx.backward_of_x(grad), None, None


class _PatternGradient(LayerCalls):
    """Runs a model so that the gradient of its output is that with the weights a, or w * a.

    A batch norm is a layer too, of one weight a unit, whose pattern is its inverse: for y = s x + t every estimator
    gives a = 1 / s, w a = 1. So a convolution and its batch norm count as the one convolution that they amount to.
    """

    def __init__(self, model: nn.Module, patterns: Mapping[str, torch.Tensor], attribution: bool):
        super().__init__(model)
        self.patterns, self.attribution = patterns, attribution

    def layer(self, call: Call, layer: Layer) -> torch.Tensor:
        weight = self._pattern(layer)
        if self.attribution:
            weight = layer.weight * weight
        shape = call.argument(0, "input").shape
        return self._replaced(call, lambda g: layer.pull(g, weight, shape))

    def batch_norm(self, call: Call, norm: BatchNorm) -> torch.Tensor:
        if self.attribution:
            return self._replaced(call, lambda g: g)
        scale, x = norm.scale, call.argument(0, "input")
        inverse = torch.where(scale == 0, 0, 1 / scale).to(x.dtype).view(-1, *[1] * (x.dim() - 2))
        return self._replaced(call, lambda g: g * inverse)

    def gradient(self, call: Call):
        if call.name in operations.CONSTANT:
            return call.with_tensors(torch.Tensor.detach)
        return self.mark_all(
            call.with_tensors(lambda t: t.detach() if self.known(t) is None else t), lambda t: t.requires_grad or None
        )

    def _replaced(self, call: Call, backward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        value = call.with_tensors(torch.Tensor.detach)
        return self.mark(_OtherBackward.apply(call.argument(0, "input"), [value], backward), True)

    def _pattern(self, layer: Layer) -> torch.Tensor:
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
    target: Target = None,
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
        TypeError, ValueError: for arguments that do not fit; for a layer without a pattern or with a pattern of another
            shape than its weight, the error names it; for a result that is not finite: each layer's units all bring
            their estimate of one signal, so in a deep network the sums outgrow float32.
        NoRuleError: for layers of other kinds than linear layers and convolutions.
    """
    return _explain(model, inputs, target, patterns, targets, attribution=False)


def pattern_attribution(
    model: nn.Module,
    inputs: torch.Tensor,
    target: Target = None,
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
        result = torch.autograd.grad(output, leaf, output_weights(output, target))[0]
    else:
        grads = [torch.autograd.grad(output, leaf, output_weights(output, c), retain_graph=True)[0] for c in classes]
        result = torch.stack(grads)
    if not result.isfinite().all():
        raise ValueError(
            f"the result is not finite in {str(result.dtype).removeprefix('torch.')}: what patterns pass back grows "
            "from layer to layer; run the model and the inputs in float64, or pass a small seed as target"
        )
    return result
