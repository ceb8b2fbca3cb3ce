"""Groups of layer types, for the entries of composites, `isinstance` and `issubclass`."""

from __future__ import annotations

from torch import nn

from ...attribution.relevance import layer_types


class SubclassMeta(type):
    """Metaclass of a group: its subclasses are those of the types that it lists in `__subclass__`."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.__subclass__)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__subclass__)


class ConvolutionTranspose(metaclass=SubclassMeta):
    """Transposed convolutions."""

    __subclass__ = layer_types.ConvolutionTranspose


class ConvolutionStandard(metaclass=SubclassMeta):
    """Convolutions that are not transposed."""

    __subclass__ = layer_types.ConvolutionStandard


class Convolution(metaclass=SubclassMeta):
    """All convolutions."""

    __subclass__ = layer_types.Convolution


class Linear(metaclass=SubclassMeta):
    """Convolutions and `nn.Linear`."""

    __subclass__ = layer_types.Linear


class BatchNorm(metaclass=SubclassMeta):
    """Batch norms."""

    __subclass__ = layer_types.BatchNorm


class AvgPool(metaclass=SubclassMeta):
    """Average pools, adaptive ones too."""

    __subclass__ = layer_types.AvgPool


class MaxPool(metaclass=SubclassMeta):
    """Max pools, adaptive ones too."""

    __subclass__ = (
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
        nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    )  # fmt: skip


class Activation(metaclass=SubclassMeta):
    """Elementwise activations; not `nn.Mish`, which passes the gradient in Zennit."""

    __subclass__ = tuple(kind for kind in layer_types.Activation if kind is not nn.Mish)
