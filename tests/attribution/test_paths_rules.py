"""Integrated gradients: quadrature rules, baselines, completeness."""

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, TwoInputs, WithArguments, close, gradient, integrated, net, points_of
from made_of import Made
from torch import nn

from netinterp_fast import integrated_gradients

METHODS = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid", "graded"]


def first_output(output):
    return output[:, 0]


def test_a_linear_model():
    layer = nn.Linear(6, 4).double()
    x, baseline = torch.randn(2, 3, 6, dtype=DOUBLE)
    weight = layer.weight[1].detach()
    for method in METHODS:
        got = integrated_gradients(layer, x, 1, baseline=baseline, method=method, steps=3)
        assert close(got, (x - baseline) * weight)
        mean = integrated_gradients(layer, x, 1, baseline=baseline, method=method, steps=3, multiply_by_inputs=False)
        assert close(mean, weight.expand(3, 6))


@pytest.mark.parametrize("hoist", [True, False])
def test_the_ramp_that_has_no_gradient_at_its_end(hoist):
    ramp = Made(lambda s, x: 1 - torch.relu(1 - x.sum(1)))
    x = torch.tensor([[2.0]], dtype=DOUBLE)
    assert integrated_gradients(ramp, x, method="riemann_middle", steps=100, hoist=hoist).item() == pytest.approx(1)
    assert integrated_gradients(ramp, x, steps=400, hoist=hoist).item() == pytest.approx(1, abs=0.005)
    pair = torch.tensor([[1.5, 0.5]], dtype=DOUBLE)
    got = integrated_gradients(ramp, pair, method="riemann_middle", steps=100, hoist=hoist)
    assert close(got, torch.tensor([[0.75, 0.25]], dtype=DOUBLE))


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_gauss_legendre_is_exact_for_polynomials(degree):
    x, baseline = torch.randn(2, 3, 4, dtype=DOUBLE)
    got = integrated_gradients(lambda x: (x**degree).sum(1), x, baseline=baseline, steps=-(-degree // 2))
    assert close(got, x**degree - baseline**degree)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 3, 8, 33])
def test_rules_by_definition(method, steps):
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    baseline = torch.randn(3, 6, dtype=DOUBLE)
    rule = points_of(method, steps)
    expected = integrated(model, x, first_output, baseline=baseline, points=rule)
    assert close(integrated_gradients(model, x, 0, baseline=baseline, method=method, steps=steps), expected)
    given = tuple(torch.tensor(part, dtype=DOUBLE) for part in zip(*rule, strict=True))
    assert close(integrated_gradients(model, x, 0, baseline=baseline, method=given), expected)
    with_info, info = integrated_gradients(model, x, 0, baseline=baseline, method=given, return_info=True)
    assert close(with_info, expected)
    assert info.steps.tolist() == [steps] * 3


def test_one_step():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    for method, alpha in zip(METHODS[:4], (0.5, 0, 0.5, 1), strict=True):
        expected = x * gradient(model, x * alpha, first_output)
        assert close(integrated_gradients(model, x, 0, method=method, steps=1), expected)


