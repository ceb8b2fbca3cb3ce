"""Several questions of one run: each equals a run of its own, or of a model that was changed by hand."""

import csv
import re
from collections import OrderedDict
from fractions import Fraction
from urllib.parse import unquote

import pytest
import torch
from interrupted import N_IMAGES, SlowDataset, Stopping, contents, finish, run_until, start
from interrupted import run as run_in_folder
from test_dissect_runs import TENSORS, run
from tiny import TinyDataset, tiny_model
from torch import nn

from netinterp_fast import Dissection, Rotation, dissect, per_position
from netinterp_fast.data import open_dataset
from netinterp_fast.demo import DEMO_MEAN, DEMO_SIZE, DEMO_STD, load_demo_model, write_demo_dataset
from netinterp_fast.dissection import get_convention
from netinterp_fast.dissection.probes import exact_quantiles

pytestmark = pytest.mark.usefixtures("one_thread")
CONVENTIONS = pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite", "dissect"])


def assert_same(layer, other, units=slice(None)):
    """Two results of one layer, the second one's units in another order."""
    for name in TENSORS:
        expected = getattr(other, name)
        assert torch.equal(getattr(layer, name), expected if name == "concept_area" else expected[units]), name


def followed_by(tail: nn.Module) -> nn.Sequential:
    """The tiny model with a module behind its ReLU, called `tail`."""
    parts = OrderedDict(tiny_model().named_children())
    return nn.Sequential(OrderedDict(conv=parts["conv"], relu=parts["relu"], tail=tail))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# names


def test_the_plain_question_has_the_layers_name(model, dataset):
    result = run(model, dataset, ["pool", "relu"], basis=["units", Rotation(0.9)], tail="both", quantile=(0.1, 0.05))
    of_relu = [
        "relu", "relu | q 0.05", "relu | lower", "relu | lower | q 0.05", "relu | rotation 0.9",
        "relu | rotation 0.9 | q 0.05", "relu | rotation 0.9 | lower", "relu | rotation 0.9 | lower | q 0.05",
    ]  # fmt: skip
    assert list(result) == [key.replace("relu", "pool") for key in of_relu] + of_relu
    for key, layer in result.layers.items():
        assert layer.name == key
        assert layer.layer == key.split(" | ")[0]
        assert layer.basis == ("rotation 0.9" if "rotation" in key else "units")
        assert layer.tail == ("lower" if "lower" in key else "upper")
        assert layer.quantile == (0.05 if "0.05" in key else 0.1)
    assert result.settings["layers"] == ["pool", "relu"]
    assert result.settings["quantile"] == [0.1, 0.05]
    assert result.settings["tail"] == "both"
    assert result.settings["basis"] == ["units", "Rotation(angle=0.9, seed=0)"]


def test_one_quantile_tail_and_basis_are_no_lists(model, dataset):
    result = run(model, dataset, tail="lower", basis="rotation")
    assert list(result) == ["relu | rotation 1 | lower"]
    settings = {"quantile": 0.1, "tail": "lower", "basis": "Rotation(angle=1.0, seed=0)"}
    assert settings.items() <= result.settings.items()


def test_a_layer_whose_name_is_taken(dataset):
    model = nn.Sequential(OrderedDict([("a", nn.Identity()), ("a | lower", nn.Identity())]))
    with pytest.raises(ValueError, match=r"two entries of the result would be called 'a \| lower'; ask for each only"):
        run(model, dataset, ["a", "a | lower"], tail="both")


# quantiles


@CONVENTIONS
def test_several_quantiles_are_as_runs_of_their_own(model, dataset, convention):
    quantiles = (0.1, 0.005, 0.5, 0)
    together = run(model, dataset, ["relu", "flat"], quantile=quantiles, convention=convention, batch_size=3)
    for layer in ("relu", "flat"):
        for q in quantiles:
            alone = run(model, dataset, [layer], quantile=q, convention=convention, batch_size=3)
            assert_same(together[layer if q == 0.1 else f"{layer} | q {q}"], alone[layer])


def test_quantiles_are_exact():
    lite = exact_quantiles(get_convention("netdissect_lite"), [0.005, 0.29])
    assert lite == {0.005: Fraction(5, 999), 0.29: Fraction(290, 999)}
    assert exact_quantiles(get_convention("netdissect"), 0.29) == {0.29: Fraction(29, 100)}
    assert exact_quantiles(get_convention("dissect"), None) == {0.01: Fraction(1, 100)}


# tails


