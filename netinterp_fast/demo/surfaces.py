"""How surfaces look: colours, materials and two-coloured textures, as functions of the pixel position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

PALETTE: dict[str, Colour] = {
    "red": (205, 45, 40),
    "orange": (245, 140, 30),
    "yellow": (248, 212, 60),
    "green": (70, 150, 60),
    "blue": (50, 90, 190),
    "purple": (125, 60, 150),
    "pink": (245, 150, 185),
    "brown": (130, 85, 50),
    "white": (243, 242, 238),
    "grey": (140, 142, 145),
    "black": (32, 32, 36),
}


def wave(t: np.ndarray) -> np.ndarray:
    """A triangular wave of period 1 between -1 (at whole numbers) and 1."""
    return 1 - 4 * np.abs(t - np.floor(t) - 0.5)


def edge(t: np.ndarray, sharpness: float) -> np.ndarray:
    """0 below zero, 1 above, with a short ramp between."""
    return np.clip(t * sharpness + 0.5, 0, 1)


# Materials: brightness factors from position and noise, all [h, w].


def plain(x, y, grain, mottle):
    return 1 + 0.02 * grain


def rough(x, y, grain, mottle):
    return 1 + 0.10 * grain + 0.16 * mottle


def fine(x, y, grain, mottle):
    return 1 + 0.10 * grain + 0.05 * mottle


def leafy(x, y, grain, mottle):
    return 1 + 0.14 * grain + 0.16 * wave((x + 4 * mottle) / 5) * wave((y + 3 * mottle) / 5)


def bladed(x, y, grain, mottle):
    return 1 + 0.14 * grain + 0.16 * wave((x + 2 * grain) / 3) + 0.10 * mottle


def bricks(x, y, grain, mottle):
    odd = np.floor(y / 5) % 2
    mortar = (y % 5 < 1.2) | ((x + 5 * odd) % 10 < 1.2)
    return np.where(mortar, 0.66, 1 + 0.06 * grain + 0.1 * mottle)


def planks(x, y, grain, mottle):
    streaks = 1 + 0.12 * wave((x + 3 * mottle + y / 20) / 4) + 0.05 * grain
    return np.where(x % 9 < 1, 0.72, streaks)


def waves(x, y, grain, mottle):
    return 1 + 0.14 * wave((y + 2 * wave(x / 18) + 2 * mottle) / 6) + 0.03 * grain


def polished(x, y, grain, mottle):
    return 1 + 0.22 * wave((x + y) / 40)


def panes(x, y, grain, mottle):
    return 1 + 0.35 * edge(wave((x - y) / 16) - 0.4, 3)


def woven(x, y, grain, mottle):
    return 1 + 0.05 * grain + 0.06 * mottle


MATERIALS: dict[str, Callable] = {
    "asphalt": fine,
    "brick": bricks,
    "fabric": woven,
    "foliage": leafy,
    "glass": panes,
    "grass": bladed,
    "metal": polished,
    "plaster": plain,
    "sand": fine,
    "snow": lambda x, y, grain, mottle: 1 + 0.02 * grain + 0.04 * mottle,
    "soil": rough,
    "stone": rough,
    "water": waves,
    "wood": planks,
}

# Textures: where the second colour shows, in [0, 1], from coordinates u and v in periods of the texture.


def striped(u, v, grain):
    return edge(wave(u), 2.5)


def dotted(u, v, grain):
    across, down = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return edge(0.33 - np.sqrt(across * across + down * down), 8)


def chequered(u, v, grain):
    return edge(wave(u) * wave(v), 5)


def zigzag(u, v, grain):
    return edge(wave(v + 0.25 * wave(u)), 2.5)


def speckled(u, v, grain):
    return (grain > 0.45).astype(np.float64)


def gridded(u, v, grain):
    return np.maximum(edge(wave(u) - 0.55, 5), edge(wave(v) - 0.55, 5))


TEXTURES: dict[str, Callable] = {
    "chequered": chequered,
    "dotted": dotted,
    "gridded": gridded,
    "speckled": speckled,
    "striped": striped,
    "zigzag": zigzag,
}


@dataclass(frozen=True)
class Surface:
    """A colour, its material, and optionally a texture in a second colour.

    `period` is the texture's period in pixels and `direction` the unit vector along which it runs.
    """

    colour: Colour
    material: str | None = None
    texture: str | None = None
    second: Colour = PALETTE["white"]
    period: float = 8.0
    direction: tuple[float, float] = (1.0, 0.0)

    def render(self, x: np.ndarray, y: np.ndarray, grain: np.ndarray, mottle: np.ndarray) -> np.ndarray:
        """The colours, float64 [h, w, 3], at x [1, w] and y [h, 1] under the noise fields [h, w]."""
        colours = np.asarray(self.colour, np.float64)
        if self.texture:
            dx, dy = (d / self.period for d in self.direction)
            share = TEXTURES[self.texture](x * dx + y * dy, y * dx - x * dy, grain)[..., None]
            colours = colours + share * (np.asarray(self.second, np.float64) - colours)
        relief = MATERIALS[self.material] if self.material else plain
        return colours * relief(x, y, grain, mottle)[..., None]
