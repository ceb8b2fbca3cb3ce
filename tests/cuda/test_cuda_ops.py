"""The ops on a GPU against the pure-torch references on the CPU, bit for bit."""

import pytest
import torch
from op_cases import (
    CELL_DTYPES,
    CELL_WIDTHS,
    RELEVANCE_DTYPES,
    RELEVANCE_OPS,
    Marking,
    Marks,
    Overlap,
    QuantileState,
    cell_case,
    cell_cases,
    fresh,
    overlap_case,
    overlap_cases,
    quantile_runs,
    relevance_cases,
    same_bits,
)
from path_cases import PATH_DTYPES, noise_cases, point_cases, sum_cases

from netinterp_fast import _library, ops
from netinterp_fast.backends import use_backend

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
PATH_OPS = ("path_points", "path_accumulate", "noise_points")
CELL_OPS = ("mark_cells", "take_cells", "put_cells")
OPS = ("unit_concept_overlap", "concept_area", "top_quantile_update", *CELL_OPS, *RELEVANCE_OPS, *PATH_OPS)
OVERLAPS = overlap_cases()
RUNS = quantile_runs()
PATHS = {
    dtype: dict(zip(PATH_OPS, (point_cases(dtype), sum_cases(dtype), noise_cases(dtype)), strict=True))
    for dtype in PATH_DTYPES
}
CELLS = {dtype: cell_cases(dtype) for dtype in CELL_DTYPES}
RELEVANCE = {dtype: relevance_cases(dtype) for dtype in RELEVANCE_DTYPES}


def raw(op):
    """The op itself, which must have a CUDA kernel: the dispatcher would quietly take the reference."""
    assert _library.native_kernel(op, torch.device(DEVICE)), _library.why_missing(DEVICE)
    return getattr(torch.ops.netinterp_fast, op).default


def on_device(case):
    return type(case)(*(arg.to(DEVICE) if isinstance(arg, torch.Tensor) else arg for arg in case))


