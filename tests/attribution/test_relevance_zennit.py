"""lrp() gives zennit's numbers for every rule and composite: in float64 up to rounding."""

import copy

import pytest
import torch
from relevance_nets import images, network, seed_of_largest
from safetensors.torch import load_file

from benches.models import SqueezeNet, cifar_resnet20
from benches.relevance_peers import zennit_attribution
from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types

TOLERANCE = 1e-5  # of the largest relevance
COMPOSITES = {
    "epsilon": {},
    "epsilon_plus": {},
    "epsilon_plus_flat": {},
    "epsilon_alpha2_beta1": {},
    "epsilon_alpha2_beta1_flat": {},
    "epsilon_gamma_box": {"low": -3.0, "high": 3.0},
    "excitation_backprop": {},
    "deconvnet": {},
    "guided_backprop": {},
    "beta_smooth": {},
}
RULES = {
    "Epsilon": {"epsilon": 0.1},
    "ZPlus": {},
    "ZPlus, no biases": {"zero_params": "bias"},
    "AlphaBeta": {},
    "AlphaBeta, 1 and 0": {"alpha": 1.0, "beta": 0.0},
    "AlphaBeta, no biases": {"zero_params": "bias"},
    "Gamma": {},
    "Gamma, no biases": {"gamma": 0.5, "zero_params": "bias"},
    "ZBox": {"low": -3.0, "high": 3.0},
    "WSquare": {},
    "WSquare, no biases": {"zero_params": "bias"},
    "Flat": {},
    "Epsilon, no biases": {"zero_params": "bias"},
}


def theirs_by_name(zennit, name, options):
    if name == "epsilon":  # is not among theirs
        return theirs_by_rule(zennit, "Epsilon", {})
    return zennit.composites.COMPOSITES[name](**options)


def theirs_by_rule(zennit, name, options):
    rule = getattr(zennit.rules, name.split(",")[0])(**options)
    return zennit.composites.LayerMapComposite([*zennit.composites.layer_map_base(), (zennit.types.Linear, rule)])


def ours_by_rule(name, options):
    rule = getattr(rules, name.split(",")[0])(**options)
    return composites.LayerMapComposite([*composites.layer_map_base(), (types.Linear, rule)])


def difference(a, b):
    assert a.shape == b.shape
    assert a.isfinite().all()
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("net", ["SmallVGG", "CifarResNet20", "SqueezeNet"])
def test_composites(zennit, net, name):
    _agrees(zennit, network(net), images(net), name)


@pytest.mark.parametrize("name", ["epsilon_plus_flat", "epsilon_gamma_box", "guided_backprop"])
def test_resnet18(zennit, name):
    _agrees(zennit, network("ResNet18"), images("ResNet18"), name)


@pytest.mark.extended
@pytest.mark.parametrize("name", COMPOSITES)
def test_resnet18_with_every_composite(zennit, name):
    _agrees(zennit, network("ResNet18"), images("ResNet18"), name)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("net", ["SmallVGG", "CifarResNet20"])
def test_one_rule_for_all_layers_with_weights(zennit, net, name):
    model, x = network(net), images(net)
    seed = torch.randn(3, 10, dtype=torch.float64)
    theirs = zennit_attribution(model, x, seed, theirs_by_rule(zennit, name, RULES[name]))
    assert difference(lrp(model, x, seed, composite=ours_by_rule(name, RULES[name])), theirs) < TOLERANCE


@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("net", ["SmallVGG", "CifarResNet20"])
def test_float32_is_about_as_near_to_float64_as_zennits(zennit, net, name):
    model, x = network(net), images(net)
    seed, narrow = seed_of_largest(model, x), copy.deepcopy(model).float()
    exact = zennit_attribution(model, x, seed, theirs_by_name(zennit, name, COMPOSITES[name]))
    theirs = zennit_attribution(narrow, x.float(), seed.float(), theirs_by_name(zennit, name, COMPOSITES[name]))
    ours = lrp(narrow, x.float(), seed.float(), composite=composites.COMPOSITES[name](**COMPOSITES[name]))
    assert ours.dtype == torch.float32
    assert difference(ours.double(), exact) <= max(TOLERANCE, 4 * difference(theirs.double(), exact))


@pytest.mark.parametrize("name", COMPOSITES)
def test_trained_cifar_resnet(zennit, weights, name):
    model = cifar_resnet20(weights.parent).double().requires_grad_(False)
    _agrees(zennit, model, images("CifarResNet20"), name)


def squeezenet(weights):
    model = SqueezeNet()
    model.load_state_dict(load_file(weights / "squeezenet1_1.safetensors"))
    return model.double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", COMPOSITES)
def test_trained_squeezenet(zennit, weights, name):
    _agrees(zennit, squeezenet(weights), images("SqueezeNet", 2), name)


@pytest.mark.extended
@pytest.mark.parametrize("name", COMPOSITES)
def test_trained_squeezenet_at_its_full_size(zennit, weights, name):
    _agrees(zennit, squeezenet(weights), torch.randn(2, 3, 224, 224, dtype=torch.float64), name)


def _agrees(zennit, model, x, name):
    seed = seed_of_largest(model, x)
    theirs = zennit_attribution(model, x, seed, theirs_by_name(zennit, name, COMPOSITES[name]))
    ours = lrp(model, x, composite=composites.COMPOSITES[name](**COMPOSITES[name]))
    assert difference(ours, theirs) < TOLERANCE
