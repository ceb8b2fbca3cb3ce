"""Groups of layer types that composites map to rules, and the type that a functional call counts as."""

from __future__ import annotations

import inspect

from torch import nn


class Sum(nn.Module):
    """Sums its input over the last dimension. As a type it also stands for every sum of tensors: +, add, sum."""

    def forward(self, x):
        return x.sum(-1)


def _classes(*modules, without=()) -> tuple[type, ...]:
    return tuple(
        cls
        for module in modules
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and not name.startswith("_") and name not in without
    )


ConvolutionTranspose = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ConvolutionStandard = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = (*ConvolutionStandard, *ConvolutionTranspose)
Linear = (*Convolution, nn.Linear)
BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Normalization = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RMSNorm)
AvgPool = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
Upsample = (nn.Upsample,)
Attention = (nn.MultiheadAttention,)
Activation = _classes(
    nn.modules.activation, without=("MultiheadAttention", "Softmax", "Softmin", "Softmax2d", "LogSoftmax", "GLU")
)

_NORMS = {"layer_norm": nn.LayerNorm, "group_norm": nn.GroupNorm, "instance_norm": nn.InstanceNorm2d}
_ACTIVATIONS = {cls.__name__.lower(): cls for cls in Activation} | {
    "leaky_relu": nn.LeakyReLU, "clamp": nn.Hardtanh, "clamp_min": nn.ReLU, "clip": nn.Hardtanh,
}  # fmt: skip

# What a call counts as, by its name.
AFFINE = {
    **{f"conv{n}d": cls for n, cls in zip((1, 2, 3), ConvolutionStandard, strict=True)},
    **{f"conv_transpose{n}d": cls for n, cls in zip((1, 2, 3), ConvolutionTranspose, strict=True)},
    "linear": nn.Linear,
}
NORMALIZATIONS = _NORMS | {"rms_norm": nn.RMSNorm}
ACTIVATIONS = {name.replace("_", ""): cls for name, cls in _ACTIVATIONS.items()}
SUMS = dict.fromkeys(("add", "radd", "sub", "rsub", "subtract", "sum", "fold"), Sum)
MEANS = {f"avg_pool{n}d": cls for n, cls in zip((1, 2, 3), AvgPool[:3], strict=True)} | {
    f"adaptive_avg_pool{n}d": cls for n, cls in zip((1, 2, 3), AvgPool[3:], strict=True)
} | {"mean": nn.AdaptiveAvgPool2d}  # fmt: skip
RESIZES = dict.fromkeys(("interpolate", "upsample"), nn.Upsample)


def activation_type(name: str) -> type[nn.Module] | None:
    """The module type of an activation function's name, None for other functions."""
    return ACTIVATIONS.get(name.replace("_", ""))
