"""A single pass over the data gives the files of two, however it is interrupted, shared or short of memory."""

import random
import shutil
import time
import warnings
from collections import namedtuple
from itertools import product

import pytest
import torch
from interrupted import (
    N_BATCHES,
    N_IMAGES,
    SlowDataset,
    Stopping,
    checkpoints,
    contents,
    finish,
    flip,
    kill,
    kill_at_two_moments,
    run,
    run_until,
    start,
    truncate,
    wait_for_checkpoint,
)
from tiny import TinyDataset, tiny_model
from torch import nn

from netinterp_fast import dissect
from netinterp_fast.data import open_dataset
from netinterp_fast.data.protocol import Concept, Sample
from netinterp_fast.demo import DEMO_LAYERS, DEMO_MEAN, DEMO_SIZE, DEMO_STD, load_demo_model, write_demo_dataset
from netinterp_fast.dissection import run as run_module
from netinterp_fast.dissection.kept import KeptCells
from netinterp_fast.dissection.run_folder import UNFINISHED
from netinterp_fast.ops import pack_cells, unpack_cells
from netinterp_fast.ops._grid import half_pixel

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = {"passes": 1}
TENSORS = (
    "thresholds", "intersection", "unit_area", "concept_area", "top_images", "top_activations", "top_maps",
)  # fmt: skip


def single(out, model=None, **changes):
    return run(out, model, **ONE | changes)


def cells_of(out, rank=0):
    return out / UNFINISHED / f"rank-{rank}.cells"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of two passes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return contents(out)


def test_the_model_runs_once(tmp_path, whole):
    model = Stopping()
    single(tmp_path / "run", model)
    assert model.calls == N_BATCHES
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("convention", ["netdissect", "netdissect_lite", "dissect", "compexp", "concept"])
@pytest.mark.parametrize("budget", [1, "1GiB"])
@pytest.mark.parametrize("changes", [{}, {"inclusive": True}, {"mask_size": 6}, {"quantile": 0.4}, {"quantile": 0.0}])
def test_under_every_convention(tmp_path, convention, budget, changes):
    changes |= {"convention": convention, "layers": ["inner.conv", "inner.relu", "inner.flat"]}
    run(tmp_path / "two", checkpoint_every=60, **changes)
    single(tmp_path / "one", memory_budget=budget, checkpoint_every=60, **changes)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_places_of_the_maps(tmp_path):
    changes = {"scale_offset": {"inner.relu": (1.5, 1.25, -3.0, 2.0)}}
    run(tmp_path / "two", **changes)
    single(tmp_path / "one", **changes)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


class Noise(torch.utils.data.Dataset):
    """Images of noise; labels of squares and whole images, of many concepts."""

    def __init__(self, seed, n, side, grid):
        random = torch.Generator().manual_seed(seed)
        self.concepts = [Concept(i, f"c{i}", f"category {i % 3}") for i in range(1, 300, 7)]
        ids = torch.tensor([0, *(c.id for c in self.concepts)])
        self.images = torch.randn(n, 3, side, side, generator=random)
        coarse = ids[torch.randint(0, len(ids), (n, 2, 3, 3), generator=random)]
        place = torch.arange(grid) * 3 // grid
        self.labels = coarse[:, :, place][:, :, :, place]
        self.image_labels = ids[torch.randint(0, len(ids), (n, 2), generator=random)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Sample(self.images[index], self.labels[index], self.image_labels[index])


@pytest.mark.parametrize("seed", range(6))
def test_random_data(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 9, 3, 2),
        nn.ReLU(),
        nn.Conv2d(9, 21, 3, padding=1),
        nn.BatchNorm2d(21),
        nn.ReLU6(),
        nn.MaxPool2d(2),
    )
    data = Noise(
        seed, n=[1, 2, 17, 33, 40, 64][seed], side=[16, 40, 21, 70, 32, 18][seed], grid=[9, 5, 30, 12, 64, 7][seed]
    )
    settings = {"quantile": [0.3, 0.05, 0.005, 0.01, 0.1, 0.02][seed], "batch_size": 5, "progress": False}
    layers = ["1", "2", "4", "5"]
    two = dissect(model, data, layers, passes=2, **settings)
    for budget in (1, 50_000, "1GiB"):
        one = dissect(model, data, layers, memory_budget=budget, **ONE, **settings)
        for layer, name in product(layers, TENSORS):
            assert torch.equal(getattr(one[layer], name), getattr(two[layer], name)), (layer, name)
        assert one.thumbnails == two.thumbnails


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.narrow = tiny_model(), nn.Identity()

        def forward(self, x):
            return self.narrow(self.inner.relu(self.inner.conv(x)).to(dtype))

    settings = {"quantile": 0.1, "batch_size": 4, "progress": False}
    one, two = (dissect(Narrow(), TinyDataset(9), ["narrow"], passes=n, **settings)["narrow"] for n in (1, 2))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in TENSORS)


