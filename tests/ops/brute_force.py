"""What the ops count, by numpy and Python sets: slow, obvious and without torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor.long()).numpy()


def grid(cells: int, pixels: int, scale: float, offset: float) -> list[tuple[int, int, np.float32]]:
    """For each pixel its cell, the next one and the weight of the next one, to 2^-20."""
    points = []
    for pixel in range(pixels):
        position = min(max((pixel - offset) / scale, 0.0), cells - 1.0)
        steps = int(np.floor(position * 2**20 + 0.5))
        cell, rest = divmod(steps, 2**20)
        points.append((cell, min(cell + 1, cells - 1), np.float32(rest / 2**20)))
    return points


def surface(plane: np.ndarray, size: tuple[int, int], placement: tuple[float, ...]) -> np.ndarray:
    """The bilinear surface over one float32 map [h, w]: [H, W], each step rounded to float32."""
    scale_y, scale_x, offset_y, offset_x = placement
    values = np.empty(size, np.float32)
    columns = grid(plane.shape[1], size[1], scale_x, offset_x)
    for y, (top, bottom, weight_y) in enumerate(grid(plane.shape[0], size[0], scale_y, offset_y)):
        row = plane[top] + weight_y * (plane[bottom] - plane[top])
        for x, (left, right, weight_x) in enumerate(columns):
            values[y, x] = row[left] + weight_x * (row[right] - row[left])
    return values


def concepts_at(labels: np.ndarray, image_labels: np.ndarray) -> Iterator[tuple[tuple[int, int], set[int]]]:
    """Each pixel of one image, labels [L, H, W] and image_labels [S], with the set of its concepts."""
    whole = set(image_labels.tolist())
    for pixel in np.ndindex(labels.shape[1:]):
        yield pixel, (whole | set(labels[(slice(None), *pixel)].tolist())) - {0}


def overlap(acts, thresholds, labels, image_labels, n_concepts, placement, inclusive=False):
    """(intersection int64 [C, K], unit_area int64 [B, C])."""
    acts, thresholds, labels, image_labels = map(as_numpy, (acts, thresholds, labels, image_labels))
    n_images, n_units = acts.shape[:2]
    intersection = np.zeros((n_units, n_concepts), np.int64)
    unit_area = np.zeros((n_images, n_units), np.int64)
    for image in range(n_images):
        lit = np.zeros((n_units, *labels.shape[2:]), bool)
        for unit in range(n_units):
            with np.errstate(invalid="ignore"):
                values = surface(acts[image, unit], labels.shape[2:], placement)
            lit[unit] = values >= thresholds[unit] if inclusive else values > thresholds[unit]
        unit_area[image] = lit.sum((1, 2))
        for (y, x), concepts in concepts_at(labels[image], image_labels[image]):
            for concept in concepts:
                intersection[:, concept] += lit[:, y, x]
    return torch.from_numpy(intersection), torch.from_numpy(unit_area)


def area(labels, image_labels, n_concepts):
    """int64 [B, K]."""
    labels, image_labels = map(as_numpy, (labels, image_labels))
    counted = np.zeros((labels.shape[0], n_concepts), np.int64)
    for image in range(labels.shape[0]):
        for _, concepts in concepts_at(labels[image], image_labels[image]):
            counted[image, list(concepts)] += 1
    return torch.from_numpy(counted)


def near_above(plane, level, inclusive=False):
    """bool [h, w]: the values of one map [h, w] above the level, and the eight neighbours of each."""
    places = list(np.ndindex(plane.shape))
    above = {place for place in places if (plane[place] >= level if inclusive else plane[place] > level)}
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    near = [any((y + dy, x + dx) in above for dy, dx in steps) for y, x in places]
    return np.array(near, bool).reshape(plane.shape)


def row_bits(near):
    """uint8 [h, ceil(w / 8)]: a bit a place, of a byte the lowest first."""
    bits = np.zeros((near.shape[0], -(-near.shape[1] // 8)), np.uint8)
    for y, x in np.argwhere(near):
        bits[y, x // 8] += 1 << (x % 8)
    return bits


def packed_cells(acts, levels, inclusive=False):
    """The five parts of `PackedCells`."""
    maps, levels = as_numpy(acts), as_numpy(levels)
    n_images, n_units, h, w = maps.shape
    planes, counts, bits, values = [], [], np.zeros((0, h, -(-w // 8)), np.uint8), []
    for plane, (image, unit) in enumerate(np.ndindex(n_images, n_units)):
        near = near_above(maps[image, unit], levels[unit], inclusive)
        if near.any():
            planes.append(plane)
            counts.append(near.sum())
            bits = np.concatenate([bits, row_bits(near)[None]])
            values += [maps[image, unit][place] for place in np.ndindex(h, w) if near[place]]
    parts = np.array(planes, np.int32), np.array(counts, np.int32), bits, np.array(values, np.float32)
    return (*map(torch.from_numpy, parts), maps.shape)


def unpacked_cells(acts, levels, inclusive=False):
    """float32 [B, C, h, w]: the values near one above the level, -inf elsewhere."""
    maps, levels = as_numpy(acts), as_numpy(levels)
    kept = np.full_like(maps, -np.inf)
    for image, unit in np.ndindex(maps.shape[:2]):
        near = near_above(maps[image, unit], levels[unit], inclusive)
        kept[image, unit][near] = maps[image, unit][near]
    return torch.from_numpy(kept)
