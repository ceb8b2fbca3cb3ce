"""The kernels that pack cells on the host runner against the pure-torch references, bit for bit."""

import pytest
import torch
from op_cases import CELL_DTYPES, CELL_WIDTHS, Marks, cell_case, cell_cases, same_bits

import netinterp_fast.ops  # noqa: F401  (registers the references)
from netinterp_fast import _library

mark, take, put = (_library.reference(f"{verb}_cells") for verb in ("mark", "take", "put"))
CASES = {dtype: cell_cases(dtype) for dtype in CELL_DTYPES}


def assert_cells_equal(kernels, case):
    for got, expected in zip(kernels.mark_cells(*case), mark(*case), strict=True):
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)
    marks = Marks.of(case)
    values = take(case.acts, *marks)
    assert same_bits(kernels.take_cells(case.acts, *marks), values)
    shape = (*case.acts.shape[:2], case.acts.shape[3])
    assert same_bits(kernels.put_cells(values, *marks[:3], *shape), put(values, *marks[:3], *shape))


@pytest.mark.parametrize("dtype", CELL_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_cells(kernels, dtype, name):
    assert_cells_equal(kernels, CASES[dtype][name])


@pytest.mark.parametrize(("blocks", "seed"), [(1, 1), (2, 2), (40, 3)])
def test_for_any_grid_and_order(kernels, blocks, seed):
    assert_cells_equal(kernels.with_launch(blocks, seed), cell_case(height=19, width=54, units=11, seed=seed))


@pytest.mark.parametrize("width", CELL_WIDTHS)
def test_bits_past_the_end_of_a_row_mean_nothing(kernels, width):
    case = cell_case(width=width, images=9)
    marks, shape = Marks.of(case), (*case.acts.shape[:2], width)
    spare, values = marks.with_spare_bits(width), take(case.acts, *marks)
    assert torch.equal(kernels.take_cells(case.acts, *spare), values)
    assert torch.equal(kernels.put_cells(values, *spare[:3], *shape), put(values, *marks[:3], *shape))


@pytest.mark.parametrize("planes", [[-1, 2], [2, 6], [2, 2**40], [-(2**40), 2]])
def test_planes_out_of_range_are_left_out(kernels, planes):
    case = cell_case(height=3, width=9, images=2, units=3)
    bits, starts = torch.full((2, 3, 2), 255, dtype=torch.uint8), torch.tensor([0, 27])
    values, third = kernels.take_cells(case.acts, torch.tensor(planes), bits, starts, 54), case.acts[0, 2].flatten()
    assert torch.equal(values.view(2, 27), torch.stack([third if p == 2 else torch.zeros(27) for p in planes]))
    acts = kernels.put_cells(values, torch.tensor(planes), bits, starts, 2, 3, 9)
    assert torch.equal(acts[0, 2], case.acts[0, 2])
    assert (acts == -float("inf")).sum() == 5 * 27


@pytest.mark.parametrize("start", [-5, 5, 2**40, -(2**40)])
def test_values_out_of_range_are_left_out(kernels, start):
    case = cell_case(height=3, width=9, images=1, units=1)
    marks = torch.tensor([0]), torch.full((1, 3, 2), 255, dtype=torch.uint8), torch.tensor([start])
    acts = case.acts.flatten() + 1
    inside = [value for value in range(start, start + 27) if 0 <= value < 27]
    expected = torch.zeros(27)
    expected[inside] = acts[[value - start for value in inside]]
    assert torch.equal(kernels.take_cells(acts.view_as(case.acts), *marks, 27), expected)
    expected.fill_(-float("inf"))
    expected[[value - start for value in inside]] = acts[inside]
    assert torch.equal(kernels.put_cells(acts, *marks, 1, 1, 9).flatten(), expected)
