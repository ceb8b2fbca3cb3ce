"""LRP, LayerLRP and DeepLift of `compat.captum`, beside Captum's."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")
from captum.attr._utils.custom_modules import Addition_Module  # noqa: E402
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule  # noqa: E402

from netinterp_fast.compat import accelerate  # noqa: E402
from netinterp_fast.compat import captum as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run():
    torch.manual_seed(0)


class Convolutional(nn.Module):
    """Convolutions with batch norms, two poolings, a classifier."""

    def __init__(self, pool=nn.MaxPool2d):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), pool(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(32, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 4))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class Fire(nn.Module):
    """One in-place ReLU, called on one tensor after another."""

    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze, self.expand1 = nn.Conv2d(inputs, squeezed, 1), nn.Conv2d(squeezed, expanded, 1)
        self.expand3, self.relu = nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1(x)), self.relu(self.expand3(x))], 1)


class Squeezing(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 4, 6), Fire(12, 4, 6)
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(12, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class Block(nn.Module):
    def __init__(self, inputs, width, stride, add):
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(inputs, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride), nn.BatchNorm2d(width))
        self.add = add

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.add(y, self.shortcut(x)))


class Residual(nn.Module):
    def __init__(self, add=Addition_Module):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.blocks = nn.Sequential(Block(6, 6, 1, add()), Block(6, 8, 2, add()))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


class Functional(nn.Module):
    """Functions between the layers, those that Captum's LRP is right about among them."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear, self.head = nn.Conv2d(3, 6, 3), nn.Linear(54, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = (x - 0.1) / 0.8
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return torch.softmax(self.head(torch.tanh(self.linear(x.flatten(1)))), 1)


class Made(nn.Module):
    """A network of the given parts and forward pass, with dtype and weights as `prepared` gives them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args):
        return self._forward(self, *args)


NETS = {"convolutional": Convolutional, "squeezing": Squeezing, "residual": Residual, "functional": Functional}
LINEAR = (nn.Conv2d, nn.Linear)
RULES = {
    "default": lambda module: None,
    "gamma": lambda module: GammaRule(0.3) if isinstance(module, LINEAR) else None,
    "gamma without bias": lambda module: GammaRule(0.5, set_bias_to_zero=True) if isinstance(module, LINEAR) else None,
    "alpha beta": lambda module: Alpha1_Beta0_Rule() if isinstance(module, nn.Conv2d) else None,
    "large epsilon": lambda module: (
        None if list(module.children()) or isinstance(module, (nn.ReLU, nn.Dropout)) else EpsilonRule(0.1)
    ),
    "identity": lambda module: IdentityRule() if isinstance(module, nn.BatchNorm2d) else None,
}


def prepared(model, dtype=torch.float64):
    """In evaluation mode, batch norms as after training, and biases that let some units of each layer live."""
    for module in model.modules():
        if isinstance(module, LINEAR) and module.bias is not None:
            nn.init.uniform_(module.bias, 0, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.to(dtype).eval()


def images(batch=3, dtype=torch.float64):
    return torch.randn(batch, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(5))


def with_rules(model, rules):
    for module in model.modules():
        rule = rules(module)
        if rule is not None:
            module.rule = rule
    return model


def flat(result):
    """The tensors of a result, whatever its form."""
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in flat(part)]


def form(result):
    return type(result) if isinstance(result, torch.Tensor) else (type(result), [form(part) for part in result])


def assert_same(result, expected, tolerance=1e-9):
    """Within `tolerance` of the largest value, or of rounding where that is nothing else."""
    assert form(result) == form(expected)
    for part, expected_part in zip(flat(result), flat(expected), strict=True):
        assert part.shape == expected_part.shape
        assert part.dtype == expected_part.dtype
        assert (part - expected_part).abs().max() <= tolerance * expected_part.abs().max() + 1e-12


def assert_nothing_left(model, before, state):
    for module, attributes in zip(model.modules(), before, strict=True):
        assert set(vars(module)) <= attributes
        assert not any([module._forward_hooks, module._forward_pre_hooks, module._backward_hooks])
    after = model.state_dict()
    assert all(after[name].equal(state[name]) for name in state)


@pytest.fixture
def check():
    """Run a method of Captum's and ours, each on its copy of a model; the call must be served unless `reason`."""

    def compare(name, model, inputs, *args, reason=None, layers=None, rules=RULES["default"], init=(), tol=1e-9, **kw):
        found = []
        for package in (captum_attr, ours):
            net = with_rules(copy.deepcopy(model), rules)
            before = [set(vars(module)) for module in net.modules()]
            state = copy.deepcopy(net.state_dict())
            at = () if layers is None else (layers(net),)
            x = tuple(t.clone() for t in inputs) if isinstance(inputs, tuple) else inputs.clone()
            method = getattr(package, name)
            with accelerate("captum") as report:
                found.append(method(net, *at, *init).attribute(x, *args, **kw))
        if reason is None:
            assert report.served == {name: 1}
            assert not report.passed_on
            assert_nothing_left(net, before, state)
        else:
            assert not report.served
            assert reason in str(report.passed_on[name])
        assert_same(found[1], found[0], tol)
        assert all(t.abs().max() > 0 for t in flat(found[0])[:1])

    return compare


