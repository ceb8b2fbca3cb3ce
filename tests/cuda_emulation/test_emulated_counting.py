"""The counting kernels on the host runner against the pure-torch references, bit for bit."""

import pytest
import torch
from op_cases import fresh, overlap_case, overlap_cases, random_overlap_case

import netinterp_fast.ops  # noqa: F401  (registers the references)
from netinterp_fast import _library

overlap_reference = _library.reference("unit_concept_overlap")
area_reference = _library.reference("concept_area")
CASES = overlap_cases()


def assert_overlap_equal(kernels, case):
    expected, got = fresh(case), fresh(case)
    unit_area, first_bad = overlap_reference(*expected)
    emulated_area, emulated_bad = kernels.unit_concept_overlap(*got)
    assert emulated_bad.tolist() == first_bad.tolist()
    assert torch.equal(emulated_area, unit_area)
    assert torch.equal(got.intersection, expected.intersection)


@pytest.mark.parametrize("name", CASES)
def test_unit_concept_overlap(kernels, name):
    assert_overlap_equal(kernels, CASES[name])


@pytest.mark.parametrize("seed", range(40))
def test_unit_concept_overlap_on_random_cases(kernels, seed):
    assert_overlap_equal(kernels.with_launch(2, seed), random_overlap_case(seed))


@pytest.mark.parametrize(("blocks", "seed"), [(1, 1), (2, 2), (40, 3)])
def test_unit_concept_overlap_for_any_grid_and_order(kernels, blocks, seed):
    assert_overlap_equal(kernels.with_launch(blocks, seed), overlap_case(seed=seed, units=11))


@pytest.mark.parametrize("name", CASES)
def test_concept_area(kernels, name):
    case = CASES[name]
    area, first_bad = area_reference(case.labels, case.image_labels, case.n_concepts)
    emulated_area, emulated_bad = kernels.concept_area(case.labels, case.image_labels, case.n_concepts)
    assert emulated_bad.tolist() == first_bad.tolist()
    assert torch.equal(emulated_area, area)


@pytest.mark.parametrize(("blocks", "seed"), [(1, 1), (2, 2), (40, 3)])
def test_concept_area_for_any_grid_and_order(kernels, blocks, seed):
    case = overlap_case(seed=seed)
    area, _ = area_reference(case.labels, case.image_labels, case.n_concepts)
    got, _ = kernels.with_launch(blocks, seed).concept_area(case.labels, case.image_labels, case.n_concepts)
    assert torch.equal(got, area)


def test_the_cases_count_something():
    """The comparisons above would be empty if the references counted nothing."""
    case = CASES["typical"]._replace(intersection=torch.zeros(5, 12, dtype=torch.int64))
    unit_area, _ = overlap_reference(*case)
    assert ((case.intersection > 0).sum(1) >= 5).sum() >= 3
    assert (unit_area > 0).any(0).sum() >= 3
    assert (area_reference(case.labels, case.image_labels, case.n_concepts)[0] > 0).sum() >= 10
