"""SmoothGrad and its relatives."""

import math

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, TwoInputs, close, gradient, integrated, net, points_of
from torch import nn

from netinterp_fast import input_x_gradient, integrated_gradients, saliency, smoothgrad


class Watched(nn.Module):
    """Keeps the points at which gradients are computed."""

    def __init__(self, model):
        super().__init__()
        self.model, self.points = model, []

    def forward(self, x, *arguments):
        if torch.is_grad_enabled():
            self.points.append(x.detach().clone())
        return self.model(x, *arguments)


@pytest.mark.parametrize("kind", ["mean", "square", "variance"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_moments_over_the_points_that_the_model_saw(kind, batch_size):
    model = Watched(net(6, 10, 4))
    x = torch.randn(3, 6, dtype=DOUBLE) + torch.arange(0.0, 60.0, 20)[:, None]  # far from each other
    got = smoothgrad(model, x, [0, 1, 2], samples=11, sigma=2.0, kind=kind, batch_size=batch_size)
    assert max(map(len, model.points)) <= batch_size
    seen = torch.cat(model.points)
    assert len(seen) == 33
    nearest = torch.cdist(seen, x).argmin(1)
    grads = [gradient(model.model, seen[nearest == i], lambda out, i=i: out[:, i]) for i in range(3)]
    assert [len(g) for g in grads] == [11, 11, 11]
    mean = torch.stack([g.mean(0) for g in grads])
    square = torch.stack([(g * g).mean(0) for g in grads])
    assert close(got, {"mean": mean, "square": square, "variance": square - mean**2}[kind])
    whole = smoothgrad(model.model, x, [0, 1, 2], samples=11, sigma=2.0, kind=kind)
    assert close(got, whole, 1e-12)


def test_noise_is_normal_with_the_given_deviation():
    model, x = Watched(nn.Linear(500, 1).double()), torch.randn(2, 500, dtype=DOUBLE)
    smoothgrad(model, x, samples=40, sigma=torch.tensor([0.5, 2.0]), batch_size=2)
    noise = torch.stack(model.points) - x
    for i, sigma in enumerate((0.5, 2.0)):
        assert noise[:, i].std().item() == pytest.approx(sigma, rel=0.03)
        assert noise[:, i].mean().item() == pytest.approx(0, abs=0.03 * sigma)
    kurtosis = ((noise[:, 0] / 0.5) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, rel=0.1)
    model.points.clear()
    smoothgrad(model, x, samples=40, batch_size=2)
    noise = torch.stack(model.points) - x
    for i in range(2):
        assert noise[:, i].std().item() == pytest.approx(0.15 * (x[i].max() - x[i].min()).item(), rel=0.03)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_a_relu_becomes_the_normal_distribution(sigma):
    x = torch.linspace(-2, 2, 9, dtype=DOUBLE)[:, None]
    n = 4000
    got = smoothgrad(lambda x: torch.relu(x), x, samples=n, sigma=sigma, batch_size=n)
    expected = 0.5 * (1 + torch.erf(x / sigma / math.sqrt(2)))
    assert (got - expected).abs().max() < 4 * 0.5 / math.sqrt(n)
    spread = smoothgrad(lambda x: torch.relu(x), x, samples=n, sigma=sigma, kind="variance", batch_size=n)
    assert (spread - expected * (1 - expected)).abs().max() < 4 * 0.5 / math.sqrt(n)


def test_a_linear_model_has_no_variance():
    model, x = nn.Linear(6, 4).double(), torch.randn(3, 6, dtype=DOUBLE)
    weight = model.weight[1].detach().expand(3, 6)
    assert close(smoothgrad(model, x, 1), weight)
    assert close(smoothgrad(model, x, 1, kind="square"), weight**2)
    assert smoothgrad(model, x, 1, kind="variance").abs().max() < 1e-15


def test_a_large_linear_model_has_no_variance_in_single_precision():
    """A variance as the difference of two means loses all digits where gradients are large."""
    model = nn.Linear(50, 1)
    with torch.no_grad():
        model.weight.mul_(1e4)
    got = smoothgrad(model, torch.randn(4, 50), kind="variance")
    assert got.min() >= 0
    assert got.max() < 1e-9 * model.weight.abs().max() ** 2


@pytest.mark.parametrize("method", [saliency, input_x_gradient])
def test_without_noise_it_is_the_method(method):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    got = smoothgrad(model, x, [0, 1, 2], samples=3, sigma=0.0, method=method)
    assert close(got, method(model, x, [0, 1, 2]))
    layered = smoothgrad(model, x, 1, samples=3, sigma=0.0, method=method, layer="conv2")
    assert close(layered, method(model, x, 1, layer="conv2"))


@pytest.mark.parametrize("baseline", ["each", "all", 0.3])
def test_round_integrated_gradients(baseline):
    model, x = Watched(net(6, 10, 4)), torch.randn(3, 6, dtype=DOUBLE)
    baseline = {"each": torch.randn(3, 6).double(), "all": torch.randn(1, 6).double()}.get(baseline, baseline)
    rule = points_of("gausslegendre", 4)
    got = smoothgrad(model.model, x, [0, 1, 2], samples=5, sigma=0.3, method=integrated_gradients, steps=4,
                     baseline=baseline, batch_size=4)  # fmt: skip
    smoothgrad(model, x, 0, samples=5, sigma=0.3, batch_size=3)
    total = torch.zeros_like(x)
    for noisy in model.points:
        for i in range(3):
            start = baseline[i % len(baseline)] if isinstance(baseline, torch.Tensor) else baseline
            total[i] += integrated(model.model, noisy[i : i + 1], lambda out, i=i: out[:, i], baseline=start,
                                   points=rule)[0]  # fmt: skip
    assert close(got, total / 5)


def test_two_inputs_have_noise_of_their_own():
    model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
    both = smoothgrad(model, inputs, 1, samples=7, sigma=(0.0, torch.rand(3)))
    assert [part.shape for part in both] == [x.shape for x in inputs]
    for batch_size in (1, 5):
        again = smoothgrad(model, inputs, 1, samples=7, sigma=(0.0, 0.4), batch_size=batch_size)
        whole = smoothgrad(model, inputs, 1, samples=7, sigma=(0.0, 0.4))
        assert all(close(a, b, 1e-12) for a, b in zip(again, whole, strict=True))
    seen = []

    def product(x, y):
        seen.append((x.detach() - 1, y.detach() - 1))
        return (x * y).sum(1)

    smoothgrad(product, (torch.ones(1, 4), torch.ones(1, 4)), sigma=1.0, samples=1)
    assert all((a - b).abs().min() > 0 for a, b in seen[-1:])


def test_seeds():
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    first = smoothgrad(model, x, 1, samples=5, seed=7)
    assert torch.equal(smoothgrad(model, x, 1, samples=5, seed=7), first)
    assert not close(smoothgrad(model, x, 1, samples=5, seed=8), first, 1e-3)
    state = torch.get_rng_state()
    smoothgrad(model, x, 1, samples=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert smoothgrad(model, x, 1, samples=2, seed=2**64 - 1).isfinite().all()


def test_further_arguments_go_with_their_examples():
    layers, x, scale = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE), torch.rand(3, 1, dtype=DOUBLE) + 0.5
    got = smoothgrad(lambda x, scale: layers(x * scale), x, 1, samples=6, sigma=0.4, batch_size=2,
                     additional_forward_args=scale)  # fmt: skip
    together = smoothgrad(lambda x, scale: layers(x * scale), x, 1, samples=6, sigma=0.4, batch_size=18,
                          additional_forward_args=scale)  # fmt: skip
    assert close(got, together, 1e-12)
    scaled = smoothgrad(lambda x: layers(x), x, 1, samples=6, sigma=0.4)
    assert not close(got, scaled, 1e-2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"samples": 1.5}, TypeError, "samples is 1.5"),
        ({"samples": True}, TypeError, "samples is True"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"batch_size": None}, TypeError, "batch_size is None"),
        ({"sigma": -1.0}, ValueError, "sigma"),
        ({"sigma": math.nan}, ValueError, "sigma"),
        ({"sigma": math.inf}, ValueError, "sigma"),
        ({"sigma": "a"}, TypeError, "sigma is 'a'"),
        ({"sigma": True}, TypeError, "sigma is True"),
        ({"sigma": torch.ones(2)}, ValueError, r"sigma has shape \[2\]"),
        ({"sigma": torch.ones(3).long()}, TypeError, "sigma has dtype int64"),
        ({"sigma": (1.0, 1.0)}, ValueError, "sigma has 2 entries"),
        ({"seed": 1.5}, TypeError, "seed is 1.5"),
        ({"kind": "median"}, ValueError, "kind is 'median'"),
        ({"kind": ["mean"]}, (TypeError, ValueError), "kind is"),
        ({"method": "saliency"}, TypeError, "method is 'saliency'"),
        ({"targets": torch.tensor([1])}, ValueError, "targets is given"),
        ({"method": integrated_gradients, "return_info": True}, (TypeError, ValueError), "return_info"),
        ({"nonsense": 1}, TypeError, "nonsense"),
        ({"inputs": torch.ones(3, 6).long()}, TypeError, "inputs has dtype int64"),
        ({"target": 4}, ValueError, "target has the class 4"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        smoothgrad(net(6, 4), **{"inputs": torch.randn(3, 6, dtype=DOUBLE), "target": 1} | change)


def test_progress(capfd):
    model, x = net(6, 4), torch.randn(3, 6, dtype=DOUBLE)
    smoothgrad(model, x, 1, samples=4)
    assert capfd.readouterr() == ("", "")
    smoothgrad(model, x, 1, samples=4, progress=True)
    out, err = capfd.readouterr()
    assert not out
    assert "12/12" in err
