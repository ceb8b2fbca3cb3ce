"""What a kernel has to do, against counting by hand on cases that fit a line."""

import torch

from benches import work
from netinterp_fast import ops

ACTS = torch.tensor([[[[0.0, 4.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])  # one image, two units of 2x2
LEVELS = torch.full((2,), 1.0)


def test_overlap():
    labels = torch.tensor([[[[1, 1], [2, 2]]]], dtype=torch.int16)
    found = ops.unit_concept_overlap(ACTS, LEVELS, labels, 3)
    assert found.intersection.tolist() == [[0, 1, 0], [0, 0, 0]]  # one lit pixel, of concept 1
    read, written, tally = 8 * 4 + 2 * 4 + 4 * 2, 2 * 8, 2 * 8
    assert work.of_overlap(ACTS, LEVELS, labels, found) == (read + written + tally, 8 + 1 * (3 * 3 + 1 + 1))


def test_concept_area():
    labels = torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    assert work.of_concept_area(labels, ops.concept_area(labels, 5)) == (24 + 2 * 5 * 8, 24)


def test_quantile_update():
    buffer, count, bound = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.zeros(2)
    maxima = ops.top_quantile_update(ACTS, 2, buffer, count, bound)
    assert work.of_quantile_update(ACTS, bound, maxima) == (8 * 4 + 2 * 4 + 2 * 4, 16)


def test_cells():
    packed = ops.pack_cells(ACTS, LEVELS)  # one map of the two, all its four values near the one above
    planes = packed.planes.long()
    counts = torch.tensor([[4, 0]], dtype=torch.int32)
    bits = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)  # a byte a row
    assert work.of_mark_cells(ACTS, LEVELS, bits, counts) == (32 + 8 + 4 + 8, 8)
    assert work.of_take_cells(planes, packed.bits, packed.values) == (
        8 + 8 + 2 + 2 * 16,
        0,
    )  # planes and where they begin
    assert work.of_put_cells(planes, packed.bits, packed.values, ACTS) == (8 + 8 + 2 + 16 + 32, 0)
    assert work.of_pack_cells(ACTS, LEVELS, packed) == (32 + 8 + (4 + 4 + 2 + 16), 8)


def test_elementwise():
    x = torch.ones(2, 5)
    assert work.of_elementwise(3, x, x, x, x) == (4 * 40, 30)


def test_paths():
    inputs, alphas = torch.ones(2, 3), torch.ones(4)
    points = ops.path_points(inputs, inputs, alphas)
    assert work.of_path_points(inputs, alphas, points) == (2 * 24 + 16 + 4 * 24, 6 + 4 * 6 * 2)
    assert work.of_path_accumulate(points, alphas, inputs) == (4 * 24 + 16 + 2 * 24, 4 * 6 * 2)


def test_noise():
    inputs = torch.ones(2, 4)
    points = ops.noise_points(inputs, 0.1, 1, 3)
    of_a_block = 10 * (2 + 4 + 2) + 2 * (29 + 37 + 2) + 4 * 2  # Philox; radius, direction and products; sigma and input
    assert work.of_noise_points(inputs, points) == (32 + 96, 6 * of_a_block)
