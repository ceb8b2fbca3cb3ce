"""The surfaces of each convention against Pillow, torch and each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from netinterp_fast.dissection.upsampling import pillow_resize, surface

SIZES = [
    ((4, 4), (10, 10)),
    ((7, 5), (3, 9)),
    ((13, 17), (5, 4)),
    ((9, 9), (9, 9)),
    ((1, 6), (8, 1)),
    ((30, 2), (29, 3)),
]


def maps(coarse):
    return torch.randn(2, 3, *coarse, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("coarse", "size"), SIZES)
def test_pillow_resize_is_pillows(coarse, size):
    acts = maps(coarse)
    got = pillow_resize(acts, size)
    assert got.dtype == torch.float32
    for plane, resized in zip(acts.flatten(0, 1), got.flatten(0, 1), strict=True):
        expected = np.asarray(Image.fromarray(plane.numpy()).resize(size[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(resized, expected, rtol=1e-5, atol=1e-5 * float(plane.abs().max()))


@pytest.mark.parametrize(("coarse", "size"), SIZES)
def test_pil_surface_is_pillows_whether_larger_or_smaller(implementation, coarse, size):
    acts = maps(coarse)
    torch.testing.assert_close(surface(acts, size, "pil"), pillow_resize(acts, size), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("coarse", "size"), SIZES)
def test_bilinear_surface_is_torchs(coarse, size):
    acts = maps(coarse)
    expected = F.interpolate(acts, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(surface(acts, size), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("coarse", "size"), SIZES)
def test_zero_padded_surface_falls_to_zero_outside(coarse, size):
    acts = maps(coarse)
    rows, columns = ((2 * torch.arange(side) + 1) / side - 1 for side in size)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).expand(2, -1, -1, -1)
    expected = F.grid_sample(acts, grid, padding_mode="zeros", align_corners=False)
    torch.testing.assert_close(surface(acts, size, "zero_padded"), expected, rtol=1e-4, atol=1e-5)


def test_scale_offset_moves_the_surface():
    """Centres at pixels 2 and 6 of 8: flat outside, a quarter a pixel between."""
    ramp = surface(torch.tensor([[0.0, 1.0]]), (1, 8), "bilinear", (1.0, 4.0, 0.0, 2.0))
    assert ramp.tolist() == [[0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]]
    padded = surface(torch.tensor([[1.0, 1.0]]), (1, 8), "zero_padded", (1.0, 4.0, 0.0, 2.0))
    assert padded.tolist() == [[0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75]]
