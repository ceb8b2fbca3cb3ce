"""lrp() leaves the model as it was, keeps no tensor and no memory, also where something raises, in several threads."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, conv, layers
from relevance_nets import SmallVGG
from torch import nn

from netinterp_fast import lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types


def state(model):
    """Everything that one could leave on a model."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    modules = {name: (id(m), {k: _plain(v) for k, v in vars(m).items()}) for name, m in model.named_modules()}
    counts = {name: [len(getattr(m, hook) or ()) for hook in hooks] for name, m in model.named_modules()}
    tensors = {
        name: (id(t), t.data_ptr(), t.requires_grad, t.grad, t._version, t.tolist(), dict(vars(t)))
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    }
    return modules, counts, tensors, model.training


def _plain(value):
    return {k: id(v) for k, v in value.items()} if isinstance(value, dict) else repr(value)


def tensors_alive():
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def tiny(function=None):
    function = function or (lambda s, x: s.top(F.relu(s.norm(s.a(x)) + s.b(x), inplace=True).mean((2, 3))))
    return Made(function, a=conv(bias=True), b=conv(), norm=nn.BatchNorm2d(4), top=nn.Linear(4, 3))


COMPOSITES = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "guided_backprop"]


def test_nothing_after_1000_calls():
    model, x = tiny(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    model.top.weight.requires_grad_(False)
    lrp(model, x)
    before, alive = state(model), tensors_alive()
    for i in range(1000):
        relevance = lrp(model, x, i % 3, composite=COMPOSITES[i % len(COMPOSITES)])
    assert vars(relevance) == {}
    assert not relevance.requires_grad
    del relevance
    assert tensors_alive() <= alive
    assert state(model) == before
    assert vars(x) == {}
    assert x.grad is None
    assert not x.requires_grad


class Interrupted(Exception):
    pass


class RaisingRule(rules.ZPlus):
    def backward(self, layer, x, relevance):
        raise Interrupted


def raising(s, x):
    y = s.a(x)
    y += s.b(x)
    s.counter += y.detach().sum()
    raise Interrupted


@pytest.mark.parametrize("where", ["forward", "rule", "no rule", "targets"])
def test_nothing_after_an_exception(where):
    model, composite, options, error = tiny(), "epsilon_plus", {}, Interrupted
    if where == "forward":
        model = tiny(raising)
        model.register_buffer("counter", torch.zeros(()).double())
    elif where == "rule":
        composite = layers((types.Convolution, RaisingRule()), (nn.Linear, rules.Epsilon()))
    elif where == "no rule":
        model, error = tiny(lambda s, x: s.top((s.a(x) * s.b(x)).mean((2, 3)))), RuntimeError
    else:
        options, error = {"targets": torch.tensor([0, 99])}, ValueError
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    before = state(model)
    calls = model.counter.data_ptr() if where == "forward" else None
    alive = []
    for i in range(20):
        with pytest.raises(error):
            lrp(model, x, composite=composite, **options)
        if calls:
            model.counter.zero_()
        if i in (0, 19):
            alive.append(tensors_alive())
    assert alive[-1] <= alive[0]
    modules, counts, tensors, training = state(model)
    versions = {name: (*value[:4], *value[5:]) for name, value in tensors.items()}
    assert versions == {name: (*value[:4], *value[5:]) for name, value in before[2].items()}
    assert (modules, counts, training) == (before[0], before[1], before[3])
    sane = tiny()
    assert lrp(sane, x).isfinite().all()
    assert torch.overrides._get_current_function_mode() is None


def test_the_graph_is_freed_without_the_garbage_collector():
    model, x = tiny(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    seen = []

    def watched(s, x):
        y = s.a(x)
        seen.append(weakref.ref(y))
        return s.top(F.relu(y).mean((2, 3)))

    model.function = watched
    gc.disable()
    try:
        for composite in COMPOSITES:
            lrp(model, x, composite=composite)
            lrp(model, x, composite=composite, targets=torch.tensor([0, 1]))
            lrp(model, x.requires_grad_(), composite=composite, create_graph=True)
            x.requires_grad_(False)
        assert [ref() for ref in seen] == [None] * len(seen)
    finally:
        gc.enable()


def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat"])
def test_memory_does_not_grow(composite):
    model, x = SmallVGG().eval(), torch.randn(2, 3, 16, 16)
    for _ in range(30):
        lrp(model, x, composite=composite)
    gc.collect()
    gc.disable()
    try:
        before = resident_mb()
        for _ in range(200):
            lrp(model, x, composite=composite)
        assert resident_mb() - before < 5
    finally:
        gc.enable()


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1"])
def test_threads_do_not_see_each_other(composite):
    model = tiny()
    inputs = torch.randn(4, 2, 3, 4, 5, dtype=torch.float64)
    expected = [lrp(model, x, composite=composite) for x in inputs]
    results, errors = [[] for _ in inputs], []

    def work(i):
        try:
            results[i] += [lrp(model, inputs[i], composite=composite) for _ in range(20)]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for mine, right in zip(results, expected, strict=True):
        assert len(mine) == 20
        assert all(close(result, right) for result in mine)


def test_a_plain_call_beside_lrp_in_another_thread_is_plain():
    model, x = tiny(), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    inside, done, types_seen = threading.Event(), threading.Event(), []

    def waiting(s, x):
        inside.set()
        done.wait(10)
        return s.top(F.relu(s.a(x)).mean((2, 3)))

    slow = tiny(waiting)
    thread = threading.Thread(target=lambda: types_seen.append(lrp(slow, x).shape))
    thread.start()
    assert inside.wait(10)
    output = model(x.requires_grad_())
    (gradient,) = torch.autograd.grad(output.sum(), x)
    done.set()
    thread.join()
    assert not vars(output)
    assert gradient.isfinite().all()
    assert types_seen == [x.shape]


def test_calls_within_calls():
    """A model that explains another one."""
    inner = tiny()

    def nested(s, x):
        s.inner_result = lrp(inner, x.detach(), 1).detach()
        return s.top(F.relu(s.a(x)).mean((2, 3)))

    model, x = tiny(nested), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    plain = tiny(lambda s, x: s.top(F.relu(s.a(x)).mean((2, 3))))
    plain.load_state_dict(model.state_dict())
    assert close(lrp(model, x), lrp(plain, x))
    assert close(model.inner_result, lrp(inner, x, 1))
