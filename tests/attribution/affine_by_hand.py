"""The rules for affine layers on the dense matrix of the map, all contributions x_i a_ij written out."""

from __future__ import annotations

import torch
from torch import nn

EPSILON = 1e-6


def matrix_and_bias(layer: nn.Module, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """a [inputs, outputs] and b [outputs] of the affine map that a layer is for one example of a shape."""
    size = torch.Size(shape).numel()
    with torch.no_grad():
        b = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten()
        a = layer(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1) - b
    a[a.abs() < 1e-12] = 0  # no weight
    return a, b


def share(relevance, contributions, z):
    """R_i = sum_j contributions_ij / (z_j + epsilon sign z_j) R_j"""
    return torch.einsum("bij,bj->bi", contributions, relevance / torch.where(z < 0, z - EPSILON, z + EPSILON))


def by_hand(rule: str, a, b, x, relevance, keep_bias: bool):
    """Relevance of x [B, inputs] from that of the outputs [B, outputs]."""
    c = x[:, :, None] * a
    z = c.sum(1) + b
    b = b if keep_bias else torch.zeros_like(b)
    if rule == "epsilon":
        return share(relevance, c, c.sum(1) + b)
    if rule == "z_plus":
        return share(relevance, c.clamp(min=0), c.clamp(min=0).sum(1) + b.clamp(min=0))
    if rule == "alpha2_beta1":
        negative = share(relevance, c.clamp(max=0), c.clamp(max=0).sum(1) + b.clamp(max=0))
        return 2 * by_hand("z_plus", a, b, x, relevance, keep_bias) - negative
    if rule == "gamma":
        return _gamma(c, z, b, relevance, 0.3)
    if rule == "w_square":
        w = (a**2).expand_as(c)
        return share(relevance, w, w.sum(1) + b**2)
    if rule == "flat":
        w = (a != 0).to(x).expand_as(c)
        return share(relevance, w, w.sum(1))
    assert rule == "z_box"
    low, high = -1.5, 2.5
    boxed = c - low * a.clamp(min=0) - high * a.clamp(max=0)
    return share(relevance, boxed, boxed.sum(1))


def _gamma(c, z, b, relevance, gamma):
    result = torch.zeros_like(c[:, :, 0])
    for sign, bound in ((z > 0, {"min": 0}), (z < 0, {"max": 0})):
        favoured, bias = c + gamma * c.clamp(**bound), b + gamma * b.clamp(**bound)
        result += share(relevance * sign, favoured, favoured.sum(1) + bias)
    return result
