"""TopQuantile: the exact value at index floor(q N) in descending order, for any order and split."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from netinterp_fast import TopQuantile
from netinterp_fast.dissection import get_convention

INF = float("inf")


def by_sorting(acts, index):
    """The value at an index of each unit's descending values, acts [N, C, h, w]."""
    values = acts.float().transpose(0, 1).flatten(1).numpy()
    return np.sort(values, axis=1)[:, ::-1][:, index].tolist()


def random_data():
    random = torch.Generator().manual_seed(3)
    gaussian = torch.randn(20, 4, 5, 5, generator=random)
    few = torch.randint(-1, 2, (20, 4, 5, 5), generator=random).float()
    infinite = torch.where(few > 0, INF, torch.where(few < 0, -INF, gaussian))
    return {
        "gaussian": gaussian,
        "ties": few,
        "relu": gaussian.relu(),
        "infinite": infinite,
        "-inf alone": torch.full((20, 2, 5, 5), -INF),
        "signed zeros": few * 0.0,
        "rising": torch.arange(2000.0).view(20, 4, 5, 5),
        "falling": -torch.arange(2000.0).view(20, 4, 5, 5),
        "half": gaussian.half(),
        "bfloat16": gaussian.bfloat16(),
        "vectors": gaussian[:, :, :1, :1],
        "no units": gaussian[:, :0],
    }


DATA = random_data()


def streamed(acts, quantile, batches=(3, 9, 1, 7)):
    n_values = acts.shape[0] * acts.shape[2] * acts.shape[3]
    top = TopQuantile(acts.shape[1], quantile, n_values)
    for batch in acts.split(list(batches)):
        assert torch.equal(top.update(batch), batch.float().flatten(2).amax(2))
    return top


