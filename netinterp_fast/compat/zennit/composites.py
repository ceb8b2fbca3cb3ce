"""Composites: which rule each layer gets. Those with a name map layer types as Zennit's do, and no others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import nn

from ...attribution.relevance import composites as core
from ...attribution.relevance import layer_types
from ...attribution.relevance.composites import LayerMap, NameMap
from ...attribution.relevance.rules import Norm, Pass, ReLUBetaSmooth
from ._context import ModifiedModel, context
from .layer import Sum
from .types import Activation, AvgPool, BatchNorm


class _Composite(core.Composite):
    """What the composites of Zennit have besides."""

    def functional_rule(self, kind):
        return super().functional_rule(Sum if kind is layer_types.Sum else kind)

    def context(self, module: nn.Module) -> AbstractContextManager[ModifiedModel]:
        """with composite.context(model) as modified_model: the gradient of what modified_model(x) returns is relevance.

        Canonizers are applied until the context ends. Calling `model` itself in it raises RuntimeError."""
        return context(module, self)

    def register(self, module: nn.Module) -> None:
        """Not here: a model is not changed."""
        raise RuntimeError(
            "register(model) would change the model, which is not done here: use `with composite.context(model) as "
            "modified_model:` and call modified_model, or attribution.Gradient(model, composite)"
        )

    def remove(self) -> None:
        """Does nothing, for nothing is registered."""


class LayerMapComposite(_Composite, core.LayerMapComposite):
    """The first entry (types, rule) of `layer_map` whose types a layer has."""

    def __init__(self, layer_map: LayerMap, canonizers: Sequence | None = None):
        super().__init__(layer_map, canonizers, unknown="gradient")


class SpecialFirstLayerMapComposite(_Composite, core.SpecialFirstLayerMapComposite):
    """As `LayerMapComposite`, but the first layer of the model that `first_map` matches gets its rule from there."""

    def __init__(self, layer_map: LayerMap, first_map: LayerMap, canonizers: Sequence | None = None):
        super().__init__(layer_map, first_map, canonizers, unknown="gradient")


class NameMapComposite(_Composite, core.NameMapComposite):
    """The first entry (names, rule) of `name_map` that has the layer's name."""

    def __init__(self, name_map: NameMap, canonizers: Sequence | None = None):
        super().__init__(name_map, canonizers, unknown="gradient")


class MixedComposite(_Composite, core.MixedComposite):
    """The rule of the first of several composites that has one."""

    def __init__(self, composites: Sequence[core.Composite], canonizers: Sequence | None = None):
        super().__init__(composites, canonizers, unknown="gradient")


class NameLayerMapComposite(MixedComposite):
    """By name first, then by type."""

    def __init__(
        self, name_map: NameMap | None = None, layer_map: LayerMap | None = None, canonizers: Sequence | None = None
    ):
        super().__init__([NameMapComposite(name_map or []), LayerMapComposite(layer_map or [])], canonizers)


COMPOSITES: dict[str, Callable[..., core.Composite]] = {}


def register_composite(name: str) -> Callable[[type], type]:
    """Decorator: adds a class to `COMPOSITES`."""

    def add(composite: type) -> type:
        COMPOSITES[name] = composite
        return composite

    return add


def layer_map_base(stabilizer=1e-6) -> list:
    """Activations and batch norms pass relevance; sums and averages share it in proportion to their terms."""
    norm = Norm(stabilizer)
    return [(Activation, Pass()), (Sum, norm), (AvgPool, norm), (BatchNorm, Pass())]


# Layer types that the core's composites map and Zennit's do not.
_BEYOND_ZENNIT = (layer_types.Normalization, layer_types.Upsample, layer_types.Attention)


def _restricted(name: str, kind: type[core.LayerMapComposite]) -> type[core.LayerMapComposite]:
    """A composite of the core that maps what Zennit's of the same name maps."""

    class Restricted(_Composite, kind):
        __doc__ = kind.__doc__

        @functools.wraps(kind.__init__)
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.unknown = "gradient"
            entries = [entry for entry in self.layer_map if all(entry[0] is not group for group in _BEYOND_ZENNIT)]
            self.layer_map = [(Activation if t is layer_types.Activation else t, rule) for t, rule in entries]

    Restricted.__name__ = Restricted.__qualname__ = kind.__name__
    return register_composite(name)(Restricted)


EpsilonGammaBox = _restricted("epsilon_gamma_box", core.EpsilonGammaBox)
EpsilonPlus = _restricted("epsilon_plus", core.EpsilonPlus)
EpsilonAlpha2Beta1 = _restricted("epsilon_alpha2_beta1", core.EpsilonAlpha2Beta1)
EpsilonPlusFlat = _restricted("epsilon_plus_flat", core.EpsilonPlusFlat)
EpsilonAlpha2Beta1Flat = _restricted("epsilon_alpha2_beta1_flat", core.EpsilonAlpha2Beta1Flat)
DeconvNet = _restricted("deconvnet", core.DeconvNet)
GuidedBackprop = _restricted("guided_backprop", core.GuidedBackprop)
ExcitationBackprop = _restricted("excitation_backprop", core.ExcitationBackprop)


@register_composite("beta_smooth")
class BetaSmooth(LayerMapComposite):
    """The gradient, with `ReLUBetaSmooth` (Dombrowski et al. 2019). No rule here uses `zero_params`."""

    def __init__(self, beta_smooth=10.0, layer_map=None, zero_params=None, canonizers=None):
        super().__init__([*(layer_map or []), (nn.ReLU, ReLUBetaSmooth(beta_smooth))], canonizers)
