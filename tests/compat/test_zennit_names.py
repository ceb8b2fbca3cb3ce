"""The names of `compat.zennit` and their arguments, beside Zennit's."""

import importlib
import inspect

import pytest
from torch import nn

from netinterp_fast.attribution.relevance import rules as core_rules
from netinterp_fast.compat.zennit import composites, layer, rules, types

RULES = (
    "Epsilon Gamma ZPlus AlphaBeta ZBox Pass Norm WSquare Flat ReLUDeconvNet ReLUGuidedBackprop ReLUBetaSmooth"
).split()
COMPOSITES = (
    "LayerMapComposite SpecialFirstLayerMapComposite NameMapComposite MixedComposite NameLayerMapComposite "
    "EpsilonGammaBox EpsilonPlus EpsilonAlpha2Beta1 EpsilonPlusFlat EpsilonAlpha2Beta1Flat DeconvNet GuidedBackprop "
    "ExcitationBackprop BetaSmooth layer_map_base register_composite"
).split()
TYPES = "ConvolutionTranspose ConvolutionStandard Convolution Linear BatchNorm AvgPool MaxPool Activation".split()
NAMES = [
    *[("rules", name) for name in RULES],
    *[("composites", name) for name in COMPOSITES],
    *[("attribution", "Gradient"), ("layer", "Sum"), ("canonizers", "SequentialMergeBatchNorm")],
    *[("torchvision", "VGGCanonizer"), ("torchvision", "ResNetCanonizer")],
]
METHODS = [
    *[("composites", "EpsilonPlus", method) for method in ("context", "register", "remove")],
    *[("attribution", "Gradient", method) for method in ("__call__", "__enter__")],
    *[("canonizers", "SequentialMergeBatchNorm", "apply"), ("layer", "Sum", "forward")],
]


def ours_and_theirs(module):
    return [importlib.import_module(f"{package}.{module}") for package in ("netinterp_fast.compat.zennit", "zennit")]


def arguments(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_signatures_are_zennits(zennit, module, name):
    ours, theirs = (getattr(found, name) for found in ours_and_theirs(module))
    assert arguments(ours) == arguments(theirs)


@pytest.mark.parametrize(("module", "name", "method"), METHODS)
def test_signatures_of_methods_are_zennits(zennit, module, name, method):
    ours, theirs = (getattr(getattr(found, name), method) for found in ours_and_theirs(module))
    assert arguments(ours) == arguments(theirs)


def test_composites_have_zennits_keys(zennit):
    theirs = {name: cls.__name__ for name, cls in zennit.composites.COMPOSITES.items()}
    assert {name: cls.__name__ for name, cls in composites.COMPOSITES.items()} == theirs
    assert all(getattr(composites, cls.__name__) is cls for cls in composites.COMPOSITES.values())


@pytest.mark.parametrize("name", TYPES)
def test_types_hold_zennits_layers(zennit, name):
    ours, theirs = getattr(types, name), getattr(zennit.types, name)
    layers = [cls for cls in vars(nn).values() if inspect.isclass(cls) and issubclass(cls, nn.Module)]
    expected = [cls for cls in layers if issubclass(cls, theirs) and cls is not nn.MultiheadAttention]
    assert [cls for cls in layers if issubclass(cls, ours)] == expected


def test_rules_are_those_of_the_core():
    assert all(getattr(rules, name) is getattr(core_rules, name) for name in RULES)


def test_types_tell_instances():
    assert isinstance(nn.Conv1d(1, 1, 1), types.Convolution)
    assert not isinstance(nn.Linear(1, 1), types.Convolution)
    assert isinstance(nn.Linear(1, 1), (types.Convolution, types.Linear))
    assert not isinstance(nn.Mish(), types.Activation)


def test_sum_sums_over_its_dimension(inputs):
    assert layer.Sum()(inputs).equal(inputs.sum(-1))
    assert layer.Sum(dim=1)(inputs).equal(inputs.sum(1))


def test_register_composite_adds_a_name(monkeypatch):
    monkeypatch.setattr(composites, "COMPOSITES", dict(composites.COMPOSITES))

    @composites.register_composite("mine")
    class Mine(composites.EpsilonPlus):
        pass

    assert composites.COMPOSITES["mine"] is Mine