@pytest.mark.parametrize("batches", range(1, N_BATCHES))
@pytest.mark.parametrize("budget", [1, "1GiB"])
def test_a_stopped_run_goes_on_after_its_last_batch(tmp_path, whole, batches, budget):
    run_until(tmp_path / "run", batches, memory_budget=budget, **ONE)
    model = Stopping()
    single(tmp_path / "run", model, memory_budget=budget)
    assert model.calls == N_BATCHES - batches
    assert contents(tmp_path / "run") == whole


def test_stopped_again_and_again(tmp_path, whole):
    for _ in range(N_BATCHES - 1):
        run_until(tmp_path / "run", 1, **ONE)
    single(tmp_path / "run", Stopping(1))
    assert contents(tmp_path / "run") == whole


def test_stopped_while_tallying(tmp_path, whole, monkeypatch):
    """Once the pass is over the model need not run again."""

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(KeptCells, "replay", stop)
    with pytest.raises(KeyboardInterrupt):
        single(tmp_path / "run")
    monkeypatch.undo()
    model = Stopping()
    single(tmp_path / "run", model)
    assert model.calls == 0
    assert contents(tmp_path / "run") == whole


def test_an_unfinished_single_pass_is_no_two_passes(tmp_path):
    run_until(tmp_path / "run", 3, **ONE)
    with pytest.raises(FileExistsError, match=r"with a different passes \(1 there, 2 here\)"):
        run(tmp_path / "run", passes=2)


@pytest.mark.parametrize(("begun", "other"), [(1, 2), (2, 1)])
def test_auto_goes_on_as_it_began(tmp_path, whole, monkeypatch, begun, other):
    planned = namedtuple("Planned", "passes why")
    module = vars(run_module)
    monkeypatch.setitem(module, "planned_passes", lambda *_: planned(begun, ""))
    run_until(tmp_path / "run", 3, passes="auto")
    monkeypatch.setitem(module, "planned_passes", lambda *_: planned(other, ""))
    model = Stopping()
    run(tmp_path / "run", model, passes="auto")
    assert model.calls == begun * N_BATCHES - 3
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.extended) for seed in range(3, 20))]
)
def test_a_killed_process(tmp_path, seed):
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES))
    budget = [1, "1GiB"][seed % 2]
    kill_at_two_moments(tmp_path / "run", seed, last_pass=1, memory_budget=budget, **ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was damaged
        single(tmp_path / "run", dataset=SlowDataset(N_IMAGES))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", [truncate, flip])
def test_damaged_cells(tmp_path, whole, damage):
    """The last batch's record: the checkpoint before the last does not need it."""
    run_until(tmp_path / "run", 4, **ONE)
    damage(cells_of(tmp_path / "run"))
    model = Stopping()
    with pytest.warns(RuntimeWarning, match=r"is damaged \(.*rank-0.cells, .*\); going on from the checkpoint before"):
        single(tmp_path / "run", model)
    assert model.calls == N_BATCHES - 3
    assert contents(tmp_path / "run") == whole


def test_lost_cells(tmp_path, whole):
    run_until(tmp_path / "run", 4, **ONE)
    cells_of(tmp_path / "run").unlink()
    model = Stopping()
    with pytest.warns(RuntimeWarning) as told:
        single(tmp_path / "run", model)
    assert str(told[1].message).endswith("; starting again")
    assert model.calls == N_BATCHES
    assert contents(tmp_path / "run") == whole


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks(tmp_path, ranks):
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES))
    assert finish(start(tmp_path / "run", ranks, **ONE)) == [0] * ranks
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("passes", [1, "auto"])
def test_ranks_that_show_their_progress(tmp_path, passes):
    """The first alone tells how much it will keep; the others wait for what it decides."""
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES))
    assert finish(start(tmp_path / "run", 2, progress=True, passes=passes)) == [0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_rank_without_a_batch(tmp_path):
    changes = {"batch_size": N_IMAGES - 1}
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES), **changes)
    assert finish(start(tmp_path / "run", 3, passes="auto", **changes)) == [0, 0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.extended) for s in range(2, 12))])
def test_a_killed_rank(tmp_path, seed):
    moment = random.Random(seed)
    victim, batches = moment.randint(0, 1), moment.randint(1, N_BATCHES // 2)
    run(tmp_path / "whole", dataset=SlowDataset(N_IMAGES))
    processes = start(tmp_path / "run", 2, **ONE)
    assert wait_for_checkpoint(tmp_path / "run", processes[victim], 1, batches, victim)
    time.sleep(moment.uniform(0, 0.02))
    kill([processes[victim]])
    kill(processes)
    assert finish(start(tmp_path / "run", 2, **ONE)) == [0, 0]
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_activations_that_are_not_finite(value):
    dataset = TinyDataset()
    dataset.images[5, 1, 8, 9] = float(value)
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match=r"layer '0', images from 3 on: acts\[2, 1"):
        dissect(model, dataset, ["0"], batch_size=3, progress=False, **ONE)


