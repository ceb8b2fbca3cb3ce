"""The gradient family of `compat.captum`, beside Captum's."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")

from netinterp_fast.compat import accelerate  # noqa: E402
from netinterp_fast.compat import captum as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's
THEIRS = {name: getattr(captum_attr, name) for name in ours.__all__ if hasattr(captum_attr, name)}
SIMPLE = ("Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution")


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run():
    torch.manual_seed(0)


class Images(nn.Module):
    """An affine beginning, ReLUs as modules and a function, max pooling, a softmax."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        self.linear, self.relu3, self.head = nn.Linear(32, 12), nn.ReLU(), nn.Linear(12, 4)

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.norm(self.conv1((x - 0.2) / 0.5))), 2)
        x = F.max_pool2d(F.relu(self.relu2(self.conv2(x)) - 0.1), 2)
        return torch.softmax(self.head(self.relu3(self.linear(x.flatten(1)))), 1)


class TwoInputs(nn.Module):
    """Two inputs; a tensor for each example and any other object besides."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu, self.top = nn.Linear(5, 6), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x, y, scale=None, options=None):
        hidden = self.relu(self.a(x)) * torch.sigmoid(self.b(y))
        if scale is not None:
            hidden = hidden * scale
        return self.top(hidden) ** (options or {"power": 1})["power"]


class Grid(nn.Module):
    """Outputs [B, 3, 2, 2]."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Conv2d(6, 3, 2)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)))


class Text(nn.Module):
    """Embedded words and positions."""

    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 6), nn.Embedding(7, 6)
        self.linear, self.tanh, self.head = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)

    def forward(self, tokens, mask=None):
        places = torch.arange(tokens.shape[1]).expand_as(tokens)
        x = self.tanh(self.linear(self.words(tokens) + self.positions(places)))
        x = x if mask is None else x * mask[..., None]
        return self.head(x.mean(1))


class Pair(nn.Module):
    """A layer with two outputs."""

    class Split(nn.Module):
        def forward(self, x):
            return torch.relu(x[:, :3]), torch.tanh(x[:, 3:])

    def __init__(self):
        super().__init__()
        self.first, self.split, self.top = nn.Linear(5, 6), Pair.Split(), nn.Linear(3, 2)

    def forward(self, x):
        a, b = self.split(self.first(x))
        return self.top(a * b)


def prepared(model, dtype=torch.float64):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return model.to(dtype).eval()


def images(batch=3, dtype=torch.float64):
    return torch.randn(batch, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(5))


def two_inputs(dtype=torch.float64):
    return torch.randn(3, 5, dtype=dtype), torch.randn(3, 3, dtype=dtype)


def flat(result):
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in flat(part)]


def form(result):
    return type(result) if isinstance(result, torch.Tensor) else (type(result), [form(part) for part in result])


def assert_same(result, expected, tolerance=1e-4):
    """Within `tolerance` of the largest value, or of rounding where that is nothing else."""
    assert form(result) == form(expected)
    for part, expected_part in zip(flat(result), flat(expected), strict=True):
        assert part.shape == expected_part.shape
        assert part.dtype == expected_part.dtype
        rounding = 100 * torch.finfo(part.dtype).eps
        assert (part - expected_part).abs().max() <= tolerance * expected_part.abs().max() + rounding
    assert any(part.abs().max() > 0 for part in flat(expected))


def seeded(call):
    torch.manual_seed(11)
    np.random.seed(11)
    return call()


def run(name, model, inputs, *args, layers=None, init=(), tunnel=None, **kwargs):
    """(result of Captum's class, ours, the report of ours)"""
    found = []
    for classes in (THEIRS, vars(ours)):
        net = copy.deepcopy(model)
        at = () if layers is None else (layers(net),)
        x = tuple(t.clone() for t in inputs) if isinstance(inputs, tuple) else inputs.clone()
        with accelerate("captum") as report:
            method = classes[name](net, *at, *init)
            if tunnel is None:
                found.append(seeded(lambda method=method, x=x: method.attribute(x, *args, **kwargs)))
            else:
                noisy = classes["NoiseTunnel"](method)
                found.append(seeded(lambda noisy=noisy, x=x: noisy.attribute(x, *args, **tunnel, **kwargs)))
    for module in net.modules() if isinstance(net, nn.Module) else ():
        assert not any([module._forward_hooks, module._forward_pre_hooks, module._backward_hooks])
    return (*found, report)


