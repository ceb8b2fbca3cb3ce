"""Operations in place give what the same model without them gives, also where others use the tensor before or after."""

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, conv, layers
from torch import nn

from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types


def add_(s, x):
    y = s.a(x)
    y += s.b(x)
    return y


def method_(s, x):
    return s.a(x).add_(s.b(x), alpha=2).mul_(0.5).sub_(s.a(x)).div_(3)


def relu_then_others(s, x):
    y = s.a(x)
    z = F.relu(y, inplace=True)
    return z + y  # y has changed too


def used_before(s, x):
    y = s.a(x)
    before = y.mean((2, 3), keepdim=True)
    y.relu_()
    return y + before


def pooled_before(s, x):
    y = s.a(x)
    before = F.max_pool2d(y, 3, 1, 1)
    torch.relu_(y)
    return s.c(y) + s.c(before)


def layer_before(s, x):
    y = s.a(x)
    before = s.c(y)
    F.relu_(y)
    return s.c(y) + before


def set_item(s, x):
    y = s.a(x)
    y[:, 0] = s.b(x)[:, 1]
    return y


def set_constant(s, x):
    y = F.relu(s.a(x))
    y[:, 1:3, 2] = -1.0
    return s.c(y)


def add_to_item(s, x):
    y = s.a(x)
    y[:, 0] += s.b(x)[:, 1]
    return y


def scale_item(s, x):
    y = F.relu(s.a(x))
    y[:, 0] *= 2
    return y


def into_a_buffer(s, x):
    y = torch.zeros(2, 4, 4, 6).double()
    y[:, :2] = s.a(x)[:, :2]
    y[:, 2:] = s.b(x)[:, 2:]
    return y


def fill_(s, x):
    return F.relu(s.a(x)).masked_fill_(torch.eye(4, 6).bool(), -1.0)


PAIRS = {
    "+=": (add_, lambda s, x: s.a(x) + s.b(x)),
    "methods": (method_, lambda s, x: ((s.a(x) + 2 * s.b(x)) * 0.5 - s.a(x)) / 3),
    "relu": (lambda s, x: s.c(F.relu(s.a(x), inplace=True)), lambda s, x: s.c(F.relu(s.a(x)))),
    "module": (lambda s, x: s.c(nn.ReLU(inplace=True)(s.a(x))), lambda s, x: s.c(F.relu(s.a(x)))),
    "other activations": (
        lambda s, x: F.leaky_relu_(s.c(F.silu(F.elu_(s.a(x)), inplace=True)).tanh_(), 0.1),
        lambda s, x: F.leaky_relu(s.c(F.silu(F.elu(s.a(x)))).tanh(), 0.1),
    ),
    "relu, then others": (relu_then_others, lambda s, x: F.relu(s.a(x)) + F.relu(s.a(x))),
    "mean before": (used_before, lambda s, x: (lambda y: F.relu(y) + y.mean((2, 3), keepdim=True))(s.a(x))),
    "pool before": (pooled_before, lambda s, x: (lambda y: s.c(F.relu(y)) + s.c(F.max_pool2d(y, 3, 1, 1)))(s.a(x))),
    "layer before": (layer_before, lambda s, x: (lambda y: s.c(F.relu(y)) + s.c(y))(s.a(x))),
    "x[i] = y": (set_item, lambda s, x: torch.cat([s.b(x)[:, 1:2], s.a(x)[:, 1:]], 1)),
    "x[i] = constant": (
        set_constant,
        lambda s, x: s.c(torch.where(torch.tensor(MASK), -1.0, F.relu(s.a(x)))),
    ),
    "x[i] += y": (add_to_item, lambda s, x: torch.cat([s.a(x)[:, :1] + s.b(x)[:, 1:2], s.a(x)[:, 1:]], 1)),
    "x[i] *= 2": (scale_item, lambda s, x: (lambda y: torch.cat([y[:, :1] * 2, y[:, 1:]], 1))(F.relu(s.a(x)))),
    "a buffer": (into_a_buffer, lambda s, x: torch.cat([s.a(x)[:, :2], s.b(x)[:, 2:]], 1)),
    "masked_fill_": (fill_, lambda s, x: F.relu(s.a(x)).masked_fill(torch.eye(4, 6).bool(), -1.0)),
}
MASK = [[[[c in (1, 2) and r == 2] * 6 for r in range(4)] for c in range(4)]]