# ---- LRP


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("net", NETS)
def test_lrp_by_rules(check, net, rules):
    reason = "as a function" if net == "functional" and rules.startswith(("gamma", "alpha")) else None
    check("LRP", prepared(NETS[net]()), images(), 1, rules=RULES[rules], reason=reason)


@pytest.mark.parametrize("net", ["convolutional", "squeezing", "residual"])
def test_lrp_in_single_precision(check, net):
    check("LRP", prepared(NETS[net](), torch.float32), images(dtype=torch.float32), 2, tol=1e-5)


TARGETS = [3, [0, 3, 1], torch.tensor([2, 0, 1]), torch.tensor(2), torch.tensor([1]), (2,), [(1,), (0,), (3,)]]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("delta", [False, True])
def test_lrp_targets(check, target, delta):
    check("LRP", prepared(Convolutional()), images(), target, return_convergence_delta=delta)


def test_lrp_of_one_output_needs_no_target(check):
    net = Made(lambda s, x: s.b(s.relu(s.a(x))), a=nn.Linear(5, 4), relu=nn.ReLU(), b=nn.Linear(4, 1))
    check("LRP", prepared(net), torch.randn(3, 5, dtype=torch.float64), return_convergence_delta=True)


def test_lrp_of_outputs_in_a_grid(check):
    net = prepared(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    for target in ((1, 2, 0), [(1, 2, 0), (0, 0, 0), (1, 1, 1)]):
        check("LRP", net, images(), target)


def test_lrp_of_several_inputs_and_additional_arguments(check):
    net = prepared(Made(
        lambda s, x, y, scale, power: s.top(s.relu(s.add(s.a(x), s.b(y))) * scale**power),
        a=nn.Linear(5, 6), b=nn.Linear(3, 6), add=Addition_Module(), relu=nn.ReLU(), top=nn.Linear(6, 3),
    ))  # fmt: skip
    x, y = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    scale = torch.rand(3, 6, dtype=torch.float64)
    check("LRP", net, (x, y), 1, (scale, 2), True)


@pytest.mark.parametrize("rule", [EpsilonRule, IdentityRule])
def test_lrp_through_own_modules(check, rule):
    class Scaled(nn.Module):
        def forward(self, x):
            return x * 3

    net = Made(lambda s, x: s.b(s.own(s.a(x))), a=nn.Linear(5, 4), own=Scaled(), b=nn.Linear(4, 2))
    inputs = torch.randn(3, 5, dtype=torch.float64)
    check("LRP", prepared(net), inputs, 1, rules=lambda m: rule() if isinstance(m, Scaled) else None)


def test_lrp_through_tanh_and_pools(check):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Tanh(), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 3, groups=1, dilation=2, padding=2, bias=False), nn.AdaptiveAvgPool2d(1),
    )  # fmt: skip
    check("LRP", prepared(net), images(), (2, 0, 0))


