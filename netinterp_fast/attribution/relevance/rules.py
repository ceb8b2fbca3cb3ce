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


class AffineRule(Rule):
    """Base of the rules for layers with weights."""

    returns_relevance = False

    def __init__(self, stabilizer: Stabilizer = 1e-6, zero_params: str | Sequence[str] | None = None):
        self.stabilizer = _checked_stabilizer("stabilizer", stabilizer)
        self.zero_params = _checked_names(zero_params)

    def backward(self, layer: AffineLayer, x: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
        """Multipliers (or relevance, where `returns_relevance`) of the layer's input x from its outputs' relevance."""
        raise NotImplementedError


class Epsilon(AffineRule):
    """c = W^T (R / (z + epsilon sign z)) (Bach et al., PLoS ONE 2015)."""

    def __init__(self, epsilon: Stabilizer = 1e-6, zero_params: str | Sequence[str] | None = None):
        super().__init__(_checked_stabilizer("epsilon", epsilon), zero_params)

    def backward(self, layer, x, relevance):
        z, pull = layer.pull(x, layer.parameters("as it is", lambda p: p, self.zero_params))
        return pull(ratio(relevance, z, self.stabilizer))


class ZPlus(AffineRule):
    """z = x+ W+ + x- W- + b+; R_i = x_i+ (W+^T R/z)_i + x_i- (W-^T R/z)_i (Bach et al. 2015; Montavon et al. 2017)."""

    def backward(self, layer, x, relevance):
        z, pull = layer.pull_signed(x, _positive(layer, self.zero_params), _negative(layer, self.zero_params))
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
        positive, negative = _positive(layer, self.zero_params), _negative(layer, self.zero_params)
        z, pull = layer.pull_signed(x, positive, negative)
        multipliers = self.alpha * pull(ratio(relevance, z, self.stabilizer))
        if self.beta == 0:
            return multipliers
        z, pull = layer.pull_signed(x, negative, positive)
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
        def favour(sign: str, **bound):
            name = f"gamma {self.gamma} {sign}"
            return layer.parameters(name, lambda p: p + self.gamma * p.clamp(**bound), self.zero_params)

        positive, negative = favour("positive", min=0), favour("negative", max=0)
        z, pull = layer.pull_signed(x, positive, negative)
        if layer.positive_only:
            return pull(ratio(relevance, z, self.stabilizer))
        output = layer.op(x, layer.weight, layer.bias).detach()
        multipliers = pull((output > 0) * ratio(relevance, z, self.stabilizer))
        z, pull = layer.pull_signed(x, negative, positive)
        return multipliers + pull((output < 0) * ratio(relevance, z, self.stabilizer))


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
        z, pull = layer.pull(x, layer.parameters("as it is", lambda p: p, self.zero_params))
        z_low, pull_low = layer.pull(low, _positive(layer, self.zero_params))
        z_high, pull_high = layer.pull(high, _negative(layer, self.zero_params))
        s = ratio(relevance, z - z_low - z_high, self.stabilizer)
        return x * pull(s) - low * pull_low(s) - high * pull_high(s)


class WSquare(AffineRule):
    """R_i = sum_j w_ij^2 / (sum_k w_kj^2 + b_j^2) R_j, whatever the input (Montavon et al. 2017)."""

    returns_relevance = True

    def backward(self, layer, x, relevance):
        z, pull = layer.pull(torch.ones_like(x), layer.parameters("squared", torch.square, self.zero_params))
        return pull(ratio(relevance, z, self.stabilizer))


class Flat(AffineRule):
    """R_i = sum_j R_j / (number of inputs of j): as if all weights were 1 (Lapuschkin et al. 2019)."""

    returns_relevance = True

    def backward(self, layer, x, relevance):
        z, pull = layer.pull(torch.ones_like(x), layer.parameters("ones", torch.ones_like, (*self.zero_params, "bias")))
        return pull(ratio(relevance, z, self.stabilizer))


class Norm(Rule):
    """R_i = x_i w_ij / (z_j + epsilon sign z_j) R_j for sums, averages and other layers without own weights."""

    def __init__(self, stabilizer: Stabilizer = 1e-6):
        self.stabilizer = _checked_stabilizer("stabilizer", stabilizer)


class Pass(Rule):
    """The relevance of an elementwise layer's output is that of its input."""


class ActivationRule(Rule):
    """Base of the rules that give an activation another gradient."""

    def backward(self, grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What goes back through y = f(x) for the gradient `grad` of y."""
        raise NotImplementedError


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


def _positive(layer: AffineLayer, zero: tuple[str, ...]) -> tuple:
    return layer.parameters("positive", lambda p: p.clamp(min=0), zero)


def _negative(layer: AffineLayer, zero: tuple[str, ...]) -> tuple:
    return layer.parameters("negative", lambda p: p.clamp(max=0), zero)


def _like_input(bound: float | torch.Tensor, x: torch.Tensor, name: str) -> torch.Tensor:
    bound = torch.as_tensor(bound, dtype=x.dtype, device=x.device)
    try:
        return bound.expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {list(bound.shape)}; it must broadcast to the input {list(x.shape)}"
        ) from None
