"""What comes out: scores, tables, summaries, saved folders."""

import csv
import json

import pytest
import torch
from tiny import TinyDataset, tiny_model

from netinterp_fast import Dissection, dissect
from netinterp_fast.data.protocol import Concept
from netinterp_fast.dissection import LayerDissection, UnitLabel
from netinterp_fast.dissection.results import _MAPS

CAT, DOG, RED = Concept(1, "cat", "object"), Concept(4, "dog", "object"), Concept(2, "red", "color")


def layer(**changes) -> LayerDissection:
    """Three units over cat, red and dog (id 3 is none): unit 0 detects red, unit 1 cat, unit 2 nothing."""
    return LayerDissection(
        **{
            "name": "block.0",
            "concepts": [CAT, DOG, RED],
            "iou_threshold": 0.04,
            "thresholds": torch.tensor([1.0, 0.5, 2.0]),
            "intersection": torch.tensor([[0, 10, 30, 0, 0], [0, 5, 0, 0, 10], [0, 0, 0, 0, 0]]),
            "unit_area": torch.tensor([[0, 40, 40, 0, 40], [0, 5, 0, 0, 20], [0, 0, 0, 0, 0]]),
            "concept_area": torch.tensor([0, 100, 50, 0, 200]),
            "top_images": torch.tensor([[1, 0], [0, 1], [0, -1]]),
            "top_activations": torch.tensor([[3.0, 2.0], [1.0, 0.75], [1.0, -float("inf")]]),
            "top_maps": torch.tensor([[0.0, 3.0, 0.0, 0.0]] * 6).view(3, 2, 2, 2),
            "label_size": (10, 10),
        }
        | changes
    )


def dissection(**changes) -> Dissection:
    return Dissection(
        {"block.0": layer(**changes)}, {"model": "M"}, {0: b"\xff\xd8a", 1: b"\xff\xd8b"}, {0: "a", 1: "b"}
    )


def assert_same(result, other):
    assert list(result) == list(other)
    for name in result:
        for field, value in vars(other[name]).items():
            mine = getattr(result[name], field)
            assert torch.equal(mine, value) if isinstance(value, torch.Tensor) else mine == value, field
    assert json.loads(json.dumps(result.settings)) == json.loads(json.dumps(other.settings))
    assert (result.thumbnails, result.image_names) == (other.thumbnails, other.image_names)


def test_iou():
    iou = layer().iou
    assert iou.dtype == torch.float64
    assert iou.tolist() == [[0, 10 / 130, 30 / 60, 0, 0], [0, 5 / 100, 0, 0, 10 / 210], [0, 0, 0, 0, 0]]


def test_labels():
    assert layer().labels() == [
        UnitLabel(0, RED, 0.5, True),
        UnitLabel(1, CAT, 0.05, True),
        UnitLabel(2, None, 0.0, False),
    ]
    assert layer().labels("object") == [
        UnitLabel(0, CAT, 10 / 130, True),
        UnitLabel(1, CAT, 0.05, True),
        UnitLabel(2, None, 0.0, False),
    ]
    assert [u.detector for u in layer().labels(iou_threshold=0.05)] == [True, False, False]  # above, not at
    with pytest.raises(ValueError, match="category is 'scene'; the concepts have object, color"):
        layer().labels("scene")


@pytest.mark.parametrize("concepts", [[CAT, DOG, RED], [DOG, RED, CAT]])
def test_ties_go_to_the_smaller_id(concepts):
    tied = torch.tensor([[0, 10, 0, 0, 10]] * 3)
    labels = layer(
        concepts=concepts, intersection=tied, unit_area=tied * 2, concept_area=torch.tensor([0, 30, 9, 0, 30])
    ).labels()
    assert [u.concept for u in labels] == [CAT] * 3


def test_detectors():
    assert [u.unit for u in layer().detectors()] == [0, 1]
    assert [u.unit for u in layer().detectors(iou_threshold=0.05)] == [0]
    assert layer().unique_detectors() == {"object": [CAT], "color": [RED]}
    assert layer().unique_detectors(0.1) == {"object": [], "color": [RED]}


