"""The demo network and its training."""

import hashlib

import numpy as np
import pytest
import torch

from netinterp_fast.demo import DEMO_LAYERS, DEMO_SIZE, load_demo_model, train
from netinterp_fast.demo.dataset import colour_mask
from netinterp_fast.demo.model import WEIGHTS
from netinterp_fast.demo.scenes import SCENES, paint
from netinterp_fast.demo.train import SERIES, main, normalise, present, training_set
from netinterp_fast.demo.vocabulary import CATEGORIES, NUMBERS


@pytest.fixture(scope="module")
def model():
    return load_demo_model()


def test_the_shipped_weights_are_small_and_ready(model):
    assert WEIGHTS.stat().st_size < 1_000_000
    assert not model.training
    assert all(v.dtype == torch.float32 for v in model.state_dict().values() if v.is_floating_point())


def test_layers_are_non_negative_maps(model):
    seen = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, out))
        for name in DEMO_LAYERS
    ]
    with torch.no_grad():
        scores = model(torch.randn(2, 3, DEMO_SIZE, DEMO_SIZE))
    for handle in handles:
        handle.remove()
    assert scores.shape == (2, len(SCENES))
    assert tuple(seen) == DEMO_LAYERS
    assert [maps.shape[-1] for maps in seen.values()] == [56, 56, 28, 14, 14, 14]
    assert all(maps.min() >= 0 and maps.max() > 0 for maps in seen.values())


def test_scenes_are_recognised_in_fresh_pictures(model):
    """Chance is 1/14; the pictures are from a series that neither the training nor the demo data set uses."""
    pictures = [paint(index, seed=77) for index in range(4 * len(SCENES))]
    images = normalise(torch.stack([torch.from_numpy(p.rgb).permute(2, 0, 1) for p in pictures]))
    with torch.no_grad():
        guesses = model(images).argmax(1) + NUMBERS["scene", CATEGORIES["scene"][0]]
    right = (guesses == torch.tensor([p.scene for p in pictures])).float().mean()
    assert right > 0.9


def test_presence_names_what_the_picture_shows():
    for index in range(len(SCENES)):
        picture = paint(index)
        for category in ("object", "part", "texture"):
            pixels = [(picture.masks[category] == NUMBERS[category, n]).sum() for n in CATEGORIES[category]]
            assert present(picture, category).tolist() == [count >= 12 for count in pixels]


def test_training_pictures_are_not_those_of_the_data_set():
    rgb, answers = training_set(2, seed=3)
    assert rgb.dtype == torch.uint8
    assert (rgb.shape, answers.scenes.tolist()) == ((2, 3, DEMO_SIZE, DEMO_SIZE), [0, 1])
    pictures = [paint(index, SERIES + 3) for index in range(2)]
    assert torch.equal(rgb[1].permute(1, 2, 0), torch.from_numpy(pictures[1].rgb))
    things = np.concatenate([present(pictures[1], "object"), present(pictures[1], "part")])
    assert answers.things[1].tolist() == things.tolist()
    orange = (colour_mask(pictures[1]) == NUMBERS["colour", "orange"]).mean()
    assert answers.colours[1, CATEGORIES["colour"].index("orange")].item() == pytest.approx(orange)
    torch.testing.assert_close(answers.colours.sum(1), torch.ones(2))
    torch.testing.assert_close(answers.textures.sum(1), torch.ones(2))
    bare = (pictures[1].masks["texture"] == 0).mean()
    assert answers.textures[1, -1].item() == pytest.approx(bare)


def test_training_is_reproducible(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "BATCH", 4)
    threads = torch.get_num_threads()
    try:
        for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
            main(["--out", str(tmp_path / name), "--steps", "3", "--images", "6", "--seed", seed])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    a, b, c = (hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in "abc")
    assert a == b != c
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("arguments", [{"steps": 0, "n_images": 1}, {"steps": 1, "n_images": 0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="is 0; expected at least 1"):
        train.train(**arguments, seed=0)
