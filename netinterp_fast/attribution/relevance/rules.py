"""The rules of layer-wise relevance propagation: how the relevance of a layer's outputs is shared among its inputs.

Names, arguments and defaults are Zennit's. Throughout, z_j = sum_i x_i w_ij + b_j are a layer's outputs, R_j their
relevance, x+ = max(x, 0), x- = min(x, 0), and a stabilised denominator is z + epsilon sign(z) with sign(0) = +1. A
stabilizer is that epsilon, or a function of z that returns the denominator. `zero_params` names the parameters
("weight", "bias") that a rule takes as 0; without "bias" there, biases absorb relevance.

A rule for affine layers returns the multipliers c of the layer's input, its relevance being R_i = x_i c_i: so a ReLU
below costs one pass over the tensor. A rule with `returns_relevance` gives inputs relevance whatever their value and
returns R_i itself.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch

from ...ops import stabilized_ratio
from .layer import AffineLayer

Stabilizer = float | Callable[[torch.Tensor], torch.Tensor]


def ratio(relevance: torch.Tensor, z: torch.Tensor, stabilizer: Stabilizer) -> torch.Tensor:
    """R / (z + epsilon sign(z))."""
    if callable(stabilizer):
        return relevance / stabilizer(z)
    return stabilized_ratio(relevance, z, stabilizer)


def _checked_stabilizer(name: str, value: Stabilizer) -> Stabilizer:
    if callable(value):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; it must be a number or a function of z")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be finite and at least 0")
    return float(value)


def _checked_names(zero_params: str | Sequence[str] | None) -> tuple[str, ...]:
    names = (zero_params,) if isinstance(zero_params, str) else tuple(zero_params or ())
    for name in names:
        if name not in ("weight", "bias"):
            raise ValueError(f"zero_params has {name!r}; the parameters are 'weight' and 'bias'")
    return names


class Rule:
    """Base of all rules."""

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class AffineRule(Rule, ABC):
    """Base of the rules for layers with weights."""

    returns_relevance = False

    def __init__(self, stabilizer: Stabilizer = 1e-6, zero_params: str | Sequence[str] | None = None):
        self.stabilizer = _checked_stabilizer("stabilizer", stabilizer)
        self.zero_params = _checked_names(zero_params)

    @abstractmethod
    def backward(self, layer: AffineLayer, x: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
        """Multipliers (or relevance, where `returns_relevance`) of the layer's input x from its outputs' relevance.

        Where `layer.linear` is set it may be a pair, the second being what W^T is to be applied to besides."""

    def goes_through_layer(self, layer: AffineLayer) -> bool:
        """Whether part of the multipliers may come by the layer's own gradient W^T."""
        return False


class Epsilon(AffineRule):
    """c = W^T (R / (z + epsilon sign z)) (Bach et al., PLoS ONE 2015)."""

    def __init__(self, epsilon: Stabilizer = 1e-6, zero_params: str | Sequence[str] | None = None):
        super().__init__(_checked_stabilizer("epsilon", epsilon), zero_params)

    def backward(self, layer, x, relevance):
        weight, bias = layer.signed(1, 1, self.zero_params)
        z, pull = layer.pull([x], [weight], bias)
        return pull(ratio(relevance, z, self.stabilizer))[0]


class ZPlus(AffineRule):
    """z = x+ W+ + x- W- + b+; R_i = x_i+ (W+^T R/z)_i + x_i- (W-^T R/z)_i (Bach et al. 2015; Montavon et al. 2017)."""

    def backward(self, layer, x, relevance):
        z, pull = layer.pull_signed(x, (1, 0), (0, 1), self.zero_params)
        return pull(ratio(relevance, z, self.stabilizer))


