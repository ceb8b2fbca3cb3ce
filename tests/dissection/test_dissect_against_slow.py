"""dissect() gives the tallies and labels of a slow implementation, for every preset and each switch."""

import numpy as np
import pytest
import slow_dissection
import torch
from tiny import CONCEPTS, LAYERS, TinyDataset

from netinterp_fast import dissect

LITE_QUANTILE = "5/999"  # what a sketch of 1000 levels reads for 0.005: level 994 of 999
PRESETS = {
    "netdissect": {},
    "netdissect_lite": {"upsampling": "pil", "unit_area_over": "overlap"},
    "dissect": {
        "threshold_from": "upsampled",
        "upsampling": "zero_padded",
        "unit_area_over": "all",
        "mask_size": 56,
    },
    "compexp": {"upsampling": "pil", "unit_area_over": "all"},
    "concept": {"unit_area_over": "concept"},
}
SWITCHES = [
    {"inclusive": True},
    {"mask_size": 7},
    {"mask_size": 23},
    {"upsampling": "pil"},
    {"upsampling": "pil", "mask_size": 3},  # smaller than every map but one: antialiased
    {"upsampling": "pil", "mask_size": 5, "threshold_from": "upsampled"},
    {"upsampling": "zero_padded"},
    {"threshold_from": "upsampled"},
    {"unit_area_over": "overlap"},
    {"unit_area_over": "all"},
    {"unit_area_over": "concept"},
    {"unit_area_over": "overlap", "inclusive": True},
]


def activations(model, dataset):
    """The output of each layer on all images: [N, C, h, w]."""
    acts, x = {}, dataset.images
    with torch.no_grad():
        for name, module in model.eval().named_children():
            x = module(x)
            acts[name] = x if x.dim() == 4 else x[:, :, None, None]
    return {layer: acts[layer] for layer in LAYERS}


def assert_same(result, model, dataset, quantile, switches):
    """All integers are equal. Only where T is a value of a zero-padded surface, which has symmetric pixels,
    may those that tie with T but for rounding fall on either side."""
    ids = [c.id for c in CONCEPTS]
    for layer, acts in activations(model, dataset).items():
        slow = slow_dissection.tallies(acts, list(dataset), CONCEPTS, quantile, **switches)
        fast = result[layer]
        tolerance = np.zeros((len(slow.ties), 1), int)
        if switches.get("threshold_from") == "upsampled":
            np.testing.assert_allclose(fast.thresholds, slow.thresholds, rtol=1e-5, atol=1e-6)
            if switches.get("upsampling") == "zero_padded":
                tolerance[:, 0] = np.where(slow.thresholds == 0, 0, slow.ties)
                assert (tolerance <= 16).all()
        else:
            assert fast.thresholds.tolist() == slow.thresholds.tolist()
        assert (np.abs(fast.intersection.numpy() - slow.intersection) <= tolerance).all()
        assert (np.abs(fast.unit_area.numpy() - slow.unit_area)[:, ids] <= tolerance).all()
        np.testing.assert_array_equal(fast.concept_area, slow.concept_area)
        scores = slow_dissection.iou(fast.intersection, fast.unit_area, fast.concept_area)
        np.testing.assert_array_equal(fast.iou, scores)
        for category in [None, *fast.categories]:
            assert_labels(fast.labels(category), scores, category)


def assert_labels(labels, iou, category):
    chosen = sorted(c for c in CONCEPTS if category in (None, c.category))
    for unit, label in enumerate(labels):
        best = max(chosen, key=lambda c: (iou[unit, c.id], -c.id))
        score = iou[unit, best.id]
        assert label == (unit, best if score > 0 else None, score, score > 0.04)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_with_their_own_quantile(model, preset):
    dataset = TinyDataset(20)
    result = dissect(model, dataset, list(LAYERS), convention=preset, progress=False)
    quantile = {"dissect": "1/100", "netdissect_lite": LITE_QUANTILE}.get(preset, "5/1000")
    assert_same(result, model, dataset, quantile, PRESETS[preset])
    assert (result["conv"].iou > 0).any()


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "netdissect_lite"])
def test_presets_at_a_tenth(model, dataset, preset):
    result = dissect(model, dataset, list(LAYERS), quantile=0.1, convention=preset, progress=False)
    assert_same(result, model, dataset, "1/10", PRESETS[preset])


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: ", ".join(f"{k} {v}" for k, v in s.items()))
def test_single_switches(implementation, model, dataset, switches):
    result = dissect(model, dataset, list(LAYERS), quantile=0.1, progress=False, **switches)
    assert_same(result, model, dataset, "1/10", switches)


def test_labels_on_a_grid_that_is_not_square(implementation, model):
    dataset = TinyDataset(grid=(10, 13))
    result = dissect(model, dataset, list(LAYERS), quantile=0.1, progress=False)
    assert_same(result, model, dataset, "1/10", {})


def test_the_data_tells_the_switches_apart(model, dataset):
    """Without this the comparisons above would prove little."""
    plain = dissect(model, dataset, ["relu"], quantile=0.1, progress=False)["relu"]
    for switches in SWITCHES:
        if switches == {"upsampling": "pil"}:  # the same as bilinear where the grid is finer than the maps
            continue
        other = dissect(model, dataset, ["relu"], quantile=0.1, progress=False, **switches)["relu"]
        assert not torch.equal(other.iou, plain.iou), switches
    assert not plain.intersection[4].any()  # the dead unit is lit nowhere,
    inclusive = dissect(model, dataset, ["relu"], quantile=0.1, progress=False, inclusive=True)["relu"]
    assert torch.equal(inclusive.intersection[4], plain.concept_area)  # and everywhere by >=
    assert plain.concept_area[11] == 0
    assert not plain.iou[:, 11].any()
