"""Composites: which rule each layer of a network gets. Names, arguments and defaults are Zennit's.

A composite is asked for each module of a model in the order of `named_modules()`. Calls that belong to no module
(x + y, F.relu) count as the module type that does the same. What no entry matches passes the gradient, without a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from . import layer_types as types
from .rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Norm,
    Pass,
    ReLUBetaSmooth,
    ReLUDeconvNet,
    ReLUGuidedBackprop,
    Rule,
    Stabilizer,
    ZBox,
    ZPlus,
)

LayerMap = Sequence[tuple[type | tuple[type, ...], Rule]]
NameMap = Sequence[tuple[Sequence[str], Rule]]


class Composite:
    """Base of all composites.

    unknown: what becomes of an operation that has no rule and that a composite cannot name: "error" (an error that
    names it once relevance reaches it) or "gradient" (it passes the gradient).
    """

    def __init__(self, canonizers: Sequence | None = None, *, unknown: str = "error"):
        if unknown not in ("error", "gradient"):
            raise ValueError(f"unknown is {unknown!r}; it must be 'error' or 'gradient'")
        self.canonizers = list(canonizers or [])
        self.unknown = unknown

    def rule(self, context: dict, name: str, kind: type[nn.Module]) -> Rule | None:
        """The rule of a module, given its name and type; `context` keeps what was seen before in this model."""
        return None

    def functional_rule(self, kind: type[nn.Module]) -> Rule | None:
        """The rule of a call that belongs to no module."""
        return None

    def assign(self, model: nn.Module) -> dict[str, Rule]:
        """The rules of a model's modules, by name."""
        context: dict = {}
        rules = {name: self.rule(context, name, type(module)) for name, module in model.named_modules()}
        return {name: rule for name, rule in rules.items() if rule is not None}


class LayerMapComposite(Composite):
    """The first entry (types, rule) of `layer_map` whose types a layer has."""

    def __init__(self, layer_map: LayerMap, canonizers: Sequence | None = None, *, unknown: str = "error"):
        super().__init__(canonizers, unknown=unknown)
        self.layer_map = list(layer_map)

    def rule(self, context, name, kind):
        return _by_type(self.layer_map, kind)

    def functional_rule(self, kind):
        return _by_type(self.layer_map, kind)


class SpecialFirstLayerMapComposite(LayerMapComposite):
    """As `LayerMapComposite`, but the first layer of the model that `first_map` matches gets its rule from there."""

    def __init__(
        self, layer_map: LayerMap, first_map: LayerMap, canonizers: Sequence | None = None, *, unknown: str = "error"
    ):
        super().__init__(layer_map, canonizers, unknown=unknown)
        self.first_map = list(first_map)

    def rule(self, context, name, kind):
        first = None if "first" in context else _by_type(self.first_map, kind)
        if first is not None:
            context["first"] = name
            return first
        return super().rule(context, name, kind)


class NameMapComposite(Composite):
    """The first entry (names, rule) of `name_map` that has the layer's name."""

    def __init__(self, name_map: NameMap, canonizers: Sequence | None = None, *, unknown: str = "error"):
        super().__init__(canonizers, unknown=unknown)
        self.name_map = list(name_map)

    def rule(self, context, name, kind):
        return next((rule for names, rule in self.name_map if name in names), None)


class MixedComposite(Composite):
    """The rule of the first of several composites that has one."""

    def __init__(self, composites: Sequence[Composite], canonizers: Sequence | None = None, *, unknown: str = "error"):
        inner = [canonizer for composite in composites for canonizer in composite.canonizers]
        super().__init__([*inner, *(canonizers or [])], unknown=unknown)
        self.composites = list(composites)

    def rule(self, context, name, kind):
        found = [c.rule(context.setdefault(i, {}), name, kind) for i, c in enumerate(self.composites)]
        return next((rule for rule in found if rule is not None), None)

    def functional_rule(self, kind):
        found = (composite.functional_rule(kind) for composite in self.composites)
        return next((rule for rule in found if rule is not None), None)


