"""Attributions by `compat.zennit`, beside Zennit's."""

import copy
import importlib

import pytest
import torch
from torch import nn

from netinterp_fast.compat.zennit.attribution import Gradient

COMPOSITES = (
    "epsilon_gamma_box epsilon_plus epsilon_plus_flat epsilon_alpha2_beta1 epsilon_alpha2_beta1_flat deconvnet "
    "guided_backprop excitation_backprop beta_smooth"
).split()


def in_package(name, submodules=("composites", "rules", "types", "layer", "canonizers", "attribution")):
    """A package's submodules as attributes of one object."""
    return type(name, (), {part: importlib.import_module(f"{name}.{part}") for part in submodules})


OURS = in_package("netinterp_fast.compat.zennit")


@pytest.fixture
def theirs(zennit):
    return in_package("zennit")


def named(package, name, **options):
    options |= {"low": -3.0, "high": 3.0} if name == "epsilon_gamma_box" else {}
    return package.composites.COMPOSITES[name](**options)


def close(ours, theirs):
    return (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()


@pytest.fixture
def check(theirs, for_zennit, inputs):
    """Compare the attributions of composites made by the same function of either package."""

    def compare(model, make, **call):
        merge = [theirs.canonizers.SequentialMergeBatchNorm()]
        before = copy.deepcopy(model.state_dict())
        output, relevance = OURS.attribution.Gradient(model, make(OURS))(inputs, **call)
        peer = make(theirs)
        peer.canonizers = merge
        with theirs.attribution.Gradient(for_zennit(model), peer) as attributor:
            expected_output, expected = attributor(inputs, **call)
        assert close(output, expected_output)
        assert close(relevance, expected)
        assert expected.abs().max() > 0
        assert_unchanged(model, before)

    return compare


def assert_unchanged(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(after[name].equal(before[name]) for name in before)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)


@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_give_zennits_numbers(check, model, name):
    check(model, lambda package: named(package, name))


@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "excitation_backprop"])
def test_options_of_composites(check, model, name):
    def make(package):
        special = [(nn.Linear, package.rules.Gamma(0.5))]
        return named(package, name, zero_params="bias", stabilizer=1e-3, layer_map=special)

    check(model, make)


def test_first_map(check, model):
    check(model, lambda package: named(
        package, "epsilon_plus_flat", first_map=[(package.types.Convolution, package.rules.WSquare())]
    ))  # fmt: skip


@pytest.mark.parametrize("attr_output", [
    torch.eye(4, dtype=torch.float64)[[2, 0, 1]],
    lambda output: output * torch.eye(4, dtype=output.dtype)[1],
])  # fmt: skip
def test_attr_output(check, model, attr_output):
    check(model, lambda package: named(package, "epsilon_plus"), attr_output=attr_output)


def test_attr_output_of_the_constructor(model, inputs):
    seed = torch.ones(3, 4, dtype=torch.float64)
    composite = named(OURS, "epsilon_plus")
    expected = Gradient(model, composite)(inputs, seed)[1]
    assert Gradient(model, composite, attr_output=seed)(inputs)[1].equal(expected)
    assert Gradient(model, composite, attr_output=torch.ones_like)(inputs)[1].equal(expected)
    assert Gradient(model, composite, attr_output=torch.zeros_like)(inputs, seed)[1].equal(expected)


def test_gradient_without_composite(theirs, model, inputs):
    output, gradient = Gradient(model)(inputs)
    expected_output, expected = theirs.attribution.Gradient(model)(inputs)
    assert output.equal(expected_output)
    assert close(gradient, expected)
    with Gradient(model) as attributor:
        assert attributor(inputs)[1].equal(gradient)


def layer_names(model):
    """(first convolution, one further in, its ReLU)"""
    if hasattr(model, "stem"):
        return "stem.0", "conv2", "relu1"
    return "features.0", "features.4", "features.6"


def by_name(package, model):
    first, second, relu = layer_names(model)
    return [
        ([first], package.rules.WSquare()),
        ([second, "absent"], package.rules.AlphaBeta(1, 0)),
        ([relu], package.rules.ReLUGuidedBackprop()),
    ]


def by_type(package):
    return [
        *package.composites.layer_map_base(),
        (package.types.Convolution, package.rules.Gamma(0.3)),
        (package.types.Linear, package.rules.Epsilon(1e-3)),
    ]


def test_rules_by_name(check, model):
    check(model, lambda package: package.composites.NameMapComposite(by_name(package, model)))


def test_rules_by_name_for_activations_alone(check, model):
    name = layer_names(model)[2]
    check(model, lambda package: package.composites.NameMapComposite([([name], package.rules.ReLUDeconvNet())]))


def test_rules_by_name_then_type(check, model):
    check(model, lambda package: package.composites.NameLayerMapComposite(by_name(package, model), by_type(package)))


def test_rules_by_type_alone(check, model):
    check(model, lambda package: package.composites.LayerMapComposite(by_type(package)))
    check(model, lambda package: package.composites.NameLayerMapComposite([], by_type(package)))


def test_mixed_composites(check, model):
    def make(package):
        _, second, _ = layer_names(model)
        return package.composites.MixedComposite([
            package.composites.NameMapComposite([([second], package.rules.Epsilon(1e-2))]),
            package.composites.SpecialFirstLayerMapComposite([], [(package.types.Linear, package.rules.Flat())]),
            named(package, "epsilon_alpha2_beta1"),
        ])  # fmt: skip

    check(model, make)


def test_what_is_not_mapped_passes_the_gradient(check, model):
    check(model, lambda package: package.composites.LayerMapComposite([(nn.Linear, package.rules.Epsilon())]))
    check(model, lambda package: package.composites.LayerMapComposite([(package.layer.Sum, package.rules.Norm())]))


class Unusual(nn.Module):
    """Layers that zennit's composites do not map, an operation of two activations among them."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.mish, self.up = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Mish(), nn.Upsample(9)
        self.head, self.softmax = nn.Linear(324, 4), nn.Softmax(1)

    def forward(self, x):
        x = self.up(self.mish(self.norm(self.conv(x))))
        return self.softmax(self.head((x * x).flatten(1)))


@pytest.mark.parametrize("name", COMPOSITES)
def test_unmapped_layers(check, name):
    torch.manual_seed(1)
    check(Unusual().double().eval(), lambda package: named(package, name))


class Doubled(nn.ReLU):
    def forward(self, x):
        return 2 * super().forward(x)


def test_own_layer_types(check):
    torch.manual_seed(1)
    layers = [nn.Linear(8, 6), Doubled(), nn.Linear(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 8 * 6, 4)]
    net = nn.Sequential(*layers).double()
    check(net, lambda package: package.composites.LayerMapComposite([
        (Doubled, package.rules.ReLUDeconvNet()), (nn.Linear, package.rules.Epsilon())
    ]))  # fmt: skip


def test_zennits_own_canonizers(theirs, model, inputs, for_zennit):
    """They change the model within the call alone."""
    before = copy.deepcopy(model.state_dict())
    merge = theirs.canonizers.SequentialMergeBatchNorm
    prepared = for_zennit(model)
    expected = theirs.attribution.Gradient(prepared, theirs.composites.EpsilonPlus(canonizers=[merge()]))(inputs)[1]
    composite = OURS.composites.EpsilonPlus(canonizers=[merge(), OURS.canonizers.SequentialMergeBatchNorm()])
    assert close(Gradient(prepared, composite)(inputs)[1], expected)
    Gradient(model, composite)(inputs)
    assert_unchanged(model, before)
