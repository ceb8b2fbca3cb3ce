import base64
import json

import pytest
import torch

from netinterp_fast.data.protocol import Concept
from netinterp_fast.dissection.layer_results import LayerDissection
from netinterp_fast.report.layer_data import GRID, encode_regions, layer_data, script_json


def encode(maps: torch.Tensor, thresholds: torch.Tensor, shown: torch.Tensor) -> list[str]:
    """The regions of a layer with these top maps [C, n, h, w], of which only some are shown [C, n]."""
    none = torch.zeros(len(maps), 2, dtype=torch.int64)
    layer = LayerDissection(
        name="layer",
        concepts=[Concept(1, "cat", "object")],
        iou_threshold=0.04,
        thresholds=thresholds,
        intersection=none,
        unit_area=none,
        concept_area=none.sum(0),
        top_images=torch.where(shown, 0, -1),
        top_activations=torch.zeros(shown.shape),
        top_maps=maps,
    )
    return encode_regions(layer)


def decode(text: str) -> list[list[bool]]:
    """The regions in an encoded text, by the format's description, a cell at a time."""
    data = list(base64.b64decode(text))
    regions, cells, lit = [], [], False
    while data:
        run = data.pop(0)
        if run > 127:
            run = run - 128 + 128 * data.pop(0)
        cells += [lit] * run
        lit = not lit
        if len(cells) == GRID * GRID:
            regions.append(cells)
            cells, lit = [], False
    assert cells == []
    return regions


def bilinear(values: list[list[float]], y: int, x: int) -> float:
    """The map at cell (y, x) of the grid: half-pixel centres, borders clamped."""
    h, w = len(values), len(values[0])
    v = min(max((y + 0.5) * h / GRID - 0.5, 0), h - 1)
    u = min(max((x + 0.5) * w / GRID - 0.5, 0), w - 1)
    top, left = int(v), int(u)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    upper = values[top][left] + (u - left) * (values[top][right] - values[top][left])
    lower = values[bottom][left] + (u - left) * (values[bottom][right] - values[bottom][left])
    return upper + (v - top) * (lower - upper)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 3), (7, 7), (55, 20), (130, 150)])
def test_regions_are_the_upsampled_maps_above_threshold(h, w):
    maps = torch.rand(1, 1, h, w, generator=torch.Generator().manual_seed(h))
    threshold = 0.45
    [region] = decode(encode(maps, torch.tensor([threshold]), torch.ones(1, 1, dtype=torch.bool))[0])
    values = maps[0, 0].tolist()
    for cell, lit in enumerate(region):
        value = bilinear(values, *divmod(cell, GRID))
        assert lit == (value > threshold) or abs(value - threshold) < 1e-5


def test_every_unit_gets_its_own_regions():
    n_units, n = 150, 3  # more than are encoded at once
    maps = torch.rand(n_units, n, 4, 4, generator=torch.Generator().manual_seed(1))
    thresholds = torch.linspace(-0.2, 1.2, n_units)  # from all lit to all dark
    shown = torch.rand(n_units, n, generator=torch.Generator().manual_seed(2)) > 0.4
    encoded = encode(maps, thresholds, shown)
    upsampled = torch.nn.functional.interpolate(maps, size=(GRID, GRID), mode="bilinear")
    assert len(encoded) == n_units
    for unit, text in enumerate(encoded):
        expected = (upsampled[unit] > thresholds[unit])[shown[unit]].flatten(1)
        assert decode(text) == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_maps_are_widened(dtype):
    maps = torch.rand(2, 1, 3, 3).to(dtype)
    shown = torch.ones(2, 1, dtype=torch.bool)
    thresholds = torch.tensor([0.3, 0.6])
    assert encode(maps, thresholds, shown) == encode(maps.float(), thresholds, shown)


def test_nothing_to_encode():
    no_units, no_images = torch.zeros(0, 9, 4, 4), torch.zeros(2, 0, 4, 4)
    assert encode(no_units, torch.zeros(0), torch.ones(0, 9, dtype=torch.bool)) == []
    assert encode(no_images, torch.zeros(2), torch.ones(2, 0, dtype=torch.bool)) == ["", ""]
    none_shown = torch.zeros(2, 3, dtype=torch.bool)
    assert encode(torch.zeros(2, 3, 4, 4), torch.zeros(2), none_shown) == ["", ""]


def test_layer_data_of_a_small_layer(make_layer):
    layer = make_layer()
    layer.thresholds[3] = float("inf")
    layer.top_images[2, 1:] = -1
    data = layer_data(layer, {0: "zero"})
    names = [name for name, category in data["concepts"]]
    assert [names[i] if i >= 0 else None for i in data["label"]] == [
        "car",
        "cat",
        "carpet",
        "striped",
        None,
        "car",
    ]
    assert data["iou"] == pytest.approx([0.3, 0.5, 0.2, 0.03, 0, 0.4])
    assert data["detector"] == [1, 1, 1, 0, 0, 1]
    assert [[(names[i], iou) for i, iou in unit] for unit in data["best"]] == [
        [("car", 0.3), ("striped", 0.1)],
        [("cat", 0.5), ("wheel", 0.05)],
        [("carpet", 0.2)],
        [("striped", 0.03)],
        [],
        [("car", 0.4)],
    ]
    assert data["threshold"] == ["0.6", "0.6", "0.6", "inf", "0.6", "0.6"]
    assert data["images"][:3] == [[0, 1, 2], [1, 2, 3], [2]]
    assert [len(unit) for unit in data["activations"]] == [3, 3, 1, 3, 3, 3]
    assert [len(decode(text)) for text in data["regions"]] == [3, 3, 1, 3, 3, 3]
    assert data["imageNames"][0] == "zero"
    assert data["imageNames"][7] == "#7"
    assert -1 not in data["imageNames"]


def test_script_json_cannot_leave_its_script():
    value = {"</script><!--": ["<script>", "a & b", "\u2028\u2029", "\ud800", "\\u003c"]}
    text = script_json(value)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))


def test_how_sure_the_iou_is_in_words(make_layer):
    layer = make_layer(iou_percent=[{1: 30}, {1: 20}, {1: 10}])
    assert layer_data(layer, {})["chance"] == ["", "", ""]
    best = layer.iou.amax(1, keepdim=True)
    layer.null_iou = torch.cat([best, best - 1, best - 1], dim=1)  # one of three reaches it
    assert layer_data(layer, {})["chance"] == ["p = 0.5"] * 3
    layer.iou_interval = torch.tensor([[0.1, 0.25], [0.0, 0.0], [0.3, 1.0]], dtype=torch.float64)
    intervals = ["0.100 to 0.250", "0.000 to 0.000", "0.300 to 1.000"]
    assert layer_data(layer, {})["chance"] == [f"{interval}, p = 0.5" for interval in intervals]
