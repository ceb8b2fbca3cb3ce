"""top_quantile_update: every implementation keeps the largest values; wrong arguments are refused by name."""

import pytest
import torch
from op_cases import QuantileState, quantile_runs

from netinterp_fast.ops import top_quantile_update

RUNS = quantile_runs()


@pytest.mark.parametrize("name", RUNS)
def test_keeps_the_largest_values(implementation, name):
    keep, batches = RUNS[name]
    state = QuantileState.empty(batches[0].shape[1], keep)
    for n_seen, acts in enumerate(batches, start=1):
        maxima = top_quantile_update(acts, keep, *state)
        assert maxima.dtype == torch.float32
        assert torch.equal(maxima, acts.float().flatten(2).amax(2) if acts.numel() else torch.empty(acts.shape[:2]))
        seen = torch.cat([acts.float().transpose(0, 1).flatten(1) for acts in batches[:n_seen]], dim=1)
        expected = [sorted(values, reverse=True)[:keep] for values in seen.tolist()]
        assert state.largest(keep) == expected
        for held, bound in zip(expected, state.bound.tolist(), strict=True):
            assert bound == float("-inf") or (len(held) == keep and bound <= held[-1])


@pytest.mark.parametrize(
    "view", [lambda t: t.mT, lambda t: t[1:], lambda t: t[:, :, ::2], lambda t: t.permute(1, 0, 3, 2)]
)
def test_any_memory_layout(implementation, view):
    acts = view(torch.randn(4, 4, 8, 6, generator=torch.Generator().manual_seed(1)))
    state, other = QuantileState.empty(4, 9), QuantileState.empty(4, 9)
    assert torch.equal(
        top_quantile_update(acts, 9, *state),
        top_quantile_update(acts.clone(memory_format=torch.contiguous_format), 9, *other),
    )
    assert state.largest(9) == other.largest(9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nan_changes_nothing(implementation, dtype):
    state = QuantileState.empty(3, 5)
    top_quantile_update(torch.randn(2, 3, 4, 4), 5, *state)
    before = state.clone()
    acts = torch.randn(2, 3, 4, 4).to(dtype)
    acts[1, 2, 3, 3] = float("nan")
    assert top_quantile_update(acts, 5, *state).isnan().nonzero().tolist() == [[1, 2]]
    for now, then in zip(state, before, strict=True):
        assert torch.equal(now.nan_to_num(), then.nan_to_num())


BAD = {
    "acts list": ({"acts": [1.0]}, TypeError, "acts is list"),
    "acts 3-D": (
        {"acts": torch.zeros(2, 3, 4)},
        ValueError,
        r"acts has shape \[2, 3, 4\]; it must be \[B, C, h, w\]",
    ),
    "acts float64": ({"acts": torch.zeros(2, 3, 4, 4).double()}, TypeError, "acts has dtype float64"),
    "acts units": (
        {"acts": torch.zeros(2, 4, 4, 4)},
        ValueError,
        "acts .* dimension 1 must be 3, the number of units",
    ),
    "acts without cells": (
        {"acts": torch.zeros(2, 3, 4, 0)},
        ValueError,
        "acts .* h and w must be at least 1",
    ),
    "acts elsewhere": ({"acts": torch.zeros(2, 3, 4, 4, device="meta")}, ValueError, "acts is on meta"),
    "keep 0": ({"keep": 0, "buffer": torch.zeros(3, 0)}, ValueError, "keep is 0"),
    "keep float": ({"keep": 4.0}, TypeError, r"keep is 4\.0"),
    "buffer list": ({"buffer": [1.0]}, TypeError, "buffer is list"),
    "buffer width": ({"buffer": torch.zeros(3, 7)}, ValueError, r"buffer has shape \[3, 7\]"),
    "buffer dtype": ({"buffer": torch.zeros(3, 8).double()}, TypeError, "buffer has dtype float64"),
    "count length": ({"count": torch.zeros(2).long()}, ValueError, r"count has shape \[2\]"),
    "count dtype": ({"count": torch.zeros(3)}, TypeError, "count has dtype float32"),
    "bound length": ({"bound": torch.zeros(4)}, ValueError, r"bound has shape \[4\]"),
    "bound dtype": ({"bound": torch.zeros(3).half()}, TypeError, "bound has dtype float16"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(implementation, name):
    changes, error, message = BAD[name]
    state = {
        "buffer": torch.zeros(3, 8),
        "count": torch.zeros(3).long(),
        "bound": torch.full((3,), -float("inf")),
    }
    with pytest.raises(error, match=message):
        top_quantile_update(**{"acts": torch.ones(2, 3, 4, 4), "keep": 4} | state | changes)
