"""The kernels of path points, path sums and noise on the host runner against the pure-torch references, bit for bit."""

import pytest
import torch
from op_cases import same_bits
from path_cases import PATH_DTYPES, noise_cases, point_cases, sum_cases

import netinterp_fast.ops  # noqa: F401  (registers the references)
from netinterp_fast import _library

POINTS = {dtype: point_cases(dtype) for dtype in PATH_DTYPES}
SUMS = {dtype: sum_cases(dtype) for dtype in PATH_DTYPES}
NOISE = {dtype: noise_cases(dtype) for dtype in PATH_DTYPES}


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", POINTS[torch.float32])
def test_path_points(kernels, dtype, name):
    case = POINTS[dtype][name]
    assert same_bits(kernels.path_points(*case), _library.reference("path_points")(*case))


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", SUMS[torch.float32])
def test_path_accumulate(kernels, dtype, name):
    got, expected = SUMS[dtype][name].fresh(), SUMS[dtype][name].fresh()
    kernels.path_accumulate(*got)
    _library.reference("path_accumulate")(*expected)
    assert same_bits(got.out, expected.out)


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", NOISE[torch.float32])
def test_noise_points(kernels, dtype, name):
    case = NOISE[dtype][name]
    assert same_bits(kernels.noise_points(*case), _library.reference("noise_points")(*case))


@pytest.mark.parametrize(("blocks", "seed"), [(1, 1), (2, 2), (9, 3)])
def test_for_any_grid_and_order(kernels, blocks, seed):
    kernels = kernels.with_launch(blocks, seed)
    points, sums, noise = (cases[torch.float16]["more than a grid"] for cases in (POINTS, SUMS, NOISE))
    assert same_bits(kernels.path_points(*points), _library.reference("path_points")(*points))
    got, expected = sums.fresh(), sums.fresh()
    kernels.path_accumulate(*got)
    _library.reference("path_accumulate")(*expected)
    assert same_bits(got.out, expected.out)
    assert same_bits(kernels.noise_points(*noise), _library.reference("noise_points")(*noise))


def test_philox_gives_the_published_words(kernels):
    """The known answers that come with Random123."""
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
    ones = 0xFFFFFFFF
    assert kernels.philox_words([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert kernels.philox_words([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert kernels.philox_words(pi[:4], pi[4:]) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
