"""Gradient attributions against their definitions, by hand and by Captum."""

import math

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, TwoInputs, WithArguments, close, gradient, net
from made_of import Made
from torch import nn
from torch.nn import functional as F

from netinterp_fast import deconvnet, guided_backprop, input_x_gradient, rect_grad, saliency

METHODS = [saliency, input_x_gradient, deconvnet, guided_backprop, rect_grad]


@pytest.fixture(scope="module")
def captum():
    return pytest.importorskip("captum.attr", reason="captum is not installed")


@pytest.fixture
def ramp():
    """y = 1 - relu(1 - a - b), which is flat beyond a + b = 1."""
    return Made(lambda s, x: 1 - torch.relu(1 - x.sum(1)))


def test_a_linear_model_has_its_weights():
    layer, x = nn.Linear(6, 4).double(), torch.randn(3, 6, dtype=DOUBLE)
    for method in (saliency, deconvnet, guided_backprop, rect_grad):
        assert torch.equal(method(layer, x, 2), layer.weight[2].detach().expand(3, 6))
    assert torch.equal(saliency(layer, x, 2, absolute=True), layer.weight[2].detach().abs().expand(3, 6))
    product = input_x_gradient(layer, x, 2)
    assert close(product, x * layer.weight[2].detach())
    assert close(product.sum(1), (layer(x)[:, 2] - layer.bias[2]).detach())


def test_the_gradient_vanishes_where_the_ramp_is_flat(ramp):
    x = torch.tensor([[0.3, 0.4], [0.6, 0.7]], dtype=DOUBLE)
    assert saliency(ramp, x).tolist() == [[1, 1], [0, 0]]
    assert input_x_gradient(ramp, x).tolist() == [[0.3, 0.4], [0, 0]]
    # a negative gradient reaches the ReLU: neither rule passes it
    assert not deconvnet(ramp, x).any()
    assert not guided_backprop(ramp, x).any()


def _module(s, x):
    return s.b(s.relu(s.a(x)))


def _function(s, x):
    return s.b(F.relu(s.a(x)))


def _method(s, x):
    return s.b(s.a(x).relu())


def _in_place(s, x):
    return s.b(F.relu(s.a(x), inplace=True))


def _in_place_method(s, x):
    h = s.a(x)
    h.relu_()
    return s.b(h)


@pytest.mark.parametrize("function", [_module, _function, _method, _in_place, _in_place_method])
def test_rules_on_a_two_layer_network_by_hand(function):
    """z = (2, 1, -1, -2), gradients at the ReLU (1, -1, 1, -1): each pair of signs once."""
    model = Made(function, a=nn.Linear(1, 4), b=nn.Linear(4, 1, bias=False), relu=nn.ReLU())
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[1.0], [10.0], [100.0], [1000.0]]))
        model.a.bias.copy_(torch.tensor([1.0, -9.0, -101.0, -1002.0]))
        model.b.weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
    x = torch.ones(1, 1, dtype=DOUBLE)
    assert saliency(model, x).item() == 1 - 10
    assert guided_backprop(model, x).item() == 1
    assert deconvnet(model, x).item() == 1 + 100
    assert rect_grad(model, x).item() == 1  # products y g: 2, -1, 0, 0
    assert rect_grad(model, x, threshold=2.0).item() == 0  # not above it
    assert rect_grad(model, x, threshold=1.99).item() == 1
    assert rect_grad(model, x, threshold=-1.5).item() == 1 - 10
    assert rect_grad(model, x, quantile=0.75).item() == 1
    assert rect_grad(model, x, quantile=1.0).item() == 0


def _backward_by_hand(model, x, target, rule):
    """Of `net`: the gradient layer by layer, rule(z, g) at each ReLU."""
    before = []
    h = x
    for module in model:
        before.append(h)
        h = module(h)
    grad = torch.zeros_like(h)
    grad[:, target] = 1
    for module, z in zip(reversed(model), reversed(before), strict=True):
        grad = rule(z, grad) if isinstance(module, nn.ReLU) else grad @ module.weight
    return grad.detach()


def _over_quantile(z, g):
    product = z.relu() * g
    limit = product.sort(1).values[:, [math.ceil(0.7 * z.shape[1]) - 1]]
    return g * (z > 0) * (product > limit)


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        (saliency, lambda z, g: g * (z > 0)),
        (deconvnet, lambda z, g: g * (g > 0)),
        (guided_backprop, lambda z, g: g * (g > 0) * (z > 0)),
        (rect_grad, lambda z, g: g * (z > 0) * (z.relu() * g > 0)),
        (lambda *a: rect_grad(*a, threshold=0.1), lambda z, g: g * (z > 0) * (z.relu() * g > 0.1)),
        (lambda *a: rect_grad(*a, threshold=-0.1), lambda z, g: g * (z > 0) * (z.relu() * g > -0.1)),
        (lambda *a: rect_grad(*a, quantile=0.7), _over_quantile),
    ],
)
@pytest.mark.parametrize("inplace", [True, False])
def test_rules_layer_by_layer(method, rule, inplace):
    model, x = net(6, 12, 10, 8, 4, inplace=inplace), torch.randn(5, 6, dtype=DOUBLE)
    assert close(method(model, x, 1), _backward_by_hand(model, x, 1, rule))