@pytest.mark.parametrize("quantile", [0, 0.005, 0.02, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("name", DATA)
def test_equals_sorting(implementation, name, quantile):
    acts = DATA[name]
    index = int(Fraction(str(quantile)) * (acts.shape[0] * acts.shape[2] * acts.shape[3]))
    thresholds = streamed(acts, quantile).thresholds()
    assert thresholds.dtype == torch.float32
    assert thresholds.tolist() == by_sorting(acts, index)


@pytest.mark.parametrize("name", ["gaussian", "ties", "infinite", "rising"])
def test_any_order_of_any_batches(implementation, name):
    acts = DATA[name]
    expected = by_sorting(acts, 25)
    for seed, batches in enumerate([(20,), (1,) * 20, (7, 13), (19, 1), (0, 20)]):
        shuffled = acts[torch.randperm(20, generator=torch.Generator().manual_seed(seed))]
        assert streamed(shuffled, 0.05, batches).thresholds().tolist() == expected


@pytest.mark.parametrize("quantile", [0, 0.05, 0.4, 0.95])  # with .95 no part ever fills
@pytest.mark.parametrize("name", ["gaussian", "ties", "infinite", "-inf alone"])
@pytest.mark.parametrize("bounds", [(0, 10, 20), (0, 1, 20), (0, 19, 20), (0, 0, 20), (0, 20, 20), (0, 4, 5, 13, 20)])
def test_parts_merge(implementation, name, quantile, bounds):
    acts = DATA[name]
    parts = []
    for begin, end in pairwise(bounds):
        part = TopQuantile(acts.shape[1], quantile, 500)
        for image in acts[begin:end]:
            part.update(image[None])
        parts.append(part)
    merged = parts[0]
    for part in parts[1:]:
        assert merged.merge(part) is merged
    assert merged.thresholds().tolist() == by_sorting(acts, int(Fraction(str(quantile)) * 500))


def test_a_merged_state_can_go_on(implementation):
    acts = DATA["gaussian"]
    first, second = TopQuantile(4, 0.1, 500), TopQuantile(4, 0.1, 500)
    first.update(acts[:2])
    second.update(acts[2:9])
    first.merge(second).update(acts[9:])
    assert first.thresholds().tolist() == by_sorting(acts, 50)


@pytest.mark.parametrize("n_seen", [0, 1, 6, 20])
@pytest.mark.parametrize("storage", ["torch", "safetensors"])
def test_saved_states_go_on(implementation, tmp_path, storage, n_seen):
    acts = DATA["ties"] + DATA["gaussian"] / 8
    top = TopQuantile(4, 0.1, 500)
    top.update(acts[:n_seen])
    state = top.state_dict()
    if storage == "torch":
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    else:
        save_file({"largest": state["largest"].contiguous()}, tmp_path / "state.safetensors")
        state = state | load_file(tmp_path / "state.safetensors")
    other = TopQuantile(4, 0.1, 500)
    other.update(acts[5:12] * 100)  # to be replaced
    other.load_state_dict(state)
    other.update(acts[n_seen:])
    assert other.thresholds().tolist() == by_sorting(acts, 50)
    top.update(acts[n_seen:])  # the saved one is not changed by saving
    assert top.thresholds().tolist() == by_sorting(acts, 50)


@pytest.mark.parametrize(
    ("quantile", "n_values", "index"),
    [(0.29, 100, 29), (0.07, 100, 7), ("0.57", 100, 57), (Fraction(1, 3), 9, 3), (0.005, 199, 0),
     (0.005, 200, 1), (0, 100, 0), (1e-3, 1000, 1), (0.999, 1000, 999)],
)  # fmt: skip
def test_quantiles_are_taken_at_their_decimal_value(quantile, n_values, index):
    """0.29 * 100 is 28.999999999999996 in doubles."""
    top = TopQuantile(1, quantile, n_values)
    top.update(torch.arange(float(n_values)).view(1, 1, 1, -1))
    assert top.thresholds().item() == n_values - 1 - index


def test_the_sketch_of_netdissect_lite():
    assert get_convention("netdissect_lite").exact_quantile() == Fraction(5, 999)
    assert get_convention("netdissect").exact_quantile() == Fraction(5, 1000)
    assert get_convention("dissect").exact_quantile() == Fraction(1, 100)


def test_minus_zero_is_zero(implementation):
    """np.sort puts them in no particular order either: the thresholds compare equal, and so do the masks."""
    acts = torch.tensor([0.0, -0.0, -0.0, 0.0, -1.0]).view(5, 1, 1, 1)
    assert streamed(acts, 0.4, (2, 3)).thresholds().item() == 0.0


def test_nan_leaves_the_state_unchanged(implementation):
    acts = DATA["gaussian"].clone()
    top = TopQuantile(4, 0.1, 500)
    top.update(acts[:9])
    bad = acts[9:].clone()
    bad[3, 2, 4, 4] = float("nan")
    with pytest.raises(ValueError, match=r"acts\[3, 2\] has a NaN"):
        top.update(bad)
    assert top.seen == 9 * 25
    top.update(acts[9:])
    assert top.thresholds().tolist() == by_sorting(acts, 50)


def test_too_many_values_and_too_few():
    acts = DATA["gaussian"]
    top = TopQuantile(4, 0.1, 475)
    top.update(acts[:10])
    with pytest.raises(ValueError, match="thresholds are not final: 250 of 475 values"):
        top.thresholds()
    with pytest.raises(ValueError, match="acts brings 250 values a unit to the 250 seen; n_values is 475"):
        top.update(acts[10:])
    top.update(acts[10:19])
    assert top.thresholds().tolist() == by_sorting(acts[:19], 47)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0.1, 10), "n_units is -1"),
        ((2, 0.1, 0), "n_values is 0"),
        ((2, 1.0, 10), r"quantile is 1\.0; it must be in \[0, 1\)"),
        ((2, -0.1, 10), r"quantile is -0\.1"),
        ((2, float("nan"), 10), "quantile is nan"),
        ((2, INF, 10), "quantile is inf"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TopQuantile(*arguments)


def test_byte_budget():
    """8 m bytes a unit, m = 51."""
    TopQuantile(4, 0.1, 500, byte_budget=4 * 8 * 51)
    with pytest.raises(
        ValueError, match=r"4 units at quantile 0\.1 of 500 values need 1,632 bytes, .* byte_budget 1,631"
    ):
        TopQuantile(4, 0.1, 500, byte_budget=4 * 8 * 51 - 1)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (TopQuantile(3, 0.1, 500), "n_units is 4 here, 3 there"),
        (TopQuantile(4, 0.2, 500), "quantile is 1/10 here, 1/5 there"),
        (TopQuantile(4, 0.1, 400), "n_values is 500 here, 400 there"),
    ],
)
def test_merge_and_load_refuse_another_setting(other, message):
    with pytest.raises(ValueError, match=message):
        TopQuantile(4, 0.1, 500).merge(other)
    with pytest.raises(ValueError, match="the state has"):
        TopQuantile(4, 0.1, 500).load_state_dict(other.state_dict())


def test_merge_refuses_more_values_than_there_are(implementation):
    whole, again = streamed(DATA["gaussian"], 0.1), streamed(DATA["gaussian"], 0.1)
    with pytest.raises(ValueError, match=r"cannot merge: 500 \+ 500 values seen, n_values is 500"):
        whole.merge(again)
    assert whole.thresholds().tolist() == by_sorting(DATA["gaussian"], 50)


def test_thresholds_can_be_asked_for_twice_and_do_not_share_memory(implementation):
    top = streamed(DATA["gaussian"], 0.1)
    top.thresholds().zero_()
    assert top.thresholds().tolist() == by_sorting(DATA["gaussian"], 50)