def single(rule, **options):
    return layers((types.Linear, rule), **options)


COMPOSITES = {
    "epsilon": single(rules.Epsilon()),
    "z_plus": single(rules.ZPlus()),
    "gamma": single(rules.Gamma()),
    "box": single(rules.ZBox(-3, 3)),
    "flat": single(rules.Flat()),
    "gradient": single(rules.ZPlus(), unknown="gradient"),
    "guided": composites.GuidedBackprop(),
    "excitation": composites.ExcitationBackprop(),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("composite", COMPOSITES)
def test_in_place_or_not(name, composite):
    parts = {"a": conv(), "b": conv(bias=True), "c": conv(4, 4, padding=1)}
    in_place, function = (Made(f, **parts) for f in PAIRS[name])
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    seed = torch.randn_like(function(x).detach())
    assert close(in_place(x).detach(), function(x).detach())
    expected = lrp(function, x, seed, composite=COMPOSITES[composite])
    for _ in range(2):
        assert close(lrp(in_place, x, seed, composite=COMPOSITES[composite]), expected)


@pytest.mark.parametrize("composite", ["z_plus", "box", "flat", "gradient"])
@pytest.mark.parametrize("use", ["sin", "layer", "square"])
def test_a_relu_in_place_after_another_use_of_the_same_tensor(composite, use):
    """What backward steps keep of a tensor is its value before the change."""
    uses = {"sin": torch.sin, "layer": None, "square": lambda t: t * t}
    if use != "layer" and composite != "gradient":
        pytest.skip("an operation without a rule")

    def function(inplace):
        def run(s, x):
            y = s.a(x)
            other = s.c(y) if use == "layer" else uses[use](y)
            return F.relu(y, inplace=inplace) + other

        return run

    parts = {"a": conv(), "c": conv(4, 4, padding=1)}
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    seed = torch.randn(2, 4, 4, 6, dtype=torch.float64)
    results = [lrp(Made(function(i), **parts), x, seed, composite=COMPOSITES[composite]) for i in (True, False)]
    assert close(*results)


@pytest.mark.parametrize("composite", ["epsilon", "z_plus", "box"])
@pytest.mark.parametrize("first", [lambda x: F.relu(x, inplace=True), lambda x: x.mul_(2), lambda x: x.sub_(0.5)])
def test_the_callers_input_is_not_changed(composite, first):
    model = Made(lambda s, x: s.a(first(x)), a=conv())
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    before = x.clone()
    lrp(model, x, torch.ones(2, 4, 4, 6).double(), composite=COMPOSITES[composite])
    assert torch.equal(x, before)


@pytest.mark.parametrize("composite", ["epsilon", "box", "flat"])
def test_the_input_is_rectified_in_place_after_the_first_layer_has_seen_it(composite):
    def function(inplace):
        return lambda s, x: s.a(x) + s.b(F.relu(x, inplace=inplace))

    parts = {"a": conv(), "b": conv()}
    x, seed = torch.randn(2, 3, 6, 8, dtype=torch.float64), torch.randn(2, 4, 4, 6, dtype=torch.float64)
    results = [lrp(Made(function(i), **parts), x.clone(), seed, composite=COMPOSITES[composite]) for i in (True, False)]
    assert close(*results)


def test_relu_in_place_saves_the_memory_of_a_copy_only():
    """Weights, buffers and hidden tensors that the model keeps are as a plain call leaves them."""
    model = Made(lambda s, x: _kept(s, F.relu(s.a(x), inplace=True)), a=conv())
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    output = model(x).detach()
    kept = model.kept.detach().clone()
    lrp(model, x, torch.ones_like(output), composite="epsilon_plus")
    assert torch.equal(model.kept.detach(), kept)


def _kept(module, y):
    module.kept = y
    return y
