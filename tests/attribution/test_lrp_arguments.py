"""lrp()'s arguments: targets, seeds, shapes, layouts; and the errors for those that do not fit."""

import pytest
import torch
from made_of import Made, close, conv, layers
from relevance_nets import SmallVGG
from torch import nn

from netinterp_fast import composites, lrp, rules

NAMES = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "guided_backprop"]


@pytest.fixture
def model():
    return SmallVGG().double().eval()


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def seeds(output, classes, value=None):
    rows = torch.arange(len(output))
    result = torch.zeros_like(output)
    result[rows, classes] = output[rows, classes] if value is None else value
    return result.detach()


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_seeds(model, x, name):
    output = model(x)
    chosen = torch.tensor([4, 0, 9])
    by_seed = lrp(model, x, seeds(output, chosen), composite=name)
    assert close(lrp(model, x, chosen, composite=name), by_seed)
    assert close(lrp(model, x, chosen.int(), composite=name), by_seed)
    assert close(lrp(model, x, 4, composite=name)[0], by_seed[0])
    largest = lrp(model, x, seeds(output, output.argmax(1)), composite=name)
    assert close(lrp(model, x, composite=name), largest)
    assert close(lrp(model, x, None, composite=name), largest)
    assert close(lrp(model, x, chosen, seed="one", composite=name), lrp(model, x, seeds(output, chosen, 1.0),
                                                                         composite=name))  # fmt: skip


def test_relevance_is_linear_in_the_seed(model, x):
    one, two = torch.randn(2, 3, 10, dtype=torch.float64)
    together = lrp(model, x, 2 * one - two)
    assert close(2 * lrp(model, x, one) - lrp(model, x, two), together)
    assert not lrp(model, x, torch.zeros_like(one)).any()
    assert close(lrp(model, x, one.float()), lrp(model, x, one.float().double()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", ["output", "one"])
def test_many_targets_are_single_calls(model, x, name, seed):
    targets = torch.tensor([7, 0, 7, 3])
    got = lrp(model, x, composite=name, seed=seed, targets=targets)
    assert got.shape == (4, *x.shape)
    for part, target in zip(got, targets.tolist(), strict=True):
        assert close(part, lrp(model, x, target, composite=name, seed=seed))


def test_each_example_is_explained_by_itself(model, x):
    together = lrp(model, x, 2)
    for i in range(3):
        assert close(lrp(model, x[i : i + 1], 2)[0], together[i])


@pytest.mark.parametrize("name", [*NAMES, "excitation_backprop", "deconvnet", "beta_smooth"])
def test_an_empty_batch(model, x, name):
    assert lrp(model, x[:0], composite=name).shape == (0, 3, 16, 16)
    assert lrp(model, x[:0], 3, composite=name).shape == (0, 3, 16, 16)
    assert lrp(model, x[:0], composite=name, targets=torch.tensor([1, 2])).shape == (2, 0, 3, 16, 16)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last(model, x, name):
    expected = lrp(model, x, composite=name)
    assert close(lrp(model, x.to(memory_format=torch.channels_last), composite=name), expected)
    model = model.to(memory_format=torch.channels_last)
    assert close(lrp(model, x.to(memory_format=torch.channels_last), composite=name), expected)
    assert close(lrp(model, x[:, :, ::2].repeat_interleave(1, 2).transpose(2, 3).contiguous().transpose(2, 3),
                     composite=name), lrp(model, x[:, :, ::2].contiguous(), composite=name))  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 2, 2, 5), (2,), ()])
