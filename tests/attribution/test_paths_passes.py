"""Passes of any size give the same integrated gradients: fixed, by a memory budget, or after running out of memory."""

import gc
import re

import pytest
import torch
from gradient_nets import DOUBLE, ConvNet, close, net
from torch import nn

from netinterp_fast import _library, integrated_gradients, smoothgrad, use_backend
from netinterp_fast._memory import parsed_budget
from netinterp_fast.attribution.paths.rows import PeakMemory


@pytest.fixture
def wide():
    """A few MiB for a point."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    ).double()  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"return_info": True}, {"targets": torch.tensor([0, 2])}, {"tolerance": 0.2}])
@pytest.mark.parametrize("hoist", [True, False])
def test_any_number_of_rows(options, hoist):
    model, x = ConvNet(), torch.randn(5, 2, 8, 8, dtype=DOUBLE)
    target = None if "targets" in options else [0, 1, 2, 3, 0]
    options = options | {"steps": 7, "hoist": hoist}

    def result(**more):
        got = integrated_gradients(model, x, target, **options, **more)
        return got[0] if isinstance(got, tuple) else got

    expected = result()
    for size in (1, 2, 3, 4, 5, 6, 17, 1000):
        assert close(result(batch_size=size), expected, 1e-12)
    for budget in ("1MiB", "2.5MB", 10**7, "1GiB", " 300 kb "):
        assert close(result(memory_budget=budget), expected, 1e-12)
        assert close(result(memory_budget=budget, batch_size=3), expected, 1e-12)


class Rows(nn.Module):
    """Runs out of memory with more rows than `most`, forward or in the backward pass alone; keeps how many it had."""

    def __init__(self, model, most=10**9, backward=False):
        super().__init__()
        self.model, self.most, self.backward, self.seen = model, most, backward, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most and not self.backward:
            raise torch.OutOfMemoryError("no more")
        output = self.model(x)
        if output.requires_grad and len(x) > self.most:
            output.register_hook(self._fail)
        return output

    @staticmethod
    def _fail(grad):
        raise torch.OutOfMemoryError("no more in the backward pass")


@pytest.mark.parametrize("hoist", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_batch_size_is_the_most_rows(hoist, size):
    model = Rows(net(6, 8, 4))
    integrated_gradients(model, torch.randn(4, 6, dtype=DOUBLE), 0, batch_size=size, hoist=hoist, steps=5)
    assert max(model.seen) <= size


@pytest.mark.parametrize("hoist", [True, False])
@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("targets", [None, torch.tensor([2, 0, 1])])
@pytest.mark.parametrize("most", [1, 2, 3, 8, 40])
def test_out_of_memory_halves_the_pass(hoist, backward, targets, most):
    layers, x = net(6, 8, 4), torch.randn(3, 6, dtype=DOUBLE)
    target = 1 if targets is None else None
    expected = integrated_gradients(layers, x, target, targets=targets, steps=20)
    got = integrated_gradients(Rows(layers, most, backward), x, target, targets=targets, steps=20, hoist=hoist)
    assert close(got, expected, 1e-12)


def test_out_of_memory_with_a_single_row_is_passed_on():
    with pytest.raises(torch.OutOfMemoryError):
        integrated_gradients(Rows(net(6, 8, 4), 0), torch.randn(3, 6, dtype=DOUBLE), 0)


@pytest.mark.parametrize("hoist", [True, False])
def test_a_budget_too_small_names_the_least_that_works(wide, hoist):
    x = torch.randn(3, 3, 48, 48, dtype=DOUBLE)
    expected = integrated_gradients(wide, x, 0, steps=4, hoist=hoist)
    with pytest.raises(ValueError, match=r"memory_budget is 1000 bytes; .* is the least that works here") as raised:
        integrated_gradients(wide, x, 0, steps=4, memory_budget=1000, hoist=hoist)
    least = re.search(r"memory_budget='(\d+)MiB'", str(raised.value))[1]
    got = integrated_gradients(wide, x, 0, steps=4, memory_budget=f"{least}MiB", hoist=hoist)
    assert close(got, expected, 1e-12)
    with pytest.raises(ValueError, match=f"memory_budget='{least}MiB' is the least"):
        integrated_gradients(wide, x, 0, steps=4, memory_budget=f"{int(least) - 1}MiB", hoist=hoist)


@pytest.mark.parametrize("hoist", [True, False])
@pytest.mark.parametrize("budget", ["12MiB", "20MiB", "40MiB", "100MiB"])
def test_a_budget_is_kept(wide, hoist, budget):
    x = torch.randn(4, 3, 48, 48, dtype=DOUBLE)
    with PeakMemory() as memory:
        result = integrated_gradients(wide, x, 0, steps=8, memory_budget=budget, hoist=hoist)
    assert memory.peak - result.nbytes <= 1.05 * parsed_budget(budget)


def test_budgets_are_read():
    for text, size in [
        ("512MiB", 2**29),
        ("1.5 GiB", 3 * 2**29),
        ("7", 7),
        ("2kb", 2000),
        ("3 MB", 3 * 10**6),
        ("9B", 9),
    ]:
        assert parsed_budget(text) == size


def test_progress(capfd):
    model, x = net(6, 4), torch.randn(3, 6, dtype=DOUBLE)
    integrated_gradients(model, x, 1, steps=4)
    assert capfd.readouterr() == ("", "")
    integrated_gradients(model, x, 1, steps=4, progress=True)
    out, err = capfd.readouterr()
    assert not out
    assert "integrated gradients" in err
    assert "12/12" in err
    integrated_gradients(model, x, 1, tolerance=0.1, progress=True)
    assert "integrated gradients" in capfd.readouterr().err


def test_a_call_leaves_no_tensors_that_wait_for_garbage_collection():
    model, x = ConvNet(), torch.randn(2, 2, 8, 8, dtype=DOUBLE)

    def tensors() -> int:
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        for options in ({}, {"hoist": False}, {"tolerance": 0.5}, {"return_info": True}, {"memory_budget": "1GiB"}):
            integrated_gradients(model, x, 0, steps=2, **options)
            before = tensors()
            for _ in range(3):
                integrated_gradients(model, x, 0, steps=2, **options)
            assert tensors() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_every_backend_and_cpu_level_gives_the_same_bits(dtype):
    model, x = ConvNet().to(dtype), torch.randn(3, 2, 8, 8, dtype=dtype)

    def both() -> list[torch.Tensor]:
        return [integrated_gradients(model, x, 0, steps=7), smoothgrad(model, x, 0, samples=7, kind="variance")]

    with use_backend("reference"):
        expected = both()
    before = _library.cpu_level()
    try:
        for level in _library.cpu_levels():
            _library.set_cpu_level(level)
            assert all(map(torch.equal, both(), expected))
    finally:
        if before:
            _library.set_cpu_level(before)
