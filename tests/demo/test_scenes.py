"""The painter: deterministic pictures whose masks are exact."""

import hashlib

import numpy as np
import pytest

from netinterp_fast.demo import DEMO_VERSION
from netinterp_fast.demo.canvas import SIZE, Canvas, Ellipse, Intersection, Polygon, Random, Union, rectangle
from netinterp_fast.demo.scenes import SCENES, paint
from netinterp_fast.demo.surfaces import MATERIALS, TEXTURES, Surface
from netinterp_fast.demo.vocabulary import CATEGORIES, NUMBERS

# A part belongs to these objects and no others.
OWNERS = {
    "basket": {"balloon"},
    "body": {"bird", "car", "fish", "snowman"},
    "canopy": {"umbrella"},
    "cap": {"mushroom"},
    "chimney": {"house"},
    "crown": {"fir", "tree"},
    "door": {"house"},
    "envelope": {"balloon"},
    "eye": {"fish", "snowman"},
    "fin": {"fish"},
    "hat": {"snowman"},
    "hull": {"boat"},
    "leg": {"chair", "table"},
    "petal": {"flower"},
    "pole": {"boat", "fence", "lamp", "umbrella"},
    "roof": {"house", "lighthouse"},
    "sail": {"boat", "kite"},
    "seat": {"chair"},
    "shade": {"lamp"},
    "stem": {"flower", "kite", "mushroom", "seaweed"},
    "summit": {"mountain"},
    "trunk": {"cactus", "fir", "tree"},
    "wall": {"house", "lighthouse", "skyscraper"},
    "wheel": {"car"},
    "window": {"car", "house", "lighthouse", "skyscraper"},
    "wing": {"bird"},
}


@pytest.fixture(scope="module")
def pictures():
    return [paint(index) for index in range(6 * len(SCENES))]


def blank_canvas() -> Canvas:
    return Canvas(Random(0))


def digest(picture) -> str:
    arrays = [picture.rgb, *picture.masks.values()]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def test_every_scene_of_the_vocabulary_has_a_painter():
    assert tuple(SCENES) == CATEGORIES["scene"]
    assert set(MATERIALS) == set(CATEGORIES["material"])
    assert set(TEXTURES) == set(CATEGORIES["texture"])


def test_names_and_numbers_are_unique():
    assert sorted(NUMBERS.values()) == list(range(1, len(NUMBERS) + 1))
    assert len({name for _, name in NUMBERS}) == len(NUMBERS)


def test_pictures_depend_on_index_and_seed_alone(pictures):
    order = [37, 3, 20]
    assert [digest(paint(i)) for i in order] == [digest(pictures[i]) for i in order]
    assert len({digest(p) for p in pictures}) == len(pictures)
    assert digest(paint(3, seed=1)) != digest(pictures[3])


def test_the_bytes_are_those_of_this_version():
    """A change of the painter that is meant to be one changes this digest and `DEMO_VERSION`."""
    assert DEMO_VERSION == 1
    series = "".join(digest(paint(index)) for index in range(len(SCENES)))
    assert (
        hashlib.sha256(series.encode()).hexdigest()
        == "c38a329ebbe1f5bc6c2b95402a00c9a21aeb3c4d9a0ff9b70740e4b9911b57c4"
    )


def test_pictures_have_the_promised_form(pictures):
    for index, picture in enumerate(pictures):
        assert picture.rgb.shape == (SIZE, SIZE, 3)
        assert picture.rgb.dtype == np.uint8
        assert picture.rgb.std() > 10
        assert picture.scene == NUMBERS["scene", CATEGORIES["scene"][index % len(SCENES)]]
        for category, mask in picture.masks.items():
            allowed = [0] + [NUMBERS[category, name] for name in CATEGORIES[category]]
            assert mask.shape == (SIZE, SIZE)
            assert np.isin(mask, allowed).all()


def test_every_concept_is_painted_somewhere(pictures):
    found = {p.scene for p in pictures}
    for picture in pictures:
        for mask in picture.masks.values():
            found.update(np.unique(mask).tolist())
    wanted = {number for (category, _), number in NUMBERS.items() if category != "colour"}
    assert found - {0} == wanted


def test_parts_lie_inside_their_objects(pictures):
    assert set(OWNERS) == set(CATEGORIES["part"])
    for picture in pictures:
        for part, owners in OWNERS.items():
            objects = picture.masks["object"][picture.masks["part"] == NUMBERS["part", part]]
            assert np.isin(objects, [NUMBERS["object", owner] for owner in owners]).all(), part


def test_masks_are_exact_where_the_geometry_is_known():
    canvas = blank_canvas()
    canvas.fill(rectangle(0, 0, SIZE, SIZE), Surface((0, 0, 0), "water"))
    canvas.fill(Ellipse(40, 50, 20, 10), Surface((200, 0, 0), "wood"), "boat")
    canvas.fill(Polygon((40, 40), (70, 60), (40, 60)), Surface((0, 0, 200)), "boat", "sail")
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    ellipse = ((x - 40) / 20) ** 2 + ((y - 50) / 10) ** 2 <= 1
    triangle = (x >= 40) & (y <= 60) & ((x - 40) * 20 <= (y - 40) * 30)
    expected = {
        "object": NUMBERS["object", "boat"] * (ellipse | triangle),
        "part": NUMBERS["part", "sail"] * triangle,
        "material": np.where(ellipse, NUMBERS["material", "wood"], NUMBERS["material", "water"]) * ~triangle,
        "texture": 0 * triangle,
    }
    for category, mask in expected.items():
        np.testing.assert_array_equal(canvas.masks[category], mask, err_msg=category)


def test_unions_and_intersections_are_those_of_the_sets():
    a, b = Ellipse(50, 50, 20), rectangle(50, 40, 90, 60)
    inside = {}
    for name, shape in {"a": a, "b": b, "both": Intersection(a, b), "any": Union(a, b)}.items():
        canvas = blank_canvas()
        canvas.fill(shape, Surface((255, 255, 255)), "ball")
        inside[name] = canvas.masks["object"] > 0
    np.testing.assert_array_equal(inside["both"], inside["a"] & inside["b"])
    np.testing.assert_array_equal(inside["any"], inside["a"] | inside["b"])
    assert 0 < inside["both"].sum() < inside["a"].sum()


def test_colour_follows_the_mask():
    """Pixels half a pixel or more inside have the surface's colour, those as far outside keep the old one."""
    canvas = blank_canvas()
    canvas.fill(rectangle(0, 0, SIZE, SIZE), Surface((0, 0, 0)))
    canvas.fill(rectangle(20.3, 30.3, 60.3, 70.3), Surface((200, 200, 200)), "rug")
    inside = canvas.masks["object"] > 0
    assert canvas.rgb[31:70, 21:60].min() > 190
    assert canvas.rgb[~inside].max() < 110
    assert canvas.rgb[inside].min() > 90


def test_shapes_off_the_canvas_change_nothing():
    canvas = blank_canvas()
    canvas.fill(Ellipse(-30, 50, 20), Surface((255, 255, 255)), "ball")
    canvas.fill(rectangle(10, SIZE + 5, 20, SIZE + 9), Surface((255, 255, 255)), "ball")
    assert not canvas.rgb.any()
    assert not canvas.masks["object"].any()


@pytest.mark.parametrize("arguments", [(-1,), (0, -1), (1.5,), ("0",)])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=r"(index|seed) is .*expected an integer >= 0"):
        paint(*arguments)
