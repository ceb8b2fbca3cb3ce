"""What gradients and paths leave behind (nothing), and dtypes, layouts, modes and odd inputs."""

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, close, integrated, net
from made_of import Made
from torch import nn

from netinterp_fast import (
    deconvnet,
    expected_gradients,
    full_grad,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    rect_grad,
    saliency,
    smoothgrad,
)


def expected(model, x, *arguments, **options):
    first = x[0] if isinstance(x, tuple) else x
    return expected_gradients(model, x, *arguments, baselines=torch.zeros_like(first[:1]) if len(first) else
                              first.new_zeros((1, *first.shape[1:])), samples=4, **options)  # fmt: skip


def smooth(*arguments, **options):
    return smoothgrad(*arguments, samples=4, **options)


def whole_paths(*arguments, **options):
    return integrated_gradients(*arguments, steps=6, hoist=False, **options)


def paths(*arguments, **options):
    return integrated_gradients(*arguments, steps=6, **options)


def to_tolerance(*arguments, **options):
    return integrated_gradients(*arguments, tolerance=0.5, max_steps=64, **options)


def full(*arguments, **options):
    return full_grad(*arguments, **options).input_part


METHODS = [saliency, input_x_gradient, deconvnet, guided_backprop, rect_grad, smooth, expected, paths, whole_paths,
           to_tolerance, full]  # fmt: skip


def state_of(model):
    hooks = [
        {name: dict(value) for name, value in vars(module).items() if name.endswith("hooks")}
        for module in model.modules()
    ]
    attributes = [sorted(vars(module)) for module in model.modules()]
    tensors = {
        name: (value.clone(), value.requires_grad, sorted(vars(value))) for name, value in
        (*model.named_parameters(), *model.named_buffers())
    }  # fmt: skip
    flags = [module.training for module in model.modules()]
    return hooks, attributes, tensors, flags


def assert_same_state(model, before):
    after = state_of(model)
    assert after[0] == before[0]
    assert after[1] == before[1]
    assert after[3] == before[3]
    assert after[2].keys() == before[2].keys()
    for name, (value, *rest) in before[2].items():
        assert torch.equal(after[2][name][0], value), name
        assert list(after[2][name][1:]) == rest
    assert all(parameter.grad is None for parameter in model.parameters())


class Fails(nn.Module):
    def forward(self, x):
        raise ArithmeticError("from the model")


class FailsBackward(nn.Module):
    def forward(self, x):
        y = x * 1
        if y.requires_grad:
            y.register_hook(self._fail)
        return y

    def _fail(self, grad):
        raise ArithmeticError("from the model")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("inplace", [True, False])
def test_a_model_is_left_as_it_was(method, inplace):
    model, x = ConvNet(inplace), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    model.conv2.train()
    model.conv1.weight.requires_grad_(False)
    before, given = state_of(model), x.clone()
    method(model, x, 1)
    assert_same_state(model, before)
    if method in (saliency, paths, guided_backprop):
        method(model, x, 1, layer="conv1")
        method(model, x, 1, layer="bn", attribute_to_layer_input=True)
        assert_same_state(model, before)
    for last in (Fails(), FailsBackward()):
        failing = nn.Sequential(model, last).double()
        state = state_of(failing)
        with pytest.raises(ArithmeticError):
            method(failing, x, 1)
        if method in (saliency, paths, guided_backprop):
            with pytest.raises(ArithmeticError):
                method(failing, x, 1, layer="0.conv1")
        assert_same_state(failing, state)
    with pytest.raises(ValueError, match="target has the class 99"):
        method(model, x, 99)
    assert_same_state(model, before)
    assert torch.equal(x, given)


@pytest.mark.parametrize("target", [1, None])
@pytest.mark.parametrize("method", METHODS)
def test_models_that_change_their_input(method, target):
    """They get a copy: the caller's tensors stay as they are, and so does the attribution."""
    layers, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    x.requires_grad_()
    given = x.detach().clone()
    got = method(lambda x: layers(x.sub_(0.5).div_(2.0)), x, target)
    assert torch.equal(x.detach(), given)
    assert close(got, method(lambda x: layers((x - 0.5) / 2), given, target))


@pytest.mark.parametrize("baseline", [torch.full((1, 6), 0.5).double(), torch.full((3, 6), -0.5).double(), 0.5])
def test_models_that_change_their_input_before_a_layer(baseline):
    inner = net(6, 8, 4)
    changing, keeping = nn.Sequential(nn.ReLU(True), inner), nn.Sequential(nn.ReLU(), inner)
    x = torch.randn(3, 6, dtype=DOUBLE)
    given, given_baseline = x.clone(), baseline.clone() if isinstance(baseline, torch.Tensor) else baseline
    got = paths(changing, x, 1, layer="1.0", baseline=baseline)
    assert close(got, paths(keeping, x, 1, layer="1.0", baseline=baseline))
    assert close(saliency(changing, x, 1, layer="1.0"), saliency(keeping, x, 1, layer="1.0"))
    assert torch.equal(x, given)
    assert isinstance(baseline, float) or torch.equal(baseline, given_baseline)


