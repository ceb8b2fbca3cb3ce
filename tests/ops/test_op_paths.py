"""path_points and path_accumulate: numpy's bits on every implementation, analytic facts, layouts, errors."""

import numpy as np
import pytest
import torch
from op_cases import same_bits
from path_cases import PATH_DTYPES, point_cases, real, sum_cases

from netinterp_fast import ops
from netinterp_fast.ops.paths import VALUES

POINTS = {dtype: point_cases(dtype) for dtype in PATH_DTYPES}
SUMS = {dtype: sum_cases(dtype) for dtype in PATH_DTYPES}


def wide(tensor):
    """As numpy computes with it; widening is exact."""
    return tensor.double().numpy().astype(np.float64 if tensor.dtype == torch.float64 else np.float32)


def by_step(numbers):
    """What the raw op takes as what the wrapper takes."""
    return numbers[:, 0] if numbers.shape[1] == 1 else numbers


def numpy_points(inputs, baseline, alphas, relu):
    x, base, alphas = wide(inputs), wide(baseline), wide(alphas)
    rows = []
    with np.errstate(all="ignore"):
        for step in range(alphas.shape[0]):
            for example in range(x.shape[0]):
                alpha = alphas[step, example if alphas.shape[1] > 1 else 0]
                point = base[example] + alpha * (x[example] - base[example])
                rows.append(np.where(point <= 0, 0, point) if relu else point)
    return torch.as_tensor(np.array(rows, x.dtype).reshape(len(rows), x.shape[1])).to(inputs.dtype)


def numpy_sums(grads, gate, weights, value, out):
    grads, weights, sums = wide(grads), wide(weights), wide(out).copy()
    n = sums.shape[0]
    with np.errstate(all="ignore"):
        for row in range(grads.shape[0]):
            step, example = divmod(row, n)
            values = grads[row] if gate is None else np.where(wide(gate[row]) <= 0, grads.dtype.type(0), grads[row])
            values = (values, np.abs(values), values * values)[value]
            sums[example] += weights[step, example if weights.shape[1] > 1 else 0] * values
    return torch.as_tensor(sums)


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", POINTS[torch.float32])
def test_points_by_numpy(implementation, dtype, name):
    case = POINTS[dtype][name]
    got = ops.path_points(case.inputs, case.baseline, by_step(case.alphas), relu=case.relu)
    assert same_bits(got, numpy_points(*case))


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", SUMS[torch.float32])
def test_sums_by_numpy(implementation, dtype, name):
    case = SUMS[dtype][name].fresh()
    expected = numpy_sums(*case)
    got = ops.path_accumulate(case.grads, by_step(case.weights), case.out, value=VALUES[case.value], gate=case.gate)
    assert got is case.out
    assert same_bits(got, expected)


def test_more_numbers_than_a_thread_takes(implementation):
    random = torch.Generator().manual_seed(3)
    for dtype in PATH_DTYPES:
        inputs, baseline = torch.randn(2, 3, 30_001, generator=random).to(dtype)
        points = ops.path_points(inputs, baseline, torch.tensor([0.3, 0.7], dtype=torch.float64))
        alphas = torch.tensor([[0.3], [0.7]], dtype=real(dtype))
        assert same_bits(points, numpy_points(inputs, baseline, alphas, False))
        out = torch.zeros(3, 30_001, dtype=alphas.dtype)
        expected = numpy_sums(points, None, alphas, 1, out)
        assert same_bits(ops.path_accumulate(points, alphas[:, 0], out, value="absolute"), expected)


def test_points_by_hand(implementation):
    inputs, baseline = torch.tensor([[4.0, -4.0], [8.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 2.0]])
    got = ops.path_points(inputs, baseline, torch.tensor([0.0, 0.25, 1.0]))
    assert got.tolist() == [[0, 4], [0, 2], [1, 2], [2, 1.5], [4, -4], [8, 0]]
    got = ops.path_points(inputs, baseline, torch.tensor([[0.5, 1.0]], dtype=torch.float64), relu=True)
    assert got.tolist() == [[2, 0], [8, 0]]


def test_relu_leaves_nan_and_makes_no_negative_zero(implementation):
    inputs = torch.tensor([[float("nan"), -0.0, -1e-30, 1e-30]] * 10)
    got = ops.path_points(inputs, torch.zeros_like(inputs), torch.ones(1), relu=True)
    assert same_bits(got, torch.tensor([[float("nan"), 0.0, 0.0, 1e-30]] * 10))


