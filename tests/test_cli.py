"""The command line as a user meets it: one clear line and a non-zero exit for bad input, and nothing half-written."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import netinterp_fast
from netinterp_fast import Dissection
from netinterp_fast.cli import main
from netinterp_fast.data import load_model

RESULTS = {"dissection.json", "dissection.safetensors", "tables", "unique_detectors.csv", "report"}
MODEL = """
from pathlib import Path

import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU())

class Broken(nn.Module):
    def forward(self, x):
        return x / 0 * 0

class Interrupted(nn.Module):
    def forward(self, x):
        with open("batches", "a") as file:
            file.write(".")
        if Path("batches").read_text() == "...":
            raise KeyboardInterrupt
        return x

def interrupted():
    return nn.Sequential(Interrupted(), *build())

def broken():
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), Broken())
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a model file and six labelled pictures, as the current directory."""
    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for i in range(6):
        picture = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "data" / "images" / f"{i}.jpg")
        Image.fromarray(random.integers(0, 3, (32, 32), dtype=np.uint8)).save(tmp_path / "data" / "labels" / f"{i}.png")
    (tmp_path / "data" / "classes.csv").write_text("id,name,category\n0,void,void\n1,grass,object\n2,sky,object\n")
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dissect(*arguments: str, function: str = "build", layers: str = "1,3") -> int:
    model = ["--model", f"model.py:{function}", "--layers", layers, "--data", "data", "--size", "32"]
    return main(["dissect", *model, "--quiet", "--out", "out", *arguments])


def fails(capsys, *arguments: str, **options: str) -> str:
    """Run a dissection that must fail, and return the one line that it says."""
    before = sorted(Path().rglob("*"))
    assert dissect(*arguments, **options) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert sorted(path for path in Path().rglob("*") if "__pycache__" not in path.parts) == before
    return said[0]


def test_a_dissection_writes_results_tables_and_report(workplace, capsys):
    assert dissect("--colours", "--quantile", "0.1") == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report: {workplace / 'out' / 'report' / 'index.html'}"
    assert {p.name for p in Path("out").iterdir()} == RESULTS
    settings = json.loads(Path("out/dissection.json").read_text())["settings"]
    assert (settings["quantile"], settings["dataset"], settings["layers"]) == (0.1, "data", ["1", "3"])
    rows = list(csv.DictReader(Path("out/tables/3.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert {"unit", "label", "score", "object-iou", "colour-truth"} <= set(rows[0])


def test_several_bases_tails_and_quantiles(workplace, capsys):
    assert (
        dissect("--quantile", ".1,.05", "--tail", "both", "--basis", "units, rotation:0.9,rotation", "--seed", "4") == 0
    )
    assert "1 | rotation 0.9 seed 4 | lower | q 0.05: " in capsys.readouterr().out
    settings = json.loads(Path("out/dissection.json").read_text())["settings"]
    assert settings["basis"] == ["units", "Rotation(angle=0.9, seed=4)", "Rotation(angle=1.0, seed=4)"]
    assert (settings["tail"], settings["quantile"]) == ("both", [0.1, 0.05])
    assert len(list(Path("out/tables").iterdir())) == 2 * 3 * 2 * 2


def test_several_files_of_weights(workplace, capsys):
    """Of one name in two folders; each model is as in a run of its own."""
    files = [Path("a.pt"), Path("b/a.safetensors"), Path("last.pt")]
    Path("b").mkdir()
    for i, path in enumerate(files):
        state = {key: value + i / 8 for key, value in load_model("model.py:build").state_dict().items()}
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    weights = [text for path in files for text in ("--weights", str(path))]
    assert dissect(*weights, "--quantile", "0.1") == 0
    assert "a 2/1: " in capsys.readouterr().out
    together = Dissection.load("out")
    assert list(together) == ["a/1", "a/3", "a 2/1", "a 2/3", "last/1", "last/3"]
    for name, path in zip(["a", "a 2", "last"], files, strict=True):
        assert dissect("--weights", str(path), "--quantile", "0.1", "--out", f"out-{name}") == 0
        alone = Dissection.load(f"out-{name}")
        assert list(alone) == ["1", "3"]
        assert all(torch.equal(alone[layer].iou, together[f"{name}/{layer}"].iou) for layer in alone)
    rows = list(csv.DictReader(Path("out/unique_detectors.csv").read_text().splitlines()))
    assert [(row["model"], row["layer"], row["units"]) for row in rows][1:3] == [("a", "3", "4"), ("a 2", "1", "8")]


def test_one_of_several_files_that_does_not_fit(workplace, capsys):
    state = load_model("model.py:build").state_dict()
    torch.save(state, "good.pt")
    torch.save({"0.weight": state["0.weight"]}, "half.pt")
    said = fails(capsys, "--weights", "good.pt", "--weights", "half.pt")
    assert "half.pt does not fit the model: missing 0.bias" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--basis", "pca"], "basis is 'pca'; it must be 'units', 'rotation'"),
        (["--basis", "rotation:2"], "--basis has 'rotation:2': angle is 2.0; it must be in [0, 1]"),
        (["--basis", "rotation:far"], "--basis has 'rotation:far': could not convert"),
        (["--basis", "units,units"], "two entries of the result would be called '1'"),
        (["--quantile", "0.1,2"], "quantile is 2.0; it must be in [0, 1)"),
    ],
)
def test_bad_questions_are_explained(workplace, capsys, arguments, message):
    assert message in fails(capsys, *arguments)


def test_a_quantile_that_is_no_number(workplace, capsys):
    with pytest.raises(SystemExit):
        dissect("--quantile", "0.1,many")
    assert "argument --quantile: '0.1,many' is not a number, nor several with commas" in capsys.readouterr().err


def test_the_same_run_again_returns_what_is_there(workplace, capsys):
    assert dissect() == 0
    written = Path("out/dissection.json").stat().st_mtime_ns
    first = capsys.readouterr().out
    assert dissect() == 0
    assert capsys.readouterr().out == first
    assert Path("out/dissection.json").stat().st_mtime_ns == written


def test_an_interrupted_run_goes_on(workplace, capsys):
    """Ctrl-C in the third of six batches; started again, the last four are done."""
    options = ["--batch-size", "2", "--checkpoint-every", "0", "--passes", "2"]
    assert dissect(*options, function="interrupted") == 130
    assert capsys.readouterr().err == "netinterp-fast: interrupted\n"
    assert {path.name for path in Path("out").iterdir()} == {"dissection.unfinished"}
    assert "out holds an unfinished run, with a different batch_size (2 there, 32 here)" in fails(
        capsys, "--checkpoint-every", "0", "--passes", "2", function="interrupted"
    )
    assert dissect(*options, function="interrupted") == 0
    assert Path("batches").read_text() == "." * (3 + 4)
    assert {p.name for p in Path("out").iterdir()} == RESULTS


def test_shards_are_merged_without_model_and_data(workplace, capsys):
    """As array jobs would run them; in a new process."""
    options = ["--batch-size", "1", "--tail", "both", "--null-samples", "2"]
    assert dissect(*options) == 0
    summary = capsys.readouterr().out
    for i in (0, 1):
        assert dissect(*options, "--out", f"shard-{i}", "--shard", f"{i}/2") == 0
        assert capsys.readouterr().out == f"shard {i} of 2 is complete: {workplace / f'shard-{i}'}\n"
    Path("model.py").unlink()
    shutil.rmtree("data")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "netinterp_fast.cli", "merge", "shard-1", "shard-0", "--out", "merged"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == summary.replace(str(workplace / "out"), str(workplace / "merged"))
    assert "tallies" in run.stderr
    manifests = [json.loads(Path(folder, "dissection.json").read_text()) for folder in ("out", "merged")]
    for manifest in manifests:
        del manifest["settings"]["time"]
    assert manifests[0] == manifests[1]
    assert Path("out/dissection.safetensors").read_bytes() == Path("merged/dissection.safetensors").read_bytes()
    assert main(["merge", "shard-0", "--out", "other", "--quiet"]) == 1
    assert capsys.readouterr().err == "netinterp-fast: error: of 2 shards 1 are missing: 1\n"


@pytest.mark.parametrize("shard", ["1", "1/", "a/2", "-1/2", "1/2/3", "/2"])
def test_a_shard_that_is_none(workplace, capsys, shard):
    with pytest.raises(SystemExit):
        dissect(f"--shard={shard}")
    assert f"argument --shard: {shard!r} is not I/N, such as 0/10" in capsys.readouterr().err


def test_shards_are_counted_from_zero(workplace, capsys):
    assert "shard is (2, 2); it must be (i, n), i counted from 0 to n - 1" in fails(capsys, "--shard", "2/2")


def test_shards_have_folders_of_their_own(workplace, capsys):
    options = ["--model", "model.py:build", "--layers", "1", "--data", "data", "--size", "32", "--quiet"]
    assert main(["dissect", *options, "--shard", "1/4"]) == 0
    assert (workplace / "dissection-model.py-build-shard-1-of-4" / "dissection.unfinished" / "shard.json").is_file()


def test_a_folder_with_another_run_is_refused(workplace, capsys):
    assert dissect() == 0
    capsys.readouterr()
    assert "out holds another run, with a different quantile (0.005 there, 0.2 here)" in fails(
        capsys, "--quantile", "0.2"
    )


def test_a_folder_with_anything_else_is_refused(workplace, capsys):
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("years of work")
    assert "out is not empty and holds no dissection" in fails(capsys)


def test_an_unknown_layer_lists_near_matches(workplace, capsys):
    assert "no layer '11'; near matches: 1" in fails(capsys, layers="11")


def test_nan_names_layer_unit_and_image(workplace, capsys):
    said = fails(capsys, function="broken", layers="1")
    assert "layer '1'" in said
    assert "acts[0, 0] has a NaN" in said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Path("data/labels/3.png").unlink(), "3.png"),
        (lambda: Path("data/classes.csv").write_text("id,name\n1,grass\n"), "category"),
        (lambda: Image.new("L", (9, 9)).save("data/labels/3.png"), "9x9"),
        (lambda: Image.new("L", (32, 32), 77).save("data/labels/3.png"), "77"),
        (lambda: Path("data/images/3.jpg").write_bytes(Path("data/images/3.jpg").read_bytes()[:300]), "3.jpg"),
    ],
    ids=["missing mask", "missing column", "mask of another size", "unknown id", "truncated picture"],
)
def test_damaged_data_is_named(workplace, capsys, spoil, message):
    spoil()
    assert message in fails(capsys).replace(" x ", "x")


def test_an_index_that_leaves_the_root_is_refused(workplace, capsys):
    data = Path("data")
    (data / "classes.csv").unlink()
    (data / "category.csv").write_text("name,first,last,count,frequency\nobject,1,1,1,1\n")
    (data / "label.csv").write_text("number,name,category,frequency,coverage,syns\n1,grass,object(1),1,1,\n")
    (data / "index.csv").write_text("image,split,ih,iw,sh,sw,object\n../../model.py,train,32,32,32,32,1\n")
    assert "../../model.py" in fails(capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "demo2"], "demo2"),
        (["--model", "missing.py:build", "--data", "data"], "missing.py"),
        (["--model", "model.py:build", "--data", "data"], "--layers is needed"),
        (["--model", "model.py:build", "--layers", "1"], "--data is needed"),
        (["--model", "model.py:build", "--layers", "1", "--data", "nowhere"], "nowhere"),
        (["--model", "model.py:build", "--weights", "no.safetensors", "--data", "data"], "no.safetensors"),
    ],
)
def test_bad_arguments_are_explained(workplace, capsys, arguments, message):
    assert main(["dissect", "--quiet", *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_doctor_tells_what_is_used(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    ops = ", ".join(netinterp_fast.build_info()["ops"])
    assert f"ops: {ops}" in printed
    assert "CUDA kernels:" in printed


def test_the_demo_runs_from_nothing(tmp_path):
    """As a new user: a fresh cache, no arguments; early layers find colours, late ones objects and scenes."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "netinterp_fast.cli", "dissect"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    report = Path(run.stdout.strip().splitlines()[-1].removeprefix("report: "))
    assert report == tmp_path / "dissection-demo" / "report" / "index.html"
    assert report.is_file()
    lines = {line.split(":")[0]: line for line in run.stdout.splitlines() if line.startswith("layer")}
    assert "(3 colour" in lines["layer1"]
    assert "object" in lines["layer6"]
    assert "scene" in lines["layer6"]
    assert "img/s" in run.stderr  # the progress bars


def test_bench_is_the_benchmarks_of_the_checkout(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--help"]) == 0
    assert capfd.readouterr().out.startswith("usage: python -m benches")
    assert main(["bench", "dissection", "--quick"]) == 2
    assert "'dissection' is none of the families dissect, " in capfd.readouterr().err


def test_bench_without_the_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("netinterp_fast.cli.__file__", str(tmp_path / "netinterp_fast" / "cli.py"))
    assert main(["bench", "--quick"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "the benchmarks come with the source checkout" in said[0]
