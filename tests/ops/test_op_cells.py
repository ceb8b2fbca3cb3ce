"""pack_cells and unpack_cells: every implementation keeps what a brute force keeps, and no mask is changed by it."""

from functools import cache

import brute_force
import pytest
import torch
import torch.nn.functional as F
from op_cases import CELL_DTYPES, CELL_WIDTHS, Marking, Marks, cell_case, cell_cases, same_bits

from netinterp_fast import _library
from netinterp_fast.backends import run_op
from netinterp_fast.ops import pack_cells, unit_concept_overlap, unpack_cells

INF, NAN = float("inf"), float("nan")
CASES = {dtype: cell_cases(dtype) for dtype in CELL_DTYPES}


@cache
def expected_packed(name):
    """By brute force, once for all implementations and dtypes: every dtype holds the cases' values exactly."""
    return brute_force.packed_cells(*CASES[torch.float32][name])


@cache
def expected_unpacked(name):
    return brute_force.unpacked_cells(*CASES[torch.float32][name])


def pack(case):
    return pack_cells(case.acts, case.levels, inclusive=case.inclusive)


def assert_same(got, wanted):
    assert tuple(got[4]) == tuple(wanted[4])
    for mine, theirs in zip(got[:3], wanted[:3], strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert same_bits(got[3], wanted[3])


@pytest.mark.parametrize("dtype", CELL_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_equals_brute_force(implementation, name, dtype):
    assert_same(pack(CASES[dtype][name]), expected_packed(name))


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_on_random_cases(implementation, seed):
    random = torch.Generator().manual_seed(seed)
    images, units, h, w = (int(torch.randint(1, most, (), generator=random)) for most in (4, 5, 9, 80))
    acts = torch.randn(images, units, h, w, generator=random).to(CELL_DTYPES[seed % 3])
    case = Marking(acts, 1.0 + 2 * torch.rand(units, generator=random), bool(seed % 2))
    assert_same(pack(case), brute_force.packed_cells(*case))


def test_the_cases_keep_some_and_drop_some():
    for name in [name for name in CASES[torch.float32] if name.startswith("width")]:
        _, counts, _, values, shape = expected_packed(name)
        assert 0 < values.numel() < torch.Size(shape).numel()
        assert counts.sum() == values.numel()


def test_small_map_worked_out_by_hand(implementation):
    acts = torch.arange(1.0, 21.0).view(1, 1, 2, 10)
    acts[0, 0, 1, 8] = 99.0
    packed = pack_cells(torch.cat([acts * 0, acts]), torch.tensor([50.0]))
    assert packed.planes.tolist() == [1]
    assert packed.counts.tolist() == [6]
    assert packed.bits.tolist() == [[[0b10000000, 0b11], [0b10000000, 0b11]]]
    assert packed.values.tolist() == [8, 9, 10, 18, 99, 20]
    assert packed.shape == (2, 1, 2, 10)
    assert packed.nbytes == 4 + 4 + 4 + 6 * 4


@pytest.mark.parametrize("dtype", CELL_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_unpacked_are_the_kept_values_and_minus_infinity(implementation, name, dtype):
    assert same_bits(unpack_cells(pack(CASES[dtype][name])), expected_unpacked(name))


@pytest.mark.parametrize("width", CELL_WIDTHS)
def test_bits_past_the_end_of_a_row_mean_nothing(implementation, width):
    case = cell_case(width=width, images=9)
    marks = Marks.of(case)
    spare = marks.with_spare_bits(width)
    assert torch.equal(spare.bits, marks.bits) == (width % 8 == 0)
    values = run_op("take_cells", case.acts.device, case.acts, *spare)
    assert torch.equal(values, pack(case).values)
    acts = run_op("put_cells", values.device, values, *spare[:3], *case.acts.shape[:2], width)
    assert torch.equal(acts, unpack_cells(pack(case)))


def gaussian_case(ties=False):
    """(acts, levels, thresholds >= levels, labels); a third of the thresholds are the levels, one is above all."""
    random = torch.Generator().manual_seed(3)
    acts = torch.randn(3, 24, 9, 13, generator=random)
    levels = acts.transpose(0, 1).flatten(1).quantile(torch.linspace(0.5, 0.99, 24), dim=1).diagonal().clone()
    raised = levels + torch.rand(24, generator=random)
    if ties:
        acts, levels, raised = ((4 * tensor).round() / 4 for tensor in (acts, levels, raised))
    thresholds = torch.where(torch.arange(24) % 3 == 0, levels, raised)
    thresholds[1] = INF
    labels = torch.randint(0, 9, (3, 2, 31, 40), generator=random)
    return acts, levels, thresholds, labels


def assert_counts_alike(acts, others, thresholds, labels, **keywords):
    plain, got = (
        unit_concept_overlap(a, thresholds, labels, 9, check_finite=False, **keywords) for a in (acts, others)
    )
    assert torch.equal(got.unit_area, plain.unit_area)
    assert torch.equal(got.intersection, plain.intersection)
    assert plain.intersection.sum() > 1000
    assert (others == -INF).sum() > (acts == -INF).sum() + 1000  # so some were dropped


SURFACES = {
    "half-pixel centres": {},
    "aligned corners": {"align_corners": True},
    "scale and offset": {"scale_offset": (3.7, 2.9, -1.3, 2.2)},
    "receptive fields wider than the image": {"scale_offset": (9.0, 8.0, -20.0, -30.0)},
    "cells on pixels": {"scale_offset": (4.0, 3.0, 0.0, 1.0)},
}


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("surface", SURFACES)
def test_no_mask_at_the_levels_or_above_changes(implementation, surface, ties, inclusive):
    acts, levels, thresholds, labels = gaussian_case(ties)
    others = unpack_cells(pack_cells(acts, levels, inclusive=inclusive))
    assert_counts_alike(acts, others, thresholds, labels, inclusive=inclusive, **SURFACES[surface])


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("dtype", CELL_DTYPES)
def test_no_mask_changes_where_values_are_infinite_or_nan(implementation, dtype, inclusive):
    acts, levels, thresholds, labels = gaussian_case()
    places = torch.randperm(acts.numel(), generator=torch.Generator().manual_seed(1))[:60]
    acts.view(-1)[places] = torch.tensor([INF, -INF, NAN]).repeat(20)
    levels[5] = thresholds[5] = levels[6] = -INF
    acts = acts.to(dtype)
    others = unpack_cells(pack_cells(acts, levels, inclusive=inclusive))
    assert_counts_alike(acts, others, thresholds, labels, inclusive=inclusive)


RING = {"scale_offset": (3.7, 2.9, -5.0, -0.7)}


def padded(acts):
    return F.pad(acts, (1, 1, 1, 1))


@pytest.mark.parametrize("inclusive", [False, True])
def test_no_mask_changes_where_dark_zeros_are_padded_after_unpacking(implementation, inclusive):
    acts, levels, thresholds, labels = gaussian_case(ties=True)
    thresholds = thresholds.clamp(min=0.25 if inclusive else 0.0)
    others = unpack_cells(pack_cells(acts, levels, inclusive=inclusive))
    assert_counts_alike(padded(acts), padded(others), thresholds, labels, inclusive=inclusive, **RING)


@pytest.mark.parametrize("inclusive", [False, True])
def test_zeros_above_the_threshold_are_padded_before_packing(implementation, inclusive):
    acts, levels, thresholds, labels = gaussian_case(ties=True)
    acts, levels, thresholds = (tensor - 1.5 for tensor in (acts, levels, thresholds))
    others = unpack_cells(pack_cells(padded(acts), levels, inclusive=inclusive))
    assert_counts_alike(padded(acts), others, thresholds, labels, inclusive=inclusive, **RING)
    late = padded(unpack_cells(pack_cells(acts, levels, inclusive=inclusive)))
    dark = unit_concept_overlap(late, thresholds, labels, 9, inclusive=inclusive, check_finite=False, **RING)
    lit = unit_concept_overlap(padded(acts), thresholds, labels, 9, inclusive=inclusive, **RING)
    assert (dark.unit_area < lit.unit_area).any()


# (inclusive at first, inclusive again): >= at a level that > has kept from would ask for ties that are gone
COMPARISONS = [(False, False), (True, True), (True, False)]


@pytest.mark.parametrize(("first", "again"), COMPARISONS)
@pytest.mark.parametrize("name", ["width 33", "width 70, inclusive", "height 29", "infinite values and NaN", "all lit"])
def test_packed_again_at_higher_levels(implementation, name, first, again):
    acts = CASES[torch.float32][name].acts
    for low, high in ((8.0, 9.75), (9.0, 9.0), (-INF, 9.5), (9.5, INF), (INF, INF), (9.75, NAN)):
        low, high = (torch.full(acts.shape[1:2], level) for level in (low, high))
        packed = pack_cells(unpack_cells(pack_cells(acts, low, inclusive=first)), high, inclusive=again)
        assert_same(packed, pack_cells(acts, high, inclusive=again))


@pytest.mark.parametrize("inclusive", [False, True])
def test_packed_again_at_minus_infinity(implementation, inclusive):
    acts = CASES[torch.float32]["infinite values and NaN"].acts.nan_to_num(nan=-INF)
    packed = pack_cells(acts, torch.full((5,), -INF), inclusive=inclusive)
    assert_same(pack_cells(unpack_cells(packed), torch.full((5,), -INF), inclusive=inclusive), packed)
    assert torch.equal(unpack_cells(packed), acts)


LAYOUTS = {
    "sliced": lambda t: torch.stack([t, t.flip(0)], dim=-1)[..., 0],
    "sliced units": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
    "transposed": lambda t: t.mT.contiguous().mT,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "every other column": lambda t: t.repeat_interleave(2, dim=3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(implementation, layout):
    acts, levels, _ = CASES[torch.float32]["width 33"]
    other = LAYOUTS[layout](acts)
    assert not other.is_contiguous()
    assert_same(pack_cells(other, torch.stack([levels, -levels], 1)[:, 0]), expected_packed("width 33"))


def test_arguments_are_left_alone_and_gradients_not_asked_for(implementation):
    acts, levels, _ = CASES[torch.float32]["width 33"]
    leaf, level = acts.clone().requires_grad_(), levels.clone().requires_grad_()
    packed = pack_cells(leaf, level)
    assert_same(packed, expected_packed("width 33"))
    assert not any(tensor.requires_grad for tensor in (packed.values, unpack_cells(packed)))
    assert torch.equal(leaf, acts)
    assert torch.equal(level, levels)


def test_threads_do_not_change_what_is_kept(implementation):
    case = cell_case(height=40, width=54, images=4, units=37)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, unpacked = pack(case), unpack_cells(pack(case))
        torch.set_num_threads(3)
        assert_same(pack(case), one)
        assert torch.equal(unpack_cells(one), unpacked)
    finally:
        torch.set_num_threads(before)


BAD = {
    "acts list": ({"acts": [1.0]}, TypeError, r"acts is list; it must be a tensor \[B, C, h, w\]"),
    "acts 3-D": ({"acts": torch.zeros(3, 4, 4)}, ValueError, r"acts has shape \[3, 4, 4\]; it must be \[B, C, h, w\]"),
    "acts float64": ({"acts": torch.zeros(2, 3, 4, 4).double()}, TypeError,
         "acts has dtype float64; it must be float32, float16, bfloat16"),
    "acts int": ({"acts": torch.zeros(2, 3, 4, 4).int()}, TypeError, "acts has dtype int32"),
    "no rows": ({"acts": torch.zeros(2, 3, 0, 4)}, ValueError, r"\[2, 3, 0, 4\]; h and w must be at least 1"),
    "no columns": ({"acts": torch.zeros(2, 3, 4, 0)}, ValueError, "h and w must be at least 1"),
    "levels number": ({"levels": 1.0}, TypeError, r"levels is float; it must be a tensor \[C\]"),
    "levels scalar": ({"levels": torch.tensor(1.0)}, ValueError, r"levels has shape \[\]; it must be \[C\]"),
    "levels length": ({"levels": torch.zeros(4)}, ValueError,
         r"levels has shape \[4\]; its dimension 0 must be 3, the C of acts"),
    "levels dtype": ({"levels": torch.zeros(3).half()}, TypeError, "levels has dtype float16; it must be float32"),
    "levels elsewhere": ({"levels": torch.zeros(3, device="meta")}, ValueError, "levels is on meta; it must be on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(implementation, name):
    changes, error, message = BAD[name]
    good = {"acts": torch.zeros(2, 3, 4, 4), "levels": torch.zeros(3)}
    with pytest.raises(error, match=message):
        pack_cells(**good | changes)


@pytest.mark.skipif(not _library.cpu_levels(), reason="there are no native kernels")
def test_parts_that_do_not_belong_together_are_refused():
    packed = pack(cell_case())
    for changes in (
        {"values": packed.values[1:]},
        {"counts": packed.counts + 1},
        {"planes": packed.planes.flip(0)},
        {"shape": (1, *packed.shape[1:])},
        {"shape": (*packed.shape[:3], 17)},
    ):
        with pytest.raises(RuntimeError, match=r"planes|bits"):
            unpack_cells(packed._replace(**changes))
