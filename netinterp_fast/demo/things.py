"""The things that scenes are made of. Each function paints one object with its parts.

Unless said otherwise (x, y) is the middle of the base, in pixels, and `size` the height.
"""

from __future__ import annotations

from .canvas import (
    Canvas,
    Ellipse,
    Intersection,
    Polygon,
    Union,
    line,
    lower_half,
    rectangle,
    upper_half,
)
from .surfaces import PALETTE, TEXTURES, Colour, Surface

BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
DIRECTIONS = ((1.0, 0.0), (0.0, 1.0))


def pick(canvas: Canvas, choices):
    return choices[int(canvas.rng.integers(len(choices)))]


def shade_of(canvas: Canvas, name: str, spread: float = 16) -> Colour:
    """A colour near the palette's `name`, all channels varied together and each a little alone."""
    common = canvas.rng.uniform(-spread, spread)
    return tuple(c + common + canvas.rng.uniform(-spread, spread) / 2 for c in PALETTE[name])


def textured(canvas: Canvas, material: str | None, names=BRIGHT, chance: float = 0.75) -> Surface:
    """A surface with, by chance, a texture in two contrasting colours out of `names`."""
    first = pick(canvas, names)
    second = pick(canvas, [n for n in ("white", "yellow", "black", "blue", "red") if n != first])
    colour = shade_of(canvas, first)
    if canvas.rng.random() >= chance:
        return Surface(colour, material)
    return Surface(
        colour,
        material,
        texture=pick(canvas, tuple(TEXTURES)),
        second=shade_of(canvas, second),
        period=canvas.rng.uniform(5.5, 8),
        direction=pick(canvas, DIRECTIONS),
    )


