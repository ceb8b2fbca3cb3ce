"""create_graph: derivatives of relevance with respect to the inputs, against finite differences."""

import pytest
import torch
from made_of import Made, close, layers
from torch import nn

from netinterp_fast import lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types

RULES = {
    "epsilon": rules.Epsilon(0.1),
    "epsilon, no biases": rules.Epsilon(0.1, "bias"),
    "z_plus": rules.ZPlus(0.1),
    "alpha2_beta1": rules.AlphaBeta(2, 1, 0.1),
    "gamma": rules.Gamma(0.25, 0.1),
    "w_square": rules.WSquare(0.1),
    "flat": rules.Flat(0.1),
    "z_box": rules.ZBox(-4, 4, 0.1),
}
NETS = {
    "one layer": lambda: nn.Linear(6, 4),
    "smooth": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 4)),
    "relu": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)),
    "softplus, norm": lambda: nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Softplus(), nn.Linear(5, 4), nn.LayerNorm(4)
    ),
    "sum": lambda: Made(lambda s, x: s.b(torch.tanh(s.a(x)) + x[:, :5]), a=nn.Linear(6, 5), b=nn.Linear(5, 4)),
    "pool": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.SiLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(8, 4)
    ),
}


@pytest.mark.parametrize("seed", ["one", "output", "tensor"])
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", RULES)
def test_against_finite_differences(net, rule, seed):
    model = NETS[net]().double().eval()
    composite = layers((types.Linear, RULES[rule]), stabilizer=0.1)
    x = torch.randn(2, 6, dtype=torch.float64)
    weights = torch.randn(2, 6, dtype=torch.float64)
    fixed = torch.randn(2, 4, dtype=torch.float64)
    options = {"target": fixed} if seed == "tensor" else {"target": 1, "seed": seed}

    def total(x, **more):
        return (lrp(model, x, composite=composite, **options, **more) * weights).sum()

    asking = x.clone().requires_grad_()
    value = total(asking, create_graph=True)
    assert close(value.detach(), total(x))
    (derivative,) = torch.autograd.grad(value, asking, allow_unused=True)
    derivative = torch.zeros_like(x) if derivative is None else derivative
    step, numeric = 1e-6, torch.zeros_like(x)
    for i in range(x.numel()):
        shift = torch.zeros_like(x)
        shift.view(-1)[i] = step
        numeric.view(-1)[i] = (total(x + shift) - total(x - shift)) / (2 * step)
    assert (derivative - numeric).abs().max() <= 1e-4 * max(1, float(numeric.abs().max()))


@pytest.mark.parametrize("rule", RULES)
def test_the_value_is_that_without_a_graph(rule):
    model, x = NETS["relu"]().double(), torch.randn(2, 6, dtype=torch.float64)
    composite = layers((types.Linear, RULES[rule]))
    assert close(lrp(model, x.clone().requires_grad_(), composite=composite, create_graph=True).detach(),
                 lrp(model, x, composite=composite))  # fmt: skip
    assert close(lrp(model, x, composite=composite, create_graph=True).detach(), lrp(model, x, composite=composite))


def test_the_graph_reaches_into_what_made_the_input():
    first, model = nn.Linear(6, 6).double(), NETS["smooth"]().double()
    x = first(torch.randn(2, 6, dtype=torch.float64))
    relevance = lrp(model, x, 0, composite="epsilon", create_graph=True)
    relevance.square().sum().backward()
    assert first.weight.grad.isfinite().all()
    assert first.weight.grad.any()
