"""`composite.context(model)` and `Gradient` as a context manager."""

import copy

import pytest
import torch
from torch import nn

from netinterp_fast.attribution.relevance import lrp
from netinterp_fast.compat.zennit.attribution import Gradient
from netinterp_fast.compat.zennit.composites import EpsilonPlus, EpsilonPlusFlat, NameMapComposite
from netinterp_fast.compat.zennit.rules import Pass, ReLUDeconvNet


class Scale:
    """A canonizer by protocol: a parameter doubled until remove()."""

    def __init__(self, name, log, fails=False):
        self.name, self.log, self.fails = name, log, fails

    def apply(self, root_module):
        if self.fails:
            raise RuntimeError("cannot apply")
        self.parameter = root_module.get_parameter(self.name)
        self.parameter.data.mul_(2)
        self.log.append("applied")
        return [self]

    def remove(self):
        self.parameter.data.div_(2)
        self.log.append("removed")


def weight_name(model):
    return next(name for name, _ in model.named_parameters())


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks)]


def test_relevance_by_autograd(model, inputs):
    composite, x = EpsilonPlusFlat(), inputs.clone().requires_grad_()
    with composite.context(model) as modified_model:
        output = modified_model(x)
        (relevance,) = torch.autograd.grad(output, x, output)
    assert output.allclose(model(inputs))
    assert relevance.allclose(lrp(model, inputs, output.detach()), rtol=1e-12)
    assert relevance.equal(Gradient(model, composite)(inputs)[1])
    assert not hooks(model)


def test_backward_leaves_relevance_in_grad(model, inputs):
    x = inputs.clone().requires_grad_()
    with EpsilonPlus().context(model) as modified_model:
        output = modified_model(x)
        output.backward(gradient=output)
    assert x.grad.equal(Gradient(model, EpsilonPlus())(inputs)[1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_backward_pass_may_come_after_the_context(model, inputs):
    x = inputs.clone().requires_grad_()
    with EpsilonPlus().context(model) as modified_model:
        output = modified_model(x)
    assert torch.autograd.grad(output, x, output)[0].equal(Gradient(model, EpsilonPlus())(inputs)[1])


def test_zennit_gives_the_same_in_a_context(zennit, for_zennit, model, inputs):
    x = inputs.clone().requires_grad_()
    peer = zennit.composites.EpsilonPlus(canonizers=[zennit.canonizers.SequentialMergeBatchNorm()])
    found = []
    for composite, net in ((EpsilonPlus(), model), (peer, for_zennit(model))):
        with composite.context(net) as modified_model:
            output = modified_model(x)
            found.append(torch.autograd.grad(output, x, torch.ones_like(output))[0])
    assert (found[0] - found[1]).abs().max() <= 1e-9 * found[1].abs().max()


def test_the_modified_model_has_what_the_model_has(model):
    model.labels = ["a", "b"]
    model.double_labels = lambda: model.labels * 2
    with EpsilonPlus().context(model) as modified_model:
        assert isinstance(modified_model, nn.Module)
        assert not modified_model.training
        assert modified_model.labels is model.labels
        assert modified_model.double_labels() == ["a", "b", "a", "b"]
        assert [n for n, _ in modified_model.named_modules()] == [n for n, _ in model.named_modules()]
        assert all(a is b for a, b in zip(modified_model.parameters(), model.parameters(), strict=True))
        with pytest.raises(AttributeError, match="absent"):
            _ = modified_model.absent


def test_inputs_without_gradient_run_the_plain_model(model, inputs):
    with EpsilonPlus().context(model) as modified_model, torch.no_grad():
        assert modified_model(inputs).equal(model(inputs))
        assert modified_model(inputs.clone().requires_grad_()).grad_fn is None


def test_after_the_context_it_is_the_plain_model(model, inputs):
    x = inputs.clone().requires_grad_()
    with EpsilonPlus().context(model) as modified_model:
        pass
    gradients = [torch.autograd.grad(f(x).sum(), x)[0] for f in (modified_model, model)]
    assert gradients[0].equal(gradients[1])


def test_calling_the_model_itself_in_the_context_is_an_error(model, inputs):
    x = inputs.clone().requires_grad_()
    part = next(model.children())
    with EpsilonPlus().context(model) as modified_model:
        with pytest.raises(RuntimeError, match="call the object that context"):
            model(x)
        with pytest.raises(RuntimeError, match=type(part).__name__):
            part(x)
        modified_model(x)
    model(x)
    assert not hooks(model)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x, *, other, scale=1):
        return {"sum": self.a(x) + self.b(other), "scale": scale}


def test_models_of_several_inputs_and_outputs():
    model, x, y = TwoInputs().requires_grad_(False), torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    y.requires_grad_()
    with EpsilonPlus(zero_params="bias").context(model) as modified_model:
        output = modified_model(x, other=y, scale=3)
        relevance = torch.autograd.grad(output["sum"], [x, y], output["sum"])
    assert output["scale"] == 3
    # each summand keeps its share of a + b, and without biases a linear layer hands on all it gets
    for part, expected in zip(relevance, (model.a(x), model.b(y)), strict=True):
        torch.testing.assert_close(part.sum(1), expected.sum(1).detach(), rtol=1e-3, atol=1e-4)


def test_register_is_an_error(model):
    composite = EpsilonPlus()
    with pytest.raises(RuntimeError, match=r"use `with composite.context\(model\)"):
        composite.register(model)
    composite.remove()


def test_canonizers_are_applied_for_one_call(model, inputs):
    log, name = [], weight_name(model)
    before = copy.deepcopy(model.state_dict())
    composite = EpsilonPlus(canonizers=[Scale(name, log)])
    output, _ = Gradient(model, composite)(inputs)
    assert log == ["applied", "removed"]
    assert not output.allclose(model(inputs))
    with Gradient(model, composite) as attributor:
        assert log == ["applied", "removed", "applied"]
        assert attributor(inputs)[0].equal(output)
        assert attributor(inputs)[0].equal(output)
    assert log == ["applied", "removed"] * 2
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())


