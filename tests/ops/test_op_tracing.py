"""The ops under torch.library's own checks and under torch.compile."""

import pytest
import torch
from op_cases import Marks, QuantileState, cell_cases, fresh, overlap_cases, quantile_runs

from netinterp_fast import _library
from netinterp_fast.ops import concept_area, top_quantile_update, unit_concept_overlap

OVERLAPS = overlap_cases()
NAMES = ["typical", "inclusive", "1x1 maps", "no images", "no units", "no layers", "labels torch.uint16",
         "acts torch.bfloat16", "negative id"]  # fmt: skip


def check(op, arguments):
    results = torch.library.opcheck(getattr(torch.ops.netinterp_fast, op).default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_overlap(name):
    check("unit_concept_overlap", tuple(fresh(OVERLAPS[name])))


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_concept_area(name):
    check("concept_area", tuple(OVERLAPS[name][2:5]))


@pytest.mark.parametrize("name", ["many cuts", "fill phase only", "ties", "float16"])
def test_opcheck_top_quantile_update(name):
    keep, batches = quantile_runs()[name]
    check("top_quantile_update", (batches[0], keep, *QuantileState.empty(batches[0].shape[1], keep)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["width 33", "width 40, inclusive", "1x1 maps", "all dark", "no images", "no units"])
def test_opcheck_cells(name, dtype):
    case = cell_cases(dtype)[name]
    marks = Marks.of(case)
    check("mark_cells", tuple(case))
    check("take_cells", (case.acts, *marks))
    values = _library.reference("take_cells")(case.acts, *marks)
    check("put_cells", (values, *marks[:3], *case.acts.shape[:2], case.acts.shape[3]))


@pytest.fixture(params=["eager", "aot_eager"])
def compiled(request):
    torch.compiler.reset()
    yield lambda function: torch.compile(function, fullgraph=True, backend=request.param)
    torch.compiler.reset()


@pytest.mark.parametrize("name", ["typical", "acts torch.float16"])
def test_compiled_overlap(compiled, name):
    case = OVERLAPS[name]

    def tally(acts, thresholds, labels, image_labels):
        overlap = unit_concept_overlap(acts * 2, thresholds, labels, 12, image_labels=image_labels, check_finite=False)
        return overlap.intersection + 1, overlap.unit_area.sum(0)

    expected = tally(*case[:4])
    for got, plain in zip(compiled(tally)(*case[:4]), expected, strict=True):
        assert torch.equal(got, plain)


def test_compiled_overlap_adds_to_out(compiled):
    case = OVERLAPS["typical"]

    def tally(acts, out):
        return unit_concept_overlap(acts, case.thresholds, case.labels, 12, out=out, check_finite=False).unit_area

    out, plain = (torch.zeros(5, 12, dtype=torch.int64) for _ in range(2))
    assert torch.equal(compiled(tally)(case.acts, out), tally(case.acts, plain))
    assert torch.equal(out, plain)


def test_compiled_concept_area(compiled):
    case = OVERLAPS["typical"]

    def area(labels, image_labels):
        return concept_area(labels, 12, image_labels=image_labels) * 3

    assert torch.equal(compiled(area)(case.labels, case.image_labels), area(case.labels, case.image_labels))


def test_compiled_top_quantile_update(compiled):
    keep, batches = quantile_runs()["many cuts"]
    state, plain = QuantileState.empty(4, keep), QuantileState.empty(4, keep)
    update = compiled(lambda acts, *state: top_quantile_update(acts, keep, *state))
    for acts in batches:
        assert torch.equal(update(acts, *state), top_quantile_update(acts, keep, *plain))
    assert state.largest(keep) == plain.largest(keep)


def test_one_compilation_serves_other_sizes(compiled):
    """With dynamic shapes: the op's schema and fake are symbolic."""
    area = torch.compile(lambda labels: concept_area(labels, 12), fullgraph=True, backend="eager", dynamic=True)
    for images in (2, 3, 5):
        labels = torch.arange(images * 30).view(images, 1, 5, 6) % 12
        assert torch.equal(area(labels), concept_area(labels, 12))
