"""Relevance is neither made nor lost: what arrives at the input, and what biases and the stabiliser take by hand."""

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, conv, layers
from relevance_nets import SmallVGG
from torch import nn

from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types

TINY = 1e-12  # a stabiliser that takes nothing that counts
RULES = {
    "epsilon": rules.Epsilon(TINY),
    "z_plus": rules.ZPlus(TINY),
    "alpha2_beta1": rules.AlphaBeta(2, 1, TINY),
    "gamma": rules.Gamma(0.25, TINY),
}
FIRST_RULES = RULES | {"w_square": rules.WSquare(TINY), "flat": rules.Flat(TINY), "z_box": rules.ZBox(-4.0, 4.0, TINY)}


def without_bias() -> nn.Sequential:
    return nn.Sequential(
        conv(3, 8, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 16, bias=False), nn.ReLU(), nn.Linear(16, 4, bias=False),
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_network_without_biases_hands_the_output_to_the_input(name):
    model, x = without_bias(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    relevance = lrp(model, x, composite=layers((types.Linear, RULES[name]), stabilizer=TINY))
    torch.testing.assert_close(relevance.sum((1, 2, 3)), model(x).amax(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FIRST_RULES)
def test_a_rule_for_the_pixels(name):
    model, x = without_bias(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    relevance = lrp(
        model, x, composite=composites.MixedComposite([
            composites.NameMapComposite([(["0"], FIRST_RULES[name])]),
            layers((types.Linear, rules.Epsilon(TINY)), stabilizer=TINY),
        ])
    )  # fmt: skip
    torch.testing.assert_close(relevance.sum((1, 2, 3)), model(x).amax(1), rtol=1e-6, atol=1e-6)


def test_composites_of_a_network_without_biases_conserve():
    model, x = without_bias(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for make in (composites.EpsilonPlus, composites.EpsilonPlusFlat, composites.EpsilonEverywhere):
        relevance = lrp(model, x, composite=make(epsilon=TINY, stabilizer=TINY))
        torch.testing.assert_close(relevance.sum((1, 2, 3)), model(x).amax(1), rtol=1e-6, atol=1e-6)


def test_the_z_rule_of_a_relu_network_without_biases_is_input_times_gradient():
    model, x = without_bias(), torch.randn(3, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    relevance = lrp(model, x, 1, composite=layers((types.Linear, rules.Epsilon(0)), stabilizer=0))
    assert close(relevance, (x * gradient).detach(), 1e-9)


@pytest.mark.parametrize("epsilon", [1e-6, 0.25])
def test_what_biases_and_epsilon_take_layer_by_layer(epsilon):
    """R below = R above - R (b + epsilon sign z) / (z + epsilon sign z), summed over the outputs of a layer."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    x = torch.randn(4, 6, dtype=torch.float64)
    composite = layers((nn.Linear, rules.Epsilon(epsilon)))
    hidden = [x]
    for layer in model:
        hidden.append(layer(hidden[-1]).detach())
    seed = torch.randn(4, 5, dtype=torch.float64)
    above = seed
    for start in (4, 2, 0):
        z = hidden[start + 1]
        absorbed = (above * (model[start].bias + epsilon * z.sign()) / (z + epsilon * z.sign())).sum(1)
        below = lrp(model[start:], hidden[start], seed, composite=composite)
        torch.testing.assert_close(below.sum(1) + absorbed, above.sum(1), rtol=1e-5, atol=1e-5)
        above = below
    assert close(above, lrp(model, x, seed, composite=composite))


@pytest.mark.parametrize("rule", ["z_plus", "gamma", "alpha2_beta1"])
def test_rules_without_bias_conserve_in_a_network_with_biases(rule):
    kinds = {"z_plus": rules.ZPlus, "gamma": rules.Gamma, "alpha2_beta1": rules.AlphaBeta}
    z = rules.ZPlus(stabilizer=TINY, zero_params="bias")
    given = kinds[rule](stabilizer=TINY, zero_params="bias")
    model, x = SmallVGG().double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    relevance = lrp(model, x, composite=layers((types.Convolution, z), (nn.Linear, z), stabilizer=TINY))
    torch.testing.assert_close(relevance.sum((1, 2, 3)), model(x).amax(1), rtol=1e-6, atol=1e-6)
    layer, x = nn.Linear(40, 5).double(), torch.randn(2, 40, dtype=torch.float64)
    seed = torch.randn(2, 5, dtype=torch.float64)
    relevance = lrp(layer, x, seed, composite=layers((nn.Linear, given)))
    torch.testing.assert_close(relevance.sum(1), seed.sum(1), rtol=1e-6, atol=1e-6)


def test_a_sum_shares_in_proportion():
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    model = Made(lambda self, x: x * 3 + x.flip(1))
    z = 3 * x + x.flip(1)
    s = torch.ones_like(z) / z
    assert close(lrp(model, x, torch.ones_like(x), composite=layers(stabilizer=0)), x * (3 * s + s.flip(1)))


@pytest.mark.parametrize("reused", [True, False])
def test_a_sum_by_plus_and_a_reused_module_conserve(reused):
    """Zennit takes the sum for nothing, doubling relevance, and keeps only the last call of a module (see peers)."""
    a = nn.Linear(6, 6, bias=False)
    b = a if reused else nn.Linear(6, 6, bias=False)
    model = Made(lambda self, x: self.top(self.relu(x + self.b(self.relu(self.a(x))))), a=a, b=b, relu=nn.ReLU(),
                 top=nn.Linear(6, 3, bias=False))  # fmt: skip
    x = torch.randn(3, 6, dtype=torch.float64)
    relevance = lrp(model, x, composite=layers((nn.Linear, rules.Epsilon(TINY)), stabilizer=TINY))
    torch.testing.assert_close(relevance.sum(1), model(x).amax(1), rtol=1e-6, atol=1e-6)


def test_a_tensor_used_twice_gets_both_shares():
    model = Made(lambda self, x: F.relu(self.a(x)) + self.b(F.relu(self.a(x))), a=nn.Linear(5, 5, bias=False),
                 b=nn.Linear(5, 5, bias=False))  # fmt: skip
    x = torch.randn(3, 5, dtype=torch.float64)
    h = model.a(x).relu().detach()
    relevance_of_h = lrp(Made(lambda self, h: h + self.b(h), b=model.b), h, composite="epsilon")
    by_hand = lrp(nn.Sequential(model.a, nn.ReLU()), x, relevance_of_h, composite="epsilon")
    target = model(x).argmax(1)
    assert close(lrp(model, x, target, composite="epsilon"), by_hand)