def test_lrp_through_other_convolutions_with_rules(check):
    net = prepared(nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU()))
    for rule in (EpsilonRule, GammaRule, Alpha1_Beta0_Rule):
        check("LRP", net, images(), (1, 5, 5), rules=lambda m, rule=rule: rule() if hasattr(m, "weight") else None)


def test_lrp_takes_the_rules_off(check):
    """As Captum does: a second call goes by the defaults."""
    found = []
    model = prepared(Convolutional())
    for package in (captum_attr, ours):
        net = with_rules(copy.deepcopy(model), RULES["gamma"])
        lrp = package.LRP(net)
        found.append([lrp.attribute(images(), 1), lrp.attribute(images(), 1)])
    assert_same(found[1], found[0])
    assert not any(hasattr(module, "rule") for module in net.modules())


def test_lrp_says_which_rules_it_applies(capsys):
    ours.LRP(prepared(Convolutional())).attribute(images(), 1, verbose=True)
    printed = capsys.readouterr().out
    assert printed.count("Applied ") == 8
    assert "Conv2d(3, 6" in printed


def reused(layer):
    return Made(lambda s, x: s.top(s.layer(s.layer(x))), layer=layer, top=nn.Linear(5, 2))


@pytest.mark.parametrize(("forward", "parts", "reason"), [
    (lambda s, x: s.a(x) + s.b(x + x), {"a": nn.Linear(5, 2), "b": nn.Linear(5, 2)}, "mixes up"),
    (lambda s, x: s.a(s.relu(s.b(x)) + s.c(s.relu(x))),
     {"a": nn.Linear(5, 2), "b": nn.Linear(5, 5), "c": nn.Linear(5, 5), "relu": nn.ReLU()}, "mixes up"),
])  # fmt: skip
def test_lrp_where_captum_mixes_things_up(check, forward, parts, reason):
    check("LRP", prepared(Made(forward, **parts)), torch.randn(3, 5, dtype=torch.float64), 1, reason=reason)


@pytest.mark.parametrize("last", [nn.Tanh, nn.ReLU, nn.Dropout])
def test_lrp_of_activations_after_one_another(check, last):
    forward = lambda s, x: s.b(s.last(s.relu(s.a(x))).mean(1, keepdim=True).expand(-1, 4))  # noqa: E731
    net = Made(forward, a=nn.Linear(5, 4), b=nn.Linear(4, 2), relu=nn.ReLU(), last=last())
    check("LRP", prepared(net), torch.randn(3, 5, dtype=torch.float64), 1)


