"""Shards that ran apart are merged to the files of one process, without the model and the data."""

import json
import random
import shutil
import time
import warnings
from fractions import Fraction

import pytest
import torch
from interrupted import (
    BATCH_SIZE,
    N_BATCHES,
    N_IMAGES,
    Stopping,
    checkpoints,
    contents,
    finish,
    kill,
    run,
    run_until,
    start,
    wait_for_checkpoint,
)
from safetensors import safe_open
from tiny import TinyDataset

from netinterp_fast import Dissection, Rotation, merge_shards
from netinterp_fast.dissection import checkpoints as checkpoints_module
from netinterp_fast.dissection.run_folder import UNFINISHED
from netinterp_fast.dissection.shards import SHARD

pytestmark = pytest.mark.usefixtures("one_thread")
CHANCE = {"null_samples": 3, "bootstrap": 10, "seed": 2}
PROBES = {
    "basis": ["units", Rotation(0.5, seed=3), {"inner.relu": torch.eye(6)[:2], "inner.flat": torch.eye(6)[[1]]}],
    "tail": "both",
    "quantile": [0.1, 0.29],
}


def shard(out, i, n, model=None, **changes):
    return run(out, model, **{"shard": (i, n), "passes": 1} | changes)


def shards(parent, n, **changes):
    """The folders of all shards."""
    folders = [parent / f"shard-{i}" for i in range(n)]
    for i, folder in enumerate(folders):
        assert shard(folder, i, n, **changes) is None
    return folders


def merge(folders, out):
    return merge_shards(folders, out, progress=False)


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of one process."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return contents(out)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folders of three shards; not to be changed."""
    return shards(tmp_path_factory.mktemp("three"), 3, checkpoint_every=0)


@pytest.fixture
def copies(tmp_path, three):
    """The same, elsewhere, to be changed."""
    return [shutil.copytree(folder, tmp_path / "elsewhere" / folder.name) for folder in three]


# the files of one process


@pytest.mark.parametrize("n", [1, 2, 3, N_BATCHES + 1])
@pytest.mark.parametrize("changes", [{}, {"memory_budget": 1, "checkpoint_every": 60}], ids=["in memory", "on disk"])
def test_any_number_of_shards(tmp_path, whole, n, changes):
    """Of the most one has no batch."""
    result = merge(shards(tmp_path, n, **changes), tmp_path / "run")
    assert contents(tmp_path / "run") == whole
    loaded = Dissection.load(tmp_path / "run")
    assert result.settings == loaded.settings
    assert result.thumbnails == loaded.thumbnails
    assert result.image_names == loaded.image_names == {i: f"picture-{i}.png" for i in loaded.image_names}


