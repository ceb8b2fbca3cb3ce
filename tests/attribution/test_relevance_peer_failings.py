"""What the peers are known to get wrong, and lrp() does not."""

import copy

import pytest
import torch
from made_of import Made, close, layers
from torch import nn

from netinterp_fast import lrp, rules

TINY = 1e-12
EPSILON = layers((nn.Linear, rules.Epsilon(TINY)), stabilizer=TINY)


def residual():
    return Made(lambda s, x: s.top(s.relu(x + s.a(x))), a=nn.Linear(5, 5, bias=False), relu=nn.ReLU(),
                top=nn.Linear(5, 2, bias=False))  # fmt: skip


def reusing():
    return Made(lambda s, x: s.a(s.relu(s.a(x))), relu=nn.ReLU(), a=nn.Linear(5, 5, bias=False))


def zennit_epsilon(zennit, model, x, seed):
    rule = (zennit.types.Linear, zennit.rules.Epsilon(TINY))
    composite = zennit.composites.LayerMapComposite([*zennit.composites.layer_map_base(TINY), rule])
    with composite.context(model) as prepared:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(prepared(x), x, seed)[0]


def test_a_sum_by_plus_conserves_for_ours_only(zennit):
    model, x = residual(), torch.randn(3, 5, dtype=torch.float64)
    seed = model(x).detach()
    total = seed.sum(1)
    torch.testing.assert_close(lrp(model, x, seed, composite=EPSILON).sum(1), total, rtol=1e-6, atol=1e-6)
    theirs = zennit_epsilon(zennit, model, x, seed).sum(1)
    assert (theirs - total).abs().max() > 1e-3 * total.abs().max()


def test_a_reused_layer_is_two_layers_for_ours_only(zennit):
    model, x = reusing(), torch.randn(3, 5, dtype=torch.float64)
    twice = nn.Sequential(model.a, nn.ReLU(), copy.deepcopy(model.a))
    seed = model(x).detach()
    right = lrp(twice, x, seed, composite=EPSILON)
    assert close(zennit_epsilon(zennit, twice, x, seed), right, 1e-8)
    assert close(lrp(model, x, seed, composite=EPSILON), right)
    assert not close(zennit_epsilon(zennit, model, x, seed), right, 1e-3)


def test_captum_refuses_a_reused_layer(captum_lrp):
    model, x = reusing(), torch.randn(3, 5, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="used more than once"):
        captum_lrp(model).attribute(x.clone().requires_grad_(), 1)
    relevance = lrp(model, x, 1, composite=EPSILON)
    torch.testing.assert_close(relevance.sum(1), model(x)[:, 1], rtol=1e-6, atol=1e-6)


def traces(model):
    """Hooks and attributes of all modules."""
    return [
        (sorted(vars(m)), len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in model.modules()
    ]


def test_captum_leaves_its_state_on_a_model_that_raised(captum_lrp):
    def failing(s, x):
        s.relu(s.a(x))
        raise ArithmeticError("the model's own")

    for ours in (True, False):
        model = Made(failing, a=nn.Linear(5, 5), relu=nn.ReLU())
        x, before = torch.randn(3, 5, dtype=torch.float64), traces(model)
        with pytest.raises(ArithmeticError, match="the model's own"):
            lrp(model, x) if ours else captum_lrp(model).attribute(x.clone().requires_grad_(), 1)
        assert (traces(model) == before) == ours


def test_ours_is_captums_where_captum_is_right(captum_lrp):
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    theirs = captum_lrp(model).attribute(x.clone().requires_grad_(), 2).detach()
    assert close(lrp(model, x, 2, composite=layers((nn.Linear, rules.Epsilon(1e-9)))), theirs, 1e-9)