@CONVENTIONS
def test_the_lower_tail_is_that_of_the_negated_layer(model, dataset, convention):
    both = run(model, dataset, ["conv", "pool"], tail="both", convention=convention)
    for layer in ("conv", "pool"):
        negated = tiny_model()
        setattr(negated, layer, nn.Sequential(negated.get_submodule(layer), Lambda(torch.neg)))
        expected = run(negated, dataset, [layer], convention=convention)
        assert_same(both[f"{layer} | lower"], expected[layer])
        assert_same(both[layer], run(model, dataset, [layer], convention=convention)[layer])


def test_the_lower_tail_places_its_maps_as_the_upper(model, dataset):
    place = {"relu": (1.25, 1.25, 3.0, 3.0)}
    both = run(model, dataset, tail="both", scale_offset=place)
    lower = run(model, dataset, tail="lower", basis={"relu": lambda maps: -maps}, scale_offset=place)
    assert_same(lower["relu | <lambda> | lower"], both["relu"])
    assert both["relu | lower"].scale_offset == (1.25, 1.25, 3.0, 3.0)
    assert both.settings["scale_offset"] == {"relu": [1.25, 1.25, 3.0, 3.0]}


# bases


@CONVENTIONS
@pytest.mark.parametrize("tail", ["upper", "lower"])
def test_the_identity_changes_nothing(model, dataset, convention, tail):
    plain = run(model, dataset, convention=convention, tail=tail)
    bases = [Rotation(0), {"relu": torch.eye(6)}, {"relu": torch.eye(6, dtype=torch.float64)}, {"relu": nn.Identity()}]
    result = run(model, dataset, convention=convention, tail=tail, basis=["units", *bases])
    assert len(result.layers) == 5
    for layer in result.layers.values():
        assert_same(layer, *plain.layers.values())


def test_a_permutation_permutes_the_units(model, dataset):
    order = [3, 0, 5, 1, 4, 2]
    result = run(model, dataset, basis={"relu": torch.eye(6)[order]})
    assert list(result) == ["relu | directions"]
    assert_same(result["relu | directions"], run(model, dataset)["relu"], order)


def test_directions_are_a_convolution_behind_the_layer(dataset):
    """Of multiples of 1/64, so that the order of sums does not matter. More directions than units, and fewer."""
    for n in (2, 9):
        d = torch.randint(-64, 65, (n, 6), generator=torch.Generator().manual_seed(n)) / 64
        conv = nn.Conv2d(6, n, 1, bias=False)
        conv.weight = nn.Parameter(d[:, :, None, None])
        expected = run(followed_by(conv), dataset, ["tail"])["tail"]
        for matrix in (d, nn.Parameter(d), d.half()):
            result = run(tiny_model(), dataset, basis={"relu": matrix}, tail="both")
            assert_same(result["relu | directions"], expected)


def test_directions_of_a_layer_of_units(model, dataset):
    result = run(model, dataset, ["flat"], basis=["units", {"flat": torch.eye(6)[[2, 2]]}])
    assert_same(result["flat | directions"], result["flat"], [2, 2])


def test_a_rotation_is_its_matrix(model, dataset):
    rotation = Rotation(0.7, seed=3)
    result = run(model, dataset, basis=[rotation, {"relu": rotation.matrix(6)}])
    assert_same(result["relu | rotation 0.7 seed 3"], result["relu | directions"])
    assert not torch.equal(result["relu | directions"].iou, run(model, dataset)["relu"].iou)


