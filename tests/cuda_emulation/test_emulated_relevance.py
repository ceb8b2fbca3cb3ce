"""The kernels of relevance propagation on the host runner against the pure-torch references, bit for bit."""

import pytest
import torch
from op_cases import RELEVANCE_DTYPES, RELEVANCE_OPS, relevance_cases, same_bits

import netinterp_fast.ops  # noqa: F401  (registers the references)
from netinterp_fast import _library

CASES = {dtype: relevance_cases(dtype) for dtype in RELEVANCE_DTYPES}


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_relevance(kernels, op, dtype, name):
    arguments = CASES[dtype][name].of(op)
    expected = _library.reference(op)(*arguments)
    got = getattr(kernels, op)(*arguments)
    assert same_bits(got, expected)
    assert got.stride() == expected.stride()


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize(("blocks", "seed"), [(1, 1), (2, 2), (9, 3)])
def test_for_any_grid_and_order(kernels, op, blocks, seed):
    arguments = CASES[torch.float16]["more than a grid"].of(op)
    assert same_bits(getattr(kernels.with_launch(blocks, seed), op)(*arguments), _library.reference(op)(*arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_narrow_number_survives(kernels, dtype):
    """Widened by the runner, divided by 1 and rounded again."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    assert same_bits(kernels.stabilized_ratio(numbers, torch.ones_like(numbers), 0.0), numbers)