def test_rows_and_csv(tmp_path):
    result = dissection()
    (path,) = result.to_csv(tmp_path / "new" / "tables")
    assert path == tmp_path / "new" / "tables" / "block.0.csv"
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = ["label", "truth", "activation", "intersect", "iou"]
    assert header == [
        "unit",
        "category",
        "label",
        "score",
        *[f"{c}-{n}" for c in ("object", "color") for n in columns],
    ]
    assert rows == [
        ["1", "color", "red", "0.5", "cat", "100", "40", "10", str(10 / 130), "red", "50", "40", "30", "0.5"],
        ["2", "object", "cat", "0.05", "cat", "100", "5", "5", "0.05", "", "0", "0", "0", "0.0"],
        ["3", "", "", "0.0", "", "0", "0", "0", "0.0", "", "0", "0", "0", "0.0"],
    ]
    with pytest.raises(FileExistsError, match=r"block\.0\.csv exists; choose another folder"):
        result.to_csv(tmp_path / "new" / "tables")


def test_csv_of_a_layer_name_with_a_slash_stays_in_the_folder(tmp_path):
    result = Dissection({"../evil/x": layer(name="../evil/x")}, {})
    (path,) = result.to_csv(tmp_path / "tables")
    assert path.parent == tmp_path / "tables"
    assert list(tmp_path.iterdir()) == [tmp_path / "tables"]


def test_to_pandas():
    pandas = pytest.importorskip("pandas")
    frame = dissection().to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == [{"layer": "block.0"} | row for row in layer().rows()]


def test_summary():
    assert dissection().summary().splitlines() == [
        "block.0: 2 of 3 units detect 2 concepts (1 object, 1 color)",
        "    best: red 0.50 (unit 0), cat 0.05 (unit 1)",
    ]
    assert dissection().summary(best=1).splitlines()[1] == "    best: red 0.50 (unit 0)"
    assert dissection(iou_threshold=0.9).summary() == "block.0: 0 of 3 units detect 0 concepts"


def test_summary_names_the_best_unit_of_each_concept():
    counts = torch.tensor([[0, 0, 20, 0, 0], [0, 0, 30, 0, 0], [0, 10, 0, 0, 0]])
    lines = dissection(intersection=counts, unit_area=counts).summary().splitlines()
    assert lines == [
        "block.0: 3 of 3 units detect 2 concepts (1 object, 1 color)",
        "    best: red 0.60 (unit 1), cat 0.10 (unit 2)",
    ]


def test_unknown_layer():
    with pytest.raises(KeyError, match=r"no layer 'block' in this dissection; it has block\.0"):
        dissection()["block"]


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("upsampling", ["bilinear", "pil", "zero_padded"])
def test_lit_regions_are_where_the_surface_passes_the_threshold(upsampling, inclusive):
    from slow_dissection import SURFACES

    maps = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    found = layer(top_maps=maps, upsampling=upsampling, inclusive=inclusive)
    for side in (3, 13):
        if upsampling == "pil" or side == 13:
            lit = found.lit_regions(slice(1, 3), side)
            assert lit.dtype == torch.bool
            assert list(lit.shape) == [2, 2, side, side]
            for unit in (1, 2):
                for image in range(2):
                    surface = SURFACES[upsampling](maps[unit, image].numpy(), (side, side))
                    assert lit[unit - 1, image].tolist() == (surface > float(found.thresholds[unit])).tolist()


def test_lit_regions_at_the_threshold():
    flat = torch.full((3, 2, 4, 4), 0.5)
    assert layer(top_maps=flat).lit_regions(slice(1, 2), 7).sum() == 0
    assert layer(top_maps=flat, inclusive=True).lit_regions(slice(1, 2), 7).all()


def test_lit_regions_with_a_scale_offset():
    """On a grid twice as fine as the labels, the centre of label pixel p lies at 2 p + 1/2."""
    maps = torch.zeros(3, 2, 2, 2)
    maps[0, 0, 0, 0] = 8.0  # falls to 1 at 7/8 of the way to its neighbours
    found = layer(top_maps=maps, scale_offset=(4.0, 4.0, 2.0, 2.0))
    lit = found.lit_regions(slice(0, 1), 20)[0, 0]
    fine = torch.arange(20.0)
    falling = (1 - ((fine - 4.5) / 8).clamp(0, 1)) * 8
    expected = falling[:, None] * falling / 8 > 1
    assert torch.equal(lit, expected)
    at_label_size = layer(top_maps=maps, scale_offset=(4.0, 4.0, 2.0, 2.0)).lit_regions(slice(0, 1), 10)[0, 0]
    labels = torch.arange(10.0)
    falling = (1 - ((labels - 2) / 4).clamp(0, 1)) * 8
    assert torch.equal(at_label_size, falling[:, None] * falling / 8 > 1)


