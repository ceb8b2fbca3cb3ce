"""Expected gradients."""

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, TwoInputs, close, gradient, net
from torch import nn

from netinterp_fast import expected_gradients, integrated_gradients


class Watched(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.points = model, []

    def forward(self, x):
        if torch.is_grad_enabled():
            self.points.append(x.detach().clone())
        return self.model(x)


def test_a_linear_model():
    layer, x, references = nn.Linear(6, 4).double(), torch.randn(3, 6, dtype=DOUBLE), torch.randn(1, 6, dtype=DOUBLE)
    weight = layer.weight[1].detach()
    assert close(expected_gradients(layer, x, 1, baselines=references), (x - references) * weight)
    mean = expected_gradients(layer, x, 1, baselines=torch.randn(5, 6, dtype=DOUBLE), multiply_by_inputs=False)
    assert close(mean, weight.expand(3, 6))


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 30])
def test_the_mean_over_the_points_that_the_model_saw(multiply, batch_size):
    """Each point lies between the input and one of the baselines."""
    model, x = Watched(net(6, 10, 4)), torch.randn(1, 6, dtype=DOUBLE)
    references = torch.randn(5, 6, dtype=DOUBLE)
    got = expected_gradients(model, x, 2, baselines=references, samples=30, multiply_by_inputs=multiply,
                             batch_size=batch_size)  # fmt: skip
    assert max(map(len, model.points)) <= batch_size
    points = torch.cat(model.points)
    assert len(points) == 30
    to_point, to_input = points - x, references - x
    cosines = nn.functional.cosine_similarity(to_point[:, None], to_input[None], dim=2)
    assert torch.allclose(cosines.amax(1), torch.ones(30, dtype=DOUBLE))
    chosen = cosines.argmax(1)
    alphas = 1 - to_point.norm(dim=1) / to_input[chosen].norm(dim=1)
    assert ((alphas >= 0) & (alphas <= 1)).all()
    assert alphas.std() > 0.15
    assert len(chosen.unique()) > 2
    grads = gradient(model.model, points, lambda out: out[:, 2])
    expected = (x - references[chosen]) * grads if multiply else grads
    assert close(got, expected.mean(0, keepdim=True))


def test_it_tends_to_the_mean_of_integrated_gradients():
    model, x, references = net(6, 10, 4), torch.randn(2, 6, dtype=DOUBLE), torch.randn(4, 6, dtype=DOUBLE)
    exact = sum(integrated_gradients(model, x, 1, baseline=b[None], steps=300) for b in references) / 4
    got = expected_gradients(model, x, 1, baselines=references, samples=20000, batch_size=20000)
    assert (got - exact).abs().max() < 0.05 * exact.abs().max()


def test_baselines_of_two_inputs_are_drawn_together():
    inputs = torch.ones(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)
    references = torch.arange(4.0)[:, None].double(), torch.arange(4.0)[:, None].double()
    seen = []

    def model(x, y):
        seen.append((x - y).detach().abs().max())
        return (x * y).sum(1)

    got = expected_gradients(model, inputs, baselines=references)
    assert isinstance(got, tuple)
    assert max(seen) == 0


def test_any_batch_size_and_seed():
    model, x, references = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE), torch.randn(4, 2, 8, 8, dtype=DOUBLE)

    def of(**options):
        return expected_gradients(model, x, [0, 1, 2], baselines=references, samples=10, sigma=0.2, **options)

    for size in (1, 2, 3, 7, 100):
        assert close(of(batch_size=size), of(), 1e-12)
    assert torch.equal(of(seed=3), of(seed=3))
    assert not close(of(seed=3), of(), 1e-3)
    state = torch.get_rng_state()
    of()
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_added_to_the_input():
    model, x = Watched(nn.Linear(500, 1).double()), torch.randn(1, 500, dtype=DOUBLE)
    got = expected_gradients(model, x, baselines=x, samples=200, sigma=0.5, batch_size=200)
    noise = model.points[-1] - x  # alpha sigma N(0, 1), alpha uniform
    assert noise.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    assert (got.abs() < 6 * 0.5 / 200**0.5 * model.model.weight.abs().detach() + 1e-12).all()


def test_two_inputs_and_arguments():
    model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
    references = torch.randn(5, 6, dtype=DOUBLE), torch.randn(5, 2, 7, dtype=DOUBLE)
    got = expected_gradients(model, inputs, 1, baselines=references, samples=5, batch_size=4)
    assert [part.shape for part in got] == [x.shape for x in inputs]
    layers, scale = net(6, 8, 4), torch.rand(3, 1, dtype=DOUBLE)
    one, other = (
        expected_gradients(lambda x, s: layers(x * s), inputs[0], 1, baselines=references[0], batch_size=size,
                           additional_forward_args=scale) for size in (2, 99)
    )  # fmt: skip
    assert close(one, other, 1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"baselines": torch.zeros(0, 6)}, ValueError, "baselines is empty"),
        ({"baselines": torch.zeros(2, 5)}, ValueError, r"baselines has shapes \[\[2, 5\]\]"),
        ({"baselines": (torch.zeros(2, 6), torch.zeros(2, 6))}, ValueError, "baselines has shapes"),
        ({"baselines": None}, TypeError, "baselines is"),
        ({"baselines": 0.0}, TypeError, "baselines is"),
        ({"baselines": torch.zeros(2, 6).long()}, TypeError, "baselines has dtype int64"),
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"samples": 2.0}, TypeError, "samples is 2.0"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"sigma": -1.0}, ValueError, "sigma"),
        ({"sigma": "a"}, TypeError, "sigma is 'a'"),
        ({"seed": 1.5}, TypeError, "seed is 1.5"),
        ({"target": 4}, ValueError, "target has the class 4"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    with pytest.raises(error, match=message):
        expected_gradients(net(6, 4), torch.randn(3, 6, dtype=DOUBLE), **{"target": 1, "baselines": torch.zeros(2, 6)}
                           | change)  # fmt: skip


def test_progress(capfd):
    model, x = net(6, 4), torch.randn(3, 6, dtype=DOUBLE)
    expected_gradients(model, x, 1, baselines=x, samples=4)
    assert capfd.readouterr() == ("", "")
    expected_gradients(model, x, 1, baselines=x, samples=4, progress=True)
    assert "12/12" in capfd.readouterr().err