class AlphaBeta(AffineRule):
    """alpha times the share of positive contributions less beta times that of negative ones, alpha - beta = 1 (Bach et
    al. 2015): z+ as in `ZPlus`, z- = x+ W- + x- W+ + b-."""

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 1.0,
        stabilizer: Stabilizer = 1e-6,
        zero_params: str | Sequence[str] | None = None,
    ):
        super().__init__(stabilizer, zero_params)
        if alpha < 0 or beta < 0 or alpha - beta != 1:
            raise ValueError(f"alpha is {alpha}, beta is {beta}; both must be at least 0, and alpha - beta 1")
        self.alpha, self.beta = alpha, beta

    def backward(self, layer, x, relevance):
        z, pull = layer.pull_signed(x, (1, 0), (0, 1), self.zero_params)
        multipliers = self.alpha * pull(ratio(relevance, z, self.stabilizer))
        if self.beta == 0:
            return multipliers
        z, pull = layer.pull_signed(x, (0, 1), (1, 0), self.zero_params)
        return multipliers - self.beta * pull(ratio(relevance, z, self.stabilizer))


class Gamma(AffineRule):
    """Positive contributions count 1 + gamma fold where an output is positive, negative ones where it is negative
    (Montavon et al. 2019; for inputs of either sign Andeol et al. 2021): where z_j > 0,
    R_i = x_i+ ((W + gamma W+)^T s)_i + x_i- ((W + gamma W-)^T s)_i, s = R / its sum. An output of 0 passes nothing."""

    def __init__(
        self, gamma: float = 0.25, stabilizer: Stabilizer = 1e-6, zero_params: str | Sequence[str] | None = None
    ):
        super().__init__(stabilizer, zero_params)
        self.gamma = gamma

    def backward(self, layer, x, relevance):
        if layer.linear and not layer.positive_only:
            return self._backward_either_sign(layer, x, relevance)
        positive, negative = (1 + self.gamma, 1), (1, 1 + self.gamma)
        z, pull = layer.pull_signed(x, positive, negative, self.zero_params)
        s = ratio(relevance, z, self.stabilizer)
        if layer.positive_only:
            return pull(s)
        multipliers = pull(torch.where(layer.output > 0, s, 0))
        z, pull = layer.pull_signed(x, negative, positive, self.zero_params)
        return multipliers + pull(torch.where(layer.output < 0, ratio(relevance, z, self.stabilizer), 0))

    def _backward_either_sign(self, layer, x, relevance):
        """For x >= 0, with W- = W - W+: the denominators are z + gamma z+ where z > 0, z + gamma (z - z+) where z < 0
        (sums of numbers of one sign), and the multipliers W^T s + gamma W+^T s or W^T s + gamma (W - W+)^T s."""
        z, gamma = layer.output, self.gamma
        z_plus, pull = layer.pull_signed(x, (1, 0), (0, 1), ())
        is_negative = z < 0
        s = ratio(relevance, z + gamma * torch.where(is_negative, z - z_plus, z_plus), self.stabilizer)
        s = torch.where(z == 0, 0, s)
        return gamma * pull(torch.where(is_negative, -s, s)), torch.where(is_negative, (1 + gamma) * s, s)

    def goes_through_layer(self, layer: AffineLayer) -> bool:
        return layer.nonneg and not self.zero_params


class ZBox(AffineRule):
    """For inputs in [low, high] (Montavon et al., "Deep Taylor decomposition", 2017): z = x W - low W+ - high W-,
    R_i = x_i (W^T s)_i - low_i (W+^T s)_i - high_i (W-^T s)_i, s = R / z.

    low, high: numbers or tensors that broadcast to the input, e.g. [1, 3, 1, 1]."""

    returns_relevance = True

    def __init__(
        self,
        low: float | torch.Tensor,
        high: float | torch.Tensor,
        stabilizer: Stabilizer = 1e-6,
        zero_params: str | Sequence[str] | None = None,
    ):
        super().__init__(stabilizer, zero_params)
        self.low, self.high = low, high

    def backward(self, layer, x, relevance):
        low, high = (_like_input(bound, x, name) for name, bound in (("low", self.low), ("high", self.high)))
        weights = [layer.signed(1, 1, self.zero_params)[0], layer.signed(1, 0, self.zero_params)[0]]
        # With W- = W - W+ these are (x - high) W + (high - low) W+. The biases cancel: b - b+ - b- = 0.
        below, width = x - high, (high - low).expand_as(x)
        z, pull = layer.pull([below, width], weights)
        plain, positive = pull(ratio(relevance, z, self.stabilizer))
        return below * plain + width * positive


