"""Which output gradients and paths explain, and at which layer."""

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, TwoInputs, WithArguments, close, gradient, integrated, net, points_of
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


def smooth(*arguments, **options):
    return smoothgrad(*arguments, samples=3, sigma=0.0, **options)


def paths(*arguments, **options):
    return integrated_gradients(*arguments, steps=5, **options)


def small_paths(*arguments, **options):
    return integrated_gradients(*arguments, steps=5, batch_size=2, **options)


def expected(model, inputs, *arguments, **options):
    zeros = tuple(x[:1] * 0 for x in inputs) if isinstance(inputs, tuple) else inputs[:1] * 0
    return expected_gradients(model, inputs, *arguments, baselines=zeros, samples=3, batch_size=2, **options)


def full(*arguments, **options):
    return full_grad(*arguments, **options).input_part


METHODS = [
    saliency,
    input_x_gradient,
    deconvnet,
    guided_backprop,
    rect_grad,
    smooth,
    paths,
    small_paths,
    expected,
    full,
]
WITH_LAYERS = [saliency, input_x_gradient, deconvnet, guided_backprop, rect_grad, paths, small_paths]


@pytest.mark.parametrize("method", METHODS)
def test_targets_are_seeds(method):
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    largest = model(x).argmax(1)

    def by_seed(classes):
        return method(model, x, nn.functional.one_hot(torch.as_tensor(classes), 4).double())

    for target, classes in [
        (2, [2, 2, 2]), ([2], [2, 2, 2]), (torch.tensor(2), [2, 2, 2]), (torch.tensor([2]), [2, 2, 2]),
        ((2,), [2, 2, 2]), ((-1,), [3, 3, 3]), ([1, 0, 3], [1, 0, 3]), (torch.tensor([1, 0, 3]), [1, 0, 3]),
        (torch.tensor([1, 0, 3], dtype=torch.int32), [1, 0, 3]), ([(1,), (0,), (3,)], [1, 0, 3]),
        (lambda out: out[:, 3], [3, 3, 3]), (None, largest),
    ]:  # fmt: skip
        assert close(method(model, x, target), by_seed(classes)), target


@pytest.mark.parametrize("method", METHODS)
def test_index_targets(method):
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 2)).double()
    x, seed = torch.randn(3, 2, 9, dtype=DOUBLE), torch.zeros(3, 3, 6, dtype=DOUBLE)
    seed[:, 1, 4] = 1
    assert close(method(model, x, (1, 4)), method(model, x, seed))
    assert close(method(model, x, (-2, -2)), method(model, x, seed))
    seed.zero_()
    seed[0, 2, 5] = seed[1, 0, 0] = seed[2, 1, 3] = 1
    assert close(method(model, x, [(2, 5), (0, 0), (1, 3)]), method(model, x, seed))
    assert close(method(model, x, lambda out: out[:, 0].sum(1)), method(model, x, lambda out: out.sum(2)[:, 0]))


@pytest.mark.parametrize("method", [saliency, smooth, paths, small_paths, expected, full])
def test_seeds_are_weights_of_a_sum(method):
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    seed = torch.randn(3, 4, dtype=DOUBLE)
    singles = [method(model, x, target) for target in range(4)]
    assert close(method(model, x, seed), sum(seed[:, [i]] * single for i, single in enumerate(singles)))
    assert close(method(model, x, seed.float()), method(model, x, seed.float().double()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_one_number_an_example_needs_no_target(method, shape):
    layers, x = net(6, 8, 1), torch.randn(3, 6, dtype=DOUBLE)
    assert close(method(lambda x: layers(x).view(-1, *shape[1:]), x), method(layers, x, 0))


@pytest.mark.parametrize("method", [paths, small_paths, smooth, expected])
def test_none_keeps_the_class_of_the_input(method):
    """The largest output changes on the way."""
    model = Made(lambda s, x: torch.stack([x[:, 0] ** 2, 0.5 * x[:, 1] + 0 * x[:, 0]], 1))
    x = torch.tensor([[1.0, 1.0], [0.4, 1.0]], dtype=DOUBLE)
    assert close(method(model, x), method(model, x, [0, 1]))


@pytest.mark.parametrize("method", METHODS)
def test_further_arguments(method):
    model, x, scale = WithArguments(), torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 5, dtype=DOUBLE)
    got = method(model, x, 1, additional_forward_args=(scale, 2))
    for i in range(3):
        alone = method(lambda x, i=i: model(x, scale[i], 2), x[i : i + 1], 1)
        if method is not expected:
            assert close(got[i : i + 1], alone)
    single = method(model, x, 1, additional_forward_args=scale)
    assert close(single, method(model, x, 1, additional_forward_args=(scale,)))


@pytest.mark.parametrize("method", METHODS)
def test_a_tuple_of_inputs_gives_a_tuple(method):
    x, y = torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 2, 7, dtype=DOUBLE)
    model = TwoInputs()
    both = method(model, (x, y), 1)
    assert isinstance(both, tuple)
    assert [part.shape for part in both] == [x.shape, y.shape]
    alone = method(net(6, 8, 4), (x,), 1)
    assert isinstance(alone, tuple)
    assert len(alone) == 1
    if method in (saliency, input_x_gradient):
        assert close(both[0], method(lambda x: model(x, y), x, 1))
        assert close(both[1], method(lambda y: model(x, y), y, 1))