def test_canonizers_are_removed_after_errors(model, inputs):
    log, name = [], weight_name(model)
    weight = model.get_parameter(name).clone()
    composite = EpsilonPlus(canonizers=[Scale(name, log), Scale(name, log)])
    with pytest.raises(RuntimeError):
        Gradient(model, composite)(inputs[:, :1])
    assert log == ["applied", "applied", "removed", "removed"]
    with pytest.raises(ZeroDivisionError), composite.context(model):
        _ = 1 / 0
    failing = EpsilonPlus(canonizers=[Scale(name, log), Scale(name, log, fails=True)])
    with pytest.raises(RuntimeError, match="cannot apply"):
        Gradient(model, failing)(inputs)
    assert log.count("applied") == log.count("removed")
    assert model.get_parameter(name).equal(weight)
    assert not hooks(model)


def test_hooks_for_rules_by_name_are_removed_after_errors(inputs):
    class Fails(nn.ReLU):
        def forward(self, x):
            raise ZeroDivisionError

    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), Fails()).double()
    with pytest.raises(ZeroDivisionError):
        Gradient(model, NameMapComposite([(["1", "2"], ReLUDeconvNet())]))(inputs)
    assert not hooks(model)


def test_a_rule_for_another_kind_of_layer_is_named(model, inputs):
    name = weight_name(model).rsplit(".", 1)[0]
    with pytest.raises(TypeError, match=rf"'{name}' has the rule Pass\(\)"):
        Gradient(model, NameMapComposite([([name], Pass())]))(inputs)


def test_second_order(inputs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x = inputs.clone().requires_grad_()
    _, gradient = Gradient(model, create_graph=True)(x)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].abs().sum() > 0
    output, gradient = Gradient(model, retain_graph=True)(x)
    assert torch.autograd.grad(output, x, output)[0].equal(gradient)


def test_inputs_are_left_alone(model, inputs):
    _, relevance = Gradient(model, EpsilonPlus())(inputs)
    assert not inputs.requires_grad
    x = inputs.clone().requires_grad_()
    assert Gradient(model, EpsilonPlus())(x)[1].equal(relevance)
    assert x.grad is None


def test_arguments_of_gradient(model, inputs):
    with pytest.raises(TypeError, match="attr_output is 3"):
        Gradient(model, attr_output=3)
    with pytest.raises(TypeError, match="attr_output is 'a'"):
        Gradient(model)(inputs, "a")
    with pytest.raises(TypeError, match="input is a int"):
        Gradient(model)(3)
    with pytest.raises(TypeError, match=r"composite is a builtins\.str"):
        Gradient(model, "epsilon_plus")
    attributor = Gradient(model, EpsilonPlus())
    with attributor, pytest.raises(RuntimeError, match="in use"), attributor:
        pass
    assert not hooks(model)


def test_zennits_own_composites_are_refused(zennit, model):
    with pytest.raises(TypeError, match=r"composite is a zennit\.composites\.EpsilonPlus"):
        Gradient(model, zennit.composites.EpsilonPlus())
