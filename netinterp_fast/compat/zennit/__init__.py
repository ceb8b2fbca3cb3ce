"""Zennit's interface (zennit 0.5) over this package: the same names, arguments and numbers.

    from zennit.composites import EpsilonPlusFlat   ->   from netinterp_fast.compat.zennit.composites import ...

Submodules: `rules`, `composites`, `attribution`, `types`, `layer`, `canonizers`, `torchvision`. The numbers are those
of Zennit for a model whose batch norms are merged and whose activations, sums and averages are modules, as its
canonizers make it. Here neither is needed: a batch norm that follows a layer with weights is merged as the model runs,
and functions and operators (F.relu, x + y) count as the modules that do the same. What no entry of a composite maps
passes the gradient.

A model is not changed. So `composite.context(model)` yields another object to call in the model's place, and
`composite.register(model)` is an error.
"""

from . import attribution, canonizers, composites, layer, rules, torchvision, types

__all__ = ["attribution", "canonizers", "composites", "layer", "rules", "torchvision", "types"]
