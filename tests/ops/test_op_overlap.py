"""unit_concept_overlap: all implementations give a brute force's tallies, F.interpolate's but for ties."""

import brute_force
import pytest
import torch
import torch.nn.functional as F
from op_cases import LABEL_DTYPES, overlap_case, overlap_cases, random_overlap_case

from netinterp_fast.ops import unit_concept_overlap

INF = float("inf")


def in_range(case) -> bool:
    ids = torch.cat([case.labels.long().flatten(), case.image_labels.flatten()])
    return bool(((ids >= 0) & (ids < case.n_concepts)).all())


def ragged_noise(layers=2, size=(14, 11), coarse=(5, 4)):
    """Each pixel of each layer carries an id of its own."""
    n = layers * size[0] * size[1]
    case = overlap_case(images=1, units=6, layers=layers, image_labels=0, coarse=coarse, size=size, n_concepts=n + 1)
    ids = torch.randperm(n, generator=torch.Generator().manual_seed(7)) + 1
    return case._replace(labels=ids.view(1, layers, *size))


def wide_ids(low: int, dtype: torch.dtype):
    """Ids above a limit of narrow integers, on both sides of it."""
    case = overlap_case(n_concepts=low + 40, size=(9, 10), coarse=(3, 3))
    ids = torch.randint(low - 20, low + 40, case.labels.shape, generator=torch.Generator().manual_seed(8))
    return case._replace(labels=ids.to(dtype))


def relu_maps():
    acts = torch.randn(2, 5, 6, 6, generator=torch.Generator().manual_seed(9)).relu()
    acts[:, 3] = 0.0  # a dead unit, whose threshold is 0 too
    return overlap_case(acts=acts, coarse=(6, 6), size=(25, 25), thresholds=torch.zeros(5))


def same_id_everywhere():
    case = overlap_case(layers=3, image_labels=3, size=(8, 8))
    case.labels[:, 0] = case.labels[:, 1] = 3
    case.image_labels[:] = torch.tensor([[5, 5, 0], [3, 7, 3]])  # in labels too, and twice
    return case


CASES = {name: case for name, case in overlap_cases().items() if in_range(case)} | {
    "each pixel its own id": ragged_noise(),
    "each pixel its own id, map larger": ragged_noise(coarse=(31, 23)),
    "ReLU maps at 0, one unit dead": relu_maps(),
    "one id in layers and image labels": same_id_everywhere(),
    "one pixel": overlap_case(size=(1, 1), coarse=(4, 3)),
    "one row of pixels": overlap_case(size=(1, 23), coarse=(4, 3)),
    "one column of pixels": overlap_case(size=(23, 1), coarse=(4, 3)),
    "ids around 255": wide_ids(255, torch.int32),
    "ids around 32767": wide_ids(32_767, torch.uint16),
    "ids around 65535": wide_ids(65_535, torch.int64),
}
EXPECTED = {}


def expected(name, case):
    """(the tally before + what is counted, unit_area) by brute force, once for all implementations."""
    if name not in EXPECTED:
        arguments = (case.acts, case.thresholds, case.labels, case.image_labels, case.n_concepts)
        counted, unit_area = brute_force.overlap(*arguments, case[6:10], case.inclusive)
        counted += tally_before(case)
        EXPECTED[name] = counted, unit_area
    return EXPECTED[name]


def tally_before(case):
    """Counts to add to; those of the cases are random in column 0 too."""
    tally = case.intersection.clone()
    tally[:, 0] = 0
    return tally


def run(case, **changes):
    keywords = {"image_labels": case.image_labels, "inclusive": case.inclusive, "scale_offset": case[6:10]}
    return unit_concept_overlap(case.acts, case.thresholds, case.labels, case.n_concepts, **keywords | changes)


def assert_overlap(got, intersection, unit_area):
    assert got.intersection.dtype == got.unit_area.dtype == torch.int64
    assert torch.equal(got.unit_area, unit_area)
    assert torch.equal(got.intersection, intersection)


@pytest.mark.parametrize("name", CASES)
def test_equals_brute_force(implementation, name):
    case = CASES[name]
    out = tally_before(case)
    got = run(case, out=out, check_finite=bool(case.acts.isfinite().all()))
    assert got.intersection is out
    assert_overlap(got, *expected(name, case))


@pytest.mark.parametrize("seed", range(30))
def test_equals_brute_force_on_random_cases(implementation, seed):
    case = random_overlap_case(1000 + seed)
    got = run(case, out=tally_before(case))
    assert_overlap(got, *expected(seed, case))