def test_lrp_of_the_identity_rule_after_an_activation(check):
    net = prepared(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    rules = lambda m: IdentityRule() if getattr(m, "weight", torch.zeros(1)).shape == (4, 4) else None  # noqa: E731
    check("LRP", net, torch.randn(3, 5, dtype=torch.float64), 1, rules=rules, reason="directly after")


def test_lrp_of_a_tensor_that_a_module_overwrites(check):
    def forward(s, x):
        x = s.a(x)
        s.relu(x)
        return s.b(x)

    net = Made(forward, a=nn.Linear(5, 4), relu=nn.ReLU(inplace=True), b=nn.Linear(4, 2))
    check("LRP", prepared(net), torch.randn(3, 5, dtype=torch.float64), 1, reason="overwritten")


def test_lrp_of_a_relu_on_branches(check):
    def forward(s, x):
        left, right = s.a(x), s.b(x)
        return s.top(torch.cat([s.relu(left), s.relu(right)], 1))

    net = Made(forward, a=nn.Linear(5, 4), b=nn.Linear(5, 4), relu=nn.ReLU(), top=nn.Linear(8, 2))
    check("LRP", prepared(net), torch.randn(3, 5, dtype=torch.float64), 1, reason="branches")


def test_lrp_with_an_own_rule(check):
    class Halved(EpsilonRule):
        def _manipulate_weights(self, module, inputs, outputs):
            module.weight.data = module.weight.data / 2

    rules = lambda m: Halved() if isinstance(m, nn.Linear) else None  # noqa: E731
    check("LRP", prepared(Convolutional()), images(), 1, rules=rules, reason="Halved is not known")


def test_lrp_raises_what_captum_raises():
    x = torch.randn(3, 5, dtype=torch.float64)
    net = prepared(nn.Sequential(nn.Linear(5, 4), nn.Sigmoid()))
    with accelerate("captum") as report:
        with pytest.raises(TypeError, match="no rule defined"):
            ours.LRP(net).attribute(x, 1)
        with pytest.raises(RuntimeError, match="more than once"):
            ours.LRP(prepared(reused(nn.Linear(5, 5)))).attribute(x, 1)
        with pytest.raises(AssertionError):
            ours.LRP(prepared(nn.Sequential(nn.Linear(5, 4)))).attribute(x)
    assert list(report.passed_on["LRP"].values()) == [1, 1, 1]
    net[0].rule = 1
    with pytest.raises(TypeError, match="PropagationRule"):
        ours.LRP(net)


def test_an_exception_in_the_model_leaves_nothing():
    def failing(s, x):
        s.relu(s.a(x))
        raise ArithmeticError("the model's own")

    for name in ("LRP", "DeepLift"):
        net = prepared(Made(failing, a=nn.Linear(5, 5), relu=nn.ReLU()))
        with pytest.raises(ArithmeticError, match="the model's own"):
            getattr(ours, name)(net).attribute(torch.randn(3, 5, dtype=torch.float64), target=1)
        assert not any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "rule") for m in net.modules())


# ---- LayerLRP


@pytest.mark.parametrize("place", [False, True])
@pytest.mark.parametrize("rules", ["default", "gamma", "large epsilon"])
@pytest.mark.parametrize("layer", ["features.0", "features.1", "features.3", "features.4", "features.5",
                                   "classifier.0", "classifier.3"])  # fmt: skip
def test_layer_lrp(check, layer, rules, place):
    check("LayerLRP", prepared(Convolutional()), images(), 1, None, False, place,
          rules=RULES[rules], layers=lambda net: net.get_submodule(layer))  # fmt: skip


@pytest.mark.parametrize("place", [False, True])
def test_layer_lrp_of_several_layers(check, place):
    check("LayerLRP", prepared(Convolutional()), images(), [0, 1, 2], None, True, place,
          layers=lambda net: [net.classifier[3], net.features[3], net.features[0]])  # fmt: skip


def test_layer_lrp_of_a_layer_twice(check):
    check("LayerLRP", prepared(Convolutional()), images(), 1, layers=lambda net: [net.features[0]] * 2, reason="twice")


@pytest.mark.parametrize("delta", [False, True])
def test_layer_lrp_of_a_sum(check, delta):
    layers = lambda net: net.blocks[0].add  # noqa: E731
    check("LayerLRP", prepared(Residual()), images(), 1, return_convergence_delta=delta, layers=layers)


def test_layer_lrp_of_the_inputs_of_a_sum(check):
    check("LayerLRP", prepared(Residual()), images(), 1, attribute_to_layer_input=True,
          layers=lambda net: net.blocks[0].add, reason="several inputs")  # fmt: skip


def test_layer_lrp_of_an_input_that_others_take(check):
    check("LayerLRP", prepared(Residual()), images(), 1, attribute_to_layer_input=True,
          layers=lambda net: net.blocks[0].conv1, reason="other layers too")  # fmt: skip


def test_layer_lrp_of_an_activation_raises_what_captum_raises():
    net = prepared(Convolutional())
    with accelerate("captum") as report, pytest.raises(AttributeError):
        ours.LayerLRP(net, net.features[2]).attribute(images(), 1)
    assert report.passed_on == {"LayerLRP": {"the layer has no rule": 1}}


