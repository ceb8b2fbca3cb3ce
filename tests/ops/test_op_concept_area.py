"""concept_area: every implementation gives the areas of a brute force."""

import brute_force
import pytest
import torch
from op_cases import LABEL_DTYPES, overlap_case

from netinterp_fast.ops import concept_area


def with_whole_image_labels():
    case = overlap_case(layers=3, image_labels=4, size=(9, 6))
    case.image_labels[:] = torch.tensor([[5, 5, 0, 11], [0, 0, 0, 0]])
    case.labels[:, 0] = 5
    return case


CASES = {
    "typical": overlap_case(size=(13, 9)),
    "whole-image labels, also in the maps": with_whole_image_labels(),
    "each pixel its own id": overlap_case(images=1, layers=2, image_labels=0, size=(14, 11), n_concepts=309)._replace(
        labels=torch.arange(1, 309).flip(0).view(1, 2, 14, 11)
    ),
    "one pixel": overlap_case(size=(1, 1)),
    "many layers": overlap_case(layers=9, image_labels=12, n_concepts=40, size=(5, 5)),
    "no images": overlap_case(images=0),
    "no layers": overlap_case(layers=0, size=(3, 4)),
    "no image labels": overlap_case(image_labels=0, size=(3, 4)),
    "one concept": overlap_case(n_concepts=1, size=(3, 4)),
    **{f"labels {d}": overlap_case(label_dtype=d, n_concepts=n, size=(7, 8)) for d, n in LABEL_DTYPES.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_equals_brute_force(implementation, name):
    case = CASES[name]
    got = concept_area(case.labels, case.n_concepts, image_labels=case.image_labels)
    assert got.dtype == torch.int64
    assert torch.equal(got, brute_force.area(case.labels, case.image_labels, case.n_concepts))


def test_small_table_worked_out_by_hand(implementation):
    labels = torch.tensor([[[[1, 1, 2], [0, 0, 3]], [[1, 2, 2], [0, 3, 3]]]], dtype=torch.uint8)
    area = concept_area(labels, 6, image_labels=torch.tensor([[5, 3, 0, 5]]))
    assert area.tolist() == [[0, 2, 2, 6, 0, 6]]


@pytest.mark.parametrize("view", [lambda t: t.mT, lambda t: t[..., ::2], lambda t: t[:, 1:]])
def test_any_memory_layout(implementation, view):
    labels = view(overlap_case().labels)
    assert torch.equal(concept_area(labels, 12), concept_area(labels.clone(memory_format=torch.contiguous_format), 12))


def test_is_the_overlap_with_a_unit_that_is_lit_everywhere(implementation):
    from netinterp_fast.ops import unit_concept_overlap

    case = overlap_case(images=4)
    lit = unit_concept_overlap(torch.ones(4, 1, 1, 1), torch.zeros(1), case.labels, 12, image_labels=case.image_labels)
    area = concept_area(case.labels, 12, image_labels=case.image_labels)
    assert torch.equal(lit.intersection[0], area.sum(0))


BAD = {
    "not a tensor": ({"labels": [[1]]}, TypeError, r"labels is list; it must be a tensor \[B, L, H, W\]"),
    "dimensions": ({"labels": torch.zeros(2, 3, 4, dtype=torch.int64)}, ValueError,
         r"labels has shape \[2, 3, 4\]"),
    "float labels": ({"labels": torch.zeros(1, 1, 2, 2)}, TypeError, r"labels has dtype float32; .* int64"),
    "bool labels": ({"labels": torch.zeros(1, 1, 2, 2).bool()}, TypeError, "labels has dtype bool"),
    "no pixels": ({"labels": torch.zeros(1, 1, 0, 2).long()}, ValueError,
         r"\[1, 1, 0, 2\]; H and W must be in"),
    "too wide": ({"labels": torch.zeros(1, 1, 1, 32768).byte()}, ValueError,
         r"H and W must be in \[1, 32767\]"),
    "K = 0": ({"n_concepts": 0}, ValueError, r"n_concepts is 0; it must be in \[1, 2\^31\)"),
    "K bool": ({"n_concepts": True}, TypeError, "n_concepts is True; it must be an int"),
    "K float": ({"n_concepts": 3.0}, TypeError, r"n_concepts is 3\.0; it must be an int"),
    "K huge": ({"n_concepts": 2**31}, ValueError, "n_concepts is 2147483648"),
    "other B": ({"image_labels": torch.zeros(2, 1).long()}, ValueError,
         r"image_labels has shape \[2, 1\]; .* 1, the B"),
    "image_labels 1-D": ({"image_labels": torch.zeros(1).long()}, ValueError, r"image_labels .* \[B, S\]"),
    "image_labels float": ({"image_labels": torch.zeros(1, 1)}, TypeError, "image_labels has dtype float32"),
    "image_labels elsewhere": ({"image_labels": torch.zeros(1, 1, device="meta").long()}, ValueError,
                               "image_labels is on meta; it must be on cpu"),
    "id = K": ({"n_concepts": 4}, ValueError, r"labels\[0, 0, 1, 1\] is 4; concept ids must lie in \[0, 4\)"),
    "negative image label": ({"image_labels": torch.tensor([[1, -2]])}, ValueError,
         r"image_labels\[0, 1\] is -2;"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(implementation, name):
    changes, error, message = BAD[name]
    good = {
        "labels": torch.tensor([[[[1, 2], [3, 4]]]]),
        "n_concepts": 5,
        "image_labels": torch.tensor([[2, 0]]),
    }
    with pytest.raises(error, match=message):
        concept_area(**good | changes)