def captured(run):
    """A graph of a call, which has run once before, and what the call returns: each replay writes it anew."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph, result


def assert_overlap(case: Overlap, got: Overlap, unit_area, first_bad):
    """`got` is the case after the op has run on it on the device, with what it returned."""
    expected = fresh(case)
    expected_area, expected_bad = _library.reference("unit_concept_overlap")(*expected)
    assert first_bad.tolist() == expected_bad.tolist()
    assert torch.equal(unit_area.cpu(), expected_area)
    assert torch.equal(got.intersection.cpu(), expected.intersection)


@pytest.mark.parametrize("op", OPS)
def test_has_a_native_kernel(op):
    raw(op)


@pytest.mark.parametrize("name", OVERLAPS)
def test_unit_concept_overlap(name):
    got = on_device(fresh(OVERLAPS[name]))
    assert_overlap(OVERLAPS[name], got, *raw("unit_concept_overlap")(*got))


def test_unit_concept_overlap_of_many_planes():
    case = overlap_case(images=9, units=700, coarse=(14, 14), size=(112, 112), layers=4, n_concepts=1197)
    got = on_device(fresh(case))
    assert_overlap(case, got, *raw("unit_concept_overlap")(*got))


@pytest.mark.parametrize("name", OVERLAPS)
def test_concept_area(name):
    labels, image_labels, n_concepts = OVERLAPS[name][2:5]
    area, first_bad = raw("concept_area")(labels.to(DEVICE), image_labels.to(DEVICE), n_concepts)
    expected_area, expected_bad = _library.reference("concept_area")(labels, image_labels, n_concepts)
    assert first_bad.tolist() == expected_bad.tolist()
    assert torch.equal(area.cpu(), expected_area)


@pytest.mark.parametrize("name", RUNS)
def test_top_quantile_update(name):
    keep, batches = RUNS[name]
    expected = QuantileState.empty(batches[0].shape[1], keep)
    got = on_device(expected)
    for acts in batches:
        maxima = _library.reference("top_quantile_update")(acts, keep, *expected)
        assert torch.equal(raw("top_quantile_update")(acts.to(DEVICE), keep, *got).cpu(), maxima)
        assert got.largest(keep) == expected.largest(keep)
        assert (got.count <= 2 * keep).all()


def test_nan_leaves_the_state_as_it_was():
    keep, batches = RUNS["many cuts"]
    state = on_device(QuantileState.empty(4, keep))
    raw("top_quantile_update")(batches[0].to(DEVICE), keep, *state)
    before = state.clone()
    acts = batches[1].to(DEVICE)
    acts[2, 1, 6, 6] = float("nan")
    maxima = raw("top_quantile_update")(acts, keep, *state)
    assert maxima.isnan().nonzero().tolist() == [[2, 1]]
    for got, expected in zip(state, before, strict=True):
        assert torch.equal(got.view(torch.int32), expected.view(torch.int32))


def tensors_on_device(arguments):
    """Copied as they lie, an offset from an aligned address included."""
    copies = []
    for tensor in arguments:
        if not isinstance(tensor, torch.Tensor):
            copies.append(tensor)
            continue
        room = torch.empty(tensor.numel() + tensor.storage_offset(), dtype=tensor.dtype, device=DEVICE)
        copies.append(room.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).copy_(tensor))
    return tuple(copies)


def cell_arguments(case: Marking, marks: Marks | None = None):
    """The arguments of each op of CELL_OPS, on the CPU."""
    marks = marks or Marks.of(case)
    values = _library.reference("take_cells")(case.acts, *marks)
    shape = (*case.acts.shape[:2], case.acts.shape[3])
    return {"mark_cells": case, "take_cells": (case.acts, *marks), "put_cells": (values, *marks[:3], *shape)}


def cell_results(op, run, arguments):
    """What an op of CELL_OPS returns, on the CPU."""
    results = run(*arguments)
    return [tensor.cpu() for tensor in (results if op == "mark_cells" else [results])]


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor]):
    for mine, wanted in zip(got, expected, strict=True):
        assert mine.dtype == wanted.dtype
        assert same_bits(mine, wanted) if mine.is_floating_point() else torch.equal(mine, wanted)


def assert_cells(case: Marking, marks: Marks | None = None):
    for op, arguments in cell_arguments(case, marks).items():
        expected = cell_results(op, _library.reference(op), arguments)
        on_gpu = tensors_on_device(arguments)
        assert_same(cell_results(op, raw(op), on_gpu), expected)
        assert_same(cell_results(op, _library.reference(op), on_gpu), expected)


@pytest.mark.parametrize("dtype", CELL_DTYPES)
@pytest.mark.parametrize("name", CELLS[torch.float32])
def test_cells(dtype, name):
    assert_cells(CELLS[dtype][name])


@pytest.mark.parametrize("width", CELL_WIDTHS)
def test_bits_past_the_end_of_a_row_mean_nothing(width):
    case = cell_case(width=width, images=9)
    assert_cells(case, Marks.of(case).with_spare_bits(width))


def test_cells_of_many_maps():
    assert_cells(cell_case(height=14, width=14, images=9, units=700))
    assert_cells(cell_case(height=300, width=301, images=2, units=9))


@pytest.mark.parametrize(
    "changes", [{"planes": torch.tensor([-1, 2**40])}, {"starts": torch.tensor([-(2**40), 2**40])}]
)
def test_marks_out_of_range_are_left_out(changes):
    """A kernel cannot raise; it must not touch what is not there."""
    marks = Marks(torch.tensor([1, 2]), torch.full((2, 3, 2), 255, dtype=torch.uint8), torch.tensor([0, 27]), 54)
    planes, bits, starts, n_values = on_device(marks._replace(**changes))
    assert not raw("take_cells")(torch.ones(2, 3, 3, 9, device=DEVICE), planes, bits, starts, n_values).any()
    acts = raw("put_cells")(torch.ones(n_values, device=DEVICE), planes, bits, starts, 2, 3, 9)
    assert (acts == float("-inf")).all()


@pytest.mark.parametrize("op", CELL_OPS)
def test_cells_in_a_cuda_graph(op):
    arguments = cell_arguments(CELLS[torch.float32]["width 33"])[op]
    static = tensors_on_device(arguments)
    graph, results = captured(lambda: raw(op)(*static))
    for scale in (1, 2):
        first = arguments[0] * scale
        static[0].copy_(first)
        graph.replay()
        torch.cuda.synchronize()
        expected = cell_results(op, _library.reference(op), (first, *arguments[1:]))
        assert_same(cell_results(op, lambda: results, ()), expected)


@pytest.mark.parametrize("op", RELEVANCE_OPS)
@pytest.mark.parametrize("dtype", RELEVANCE_DTYPES)
@pytest.mark.parametrize("name", RELEVANCE[torch.float32])
def test_relevance(op, dtype, name):
    arguments = RELEVANCE[dtype][name].of(op)
    expected = _library.reference(op)(*arguments)
    on_gpu = tensors_on_device(arguments)
    got = raw(op)(*on_gpu)
    assert same_bits(got.cpu(), expected)
    assert got.stride() == on_gpu[0].stride()
    assert same_bits(_library.reference(op)(*on_gpu).cpu(), expected)


@pytest.mark.parametrize("op", RELEVANCE_OPS)
def test_relevance_of_more_values_than_threads(op):
    random = torch.Generator().manual_seed(8)
    tensors = [torch.randn(9_000_001, generator=random) for _ in RELEVANCE[torch.float32]["typical"].of(op)[:-1]]
    with use_backend("native"):
        got = getattr(ops, op)(*(tensor.to(DEVICE) for tensor in tensors))
    assert same_bits(got.cpu(), _library.reference(op)(*tensors, 1e-6))


@pytest.mark.parametrize("op", RELEVANCE_OPS)
def test_relevance_in_a_cuda_graph(op):
    cases = [RELEVANCE[torch.float32][name].of(op) for name in ("typical", "of a ReLU")]
    static = tensors_on_device(cases[0])
    graph, result = captured(lambda: raw(op)(*static))
    for case in cases:
        for target, source in zip(static[:-1], case[:-1], strict=True):
            target.copy_(source)
        graph.replay()
        torch.cuda.synchronize()
        assert same_bits(result.cpu(), _library.reference(op)(*case))


def path_result(op, run, arguments):
    """What an op of PATH_OPS returns or adds up."""
    result = run(*arguments)
    return arguments[-1] if op == "path_accumulate" else result


def path_cases():
    return [(op, name) for op in PATH_OPS for name in PATHS[torch.float32][op]]


@pytest.mark.parametrize("dtype", PATH_DTYPES)
@pytest.mark.parametrize(("op", "name"), path_cases())
def test_paths_and_noise(dtype, op, name):
    case = PATHS[dtype][op][name]
    on_gpu, again = tensors_on_device(case), tensors_on_device(case)
    expected = path_result(op, _library.reference(op), case.fresh() if op == "path_accumulate" else case)
    assert same_bits(path_result(op, raw(op), on_gpu).cpu(), expected)
    assert same_bits(path_result(op, _library.reference(op), again).cpu(), expected)


def test_paths_and_noise_of_more_values_than_threads():
    random = torch.Generator().manual_seed(9)
    inputs, baseline = torch.randn(2, 3, 1_000_001, generator=random)
    alphas, out = torch.rand(7, 3, generator=random), torch.zeros(3, 1_000_001)
    arguments = {
        "path_points": (inputs, baseline, alphas, True),
        "path_accumulate": (inputs.repeat(7, 1), baseline.repeat(7, 1), alphas, 2, out),
        "noise_points": (inputs, alphas[0].clone(), 5, 7, 1, 2),
    }
    for op in PATH_OPS:
        on_gpu = tensors_on_device(arguments[op])
        expected = path_result(op, _library.reference(op), arguments[op])
        assert same_bits(path_result(op, raw(op), on_gpu).cpu(), expected)


@pytest.mark.parametrize("op", PATH_OPS)
def test_paths_and_noise_in_a_cuda_graph(op):
    case = PATHS[torch.float32][op]["typical"]
    static = tensors_on_device(case)
    graph, result = captured(lambda: path_result(op, raw(op), static))
    for scale in (2, 3):
        scaled = case._replace(**{case._fields[0]: case[0] * scale})
        for target, source in zip(static, scaled, strict=True):
            if isinstance(target, torch.Tensor):
                target.copy_(source)
        graph.replay()
        torch.cuda.synchronize()
        fresh_case = scaled.fresh() if op == "path_accumulate" else scaled
        assert same_bits(result.cpu(), path_result(op, _library.reference(op), fresh_case))


@pytest.mark.parametrize("op", PATH_OPS)
def test_wrappers_of_paths_and_noise_keep_to_the_device(op):
    inputs = torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last)
    calls = {
        "path_points": lambda t: ops.path_points(t, torch.zeros_like(t), torch.ones(2, device=t.device)),
        "path_accumulate": lambda t: ops.path_accumulate(t, torch.ones(1, device=t.device), torch.zeros_like(t)),
        "noise_points": lambda t: ops.noise_points(t, torch.ones(2, device=t.device), 2**63, 2),
    }
    with use_backend("native"):
        got, expected = calls[op](inputs.to(DEVICE)), calls[op](inputs)
    assert same_bits(got.cpu(), expected)
    assert got.stride() == expected.stride()


def test_wrappers_take_non_contiguous_tensors():
    case = overlap_case(size=(28, 28))
    strided = case.acts.to(DEVICE).transpose(2, 3).contiguous().transpose(2, 3)
    labels = case.labels.to(DEVICE).repeat_interleave(2, dim=3)[..., ::2]
    thresholds = torch.stack([case.thresholds, case.thresholds], 1).to(DEVICE)[:, 0]
    image_labels = case.image_labels.t().contiguous().t().to(DEVICE)
    assert not any(tensor.is_contiguous() for tensor in (strided, labels, thresholds, image_labels))
    expected = case._replace(intersection=torch.zeros_like(case.intersection))
    unit_area, _ = _library.reference("unit_concept_overlap")(*expected)
    with use_backend("native"):
        got = ops.unit_concept_overlap(strided, thresholds, labels, 12, image_labels=image_labels)
        area = ops.concept_area(labels, 12, image_labels=image_labels)
    assert torch.equal(got.unit_area.cpu(), unit_area)
    assert torch.equal(got.intersection.cpu(), expected.intersection)
    assert torch.equal(area.cpu(), ops.concept_area(case.labels, 12, image_labels=case.image_labels))


def assert_packed_alike(got: ops.PackedCells, expected: ops.PackedCells):
    assert got.shape == expected.shape
    for part, wanted in zip(got[:4], expected[:4], strict=True):
        assert part.is_cuda
        assert part.dtype == wanted.dtype
        assert torch.equal(part.cpu(), wanted)


@pytest.mark.parametrize("dtype", CELL_DTYPES)
def test_cells_are_packed_and_unpacked_on_the_device(dtype):
    case = CELLS[dtype]["width 33"]
    strided = case.acts.to(DEVICE).mT.contiguous().mT
    levels = torch.stack([case.levels, case.levels], 1).to(DEVICE)[:, 0]
    assert not any(tensor.is_contiguous() for tensor in (strided, levels))
    with use_backend("native"):
        got, expected = ops.pack_cells(strided, levels), ops.pack_cells(case.acts, case.levels)
        assert_packed_alike(got, expected)
        assert torch.equal(ops.unpack_cells(got).cpu(), ops.unpack_cells(expected))


def test_runs_on_the_current_stream():
    """Inputs become ready late, on a side stream; a kernel on another stream would miss them."""
    case = OVERLAPS["typical"]
    got = on_device(fresh(case))
    late = case.acts.to(DEVICE)
    got.acts.fill_(float("-inf"))
    keep, batches = RUNS["many cuts"]
    expected_state = QuantileState.empty(4, keep)
    _library.reference("top_quantile_update")(batches[0], keep, *expected_state)
    state, acts, late_acts = on_device(QuantileState.empty(4, keep)), torch.zeros(3, 4, 7, 7), batches[0]
    acts, late_acts = acts.to(DEVICE), late_acts.to(DEVICE)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        got.acts.copy_(late)
        acts.copy_(late_acts)
        result = raw("unit_concept_overlap")(*got)
        raw("top_quantile_update")(acts, keep, *state)
    stream.synchronize()
    assert_overlap(case, got, *result)
    assert state.largest(keep) == expected_state.largest(keep)


@pytest.mark.parametrize("op", CELL_OPS)
def test_cells_run_on_the_current_stream(op):
    arguments = cell_arguments(CELLS[torch.float32]["width 33"])[op]
    static, late = tensors_on_device(arguments), arguments[0].to(DEVICE)
    static[0].fill_(20.0)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        static[0].copy_(late)
        results = raw(op)(*static)
    stream.synchronize()
    expected = cell_results(op, _library.reference(op), arguments)
    assert_same(cell_results(op, lambda: results, ()), expected)


def test_overlap_and_area_in_a_cuda_graph():
    """One capture, replayed on inputs with and without a bad id."""
    cases = [OVERLAPS[name] for name in ("typical", "negative id", "all lit")]
    static = on_device(fresh(cases[0]._replace(inclusive=True)))
    overlap, concept_area = raw("unit_concept_overlap"), raw("concept_area")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        overlap(*static)
        concept_area(*static[2:5])
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = overlap(*static)
        area, _ = concept_area(*static[2:5])
    for case in cases:
        case = case._replace(inclusive=True)
        for target, source in zip(static, case, strict=True):
            if isinstance(target, torch.Tensor):
                target.copy_(source)
        graph.replay()
        torch.cuda.synchronize()
        assert_overlap(case, static, *result)
        assert torch.equal(area.cpu(), _library.reference("concept_area")(*case[2:5])[0])


def test_quantile_in_a_cuda_graph():
    keep, batches = RUNS["many cuts"]
    update = raw("top_quantile_update")
    static = batches[0].to(DEVICE)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        update(static, keep, *on_device(QuantileState.empty(4, keep)))
    side.synchronize()
    expected = QuantileState.empty(4, keep)
    state = on_device(expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update(static, keep, *state)
    for acts in batches:
        static.copy_(acts)
        graph.replay()
        torch.cuda.synchronize()
        _library.reference("top_quantile_update")(acts, keep, *expected)
        assert state.largest(keep) == expected.largest(keep)


def test_results_repeat():
    case = overlap_case(images=5, units=64, coarse=(14, 14), size=(56, 56))
    results = []
    for _ in range(3):
        got = on_device(fresh(case))
        results.append((*raw("unit_concept_overlap")(*got), got.intersection))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


needs_large_memory = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory < 30e9,
    reason="needs 30 GB of device memory",
)


@pytest.mark.extended
@needs_large_memory
def test_more_activations_than_2_to_31():
    """All images but the first two and the last three are below every threshold: those five decide."""
    n_images, ends = 11_000, torch.tensor([0, 1, 10_997, 10_998, 10_999])
    few = overlap_case(images=5, units=1000, coarse=(14, 14), size=(14, 14), act_dtype=torch.bfloat16)
    few = few._replace(thresholds=few.thresholds.abs())
    many = on_device(fresh(few))
    acts = torch.full((n_images, 1000, 14, 14), -1.0, dtype=torch.bfloat16, device=DEVICE)
    assert acts.numel() > 2**31
    labels = torch.zeros(n_images, *few.labels.shape[1:], dtype=torch.int64, device=DEVICE)
    image_labels = torch.zeros(n_images, 2, dtype=torch.int64, device=DEVICE)
    for target, source in ((acts, many.acts), (labels, many.labels), (image_labels, many.image_labels)):
        target[ends.to(DEVICE)] = source
    many = many._replace(acts=acts, labels=labels, image_labels=image_labels)
    unit_area, first_bad = raw("unit_concept_overlap")(*many)
    assert unit_area.sum() == unit_area[ends.to(DEVICE)].sum()
    assert_overlap(few, many, unit_area[ends.to(DEVICE)], first_bad)

    expected = QuantileState.empty(1000, 10)
    state = on_device(expected)
    _library.reference("top_quantile_update")(few.acts, 10, *expected)
    maxima = raw("top_quantile_update")(acts, 10, *state)
    assert torch.equal(maxima[ends.to(DEVICE)].cpu(), few.acts.float().amax((2, 3)))
    assert state.largest(10) == expected.largest(10)

    packed, few_packed = (ops.pack_cells(c.acts, c.thresholds) for c in (many, few))
    planes = ends[few_packed.planes // 1000] * 1000 + few_packed.planes % 1000
    assert_packed_alike(packed, few_packed._replace(planes=planes.int(), shape=tuple(acts.shape)))
    assert torch.equal(ops.unpack_cells(packed)[ends.to(DEVICE)].cpu(), ops.unpack_cells(few_packed))


@pytest.mark.extended
@needs_large_memory
def test_more_labels_than_2_to_31():
    few = overlap_case(images=1, coarse=(4, 4), size=(512, 512), layers=4, label_dtype=torch.uint8)
    last = on_device(fresh(few))
    labels = torch.zeros(2100, 4, 512, 512, dtype=torch.uint8, device=DEVICE)
    assert labels.numel() > 2**31
    labels[-1] = last.labels[0]
    acts = torch.full((2100, *few.acts.shape[1:]), -10.0, device=DEVICE)
    acts[-1] = last.acts[0]
    image_labels = torch.zeros(2100, 2, dtype=torch.int64, device=DEVICE)
    image_labels[-1] = last.image_labels[0]
    many = last._replace(acts=acts, labels=labels, image_labels=image_labels)
    unit_area, first_bad = raw("unit_concept_overlap")(*many)
    assert_overlap(few, many, unit_area[-1:], first_bad)

    area, _ = raw("concept_area")(labels, image_labels, 12)
    assert torch.equal(area[-1:].cpu(), _library.reference("concept_area")(*few[2:5])[0])
    assert not area[:-1].any()
    labels[-1, -1, -1, -1] = 12
    _, first_bad = raw("concept_area")(labels, image_labels, 12)
    assert first_bad.tolist() == [labels.numel() - 1, -1]
