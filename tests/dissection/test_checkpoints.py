"""A run that ends on the way goes on from its last checkpoint, to the same bytes."""

import errno
import warnings

import pytest
import torch
from interrupted import (
    N_BATCHES,
    N_IMAGES,
    SlowDataset,
    Stopped,
    Stopping,
    checkpoints,
    contents,
    flip,
    kill_at_two_moments,
    run,
    run_until,
    truncate,
)
from safetensors import SafetensorError
from tiny import TinyDataset

from netinterp_fast import Dissection, TopQuantile
from netinterp_fast.dissection import checkpoints as checkpoints_module
from netinterp_fast.dissection import run as run_module
from netinterp_fast.dissection import run_folder
from netinterp_fast.dissection.run_folder import UNFINISHED

BOTH = 2 * N_BATCHES
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a run that was not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return contents(out)


@pytest.mark.parametrize("batches", range(1, BOTH))
def test_a_stopped_run_goes_on_after_its_last_batch(tmp_path, whole, batches):
    run_until(tmp_path / "run", batches)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {UNFINISHED}
    model = Stopping()
    run(tmp_path / "run", model)
    assert model.calls == BOTH - batches
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("convention", ["netdissect_lite", "dissect", "compexp", "concept"])
@pytest.mark.parametrize("batches", [3, 9])
def test_under_every_convention(tmp_path, convention, batches):
    run(tmp_path / "whole", convention=convention)
    run_until(tmp_path / "run", batches, convention=convention)
    run(tmp_path / "run", convention=convention)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_stopped_again_and_again(tmp_path, whole):
    for _ in range(BOTH - 1):
        run_until(tmp_path / "run", 1)
    run(tmp_path / "run", Stopping(1))
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(3, 20))]
)
def test_a_killed_process(tmp_path, seed):
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES))
    kill_at_two_moments(tmp_path / "run", seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was damaged
        run(tmp_path / "run", dataset=SlowDataset(N_IMAGES))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def relabel(path):
    """Another run's identity, but not its checksum."""
    path.write_bytes(path.read_bytes().replace(b"TinyDataset", b"TonyDataset"))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, relabel, empty])
@pytest.mark.parametrize("batches", [5, N_BATCHES + 1, N_BATCHES + 4])  # the second: one checkpoint in either pass
def test_a_damaged_checkpoint(tmp_path, whole, damage, batches):
    run_until(tmp_path / "run", batches)
    damage(checkpoints(tmp_path / "run")[-1])
    model = Stopping()
    with pytest.warns(RuntimeWarning, match=r"checkpoint .* is damaged \(.*\); going on from the checkpoint before it"):
        run(tmp_path / "run", model)
    assert model.calls == BOTH - batches + 1
    assert contents(tmp_path / "run") == whole


def test_a_checkpoint_that_may_not_be_read_is_kept(tmp_path, monkeypatch):
    run_until(tmp_path / "run", 3)
    paths = checkpoints(tmp_path / "run")
    monkeypatch.setattr(checkpoints_module.os, "access", lambda path, mode: path != paths[-1])  # root may read all
    with pytest.raises(PermissionError, match="may not be read"):
        run(tmp_path / "run")
    assert checkpoints(tmp_path / "run") == paths


def test_the_damaged_one_is_not_the_next_fallback(tmp_path, whole):
    run_until(tmp_path / "run", 3)
    truncate(checkpoints(tmp_path / "run")[-1])
    with pytest.warns(RuntimeWarning, match="going on from the checkpoint before it"):
        run_until(tmp_path / "run", 1)
    truncate(checkpoints(tmp_path / "run")[-1])
    with pytest.warns(RuntimeWarning, match="going on from the checkpoint before it"):
        run(tmp_path / "run")
    assert contents(tmp_path / "run") == whole


def test_both_damaged(tmp_path, whole):
    run_until(tmp_path / "run", 9)
    older, newer = checkpoints(tmp_path / "run")
    truncate(older)
    truncate(newer)
    model = Stopping()
    with pytest.warns(RuntimeWarning) as told:
        run(tmp_path / "run", model)
    assert ["going on from the checkpoint before it" in str(w.message) for w in told] == [True, False]
    assert str(told[1].message).endswith("; starting again")
    assert model.calls == BOTH
    assert contents(tmp_path / "run") == whole


def heavier():
    model = Stopping()
    with torch.no_grad():
        model.inner.head.bias += 1
    return model


def renamed():
    dataset = TinyDataset(N_IMAGES)
    dataset.name = lambda index: f"photo-{index}"
    return dataset