# ---- DeepLift


class Smooth(nn.Module):
    """All elementwise activations that Captum knows."""

    def __init__(self):
        super().__init__()
        kinds = (nn.ReLU(inplace=True), nn.ELU(), nn.LeakyReLU(0.2), nn.Sigmoid(), nn.Tanh(), nn.Softplus())
        self.layers = nn.Sequential(*(part for kind in kinds for part in (nn.Linear(6, 6), kind)), nn.Linear(6, 4))

    def forward(self, x):
        return self.layers(x)


BASELINES = {
    "none": None,
    "number": 0.3,
    "integer": 1,
    "one": torch.full((1, 3, 8, 8), 0.2, dtype=torch.float64),
    "each": torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("net", ["convolutional", "residual", "functional"])
def test_deep_lift(check, net, baseline):
    check("DeepLift", prepared(NETS[net]()), images(), BASELINES[baseline], [1, 0, 3], return_convergence_delta=True)


def test_deep_lift_of_average_pooling_is_complete(check):
    net = prepared(Convolutional(nn.AvgPool2d))
    check("DeepLift", net, images(), BASELINES["each"], 1)
    contributions, delta = ours.DeepLift(net).attribute(images(), 0.1, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-10
    assert contributions.shape == images().shape


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_deep_lift_targets(check, target):
    check("DeepLift", prepared(Smooth()), torch.randn(3, 6, dtype=torch.float64), 0.1, target)


@pytest.mark.parametrize("init", [(True,), (False,), (True, 0.3), (False, 1e-3)])
def test_deep_lift_eps_and_multipliers(check, init):
    x = torch.randn(3, 6, dtype=torch.float64)
    x[0, :3] = 0
    check("DeepLift", prepared(Smooth()), x, None, 2, init=init)


def test_deep_lift_in_single_precision():
    """Slopes dy / dx of small differences are noisy, Captum's as ours."""
    net, x = prepared(Smooth(), torch.float32), torch.randn(3, 6)
    right = captum_attr.DeepLift(copy.deepcopy(net).double()).attribute(x.double(), 0.1, 2)
    theirs = captum_attr.DeepLift(copy.deepcopy(net)).attribute(x.clone(), 0.1, 2)
    found = ours.DeepLift(net).attribute(x, 0.1, 2)
    assert (found - right).abs().max() <= max(1e-4 * right.abs().max(), 4 * (theirs - right).abs().max())


@pytest.mark.parametrize("function", [
    lambda multipliers: tuple(m.abs() for m in multipliers),
    lambda multipliers, inputs: tuple(m * x for m, x in zip(multipliers, inputs, strict=True)),
    lambda multipliers, inputs, baselines: tuple(m + b for m, b in zip(multipliers, baselines, strict=True)),
])  # fmt: skip
def test_deep_lift_custom_attribution(check, function):
    x = torch.randn(3, 6, dtype=torch.float64)
    check("DeepLift", prepared(Smooth()), x, 0.2, 1, custom_attribution_func=function)


def test_deep_lift_of_several_inputs(check):
    net = prepared(Made(
        lambda s, x, y, scale, name: s.top(s.relu(s.a(x) + s.b(y)) * scale),
        a=nn.Linear(5, 6), b=nn.Linear(3, 6), relu=nn.ReLU(), top=nn.Linear(6, 3),
    ))  # fmt: skip
    x, y, scale = (torch.randn(3, n, dtype=torch.float64) for n in (5, 3, 6))
    for baselines in (None, (0.1, y.flip(0)), (x[:1], 0)):
        check("DeepLift", net, (x, y), baselines, 1, (scale, "name"), True)


def test_deep_lift_shap_serves_by_deep_lift():
    net, x, references = prepared(Convolutional(nn.AvgPool2d)), images(2), images(5) * 0.3
    expected = captum_attr.DeepLiftShap(copy.deepcopy(net)).attribute(x.clone(), references.clone(), 1)
    with accelerate("captum") as report:
        found = captum_attr.DeepLiftShap(net).attribute(x, references, 1)
    assert report.served == {"DeepLift": 1}
    assert_same(found, expected)


@pytest.mark.parametrize(("forward", "parts", "reason"), [
    (lambda s, x: s.relu(x) + s.a(x), {"a": nn.Linear(5, 5), "relu": nn.ReLU()}, "goes elsewhere"),
    (lambda s, x: s.softmax(s.a(x)), {"a": nn.Linear(5, 5), "softmax": nn.Softmax(1)}, "softmax"),
    (lambda s, x: s.b(s.tanh(s.relu(s.a(x)))),
     {"a": nn.Linear(5, 5), "b": nn.Linear(5, 3), "relu": nn.ReLU(), "tanh": nn.Tanh()}, "Tanh after"),
])  # fmt: skip
def test_deep_lift_where_captum_does_something_else(check, forward, parts, reason):
    check("DeepLift", prepared(Made(forward, **parts)), torch.randn(3, 5, dtype=torch.float64), 0.1, 1, reason=reason)


def test_deep_lift_of_other_max_pooling(check):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 2, 3))
    check("DeepLift", prepared(net), images(), 0.1, (1, 0, 0), reason="MaxPool2d after no activation")
    check("DeepLift", prepared(Convolutional()), images(), 0.1, 1, init=(False,), reason="by themselves")