class Encoder(nn.Module):
    """Of a sparse autoencoder; its dropout must not act."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(2)
        self.linear, self.dropout = nn.Linear(6, 11), nn.Dropout(0.9)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randint(-64, 65, (11, 6), generator=random) / 64)
            self.linear.bias.copy_(torch.randint(-64, 65, (11,), generator=random) / 64)

    def forward(self, vectors):
        return self.dropout(self.linear(vectors).relu())

    def encode(self, vectors):
        return self(vectors)


def test_an_encoder_is_a_module_behind_the_layer(dataset):
    behind = followed_by(Lambda(lambda maps: encoder(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
    encoder = Encoder().eval()
    expected = run(behind, dataset, ["tail"])["tail"]
    encoder = Encoder().train()
    encoder.linear.eval()
    result = run(tiny_model(), dataset, basis=[{"relu": per_position(encoder)}, {"relu": per_position(encoder.encode)}])
    assert list(result) == ["relu | Encoder", "relu | encode"]
    for layer in result.layers.values():
        assert_same(layer, expected)
    assert [encoder.training, encoder.linear.training, encoder.dropout.training] == [True, False, True]


def test_an_encoder_may_write_to_its_maps(model, dataset):
    zeroing = {"conv": nn.Threshold(1e9, 0.0, inplace=True)}
    result = run(model, dataset, ["conv", "relu"], basis=[zeroing, "units"])
    plain = run(model, dataset, ["conv", "relu"])
    assert not result["conv | Threshold"].iou.any()
    assert_same(result["conv"], plain["conv"])
    assert_same(result["relu"], plain["relu"])


def test_each_basis_is_computed_once_a_pass_and_batch(model, dataset):
    calls = []
    basis = {"relu": Lambda(lambda maps: calls.append(0) or maps)}
    run(model, dataset, basis=["units", basis], tail="both", quantile=(0.1, 0.2), batch_size=4, passes=2)
    assert len(calls) == 2 * 2


def test_a_mapping_may_leave_layers_out(model, dataset):
    result = run(model, dataset, ["conv", "relu"], basis=["units", {"relu": torch.eye(6)}])
    assert list(result) == ["conv", "relu", "relu | directions"]


# tokens


class Tokens(nn.Module):
    """Patches of the image as tokens [B, T, 12] behind `n_prefix` others, through a linear block."""

    def __init__(self, n_prefix, patch=(4, 4), wrap=lambda tokens: tokens):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, patch, stride=patch)
        with torch.no_grad():
            random = torch.Generator().manual_seed(0)
            self.patches.weight.copy_(torch.randint(-64, 65, self.patches.weight.shape, generator=random) / 64)
            self.patches.bias.zero_()
        self.n_prefix, self.block, self.maps = n_prefix, Lambda(wrap), nn.Identity()

    def forward(self, x):
        grid = self.patches(x)
        tokens = torch.cat([torch.full((len(x), self.n_prefix, 12), 99.0), grid.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.block(tokens)
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        by_hand = torch.zeros_like(grid)
        height, width = grid.shape[2:]
        for row in range(height):
            for column in range(width):
                by_hand[:, :, row, column] = tokens[:, self.n_prefix + row * width + column]
        return self.maps(by_hand)


@pytest.mark.parametrize(
    ("n_prefix", "patch", "grid"),
    [
        (0, (4, 4), None),
        (1, (4, 4), None),
        (0, (16, 16), None),  # one token
        (1, (16, 16), None),
        (5, (4, 4), (5, 4, 4)),
        (0, (2, 8), (0, 8, 2)),
        (1, (8, 2), (1, 2, 8)),
    ],
)
def test_tokens_are_maps(dataset, n_prefix, patch, grid):
    questions = {"token_grid": grid and {"block": grid}, "basis": ["units", "rotation"]}
    result = run(Tokens(n_prefix, patch), dataset, ["block", "maps"], **questions)
    assert_same(result["block"], result["maps"])
    assert_same(result["block | rotation 1"], result["maps | rotation 1"])
    assert result.settings["token_grid"] == ({"block": list(grid)} if grid else {})


@pytest.mark.parametrize("wrap", [lambda tokens: (tokens,), lambda tokens: (tokens, None)])
def test_tokens_in_a_tuple_of_nothing_else(dataset, wrap):
    assert_same(*run(Tokens(1, wrap=wrap), dataset, ["block", "maps"]).layers.values())


@pytest.mark.parametrize(
    ("n_prefix", "layer", "grid", "message"),
    [
        (
            2,
            "block",
            None,
            r"layer 'block' gives \[\d, 18, 12\], 18 tokens, which make no square grid, .*'block': \(n_",
        ),
        (1, "block", {"block": (0, 4, 4)}, r"layer 'block' gives 17 tokens; token_grid says 0 \+ 4 x 4"),
        (1, "block", {"blok": (0, 4, 4)}, "token_grid names 'blok'; layers has block"),
        (1, "block", {"block": (1, 4)}, r"token_grid is \(1, 4\) for 'block'; it must be \(n_prefix_tokens, h, w\)"),
        (1, "block", {"block": (-1, 6, 3)}, r"token_grid is \(-1, 6, 3\) for 'block'; it must be"),
        (1, "block", {"block": (1, 4, 4.0)}, r"token_grid is \(1, 4, 4\.0\) for 'block'; it must be"),
        (1, "maps", {"maps": (1, 4, 4)}, r"layer 'maps' gives \[\d, 12, 4, 4\] and not tokens .*; token_grid names it"),
    ],
)
def test_wrong_token_grids(dataset, n_prefix, layer, grid, message):
    with pytest.raises(ValueError, match=message):
        run(Tokens(n_prefix), dataset, [layer], token_grid=grid)


def test_tokens_before_images():
    """[T, B, 3] with 16 images, which might be a grid of 4 x 4."""
    model = nn.Sequential(Lambda(lambda x: x.flatten(2).permute(2, 0, 1)))
    with pytest.raises(ValueError, match="layer '0' gives maps of 256 images for a batch of 1"):
        run(model, TinyDataset(16), ["0"])


# runs on disk

SEVERAL = {"tail": "both", "quantile": (0.1, 0.05), "layers": ["inner.relu", "inner.flat"]}


def several():
    return SEVERAL | {"basis": ["units", Rotation(0.3), {"inner.relu": torch.eye(6)[:4]}]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run_in_folder(out, dataset=SlowDataset(N_IMAGES), **several())
    return contents(out)


@pytest.mark.parametrize("batches", [2, 8])
def test_an_interrupted_run_goes_on(tmp_path, whole, batches):
    run_until(tmp_path / "run", batches, dataset=SlowDataset(N_IMAGES), **several())
    model = Stopping()
    run_in_folder(tmp_path / "run", model, dataset=SlowDataset(N_IMAGES), **several())
    assert model.calls == 12 - batches
    assert contents(tmp_path / "run") == whole


def test_two_ranks_give_the_files_of_one(tmp_path, whole):
    assert finish(start(tmp_path / "run", 2, **several())) == [0, 0]
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"basis": ["units", Rotation(0.3), {"inner.relu": 2 * torch.eye(6)[:4]}]}, "basis"),
        ({"basis": ["units", Rotation(0.3, seed=1), {"inner.relu": torch.eye(6)[:4]}]}, "basis"),
        ({"basis": "units"}, "basis"),
        ({"tail": "lower"}, "tail"),
        ({"quantile": (0.05, 0.1)}, "quantile"),
    ],
)
def test_other_questions_are_another_run(tmp_path, changes, field):
    run_in_folder(tmp_path / "run", **several())
    with pytest.raises(FileExistsError, match=rf"holds another run, with a different {field} \("):
        run_in_folder(tmp_path / "run", **several() | changes)
    same = run_in_folder(tmp_path / "run", Stopping(0), **several())  # nothing is computed
    assert len(same.layers) == 4 * 5


def test_results_with_odd_keys_are_saved_and_loaded(tmp_path, model, dataset):
    result = run(model, dataset, ["relu"], out=tmp_path / "run", tail="both", basis=["units", Rotation(0.5, 7)])
    loaded = Dissection.load(tmp_path / "run")
    assert list(loaded) == list(result)
    for key in result:
        assert_same(loaded[key], result[key])
        for name in ("name", "layer", "basis", "tail", "quantile"):
            assert getattr(loaded[key], name) == getattr(result[key], name)
    tables = {unquote(path.stem): path for path in (tmp_path / "run" / "tables").iterdir()}
    assert set(tables) == set(result)
    assert all(re.fullmatch(r"[\w %.-]+", path.name) for path in tables.values())
    assert all(len(list(csv.DictReader(path.open()))) == 6 for path in tables.values())
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert all(f'data-name="{key}"' in page for key in result)
    assert list(dict.fromkeys(result.to_pandas()["layer"])) == list(result)
    assert "relu | rotation 0.5 seed 7 | lower: " in result.summary()


def test_results_from_before_there_were_bases(tmp_path, model, dataset):
    run(model, dataset).save(tmp_path / "run")
    manifest = tmp_path / "run" / "dissection.json"
    text = re.sub(
        r',\s*"layer": "relu",\s*"model": "",\s*"basis": "units",\s*"tail": "upper",\s*"quantile": 0.1',
        "",
        manifest.read_text(),
    )
    assert text != manifest.read_text()
    manifest.write_text(text)
    layer = Dissection.load(tmp_path / "run")["relu"]
    assert (layer.layer, layer.basis, layer.tail, layer.quantile) == ("relu", "units", "upper", None)


# errors


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tail": "middle"}, ValueError, "tail is 'middle'; it must be one of upper, lower, both"),
        ({"basis": "pca"}, ValueError, "basis is 'pca'; it must be 'units', 'rotation', a Rotation, or a mapping"),
        ({"basis": torch.eye(6)}, TypeError, "basis is a Tensor; it must be 'units', 'rotation', a Rotation, or"),
        ({"basis": ["units", None]}, TypeError, "basis is a NoneType; it must be"),
        ({"basis": []}, ValueError, r"basis names none for the layer\(s\) relu"),
        ({"basis": {"rely": torch.eye(6)}}, ValueError, "basis names 'rely'; layers has relu"),
        ({"layers": ["relu", "pool"], "basis": {"relu": torch.eye(6)}}, ValueError, r"none for the layer\(s\) pool"),
        ({"basis": ["units", "units"]}, ValueError, "two entries of the result would be called 'relu'; ask"),
        ({"basis": ["rotation", Rotation()]}, ValueError, r"would be called 'relu \| rotation 1'"),
        ({"basis": {"relu": torch.eye(6).long()}}, ValueError, r"has torch.int64 \[6, 6\] for 'relu'; it must be"),
        ({"basis": {"relu": torch.ones(6)}}, ValueError, r"has torch.float32 \[6\] for 'relu'; it must be a"),
        ({"basis": {"relu": torch.full((1, 6), torch.nan)}}, ValueError, "for 'relu' with values that are not finite"),
        ({"basis": {"relu": [1.0]}}, TypeError, "basis has a list for 'relu'; it must be a float matrix"),
        (
            {"basis": {"relu": torch.eye(5)}},
            ValueError,
            "layer 'relu', basis 'directions': its directions have 5 units; the layer has 6",
        ),
        (
            {"basis": {"relu": nn.Flatten()}},
            ValueError,
            r"layer 'relu', basis 'Flatten': it gives \[\d, 384\] for maps \[\d, 6, 8, 8\]; it must give maps",
        ),
        ({"basis": {"relu": str}}, ValueError, "basis 'str': it gives a str for maps"),
        ({"quantile": []}, ValueError, r"quantile is \[\]; it must name at least one number, and none twice"),
        ({"quantile": (0.1, 0.1)}, ValueError, r"quantile is \(0\.1, 0\.1\); it must name at least one number"),
        ({"quantile": (0.1, 1.0)}, ValueError, r"quantile is 1\.0; it must be in \[0, 1\)"),
        ({"scale_offset": {"relu | lower": (1, 1, 0, 0)}}, ValueError, r"names 'relu \| lower'; layers has relu"),
    ],
)  # fmt: skip
def test_wrong_questions(model, dataset, changes, error, message):
    with pytest.raises(error, match=message) as caught:
        run(model, dataset, **changes)
    assert "\n" not in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_nan_names_the_entry(model, dataset):
    dataset.images[5, 1, 8, 8] = float("nan")
    with pytest.raises(ValueError, match=r"layer 'conv \| rotation 1', images from 0 on: acts\[5, 0\] has a NaN"):
        run(model, dataset, ["conv"], basis="rotation")


# a rotation of a network that computes the same


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = write_demo_dataset(tmp_path_factory.mktemp("demo") / "data", n_images=56)
    return open_dataset(root, DEMO_SIZE, mean=DEMO_MEAN, std=DEMO_STD)


def rotated_network(layer: str, q: torch.Tensor) -> nn.Module:
    """The demo network with Q a as the output of a layer, by a 1x1 convolution, and Q^-1 in the layer that follows."""
    model = load_demo_model()
    turn = nn.Conv2d(*q.shape, 1, bias=False)
    follower = {"layer4": model.layer5[0], "layer5": model.layer6[0], "layer6": model.scene}[layer]
    with torch.no_grad():
        turn.weight.copy_(q[:, :, None, None])
        follower.weight.copy_(torch.einsum("oi...,ji->oj...", follower.weight.double(), q))
    setattr(model, layer, nn.Sequential(*getattr(model, layer), turn))
    return model.eval()


@pytest.mark.parametrize("layer", ["layer4", "layer5", "layer6"])
def test_a_rotated_network_computes_the_same(pictures, layer):
    """What a network detects in other axes, it can classify with as well (Bau et al., CVPR 2017, section 3.2)."""
    plain = load_demo_model()
    rotation = Rotation(1.0, seed=1)
    rotated = rotated_network(layer, rotation.matrix(plain.get_submodule(layer)[0].out_channels))
    images = torch.stack([sample[0] for sample in pictures])
    with torch.no_grad():
        expected, logits = plain(images), rotated(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits.argmax(1), expected.argmax(1))

    axes = dissect(rotated, pictures, [layer], progress=False)[layer]
    basis = dissect(plain, pictures, [layer], basis=rotation, progress=False)[f"{layer} | rotation 1 seed 1"]
    torch.testing.assert_close(axes.thresholds, basis.thresholds, rtol=1e-5, atol=1e-5)
    assert (axes.iou - basis.iou).abs().max() < 1e-3
    assert len(axes.detectors()) == len(basis.detectors())