def test_an_unknown_label_is_told_in_the_first_batch_that_has_it():
    dataset = TinyDataset(20)
    dataset.labels[7, 0, 0, 0] = 4
    model = Stopping()
    with pytest.raises(ValueError, match=r"image 7 \(picture-7.png\) has the label 4, which is not the id of a"):
        single(None, model, dataset=dataset)
    assert model.calls == 1


@pytest.mark.parametrize("passes", [0, 3, True, "one", None])
def test_wrong_passes(passes):
    with pytest.raises(ValueError, match=r"passes is .*; it must be 1, 2 or 'auto'"):
        run(None, passes=passes)


@pytest.mark.parametrize("budget", [0, "some", -1])
def test_a_wrong_budget(budget):
    with pytest.raises(ValueError, match="memory_budget is"):
        single(None, memory_budget=budget)


def test_auto_takes_two_where_there_is_no_room(tmp_path, monkeypatch, capsys):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0))
    model = Stopping()
    run(tmp_path / "run", model, passes="auto", memory_budget=100, progress=True)
    told = capsys.readouterr().err
    assert "two passes: a single one would keep about" in told
    assert "and there is room for 100 B" in told
    assert model.calls == 2 * N_BATCHES + 1  # one image, to see how large the maps are
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9))
    run(tmp_path / "again", passes="auto", memory_budget=100, progress=True)
    assert f"100 B in memory and the rest in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("small_disk", ["8k"], indirect=True)
def test_a_full_disk(small_disk, tmp_path, whole):
    """It ends a run that has no other room, saying where; a run with memory goes on without checkpoints."""
    out = small_disk / "run"
    with pytest.raises(OSError, match=rf"can not be written to {cells_of(out)}: No space left.*passes=2"):
        single(out, memory_budget=1, checkpoint_every=60)
    kept = checkpoints(out)
    with (
        pytest.warns(RuntimeWarning, match=r"no checkpoint could be written .*; the run goes on"),
        pytest.raises(OSError, match="No space left"),  # nor is there room for the results
    ):
        single(out)
    assert len(checkpoints(out)) >= len(kept)
    roomy = tmp_path / "roomy"
    shutil.copytree(out, roomy)
    single(roomy)
    assert contents(roomy) == whole


def some_cells(n_images, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n_images, 4, 6, 9, generator=random)


@pytest.mark.parametrize("budget", [1, 10**9])
@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.uint8, 255), (torch.uint16, 60_000), (torch.int32, 70_000), (torch.int64, 2**40)]
)
def test_what_was_kept_comes_back(tmp_path, budget, dtype, largest):
    """Above the levels of the end, at least; labels to the last bit."""
    kept = KeptCells(tmp_path / "new" / "cells", budget, inclusive=False)
    low, high = torch.full((4,), -0.5), torch.full((4,), 1.5)
    batches = []
    for seed in range(3):
        acts = some_cells(5, seed)
        labels = torch.randint(0, largest, (5, 2, 7, 8)).to(dtype)
        labels[0, 0, 0, 0] = largest
        image_labels = torch.randint(0, 9, (5, seed))
        batches.append((acts, labels, image_labels))
        kept.add(
            5 * seed, labels, image_labels, {"a/b": (pack_cells(acts, low), half_pixel((6, 9), (7, 8)))}, {"a/b": high}
        )
    assert (kept.spilled > 0) == (budget == 1)
    for (acts, labels, image_labels), back in zip(batches, kept.replay(), strict=True):
        assert torch.equal(back.labels.long(), labels.long())
        assert torch.equal(back.image_labels, image_labels)
        packed, placement = back.cells["a/b"]
        assert placement == half_pixel((6, 9), (7, 8))
        expected = unpack_cells(pack_cells(acts, high if budget == 1 else low))
        assert torch.equal(unpack_cells(packed), expected)
    kept.close()


def test_images_without_labels(tmp_path):
    kept = KeptCells(None, 1, inclusive=True)
    kept.add(7, torch.zeros(2, 0, 3, 3, dtype=torch.uint8), torch.zeros(2, 0, dtype=torch.int64), {}, {})
    (back,) = kept.replay()
    assert back.labels.shape == (2, 0, 3, 3)
    assert back.first == 7
    kept.close()


@pytest.mark.extended
def test_the_demo(tmp_path):
    """Six layers of a trained network, 504 pictures with exact labels."""
    write_demo_dataset(tmp_path / "demo")
    data = open_dataset(tmp_path / "demo", DEMO_SIZE, mean=DEMO_MEAN, std=DEMO_STD)
    one, two = (dissect(load_demo_model(), data, list(DEMO_LAYERS), passes=n, progress=False) for n in (1, 2))
    for layer, name in product(DEMO_LAYERS, TENSORS):
        assert torch.equal(getattr(one[layer], name), getattr(two[layer], name)), (layer, name)
    assert one.thumbnails == two.thumbnails
