"""Relevance from other packages, for the networks of `benches.models`, prepared once and then called many times.

Both packages find rules by module, so a network must compute every ReLU, sum and pooling by a module of its own. The
copies made here do: they get such modules and a forward that calls them, and compute the same function.
"""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn


class _StackedSum(nn.Module):
    """The sum of two tensors by zennit's module, which sums over a dimension of one."""

    def __init__(self):
        super().__init__()
        self.sum = _zennit().layer.Sum()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.sum(torch.stack([a, b], -1))


def _fire(self, x):
    x = self.relu_1(self.squeeze(x))
    return torch.cat([self.relu_2(self.expand1x1(x)), self.relu_3(self.expand3x3(x))], 1)


def _basic_block(self, x):
    identity = x if self.downsample is None else self.downsample(x)
    out = self.relu_1(self.bn1(self.conv1(x)))
    return self.relu_2(self.add(identity, self.bn2(self.conv2(out))))


def _cifar_block(self, x):
    out = self.relu_1(self.bn1(self.conv1(x)))
    return self.relu_2(self.add(self.shortcut(x), self.bn2(self.conv2(out))))


def _cifar_resnet(self, x):
    x = self.relu_1(self.bn1(self.conv1(x)))
    x = self.layer3(self.layer2(self.layer1(x)))
    return self.linear(self.pool(x).flatten(1))


# by class name, for a class is another one where its file was loaded by path
_FORWARDS = {
    "Fire": (_fire, {"relu_1": nn.ReLU, "relu_2": nn.ReLU, "relu_3": nn.ReLU}),
    "BasicBlock": (_basic_block, {"relu_1": nn.ReLU, "relu_2": nn.ReLU}),
    "CifarBlock": (_cifar_block, {"relu_1": nn.ReLU, "relu_2": nn.ReLU}),
    "CifarResNet20": (_cifar_resnet, {"relu_1": nn.ReLU, "pool": partial(nn.AdaptiveAvgPool2d, 1)}),
}
_WITH_SUMS = ("BasicBlock", "CifarBlock")


def _attributes(add: Callable[[], nn.Module], name: str, module: nn.Module) -> dict | None:
    """What a module of our networks gets in the copy (the attribute map of a zennit canonizer); None for no change."""
    forward, factories = _FORWARDS.get(type(module).__name__, (None, None))
    if forward is None:
        return None
    sums = {"add": add()} if type(module).__name__ in _WITH_SUMS else {}
    return {"forward": partial(forward, module)} | {key: factory() for key, factory in factories.items()} | sums


def _module_per_use(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode without gradients for parameters; no module of a Sequential used twice or in place."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    seen = set()
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for place, child in enumerate(module):
                if id(child) in seen:
                    module[place] = copy.deepcopy(child)
                seen.add(id(module[place]))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


class ZennitPeer:
    """zennit's attribution: `peer(x, seed)` is the relevance of x where that of the output [B, n] is `seed`.

    `composite` is one of COMPOSITES or a composite object of zennit's. Batch norms are merged into the convolutions
    before them and stay, as identities, in the copy. zennit leaves them dividing by sqrt(1 + eps), which would change
    the function; so eps moves into the running variance first.
    """

    def __init__(self, model: nn.Module, composite="epsilon_plus_flat"):
        canonizers = _zennit().canonizers
        self.model = _module_per_use(model)
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var += module.eps
                module.eps = 0.0
        canonizers.SequentialMergeBatchNorm().apply(self.model)
        canonizers.AttributeCanonizer(partial(_attributes, _StackedSum)).apply(self.model)
        self.model.requires_grad_(False)  # biases that the merge has made
        self.composite = COMPOSITES[composite]() if isinstance(composite, str) else composite
        self.composite.register(self.model)

    def __call__(self, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        x = x.detach().clone().requires_grad_()
        relevance = torch.autograd.grad(self.model(x), x, seed)[0]
        for hook in self.composite.hook_refs:  # they keep activations, and a handle more with every call
            hook.remove()
        return relevance


def zennit_attribution(model: nn.Module, x: torch.Tensor, seed: torch.Tensor, composite) -> torch.Tensor:
    """`ZennitPeer` for one call."""
    return ZennitPeer(model, composite)(x, seed)


class CaptumPeer:
    """Captum's LRP with its default rules: `peer(x, target)` for target [B] int64, the relevance of the chosen outputs.

    The default is the epsilon rule with 1e-9 everywhere: on sums, on max pools (where it selects the maximum, as the
    gradient does), and on each batch norm by itself, which comes to the same as merging it. Raises ValueError, with the
    reason, for a network that these rules cannot do.
    """

    def __init__(self, model: nn.Module):
        from captum.attr import LRP
        from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
        from captum.attr._utils.custom_modules import Addition_Module

        self.model = _module_per_use(model)
        for name, module in list(self.model.named_modules()):
            if getattr(module, "new_channels", 0):
                raise ValueError(
                    "Captum's LRP takes the relevance that a sum hands back for a gradient unless the summand comes "
                    "straight from a module, and the slice and padding of an option-A shortcut do not"
                )
            for key, value in (_attributes(Addition_Module, name, module) or {}).items():
                setattr(module, key, value)
        known = (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS)
        unknown = {type(m).__name__ for m in self.model.modules() if not list(m.children()) and type(m) not in known}
        if unknown:
            raise ValueError(f"Captum's LRP has no default rule for {', '.join(sorted(unknown))}")
        self.lrp = LRP(self.model)

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.lrp.attribute(x.detach().clone().requires_grad_(), target).detach()


def _epsilon(epsilon: float = 1e-6):
    zennit = _zennit()
    rules = [(zennit.types.Linear, zennit.rules.Epsilon(epsilon))]
    return zennit.composites.LayerMapComposite(zennit.composites.layer_map_base() + rules)


def _named(name: str, **options):
    return _zennit().composites.COMPOSITES[name](**options)


COMPOSITES: dict[str, Callable] = {
    "epsilon": _epsilon,
    "epsilon_gamma_box": partial(_named, "epsilon_gamma_box", low=-3.0, high=3.0),
} | {
    name: partial(_named, name)
    for name in (
        "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
        "excitation_backprop", "deconvnet", "guided_backprop",
    )
}  # fmt: skip


def _zennit():
    """The package, also where the torchvision that it imports is missing or does not fit torch."""
    if "zennit" not in sys.modules:
        with _torchvision_or_stand_in():
            import zennit  # noqa: F401
    return sys.modules["zennit"]


@contextmanager
def _torchvision_or_stand_in():
    """zennit wants two classes of torchvision, for canonizers not used here: for its import, empty ones will do."""
    try:
        import torchvision  # noqa: F401

        yield
        return
    except (ImportError, RuntimeError):
        pass
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.modules.update({name: types.ModuleType(name) for name in names})
    for block in ("Bottleneck", "BasicBlock"):
        setattr(sys.modules[names[-1]], block, type(block, (), {}))
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
