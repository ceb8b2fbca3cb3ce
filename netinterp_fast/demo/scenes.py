"""The demo data set's pictures: fourteen scenes, each a random arrangement of things on a background."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import things
from .canvas import SIZE, Canvas, Ellipse, Picture, Polygon, Random, everything, line, rectangle
from .surfaces import PALETTE, Colour, Surface
from .things import pick, shade_of, textured

SCENES: dict[str, Callable[[Canvas], None]] = {}


def paint(index: int, seed: int = 0) -> Picture:
    """Picture `index` of the endless series `seed` (both >= 0); the same two numbers give the same bytes.

    Scenes take turns, so any run of 14 successive pictures has each scene once.
    """
    for argument, value in (("index", index), ("seed", seed)):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{argument} is {value!r}; expected an integer >= 0")
    canvas = Canvas(Random(seed, index))
    name = list(SCENES)[index % len(SCENES)]
    SCENES[name](canvas)
    canvas.shade(0.16)
    return canvas.picture(name)


def scene(name: str):
    """Register a painter of the scene `name`."""

    def register(painter: Callable[[Canvas], None]) -> Callable[[Canvas], None]:
        SCENES[name] = painter
        return painter

    return register


def sky(canvas: Canvas, horizon: float, kinds: tuple[str, ...] = ("day", "day", "day", "evening")) -> None:
    """The sky over the whole canvas, in bands that grow lighter towards the horizon."""
    rng = canvas.rng
    shift = rng.uniform(-14, 14, 3)
    top, bottom = {
        "day": ((92, 160, 226), (188, 222, 245)),
        "evening": ((148, 112, 178), (250, 188, 140)),
        "night": ((16, 18, 40), (42, 42, 78)),
    }[pick(canvas, kinds)]
    bands = 14
    for band in range(bands):
        colour = np.add(top, shift) + np.subtract(bottom, top) * band / bands
        ground(canvas, horizon * band / bands - 1, None, tuple(colour))


def ground(canvas: Canvas, y: float, material: str | None, colour: Colour) -> None:
    """Everything below the line y."""
    canvas.fill(rectangle(-1, y, SIZE + 1, SIZE + 1), Surface(colour, material))


def water_colour(canvas: Canvas) -> Colour:
    """Anything from deep blue to blue-green."""
    tone, light = canvas.rng.random(), canvas.rng.uniform(0.85, 1.15)
    return tuple(light * (blue + tone * (green - blue)) for blue, green in ((34, 48), (82, 132), (158, 158)))


def hill(canvas: Canvas, y: float, height: float, surface: Surface) -> None:
    """A broad hill whose foot is the line y."""
    x = canvas.rng.uniform(0, SIZE)
    canvas.fill(Ellipse(x, y, canvas.rng.uniform(45, 80), height), surface)


def overhead(canvas: Canvas, highest: float, lowest: float) -> None:
    """Something in the sky: the sun, clouds or birds, with their centres between two heights."""
    rng = canvas.rng
    if rng.random() < 0.45:
        things.sun(canvas, rng.uniform(14, 98), rng.uniform(highest + 4, lowest), rng.uniform(15, 22))
    for _ in range(int(rng.integers(0, 3))):
        things.cloud(canvas, rng.uniform(10, 102), rng.uniform(highest + 8, lowest), rng.uniform(10, 17))
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 4))):
            things.bird(canvas, rng.uniform(10, 102), rng.uniform(highest, lowest), rng.uniform(8, 13))


def row(canvas: Canvas, count: int, jitter: float = 0.3) -> list[float]:
    """x positions of `count` things side by side, left to right, each moved by up to `jitter` of its room."""
    return [SIZE / count * (i + 0.5 + canvas.rng.uniform(-jitter, jitter)) for i in range(count)]


def scatter(canvas: Canvas, count: int, top: float, bottom: float) -> list[tuple[float, float]]:
    """`count` positions side by side in random order of distance, far (small y) to near."""
    spots = [(x, canvas.rng.uniform(top, bottom)) for x in row(canvas, count)]
    return sorted(spots, key=lambda spot: spot[1])


@scene("beach")
def beach(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon, shore = rng.uniform(30, 40), rng.uniform(54, 64)
    sky(canvas, horizon)
    overhead(canvas, 8, horizon - 8)
    ground(canvas, horizon, "water", water_colour(canvas))
    if rng.random() < 0.6:
        things.boat(canvas, rng.uniform(15, 97), horizon + rng.uniform(8, 12), rng.uniform(24, 34))
    slope = rng.uniform(-6, 6)
    sand = Surface((232, 208, 158 + rng.uniform(-12, 12)), "sand")
    canvas.fill(Polygon((-1, shore - slope), (113, shore + slope), (113, 113), (-1, 113)), sand)
    for x, y in scatter(canvas, int(rng.integers(2, 4)), shore + 24, 108):
        kind = pick(canvas, ("umbrella", "umbrella", "ball", "rock"))
        if kind == "umbrella":
            things.umbrella(canvas, x, y, rng.uniform(34, 48))
        elif kind == "ball":
            things.ball(canvas, x, y, rng.uniform(13, 20))
        else:
            things.rock(canvas, x, y, rng.uniform(7, 12))


@scene("desert")
def desert(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(44, 60)
    sky(canvas, horizon, ("day", "evening"))
    overhead(canvas, 10, horizon - 18)
    colour = np.array((222, 160, 92)) + rng.uniform(-14, 14, 3)
    for height in (26, 16):
        hill(canvas, horizon + 6, rng.uniform(0.6, 1) * height, Surface(tuple(colour * 0.9), "sand"))
    ground(canvas, horizon, "sand", tuple(colour))
    for x, y in scatter(canvas, int(rng.integers(2, 5)), horizon + 8, 108):
        if rng.random() < 0.7:
            things.cactus(canvas, x, y, rng.uniform(26, 46))
        else:
            things.rock(canvas, x, y, rng.uniform(7, 13))


@scene("farm")
def farm(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(40, 52)
    sky(canvas, horizon)
    overhead(canvas, 8, horizon - 14)
    ground(canvas, horizon, "grass", shade_of(canvas, "green"))
    things.house(canvas, rng.uniform(28, 84), horizon + rng.uniform(6, 12), rng.uniform(36, 48))
    near = horizon + rng.uniform(20, 28)
    ground(canvas, near, "soil", (128, 88, 58))
    crop = Surface(shade_of(canvas, pick(canvas, ("yellow", "green"))), "foliage")
    vanish = rng.uniform(30, 82)
    for i in range(-6, 7):
        far, foot = vanish + i * 9, vanish + i * 22
        furrow = Polygon((far - 2, near), (far + 2, near), (foot + 5, 113), (foot - 5, 113))
        canvas.fill(furrow, crop)
    if rng.random() < 0.7:
        things.fence(canvas, near + 2, rng.uniform(12, 17))


@scene("forest")
def forest(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(52, 62)
    sky(canvas, horizon)
    canvas.fill(rectangle(-1, rng.uniform(16, 26), 113, horizon), Surface((38, 82, 48), "foliage"))
    ground(canvas, horizon, "grass", (62, 104 + rng.uniform(-12, 12), 50))
    grow = things.fir if rng.random() < 0.4 else things.tree
    for x, y in scatter(canvas, int(rng.integers(4, 7)), horizon, 92):
        grow(canvas, x, y, 30 + 0.5 * y + rng.uniform(-5, 5))
    for x, y in scatter(canvas, int(rng.integers(0, 4)), 98, 110):
        things.mushroom(canvas, x, y, rng.uniform(15, 22))


@scene("meadow")
def meadow(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(44, 56)
    sky(canvas, horizon)
    overhead(canvas, 10, horizon - 16)
    green = shade_of(canvas, "green")
    hill(canvas, horizon + 2, rng.uniform(8, 16), Surface(tuple(0.9 * c for c in green), "grass"))
    ground(canvas, horizon, "grass", green)
    if rng.random() < 0.5:
        things.tree(canvas, rng.uniform(16, 96), horizon + rng.uniform(6, 14), rng.uniform(36, 48))
    for x, y in scatter(canvas, int(rng.integers(4, 8)), horizon + 24, 110):
        things.flower(canvas, x, y, rng.uniform(20, 30))


@scene("mountains")
def mountains(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(66, 78)
    sky(canvas, horizon)
    overhead(canvas, 6, 22)
    for x in sorted(row(canvas, 3), key=lambda _: rng.random()):
        things.mountain(canvas, x, horizon, rng.uniform(38, 62))
    if rng.random() < 0.5:
        ground(canvas, horizon, "water", water_colour(canvas))
    else:
        ground(canvas, horizon, "grass", shade_of(canvas, "green"))
    for x, y in scatter(canvas, int(rng.integers(1, 4)), 98, 110):
        things.fir(canvas, x, y, rng.uniform(30, 44))


@scene("night city")
def night_city(canvas: Canvas) -> None:
    rng = canvas.rng
    street = rng.uniform(88, 98)
    sky(canvas, street, ("night",))
    for _ in range(10):
        canvas.fill(Ellipse(rng.uniform(2, 110), rng.uniform(2, 50), 0.9), Surface((235, 235, 215)))
    if rng.random() < 0.6:
        things.moon(canvas, rng.uniform(14, 98), rng.uniform(11, 22), rng.uniform(13, 20))
    for x in row(canvas, int(rng.integers(4, 6))):
        things.skyscraper(canvas, x, street, rng.uniform(38, 74))
    ground(canvas, street, "asphalt", (48, 48, 54))
    for x in row(canvas, int(rng.integers(0, 3))):
        things.lamp(canvas, x, street + 6, rng.uniform(36, 46))
    if rng.random() < 0.6:
        things.car(canvas, rng.uniform(22, 90), 109, rng.uniform(15, 19))


@scene("park")
def park(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(50, 60)
    sky(canvas, horizon)
    overhead(canvas, 8, 24)
    ground(canvas, horizon, "grass", (112, 172 + rng.uniform(-14, 14), 78))
    if rng.random() < 0.7:
        things.fence(canvas, horizon + 4, rng.uniform(15, 20))
    middle, foot = rng.uniform(30, 82), rng.uniform(10, 102)
    path = Polygon((middle - 4, horizon + 4), (middle + 4, horizon + 4), (foot + 22, 113), (foot - 22, 113))
    canvas.fill(path, Surface((196, 176, 140), "sand"))
    for x in row(canvas, int(rng.integers(1, 3))):
        things.tree(canvas, x, horizon + rng.uniform(6, 18), rng.uniform(42, 58))
    if rng.random() < 0.5:
        things.kite(canvas, rng.uniform(20, 92), rng.uniform(18, 34), rng.uniform(20, 28))
    if rng.random() < 0.5:
        things.lamp(canvas, rng.uniform(12, 100), horizon + rng.uniform(16, 26), rng.uniform(42, 54))
    for x, y in scatter(canvas, int(rng.integers(1, 4)), 92, 108):
        things.ball(canvas, x, y, rng.uniform(14, 22))


@scene("room")
def room(canvas: Canvas) -> None:
    rng = canvas.rng
    floor = rng.uniform(66, 78)
    wall = textured(canvas, "plaster", ("white", "pink", "yellow", "purple", "grey"), chance=0.45)
    canvas.fill(everything(), wall)
    ground(canvas, floor, "wood", shade_of(canvas, "brown"))
    canvas.fill(rectangle(-1, floor - 2, 113, floor + 1), Surface(shade_of(canvas, "white"), "wood"))
    for x in row(canvas, int(rng.integers(1, 3)), 0.2):
        things.picture(canvas, x, rng.uniform(20, 34), rng.uniform(20, 28))
    if rng.random() < 0.7:
        things.rug(canvas, rng.uniform(40, 72), rng.uniform(94, 100), rng.uniform(16, 24))
    place = rng.uniform(34, 78)
    height = rng.uniform(30, 38)
    things.table(canvas, place, floor + 18, height)
    if rng.random() < 0.6:
        things.bowl(canvas, place, floor + 18 - height, rng.uniform(5, 8))
    for side in (-1, 1):
        if rng.random() < 0.6:
            x = place + side * rng.uniform(34, 40)
            things.chair(canvas, x, floor + rng.uniform(20, 28), rng.uniform(36, 44))


@scene("sea")
def sea(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(36, 56)
    sky(canvas, horizon)
    overhead(canvas, 8, horizon - 12)
    if rng.random() < 0.5:
        x = rng.uniform(16, 96)
        things.lighthouse(canvas, x, horizon + 4, rng.uniform(36, 44))
        things.rock(canvas, x, horizon + 6, 9)
    ground(canvas, horizon, "water", water_colour(canvas))
    for x, y in scatter(canvas, int(rng.integers(1, 4)), horizon + 14, 106):
        things.boat(canvas, x, y, 20 + 0.3 * y + rng.uniform(-4, 4))


@scene("sky view")
def sky_view(canvas: Canvas) -> None:
    rng = canvas.rng
    sky(canvas, SIZE)
    overhead(canvas, 12, 104)
    for x, y in scatter(canvas, int(rng.integers(1, 4)), 62, 106):
        things.balloon(canvas, x, y, rng.uniform(38, 56))
    if rng.random() < 0.5:
        things.kite(canvas, rng.uniform(20, 92), rng.uniform(20, 84), rng.uniform(22, 30))


@scene("snowfield")
def snowfield(canvas: Canvas) -> None:
    rng = canvas.rng
    horizon = rng.uniform(44, 58)
    sky(canvas, horizon)
    overhead(canvas, 8, horizon - 18)
    white = np.array((224, 231, 243)) + rng.uniform(-8, 8)
    hill(canvas, horizon + 3, rng.uniform(8, 18), Surface(tuple(white * 0.94), "snow"))
    ground(canvas, horizon, "snow", tuple(white))
    for x in row(canvas, int(rng.integers(1, 4))):
        things.fir(canvas, x, horizon + rng.uniform(2, 16), rng.uniform(32, 48))
    if rng.random() < 0.75:
        things.snowman(canvas, rng.uniform(20, 92), rng.uniform(96, 108), rng.uniform(40, 52))


@scene("street")
def street(canvas: Canvas) -> None:
    rng = canvas.rng
    pavement, road = rng.uniform(66, 72), rng.uniform(78, 84)
    sky(canvas, pavement)
    overhead(canvas, 6, 16)
    ground(canvas, pavement - 1, "stone", (178, 174, 168))
    for x in row(canvas, int(rng.integers(2, 4)), 0.12):
        things.house(canvas, x, pavement, rng.uniform(44, 56))
    ground(canvas, road, "asphalt", tuple(np.array((92, 92, 98)) + rng.uniform(-12, 12)))
    for x in range(int(rng.integers(-10, 10)), SIZE, 24):
        canvas.fill(rectangle(x, 97, x + 12, 99), Surface(PALETTE["white"], "asphalt"))
    if rng.random() < 0.5:
        things.lamp(canvas, rng.uniform(8, 104), road - 2, rng.uniform(46, 56))
    for x in row(canvas, int(rng.integers(1, 3)), 0.15):
        things.car(canvas, x, rng.uniform(94, 108), rng.uniform(19, 24))


@scene("underwater")
def underwater(canvas: Canvas) -> None:
    rng = canvas.rng
    bed = rng.uniform(90, 100)
    colour = water_colour(canvas)
    canvas.fill(everything(), Surface(colour, "water"))
    for x in row(canvas, 3):
        ray = line(x, -2, x + rng.uniform(-30, 30), bed, rng.uniform(3, 7))
        canvas.fill(ray, Surface(tuple(1.12 * c for c in colour), "water"))
    ground(canvas, bed, "sand", (206, 188, 138))
    for x, y in scatter(canvas, int(rng.integers(2, 5)), bed + 3, 110):
        things.seaweed(canvas, x, y, rng.uniform(32, 52))
    for x, y in scatter(canvas, int(rng.integers(2, 5)), 18, 84):
        things.fish(canvas, x, y, rng.uniform(12, 22))