def test_sums_by_hand(implementation):
    grads, gate = torch.tensor([[1.0], [-2.0], [3.0], [-4.0]]), torch.tensor([[1.0], [0.0], [float("nan")], [2.0]])
    weights, by_example = torch.tensor([1.0, 10.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    def sums(weights, **how):
        return ops.path_accumulate(grads, weights, torch.ones(2, 1), **how).flatten().tolist()

    assert sums(weights) == [1 + 1 + 30, 1 - 2 - 40]
    assert sums(weights, value="absolute") == [1 + 1 + 30, 1 + 2 + 40]
    assert sums(by_example, value="square") == [1 + 1 + 3 * 9, 1 + 2 * 4 + 4 * 16]
    assert sums(weights, gate=gate) == [1 + 1 + 30, 1 - 40]
    assert sums(weights, gate=gate, value="square") == [1 + 1 + 90, 1 + 160]


def test_midpoints_integrate_a_quadratic_function_exactly(implementation):
    """Integrated gradients of the sum of squares are the differences of the squares."""
    random = torch.Generator().manual_seed(5)
    inputs, baseline = torch.randn(2, 4, 3, 6, 6, generator=random, dtype=torch.float64)
    alphas = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    grads = 2 * ops.path_points(inputs, baseline, alphas)
    total = ops.path_accumulate(grads, torch.full((16,), 1 / 16), torch.zeros_like(inputs))
    torch.testing.assert_close(total * (inputs - baseline), inputs**2 - baseline**2, rtol=1e-13, atol=1e-13)


def test_steps_in_parts_give_the_same_bits(implementation):
    random = torch.Generator().manual_seed(6)
    grads, weights = torch.randn(7 * 3, 50, generator=random), torch.randn(7, generator=random)
    whole = ops.path_accumulate(grads, weights, torch.zeros(3, 50))
    parts = torch.zeros(3, 50)
    for first, last in ((0, 2), (2, 3), (3, 7)):
        ops.path_accumulate(grads[3 * first : 3 * last], weights[first:last], parts)
    assert same_bits(parts, whole)


LAYOUTS = {
    "contiguous": (lambda t: t.contiguous(), True),
    "channels last": (lambda t: t.to(memory_format=torch.channels_last), True),
    "permuted": (lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), True),
    "a part of the batch": (lambda t: t[1:3], True),
    "one example of another stride": (lambda t: t[:1].as_strided((1, 6, 8, 6), (7, 48, 6, 1)), True),
    "one channel": (lambda t: t[:, :1].contiguous().to(memory_format=torch.channels_last), True),
    "every second": (lambda t: t[:, ::2], False),
    "the batch inside": (lambda t: t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2), False),
    "expanded": (lambda t: t[:1].expand(4, 6, 8, 6), False),
}