def relabelled():
    dataset = TinyDataset(N_IMAGES)
    dataset.image_labels[N_IMAGES - 1] = 8
    return dataset


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        (r"fingerprint \(weights [^;]*\)", {"model": heavier()}),
        (r"fingerprint \(data [^;]*\)", {"dataset": relabelled()}),
        (r"fingerprint \(data [^;]*\)", {"dataset": renamed()}),
        (r"batches \(.*; fingerprint \(data .*; images \(22 there, 18 here\)", {"dataset": TinyDataset(18)}),
        (r"quantile \(0\.1 there, 0\.2 here\)", {"quantile": 0.2}),
        (r"iou_threshold \(0\.04 there, 0\.1 here\); top_images \(9 there, 2 here\)",
         {"top_images": 2, "iou_threshold": 0.1}),
        (r"layers \(.* here\)", {"layers": ["inner.relu"]}),
        (r"convention \(netdissect there, concept here\); unit_area_over \(.*\)", {"convention": "concept"}),
        (r"batch_size \(4 there, 2 here\); batches \(6 there, 11 here\)", {"batch_size": 2}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("resume", [True, False])
def test_checkpoints_of_another_run_are_refused(tmp_path, fields, changes, resume):
    run_until(tmp_path / "run", 9)
    before = {path: path.read_bytes() for path in checkpoints(tmp_path / "run")}
    changes = {"model": Stopping(0)} | changes
    with pytest.raises(FileExistsError, match=f"holds an unfinished run, with a different {fields}; go on with that"):
        run(tmp_path / "run", resume=resume, **changes)
    assert {path: path.read_bytes() for path in checkpoints(tmp_path / "run")} == before


def test_checkpoints_of_another_version_are_refused(tmp_path, monkeypatch):
    run_until(tmp_path / "run", 2)
    monkeypatch.setattr(run_module, "__version__", "9")
    with pytest.raises(
        FileExistsError, match=r"a different versions \(netinterp_fast \S+ there, netinterp_fast 9 here\)"
    ):
        run(tmp_path / "run")


def test_without_resume_an_unfinished_run_starts_again(tmp_path, whole):
    run_until(tmp_path / "run", 9)
    model = Stopping()
    run(tmp_path / "run", model, resume=False)
    assert model.calls == BOTH
    assert contents(tmp_path / "run") == whole


def test_checkpoints_beside_anything_else_are_refused(tmp_path):
    run_until(tmp_path / "run", 3)
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="run is not empty and holds no dissection"):
        run(tmp_path / "run")
    with pytest.raises(FileExistsError, match="run is not empty"):
        run(None).save(tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("every", [3600, float("inf")])
def test_no_checkpoint_before_its_time(tmp_path, every):
    run_until(tmp_path / "run", BOTH - 1, checkpoint_every=every)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "expected"), [(0, [2, 4]), (1, [2])])
def test_checkpoints_by_the_clock(tmp_path, monkeypatch, seconds, expected):
    """A batch takes a second. Where writing takes long, checkpoints are fewer."""
    model, writing, save_file = Stopping(N_BATCHES - 1), 0, checkpoints_module.save_file

    def slow(*arguments):
        nonlocal writing
        writing += seconds
        save_file(*arguments)

    monkeypatch.setattr(checkpoints_module, "save_file", slow)
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: model.calls + writing)
    with pytest.raises(Stopped):
        run(tmp_path / "run", model, checkpoint_every=2)
    assert [int(path.stem[-9:]) for path in checkpoints(tmp_path / "run")] == expected


@pytest.mark.parametrize("every", [-1, float("nan")])
def test_a_wrong_interval(tmp_path, every):
    with pytest.raises(ValueError, match=rf"checkpoint_every is {every}; it must be at least 0"):
        run(tmp_path / "run", checkpoint_every=every)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
@pytest.mark.parametrize("written", [0, 2, 8])
def test_a_full_disk_does_not_end_the_run(tmp_path, whole, monkeypatch, error, written):
    """After so many checkpoints none can be written completely."""
    n, save_file = 0, checkpoints_module.save_file

    def failing(tensors, path, metadata):
        nonlocal n
        n += 1
        save_file(tensors, path, metadata)
        if n > written:
            truncate(path)
            raise error

    monkeypatch.setattr(checkpoints_module, "save_file", failing)
    with pytest.warns(RuntimeWarning, match="No space left.*; the run goes on, and the last good checkpoint stays"):
        run_until(tmp_path / "run", 10)
    assert len(checkpoints(tmp_path / "run")) == min(written, 2)
    assert len(list((tmp_path / "run" / UNFINISHED).iterdir())) == min(written, 2)
    monkeypatch.setattr(checkpoints_module, "save_file", save_file)
    model = Stopping()
    run(tmp_path / "run", model)
    assert model.calls == BOTH - written
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("small_disk", ["48k"], indirect=True)  # room for checkpoints of the first pass only
def test_a_disk_that_is_full(small_disk):
    with pytest.warns(RuntimeWarning, match=r"no checkpoint could be written to .*; the run goes on"):
        run_until(small_disk / "run", BOTH - 1)
    assert checkpoints(small_disk / "run")
    with (
        pytest.warns(RuntimeWarning, match="no checkpoint could be written"),
        pytest.raises((OSError, SafetensorError)),
    ):
        run(small_disk / "run")  # nor is there room for the results
    assert {path.name for path in (small_disk / "run").iterdir()} == {UNFINISHED}
    assert checkpoints(small_disk / "run")


@pytest.mark.parametrize("reached", ["tables", "dissection.json"])
def test_stopped_while_the_results_are_written(tmp_path, whole, monkeypatch, reached):
    """Before the tables, or all but the manifest, are in their place."""
    replace = run_folder.Path.replace

    def failing(self, target):
        if self.name == reached:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(run_folder.Path, "replace", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="holds no saved dissection"):
        Dissection.load(tmp_path / "run")
    model = Stopping()
    run(tmp_path / "run", model)
    assert model.calls == 0
    assert contents(tmp_path / "run") == whole


def test_stopped_when_the_results_are_written(tmp_path, whole, monkeypatch):
    def failing(path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.shutil, "rmtree", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / UNFINISHED).is_dir()
    run(tmp_path / "run", Stopping(0))
    assert contents(tmp_path / "run") == whole


def test_which_zero_is_the_threshold_does_not_depend_on_the_order():
    zeros = torch.tensor([0.0, -0.0, -0.0, 0.0]).view(4, 1, 1, 1)
    for order in ([0, 1, 2, 3], [1, 2, 0, 3]):
        top = TopQuantile(1, 0.5, 4)
        top.update(zeros[order])
        assert not top.thresholds().signbit().any()