@pytest.mark.parametrize("convention", ["netdissect_lite", "dissect", "compexp", "concept"])
def test_under_other_conventions(tmp_path, convention):
    changes = {"convention": convention, "mask_size": 6, "inclusive": True, "top_images": 2}
    run(tmp_path / "whole", **changes)
    merge(shards(tmp_path, 2, **changes), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite"])
def test_with_bases_tails_and_quantiles(tmp_path, convention):
    changes = {"convention": convention, **PROBES}
    if convention == "netdissect":
        changes["scale_offset"] = {"inner.relu": (1.5, 1.25, -3.0, 2.0)}
    whole = run(tmp_path / "whole", **changes)
    result = merge(shards(tmp_path, 3, **changes), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    for key, layer in whole.layers.items():
        for name in ("name", "layer", "basis", "tail", "quantile", "concepts", "label_size", "scale_offset"):
            assert getattr(result[key], name) == getattr(layer, name)


@pytest.mark.parametrize("n", [1, 3, N_BATCHES + 1])
def test_with_what_tells_chance(tmp_path, n):
    run(tmp_path / "whole", passes=1, tail="both", **CHANCE)
    merge(shards(tmp_path, n, tail="both", **CHANCE), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("changes", [{"top_images": 0}, {"quantile": 0.0}, {"batch_size": N_IMAGES + 1}])
def test_at_the_edges(tmp_path, changes):
    run(tmp_path / "whole", **changes)
    merge(shards(tmp_path, 2, **changes), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_shard_runs_its_batches_alone(tmp_path):
    for i, n, expected in [(0, 4, 2), (3, 4, 1), (6, 7, 0)]:
        model = Stopping()
        shard(tmp_path / f"{i}", i, n, model)
        assert model.calls == expected


def test_in_processes_of_their_own(tmp_path):
    """All at the same time."""
    folders = [tmp_path / f"shard-{i}" for i in range(3)]
    started = [start(folder, shard=(i, 3), passes="auto") for i, folder in enumerate(folders)]
    assert finish([*start(tmp_path / "whole"), *(process for processes in started for process in processes)]) == [0] * 4
    merge(folders, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("seed", range(3))
def test_in_any_order_and_from_elsewhere(tmp_path, copies, whole, seed):
    random.Random(seed).shuffle(copies)
    before = snapshot(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    merge(copies, str(tmp_path / "run"))
    assert contents(tmp_path / "run") == whole
    assert snapshot(tmp_path / "elsewhere") == before
    for path in (tmp_path / "elsewhere").rglob("*"):
        path.chmod(0o700)


# going on


@pytest.mark.parametrize("batches", [1, 2])
def test_a_stopped_shard_goes_on_after_its_last_batch(tmp_path, whole, batches):
    run_until(tmp_path / "again", batches, shard=(1, 2), passes=1)
    model = Stopping()
    shard(tmp_path / "again", 1, 2, model)
    assert model.calls == 3 - batches
    shard(tmp_path / "other", 0, 2)
    merge([tmp_path / "again", tmp_path / "other"], tmp_path / "run")
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(2, 12))])
def test_a_killed_shard(tmp_path, seed):
    moment = random.Random(seed)
    folders = [tmp_path / "shard-0", tmp_path / "shard-1"]
    for _ in range(2):
        processes = start(folders[1], shard=(1, 2), passes=1, memory_budget=moment.choice([1, "1GiB"]))
        if wait_for_checkpoint(folders[1], processes[0], 1, moment.randint(1, N_BATCHES // 2)):
            time.sleep(moment.uniform(0, 0.02))
        kill(processes)
    for i, folder in enumerate(folders):
        assert finish(start(folder, shard=(i, 2), passes=1)) == [0]
    assert finish(start(tmp_path / "whole")) == [0]
    merge(folders, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_finished_shard_is_left_as_it_is(copies):
    before = snapshot(copies[1])
    model = Stopping(0)
    assert shard(copies[1], 1, 3, model) is None
    assert shard(copies[1], 1, 3, model, passes="auto", memory_budget=1) is None
    assert snapshot(copies[1]) == before


def test_without_resume_a_shard_starts_again(tmp_path, copies, whole):
    model = Stopping()
    shard(copies[1], 1, 3, model, resume=False)
    assert model.calls == 2
    merge(copies, tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def lose(path):
    path.unlink()


def last_checkpoint(folder):
    return checkpoints(folder)[-1]


def cells(folder):
    return next((folder / UNFINISHED).glob("*.cells"))


def manifest(folder):
    return folder / UNFINISHED / SHARD


@pytest.mark.parametrize("damage", [cut, flip, lose])
@pytest.mark.parametrize("which", [last_checkpoint, cells, manifest])
def test_a_damaged_shard_is_told_and_repaired_by_its_run(tmp_path, copies, whole, which, damage):
    path = which(copies[1])
    damage(path)
    before = snapshot(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=str(copies[1])) as told:
        merge(copies, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert snapshot(tmp_path / "elsewhere") == before
    words = {last_checkpoint: "1 of 2 batches", cells: "has 0 bytes", manifest: "is missing"}[which]
    words = words if damage is lose else "it must have" if (which, damage) == (cells, cut) else "damaged"
    assert words in str(told.value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a damaged checkpoint
        shard(copies[1], 1, 3)
    merge(copies, tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def test_the_last_checkpoint_must_be_written(tmp_path, monkeypatch):
    def failing(tensors, path, metadata):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints_module, "save_file", failing)
    with pytest.raises(OSError, match=rf"the last checkpoint can not be written to {tmp_path}.*: No space left"):
        shard(tmp_path / "shard", 0, 2, checkpoint_every=60)


# what is refused


def test_other_runs_in_a_shards_folder(tmp_path, copies):
    """Once it has checkpoints, and before the first."""
    empty = tmp_path / "empty"
    run_until(empty, 0, shard=(1, 3), passes=1)
    assert not checkpoints(empty)
    for folder in (copies[1], empty):
        with pytest.raises(FileExistsError, match=r"holds an unfinished run, with a different shard \(1 there, 2 here"):
            shard(folder, 2, 3)
        with pytest.raises(FileExistsError, match=r"with a different shards \(3 there, 4 here\); go on with that one"):
            shard(folder, 1, 4)
        with pytest.raises(FileExistsError, match=r"with a different quantile \(0\.1 there, 0\.2 here\)"):
            shard(folder, 1, 3, quantile=0.2)
    with pytest.raises(FileExistsError, match=r"different shard \(1 there, None here\); shards \(3 there, None here\)"):
        run(copies[1], passes=1)


def test_a_shard_in_the_folder_of_another_run(tmp_path):
    run(tmp_path / "whole")
    run_until(tmp_path / "begun", 3, passes=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = snapshot(tmp_path)
    for name in ("whole", "mine"):
        with pytest.raises(FileExistsError, match=f"{name} is not empty and holds no unfinished run; choose another"):
            shard(tmp_path / name, 0, 2)
    with pytest.raises(FileExistsError, match=r"with a different shard \(None there, 0 here\); shards \(None there"):
        shard(tmp_path / "begun", 0, 2)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"shard": (3, 3)}, ValueError, r"shard is \(3, 3\); it must be \(i, n\), i counted from 0 to n - 1"),
        ({"shard": (-1, 3)}, ValueError, r"shard is \(-1, 3\)"),
        ({"shard": (0, 0)}, ValueError, r"shard is \(0, 0\)"),
        ({"shard": (1,)}, TypeError, r"shard is \(1,\); it must be two ints, \(i, n\)"),
        ({"shard": (1.0, 2)}, TypeError, r"shard is \(1.0, 2\)"),
        ({"shard": (False, True)}, TypeError, r"shard is \(False, True\)"),
        ({"shard": "01"}, TypeError, "shard is '01'"),
        ({"shard": 1}, TypeError, "shard is 1"),
        ({"passes": 2}, ValueError, "a shard is part of a single pass; passes is 2"),
        ({"out": None}, ValueError, "a shard needs out, a folder of its own, .*; out is None"),
    ],
)
def test_wrong_shards(tmp_path, changes, error, words):
    changes = {"out": tmp_path / "shard", "shard": (0, 2), "passes": 1} | changes
    with pytest.raises(error, match=words):
        run(**changes)
    assert not list(tmp_path.iterdir())


def test_a_shard_is_not_shared(tmp_path, monkeypatch):
    assert finish(start(tmp_path / "run", 2, shard=(0, 2), passes=1)) == [1, 1]
    told = (tmp_path / "rank-0.error").read_text()
    assert told == "a shard is the work of one process; here 2 share it, in a process group"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="merging shards is the work of one process; here 2 share it"):
        merge([], tmp_path / "run")


def test_folders_without_a_shard(tmp_path, copies):
    run(tmp_path / "whole")
    for folder in (tmp_path / "nowhere", tmp_path, tmp_path / "whole", copies[1] / UNFINISHED):
        with pytest.raises(ValueError, match=f"{folder} holds no shard of a dissection \\({UNFINISHED}/{SHARD} is mis"):
            merge([copies[0], folder, copies[2]], tmp_path / "run")
    with pytest.raises(ValueError, match="folders is empty"):
        merge([], tmp_path / "run")
    with pytest.raises(TypeError, match=r"folders is '.*'; it must be a list"):
        merge(str(copies[0]), tmp_path / "run")


def test_unfinished_shards(tmp_path, copies):
    """All of them are told."""
    shutil.rmtree(copies[0])
    shutil.rmtree(copies[2])
    run_until(copies[0], 1, shard=(0, 3), passes=1)
    run_until(copies[2], 0, shard=(2, 3), passes=1)
    with pytest.raises(ValueError, match="unfinished") as told:
        merge(copies, tmp_path / "run")
    assert str(told.value).split("; ") == [
        f"{copies[0]}: shard 0 of 3 is unfinished: 1 of 2 batches",
        f"{copies[2]}: shard 2 of 3 is unfinished: 0 of 2 batches",
    ]


def test_an_empty_shard_that_has_not_run(tmp_path):
    folders = shards(tmp_path, N_BATCHES + 1)
    last_checkpoint(folders[-1]).unlink()
    with pytest.raises(ValueError, match=f"shard {N_BATCHES} of {N_BATCHES + 1} is unfinished: 0 of 0 batches"):
        merge(folders, tmp_path / "run")


def test_missing_shards_and_twins(tmp_path, copies):
    with pytest.raises(ValueError, match="of 3 shards 2 are missing: 0, 2"):
        merge(copies[1:2], tmp_path / "run")
    twin = shutil.copytree(copies[1], tmp_path / "twin")
    for other in (twin, copies[1]):
        with pytest.raises(ValueError, match=f"{copies[1]} and {other} both hold shard 1 of 3; name each shard once"):
            merge([*copies, other], tmp_path / "run")


def heavier():
    model = Stopping()
    with torch.no_grad():
        model.inner.head.bias += 1
    return model


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantile": 0.2}, r"quantile \(0\.2 in {there}, 0\.1 in {first}\)"),
        ({"batch_size": BATCH_SIZE - 1}, r"batch_size \(3 in {there}, 4 in {first}\); batches \(8 in"),
        ({"model": heavier()}, r"fingerprint \(weights "),
        ({"dataset": TinyDataset(N_IMAGES, grid=(9, 9))}, r"fingerprint \(data "),
        ({"shard": (1, 2)}, r"shards \(2 in {there}, 3 in {first}\)"),
        ({"tail": "both"}, r"tail \(both in "),
        ({"bootstrap": 3}, r"bootstrap \(3 in {there}, None in {first}\)"),
    ],
)
def test_shards_of_different_runs(tmp_path, copies, changes, words):
    shutil.rmtree(copies[1])
    run(copies[1], **{"shard": (1, 3), "passes": 1} | changes)
    words = words.format(there=copies[1], first=copies[0])
    with pytest.raises(ValueError, match=f"{copies[1]} and {copies[0]} hold shards of different runs: .*{words}"):
        merge(copies, tmp_path / "run")


def test_a_checkpoint_of_another_run(tmp_path, copies):
    """Under this one's manifest."""
    right = manifest(copies[1]).read_bytes()
    shutil.rmtree(copies[1])
    shard(copies[1], 1, 3, quantile=0.2)
    manifest(copies[1]).write_bytes(right)
    with pytest.raises(ValueError, match=rf"checkpoint {copies[1]}.* is of another run, .*quantile \(0.2 there, 0.1 h"):
        merge(copies, tmp_path / "run")


def test_a_manifest_of_another_format(tmp_path, copies, monkeypatch):
    monkeypatch.setattr("netinterp_fast.dissection.shards._FORMAT", 2)
    with pytest.raises(ValueError, match=r"shard\.json is damaged: its format is 1, this version reads 2"):
        merge(copies, tmp_path / "run")


def test_a_result_that_is_there_already(tmp_path, copies):
    first = merge(copies, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    assert merge(copies, tmp_path / "run").settings == first.settings
    assert snapshot(tmp_path / "run") == before
    other = shards(tmp_path / "other", 2, quantile=0.2)
    with pytest.raises(FileExistsError, match=r"holds another run, with a different quantile \(0.1 there, 0.2 here\)"):
        merge(other, tmp_path / "run")


def test_an_occupied_folder(tmp_path, copies):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = snapshot(tmp_path)
    with pytest.raises(FileExistsError, match="mine is not empty and holds no dissection; choose another folder"):
        merge(copies, tmp_path / "mine")
    for folder in copies:
        with pytest.raises(FileExistsError, match=f"{folder} holds an unfinished run; choose another folder"):
            merge(copies, folder)
    assert snapshot(tmp_path) == before


def test_stopped_while_merging(tmp_path, copies, whole, monkeypatch):
    """Nothing is left behind."""

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("netinterp_fast.dissection.kept.KeptFiles.replay", stop)
    with pytest.raises(KeyboardInterrupt):
        merge(copies, tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere"}
    monkeypatch.undo()
    merge(copies, tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def test_the_manifest(copies):
    found = json.loads(manifest(copies[1]).read_text())
    assert (found["shard"], found["shards"], found["batches"]) == (1, 3, 2)
    assert list(map(int, found["image_names"])) == [4, 5, 6, 7, 16, 17, 18, 19]
    assert Fraction(found["probes"]["inner.relu"]["exact_quantile"]) == Fraction(1, 10)
    with safe_open(last_checkpoint(copies[1]), "pt") as file:
        assert json.loads(file.metadata()["identity"]) == found["identity"]
    assert "time" not in found["settings"]
