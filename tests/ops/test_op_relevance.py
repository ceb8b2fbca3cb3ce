"""stabilized_ratio, product_ratio and relu_gate: numpy's bits on every implementation, layouts, derivatives, errors."""

import numpy as np
import pytest
import torch
from op_cases import RELEVANCE_DTYPES, RELEVANCE_OPS, relevance_cases, same_bits

from netinterp_fast import _library, ops
from netinterp_fast.backends import use_backend

INF, NAN = float("inf"), float("nan")
CASES = {dtype: relevance_cases(dtype) for dtype in RELEVANCE_DTYPES}


def by_numpy(op, *arguments):
    """The formulas, each operation rounded to the type that they are computed in."""
    *tensors, epsilon = arguments
    real = np.float64 if tensors[0].dtype == torch.float64 else np.float32
    *factors, z = (tensor.to(torch.float64).numpy().astype(real) for tensor in tensors)
    epsilon = real(epsilon)
    with np.errstate(all="ignore"):
        if op == "relu_gate":
            result = np.where(z <= 0, real(0), factors[0] * z / (z + epsilon))
        else:
            product = factors[0] * factors[1] if len(factors) == 2 else factors[0]
            result = product / np.where(z < 0, z - epsilon, z + epsilon)
    assert result.dtype == real
    return torch.as_tensor(result).to(tensors[0].dtype)


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
@pytest.mark.parametrize("name", CASES[torch.float32])
def test_the_formulas(implementation, op, dtype, name):
    arguments = CASES[dtype][name].of(op)
    before = [tensor.clone() for tensor in arguments[:-1]]
    got = getattr(ops, op)(*arguments)
    assert same_bits(got, by_numpy(op, *arguments))
    assert got.stride() == arguments[0].stride()
    assert all(got.data_ptr() != tensor.data_ptr() or got.numel() == 0 for tensor in arguments[:-1])
    assert all(same_bits(tensor, old) for tensor, old in zip(arguments, before, strict=False))