@pytest.mark.parametrize("method", METHODS)
def test_modes_around_the_call_do_not_matter(method):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    result = method(model, x, 1)
    with torch.no_grad():
        assert close(method(model, x, 1), result, 1e-12)
    with torch.inference_mode():
        assert close(method(model, x, 1), result, 1e-12)
        inside = x.clone()
        assert close(method(model, inside, 1), result, 1e-12)
    assert close(method(model, inside, 1), result, 1e-12)
    assert close(method(model.requires_grad_(False), x, 1), result, 1e-12)
    asking = x.clone().requires_grad_()
    got = method(model, asking, 1)
    assert close(got, result, 1e-12)
    assert not got.requires_grad
    assert asking.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_arguments_made_in_inference_mode(method):
    layers, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    scale, seed = torch.rand(3, 6, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE)

    def model(x, scale):
        return layers(x * scale)

    result = method(model, x, seed, additional_forward_args=scale)
    with torch.inference_mode():
        got = method(model, x.clone(), seed.clone(), additional_forward_args=scale.clone())
    assert close(got, result, 1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(method, dtype):
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE).to(dtype)
    model = model.to(dtype)
    got = method(model, x, 1)
    assert got.dtype == dtype
    model = model.double()
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.2, torch.float32: 1e-4}[dtype]
    if method not in (smooth, expected, to_tolerance, deconvnet):
        assert close(got.double(), method(model, x.double(), 1), tolerance)


@pytest.mark.parametrize("method", [saliency, input_x_gradient, guided_backprop, smooth, expected, paths, full])
def test_memory_formats(method):
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    result = method(model, x, 1)
    for same in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert close(method(model, same, 1), result, 1e-12)
    wide = torch.zeros(3, 2, 8, 16, dtype=DOUBLE)
    wide[..., ::2] = x
    assert close(method(model, wide[..., ::2], 1), result, 1e-12)
    row = x[:1].expand(3, -1, -1, -1)
    assert close(method(model, row, 1), method(model, row.contiguous(), 1), 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch(method):
    model, x = ConvNet(), torch.zeros(0, 2, 8, 8, dtype=DOUBLE)
    for target in (1, None):
        got = method(model, x, target)
        assert got.shape == x.shape
        assert got.dtype == x.dtype
    if method in (saliency, guided_backprop, paths, whole_paths):
        assert method(model, x, targets=torch.tensor([0, 1])).shape == (2, *x.shape)
        assert method(model, x, 1, layer="conv1").shape == (0, 5, 8, 8)


def test_an_empty_batch_has_information_of_nothing():
    model, x = net(6, 4), torch.zeros(0, 6, dtype=DOUBLE)
    for options in ({}, {"tolerance": 0.1}):
        _, info = integrated_gradients(model, x, 1, return_info=True, **options)
        assert [len(part) for part in (info.steps, info.error, info.convergence_delta)] == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_examples_of_one_number(method):
    x = torch.tensor([2.0, -1.0, 0.5], dtype=DOUBLE)
    got = method(lambda x: x * 3, x)
    scale = 3 if method in (saliency, deconvnet, guided_backprop, rect_grad, smooth) else 3 * x
    assert close(got, torch.ones_like(x) * scale)
    got = method(lambda x: torch.stack([x, x * 3], 1), x, 1)
    assert close(got, torch.ones_like(x) * scale)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_not_a_number_stays_in_its_example(method):
    """Where the gradient depends on it."""
    model, x = Made(lambda s, x: s.b(torch.tanh(s.a(x))), a=nn.Linear(6, 8), b=nn.Linear(8, 4)), torch.randn(3, 6)
    x = x.double()
    x[1, 2] = torch.nan
    got = method(model, x, 1)
    assert got[1].isnan().any()
    assert got[[0, 2]].isfinite().all()
    got = method(ConvNet(), torch.full((1, 2, 8, 8), torch.nan, dtype=DOUBLE), 1)
    assert got.shape == (1, 2, 8, 8)


@pytest.mark.parametrize("method", METHODS)
def test_huge_and_zero_values(method):
    model = net(6, 8, 4)
    zero = method(model, torch.zeros(2, 6, dtype=DOUBLE), 1)
    assert zero.isfinite().all()
    if method in (input_x_gradient, paths, whole_paths, to_tolerance, full, expected):
        assert not zero.any()
    assert method(model, torch.randn(2, 6, dtype=DOUBLE) * 1e150, 1).isfinite().all()


def test_autocast():
    model, x = ConvNet().float(), torch.randn(3, 2, 8, 8)
    dtypes = []
    model.fc.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    exact = integrated_gradients(model, x, 1, steps=20)
    for hoist in (True, False):
        dtypes.clear()
        got = integrated_gradients(model, x, 1, steps=20, autocast=torch.bfloat16, hoist=hoist)
        assert set(dtypes) == {torch.bfloat16}
        assert got.dtype == torch.float32
        assert not torch.equal(got, exact)
        assert (got - exact).norm() < 0.1 * exact.norm()
    assert not torch.is_autocast_enabled("cpu")
    for hoist in (True, False):
        got = integrated_gradients(model.double(), x.double(), 1, steps=5, autocast=torch.bfloat16, hoist=hoist)
        assert got.dtype == DOUBLE


def test_hooks_of_the_models_own_run():
    model, x, seen = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE), []
    handle = model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().sum().item()))
    doubling = model[2].register_forward_hook(lambda module, inputs, output: output * 2)
    got = paths(model, x, 1)
    assert seen
    assert all(isinstance(value, float) and value == value for value in seen)
    handle.remove()
    doubling.remove()
    assert close(got, 2 * integrated(model, x, lambda out: out[:, 1],
                                     points=list(zip(*map(torch.Tensor.tolist, _rule()), strict=True))))  # fmt: skip


def _rule():
    from netinterp_fast.attribution.paths.nodes import nodes

    return nodes("gausslegendre", 6)