class NameLayerMapComposite(MixedComposite):
    """By name first, then by type."""

    def __init__(
        self,
        name_map: NameMap | None = None,
        layer_map: LayerMap | None = None,
        canonizers: Sequence | None = None,
        *,
        unknown: str = "error",
    ):
        by_name, by_type = NameMapComposite(name_map or []), LayerMapComposite(layer_map or [])
        super().__init__([by_name, by_type], canonizers, unknown=unknown)


def _by_type(layer_map: LayerMap, kind: type[nn.Module]) -> Rule | None:
    return next((rule for kinds, rule in layer_map if issubclass(kind, kinds)), None)


def layer_map_base(stabilizer: Stabilizer = 1e-6) -> list:
    """What the composites below share: activations and batch norms pass relevance, sums and averages share it in
    proportion to their terms. Layer norms count as affine, their statistics as constants, and so do attention weights
    (Ali et al., "XAI for Transformers", ICML 2022)."""
    norm = Norm(stabilizer)
    return [
        (types.Activation, Pass()),
        (types.Sum, norm),
        (types.AvgPool, norm),
        (types.BatchNorm, Pass()),
        (types.Normalization, norm),
        (types.Upsample, norm),
        (types.Attention, norm),
    ]


def _convolutions(rule: Rule, epsilon, stabilizer, layer_map, zero_params) -> list:
    """One rule for convolutions, Epsilon for linear layers."""
    linear = (nn.Linear, Epsilon(epsilon, zero_params))
    return [*(layer_map or []), *layer_map_base(stabilizer), (types.Convolution, rule), linear]


class EpsilonEverywhere(LayerMapComposite):
    """`Epsilon` for convolutions and linear layers."""

    def __init__(self, epsilon=1e-6, stabilizer=1e-6, layer_map=None, zero_params=None, canonizers=None):
        rule = Epsilon(epsilon, zero_params)
        super().__init__(_convolutions(rule, epsilon, stabilizer, layer_map, zero_params), canonizers)


class EpsilonPlus(LayerMapComposite):
    """`ZPlus` for convolutions, `Epsilon` for linear layers."""

    def __init__(self, epsilon=1e-6, stabilizer=1e-6, layer_map=None, zero_params=None, canonizers=None):
        rule = ZPlus(stabilizer, zero_params)
        super().__init__(_convolutions(rule, epsilon, stabilizer, layer_map, zero_params), canonizers)


class EpsilonAlpha2Beta1(LayerMapComposite):
    """`AlphaBeta(2, 1)` for convolutions, `Epsilon` for linear layers."""

    def __init__(self, epsilon=1e-6, stabilizer=1e-6, layer_map=None, zero_params=None, canonizers=None):
        rule = AlphaBeta(2, 1, stabilizer, zero_params)
        super().__init__(_convolutions(rule, epsilon, stabilizer, layer_map, zero_params), canonizers)


class EpsilonPlusFlat(SpecialFirstLayerMapComposite):
    """As `EpsilonPlus`, with `Flat` for the first layer."""

    def __init__(
        self, epsilon=1e-6, stabilizer=1e-6, layer_map=None, first_map=None, zero_params=None, canonizers=None
    ):
        rule, first = ZPlus(stabilizer, zero_params), (types.Linear, Flat(stabilizer, zero_params))
        layers = _convolutions(rule, epsilon, stabilizer, layer_map, zero_params)
        super().__init__(layers, [*(first_map or []), first], canonizers)


class EpsilonAlpha2Beta1Flat(SpecialFirstLayerMapComposite):
    """As `EpsilonAlpha2Beta1`, with `Flat` for the first layer."""

    def __init__(
        self, epsilon=1e-6, stabilizer=1e-6, layer_map=None, first_map=None, zero_params=None, canonizers=None
    ):
        rule, first = AlphaBeta(2, 1, stabilizer, zero_params), (types.Linear, Flat(stabilizer, zero_params))
        layers = _convolutions(rule, epsilon, stabilizer, layer_map, zero_params)
        super().__init__(layers, [*(first_map or []), first], canonizers)


