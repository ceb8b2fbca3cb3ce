"""Network dissection once more, slowly: numpy, Pillow, grid_sample and Python sets, no ops of the package."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


class Tallies(NamedTuple):
    thresholds: np.ndarray  # [C]
    intersection: np.ndarray  # [C, K]
    unit_area: np.ndarray  # [C, K]
    concept_area: np.ndarray  # [K]
    ties: np.ndarray  # [C], pixels whose surface is the threshold but for rounding


def iou(intersection, unit_area, concept_area) -> np.ndarray:
    """Of integers [C, K], [C, K] and [K]: 0 where the union is empty."""
    scores = np.zeros(intersection.shape)
    for unit, concept in np.ndindex(scores.shape):
        common = int(intersection[unit, concept])
        union = int(unit_area[unit, concept]) + int(concept_area[concept]) - common
        scores[unit, concept] = common / union if union else 0.0
    return scores


def axis_weights(cells: int, pixels: int) -> np.ndarray:
    """[pixels, cells]: half-pixel centres, borders repeated."""
    weights = np.zeros((pixels, cells))
    for pixel in range(pixels):
        position = min(max((pixel + 0.5) * cells / pixels - 0.5, 0), cells - 1)
        cell = min(int(position), cells - 1)
        weights[pixel, cell] += 1 - (position - cell)
        weights[pixel, min(cell + 1, cells - 1)] += position - cell
    return weights


def bilinear(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return axis_weights(plane.shape[0], size[0]) @ plane.astype(np.float64) @ axis_weights(plane.shape[1], size[1]).T


def pil(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))


def zero_padded(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1 for side in size)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    maps = torch.from_numpy(plane).double()[None, None]
    return F.grid_sample(maps, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0].numpy()


SURFACES = {"bilinear": bilinear, "pil": pil, "zero_padded": zero_padded}


def nearest(labels: np.ndarray, side: int) -> np.ndarray:
    """labels [L, H, W] on a grid of side x side."""
    rows = [math.floor((i + 0.5) * labels.shape[1] / side) for i in range(side)]
    columns = [math.floor((i + 0.5) * labels.shape[2] / side) for i in range(side)]
    return labels[:, rows][:, :, columns]


def tallies(
    acts, samples, concepts, quantile, *, threshold_from="raw", upsampling="bilinear", inclusive=False,
    unit_area_over="category", mask_size=None,
) -> Tallies:  # fmt: skip
    """acts float32 [N, C, h, w]; quantile a fraction such as "1/20"."""
    acts = acts.numpy()
    labels = [s.labels.numpy() if mask_size is None else nearest(s.labels.numpy(), mask_size) for s in samples]
    size = labels[0].shape[1:]
    n_images, n_units = acts.shape[:2]
    surfaces = np.array([[SURFACES[upsampling](acts[n, c], size) for c in range(n_units)] for n in range(n_images)])
    thresholds, ties = np.zeros(n_units), np.zeros(n_units, int)
    lit = np.zeros((n_images, n_units, *size), bool)
    for unit in range(n_units):
        values = (acts if threshold_from == "raw" else surfaces)[:, unit].ravel()
        thresholds[unit] = np.sort(values)[::-1][math.floor(Fraction(quantile) * len(values))]
        above = np.greater_equal if inclusive else np.greater
        lit[:, unit] = above(surfaces[:, unit], thresholds[unit])
        ties[unit] = np.isclose(surfaces[:, unit], thresholds[unit], rtol=0, atol=1e-6 * np.abs(values).max()).sum()

    category_of = {c.id: c.category for c in concepts}
    n_columns = max(category_of) + 1
    result = Tallies(
        thresholds,
        np.zeros((n_units, n_columns), int),
        np.zeros((n_units, n_columns), int),
        np.zeros(n_columns, int),
        ties,
    )
    for n, sample in enumerate(samples):
        whole = set(sample.image_labels.tolist())
        at = {(y, x): (whole | set(labels[n][:, y, x].tolist())) - {0} for y in range(size[0]) for x in range(size[1])}
        present = set().union(*at.values())
        for concept in present:
            pixels = [pixel for pixel, here in at.items() if concept in here]
            result.concept_area[concept] += len(pixels)
            for unit in range(n_units):
                result.intersection[unit, concept] += sum(lit[n, unit][pixel] for pixel in pixels)
        for unit in range(n_units):
            met = {category_of[c] for pixel, here in at.items() if lit[n, unit][pixel] for c in here}
            for concept, category in category_of.items():
                counts = {
                    "all": True,
                    "concept": concept in present,
                    "category": category in {category_of[c] for c in present},
                    "overlap": category in met,
                }[unit_area_over]
                result.unit_area[unit, concept] += int(lit[n, unit].sum()) if counts else 0
    return result