@pytest.mark.parametrize("inplace", [True, False])
def test_rect_grad_without_a_threshold_is_the_gradient(inplace):
    model, x = ConvNet(inplace), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    assert close(rect_grad(model, x, 1, threshold=-math.inf), saliency(model, x, 1))


def test_relus_that_are_reused_follow_the_rule_each_time():
    relu = nn.ReLU()
    layers = [nn.Linear(6, 6).double() for _ in range(3)]
    reused = nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    apart = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x = torch.randn(3, 6, dtype=DOUBLE)
    for method in METHODS:
        assert close(method(reused, x, 1), method(apart, x, 1))
    same = Made(lambda s, x: s.a(F.relu(s.a(F.relu(s.a(x), True)))), a=layers[0])
    for method in METHODS:
        assert close(method(same, x, 1), method(nn.Sequential(layers[0], relu, layers[0], relu, layers[0]), x, 1))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


@pytest.mark.parametrize("method", [guided_backprop, deconvnet, rect_grad])
def test_rules_hold_beyond_a_custom_autograd_function(method):
    model = Made(lambda s, x: s.b(F.relu(s.a(Doubled.apply(x)))), a=nn.Linear(6, 12), b=nn.Linear(12, 4))
    plain = Made(lambda s, x: s.b(F.relu(s.a(x * 2))), a=model.a, b=model.b)
    x = torch.randn(3, 6, dtype=DOUBLE)
    assert close(method(model, x, 1), method(plain, x, 1))


def _captum_of(captum, method, model):
    by_name = {saliency: captum.Saliency, input_x_gradient: captum.InputXGradient,
               deconvnet: captum.Deconvolution, guided_backprop: captum.GuidedBackprop}  # fmt: skip
    return by_name[method](model)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", [saliency, input_x_gradient, deconvnet, guided_backprop])
class TestCaptum:
    def expect(self, captum, method, model, inputs, target, **options):
        copies = tuple(x.clone() for x in inputs) if isinstance(inputs, tuple) else inputs.clone()
        options |= {"abs": False} if method is saliency else {}
        return _captum_of(captum, method, model).attribute(copies, target, **options)

    @pytest.mark.parametrize("target", [2, [0, 3, 1], torch.tensor([1, 1, 2]), torch.tensor([3])])
    def test_images_and_targets(self, captum, method, target):
        model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
        assert close(method(model, x, target), self.expect(captum, method, model, x, target))

    def test_index_targets(self, captum, method):
        model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2)).double()
        x = torch.randn(3, 2, 9, dtype=DOUBLE)
        for target in ((1, 4), [(0, 1), (2, 3), (2, 0)]):
            assert close(method(model, x, target), self.expect(captum, method, model, x, target))

    def test_two_inputs(self, captum, method):
        model, inputs = TwoInputs(), (torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE))
        model.relu = nn.ReLU()
        model.forward = lambda x, y: model.c(model.relu(model.a(x) + model.b(y).mean(2)) + torch.tanh(model.a(x)))
        got, expected = method(model, inputs, 1), self.expect(captum, method, model, inputs, 1)
        assert isinstance(got, tuple)
        assert all(close(a, b) for a, b in zip(got, expected, strict=True))

    def test_further_arguments(self, captum, method):
        model, x = WithArguments(), torch.randn(3, 6, dtype=DOUBLE)
        model.relu = nn.ReLU()
        model.forward = lambda x, scale, power: model.b(model.relu(model.a(x) * scale) ** power)
        arguments = (torch.randn(3, 5, dtype=DOUBLE), 2)
        got = method(model, x, 1, additional_forward_args=arguments)
        assert close(got, self.expect(captum, method, model, x, 1, additional_forward_args=arguments))


@pytest.mark.parametrize("shape", [(3, 6), (1, 6)])
def test_gradients_by_finite_differences(shape):
    model, x = net(6, 10, 4), torch.randn(shape, dtype=DOUBLE)
    got, step = saliency(model, x, 2), 1e-6
    for i in range(6):
        shift = torch.zeros(6, dtype=DOUBLE)
        shift[i] = step
        slope = (model(x + shift) - model(x - shift))[:, 2] / (2 * step)
        torch.testing.assert_close(got[:, i], slope.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_many_targets_are_single_calls(method):
    model, x, targets = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE), torch.tensor([3, 0, 3])
    got = method(model, x, targets=targets)
    assert got.shape == (3, *x.shape)
    for part, target in zip(got, targets.tolist(), strict=True):
        assert close(part, method(model, x, target))
    inputs = torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE)
    several = method(TwoInputs(), inputs, targets=torch.tensor([1]))
    assert [part.shape for part in several] == [(1, 3, 6), (1, 3, 2, 7)]


@pytest.mark.parametrize("method", METHODS)
def test_each_example_is_explained_by_itself(method):
    model, x = ConvNet(), torch.randn(4, 2, 8, 8, dtype=DOUBLE)
    options = {"quantile": 0.6} if method is rect_grad else {}
    together = method(model, x, [0, 1, 2, 3], **options)
    for i in range(4):
        assert close(method(model, x[i : i + 1], i, **options)[0], together[i])


@pytest.mark.parametrize("absolute", [True, False])
def test_saliency_is_the_gradient(absolute):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    expected = gradient(model, x, lambda out: out[:, 1])
    assert close(saliency(model, x, 1, absolute=absolute), expected.abs() if absolute else expected)
