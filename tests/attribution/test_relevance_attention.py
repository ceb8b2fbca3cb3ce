"""Attention: its weights are constants, values share relevance by them."""

import pytest
import torch
import torch.nn.functional as F
from made_of import Made, close, layers
from torch import nn

from netinterp_fast import composites, lrp, rules
from netinterp_fast.attribution.relevance import layer_types as types

TINY = 1e-12
EPSILON = layers((types.Linear, rules.Epsilon(TINY)), stabilizer=TINY)


def tokens(*shape):
    return torch.randn(*(shape or (2, 5, 6)), dtype=torch.float64)


def linear(inputs=6, outputs=6):
    return nn.Linear(inputs, outputs, bias=False)


def by_hand(model, x, seed):
    """Of one head without biases: everything after the softmax is linear in x."""
    q, k = model.q(x), model.k(x)
    weights = ((q @ k.transpose(1, 2)) / 6**0.5).softmax(-1).detach()
    x = x.clone().requires_grad_()
    y = weights @ model.v(x)
    s = seed / y.detach()
    return (x * torch.autograd.grad(y, x, s)[0]).detach()


def explicit(s, x):
    return ((s.q(x) @ s.k(x).transpose(1, 2)) / 6**0.5).softmax(-1) @ s.v(x)


WAYS = {
    "explicit": explicit,
    "scaled first": lambda s, x: F.softmax(torch.matmul(s.q(x) * 6**-0.5, s.k(x).mT), dim=-1).matmul(s.v(x)),
    "bmm": lambda s, x: torch.bmm(torch.softmax(torch.bmm(s.q(x), s.k(x).transpose(1, 2)) * 6**-0.5, -1), s.v(x)),
    "dropout": lambda s, x: F.dropout((s.q(x) @ s.k(x).mT / 6**0.5).softmax(-1), 0.5, False) @ s.v(x),
    "heads in a view": lambda s, x: ((s.q(x) @ s.k(x).mT / 6**0.5).softmax(-1)[:, None] @ s.v(x)[:, None])[:, 0],
    "weights in a view": lambda s, x: (s.q(x) @ s.k(x).mT / 6**0.5).softmax(-1).view(2, 1, 5, 5)[:, 0] @ s.v(x),
    "sdpa": lambda s, x: F.scaled_dot_product_attention(s.q(x), s.k(x), s.v(x)),
    "sdpa by name": lambda s, x: F.scaled_dot_product_attention(query=s.q(x), key=s.k(x), value=s.v(x)),
    "unpacked": lambda s, x: F.scaled_dot_product_attention(*torch.stack([s.q(x), s.k(x), s.v(x)])),
    "unbound": lambda s, x: F.scaled_dot_product_attention(*torch.stack([s.q(x), s.k(x), s.v(x)]).unbind(0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_head(way):
    model, x, seed = Made(WAYS[way], q=linear(), k=linear(), v=linear()), tokens(), tokens()
    assert close(model(x), explicit(model, x), 1e-12)
    assert close(lrp(model, x, seed, composite=EPSILON), by_hand(model, x, seed), 1e-8)


@pytest.mark.parametrize("mask", ["causal", "boolean", "float"])
def test_masks(mask):
    allowed = torch.ones(5, 5).tril().bool()
    options = {
        "causal": {"is_causal": True},
        "boolean": {"attn_mask": allowed},
        "float": {"attn_mask": torch.zeros(5, 5).double().masked_fill(~allowed, -torch.inf)},
    }[mask]
    own = Made(lambda s, x: (s.q(x) @ s.k(x).mT / 6**0.5).masked_fill(~allowed, -torch.inf).softmax(-1) @ s.v(x),
               q=linear(), k=linear(), v=linear())  # fmt: skip
    model = Made(lambda s, x: F.scaled_dot_product_attention(s.q(x), s.k(x), s.v(x), **options),
                 q=own.q, k=own.k, v=own.v)  # fmt: skip
    x, seed = tokens(), tokens()
    assert close(lrp(model, x, seed, composite=EPSILON), lrp(own, x, seed, composite=EPSILON), 1e-8)


@pytest.mark.parametrize("same", ["all", "query and key", "key and value"])
def test_one_tensor_as_query_key_and_value(same):
    """The weights are constants all the same."""
    one = {
        "all": lambda q, k, v: F.scaled_dot_product_attention(v, v, v),
        "query and key": lambda q, k, v: F.scaled_dot_product_attention(q, q, v),
        "key and value": lambda q, k, v: F.scaled_dot_product_attention(q, v, v),
    }[same]
    two = {
        "all": lambda q, k, v: F.scaled_dot_product_attention(v * 1, v * 1, v),
        "query and key": lambda q, k, v: F.scaled_dot_product_attention(q, q * 1, v),
        "key and value": lambda q, k, v: F.scaled_dot_product_attention(q, v * 1, v),
    }[same]
    parts, x, seed = {"q": linear(), "k": linear(), "v": linear()}, tokens(), tokens()
    models = (Made(lambda s, x, f=f: f(s.q(x), s.k(x), s.v(x)), **parts) for f in (one, two))
    assert close(*(lrp(model, x, seed, composite=EPSILON) for model in models), 1e-8)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_is_its_parts(need_weights, bias, average):
    """In terms of linear layers and one product of weights and values."""
    attention = nn.MultiheadAttention(6, 2, bias=bias, batch_first=True).double().eval()
    if bias:
        nn.init.uniform_(attention.in_proj_bias)
    options = {"need_weights": need_weights, "average_attn_weights": average}
    model = Made(lambda s, x: s.attention(x, x, x, **options)[0], attention=attention)
    x, seed = tokens(), tokens()
    parts = {name: nn.Linear(6, 6, bias=bias) for name in "qkv"}
    for i, part in enumerate(parts.values()):
        part.weight.data = attention.in_proj_weight.data.chunk(3)[i]
        if bias:
            part.bias.data = attention.in_proj_bias.data.chunk(3)[i]

    def separate(s, x):
        q, k, v = (p(x).view(2, 5, 2, 3).transpose(1, 2) for p in (s.q, s.k, s.v))
        y = (q @ k.transpose(2, 3) / 3**0.5).softmax(-1) @ v
        return s.out(y.transpose(1, 2).reshape(2, 5, 6))

    own = Made(separate, **parts, out=attention.out_proj)
    assert close(own(x), model(x), 1e-12)
    for composite in (EPSILON, layers((types.Linear, rules.ZPlus()))):
        assert close(lrp(model, x, seed, composite=composite), lrp(own, x, seed, composite=composite), 1e-8)


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_without_biases_conserves(need_weights):
    attention = nn.MultiheadAttention(6, 3, bias=False, kdim=4, vdim=6, batch_first=True)
    model = Made(lambda s, x: s.attention(x, x[..., :4], x, need_weights=need_weights)[0], attention=attention)
    x = tokens()
    output = model(x).detach()
    torch.testing.assert_close(lrp(model, x, output, composite=EPSILON).sum(), output.sum(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus", "epsilon_plus_flat", "excitation_backprop", "deep_taylor"])
def test_an_encoder(norm_first, name):
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = Made(lambda s, x: s.top(s.encoder(x).mean(1)), encoder=encoder, top=nn.Linear(6, 3))
    composite = composites.DeepTaylor(-3, 3) if name == "deep_taylor" else name
    relevance = lrp(model, tokens(), composite=composite)
    assert relevance.isfinite().all()
    assert relevance.any()


def test_an_encoder_without_biases_conserves():
    layer = nn.TransformerEncoderLayer(6, 2, 12, batch_first=True, bias=False, activation="gelu", norm_first=True)
    model = Made(lambda s, x: s.top(s.layer(x).mean(1)), layer=layer, top=linear(6, 3))
    x = tokens()
    output = model(x).detach()
    torch.testing.assert_close(lrp(model, x, output, composite=EPSILON).sum(), output.sum(), rtol=1e-5, atol=1e-5)