def test_outputs_of_any_shape_take_a_seed(shape):
    summed = tuple(range(len(shape), 4)) if len(shape) < 2 else ()
    model = Made(lambda s, x: s.a(x).sum(summed) if summed else s.a(x).reshape(shape), a=conv(1, 1, 1))
    x, seed = torch.rand(2, 1, 4, 5, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(lrp(model, x, seed).sum(), seed.sum(), rtol=1e-4, atol=1e-4)
    for target in (None, 0, torch.tensor([0, 0])):
        with pytest.raises(ValueError, match=r"output has shape .*class targets need \[B, n\].*seed"):
            lrp(model, x, target)


def test_grad_mode_and_flags_around_the_call_do_not_matter(model, x):
    expected = lrp(model, x)
    with torch.no_grad():
        assert close(lrp(model, x), expected)
    with torch.inference_mode():
        assert close(lrp(model, x), expected)
        inside = x.clone()
    assert close(lrp(model, inside), expected)
    assert close(lrp(model.requires_grad_(False), x), expected)
    asking = x.clone().requires_grad_()
    got = lrp(model, asking)
    assert close(got, expected)
    assert not got.requires_grad
    assert asking.grad is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": [1.0]}, TypeError, "inputs is a list; it must be a tensor"),
        ({"inputs": torch.ones(1, 3, 16, 16).long()}, TypeError, "inputs has dtype int64; it must be floating-point"),
        ({"inputs": torch.ones(1, 3, 16, 16).cdouble()}, TypeError, "inputs has dtype complex128"),
        ({"target": 10}, ValueError, "target has the class 10; the model has 10 outputs"),
        ({"target": -1}, ValueError, "target has the class -1"),
        ({"target": torch.tensor([0, 1])}, ValueError, r"target has shape \[2\]; it must be \[3\]"),
        ({"target": torch.tensor(1)}, ValueError, r"target has shape \[\]; it must be \[3\]"),
        ({"target": torch.tensor([0, 1, 12])}, ValueError, "target has the class 12"),
        ({"target": True}, TypeError, "target is True"),
        ({"target": torch.ones(3).bool()}, TypeError, "target"),
        ({"target": "cat"}, TypeError, "target is 'cat'"),
        ({"target": 1.5}, TypeError, "target is 1.5"),
        ({"target": torch.ones(3, 9).double()}, ValueError, r"target has shape \[3, 9\]; a seed has .* \[3, 10\]"),
        ({"target": torch.ones(3).double()}, ValueError, r"target has shape \[3\]; a seed has the output's"),
        ({"seed": "ones"}, ValueError, "seed is 'ones'; it must be 'output' or 'one'"),
        ({"targets": torch.tensor([1]), "target": 1}, ValueError, "target and targets are both given"),
        ({"targets": [1, 2]}, TypeError, r"targets must be a LongTensor \[T\]"),
        ({"targets": torch.ones(2)}, TypeError, "targets must be a LongTensor"),
        ({"targets": torch.ones(2).bool()}, TypeError, "target"),
        ({"targets": torch.ones(1, 2).long()}, TypeError, "targets must be a LongTensor"),
        ({"targets": torch.ones(0).long()}, ValueError, "targets is empty"),
        ({"targets": torch.tensor([1, 10])}, ValueError, "target has the class 10"),
        ({"composite": "epsilon_minus"}, ValueError, "composite is 'epsilon_minus'; the names are epsilon, "),
        ({"composite": 3}, TypeError, "composite is a int; it must be a Composite or a name"),
        ({"composite": composites.EpsilonPlus}, TypeError, "composite is a .*; it must be a Composite or a name"),
        ({"composite": "epsilon_gamma_box"}, TypeError, r"needs the lowest and highest .*epsilon_gamma_box\(low=..."),
        ({"composite": "deep_taylor"}, TypeError, r"needs the lowest and highest .*deep_taylor\(low=..."),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(model, x, change, error, message):
    with pytest.raises(error, match=message):
        lrp(model, **{"inputs": x} | change)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rules.Epsilon(-1), ValueError, "epsilon is -1; it must be finite and at least 0"),
        (lambda: rules.ZPlus(float("nan")), ValueError, "stabilizer is nan"),
        (lambda: rules.Gamma(0.25, "1e-6"), TypeError, "stabilizer is '1e-6'; it must be a number or a function"),
        (lambda: rules.Norm(True), TypeError, "stabilizer is True"),
        (lambda: rules.AlphaBeta(2, 0), ValueError, "alpha is 2, beta is 0; .*alpha - beta 1"),
        (lambda: rules.AlphaBeta(0, -1), ValueError, "alpha is 0, beta is -1"),
        (lambda: rules.Flat(zero_params="biases"), ValueError, "zero_params has 'biases'"),
        (lambda: composites.Composite(unknown="pass"), ValueError, "unknown is 'pass'; it must be 'error' or"),
    ],
)
def test_rules_and_composites_check_their_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bounds_that_do_not_broadcast_are_named(model, x):
    composite = composites.epsilon_gamma_box(low=torch.zeros(2, 1, 1), high=torch.ones(3, 1, 1))
    with pytest.raises(ValueError, match=r"low has shape \[2, 1, 1\]; it must broadcast to the input \[3, 3, 16, 16\]"):
        lrp(model, x, composite=composite)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_norm_in_training_mode_is_an_error(model, x, name):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\)"):
        lrp(model.train(), x, composite=name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if "num_batches" not in key)


@pytest.mark.parametrize(
    "function",
    [lambda s, x: (s.a(x),), lambda s, x: {"out": s.a(x)}, lambda s, x: s.a(x).detach(), lambda s, x: s.a.weight,
     lambda s, x: None, lambda s, x: s.a(x).argmax(1)],
)  # fmt: skip
def test_a_model_that_returns_no_tensor_of_its_input(function):
    with pytest.raises(ValueError, match="the model's output is not a tensor that depends on its input"):
        lrp(Made(function, a=conv()), torch.randn(1, 3, 5, 5, dtype=torch.float64))


def test_a_model_that_returns_its_input():
    x, seed = torch.randn(2, 2, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    assert close(lrp(nn.Identity(), seed, seed * 3), seed * 3)
    assert close(lrp(nn.Flatten(), x, x * 2), x * 2)


def test_an_error_of_the_models_own_is_passed_on(model):
    with pytest.raises(RuntimeError, match="channels"):
        lrp(model, torch.randn(1, 4, 16, 16, dtype=torch.float64))


def test_composites_by_function_name_and_class_are_the_same(model, x):
    for name in NAMES:
        by_name = lrp(model, x, composite=name)
        assert torch.equal(lrp(model, x, composite=getattr(composites, name)()), by_name)
        assert torch.equal(lrp(model, x, composite=composites.COMPOSITES[name]()), by_name)
    with pytest.raises(AttributeError, match="epsilon_minus"):
        _ = composites.epsilon_minus


def test_which_rule_a_layer_gets(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(576, 3))
    flat, plus, epsilon = rules.Flat(), rules.ZPlus(), rules.Epsilon()
    special = composites.SpecialFirstLayerMapComposite([(nn.Conv2d, plus)], [(nn.Conv2d, flat)])
    assert special.assign(model) == {"0": flat, "2": plus}
    assert special.assign(model) == {"0": flat, "2": plus}  # nothing is remembered
    mixed = composites.NameLayerMapComposite([(["4", "2"], epsilon)], [(nn.Conv2d, plus), (nn.Module, flat)])
    assert mixed.assign(model) == {"": flat, "0": plus, "1": flat, "2": epsilon, "3": flat, "4": epsilon}
    assert composites.MixedComposite([special, mixed]).assign(model)["0"] is flat
    assert layers((nn.Conv2d, plus)).functional_rule(nn.Conv2d) is plus
