"""Every rule for affine layers against the dense matrix of the layer, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from affine_by_hand import by_hand, matrix_and_bias
from made_of import Made, close
from torch import nn

from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types

RULES = {
    "epsilon": lambda zero: rules.Epsilon(zero_params=zero),
    "z_plus": lambda zero: rules.ZPlus(zero_params=zero),
    "alpha1_beta0": lambda zero: rules.AlphaBeta(1, 0, zero_params=zero),
    "alpha2_beta1": lambda zero: rules.AlphaBeta(2, 1, zero_params=zero),
    "gamma": lambda zero: rules.Gamma(0.3, zero_params=zero),
    "w_square": lambda zero: rules.WSquare(zero_params=zero),
    "flat": lambda zero: rules.Flat(zero_params=zero),
    "z_box": lambda zero: rules.ZBox(-1.5, 2.5, zero_params=zero),
}
LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "linear, 3 dimensions": (lambda: nn.Linear(4, 5), (3, 4)),
    "no bias": (lambda: nn.Linear(7, 5, bias=False), (7,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 6, 5)),
    "conv2d, same": (lambda: nn.Conv2d(2, 4, (3, 2), padding="same"), (2, 4, 5)),
    "conv2d, dilated groups": (lambda: nn.Conv2d(4, 6, 2, dilation=2, padding=(1, 2), groups=2), (4, 5, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, bias=False), (3, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), (2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 3, 4)),
    "transposed groups": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, dilation=2), (4, 3, 3)),
}
SIGNS = {"both signs": torch.randn, "non-negative": lambda *size, **kw: torch.randn(*size, **kw).clamp(min=0)}


def layer_and_input(name, signs="both signs"):
    make, shape = LAYERS[name]
    return make().double(), SIGNS[signs](3, *shape, dtype=torch.float64)


def expected(rule, layer, x, relevance, zero):
    a, b = matrix_and_bias(layer, x.shape[1:])
    rule = "z_plus" if rule == "alpha1_beta0" else rule
    return by_hand(rule, a, b, x.flatten(1), relevance.flatten(1), keep_bias=zero is None).view(x.shape)


def random_norm(kind, channels):
    norm = kind(channels).double().eval()
    for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, -2, 2)):
        nn.init.uniform_(tensor, low, high)
    nn.init.uniform_(norm.bias, -1, 1)
    return norm


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(rule, name):
    for zero in (None, "bias"):
        for signs in SIGNS:
            layer, x = layer_and_input(name, signs)
            relevance = torch.randn_like(layer(x).detach())
            composite = composites.LayerMapComposite([(types.Linear, RULES[rule](zero))])
            got = lrp(layer, x, relevance, composite=composite)
            assert close(got, expected(rule, layer, x, relevance, zero)), (zero, signs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_after_a_relu_whose_values_are_known_to_be_non_negative(rule, name):
    for zero in (None, "bias"):
        layer, x = layer_and_input(name, "non-negative")
        relevance = torch.randn_like(layer(x).detach())
        composite = composites.LayerMapComposite([(nn.ReLU, rules.Pass()), (types.Linear, RULES[rule](zero))])
        got = lrp(nn.Sequential(nn.ReLU(), layer), x, relevance, composite=composite)
        assert close(got, expected(rule, layer, x, relevance, zero)), zero


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("first", [nn.ReLU, nn.Identity])
def test_a_layer_whose_negative_outputs_a_relu_cuts(rule, name, first):
    layer, x = layer_and_input(name, "non-negative" if first is nn.ReLU else "both signs")
    hidden = layer(x).detach().relu()
    top = nn.Linear(hidden[0].numel(), 4).double()
    seed = torch.randn(3, 4, dtype=torch.float64)
    by_name = composites.NameMapComposite([(["1"], RULES[rule](None)), (["4"], rules.Epsilon())])
    composite = composites.MixedComposite([by_name, composites.LayerMapComposite(composites.layer_map_base())])
    got = lrp(nn.Sequential(first(), layer, nn.ReLU(), nn.Flatten(), top), x, seed, composite=composite)
    relevance = expected("epsilon", top, hidden.flatten(1), seed, None)
    assert close(got, expected(rule, layer, x, relevance, None))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "linear, 3 dimensions"])
@pytest.mark.parametrize("first", [nn.ReLU, nn.Identity])
def test_a_batch_norm_belongs_to_the_layer_before_it(rule, name, first):
    layer, x = layer_and_input(name, "non-negative" if first is nn.ReLU else "both signs")
    y = layer(x)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[y.dim()]
    both = nn.Sequential(layer, random_norm(kind, y.shape[1]))
    relevance = torch.randn_like(y.detach())
    for zero in (None, "bias"):
        rule_map = [(nn.ReLU, rules.Pass()), (types.BatchNorm, rules.Pass()), (types.Linear, RULES[rule](zero))]
        composite = composites.LayerMapComposite(rule_map)
        got = lrp(nn.Sequential(first(), *both), x, relevance, composite=composite)
        assert close(got, expected(rule, both, x, relevance, zero)), zero


@pytest.mark.parametrize("outputs", [4, 6])
@pytest.mark.parametrize("rule", ["epsilon", "z_plus", "gamma"])
def test_a_batch_norm_over_another_dimension_than_the_outputs_of_a_linear_layer_stands_alone(rule, outputs):
    """Its channels are dimension 1 of [B, 4, outputs]; relevance passes it, as it does where no layer precedes."""
    linear, norm, x = nn.Linear(5, outputs).double(), random_norm(nn.BatchNorm1d, 4), torch.randn(3, 4, 5).double()
    relevance = torch.randn(3, 4, outputs, dtype=torch.float64)
    rule_map = [(types.BatchNorm, rules.Pass()), (types.Linear, RULES[rule](None))]
    got = lrp(nn.Sequential(linear, norm), x, relevance, composite=composites.LayerMapComposite(rule_map))
    assert close(got, expected(rule, linear, x, relevance, None))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("view", ["transposed", "first rows", "whole"])
def test_the_same_weight_seen_in_two_ways(rule, view):
    """They begin at the same address."""
    linear, x = nn.Linear(5, 5, bias=False), torch.randn(3, 5).double()
    second = {"transposed": lambda w: w.t(), "first rows": lambda w: w[:3], "whole": lambda w: w}[view]
    model = Made(lambda self, x: F.linear(self.linear(x), second(self.linear.weight)), linear=linear)
    seed = torch.randn_like(model(x).detach())
    between = expected(rule, lambda x: F.linear(x, second(linear.weight)), linear(x).detach(), seed, None)
    got = lrp(model, x, seed, composite=composites.LayerMapComposite([(nn.Linear, RULES[rule](None))]))
    assert close(got, expected(rule, linear, x, between, None))


@pytest.mark.parametrize("rule", RULES)
def test_parameters_of_a_module_of_another_kind_make_the_layer_that_the_call_is(rule):
    linear, x = nn.Linear(5, 4).double(), torch.randn(3, 5).double()
    own = {"w": linear.weight, "b": linear.bias}
    model, seed = Made(lambda self, x: F.linear(x, self.w, self.b), **own), torch.randn(3, 4).double()
    got = lrp(model, x, seed, composite=composites.LayerMapComposite([(nn.Linear, RULES[rule](None))]))
    assert close(got, expected(rule, linear, x, seed, None))


def test_a_convolution_whose_weight_is_computed_gets_the_rule_of_its_name():
    plain, x = nn.Conv2d(2, 3, 3).double(), torch.randn(2, 2, 5, 5).double()
    normed = torch.nn.utils.parametrizations.weight_norm(copy.deepcopy(plain))
    seed = torch.randn(2, 3, 3, 3).double()
    first = composites.EpsilonPlusFlat()
    assert close(lrp(normed, x, seed, composite=first), lrp(plain, x, seed, composite=first))


def test_an_output_of_0_passes_nothing_by_gamma():
    layer = nn.Linear(2, 2, bias=False).double()
    layer.weight.data = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double()
    x, seed = torch.ones(1, 2).double(), torch.tensor([[5.0, 0.0]]).double()
    composite = composites.LayerMapComposite([(nn.ReLU, rules.Pass()), (nn.Linear, rules.Gamma())])
    for model in (layer, nn.Sequential(nn.ReLU(), layer)):
        assert lrp(model, x, seed, composite=composite).tolist() == [[0.0, 0.0]]


def test_bounds_of_z_box_by_channel():
    layer, x = layer_and_input("conv2d")
    relevance = torch.randn_like(layer(x).detach())
    low, high = (torch.tensor(bound).view(1, 3, 1, 1) for bound in ([-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]))
    got = lrp(layer, x, relevance, composite=composites.LayerMapComposite([(nn.Conv2d, rules.ZBox(low, high))]))
    a, _ = matrix_and_bias(layer, x.shape[1:])
    low, high = (bound.double().expand_as(x).flatten(1)[:, :, None] for bound in (low, high))
    boxed = x.flatten(1)[:, :, None] * a - low * a.clamp(min=0) - high * a.clamp(max=0)
    share = torch.einsum("bij,bj->bi", boxed, relevance.flatten(1) / (boxed.sum(1) + 1e-6))
    assert (boxed.sum(1) > 0).all()
    assert close(got, share.view(x.shape))


def test_a_stabilizer_may_be_a_function_of_z():
    layer, x = layer_and_input("conv2d")
    relevance = torch.randn_like(layer(x).detach())
    for rule in (rules.Epsilon, rules.ZPlus, rules.AlphaBeta, rules.Gamma, rules.WSquare, rules.Flat):
        name = "epsilon" if rule is rules.Epsilon else "stabilizer"
        number, function = rule(**{name: 0.5}), rule(**{name: lambda z: torch.where(z < 0, z - 0.5, z + 0.5)})
        for model, seed in ((layer, relevance), (nn.Sequential(layer, nn.ReLU(), nn.MaxPool2d(2)), None)):
            seed = torch.randn_like(model(x).detach()) if seed is None else seed
            by_number, by_function = (lrp(model, x, seed, composite=_with(r)) for r in (number, function))
            assert close(by_function, by_number), rule


def _with(rule):
    return composites.LayerMapComposite([*composites.layer_map_base(), (types.Linear, rule)])
