"""An operation without a rule is named once relevance reaches it; unknown="gradient" passes."""

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, conv, layers
from torch import nn

from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types
from netinterp_fast.interpose import NoRuleError

WITHOUT_RULE = {
    "mul": lambda y: y * (y + 1),
    "pow": lambda y: y**2,
    "square": lambda y: y.square(),
    "exp": lambda y: y.exp(),
    "sqrt": lambda y: y.abs().sqrt(),
    "div": lambda y: y / (1 + y.detach().abs() + y),
    "reciprocal": lambda y: (y + 10).reciprocal(),
    "rfft": lambda y: torch.fft.rfft(y).real,
    "softmax": lambda y: y.softmax(1),
    "log_softmax": lambda y: F.log_softmax(y, 1),
    "norm": lambda y: y / torch.linalg.vector_norm(y, dim=1, keepdim=True),
    "normalize": lambda y: F.normalize(y),
    "einsum": lambda y: torch.einsum("bchw,bchw->bc", y, y),
    "cumsum": lambda y: y.cumsum(1),
    "matmul": lambda y: y @ y.transpose(2, 3),
    "var": lambda y: y.var((2, 3)),
}
NAMED = {"sqrt": "sqrt|abs", "div": "div", "rfft": "fft|real", "norm": "div|norm"}
AFTERWARDS = {
    "nothing": lambda s, y: y,
    "flatten": lambda s, y: y.flatten(1),
    "sum": lambda s, y: y.flatten(1) + 1,
    "linear": lambda s, y: s.top(y.flatten(1)[:, :4]),
    "sigmoid": lambda s, y: torch.sigmoid(y),
    "relu": lambda s, y: y.relu(),
    "relu and linear": lambda s, y: s.top(y.flatten(1)[:, :4].relu()),
    "batch norm": lambda s, y: s.norm(y.flatten(1)[:, :4]),
}
RULES = [rules.Epsilon(), rules.ZPlus(), rules.Flat()]


@pytest.mark.parametrize("operation", WITHOUT_RULE)
@pytest.mark.parametrize("after", AFTERWARDS)
def test_the_error_names_the_operation_and_the_layer_before_it(operation, after):
    parts = {"first": conv(), "top": nn.Linear(4, 3), "norm": nn.BatchNorm1d(4)}
    model = Made(lambda s, x: AFTERWARDS[after](s, WITHOUT_RULE[operation](s.first(x))), **parts)
    x = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    seed = torch.randn_like(model(x).detach())
    for rule in RULES:
        with pytest.raises(NoRuleError, match=NAMED.get(operation, operation)) as error:
            lrp(model, x, seed, composite=layers((types.Linear, rule)))
        assert "'first'" in str(error.value)
    relevance = lrp(model, x, seed, composite=layers((types.Linear, rules.Epsilon()), unknown="gradient"))
    assert relevance.isfinite().all()
    assert relevance.any() or (operation == "log_softmax" and "relu" in after)  # which has no positive value


def test_the_gradient_is_passed():
    x, seed = torch.rand(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    model = Made(lambda s, x: x**3)
    assert close(lrp(model, x, seed, composite=layers(unknown="gradient")), seed * 3 * x**2)
    assert close(lrp(model, x, seed, composite=composites.DeconvNet()), seed * 3 * x**2)


def test_an_operation_that_no_relevance_reaches_is_no_error():
    model = Made(lambda s, x: s.a(x) + s.a(x).detach() ** 2 * 0 + (x * x).detach().mean(), a=conv())
    assert lrp(model, torch.rand(2, 3, 6, 8).double(), torch.ones(2, 4, 4, 6).double()).isfinite().all()
    unused = Made(lambda s, x: (torch.fft.rfft(x), s.a(x))[1], a=conv())
    assert lrp(unused, torch.rand(2, 3, 6, 8).double(), torch.ones(2, 4, 4, 6).double()).isfinite().all()


def test_a_rule_that_does_not_fit_its_layer_is_named():
    x, seed = torch.rand(2, 3, 6, 8), torch.ones(2, 4, 4, 6)
    model = nn.Sequential(conv(), nn.ReLU())
    with pytest.raises(TypeError, match="layer '0' has the rule Pass"):
        lrp(model, x, seed, composite=composites.LayerMapComposite([(nn.Conv2d, rules.Pass())]))
    with pytest.raises(TypeError, match=r"relu .* has the rule Epsilon"):
        lrp(model, x, seed, composite=composites.LayerMapComposite([(nn.ReLU, rules.Epsilon())]))
