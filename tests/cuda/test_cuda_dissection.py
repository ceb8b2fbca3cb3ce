"""Dissections on a GPU against those on the CPU: the tiny model's sums are exact, so nothing may differ."""

from itertools import product

import pytest
import torch
from tiny import TinyDataset, tiny_model

from netinterp_fast import Rotation, dissect, ops, unit_ablation
from netinterp_fast.dissection.transfer import transferred

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
LAYERS = ["conv", "relu", "flat"]
TENSORS = (
    "thresholds", "intersection", "unit_area", "concept_area", "top_images", "top_activations", "top_maps",
)  # fmt: skip


@pytest.fixture(autouse=True)
def plain_convolutions():
    """Sums of products: cuDNN may take Fourier transforms, which round."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


def run(device, **changes):
    settings = {"quantile": 0.1, "batch_size": 4, "progress": False, "device": device} | changes
    return dissect(tiny_model(), TinyDataset(22), LAYERS, **settings)


def assert_same(one, two):
    for layer, name in product(one, TENSORS):
        assert torch.equal(getattr(one[layer], name), getattr(two[layer], name)), (layer, name)
    assert one.thumbnails == two.thumbnails


@pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite", "dissect", "compexp", "concept"])
@pytest.mark.parametrize("passes", [1, 2])
def test_dissection(convention, passes):
    assert_same(run("cuda", convention=convention, passes=passes), run("cpu", convention=convention))


def test_a_single_pass_past_its_memory():
    assert_same(run("cuda", passes=1, memory_budget=1), run("cpu"))


def test_chance():
    asked = {"null_samples": 3, "bootstrap": 20, "seed": 1}
    one, two = run("cuda", **asked), run("cpu", **asked)
    for layer in LAYERS:
        assert torch.equal(one[layer].null_iou, two[layer].null_iou)
        assert torch.equal(one[layer].iou_interval, two[layer].iou_interval)


def test_tails_and_directions():
    """Directions with entries of a few bits: exact as well."""
    asked = {"tail": "both", "quantile": (0.1, 0.05), "basis": ["units", {"relu": torch.eye(6)[:4] - 0.5}]}
    assert_same(run("cuda", **asked), run("cpu", **asked))


def test_a_rotation_is_that_of_the_cpu():
    """Its floats may differ by rounding, its seed may not."""
    one, two = (run(device, basis=Rotation(0.5, seed=3)) for device in ("cuda", "cpu"))
    for layer in one:
        assert torch.allclose(one[layer].thresholds, two[layer].thresholds, rtol=1e-4, atol=1e-4)


def test_unit_ablation():
    images = TinyDataset(22).images
    data = [(images[i : i + 5], torch.arange(i, min(i + 5, 22)) % 3) for i in range(0, 22, 5)]
    one, two = (unit_ablation(tiny_model(), data, "relu", device=d, progress=False) for d in ("cuda", "cpu"))
    assert torch.equal(one.correct, two.correct)
    assert torch.equal(one.correct_without, two.correct_without)


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_batches_arrive_in_order_and_whole(n):
    """While the device is busy with the batches before."""
    batches = [(torch.full((64, 3, 64, 64), float(i)).pin_memory(), torch.arange(i).pin_memory()) for i in range(n)]
    busy = torch.rand(2048, 2048, device="cuda")
    for i, (images, numbers) in enumerate(transferred(batches, torch.device("cuda"))):
        total = images.sum(dtype=torch.float64)
        for _ in range(20):
            busy = torch.tanh(busy @ busy)
        assert float(total) == i * images.numel()
        assert numbers.tolist() == list(range(i))


@two_devices
def test_each_device_keeps_to_itself():
    """On the second device while the first is the current one."""
    acts = torch.randn(3, 5, 7, 7, device="cuda:1")
    levels = torch.zeros(5, device="cuda:1")
    packed = ops.pack_cells(acts, levels)
    assert packed.values.device == acts.device
    labels = torch.randint(0, 9, (3, 2, 20, 20), device="cuda:1")
    got = ops.unit_concept_overlap(ops.unpack_cells(packed), levels, labels, 9, check_finite=False)
    expected = ops.unit_concept_overlap(acts.cpu(), levels.cpu(), labels.cpu(), 9)
    assert torch.equal(got.intersection.cpu(), expected.intersection)
    assert torch.equal(got.unit_area.cpu(), expected.unit_area)
    assert torch.cuda.current_device() == 0


@two_devices
def test_dissection_on_the_second_device():
    assert_same(run("cuda:1"), run("cpu"))
