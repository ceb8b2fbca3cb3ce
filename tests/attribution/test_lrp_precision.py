"""float16 and bfloat16: near to float32, by what rounding does in a chain of layers."""

import copy

import pytest
import torch
from relevance_nets import SmallVGG, seed_of_largest

from benches.models import he_initialised
from netinterp_fast import composites, lrp

NAMES = ["epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "guided_backprop", "excitation_backprop"]


def composite(name):
    box = {"low": -3.0, "high": 3.0} if name == "epsilon_gamma_box" else {}
    return composites.COMPOSITES[name](**box)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_types(dtype, name):
    """Each of about 15 steps forward and as many back rounds once, and once more in what it sums; rules that divide
    sums of one sign do not magnify that. In the mean, where single maxima of pools may change hands."""
    model, x = he_initialised(SmallVGG()), torch.rand(4, 3, 16, 16)
    narrow = copy.deepcopy(model).to(dtype)
    model = copy.deepcopy(narrow).float()  # the same weights
    x = x.to(dtype)
    seed = seed_of_largest(model, x.float())
    exact = lrp(model, x.float(), seed, composite=composite(name))
    got = lrp(narrow, x, seed.to(dtype), composite=composite(name))
    assert got.dtype == dtype
    assert got.isfinite().all()
    rounding = torch.finfo(dtype).eps / 2
    assert (got.float() - exact).norm() <= 60 * rounding * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_composites_run(dtype):
    model, x = SmallVGG().eval().to(dtype), torch.rand(2, 3, 16, 16).to(dtype)
    for name in composites.COMPOSITES:
        box = {"low": -3.0, "high": 3.0} if name in ("epsilon_gamma_box", "deep_taylor") else {}
        relevance = lrp(model, x, composite=composites.COMPOSITES[name](**box))
        assert relevance.dtype == dtype
        assert relevance.shape == x.shape
        assert relevance.isfinite().all()
