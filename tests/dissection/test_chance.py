"""p-values from shuffled labels, and intervals from other samples of the images."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import N_IMAGES, SlowDataset, Stopping, contents, finish, run, run_until, start
from tiny import TinyDataset, tiny_model
from torch import nn

from netinterp_fast import Dissection, dissect, ops
from netinterp_fast.data.protocol import Concept, Sample
from netinterp_fast.dissection import chance as chance_module
from netinterp_fast.dissection.chance import generator
from netinterp_fast.dissection.conventions import CONVENTIONS
from netinterp_fast.ops import concept_area
from netinterp_fast.ops._grid import half_pixel

pytestmark = pytest.mark.usefixtures("one_thread")
ASKED = {"null_samples": 5, "bootstrap": 40, "seed": 2}


def judged(dataset, layers=("relu", "flat"), model=None, **changes):
    settings = {"quantile": 0.1, "batch_size": 4, "progress": False} | changes
    return dissect(model or tiny_model(), dataset, list(layers), **settings)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_sample_is_a_dissection_with_the_labels_of_other_images(convention):
    result = judged(TinyDataset(17), convention=convention, null_samples=3, seed=4)
    for sample in range(3):
        dataset = TinyDataset(17)
        order = torch.randperm(17, generator=generator(4, sample))
        dataset.labels, dataset.image_labels = dataset.labels[order], dataset.image_labels[order]
        shuffled = judged(dataset, convention=convention)
        for layer in result:
            assert torch.equal(result[layer].null_iou[:, sample], shuffled[layer].iou.amax(1))


def test_p_values_by_hand():
    layer = judged(TinyDataset(9), null_samples=7)["relu"]
    reached = (layer.null_iou >= layer.iou.amax(1, keepdim=True)).sum(1).tolist()
    assert layer.p_values.tolist() == [(1 + n) / 8 for n in reached]
    assert layer.p_values[4] == 1.0  # dead: never lit, as in every sample


class Maps(torch.utils.data.Dataset):
    """Maps of noise as images, and labels that know nothing of them."""

    def __init__(self, seed, n=12, units=16, side=6, grid=6):
        random = torch.Generator().manual_seed(seed)
        self.concepts = [Concept(i, f"c{i}", "object") for i in range(1, 5)]
        self.images = torch.rand(n, units, side, side, generator=random)
        blocks = torch.randint(0, 5, (n, 1, 3, 3), generator=random)
        self.labels = blocks.repeat_interleave(grid // 3, 2).repeat_interleave(grid // 3, 3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Sample(self.images[index], self.labels[index], torch.zeros(0, dtype=torch.int64))


class Same(nn.Module):
    """The maps are the units."""

    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x):
        return self.units(x)


def test_p_values_are_flat_where_there_is_nothing_to_find():
    """The best IoU is then one of n + 1 that are exchangeable: p <= a / (n + 1) has the probability a / (n + 1). (But
    for ties, which make p larger; on a fine grid of labels they are rare.)"""
    runs = 60
    p = torch.stack(
        [
            judged(
                Maps(seed, n=16, grid=30), ["units"], Same(), batch_size=16, null_samples=19, seed=seed, top_images=0
            )["units"].p_values
            for seed in range(runs)
        ]
    )
    for level in (0.05, 0.25, 0.5, 0.75):
        share = (p <= level + 1e-9).double().mean(1)  # of a run's 16 units, which share their shuffled labels
        deviation = (share.mean() - level).abs() / (share.std() / runs**0.5)
        assert deviation < 3.3, (level, share.mean())
    histogram = np.bincount((p.flatten() * 20).round().int().numpy() - 1, minlength=20)
    assert histogram.min() > 0.4 * histogram.mean()
    assert histogram.max() < 1.8 * histogram.mean()


def test_a_unit_that_knows_its_concept():
    """Unit 0 is lit where concept 1 is."""
    dataset = Maps(0, n=30)
    shown = dataset.labels[:, 0] == 1
    dataset.images[:, 0] = shown.float()
    asked = {"quantile": float(shown.double().mean()) + 1e-9, "null_samples": 19, "bootstrap": 100}
    layer = judged(dataset, ["units"], Same(), top_images=0, **asked)["units"]
    assert layer.labels()[0].concept.id == 1
    assert layer.iou[0, 1] == 1.0
    assert layer.p_values[0] == 1 / 20
    assert layer.iou_interval[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_each_image_once_gives_the_iou_itself(monkeypatch, convention):
    monkeypatch.setattr(chance_module.Bootstrap, "_times", lambda self, image: torch.ones(3))
    result = judged(TinyDataset(17), convention=convention, bootstrap=3)
    for layer in result.layers.values():
        assert torch.equal(layer.iou_interval, layer.iou.amax(1, keepdim=True).expand(-1, 2))


def test_intervals_by_hand():
    """Images that count for a concept are here those of its category."""
    dataset, samples = TinyDataset(17), 30
    layer = judged(dataset, bootstrap=samples, seed=5)["relu"]
    model = tiny_model().eval()
    with torch.no_grad():
        acts = model.relu(model.conv(dataset.images))
    area = concept_area(dataset.labels, 12, image_labels=dataset.image_labels)
    category = {c.id: c.category for c in dataset.concepts}
    times = torch.stack([torch.poisson(torch.ones(samples), generator=generator(5, i)) for i in range(17)]).double()
    for unit, found in enumerate(layer.labels()):
        if found.concept is None:
            assert layer.iou_interval[unit].tolist() == [0.0, 0.0]
            continue
        c, of_category = found.concept.id, [i for i, name in category.items() if name == found.concept.category]
        common, union = torch.zeros(17, dtype=torch.float64), torch.zeros(17, dtype=torch.float64)
        for i in range(17):
            one = ops.unit_concept_overlap(
                acts[i : i + 1], layer.thresholds, dataset.labels[i : i + 1], 12,
                image_labels=dataset.image_labels[i : i + 1], scale_offset=half_pixel((8, 8), (10, 10)),
            )  # fmt: skip
            common[i] = one.intersection[unit, c]
            counts = bool((area[i, of_category] > 0).any())
            union[i] = counts * one.unit_area[0, unit] + area[i, c] - common[i]
        scores = np.array([float(times[:, s] @ common / (times[:, s] @ union)) for s in range(samples)])
        assert np.allclose(layer.iou_interval[unit], np.quantile(scores, [0.025, 0.975]), rtol=1e-12)


def test_intervals_shrink_as_images_are_added():
    width = {}
    for n in (20, 320):
        layer = judged(TinyDataset(n), ["relu"], bootstrap=200)["relu"]
        low, high = layer.iou_interval.T
        best = layer.iou.amax(1)
        assert ((low <= best) & (best <= high)).all()
        width[n] = (high - low).sum()
    assert width[320] < 0.4 * width[20]  # a quarter, but for chance


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out, dataset=SlowDataset(N_IMAGES), passes=1, **ASKED)
    return contents(out)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks(tmp_path, whole, ranks):
    assert finish(start(tmp_path / "run", ranks, passes=1, **ASKED)) == [0] * ranks
    assert contents(tmp_path / "run") == whole


def test_in_what_batches_and_memory_does_not_matter():
    first, second = (
        judged(TinyDataset(22), **changes, **ASKED) for changes in ({}, {"batch_size": 5, "memory_budget": 1})
    )
    for layer in first:
        assert torch.equal(first[layer].null_iou, second[layer].null_iou)
        assert torch.equal(first[layer].iou_interval, second[layer].iou_interval)


def test_an_interrupted_run_goes_on(tmp_path, whole):
    run_until(tmp_path / "run", 4, passes="auto", dataset=SlowDataset(N_IMAGES), **ASKED)
    model = Stopping()
    run(tmp_path / "run", model, passes="auto", dataset=SlowDataset(N_IMAGES), **ASKED)
    assert model.calls == 2
    assert contents(tmp_path / "run") == whole


def test_other_questions_are_another_run(tmp_path):
    run_until(tmp_path / "run", 2, passes=1, **ASKED)
    with pytest.raises(FileExistsError, match=r"with a different bootstrap \(40 there, 41 here\)"):
        run(tmp_path / "run", passes=1, **ASKED | {"bootstrap": 41})


def test_saved_and_told(tmp_path):
    result = judged(TinyDataset(17), **ASKED)
    result.save(tmp_path / "run", tables=True, report=True)
    loaded = Dissection.load(tmp_path / "run")
    for name in ("null_iou", "iou_interval", "p_values"):
        assert torch.equal(getattr(loaded["relu"], name), getattr(result["relu"], name))
    rows = list(csv.DictReader(Path(tmp_path / "run" / "tables" / "relu.csv").read_text().splitlines()))
    assert [float(row["p"]) for row in rows] == [result["relu"].p_values[int(row["unit"]) - 1] for row in rows]
    assert float(rows[0]["score-low"]) <= float(rows[0]["score"]) <= float(rows[0]["score-high"])
    detectors = [u.unit for u in result["relu"].detectors()]
    few = sum(bool(p <= 0.05) for p in result["relu"].p_values[detectors])
    assert f"{few} of the {len(detectors)} detectors have p <= 0.05 under shuffled labels" in result.summary()


def test_nothing_of_it_unless_asked(tmp_path):
    layer = judged(TinyDataset())["relu"]
    assert layer.null_iou is None
    assert layer.p_values is None
    assert layer.iou_interval is None
    assert not {"p", "score-low", "score-high"} & set(layer.rows()[0])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"null_samples": 3, "passes": 2}, ValueError, "need what a single pass keeps; passes is 2"),
        ({"bootstrap": -1}, ValueError, "bootstrap is -1; it must be at least 0"),
        ({"null_samples": 2.5}, TypeError, r"null_samples is 2.5; it must be an int"),
        ({"seed": -1}, ValueError, r"seed is -1; it must be in"),
    ],
)
def test_wrong_arguments(changes, error, words):
    with pytest.raises(error, match=words):
        judged(TinyDataset(), **changes)