def test_the_numpy_formulas_by_hand():
    z = torch.tensor([4.0, -4.0, 0.0, -0.0])
    assert ops.stabilized_ratio(torch.full((4,), 9.0), z, 0.5).tolist() == [2.0, -2.0, 18.0, 18.0]
    assert ops.product_ratio(torch.full((4,), 3.0), torch.full((4,), 3.0), z, 0.5).tolist() == [2.0, -2.0, 18.0, 18.0]
    assert ops.relu_gate(torch.full((4,), 9.0), z, 0.5).tolist() == [8.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
def test_relu_gate_is_nan_where_output_is_and_0_where_the_gate_is_shut(implementation, dtype):
    output = torch.tensor([NAN, 0.0, -0.0, -1e-6, -INF, INF, 2.0] * 20, dtype=dtype)
    for grad in (NAN, INF, -INF, -3.0, 0.0):
        got = ops.relu_gate(torch.full_like(output, grad), output)
        assert got.isnan().tolist() == [True, False, False, False, False, True, grad != grad] * 20
        assert same_bits(got[1:5], torch.zeros(4, dtype=dtype))


def test_epsilon_is_1e_6_unless_given(implementation):
    x, grad, z, _ = CASES[torch.float64]["typical"]
    assert same_bits(ops.stabilized_ratio(grad, z), ops.stabilized_ratio(grad, z, epsilon=1e-6))
    assert same_bits(ops.product_ratio(x, grad, z), ops.product_ratio(x, grad, z, epsilon=1e-6))
    assert same_bits(ops.relu_gate(grad, z), ops.relu_gate(grad, z, epsilon=1e-6))


def test_more_values_than_a_thread_takes(implementation):
    random = torch.Generator().manual_seed(3)
    for dtype in RELEVANCE_DTYPES:
        arguments = (*torch.randn(3, 100_003, generator=random).to(dtype), 1e-6)
        assert same_bits(ops.product_ratio(*arguments), by_numpy("product_ratio", *arguments))


LAYOUTS = {
    "channels last": (lambda t: t.to(memory_format=torch.channels_last), True),
    "permuted": (lambda t: t.permute(2, 0, 3, 1), True),
    "one channel, odd strides": (lambda t: t[:, :1].as_strided((4, 1, 8, 6), (48, 77, 6, 1)), True),
    "a part": (lambda t: t[1:3], True),
    "every second": (lambda t: t[:, ::2], False),
    "expanded": (lambda t: t[:1].expand(4, 6, 8, 6), False),
    "expanded from one": (lambda t: t[0, 0, 0, 0].expand(4, 3), False),
    "overlapping": (lambda t: t.as_strided((5, 5), (1, 1)), False),
}


def steps(tensor):
    """The strides that make a difference."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(implementation, op, layout):
    view, dense = LAYOUTS[layout]
    random = torch.Generator().manual_seed(4)
    arguments = [view(torch.randn(4, 6, 8, 6, generator=random)) for _ in CASES[torch.float32]["typical"].of(op)[:-1]]
    expected = by_numpy(op, *arguments, 1e-6)
    got = getattr(ops, op)(*arguments)
    assert same_bits(got, expected)
    assert steps(got) == steps(arguments[0]) if dense else got.is_contiguous()
    arguments[-1] = arguments[-1].clone(memory_format=torch.contiguous_format)  # one alone
    got = getattr(ops, op)(*arguments)
    assert same_bits(got, expected)
    assert got.is_contiguous() or dense


@pytest.mark.parametrize("op", RELEVANCE_OPS)
def test_derivatives_of_any_order_where_grad_is_needed(implementation, op):
    *tensors, _ = CASES[torch.float64]["typical"].of(op)
    tensors = [tensor[:1, :2, :3].clone().requires_grad_() for tensor in tensors]
    function = getattr(ops, op)
    assert torch.autograd.gradcheck(lambda *t: function(*t, 0.25), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: function(*t, 0.25), tensors)
    with torch.no_grad():
        got = function(*tensors)
    assert not got.requires_grad
    assert same_bits(got, function(*tensors).detach())


@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
def test_derivatives_stay_finite_where_the_gate_is_shut(dtype):
    grad = torch.tensor([3.0, 3.0, 3.0, INF], dtype=dtype, requires_grad=True)
    output = torch.tensor([2.0, 0.0, -1.0, 0.0], dtype=dtype, requires_grad=True)
    ops.relu_gate(grad, output, 0.0).sum().backward()
    assert grad.grad.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert output.grad.tolist() == [0.0, 0.0, 0.0, 0.0]


def good(op):
    names = {"stabilized_ratio": ["relevance", "z"], "product_ratio": ["x", "grad", "z"]}
    return {name: torch.ones(2, 3) for name in names.get(op, ["grad", "output"])}


BAD_TENSORS = {
    "list": ([1.0], TypeError, "{name} is list; it must be a tensor"),
    "None": (None, TypeError, "{name} is NoneType; it must be a tensor"),
    "int": (
        torch.ones(2, 3).int(),
        TypeError,
        "{name} has dtype int32; it must be float32, float64, float16, bf",
    ),
    "complex": (torch.ones(2, 3).cfloat(), TypeError, "{name} has dtype complex64; it must be float32, float64"),
    "other dtype": (torch.ones(2, 3).half(), TypeError, "float16|float32, {first} float16; they must be the same"),
    "other shape": (torch.ones(3), ValueError, r"has shape \[3\]|\[2, 3\], {first} \[3\]; they must be the same"),
    "broadcast": (torch.ones(1, 3), ValueError, r"has shape \[1, 3\]|\[2, 3\], {first} \[1, 3\]; they must"),
    "elsewhere": (torch.ones(2, 3, device="meta"), ValueError, "is on meta|cpu, {first} on meta; they must be the"),
}


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("bad", BAD_TENSORS)
def test_bad_tensors(implementation, op, bad):
    value, error, message = BAD_TENSORS[bad]
    first, *_ = good(op)
    for name in good(op):
        with pytest.raises(error, match=message.format(name=name, first=first)):
            getattr(ops, op)(**good(op) | {name: value})


BAD_EPSILONS = {
    "negative": (-1e-6, ValueError, r"epsilon is -1e-06; it must be finite, >= 0"),
    "NaN": (NAN, ValueError, "epsilon is nan"),
    "inf": (INF, ValueError, "epsilon is inf"),
    "beyond float32": (1e39, ValueError, r"epsilon is 1e\+39; .* within the range of the computation"),
    "string": ("1e-6", TypeError, "epsilon is '1e-6'; it must be a float"),
    "bool": (True, TypeError, "epsilon is True"),
    "None": (None, TypeError, "epsilon is None"),
    "tensor": (torch.tensor(1e-6), TypeError, r"epsilon is tensor\(1\.0"),
}


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("bad", BAD_EPSILONS)
def test_bad_epsilons(implementation, op, bad):
    value, error, message = BAD_EPSILONS[bad]
    with pytest.raises(error, match=message):
        getattr(ops, op)(**good(op), epsilon=value)


def test_float64_takes_an_epsilon_beyond_float32(implementation):
    assert ops.stabilized_ratio(torch.ones(1).double(), torch.ones(1).double(), 1e200).tolist() == [1e-200]


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
@pytest.mark.parametrize("name", ["typical", "channels last", "no dimensions", "empty"])
def test_opcheck(op, dtype, name):
    results = torch.library.opcheck(getattr(torch.ops.netinterp_fast, op).default, CASES[dtype][name].of(op))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", ["typical", "channels last"])
def test_compiled(op, requires_grad, layout):
    *tensors, epsilon = CASES[torch.float32][layout].of(op)
    tensors = [tensor.detach().requires_grad_(requires_grad) for tensor in tensors]
    torch.compiler.reset()
    compiled = torch.compile(lambda *t: getattr(ops, op)(*t, epsilon) + 1, fullgraph=True, backend="aot_eager")
    got, expected = compiled(*tensors), getattr(ops, op)(*tensors, epsilon) + 1
    torch.compiler.reset()
    assert same_bits(got.detach(), expected.detach())
    assert got.stride() == expected.stride()
    assert got.requires_grad == requires_grad


@pytest.mark.parametrize("op", RELEVANCE_OPS)
def test_the_reference_needs_no_native_kernel(monkeypatch, op):
    monkeypatch.setattr(_library, "native_kernel", lambda op, device: False)
    arguments = CASES[torch.float32]["typical"].of(op)
    with use_backend("native"), pytest.raises(RuntimeError, match=f"no native kernel of {op} for cpu"):
        getattr(ops, op)(*arguments)