def example_steps(tensor):
    """The strides that make a difference, within an example."""
    return [stride for stride, size in zip(tensor.stride()[1:], tensor.shape[1:], strict=True) if size > 1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_of_points(implementation, layout):
    view, dense = LAYOUTS[layout]
    random = torch.Generator().manual_seed(4)
    inputs, baseline = (view(torch.randn(4, 6, 8, 6, generator=random)) for _ in range(2))
    alphas = torch.tensor([[0.2, 9.0], [0.7, 9.0], [1.5, 9.0]])[:, 0]
    plain = ops.path_points(inputs.contiguous(), baseline.contiguous(), alphas.contiguous())
    got = ops.path_points(inputs, baseline, alphas)
    assert same_bits(got, plain)
    assert example_steps(got) == example_steps(inputs) if dense else got.is_contiguous()
    assert got.is_contiguous() or got.stride(0) == inputs[0].numel()
    assert same_bits(ops.path_points(inputs, baseline.contiguous(), alphas), plain)
    assert same_bits(ops.path_points(inputs.contiguous(), baseline, alphas), plain)


GRAD_LAYOUTS = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "with gaps": lambda t: torch.stack([t, t], -1)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_grads", GRAD_LAYOUTS)
def test_any_memory_layout_of_sums(implementation, layout, of_grads):
    view, dense = LAYOUTS[layout]
    random = torch.Generator().manual_seed(4)
    out = view(torch.randn(4, 6, 8, 6, generator=random))
    shape = (2 * out.shape[0], *out.shape[1:])
    grads, gate = (GRAD_LAYOUTS[of_grads](torch.randn(shape, generator=random)) for _ in range(2))
    weights = torch.tensor([0.3, -2.0])
    if not dense:
        with pytest.raises(ValueError, match=r"out has shape .* and strides .*; it must have no gaps"):
            ops.path_accumulate(grads, weights, out, gate=gate)
        return
    plain = ops.path_accumulate(grads.contiguous(), weights, out.contiguous().clone(), gate=gate.contiguous())
    assert ops.path_accumulate(grads, weights, out, gate=gate) is out
    assert same_bits(out, plain)


def test_nothing_is_recorded_for_autograd(implementation):
    inputs, alphas = torch.randn(2, 3, requires_grad=True), torch.rand(4, requires_grad=True)
    points = ops.path_points(inputs, torch.zeros(2, 3, requires_grad=True), alphas)
    assert points.is_leaf
    assert not points.requires_grad
    grads = points.clone().requires_grad_()
    out = ops.path_accumulate(grads, alphas, torch.zeros(2, 3), gate=grads)
    assert not out.requires_grad


def points_arguments(**changes):
    return {"inputs": torch.ones(2, 3), "baseline": torch.ones(2, 3), "alphas": torch.ones(4)} | changes


def sums_arguments(**changes):
    return {"grads": torch.ones(8, 3), "weights": torch.ones(4), "out": torch.zeros(2, 3)} | changes


META = {"device": "meta"}
BAD_POINTS = {
    "list": ({"inputs": [1.0]}, TypeError, "inputs is list; it must be a tensor"),
    "no baseline": ({"baseline": None}, TypeError, "baseline is NoneType; it must be a tensor"),
    "integers": ({"inputs": torch.ones(2, 3).int()}, TypeError, "inputs has dtype int32; it must be float32, float64"),
    "dtypes": ({"baseline": torch.ones(2, 3).half()}, TypeError, "baseline has dtype float16, inputs float32; they"),
    "shapes": ({"baseline": torch.ones(1, 3)}, ValueError, r"baseline has shape \[1, 3\], inputs \[2, 3\]; they"),
    "elsewhere": ({"baseline": torch.ones(2, 3, **META)}, ValueError, "baseline is on meta, inputs on cpu; they"),
    "no batch": (
        {"inputs": torch.tensor(1.0), "baseline": torch.tensor(1.0)},
        ValueError,
        r"inputs has shape \[\]; it must be \[B, \.\.\.\]",
    ),
    "alphas a list": ({"alphas": [0.5]}, TypeError, r"alphas is list; it must be a tensor \[K\]"),
    "alphas 0-d": ({"alphas": torch.tensor(0.5)}, ValueError, r"alphas has shape \[\]; it must be \[K\]"),
    "alphas 3-d": ({"alphas": torch.ones(1, 2, 3)}, ValueError, r"alphas has shape \[1, 2, 3\]; it must be \[K\]"),
    "alphas of others": ({"alphas": torch.ones(4, 3)}, ValueError, r"alphas has shape \[4, 3\]; .* with B = 2"),
    "alphas half": ({"alphas": torch.ones(4).half()}, TypeError, "alphas has dtype float16; it must be float32, float"),
    "alphas elsewhere": ({"alphas": torch.ones(4, **META)}, ValueError, "alphas is on meta; it must be on cpu"),
}
BAD_SUMS = {
    "list": ({"grads": [1.0]}, TypeError, "grads is list; it must be a tensor"),
    "integers": ({"grads": torch.ones(8, 3).int()}, TypeError, "grads has dtype int32; it must be float32, float64"),
    "no batch": ({"grads": torch.tensor(1.0)}, ValueError, r"grads has shape \[\]; it must be \[B, \.\.\.\]"),
    "rows": ({"grads": torch.ones(7, 3)}, ValueError, r"grads has shape \[7, 3\]; its dimension 0 must be 8: the K of"),
    "steps": ({"weights": torch.ones(3)}, ValueError, r"grads has shape \[8, 3\]; its dimension 0 must be 6"),
    "weights of others": ({"weights": torch.ones(4, 3)}, ValueError, r"weights has shape \[4, 3\]; .* with B = 2"),
    "weights int": (
        {"weights": torch.ones(4).int()},
        TypeError,
        "weights has dtype int32; it must be float32, float64",
    ),
    "weights elsewhere": ({"weights": torch.ones(4, **META)}, ValueError, "weights is on meta; it must be on cpu"),
    "no out": ({"out": None}, TypeError, "out is NoneType; it must be a tensor"),
    "narrow out": (
        {"grads": torch.ones(8, 3).half(), "out": torch.zeros(2, 3).half()},
        TypeError,
        "out has dtype float16; it must be float32",
    ),
    "out of other width": ({"out": torch.zeros(2, 3).double()}, TypeError, "out has dtype float64; it must be float32"),
    "out of other size": ({"out": torch.zeros(2, 4)}, ValueError, r"out has shape \[2, 4\]; it must be \[B, \.\.\.\]"),
    "out of other rank": ({"out": torch.zeros(2, 3, 1)}, ValueError, r"out has shape \[2, 3, 1\]; it must be \[B"),
    "out elsewhere": ({"out": torch.zeros(2, 3, **META)}, ValueError, "out is on meta, grads on cpu; they must be"),
    "out with gaps": ({"out": torch.zeros(2, 6)[:, ::2]}, ValueError, r"out has shape \[2, 3\] and strides \[6, 2\]"),
    "out transposed": ({"out": torch.zeros(3, 2).T}, ValueError, r"strides \[1, 2\]; it must have no gaps, and the b"),
    "out that requires grad": ({"out": torch.zeros(2, 3, requires_grad=True)}, ValueError, "out requires grad; it is"),
    "value": ({"value": "cube"}, ValueError, "value is 'cube'; it must be one of signed, absolute, square"),
    "gate dtype": ({"gate": torch.ones(8, 3).half()}, TypeError, "gate has dtype float16, grads float32; they must be"),
    "gate shape": ({"gate": torch.ones(2, 3)}, ValueError, r"gate has shape \[2, 3\], grads \[8, 3\]; they must be"),
    "gate elsewhere": ({"gate": torch.ones(8, 3, **META)}, ValueError, "gate is on meta, grads on cpu; they must be"),
}


@pytest.mark.parametrize("bad", BAD_POINTS)
def test_bad_points(implementation, bad):
    changes, error, message = BAD_POINTS[bad]
    with pytest.raises(error, match=message):
        ops.path_points(**points_arguments(**changes))


@pytest.mark.parametrize("bad", BAD_SUMS)
def test_bad_sums(implementation, bad):
    changes, error, message = BAD_SUMS[bad]
    arguments = sums_arguments(**changes)
    before = arguments["out"].detach().clone() if bad.startswith(("gate", "value", "rows")) else None
    with pytest.raises(error, match=message):
        ops.path_accumulate(**arguments)
    assert before is None or torch.equal(arguments["out"], before)


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize("name", ["typical", "by example", "no steps", "empty examples"])
def test_opcheck(dtype, name):
    namespace = torch.ops.netinterp_fast
    results = torch.library.opcheck(namespace.path_points.default, tuple(POINTS[dtype][name]))
    assert set(results.values()) == {"SUCCESS"}
    results = torch.library.opcheck(namespace.path_accumulate.default, tuple(SUMS[dtype][name].fresh()))
    assert set(results.values()) == {"SUCCESS"}


def test_opcheck_of_gates():
    results = torch.library.opcheck(
        torch.ops.netinterp_fast.path_accumulate.default, tuple(SUMS[torch.float32]["gated"])
    )
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_compiled(layout):
    view, _ = LAYOUTS[layout]
    random = torch.Generator().manual_seed(8)
    inputs, baseline = (view(torch.randn(4, 6, 8, 6, generator=random)) for _ in range(2))

    def integrate(inputs, baseline, out):
        points = ops.path_points(inputs, baseline, torch.tensor([0.25, 0.75]))
        return ops.path_accumulate(points * 2, torch.tensor([0.5, 0.5]), out, gate=points) + 1

    torch.compiler.reset()
    out, plain = torch.zeros_like(inputs), torch.zeros_like(inputs)
    compiled = torch.compile(integrate, fullgraph=True, backend="aot_eager")
    got, expected = compiled(inputs, baseline, out), integrate(inputs, baseline, plain)
    torch.compiler.reset()
    assert same_bits(got, expected)
    assert same_bits(out, plain)
    assert got.stride() == expected.stride()