def check(name, model, inputs, *args, tol=1e-6, also=(), **kwargs):
    expected, result, report = run(name, model, inputs, *args, **kwargs)
    assert not report.passed_on
    assert report.served[name] >= 1
    assert set(report.served) == {name, *also}
    assert_same(result, expected, tol)


def check_passed_on(name, reason, *args, **kwargs):
    expected, result, report = run(name, *args, **kwargs)
    assert name not in report.served
    assert reason in str(report.passed_on[name])
    assert_same(result, expected)


# ---- the gradient family


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SIMPLE)
def test_gradients(name, dtype):
    check(name, prepared(Images(), dtype), images(dtype=dtype), 1, tol=1e-4)


@pytest.mark.parametrize("absolute", [True, False])
def test_saliency_signed_or_not(absolute):
    check("Saliency", prepared(Images()), images(), [1, 0, 3], absolute)


TARGETS = [3, -1, [0, 3, 1], torch.tensor([2, 0, 1]), torch.tensor(2), torch.tensor([1]), (2,), [(1,), (0,), (3,)]]
GRID_TARGETS = [(1, 0, 1), [(1, 0, 1), (0, 0, 0), (2, 1, 1)], (-1, -1, -1)]


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
def test_targets(name):
    for target in TARGETS:
        check(name, prepared(Images()), images(), target=target)
    for target in GRID_TARGETS:
        check(name, prepared(Grid()), images(), target=target)


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_no_target_for_one_output(name, shape):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))

        def forward(self, x):
            return self.layers(x).reshape(len(x), *shape)

    check(name, prepared(One()), two_inputs()[0])


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
def test_several_inputs_and_arguments(name):
    net, inputs = prepared(TwoInputs()), two_inputs()
    check(name, net, inputs, target=1)
    check(name, net, (*inputs,), target=[0, 1, 2], additional_forward_args=torch.rand(3, 6, dtype=torch.float64))
    check(name, net, inputs, target=1, additional_forward_args=(torch.rand(3, 6).double(), {"power": 2}))
    check(name, net, inputs, target=1, additional_forward_args=(torch.tensor(0.3), None))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scripted models still are in use
@pytest.mark.parametrize("name", ["Saliency", "InputXGradient", "IntegratedGradients"])
def test_any_function(name):
    net = prepared(Images())
    check(name, lambda x: net(x)[:, 1] * 3, images())
    check(name, functools.partial(net), images(), target=1)
    check(name, net.forward, images(), target=1)
    check(name, torch.jit.script(prepared(Grid())), images(), target=(1, 1, 1))


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
def test_inputs_that_require_a_gradient(name):
    x = images().requires_grad_()
    expected = THEIRS[name](copy.deepcopy(net := prepared(Images()))).attribute(x, target=1).detach()
    x.grad = None
    with torch.no_grad():
        assert_same(getattr(ours, name)(net).attribute(x, target=1), expected, 1e-6)
    assert x.requires_grad
    assert x.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())


def test_rectified_gradients_where_captum_does_something_else():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.relu, self.relu2 = nn.Linear(5, 4), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            x = self.a(x)
            return self.relu2(self.relu(x)) if self.training else x + self.relu(x)

    class Branches(Skipping):
        def forward(self, x):
            left, right = self.a(x), self.a(x + 1)
            return self.relu(left) - self.relu(right)

    class Own(nn.ReLU):
        pass

    x = two_inputs()[0]
    for name in ("GuidedBackprop", "Deconvolution"):
        check_passed_on(name, "goes elsewhere", prepared(Skipping()), x, 1)
        check_passed_on(name, "directly after", prepared(Skipping()).train(), x, 1)
        check_passed_on(name, "subclass", nn.Sequential(nn.Linear(5, 4), Own()).double(), x, 1)
    check("GuidedBackprop", prepared(Branches()), x, 1)
    check_passed_on("Deconvolution", "branches", prepared(Branches()), x, 1)


