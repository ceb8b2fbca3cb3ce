"""Layer, group, instance and RMS norms as affine layers."""

from __future__ import annotations

import torch

from ...interpose import Call
from .layer import BatchNorm


def affine_normalization(call: Call, x: torch.Tensor, constant: torch.Tensor) -> torch.Tensor:
    """A norm of x whose deviation is that of `constant`, which has the same values: linear in x.

    y = (x - mean) / std * weight + bias, the mean a linear function of x, std a constant (Ali et al., "XAI for
    Transformers: Better explanations through conservative propagation", ICML 2022).
    """
    if call.name == "rms_norm":
        shape = tuple(call.argument(1, "normalized_shape"))
        eps = call.argument(3, "eps") or torch.finfo(x.dtype).eps
        square = constant.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
        return _scaled_and_shifted(x * torch.rsqrt(square + eps), call.argument(2, "weight"), None, shape)
    if call.name == "layer_norm":
        shape = tuple(call.argument(1, "normalized_shape"))
        weight, bias, eps = call.argument(2, "weight"), call.argument(3, "bias"), call.argument(4, "eps", 1e-5)
        return _scaled_and_shifted(_centred(x, constant, eps, len(shape)), weight, bias, shape)
    if call.name == "group_norm":
        groups, first = call.argument(1, "num_groups"), 2
    else:  # an instance norm: weight and bias come after two running statistics, eps after momentum
        groups, first = x.shape[1], 3
        if not call.argument(5, "use_input_stats", True):
            norm = BatchNorm.of_call(call)
            return _scaled_and_shifted(x, norm.scale, norm.shift, (1, -1, *[1] * (x.dim() - 2)))
    weight, bias = call.argument(first, "weight"), call.argument(first + 1, "bias")
    eps = call.argument(4 if first == 2 else 7, "eps", 1e-5)
    grouped = [t.reshape(t.shape[0], groups, -1) for t in (x, constant)]
    y = _centred(*grouped, eps, 1).reshape(x.shape)
    return _scaled_and_shifted(y, weight, bias, (1, -1, *[1] * (x.dim() - 2)))


def _centred(x: torch.Tensor, constant: torch.Tensor, eps: float, n_dims: int) -> torch.Tensor:
    dims = tuple(range(-n_dims, 0))
    variance = constant.var(dims, unbiased=False, keepdim=True)
    return (x - x.mean(dims, keepdim=True)) * torch.rsqrt(variance + eps)


def _scaled_and_shifted(y, weight, bias, shape: tuple[int, ...]) -> torch.Tensor:
    y = y if weight is None else y * weight.detach().view(shape)
    return y if bias is None else y + bias.detach().view(shape)
