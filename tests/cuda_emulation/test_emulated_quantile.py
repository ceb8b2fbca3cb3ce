"""The streaming quantile's kernels on the host runner against the pure-torch reference."""

import pytest
import torch
from op_cases import QuantileState, quantile_runs

import netinterp_fast.ops  # noqa: F401  (registers the reference)
from netinterp_fast import _library

reference = _library.reference("top_quantile_update")
RUNS = quantile_runs()


@pytest.mark.parametrize("name", RUNS)
def test_keeps_the_largest_values(kernels, name):
    keep, batches = RUNS[name]
    n_units = batches[0].shape[1]
    expected, got = QuantileState.empty(n_units, keep), QuantileState.empty(n_units, keep)
    for seed, acts in enumerate(batches):
        maxima = reference(acts, keep, *expected)
        emulated = kernels.with_launch(1 + seed, seed).top_quantile_update(acts, keep, *got)
        assert torch.equal(emulated, maxima)
        assert got.largest(keep) == expected.largest(keep)
        assert (got.count < 2 * keep).all()
        assert (got.bound <= expected.bound).all()
        for held, bound in zip(got.largest(keep), got.bound.tolist(), strict=True):
            assert bound == -float("inf") or (len(held) == keep and bound <= held[-1])


@pytest.mark.parametrize("seed", range(3))
def test_held_values_do_not_depend_on_the_order_of_threads(kernels, seed):
    keep, batches = RUNS["ties"]
    first, second = QuantileState.empty(3, keep), QuantileState.empty(3, keep)
    for acts in batches:
        kernels.top_quantile_update(acts, keep, *first)
        kernels.with_launch(2, seed + 1).top_quantile_update(acts, keep, *second)
    for got, expected in zip(second, first, strict=True):
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_changes_nothing_and_shows_in_the_maxima(kernels, dtype):
    keep, batches = RUNS["many cuts"]
    state = QuantileState.empty(4, keep)
    kernels.top_quantile_update(batches[0], keep, *state)
    before = state.clone()
    acts = batches[1].to(dtype)
    acts[2, 1, 6, 6] = float("nan")
    acts[0, 3, 0, 0] = float("nan")
    maxima = kernels.top_quantile_update(acts, keep, *state)
    assert torch.equal(maxima.isnan().nonzero(), torch.tensor([[0, 3], [2, 1]]))
    assert torch.equal(maxima.nan_to_num(), acts.float().amax((2, 3)).nan_to_num())
    for got, expected in zip(state, before, strict=True):
        assert torch.equal(got.view(torch.int32), expected.view(torch.int32))


def test_a_buffer_that_is_full_on_arrival_is_cut_first(kernels):
    """`TopQuantile.merge` may leave one so."""
    buffer = torch.tensor([[5.0, 1.0, 4.0, 2.0]])
    state = QuantileState(buffer, torch.tensor([4]), torch.tensor([-float("inf")]))
    kernels.top_quantile_update(torch.tensor([[[[3.0, 4.5, 4.0]]]]), 2, *state)
    assert state.largest(4) == [[5.0, 4.5, 4.0]]
    assert state.bound.tolist() == [4.0]