def test_deep_lift_in_training_mode(check):
    net = prepared(Convolutional(nn.AvgPool2d))
    net.features.train()
    with accelerate("captum") as report:
        ours.DeepLift(net).attribute(images(), 0.1, 1)
    assert report.passed_on == {"DeepLift": {"BatchNorm2d is in training mode": 1}}


def test_deep_lift_raises_what_captum_raises():
    x = torch.randn(3, 5, dtype=torch.float64)
    with accelerate("captum") as report:
        with pytest.raises(RuntimeError, match="more than once"):
            ours.DeepLift(prepared(reused(nn.ReLU()))).attribute(x, target=1)
        with pytest.raises(AssertionError):
            ours.DeepLift(prepared(nn.Sequential(nn.Linear(5, 2)))).attribute(x, torch.zeros(2, 5), target=1)
    assert not report.served


# ---- hidden contracts


def test_nothing_is_kept_alive():
    net, x = prepared(Convolutional()), images()
    calls = (
        lambda: ours.LRP(net).attribute(x, 1),
        lambda: ours.LayerLRP(net, [net.features[4], net.classifier[0]]).attribute(x, 1),
        lambda: ours.DeepLift(net).attribute(x, 0.1, 1),
    )
    for call in calls:
        call()
        gc.collect()
        gc.disable()
        try:
            before = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            call()
            assert sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()) == before
        finally:
            gc.enable()


@pytest.mark.parametrize("name", ["LRP", "DeepLift"])
def test_a_replaced_gradient_func_is_used(name):
    method = getattr(ours, name)(prepared(Convolutional()))
    original, calls = method.gradient_func, []

    def gradient_func(*args):
        calls.append(args)
        return original(*args)

    method.gradient_func = gradient_func
    with accelerate("captum") as report:
        method.attribute(images(), target=1)
    assert len(calls) == 1
    assert report.passed_on == {name: {"gradient_func was replaced": 1}}


@pytest.mark.parametrize("name", ["LRP", "DeepLift"])
def test_noise_tunnel_calls_ours(name):
    found, model, tunnel = [], prepared(Convolutional(nn.AvgPool2d)), captum_attr.NoiseTunnel
    for package in (captum_attr, ours):
        method = getattr(package, name)(copy.deepcopy(model))
        torch.manual_seed(7)
        with accelerate("captum") as report:
            found.append(tunnel(method).attribute(images(), nt_samples=3, stdevs=0.2, target=1))
    assert report.served == {name: 1}
    assert_same(found[1], found[0])
