"""Integrated gradients to a tolerance."""

import warnings

import pytest
import torch
from gradient_nets import DOUBLE, close, integrated, net, points_of

from netinterp_fast import integrated_gradients


def true_attribution(model, x, target=0):
    return integrated_gradients(model, x, target, method="riemann_middle", steps=20000)


def relative(got, true):
    return (got - true).abs().sum(1) / true.abs().sum(1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tolerance", [0.1, 0.02])
def test_estimates_bound_the_error(seed, tolerance):
    torch.manual_seed(seed)
    model, x = net(10, 32, 32, 4), torch.randn(4, 10, dtype=DOUBLE)
    got, info = integrated_gradients(model, x, 0, tolerance=tolerance, max_steps=4096, return_info=True)
    assert (info.error <= tolerance).all()
    error = relative(got, true_attribution(model, x))
    assert (error <= info.error).double().mean() >= 0.75
    assert (error <= 1.5 * tolerance).all()


@pytest.mark.parametrize("steps", [2, 3, 4, 50, 64])
def test_steps_are_powers_of_two_and_points_are_used_again(steps):
    layers, x = net(10, 32, 32, 4), torch.randn(4, 10, dtype=DOUBLE)
    rows = []

    def model(x):
        rows.append(len(x) if torch.is_grad_enabled() and x.requires_grad else 0)
        return layers(x)

    _, info = integrated_gradients(model, x, 0, tolerance=0.01, steps=steps, return_info=True, hoist=False)
    assert all(taken >= {2: 2, 3: 2, 4: 4, 50: 32, 64: 64}[steps] for taken in info.steps.tolist())
    assert all(taken & (taken - 1) == 0 for taken in info.steps.tolist())
    assert sum(rows) == info.steps.sum()


@pytest.mark.parametrize("max_steps", [8, 10, 15, 16, 40])
def test_the_result_is_the_graded_rule(max_steps):
    model, x = net(10, 32, 4), torch.randn(3, 10, dtype=DOUBLE)
    with pytest.warns(UserWarning, match=r"example\(s\) \[0, 1, 2\] is still above 1e-09") as warned:
        got, info = integrated_gradients(model, x, 0, tolerance=1e-9, steps=5, max_steps=max_steps, return_info=True)
    assert warned[0].filename == __file__
    steps = {8: 8, 10: 8, 15: 8, 16: 16, 40: 32}[max_steps]
    assert info.steps.tolist() == [steps] * 3
    fine, coarse = (
        integrated(model, x, lambda out: out[:, 0], points=points_of("graded", n)) for n in (steps, steps // 2)
    )
    assert close(got, fine)
    assert close(info.error, (fine - coarse).abs().sum(1) / fine.abs().sum(1))
    with_method = integrated_gradients(model, x, 0, method="graded", steps=steps)
    assert close(got, with_method)


def test_easy_examples_take_fewer_points():
    model = net(6, 32, 4)
    x = torch.randn(2, 6, dtype=DOUBLE)
    baseline = torch.stack([x[0] * (1 - 1e-9), -x[1]])  # a path inside one linear piece, almost surely
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = integrated_gradients(model, x, 0, baseline=baseline, tolerance=0.02, steps=2, return_info=True)
    assert info.steps[0] == 2
    assert info.steps[1] > 2


def test_a_batch_is_its_examples_one_by_one():
    model, x = net(10, 32, 4), torch.randn(4, 10, dtype=DOUBLE)
    got, info = integrated_gradients(model, x, 0, tolerance=0.03, return_info=True)
    for i in range(4):
        alone, alone_info = integrated_gradients(model, x[i : i + 1], 0, tolerance=0.03, return_info=True)
        assert close(got[i : i + 1], alone, 1e-12)
        assert info.steps[i] == alone_info.steps[0]
        assert info.error[i].item() == pytest.approx(alone_info.error[0].item())


def test_several_targets_all_reach_it():
    model, x = net(10, 32, 4), torch.randn(3, 10, dtype=DOUBLE)
    got, info = integrated_gradients(model, x, targets=torch.tensor([0, 3]), tolerance=0.03, return_info=True)
    assert info.steps.shape == (3,)
    assert info.error.shape == info.convergence_delta.shape == (2, 3)
    assert (info.error <= 0.03).all()
    for i, target in enumerate((0, 3)):
        assert (relative(got[i], true_attribution(model, x, target)) <= 0.045).all()


def test_layers_and_inputs_like_the_baseline():
    model, x = net(10, 32, 16, 4), torch.randn(3, 10, dtype=DOUBLE)
    got, info = integrated_gradients(model, x, 0, layer="1", tolerance=0.02, return_info=True)
    fine = integrated_gradients(model, x, 0, layer="1", method="riemann_middle", steps=20000)
    assert (relative(got, fine) <= 0.03).all()
    got, info = integrated_gradients(model, x, 0, baseline=x, tolerance=0.02, return_info=True)
    assert not got.any()
    assert not info.error.any()


def test_nan_says_that_it_did_not_converge():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    x[1, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"example\(s\) \[1\]"):
        got = integrated_gradients(model, x, 0, tolerance=0.5, max_steps=64)
    assert got[1, 0].isnan()
    assert got[[0, 2]].isfinite().all()
