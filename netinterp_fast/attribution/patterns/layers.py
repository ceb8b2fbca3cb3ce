"""Linear layers and convolutions as the linear maps that patterns need, found as a model runs."""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import nn

from ...interpose import Call, Interposition, NoRuleError
from ..relevance import operations
from ..relevance.layer import BatchNorm

_LAYERS = frozenset("linear conv1d conv2d conv3d".split())
# Layers too when they use parameters of the model's, but their patches are not defined here.
_WITHOUT_PATTERNS = operations.MATRIX_PRODUCTS | frozenset(
    "conv_transpose1d conv_transpose2d conv_transpose3d convolution addmm addmv baddbmm addbmm mv einsum tensordot "
    "inner bilinear lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell "
    "native_multi_head_attention transformer_encoder_layer_fwd".split()
)
_WHICH_LAYERS = "patterns are those of linear layers and convolutions with whole parameters as weights"


class Layer:
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
        if any(self.surplus):
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


class LayerCalls(Interposition):
    """Runs a model and finds its layers."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self._constants = {id(buffer) for buffer in model.buffers()}

    def answer(self, call: Call):
        if call.name in _LAYERS:
            layer = self._layer(call)
            return self.gradient(call) if layer is None else self.layer(call, layer)
        if call.name == "batch_norm":
            return self.batch_norm(call, BatchNorm.of_call(call))
        if call.name in _WITHOUT_PATTERNS:
            self._refuse_parameters(call)
        return self.gradient(call)

    @abstractmethod
    def layer(self, call: Call, layer: Layer) -> torch.Tensor:
        """The output of a layer that has patterns."""

    @abstractmethod
    def batch_norm(self, call: Call, norm: BatchNorm) -> torch.Tensor:
        """The output of a batch norm."""

    @abstractmethod
    def gradient(self, call: Call):
        """The output of any other operation, which is passed as the gradient passes it."""

    def _layer(self, call: Call) -> Layer | None:
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
        return Layer(_parameter_name(name, module, weight), call)

    def _refuse_parameters(self, call: Call) -> None:
        for tensor in call.tensors():
            name, module = self.layer_of(tensor)
            if module is not None:
                raise NoRuleError(f"layer {name!r} is a {call.name}; {_WHICH_LAYERS}")


def _parameter_name(name: str, module: nn.Module, weight: torch.Tensor) -> str:
    for parameter_name, parameter in module.named_parameters(recurse=False):
        if parameter is weight:
            return name if parameter_name == "weight" else f"{name}.{parameter_name}".removeprefix(".")
    raise NoRuleError(f"layer {name!r} uses a part or a view of its weights; {_WHICH_LAYERS}")