def test_save_and_load(tmp_path):
    result = dissection(scale_offset=(1.0, 2.0, 0.5, -3.0), inclusive=True)
    folder = result.save(tmp_path / "a" / "b")
    assert sorted(p.name for p in folder.iterdir()) == ["dissection.json", "dissection.safetensors"]
    loaded = Dissection.load(folder)
    assert_same(loaded, result)
    assert loaded["block.0"].rows() == result["block.0"].rows()
    assert loaded["block.0"].iou.equal(result["block.0"].iou)


def test_save_with_tables_and_report(tmp_path):
    folder = dissection().save(tmp_path / "run", tables=True, report=True)
    assert (folder / "tables" / "block.0.csv").is_file()
    assert (folder / "report" / "index.html").is_file()
    assert_same(Dissection.load(folder), dissection())


def test_save_refuses_occupied_folders(tmp_path):
    result = dissection()
    folder = result.save(tmp_path / "run")
    with pytest.raises(FileExistsError, match="is not empty"):
        result.save(folder)
    other = dissection(iou_threshold=0.5)
    other.save(folder, overwrite=True)
    assert_same(Dissection.load(folder), other)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty and holds no saved dissection"):
        result.save(foreign, overwrite=True)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["foreign", "run"]


def damage_json(folder, **changes):
    manifest = json.loads((folder / "dissection.json").read_text())
    (folder / "dissection.json").write_text(json.dumps(manifest | changes))


def replace_tensors(folder, **changes):
    from safetensors.torch import load_file, save_file

    save_file(load_file(folder / "dissection.safetensors") | changes, folder / "dissection.safetensors")


DAMAGE = {
    "json cut": lambda f: (f / "dissection.json").write_text((f / "dissection.json").read_text()[:50]),
    "json a list": lambda f: (f / "dissection.json").write_text("[1, 2]"),
    "json a string": lambda f: (f / "dissection.json").write_text('"hello"'),
    "json not text": lambda f: (f / "dissection.json").write_bytes(b"\xff\xfe\x00"),
    "other format": lambda f: damage_json(f, format=99),
    "no layers": lambda f: damage_json(f, layers=[{"name": "x", "evil": 1}]),
    "layers a number": lambda f: damage_json(f, layers=3),
    "concepts short": lambda f: damage_json(f, concepts=[[1, "a"]]),
    "no settings": lambda f: (f / "dissection.json").write_text(
        json.dumps({k: v for k, v in json.loads((f / "dissection.json").read_text()).items() if k != "settings"})
    ),
    "image names not numbers": lambda f: damage_json(f, image_names={"x": "y"}),
    "tensors missing": lambda f: (f / "dissection.safetensors").unlink(),
    "tensors cut": lambda f: (f / "dissection.safetensors").write_bytes(
        (f / "dissection.safetensors").read_bytes()[:-20]
    ),
    "tensors empty": lambda f: (f / "dissection.safetensors").write_bytes(b""),
    "one tensor short": lambda f: replace_tensors(f, **{"0.unit_area": torch.zeros(2, 5, dtype=torch.int64)}),
    "one tensor of floats": lambda f: replace_tensors(f, **{"0.intersection": torch.zeros(3, 5)}),
    "concepts beyond the tables": lambda f: damage_json(f, concepts=[[1000, "far", "x"]]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_load_of_damaged_files(tmp_path, name):
    folder = dissection().save(tmp_path / "run")
    DAMAGE[name](folder)
    with pytest.raises(ValueError, match="run holds a damaged or foreign dissection: ") as caught:
        Dissection.load(folder)
    assert "\n" not in str(caught.value)


def test_load_of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no saved dissection \(dissection.json is missing\)"):
        Dissection.load(tmp_path)


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = tiny_model(), 0

    def forward(self, x):
        self.calls += 1
        return self.inner(x)


def run(model, out, dataset=None, **changes):
    settings = {"quantile": 0.1, "progress": False, "batch_size": 4} | changes
    return dissect(model, dataset or TinyDataset(), settings.pop("layers", ["inner.relu"]), out=out, **settings)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_out_is_written_once_and_read_afterwards(tmp_path):
    model, out = Counting(), tmp_path / "deep" / "run"
    result = run(model, out)
    calls = model.calls
    assert calls >= 2  # batches
    assert {path.parts[0] for path in contents(out)} == {
        "dissection.json",
        "dissection.safetensors",
        "tables",
        "unique_detectors.csv",
        "report",
    }
    assert list(out.parent.iterdir()) == [out]
    before = contents(out)
    again = run(model, out)
    assert model.calls == calls
    assert_same(again, result)
    assert contents(out) == before
    assert_same(Dissection.load(out), result)
    run(model, out, batch_size=2, progress=False, num_workers=1)  # how images are loaded is no setting of the run
    assert model.calls == calls


def heavier():
    model = Counting()
    with torch.no_grad():
        model.inner.head.bias += 1
    return model


def relabelled():
    dataset = TinyDataset()
    dataset.labels[6, 0, 0, 0] = 2 if dataset.labels[6, 0, 0, 0] != 2 else 3
    return dataset


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("quantile", {"quantile": 0.2}),
        ("layers", {"layers": ["inner.conv"]}),
        ("convention", {"convention": "concept"}),
        ("iou_threshold", {"iou_threshold": 0.1}),
        ("top_images", {"top_images": 2}),
        ("inclusive", {"inclusive": True}),
        ("mask_size", {"mask_size": 7}),
        ("upsampling", {"upsampling": "pil"}),
        ("threshold_from", {"threshold_from": "upsampled"}),
        ("unit_area_over", {"unit_area_over": "all"}),
        ("scale_offset", {"scale_offset": {"inner.relu": (1.0, 1.0, 0.0, 0.0)}}),
        ("images", {"dataset": TinyDataset(6)}),
        ("fingerprint", {"dataset": relabelled()}),
        ("fingerprint", {"model": heavier()}),
    ],
)
def test_out_of_another_run_is_refused(tmp_path, field, changes):
    run(Counting(), tmp_path / "run")
    before = contents(tmp_path)
    changes = {"model": Counting()} | changes
    with pytest.raises(FileExistsError, match=rf"holds another run, with a different .*\b{field} \("):
        run(out=tmp_path / "run", **changes)
    assert changes["model"].calls == 0
    assert contents(tmp_path) == before