def house(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    half = size * rng.uniform(0.40, 0.60)
    eaves, ridge = y - size * rng.uniform(0.52, 0.62), y - size
    wall = pick(
        canvas,
        (
            Surface(shade_of(canvas, pick(canvas, ("red", "brown", "orange", "grey"))), "brick"),
            Surface(shade_of(canvas, pick(canvas, ("white", "yellow", "pink", "orange"))), "plaster"),
            Surface(shade_of(canvas, "brown", 25), "wood"),
        ),
    )
    roof = Surface(shade_of(canvas, pick(canvas, ("red", "brown", "black", "grey"))), "stone")
    chimney = x + half * rng.uniform(-0.6, 0.6)
    top = rectangle(chimney - size * 0.05, ridge, chimney + size * 0.05, eaves)
    canvas.fill(top, Surface(shade_of(canvas, "red", 10), "brick"), "house", "chimney")
    canvas.fill(rectangle(x - half, eaves, x + half, y), wall, "house", "wall")
    over, flat = half * 1.18, half * rng.uniform(0, 0.6)
    gable = Polygon((x - over, eaves), (x + over, eaves), (x + flat, ridge), (x - flat, ridge))
    canvas.fill(gable, roof, "house", "roof")
    door = x + half * rng.uniform(-0.55, 0.55)
    door_surface = Surface(shade_of(canvas, pick(canvas, ("brown", "green", "blue", "red"))), "wood")
    canvas.fill(rectangle(door - size * 0.08, y - size * 0.3, door + size * 0.08, y), door_surface, "house", "door")
    glass = Surface(shade_of(canvas, pick(canvas, ("blue", "grey")), 30), "glass")
    for middle in (x - half * 0.6, x, x + half * 0.6):
        if abs(middle - door) > size * 0.18:
            pane = rectangle(middle - size * 0.09, y - size * 0.45, middle + size * 0.09, y - size * 0.24)
            canvas.fill(pane, glass, "house", "window")


def skyscraper(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    half = rng.uniform(7, 12)
    wall = Surface(tuple(c * rng.uniform(0.9, 1.3) for c in (52, 52, 62)), "stone")
    canvas.fill(rectangle(x - half, y - size, x + half, y), wall, "skyscraper", "wall")
    lit = Surface(shade_of(canvas, "yellow"), "glass")
    dark = Surface((70, 80, 110), "glass")
    step = rng.uniform(6.5, 8)
    columns = int((2 * half - 2) // step)
    left = x - columns * step / 2
    for row in range(int((size - 4) // step)):
        for column in range(columns):
            corner_x, corner_y = left + column * step + 1.2, y - size + 3 + row * step
            pane = rectangle(corner_x, corner_y, corner_x + step - 2.4, corner_y + step - 2.6)
            canvas.fill(pane, lit if rng.random() < 0.6 else dark, "skyscraper", "window")


def tree(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    bark = Surface(shade_of(canvas, "brown"), "wood")
    canvas.fill(rectangle(x - size * 0.06, y - size * 0.55, x + size * 0.06, y), bark, "tree", "trunk")
    leaves = Surface(shade_of(canvas, pick(canvas, ("green", "green", "green", "orange"))), "foliage")
    radius = size * rng.uniform(0.24, 0.30)
    blobs = [
        Ellipse(x + dx * radius, y - size * 0.66 + dy * radius, radius)
        for dx, dy in ((-0.65, 0.25), (0.65, 0.25), (rng.uniform(-0.3, 0.3), -0.35))
    ]
    canvas.fill(Union(*blobs), leaves, "tree", "crown")


def fir(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    canvas.fill(
        rectangle(x - size * 0.05, y - size * 0.2, x + size * 0.05, y),
        Surface(shade_of(canvas, "brown"), "wood"),
        "fir",
        "trunk",
    )
    dark = rng.uniform(0.7, 1.1)
    needles = Surface(tuple(c * dark for c in (48, 104, 58)), "foliage")
    tiers = []
    for low, width in ((0.15, 0.30), (0.37, 0.24), (0.58, 0.17)):
        foot, half = y - size * low, size * width
        tiers.append(Polygon((x - half, foot), (x + half, foot), (x, foot - size * 0.42)))
    canvas.fill(Union(*tiers), needles, "fir", "crown")


def cactus(canvas: Canvas, x: float, y: float, size: float) -> None:
    green = Surface(shade_of(canvas, "green", 12), "foliage")
    width = size * 0.13
    side = pick(canvas, (-1, 1))

    def column(centre, low, high):
        return Union(rectangle(centre - width, high, centre + width, low), Ellipse(centre, high, width))

    arms = []
    for direction, low in ((side, 0.35), (-side, 0.5)):
        elbow, height = x + direction * size * 0.33, y - size * low
        arms += [
            rectangle(min(x, elbow), height - width * 0.8, max(x, elbow), height + width * 0.8),
            column(elbow, height + width * 0.5, height - size * 0.25),
        ]
    canvas.fill(Union(column(x, y, y - size * 0.87), *arms), green, "cactus", "trunk")


def car(canvas: Canvas, x: float, y: float, size: float) -> None:
    length = size * 1.15
    paint = Surface(shade_of(canvas, pick(canvas, ("red", "blue", "yellow", "white", "orange"))), "metal")
    low, belt, top = y - size * 0.18, y - size * 0.58, y - size
    cabin = Polygon(
        (x - length * 0.62, belt), (x + length * 0.55, belt),
        (x + length * 0.32, top), (x - length * 0.42, top),
    )  # fmt: skip
    body = rectangle(x - length, belt, x + length, low)
    canvas.fill(Union(cabin, body), paint, "car", "body")
    glass = Surface((150, 190, 215), "glass")
    for left, right, slope in ((-0.50, -0.06, 0.14), (0.02, 0.42, -0.14)):
        ahead, behind = (slope, 0) if slope > 0 else (0, slope)
        pane = Polygon(
            (x + length * left, belt - 1),
            (x + length * right, belt - 1),
            (x + length * (right + behind), top + size * 0.08),
            (x + length * (left + ahead), top + size * 0.08),
        )
        canvas.fill(pane, glass, "car", "window")
    for wheel in (x - length * 0.55, x + length * 0.55):
        canvas.fill(Ellipse(wheel, low, size * 0.25), Surface(PALETTE["black"]), "car", "wheel")
        canvas.fill(Ellipse(wheel, low, size * 0.10), Surface(PALETTE["grey"], "metal"), "car", "wheel")


def boat(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    half, deck = size * rng.uniform(0.42, 0.55), y - size * 0.22
    canvas.fill(rectangle(x - 1, y - size, x + 1, deck), Surface(shade_of(canvas, "brown"), "wood"), "boat", "pole")
    cloth = textured(canvas, "fabric", ("white", "white", "red", "orange", "yellow"), chance=0.4)
    side = pick(canvas, (-1, 1))
    ahead, behind, foot = x + side * 2, x - side * 2, deck - 3
    main = Polygon((ahead, y - size), (x + side * half * 0.95, foot), (ahead, foot))
    fore = Polygon((behind, y - size * 0.9), (x - side * half * 0.7, foot), (behind, foot))
    canvas.fill(Union(main, fore), cloth, "boat", "sail")
    hull = Polygon((x - half, deck), (x + half, deck), (x + half * 0.7, y), (x - half * 0.7, y))
    wood = Surface(shade_of(canvas, pick(canvas, ("brown", "red", "blue", "white"))), "wood")
    canvas.fill(hull, wood, "boat", "hull")


def lighthouse(canvas: Canvas, x: float, y: float, size: float) -> None:
    foot, head = size * 0.16, size * 0.10
    tower = Polygon((x - foot, y), (x + foot, y), (x + head, y - size * 0.76), (x - head, y - size * 0.76))
    stripes = Surface(shade_of(canvas, "red"), "plaster", "striped", PALETTE["white"], size * 0.3, (0.0, 1.0))
    canvas.fill(tower, stripes, "lighthouse", "wall")
    room = rectangle(x - head * 0.9, y - size * 0.88, x + head * 0.9, y - size * 0.76)
    canvas.fill(room, Surface(shade_of(canvas, "yellow"), "glass"), "lighthouse", "window")
    roof = Polygon((x - head * 1.3, y - size * 0.88), (x + head * 1.3, y - size * 0.88), (x, y - size))
    canvas.fill(roof, Surface(shade_of(canvas, "red"), "metal"), "lighthouse", "roof")


def sun(canvas: Canvas, x: float, y: float, size: float) -> None:
    """The sun's disc around (x, y), `size` across."""
    light = pick(canvas, ((250, 238, 190), (245, 222, 110), PALETTE["yellow"], (245, 150, 60)))
    canvas.fill(Ellipse(x, y, size / 2), Surface(light), "sun")


def moon(canvas: Canvas, x: float, y: float, size: float) -> None:
    """The moon's disc around (x, y), `size` across."""
    canvas.fill(Ellipse(x, y, size / 2), Surface((236, 232, 205)), "moon")


def cloud(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    puffs = [
        Ellipse(x + dx * size, y - size * 0.4, size * rng.uniform(0.42, 0.6), size * rng.uniform(0.3, 0.45))
        for dx in (-0.65, 0.0, 0.65)
    ]
    puffs.append(Ellipse(x + rng.uniform(-0.2, 0.2) * size, y - size * 0.7, size * 0.5, size * 0.4))
    light = rng.uniform(205, 246)
    canvas.fill(Union(*puffs), Surface((light, light, light)), "cloud")


def bird(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A flying bird around (x, y), its wings `size` high."""
    dark = Surface(shade_of(canvas, pick(canvas, ("black", "white", "brown"))))
    lift = canvas.rng.uniform(0.4, 0.7) * size
    canvas.fill(Ellipse(x, y, size * 0.4, size * 0.18), dark, "bird", "body")
    for side in (-1, 1):
        wing = Polygon(
            (x, y - size * 0.15), (x, y + size * 0.15), (x + side * size * 0.9, y - lift),
            (x + side * size * 0.5, y - lift),
        )  # fmt: skip
        canvas.fill(wing, dark, "bird", "wing")


def fish(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A fish around (x, y), `size` high and about twice as long."""
    side = pick(canvas, (-1, 1))
    skin = textured(canvas, None, ("orange", "yellow", "red", "pink", "purple"), chance=0.5)
    fins = Surface(shade_of(canvas, pick(canvas, ("orange", "yellow", "red"))))
    tail = Polygon((x - side * size * 0.7, y), (x - side * size * 1.25, y - size * 0.45),
                   (x - side * size * 1.25, y + size * 0.45))  # fmt: skip
    canvas.fill(tail, fins, "fish", "fin")
    back = Polygon((x - size * 0.4, y - size * 0.3), (x + size * 0.35, y - size * 0.3), (x, y - size * 0.7))
    canvas.fill(back, fins, "fish", "fin")
    canvas.fill(Ellipse(x, y, size * 0.9, size * 0.48), skin, "fish", "body")
    eye = x + side * size * 0.55
    canvas.fill(Ellipse(eye, y - size * 0.1, size * 0.14), Surface(PALETTE["white"]), "fish", "eye")
    canvas.fill(Ellipse(eye, y - size * 0.1, size * 0.07), Surface(PALETTE["black"]), "fish", "eye")


def seaweed(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    leaf = Surface(shade_of(canvas, "green", 25), "foliage")
    for offset in (-0.15, 0.0, 0.15):
        base, bend = x + offset * size, rng.uniform(-0.12, 0.12) * size
        tall = size * rng.uniform(0.7, 1.0)
        blade = Union(
            line(base, y, base + bend, y - tall * 0.55, size * 0.10),
            line(base + bend, y - tall * 0.5, base - bend, y - tall, size * 0.08),
        )
        canvas.fill(blade, leaf, "seaweed", "stem")


def ball(canvas: Canvas, x: float, y: float, size: float) -> None:
    canvas.fill(Ellipse(x, y - size / 2, size / 2), textured(canvas, "fabric"), "ball")


def balloon(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A hot-air balloon."""
    radius, cloth = size * 0.36, textured(canvas, "fabric", chance=0.85)
    middle = y - size + radius
    for side in (-1, 1):
        bottom = x + side * size * 0.08
        rope = line(x + side * radius * 0.5, middle + radius * 0.8, bottom, y - size * 0.1, 0.9)
        canvas.fill(rope, Surface(PALETTE["brown"], "fabric"), "balloon", "basket")
    neck = Polygon(
        (x - radius * 0.88, middle + radius * 0.5), (x + radius * 0.88, middle + radius * 0.5),
        (x + radius * 0.3, middle + radius * 1.2), (x - radius * 0.3, middle + radius * 1.2),
    )  # fmt: skip
    canvas.fill(Union(Ellipse(x, middle, radius), neck), cloth, "balloon", "envelope")
    basket = rectangle(x - size * 0.09, y - size * 0.13, x + size * 0.09, y)
    canvas.fill(basket, Surface(shade_of(canvas, "brown"), "wood"), "balloon", "basket")


def kite(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A kite around (x, y), `size` high."""
    cloth = textured(canvas, "fabric", chance=0.6)
    string = line(x, y, x + canvas.rng.uniform(-0.6, 0.6) * size, y + size * 1.2, 0.9)
    canvas.fill(string, Surface(PALETTE["black"]), "kite", "stem")
    half = size * 0.36
    top, arms, tip = y - size * 0.5, y - size * 0.12, y + size * 0.5
    sail = Polygon((x, top), (x + half, arms), (x, tip), (x - half, arms))
    canvas.fill(sail, cloth, "kite", "sail")


def umbrella(canvas: Canvas, x: float, y: float, size: float) -> None:
    cloth = textured(canvas, "fabric", chance=0.85)
    pole = rectangle(x - 1, y - size * 0.9, x + 1, y)
    canvas.fill(pole, Surface(PALETTE["grey"], "metal"), "umbrella", "pole")
    canopy = upper_half(x, y - size * 0.5, size * 0.62, size * 0.5)
    canvas.fill(canopy, cloth, "umbrella", "canopy")


def fence(canvas: Canvas, y: float, size: float) -> None:
    """A fence from side to side that stands on the line y."""
    rng = canvas.rng
    wood = Surface(shade_of(canvas, pick(canvas, ("brown", "white"))), "wood")
    for rail in (0.35, 0.72):
        canvas.fill(rectangle(-1, y - size * rail - 1, 113, y - size * rail + 1.4), wood, "fence")
    step = rng.uniform(8, 11)
    x = rng.uniform(0, step)
    while x < 112:
        neck = y - size * 0.9
        board = Polygon((x - 2, y), (x + 2, y), (x + 2, neck), (x, y - size), (x - 2, neck))
        canvas.fill(board, wood, "fence", "pole")
        x += step


def lamp(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A street lamp."""
    canvas.fill(rectangle(x - 1.1, y - size, x + 1.1, y), Surface((58, 60, 66), "metal"), "lamp", "pole")
    shade = Polygon(
        (x - size * 0.12, y - size * 0.86), (x + size * 0.12, y - size * 0.86), (x + size * 0.06, y - size),
        (x - size * 0.06, y - size),
    )  # fmt: skip
    canvas.fill(shade, Surface(shade_of(canvas, "yellow"), "glass"), "lamp", "shade")


def flower(canvas: Canvas, x: float, y: float, size: float) -> None:
    stalk = Surface(shade_of(canvas, "green"), "foliage")
    canvas.fill(rectangle(x - size * 0.06, y - size * 0.6, x + size * 0.06, y), stalk, "flower", "stem")
    petals = Surface(shade_of(canvas, pick(canvas, ("red", "pink", "purple", "yellow", "white", "orange"))))
    middle, radius = y - size * 0.68, size * 0.17
    corners = ((0, -1), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31))
    blobs = [Ellipse(x + dx * radius, middle + dy * radius, radius * 0.95) for dx, dy in corners]
    canvas.fill(Union(*blobs), petals, "flower", "petal")
    canvas.fill(Ellipse(x, middle, radius * 0.6), Surface(shade_of(canvas, "yellow")), "flower")


def mushroom(canvas: Canvas, x: float, y: float, size: float) -> None:
    stem = Polygon((x - size * 0.16, y), (x + size * 0.16, y), (x + size * 0.10, y - size * 0.6),
                   (x - size * 0.10, y - size * 0.6))  # fmt: skip
    canvas.fill(stem, Surface((236, 226, 205)), "mushroom", "stem")
    spots = Surface(shade_of(canvas, "red"), None, "dotted", PALETTE["white"], max(size * 0.28, 5.0))
    canvas.fill(upper_half(x, y - size * 0.45, size * 0.52, size * 0.55), spots, "mushroom", "cap")


def rock(canvas: Canvas, x: float, y: float, size: float) -> None:
    grey = Surface(shade_of(canvas, pick(canvas, ("grey", "brown"))), "stone")
    canvas.fill(upper_half(x, y, size * canvas.rng.uniform(0.7, 1.1), size), grey, "rock")


def mountain(canvas: Canvas, x: float, y: float, size: float) -> None:
    rng = canvas.rng
    half = size * rng.uniform(0.6, 0.8)
    stone = Surface(shade_of(canvas, "grey", 22), "stone")
    canvas.fill(Polygon((x - half, y), (x + half, y), (x, y - size)), stone, "mountain")
    line_ = rng.uniform(0.25, 0.4)
    left, right = line_ * rng.uniform(0.7, 1.0), line_ * rng.uniform(0.9, 1.2)
    top = Polygon(
        (x, y - size), (x - half * left, y - size * (1 - left)), (x, y - size * (1 - line_ * 0.75)),
        (x + half * right, y - size * (1 - right)),
    )  # fmt: skip
    canvas.fill(top, Surface((240, 243, 250), "snow"), "mountain", "summit")


def snowman(canvas: Canvas, x: float, y: float, size: float) -> None:
    snow = Surface((236, 238, 242), "snow")
    shadow = Surface((200, 208, 224), "snow")
    for height, radius in ((0.24, 0.25), (0.56, 0.18)):
        canvas.fill(Ellipse(x + size * 0.02, y - size * height, size * radius), shadow, "snowman", "body")
        canvas.fill(Ellipse(x, y - size * height, size * (radius - 0.03)), snow, "snowman", "body")
    canvas.fill(Ellipse(x, y - size * 0.78, size * 0.13), snow, "snowman", "body")
    for side in (-1, 1):
        eye = Ellipse(x + side * size * 0.05, y - size * 0.80, max(size * 0.02, 0.8))
        canvas.fill(eye, Surface(PALETTE["black"]), "snowman", "eye")
    hat = Union(
        rectangle(x - size * 0.17, y - size * 0.88, x + size * 0.17, y - size * 0.85),
        rectangle(x - size * 0.1, y - size, x + size * 0.1, y - size * 0.86),
    )
    colour = shade_of(canvas, pick(canvas, ("black", "red", "blue", "purple")))
    canvas.fill(hat, Surface(colour, "fabric"), "snowman", "hat")


def table(canvas: Canvas, x: float, y: float, size: float) -> None:
    wood = Surface(shade_of(canvas, "brown"), "wood")
    half = size * canvas.rng.uniform(0.65, 0.9)
    for side in (-0.85, 0.85):
        leg = rectangle(x + side * half - 2, y - size * 0.85, x + side * half + 2, y)
        canvas.fill(leg, wood, "table", "leg")
    canvas.fill(rectangle(x - half, y - size, x + half, y - size * 0.82), wood, "table")


def chair(canvas: Canvas, x: float, y: float, size: float) -> None:
    side = pick(canvas, (-1, 1))
    wood = Surface(shade_of(canvas, pick(canvas, ("brown", "black", "white"))), "wood")
    half = size * 0.25
    for leg in (-1, 1):
        canvas.fill(rectangle(x + leg * half - 1.5, y - size * 0.45, x + leg * half + 1.5, y), wood, "chair", "leg")
    back = x + side * half
    canvas.fill(rectangle(back - 1.8, y - size, back + 1.8, y - size * 0.4), wood, "chair", "leg")
    cushion = textured(canvas, "fabric", chance=0.5)
    seat = rectangle(x - half - 2, y - size * 0.5, x + half + 2, y - size * 0.38)
    canvas.fill(seat, cushion, "chair", "seat")


def rug(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A rug seen at a slant, centred on (x, y), `size` high."""
    half = size * canvas.rng.uniform(1.3, 1.9)
    shape = Polygon(
        (x - half, y + size / 2), (x + half, y + size / 2), (x + half * 0.8, y - size / 2),
        (x - half * 0.8, y - size / 2),
    )  # fmt: skip
    canvas.fill(shape, textured(canvas, "fabric", chance=0.9), "rug")


def picture(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A framed picture around (x, y) with a small landscape in it."""
    half = size * canvas.rng.uniform(0.55, 0.8)
    frame = Surface(shade_of(canvas, pick(canvas, ("brown", "yellow", "black"))), "wood")
    canvas.fill(rectangle(x - half, y - size / 2, x + half, y + size / 2), frame, "picture")
    inner = rectangle(x - half + 3, y - size / 2 + 3, x + half - 3, y + size / 2 - 3)
    sky = Surface(shade_of(canvas, pick(canvas, ("blue", "pink", "orange", "purple"))))
    canvas.fill(inner, sky, "picture")
    hill = Intersection(Ellipse(x, y + size / 2, half, size * 0.5), inner)
    canvas.fill(hill, Surface(shade_of(canvas, "green")), "picture")


def bowl(canvas: Canvas, x: float, y: float, size: float) -> None:
    """A bowl: no object of the vocabulary, a piece of glass on a table."""
    canvas.fill(lower_half(x, y - size, size, size), Surface(shade_of(canvas, "blue", 40), "glass"))
