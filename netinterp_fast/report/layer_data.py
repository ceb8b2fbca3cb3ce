"""What the page shows of a layer's units, as one JSON object a layer.

The regions above threshold are most of it. Each is a grid of GRID x GRID bits, row by row, written as the
lengths of its runs: dark, lit, dark ..., the first possibly 0. A length is a byte below 128, or two: the low
seven bits with the top bit set, then the rest. A unit's regions follow each other and are written in base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np

from ..dissection.layer_results import LayerDissection

GRID = 112  # cells a side; a run of all GRID**2 cells still fits the 14 bits of two bytes
UNITS_AT_ONCE = 64  # bounds the memory of the upsampled maps


def layer_data(layer: LayerDissection, image_names: Mapping[int, str]) -> dict:
    """The units of `layer` as JSON values: columns of one entry a unit, concepts as places in "concepts".

    concepts    [[name, category]]
    label       place of the best concept, -1 for none;  iou and detector (0 or 1) go with it
    chance      [text on how sure the IoU is, one a unit], "" where nothing was asked
    best        [[place, iou], one for each category in which some concept has a positive IoU]
    threshold   text, as are activations: they may be infinite
    images      [indices of the top images, best first];  imageNames has their names
    regions     the regions above threshold on those images, encoded as the module's text says
    """
    labels = layer.labels()
    best = zip(*(layer.labels(category) for category in layer.categories), strict=True)
    best = [[found for found in unit if found.concept is not None] for unit in best]
    concepts = sorted({found.concept for unit in best for found in unit})
    places = {concept: place for place, concept in enumerate(concepts)}
    shown = [[i for i in images if i >= 0] for images in layer.top_images.tolist()]
    return {
        "grid": GRID,
        "concepts": [[concept.name, concept.category] for concept in concepts],
        "label": [places.get(unit.concept, -1) for unit in labels],
        "iou": [unit.iou for unit in labels],
        "detector": [int(unit.detector) for unit in labels],
        "chance": _chance(layer),
        "best": [[[places[found.concept], round(found.iou, 4)] for found in unit] for unit in best],
        "threshold": [f"{value:.4g}" for value in layer.thresholds.tolist()],
        "images": shown,
        "activations": [
            [f"{value:.4g}" for value, i in zip(values, images, strict=True) if i >= 0]
            for values, images in zip(layer.top_activations.tolist(), layer.top_images.tolist(), strict=True)
        ],
        "regions": encode_regions(layer),
        "imageNames": {i: image_names.get(i, f"#{i}") for i in sorted({i for unit in shown for i in unit})},
    }


def _chance(layer: LayerDissection) -> list[str]:
    """The interval of each unit's IoU and its p-value, in words."""
    words: list[list[str]] = [[] for _ in range(layer.n_units)]
    if layer.iou_interval is not None:
        for of_unit, (low, high) in zip(words, layer.iou_interval.tolist(), strict=True):
            of_unit.append(f"{low:.3f} to {high:.3f}")
    if layer.null_iou is not None:
        for of_unit, p in zip(words, layer.p_values.tolist(), strict=True):
            of_unit.append(f"p = {p:.2g}")
    return [", ".join(of_unit) for of_unit in words]


def script_json(value: object) -> str:
    """`value` as JSON that stays plain data inside a script, inline or in a file of its own."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def encode_regions(layer: LayerDissection) -> list[str]:
    """The encoded regions of each unit on its top images, C texts."""
    shown = layer.top_images >= 0
    if shown.shape[1] == 0:
        return [""] * layer.n_units
    encoded: list[str] = []
    for start in range(0, layer.n_units, UNITS_AT_ONCE):
        units = slice(start, start + UNITS_AT_ONCE)
        lit = layer.lit_regions(units, GRID)[shown[units]].flatten(1)
        encoded += _encode_runs(lit.numpy(), shown[units].sum(dim=1).numpy())
    return encoded


def _encode_runs(lit: np.ndarray, regions_of_unit: np.ndarray) -> list[str]:
    """bool [R, P] regions, `regions_of_unit[k]` of them for unit k, units in order -> a text a unit."""
    n_regions, n_cells = lit.shape
    run_ends_before = np.ones((n_regions, n_cells + 1), dtype=bool)
    run_ends_before[:, 0] = lit[:, 0]
    np.not_equal(lit[:, 1:], lit[:, :-1], out=run_ends_before[:, 1:n_cells])
    region, end = np.nonzero(run_ends_before)
    start = np.concatenate([[0], end])[:-1]
    start[start == n_cells] = 0
    run = end - start

    long = run > 127
    two_bytes = np.stack([run & 127 | long << 7, run >> 7], axis=1).astype(np.uint8)
    data = two_bytes[np.stack([np.ones_like(long), long], axis=1)].tobytes()

    unit = np.repeat(np.arange(len(regions_of_unit)), regions_of_unit)[region]
    sizes = np.bincount(unit, weights=1 + long, minlength=len(regions_of_unit)).astype(np.int64)
    stops = np.cumsum(sizes)
    return [base64.b64encode(data[b - n : b]).decode("ascii") for b, n in zip(stops, sizes, strict=True)]