class WSquare(AffineRule):
    """R_i = sum_j w_ij^2 / (sum_k w_kj^2 + b_j^2) R_j, whatever the input (Montavon et al. 2017)."""

    returns_relevance = True

    def backward(self, layer, x, relevance):
        weight, bias = layer.modified(torch.square, self.zero_params)
        z, pull = layer.pull([torch.ones_like(x)], [weight], bias)
        return pull(ratio(relevance, z, self.stabilizer))[0]


class Flat(AffineRule):
    """R_i = sum_j R_j / (number of inputs of j): as if all weights were 1 (Lapuschkin et al. 2019)."""

    returns_relevance = True

    def backward(self, layer, x, relevance):
        weight, _ = layer.modified(torch.ones_like, self.zero_params)
        z, pull = layer.pull([torch.ones_like(x)], [weight])
        return pull(ratio(relevance, z, self.stabilizer))[0]


class Norm(Rule):
    """R_i = x_i w_ij / (z_j + epsilon sign z_j) R_j for sums, averages and other layers without own weights."""

    def __init__(self, stabilizer: Stabilizer = 1e-6):
        self.stabilizer = _checked_stabilizer("stabilizer", stabilizer)


class Pass(Rule):
    """The relevance of an elementwise layer's output is that of its input."""


class ActivationRule(Rule, ABC):
    """Base of the rules that give an activation another gradient."""

    @abstractmethod
    def backward(self, grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What goes back through y = f(x) for the gradient `grad` of y."""


class ReLUDeconvNet(ActivationRule):
    """g [g > 0], whatever the input was (Zeiler and Fergus, ECCV 2014)."""

    def backward(self, grad, x, y):
        return grad.clamp(min=0)


class ReLUGuidedBackprop(ActivationRule):
    """g [g > 0] [x > 0] (Springenberg et al. 2015)."""

    def backward(self, grad, x, y):
        return grad.clamp(min=0) * (x > 0)


class ReLUBetaSmooth(ActivationRule):
    """g sigmoid(beta x): the gradient of a softplus in place of the ReLU's (Dombrowski et al. 2019)."""

    def __init__(self, beta_smooth: float = 10.0):
        self.beta_smooth = beta_smooth

    def backward(self, grad, x, y):
        return grad * torch.sigmoid(self.beta_smooth * x)


class ReLURectGrad(ActivationRule):
    """g [x > 0] [y g > threshold] (Kim et al., "Why are saliency maps noisy?", ICCV Workshops 2019). With `quantile`,
    the threshold is that quantile of each example's y g: the paper takes 0.98."""

    def __init__(self, threshold: float = 0.0, quantile: float | None = None):
        for name, value in (("threshold", threshold), ("quantile", 0.0 if quantile is None else quantile)):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} is {value!r}; it must be a number")
        if math.isnan(threshold):
            raise ValueError("threshold is nan; it must be a number to compare with")
        if quantile is not None and not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}; it must be in [0, 1]")
        self.threshold, self.quantile = threshold, quantile

    def backward(self, grad, x, y):
        relevance = y * grad
        threshold = self.threshold
        if self.quantile is not None:
            threshold = _quantile_of_examples(relevance, self.quantile)
        return torch.where((relevance > threshold) & (x > 0), grad, 0)


def _quantile_of_examples(values: torch.Tensor, quantile: float) -> torch.Tensor:
    """The smallest value of each example with at least that fraction of its values at or below it, [B, 1, ...]."""
    flat = values.flatten(1)
    rank = min(max(math.ceil(quantile * flat.shape[1]), 1), flat.shape[1])
    return flat.kthvalue(rank, 1).values.view(-1, *[1] * (values.dim() - 1))


def _like_input(bound: float | torch.Tensor, x: torch.Tensor, name: str) -> torch.Tensor:
    bound = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
    try:
        return bound.expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {list(bound.shape)}; it must broadcast to the input {list(x.shape)}"
        ) from None