def test_out_without_resume(tmp_path):
    run(Counting(), tmp_path / "run", resume=False)
    with pytest.raises(FileExistsError, match="holds the results of this run already, and resume is False"):
        run(Counting(), tmp_path / "run", resume=False)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_out_that_holds_something_else_is_left_untouched(tmp_path, kind):
    out = tmp_path / "mine"
    if kind == "folder":
        out.mkdir()
    (out / "thesis.txt" if kind == "folder" else out).write_text("years of work")
    before, model = contents(tmp_path), Counting()
    with pytest.raises(FileExistsError, match="mine is not empty and holds no dissection; choose another folder"):
        run(model, out)
    assert model.calls == 0
    assert contents(tmp_path) == before


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "run").mkdir()
    assert_same(run(Counting(), tmp_path / "run"), Dissection.load(tmp_path / "run"))


def test_a_damaged_out_is_refused(tmp_path):
    run(Counting(), tmp_path / "run")
    (tmp_path / "run" / "dissection.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="run holds a damaged or foreign dissection"):
        run(Counting(), tmp_path / "run")


def test_a_failing_run_leaves_nothing_behind(tmp_path, monkeypatch):
    broken = TinyDataset()
    broken.images[5] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        run(Counting(), tmp_path / "run", broken)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Dissection, "report", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run(Counting(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_settings_say_what_was_run(tmp_path):
    settings = run(Counting(), tmp_path / "run", convention="dissect", quantile=None).settings
    assert settings | {
        "model": "Counting", "dataset": "TinyDataset", "images": 7, "layers": ["inner.relu"],
        "convention": "dissect",
        "quantile": 0.01, "threshold_from": "upsampled", "upsampling": "zero_padded", "inclusive": False,
        "unit_area_over": "all", "mask_size": 56, "scale_offset": {}, "iou_threshold": 0.04, "top_images": 9,
    } == settings  # fmt: skip
    assert settings["time"]["seconds"] >= 0


def test_saved_fields_are_those_of_the_class():
    assert {name for name, value in vars(layer()).items() if isinstance(value, torch.Tensor)} == set(_MAPS)