class EpsilonGammaBox(SpecialFirstLayerMapComposite):
    """`ZBox(low, high)` for the first convolution, `Gamma` for the others, `Epsilon` for linear layers."""

    def __init__(
        self, low, high, epsilon=1e-6, gamma=0.25, stabilizer=1e-6, layer_map=None, first_map=None, zero_params=None,
        canonizers=None,
    ):  # fmt: skip
        rule = Gamma(gamma, stabilizer, zero_params)
        first = (types.Convolution, ZBox(low, high, stabilizer, zero_params))
        layers = _convolutions(rule, epsilon, stabilizer, layer_map, zero_params)
        super().__init__(layers, [*(first_map or []), first], canonizers)


class DeepTaylor(SpecialFirstLayerMapComposite):
    """Deep Taylor decomposition: `ZPlus` everywhere, `ZBox(low, high)` at the pixels (Montavon et al. 2017)."""

    def __init__(self, low, high, stabilizer=1e-6):
        layers = [*layer_map_base(stabilizer), (types.Linear, ZPlus(stabilizer, "bias"))]
        super().__init__(layers, [(types.Linear, ZBox(low, high, stabilizer))])


class ExcitationBackprop(LayerMapComposite):
    """`ZPlus` for all layers with weights (Zhang et al., ECCV 2016)."""

    def __init__(self, stabilizer=1e-6, layer_map=None, zero_params=None, canonizers=None):
        norm = Norm(stabilizer)
        layers = [(types.Sum, norm), (types.AvgPool, norm), (types.Linear, ZPlus(stabilizer, zero_params))]
        super().__init__([*(layer_map or []), *layers], canonizers)


class DeconvNet(LayerMapComposite):
    """The gradient, with `ReLUDeconvNet` (Zeiler and Fergus, ECCV 2014)."""

    def __init__(self, layer_map=None, canonizers=None):
        super().__init__([*(layer_map or []), (nn.ReLU, ReLUDeconvNet())], canonizers, unknown="gradient")


class GuidedBackprop(LayerMapComposite):
    """The gradient, with `ReLUGuidedBackprop` (Springenberg et al. 2015)."""

    def __init__(self, layer_map=None, canonizers=None):
        super().__init__([*(layer_map or []), (nn.ReLU, ReLUGuidedBackprop())], canonizers, unknown="gradient")


class BetaSmooth(LayerMapComposite):
    """The gradient, with `ReLUBetaSmooth` (Dombrowski et al. 2019)."""

    def __init__(self, beta_smooth=10.0, layer_map=None, canonizers=None):
        super().__init__([*(layer_map or []), (nn.ReLU, ReLUBetaSmooth(beta_smooth))], canonizers, unknown="gradient")


# By the names that `lrp(..., composite=NAME)` takes.
COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon": EpsilonEverywhere,
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": EpsilonGammaBox,
    "deep_taylor": DeepTaylor,
    "excitation_backprop": ExcitationBackprop,
    "deconvnet": DeconvNet,
    "guided_backprop": GuidedBackprop,
    "beta_smooth": BetaSmooth,
}


def __getattr__(name: str) -> Callable[..., Composite]:
    """The same as functions of this module: composites.epsilon_gamma_box(low=-3., high=3.)"""
    if name in COMPOSITES:
        return COMPOSITES[name]
    raise AttributeError(f"module {__name__} has no attribute {name!r}")


def get_composite(composite: str | Composite) -> Composite:
    """A composite as given, or the one of a name with its default arguments.

    ValueError for an unknown name, TypeError for one whose arguments have no default."""
    if isinstance(composite, Composite):
        return composite
    if not isinstance(composite, str):
        raise TypeError(f"composite is a {type(composite).__name__}; it must be a Composite or a name")
    if composite not in COMPOSITES:
        raise ValueError(f"composite is {composite!r}; the names are {', '.join(COMPOSITES)}")
    try:
        return COMPOSITES[composite]()
    except TypeError:
        raise TypeError(
            f"composite {composite!r} needs the lowest and highest input: pass "
            f"netinterp_fast.composites.{composite}(low=..., high=...)"
        ) from None