@pytest.mark.parametrize("method", METHODS[:5])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_captum(method):
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    for baseline in (None, 0.3, torch.randn(1, 2, 8, 8, dtype=DOUBLE), torch.randn(3, 2, 8, 8, dtype=DOUBLE)):
        for multiply in (True, False):
            peer = captum.IntegratedGradients(model, multiply_by_inputs=multiply)
            expected = peer.attribute(x.clone(), baseline, [0, 3, 1], n_steps=20, method=method)
            got = integrated_gradients(model, x, [0, 3, 1], baseline=baseline, steps=20, method=method,
                                       multiply_by_inputs=multiply)  # fmt: skip
            if method == "riemann_trapezoid":
                expected = expected * 20 / 19  # Captum's weights sum to 19 / 20
            assert close(got, expected, 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_captum_with_two_inputs_and_further_arguments():
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
    for baseline in ((0.5, inputs[1].flip(0)), (torch.zeros(1, 6).double(), 0)):
        expected = captum.IntegratedGradients(model).attribute(inputs, baseline, 1, n_steps=20)
        got = integrated_gradients(model, inputs, 1, baseline=baseline, steps=20)
        assert all(close(a, b, 1e-6) for a, b in zip(got, expected, strict=True))
    model, arguments = WithArguments(), (torch.randn(3, 5, dtype=DOUBLE), 2)
    expected = captum.IntegratedGradients(model).attribute(inputs[0], target=2, n_steps=20,
                                                           additional_forward_args=arguments)  # fmt: skip
    got = integrated_gradients(model, inputs[0], 2, steps=20, additional_forward_args=arguments)
    assert close(got, expected, 1e-6)


def test_baselines():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)

    def of(baseline):
        return integrated_gradients(model, x, 1, baseline=baseline, steps=5)

    assert torch.equal(of(None), of(torch.zeros_like(x)))
    assert torch.equal(of(0), of(0.0))
    for same in (0.25, torch.tensor(0.25), torch.full((1, 6), 0.25), torch.full((3, 6), 0.25).half(), (0.25,)):
        assert close(of(same), of(torch.full_like(x, 0.25)), 1e-12)
    row = torch.randn(1, 6, dtype=DOUBLE)
    assert close(of(row), of(row.expand(3, 6)))
    assert not of(x).any()
    asking = row.clone().requires_grad_()
    assert not of(asking).requires_grad
    assert asking.grad is None


@pytest.mark.parametrize("seed", range(3))
def test_completeness(seed):
    torch.manual_seed(seed)
    smooth = Made(lambda s, x: s.b(torch.tanh(s.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 4))
    x, baseline = torch.randn(2, 3, 6, dtype=DOUBLE)
    got, info = integrated_gradients(smooth, x, 1, baseline=baseline, steps=40, return_info=True)
    difference = (smooth(x) - smooth(baseline)).detach()[:, 1]
    assert close(got.sum(1), difference, 1e-9)
    assert info.convergence_delta.abs().max() < 1e-9
    model = net(6, 12, 8, 4)
    got, info = integrated_gradients(model, x, 1, baseline=baseline, steps=500, return_info=True)
    assert close(got.sum(1), (model(x) - model(baseline)).detach()[:, 1], 0.02)


@pytest.mark.parametrize("multiply", [True, False])
def test_the_convergence_delta_is_what_the_sum_is_off(multiply):
    model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
    starts = tuple(torch.randn_like(x) for x in inputs)
    options = {"baseline": starts, "steps": 3, "method": "riemann_left"}
    got = integrated_gradients(model, inputs, 1, **options)
    sums = sum(part.flatten(1).sum(1) for part in got)
    difference = (model(*inputs) - model(*starts)).detach()[:, 1]
    _, info = integrated_gradients(model, inputs, 1, **options, return_info=True, multiply_by_inputs=multiply)
    assert close(info.convergence_delta, sums - difference)
    _, info = integrated_gradients(model, inputs, targets=torch.tensor([0, 1]), **options, return_info=True)
    assert info.convergence_delta.shape == info.error.shape == (2, 3)
    assert info.steps.shape == (3,)
    assert close(info.convergence_delta[1], sums - difference)


def test_the_error_is_the_distance_from_every_second_point():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    _, info = integrated_gradients(model, x, 0, method="riemann_trapezoid", steps=9, return_info=True)
    fine, coarse = (integrated(model, x, first_output, points=points_of("riemann_trapezoid", n)) for n in (9, 5))
    halved = integrated(
        model, x, first_output, points=[(a, w / (5 / 8 - 1 / 8)) for a, w in points_of("riemann_trapezoid", 9)[::2]]
    )
    assert close(halved, coarse)  # the ends count half in both
    assert close(info.error, (fine - coarse).abs().sum(1) / fine.abs().sum(1))


def test_many_targets_are_single_calls():
    model, x, targets = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE), torch.tensor([3, 0, 3])
    for options in ({}, {"batch_size": 2}, {"hoist": False}, {"tolerance": 0.3}, {"multiply_by_inputs": False}):
        got = integrated_gradients(model, x, targets=targets, **{"steps": 5} | options)
        assert got.shape == (3, *x.shape)
        if "tolerance" not in options:
            for part, target in zip(got, targets.tolist(), strict=True):
                assert close(part, integrated_gradients(model, x, target, **{"steps": 5} | options))