T = True
LADDER = [[0.0, 1.0, 2.0, 3.0]]  # on twice as many pixels: 0, .25, .75, 1.25, 1.75, 2.25, 2.75, 3
TABLE = {  # name: (map, label rows, threshold, keywords, {concept: pixels}, unit area)
    "above 1": (LADDER, [[1, 1, 1, 2, 2, 2, 2, 3]], 1.0, {}, {2: 4, 3: 1}, 5),
    "tie at 1.25": (LADDER, [[1, 1, 1, 2, 2, 2, 2, 3]], 1.25, {}, {2: 3, 3: 1}, 4),
    "tie at 1.25, inclusive": (LADDER, [[1, 1, 1, 2, 2, 2, 2, 3]], 1.25, {"inclusive": T}, {2: 4, 3: 1}, 5),
    "aligned: 0, 1.5, 3": (LADDER, [[1, 2, 3]], 1.5, {"align_corners": T}, {3: 1}, 1),
    "aligned, inclusive": (LADDER, [[1, 2, 3]], 1.5, {"align_corners": T, "inclusive": T}, {2: 1, 3: 1}, 2),
    "centres at 1, 3, 5, 7": (LADDER, [[1, 2, 3, 4, 5, 6, 7, 8]], 1.5, {"scale_offset": (1, 2, 0, 1)},
                              {6: 1, 7: 1, 8: 1}, 3),
    "unlabelled pixels": (LADDER, [[0, 0, 0, 0, 0, 0, 0, 9]], -1.0, {}, {9: 1}, 8),
    "image label": (LADDER, [[0, 0, 0, 0, 0, 0, 0, 9]], -1.0, {"image_labels": [[4, 0, 4]]}, {4: 8, 9: 1}, 8),
    "image label also in labels": (LADDER, [[4, 4, 0, 0, 0, 0, 0, 9]], 2.0, {"image_labels": [[4]]},
         {4: 3, 9: 1}, 3),
    "nothing above +inf": (LADDER, [[1, 2]], INF, {}, {}, 0),
    "all above -inf": (LADDER, [[1, 2]], -INF, {}, {1: 1, 2: 1}, 2),
    "all at least -inf": (LADDER, [[1, 2]], -INF, {"inclusive": T}, {1: 1, 2: 1}, 2),
    "plateau at T": ([[6.0, 6.0], [6.0, 6.0]], [[1] * 7] * 5, 6.0, {}, {}, 0),
    "plateau at T, inclusive": ([[6.0, 6.0], [6.0, 6.0]], [[1] * 7] * 5, 6.0, {"inclusive": T}, {1: 35}, 35),
    "one cell": ([[2.0]], [[1, 1], [2, 0]], 1.0, {}, {1: 2, 2: 1}, 4),
    "map of 4 on one pixel: 1.5": (LADDER, [[1]], 1.25, {}, {1: 1}, 1),
    "map of 4 on one pixel, tie": (LADDER, [[1]], 1.5, {}, {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_small_tables_worked_out_by_hand(implementation, name):
    rows, label_rows, threshold, keywords, counted, unit_area = TABLE[name]
    keywords = {k: torch.tensor(v) if k == "image_labels" else v for k, v in keywords.items()}
    acts, labels = torch.tensor(rows)[None, None], torch.tensor(label_rows)[None, None]
    got = unit_concept_overlap(acts, torch.tensor([threshold]), labels, 10, **keywords)
    intersection = torch.zeros(1, 10, dtype=torch.int64)
    for concept, pixels in counted.items():
        intersection[0, concept] = pixels
    assert_overlap(got, intersection, torch.tensor([[unit_area]]))


def test_the_same_id_in_two_layers_counts_once(implementation):
    labels = torch.tensor([[[[1, 1, 2]], [[1, 2, 2]], [[3, 1, 2]]]])
    got = unit_concept_overlap(torch.ones(1, 1, 1, 1), torch.zeros(1), labels, 4)
    assert got.intersection.tolist() == [[0, 2, 2, 1]]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("coarse", "size"),
    [((7, 7), (112, 112)), ((14, 14), (113, 113)), ((6, 9), (40, 57)), ((30, 31), (17, 12))],
)
def test_differs_from_interpolate_only_at_ties(implementation, coarse, size, align_corners):
    random = torch.Generator().manual_seed(11)
    acts = torch.randn(3, 16, *coarse, generator=random)
    thresholds = acts.amax((0, 2, 3)) * torch.linspace(-0.5, 0.9, 16)
    pixels = torch.arange(size[0] * size[1])
    labels = (1 + pixels // 5).view(1, 1, *size).expand(3, -1, -1, -1)
    n_concepts = int(labels.max()) + 1

    surface = F.interpolate(acts, size, mode="bilinear", align_corners=align_corners)
    level = thresholds.view(1, -1, 1, 1)
    near = (surface - level).abs() <= 1e-5 * acts.abs().amax((2, 3), keepdim=True)
    lit = (surface > level).flatten(2)
    one_hot = F.one_hot(labels[0].flatten(), n_concepts).float()
    counted = torch.einsum("bcp,pk->ck", lit.float(), one_hot).long()
    allowed = torch.einsum("bcp,pk->ck", near.flatten(2).float(), one_hot).long()

    got = unit_concept_overlap(acts, thresholds, labels, n_concepts, align_corners=align_corners)
    assert ((got.intersection - counted).abs() <= allowed).all()
    assert ((got.unit_area - lit.sum(2)).abs() <= near.flatten(2).sum(2)).all()
    assert lit.sum() > 1000
    assert near.float().mean() < 1e-3  # so hardly any pixel has the excuse


def test_aligned_corners_and_half_pixels_are_the_placements_of_interpolate(implementation):
    """Spelled out: scales (H - 1) / (h - 1) from 0, and H / h from H / 2h - 1 / 2."""
    case = overlap_case(coarse=(5, 4), size=(17, 13))
    aligned = run(case, scale_offset=None, align_corners=True)
    assert_overlap(aligned, *run(case, scale_offset=(16 / 4, 12 / 3, 0, 0)))
    default = run(case, scale_offset=None)
    assert_overlap(default, *run(case, scale_offset=(17 / 5, 13 / 4, 17 / 10 - 0.5, 13 / 8 - 0.5)))
    assert not torch.equal(aligned.unit_area, default.unit_area)


LAYOUTS = {
    "sliced": lambda t: torch.stack([t, t.flip(0)], dim=-1)[..., 0],
    "sliced units": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
    "permuted": lambda t: t.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "negative offset view": lambda t: torch.cat([t, t], dim=0)[t.shape[0] :],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("argument", ["acts", "labels"])
def test_any_memory_layout(implementation, argument, layout):
    case = CASES["not square"]
    other = LAYOUTS[layout](getattr(case, argument))
    assert torch.equal(other, getattr(case, argument))
    assert_overlap(run(case._replace(**{argument: other})), *run(case))


def test_expanded_and_strided_small_arguments(implementation):
    case = CASES["typical"]
    thresholds = torch.stack([case.thresholds, -case.thresholds], 1)[:, 0]
    image_labels = case.image_labels.T.contiguous().T
    assert not thresholds.is_contiguous()
    assert not image_labels.is_contiguous()
    assert_overlap(run(case._replace(thresholds=thresholds, image_labels=image_labels)), *run(case))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_floats_are_widened(implementation, dtype):
    acts = torch.randn(2, 5, 7, 7, generator=torch.Generator().manual_seed(12)).to(dtype)
    case = overlap_case(acts=acts, act_dtype=dtype, thresholds=acts.float()[0, :, 3, 3])
    assert_overlap(run(case), *run(case._replace(acts=acts.float())))


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
def test_every_label_dtype_up_to_its_largest_id(implementation, dtype):
    largest = min(torch.iinfo(dtype).max, 70_000)
    labels = torch.tensor([0, 1, largest - 1, largest]).view(1, 1, 2, 2)
    got = unit_concept_overlap(
        torch.ones(1, 1, 1, 1),
        torch.zeros(1),
        labels.to(dtype),
        largest + 1,
        image_labels=labels.view(1, 4).to(dtype),
    )
    assert got.intersection.nonzero().tolist() == [[0, 1], [0, largest - 1], [0, largest]]
    assert got.intersection[0, largest] == 4


def test_out_adds_up_over_batches(implementation):
    case = overlap_case(images=5)
    whole = run(case)
    out = torch.zeros_like(whole.intersection)
    areas = []
    for batch in (slice(0, 2), slice(2, 2), slice(2, 5)):
        part = case._replace(acts=case.acts[batch], labels=case.labels[batch], image_labels=case.image_labels[batch])
        areas.append(run(part, out=out).unit_area)
    assert_overlap(whole, out, torch.cat(areas))


@pytest.mark.parametrize("empty", ["images", "units", "layers", "image_labels"])
def test_empty_dimensions_give_zeros_of_the_right_shape(implementation, empty):
    sizes = {"images": 2, "units": 3, "layers": 2, "image_labels": 2} | {empty: 0}
    got = run(overlap_case(**sizes, n_concepts=7))
    assert list(got.intersection.shape) == [sizes["units"], 7]
    assert list(got.unit_area.shape) == [sizes["images"], sizes["units"]]
    if sizes["images"] == 0:
        assert not got.intersection.any()


def test_image_labels_may_be_left_out(implementation):
    case = overlap_case(image_labels=0)
    assert_overlap(run(case, image_labels=None), *run(case))


@pytest.mark.parametrize("images", [0, 2])
def test_column_0_is_0_even_in_out(implementation, images):
    case = overlap_case(images=images)
    out = torch.full((5, 12), 7)
    run(case, out=out)
    assert not out[:, 0].any()


def test_arguments_are_left_alone(implementation):
    case = overlap_case()
    copies = [tensor.clone() for tensor in case[:4]]
    run(case)
    for tensor, copy in zip(case[:4], copies, strict=True):
        assert torch.equal(tensor, copy)


def test_gradients_are_not_asked_for(implementation):
    case = overlap_case()
    acts = case.acts.clone().requires_grad_()
    thresholds = case.thresholds.clone().requires_grad_()
    assert_overlap(run(case._replace(acts=acts, thresholds=thresholds)), *run(case))


def test_threads_do_not_change_the_tallies(implementation):
    case = overlap_case(units=37, images=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(case)
        torch.set_num_threads(3)
        assert_overlap(run(case), *one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.extended
@pytest.mark.parametrize("seed", range(300))
def test_equals_brute_force_on_many_random_cases(implementation, seed):
    case = random_overlap_case(5000 + seed)
    assert_overlap(run(case, out=tally_before(case)), *expected(5000 + seed, case))