# ---- integrated gradients

METHODS = ["riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid", "gausslegendre"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_quadrature(method, dtype):
    for n_steps in (2, 7, 20):
        check("IntegratedGradients", prepared(Images(), dtype), images(dtype=dtype), 0.1, 1, None, n_steps, method,
              tol=1e-4)  # fmt: skip


def baselines(dtype):
    return {
        "none": None,
        "number": 0.3,
        "integer": 1,
        "one": torch.full((1, 3, 8, 8), 0.2, dtype=dtype),
        "each": torch.rand(3, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(1)),
        "tuple": (0.2,),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("multiply", [True, False])
def test_baselines(multiply, dtype):
    for baseline in baselines(dtype).values():
        for delta in (False, True):
            check("IntegratedGradients", prepared(Images(), dtype), images(dtype=dtype), baseline, [1, 0, 3],
                  n_steps=9, return_convergence_delta=delta, init=(multiply,), tol=1e-4)  # fmt: skip


def test_baselines_of_several_inputs():
    net, (x, y) = prepared(TwoInputs()), two_inputs()
    for baseline in ((0, 1), (x[:1], 0.5), (x.flip(0), y[:1]), None):
        arguments = (torch.rand(3, 6, dtype=torch.float64), {"power": 3})
        check("IntegratedGradients", net, (x, y), baseline, 2, arguments, 12, return_convergence_delta=True)


@pytest.mark.parametrize("size", [1, 3, 4, 10, 1000])
def test_internal_batch_size(size):
    net = prepared(TwoInputs())
    arguments = (torch.rand(3, 6, dtype=torch.float64), {"power": 2})
    check("IntegratedGradients", net, two_inputs(), (0.1, 0.2), [1, 2, 0], arguments, 10, internal_batch_size=size)


def test_internal_batch_size_bounds_what_the_model_sees():
    sizes = []

    def model(x):
        sizes.append(len(x))
        return x.square().sum(1) ** 2

    ours.IntegratedGradients(model).attribute(torch.randn(4, 5), n_steps=32, internal_batch_size=8)
    assert max(sizes) == 8


def test_step_sizes_and_alphas_of_the_hidden_method():
    net, x = prepared(Images()), images()
    steps = ([0.25, 0.75], [0.1, 0.9])
    call = {"inputs": (x,), "baselines": (0,), "target": 1, "n_steps": 2, "step_sizes_and_alphas": steps}
    expected = THEIRS["IntegratedGradients"](net)._attribute(**call)
    assert_same(ours.IntegratedGradients(net)._attribute(**call), expected, 1e-12)


def test_a_subclass_with_its_own_hidden_method_is_used():
    class Doubled(ours.IntegratedGradients):
        def _attribute(self, *args, **kwargs):
            return tuple(2 * part for part in super()._attribute(*args, **kwargs))

    net, x = prepared(Images()), images()
    with accelerate("captum") as report:
        found = Doubled(net).attribute(x, target=1)
    assert report.passed_on["IntegratedGradients"] == {"_attribute was replaced": 1}
    assert_same(found, 2 * ours.IntegratedGradients(net).attribute(x, target=1), 1e-9)


def test_integrated_gradients_that_are_passed_on():
    net = prepared(TwoInputs())
    weights = torch.rand(1, 6, dtype=torch.float64)
    single = tuple(x[:1] for x in two_inputs())
    check("IntegratedGradients", net, single, target=1, additional_forward_args=weights)
    training = prepared(Images())
    training.norm.train()
    check_passed_on("IntegratedGradients", "training mode", training, images(), target=1)
    check_passed_on("IntegratedGradients", "training mode", lambda x: training(x), images(), target=1)
    integers = torch.randint(0, 5, (3, 4))
    check_passed_on("IntegratedGradients", "floating-point", lambda x: (x.double() ** 2).sum(1), integers)
    check_passed_on("IntegratedGradients", "another dtype", lambda x: (x**2).sum(1), images(3)[:, 0, 0],
                    torch.zeros(3, 8))  # fmt: skip


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
def test_wrong_calls_raise_what_captum_raises(name):
    net = prepared(Images())
    for kwargs in ({"target": None}, {"target": 9}, {"target": [1]}, {"target": (1, 1)}, {"target": torch.ones(2)}):
        with pytest.raises((AssertionError, IndexError, RuntimeError)) as theirs:
            THEIRS[name](net).attribute(images(), **kwargs)
        with accelerate("captum") as report, pytest.raises(theirs.type):
            getattr(ours, name)(net).attribute(images(), **kwargs)
        assert not report.served
    if name == "IntegratedGradients":
        for kwargs in ({"method": "simpson"}, {"n_steps": -1}, {"n_steps": 1, "method": "riemann_left"}):
            with pytest.raises(AssertionError):
                ours.IntegratedGradients(net).attribute(images(), target=1, **kwargs)


@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients", "LayerIntegratedGradients"])
def test_a_replaced_gradient_func_is_used(name):
    net = prepared(Images())
    method = getattr(ours, name)(net, *([net.conv2] if name.startswith("Layer") else []))
    original, calls = method.gradient_func, []
    method.gradient_func = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    with accelerate("captum") as report:
        method.attribute(images(), target=1)
    assert report.passed_on[name] == {"gradient_func was replaced": 1}
    assert calls or name.startswith("Layer")  # Captum replaces it in turn


# ---- layers


@pytest.mark.parametrize(("layer", "at_input"), [
    ("conv1", False), ("conv1", True), ("norm", True), ("conv2", False), ("conv2", True), ("relu2", False),
    ("relu2", True), ("head", False),
])  # fmt: skip
def test_layers(layer, at_input):
    for kwargs in ({}, {"return_convergence_delta": True, "internal_batch_size": 4, "method": "riemann_trapezoid"}):
        check("LayerIntegratedGradients", prepared(Images()), images(), 0.1, [1, 0, 3], n_steps=8,
              attribute_to_layer_input=at_input, layers=lambda net: getattr(net, layer), **kwargs)  # fmt: skip


def test_layers_of_words():
    net, tokens, mask = prepared(Text()), torch.randint(0, 20, (3, 7)), torch.rand(3, 7, dtype=torch.float64)
    references = torch.zeros(1, 7, dtype=torch.int64)
    for layers in (lambda n: n.words, lambda n: [n.words, n.positions], lambda n: [n.linear]):
        for multiply in (True, False):
            check("LayerIntegratedGradients", net, tokens, references, 1, mask, 10, layers=layers,
                  init=(None, multiply), return_convergence_delta=True)  # fmt: skip


def test_layers_with_several_values():
    x = two_inputs()[0]
    for at_input in (False, True):
        for layers in (lambda n: n.split, lambda n: [n.split]):
            check("LayerIntegratedGradients", prepared(Pair()), x, 0.2, 1, n_steps=6, layers=layers,
                  attribute_to_layer_input=at_input)  # fmt: skip


def test_layers_of_models_with_several_inputs():
    arguments = (torch.rand(3, 6, dtype=torch.float64), {"power": 2})
    check("LayerIntegratedGradients", prepared(TwoInputs()), two_inputs(), (0.1, 0.3), 1, arguments, 9,
          layers=lambda net: net.relu, return_convergence_delta=True)  # fmt: skip


def test_layers_that_are_passed_on():
    check_passed_on("LayerIntegratedGradients", "grad_kwargs", prepared(Images()), images(), target=1, n_steps=3,
                    grad_kwargs={"allow_unused": True}, layers=lambda net: net.conv2)  # fmt: skip

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.each, self.top = nn.Linear(4, 3), nn.Linear(6, 2)

        def forward(self, x):
            return self.top(torch.relu(self.each(x.reshape(-1, 4))).reshape(len(x), -1))

    x = torch.randn(3, 8, dtype=torch.float64)
    check_passed_on("LayerIntegratedGradients", "one entry an example", prepared(Rows()), x, target=1, n_steps=3,
                    layers=lambda net: net.each)  # fmt: skip


# ---- noise


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("name", [*SIMPLE, "IntegratedGradients"])
def test_noise_tunnel(name, kind):
    tunnel = {"nt_type": kind, "nt_samples": 5, "stdevs": 0.3, "nt_samples_batch_size": 2}
    check(name, prepared(Images()), images(), target=[1, 0, 3], tunnel=tunnel, also=["NoiseTunnel"])


def test_noise_tunnel_of_several_inputs():
    tunnel = {"nt_samples": 4, "stdevs": (0.3, 0.1)}
    arguments = (torch.rand(3, 6, dtype=torch.float64), {"power": 2})
    for kwargs in ({}, {"baselines": (0.1, torch.rand(3, 3).double()), "return_convergence_delta": True}):
        check("IntegratedGradients", prepared(TwoInputs()), two_inputs(), target=[1, 2, 0], n_steps=5,
              additional_forward_args=arguments, tunnel=tunnel, also=["NoiseTunnel"], **kwargs)  # fmt: skip
    drawn = tunnel | {"draw_baseline_from_distrib": True}
    check("IntegratedGradients", prepared(TwoInputs()), two_inputs(), target=1, n_steps=5, tunnel=drawn,
          baselines=(torch.rand(9, 5).double(), torch.rand(4, 3).double()), also=["NoiseTunnel"])  # fmt: skip


def test_noise_tunnel_of_a_method_of_captums():
    found = []
    for tunnel in (THEIRS["NoiseTunnel"], ours.NoiseTunnel):
        method = captum_attr.FeatureAblation(prepared(Grid()).float())
        found.append(tunnel(method))
    with accelerate("captum") as report:
        expected, result = (seeded(lambda t=t: t.attribute(images(1).float(), stdevs=0.1, nt_samples=1,
                                                           target=(1, 0, 0))) for t in found)  # fmt: skip
    assert report.passed_on == {"NoiseTunnel": {"FeatureAblation is Captum's": 1}}
    assert result.shape == expected.shape


@pytest.mark.parametrize("multiply", [True, False])
def test_gradient_shap(multiply):
    references = torch.rand(6, 3, 8, 8, dtype=torch.float64)
    for kwargs in ({"stdevs": 0.2}, {"n_samples": 3, "return_convergence_delta": True}):
        for baseline in (references, lambda: references, lambda inputs: inputs * 0.5):
            check("GradientShap", prepared(Images()), images(), baseline, target=[1, 0, 3], init=(multiply,),
                  also=["InputBaselineXGradient"], **kwargs)  # fmt: skip


def test_gradient_shap_of_several_inputs():
    references = (torch.rand(6, 5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64))
    arguments = (torch.rand(3, 6, dtype=torch.float64), {"power": 2})
    check("GradientShap", prepared(TwoInputs()), two_inputs(), references, 4, (0.1, 0.2), 1, arguments,
          also=["InputBaselineXGradient"])  # fmt: skip


# ---- in the manner of Captum's examples


def test_programs_in_captums_manner():
    """A program that imports from captum.attr within the context is served throughout."""
    image_net, pair_net, text_net = prepared(Images()), prepared(TwoInputs()), prepared(Text())
    x, (a, b), tokens = images(), two_inputs(), torch.randint(0, 20, (3, 7))
    with accelerate("captum") as report:
        from captum.attr import (
            LRP,
            Deconvolution,
            DeepLift,
            GradientShap,
            GuidedBackprop,
            GuidedGradCam,
            InputXGradient,
            IntegratedGradients,
            LayerIntegratedGradients,
            LayerLRP,
            NoiseTunnel,
            Saliency,
        )

        integrated = IntegratedGradients(image_net)
        predicted = image_net(x).argmax(1)
        _, delta = integrated.attribute(x, target=predicted, return_convergence_delta=True, n_steps=30)
        assert delta.abs().max() < 0.05
        assert integrated.has_convergence_delta()
        integrated.attribute(x, baselines=x * 0, target=predicted, method="riemann_middle", internal_batch_size=6)
        tunnel = NoiseTunnel(integrated)
        tunnel.attribute(x, nt_type="smoothgrad_sq", nt_samples=4, stdevs=0.1, target=predicted, n_steps=10)
        GradientShap(image_net).attribute(x, n_samples=4, stdevs=0.1, baselines=torch.cat([x * 0, x]), target=predicted)
        assert (Saliency(image_net).attribute(x, target=predicted) >= 0).all()
        InputXGradient(lambda images: torch.sigmoid(image_net(images))).attribute(x, target=[0, 1, 2])
        GuidedBackprop(image_net).attribute(x, target=1)
        Deconvolution(image_net).attribute(x, target=1)
        GuidedGradCam(image_net, image_net.conv2).attribute(x, target=1)
        IntegratedGradients(pair_net).attribute((a, b), baselines=(0, b.mean(0, keepdim=True)), target=1,
                                                additional_forward_args=(torch.rand(3, 6).double(), None))  # fmt: skip
        DeepLift(pair_net).attribute((a, b), target=2, return_convergence_delta=True)
        layer = LayerIntegratedGradients(text_net, text_net.words)
        by_word = layer.attribute(tokens, baselines=torch.zeros_like(tokens), target=2, n_steps=20).sum(-1)
        assert by_word.shape == tokens.shape
        LayerIntegratedGradients(image_net, image_net.relu).attribute(x, target=1, n_steps=5)
        plain = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        LRP(plain).attribute(a, target=1)
        LayerLRP(plain, plain[2]).attribute(a, target=1, attribute_to_layer_input=True)
    assert not report.passed_on
    assert set(report.served) == {
        "Deconvolution", "DeepLift", "GradientShap", "GuidedBackprop", "InputBaselineXGradient", "InputXGradient",
        "IntegratedGradients", "LRP", "LayerIntegratedGradients", "LayerLRP", "NoiseTunnel", "Saliency",
    }  # fmt: skip
    assert report.served["GuidedBackprop"] == 2
    assert report.served["IntegratedGradients"] == 4


def cases_of_captums():
    """The cases that come with Captum for testing its methods: (name, method's name, case)."""
    config = pytest.importorskip("captum.testing.attr.helpers.test_config", reason="captum has no test cases").config
    return [
        (case["name"], kind.__name__, case) for case in config for kind in case["algorithms"] if kind.__name__ in THEIRS
    ]


def test_captums_own_cases():
    for label, name, case in cases_of_captums():
        path = case.get("layer")

        def layers(net, path=path):
            return [net.get_submodule(p) for p in path] if isinstance(path, list) else net.get_submodule(path)

        noisy = case.get("noise_tunnel", False)
        options = {"tunnel": {}} if noisy else {}
        if path is not None and name.startswith("Layer"):
            options["layers"] = layers
        arguments = dict(case["attribute_args"])
        expected, result, report = run(name, case["model"], arguments.pop("inputs"), **arguments, **options)
        assert report.served, (label, name)
        assert not report.passed_on, (label, name)
        assert form(result) == form(expected), (label, name)
        for part, expected_part in zip(flat(result), flat(expected), strict=True):
            assert torch.allclose(part, expected_part, rtol=1e-4, atol=1e-5), (label, name)
