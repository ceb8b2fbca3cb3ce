"""Attributions on a GPU are those on the CPU."""

import pytest
import torch
from torch import nn

from netinterp_fast import expected_gradients, integrated_gradients, saliency, smoothgrad

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).double().eval()  # fmt: skip


@pytest.fixture
def x():
    return torch.randn(3, 3, 12, 12, dtype=torch.float64)


def on_gpu(method, model, x, *arguments, **options):
    expected = method(model, x, *arguments, **options)
    return method(model.cuda(), x.cuda(), *arguments, **options).cpu(), expected


@pytest.mark.parametrize("options", [{}, {"hoist": False}, {"batch_size": 4}, {"memory_budget": "64MiB"}])
def test_integrated_gradients(model, x, options):
    torch.testing.assert_close(*on_gpu(integrated_gradients, model, x, 2, steps=9, **options))


def test_a_tolerance_takes_the_same_points(model, x):
    _, info = integrated_gradients(model, x, 2, tolerance=0.05, return_info=True)
    found, on_device = integrated_gradients(model.cuda(), x.cuda(), 2, tolerance=0.05, return_info=True)
    assert found.is_cuda
    torch.testing.assert_close(on_device.steps, info.steps)


@pytest.mark.parametrize("batch_size", [2, 3, 9])
def test_a_graph_adds_up_to_the_same(model, x, batch_size):
    model, x = model.cuda(), x.cuda()
    expected = integrated_gradients(model, x, 2, steps=10, batch_size=batch_size)
    found = integrated_gradients(model, x, 2, steps=10, batch_size=batch_size, cuda_graph=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", [saliency, smoothgrad])
def test_other_gradients(model, x, method):
    torch.testing.assert_close(*on_gpu(method, model, x, 2))


def test_expected_gradients(model, x):
    expected = expected_gradients(model, x, 2, baselines=x[:2], sigma=0.1, samples=5)
    found = expected_gradients(model.cuda(), x.cuda(), 2, baselines=x[:2].cuda(), sigma=0.1, samples=5)
    torch.testing.assert_close(found.cpu(), expected)


def test_bfloat16_by_autocast_is_close(model, x):
    model, x = model.float().cuda(), x.float().cuda()
    expected = integrated_gradients(model, x, 2, steps=8)
    found = integrated_gradients(model, x, 2, steps=8, autocast=torch.bfloat16)
    assert (found - expected).abs().sum() < 0.1 * expected.abs().sum()
