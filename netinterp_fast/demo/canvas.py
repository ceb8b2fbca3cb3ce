"""A small painter that draws each shape into the picture and into exact label masks at once.

Shapes are signed distances to their border (in pixels, positive inside), so one evaluation gives the
antialiased coverage for the picture and the inside test for the masks. Only IEEE-exact elementwise arithmetic
is used (no transcendental functions, no reductions), so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .surfaces import Surface
from .vocabulary import CATEGORIES, NUMBERS

SIZE = 112  # side of pictures and masks, in pixels
PAINTED = tuple(c for c in CATEGORIES if c not in ("scene", "colour"))  # categories that shapes carry


class Shape(Protocol):
    """A region of the plane: `box` (x0, y0, x1, y1) encloses it, `distance(x, y)` is >= 0 inside it alone."""

    box: tuple[float, float, float, float]

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray: ...


class Polygon:
    """A convex polygon; its corners in either direction of rotation."""

    def __init__(self, *points: tuple[float, float]):
        area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True))
        self.points = points if area >= 0 else points[::-1]
        xs, ys = zip(*points, strict=True)
        self.box = (min(xs), min(ys), max(xs), max(ys))

    def distance(self, x, y):
        nearest = None
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:] + self.points[:1], strict=True):
            dx, dy = x1 - x0, y1 - y0
            length = np.sqrt(dx * dx + dy * dy)
            if length == 0:
                continue
            edge = (y - y0) * (dx / length) - (x - x0) * (dy / length)
            nearest = edge if nearest is None else np.minimum(nearest, edge)
        return nearest


class Ellipse:
    """An axis-parallel ellipse with centre (cx, cy) and radii rx and ry (ry = rx when left out)."""

    def __init__(self, cx: float, cy: float, rx: float, ry: float | None = None):
        self.cx, self.cy, self.rx, self.ry = cx, cy, rx, rx if ry is None else ry
        self.box = (cx - self.rx, cy - self.ry, cx + self.rx, cy + self.ry)

    def distance(self, x, y):
        u, v = (x - self.cx) / self.rx, (y - self.cy) / self.ry
        return (1 - np.sqrt(u * u + v * v)) * min(self.rx, self.ry)


class Union:
    """Everything inside at least one of the shapes."""

    def __init__(self, *shapes: Shape):
        self.shapes = shapes
        x0, y0, x1, y1 = zip(*(s.box for s in shapes), strict=True)
        self.box = (min(x0), min(y0), max(x1), max(y1))

    def distance(self, x, y):
        return np.maximum.reduce([s.distance(x, y) for s in self.shapes])


class Intersection:
    """Everything inside all of the shapes."""

    def __init__(self, *shapes: Shape):
        self.shapes = shapes
        x0, y0, x1, y1 = zip(*(s.box for s in shapes), strict=True)
        self.box = (max(x0), max(y0), min(x1), min(y1))

    def distance(self, x, y):
        return np.minimum.reduce([s.distance(x, y) for s in self.shapes])


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return Polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def line(x0: float, y0: float, x1: float, y1: float, width: float) -> Polygon:
    """A straight stroke of the given width from one point to another."""
    dx, dy = x1 - x0, y1 - y0
    half = width / 2 / np.sqrt(dx * dx + dy * dy)
    nx, ny = -dy * half, dx * half
    return Polygon((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny))


def upper_half(cx: float, cy: float, rx: float, ry: float) -> Intersection:
    """The half of an ellipse above its centre line."""
    return Intersection(Ellipse(cx, cy, rx, ry), rectangle(cx - rx, cy - ry, cx + rx, cy))


def lower_half(cx: float, cy: float, rx: float, ry: float) -> Intersection:
    """The half of an ellipse below its centre line."""
    return Intersection(Ellipse(cx, cy, rx, ry), rectangle(cx - rx, cy, cx + rx, cy + ry))


def everything() -> Polygon:
    return rectangle(-1, -1, SIZE + 1, SIZE + 1)


@dataclass
class Picture:
    """A painted picture and its exact labels.

    rgb      uint8 [SIZE, SIZE, 3]
    masks    category -> int64 [SIZE, SIZE], concept numbers of `vocabulary.NUMBERS`, 0 = unlabelled
    scene    number of the scene, a label of the whole picture
    """

    rgb: np.ndarray
    masks: dict[str, np.ndarray]
    scene: int


class Random:
    """Random numbers that are the same on every machine.

    A compiler may fuse multiplication and addition inside numpy's own `uniform`; here they round separately.
    """

    def __init__(self, *seed: int):
        generator = np.random.Generator(np.random.PCG64(seed))
        self.random, self.integers = generator.random, generator.integers

    def uniform(self, low: float, high: float, size: int | None = None) -> float | np.ndarray:
        return low + (high - low) * self.random(size)


class Canvas:
    """The picture while it is painted. A shape hides what is below it, in the picture and in every mask."""

    def __init__(self, rng: Random):
        self.rng = rng
        self.rgb = np.zeros((SIZE, SIZE, 3))
        self.masks = {c: np.zeros((SIZE, SIZE), np.int64) for c in PAINTED}
        self.grain = rng.random((SIZE, SIZE)) * 2 - 1
        self.mottle = smooth_noise(rng)

    def fill(self, shape: Shape, surface: Surface, object: str | None = None, part: str | None = None) -> None:
        """Paint `shape` with `surface`; pixels whose centre is inside become `part` of `object`."""
        x0, y0, x1, y1 = shape.box
        rows = slice(max(int(y0) - 1, 0), min(int(y1) + 2, SIZE))
        columns = slice(max(int(x0) - 1, 0), min(int(x1) + 2, SIZE))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        y = np.arange(rows.start, rows.stop)[:, None] + 0.5
        x = np.arange(columns.start, columns.stop)[None, :] + 0.5
        distance = shape.distance(x, y)
        window = (rows, columns)
        colours = surface.render(x, y, self.grain[window], self.mottle[window])
        coverage = np.clip(distance + 0.5, 0, 1)[..., None]
        self.rgb[window] += coverage * (colours - self.rgb[window])
        names = {"object": object, "part": part, "material": surface.material, "texture": surface.texture}
        inside = distance >= 0
        for category, name in names.items():
            self.masks[category][window][inside] = NUMBERS[category, name] if name else 0

    def shade(self, strength: float) -> None:
        """Let the light change linearly, by at most +-strength, over the picture, and add a little noise."""
        ramp = (np.arange(SIZE) + 0.5) / (SIZE / 2) - 1
        across, down = self.rng.uniform(-strength / 2, strength / 2, 2)
        light = 1 + across * ramp[None, :] + down * ramp[:, None]
        noise = self.rng.random((SIZE, SIZE, 3)) * 10 - 5
        self.rgb = self.rgb * light[..., None] + noise

    def picture(self, scene: str) -> Picture:
        rgb = np.clip(self.rgb + 0.5, 0, 255).astype(np.uint8)
        return Picture(rgb, self.masks, NUMBERS["scene", scene])


def smooth_noise(rng: Random, cell: int = 8) -> np.ndarray:
    """Values in [-1, 1], float64 [SIZE, SIZE]: random numbers on a grid, linearly interpolated."""
    coarse = rng.random((SIZE // cell + 1, SIZE // cell + 1)) * 2 - 1
    position = (np.arange(SIZE) + 0.5) / cell
    low = position.astype(np.int64)
    weight = position - low
    rows = coarse[low] + weight[:, None] * (coarse[low + 1] - coarse[low])
    return rows[:, low] + weight * (rows[:, low + 1] - rows[:, low])