# Layers


@pytest.mark.parametrize("method", WITH_LAYERS)
@pytest.mark.parametrize("at_input", [True, False])
def test_layers_are_the_rest_of_the_network_explained(method, at_input):
    model, x = net(6, 8, 7, 4), torch.randn(3, 6, dtype=DOUBLE)
    for i in range(1, len(model)):
        head, tail = model[: i if at_input else i + 1], model[i if at_input else i + 1 :]
        if not len(tail):
            continue
        options = {"layer": str(i), "attribute_to_layer_input": at_input}
        got = method(model, x, 1, **options)
        if method in (paths, small_paths):
            start, end = head(torch.zeros_like(x)).detach(), head(x).detach()
            rule = points_of("gausslegendre", 5)
            wanted = integrated(tail, end, lambda out: out[:, 1], baseline=start, points=rule)
        else:
            wanted = method(tail, head(x).detach(), 1)
        assert close(got, wanted)
        assert torch.equal(method(model, x, 1, **options | {"layer": model[i]}), got)
        several = method(model, x, targets=torch.tensor([1, 2]), **options)
        assert close(several[0], got)


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_layers_whose_output_is_changed_in_place(method):
    """By the activation right after them: it does not show in what is attributed to them."""
    for activation in (nn.ReLU, nn.LeakyReLU):
        inner = nn.Linear(6, 8).double(), nn.Linear(8, 4).double()
        changed = nn.Sequential(inner[0], activation(inplace=True), inner[1])
        kept = nn.Sequential(inner[0], activation(), inner[1])
        x = torch.randn(3, 6, dtype=DOUBLE)
        assert close(method(changed, x, 1, layer="0"), method(kept, x, 1, layer="0"))
        assert close(
            method(changed, x, 1, layer="1", attribute_to_layer_input=True),
            method(kept, x, 1, layer="1", attribute_to_layer_input=True),
        )


class TwoOutputs(nn.Module):
    def forward(self, x, factor=2.0):
        return x * factor, x[:, :3] ** 2


@pytest.mark.parametrize("method", WITH_LAYERS)
def test_layers_with_several_outputs_and_inputs(method):
    class Sum(nn.Module):
        def forward(self, a, b):
            return torch.cat([a, b], 1)

    model = Made(lambda s, x: s.b(torch.relu(s.sum(*s.two(s.a(x))))), a=nn.Linear(6, 5), two=TwoOutputs(),
                 sum=Sum(), b=nn.Linear(8, 4))  # fmt: skip
    x = torch.randn(3, 6, dtype=DOUBLE)
    outputs = method(model, x, 1, layer="two")
    inputs = method(model, x, 1, layer="sum", attribute_to_layer_input=True)
    whole = method(model, x, 1, layer="sum")
    for parts in (outputs, inputs):
        assert isinstance(parts, tuple)
        assert close(torch.cat(parts, 1), whole)


def test_a_reused_layer_counts_the_first_time():
    model = Made(lambda s, x: s.b(s.r(s.a(s.r(s.a(x))))), a=nn.Linear(6, 6), b=nn.Linear(6, 4), r=nn.ReLU())
    x = torch.randn(3, 6, dtype=DOUBLE)
    rest = Made(lambda s, h: s.b(s.r(s.a(s.r(h)))), a=model.a, b=model.b, r=model.r)
    assert close(saliency(model, x, 1, layer="a"), gradient(rest, model.a(x), lambda out: out[:, 1]))
    got = paths(model, x, 1, layer="a")
    rule = points_of("gausslegendre", 5)
    wanted = integrated(rest, model.a(x).detach(), lambda out: out[:, 1], baseline=model.a.bias.detach(), points=rule)
    assert close(got, wanted)


@pytest.mark.parametrize("layer", ["conv1", "relu1", "conv2"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_against_captum(layer):
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x = ConvNet(), torch.randn(3, 2, 8, 8, dtype=DOUBLE)
    module = getattr(model, layer)
    peer = captum.LayerGradientXActivation(model, module).attribute(x, 1)
    assert close(input_x_gradient(model, x, 1, layer=layer), peer.detach())
    for at_input in (True, False):
        peer = captum.LayerIntegratedGradients(model, module).attribute(x, target=1, n_steps=7,
                                                                        attribute_to_layer_input=at_input)  # fmt: skip
        got = integrated_gradients(model, x, 1, layer=layer, steps=7, attribute_to_layer_input=at_input)
        assert close(got, peer.detach(), 1e-6)  # Captum computes alphas in float32


def test_layers_of_a_function():
    model, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    assert close(paths(lambda x: model(x), x, 1, layer=model[0]), paths(model, x, 1, layer="0"))


def test_layers_and_further_arguments():
    model, x, scale = WithArguments(), torch.randn(3, 6, dtype=DOUBLE), torch.randn(3, 5, dtype=DOUBLE)
    for method in WITH_LAYERS:
        got = method(model, x, 1, layer="a", additional_forward_args=(scale, 2))
        for i in range(3):
            alone = method(model, x[i : i + 1], 1, layer="a", additional_forward_args=(scale[i : i + 1], 2))
            assert close(got[i : i + 1], alone)
