"""unit_concept_overlap: bad arguments are refused by name, value and what is expected; `out` stays."""

import pytest
import torch
from op_cases import LABEL_DTYPES

from netinterp_fast.ops import unit_concept_overlap

INF, NAN = float("inf"), float("nan")


def good():
    """Two images of a ramp, three units; every argument is valid."""
    return {
        "acts": torch.arange(24.0).view(2, 3, 2, 2),
        "thresholds": torch.tensor([3.0, 8.0, 11.0]),
        "labels": torch.arange(12).view(2, 1, 2, 3) % 5,
        "n_concepts": 5,
        "image_labels": torch.tensor([[1, 0], [0, 4]]),
        "out": torch.full((3, 5), 7),
    }


def changed(name, index, value):
    tensor = good()[name].clone()
    tensor[index] = value
    return {name: tensor}


def meta(name):
    return {name: good()[name].to("meta")}


PLACE = "scale_offset"
BAD = {
    "acts list": ({"acts": [1.0]}, TypeError, r"acts is list; it must be a tensor \[B, C, h, w\]"),
    "acts 3-D": ({"acts": torch.zeros(2, 3, 4)}, ValueError,
         r"acts has shape \[2, 3, 4\]; it must be \[B, C, h, w\]"),
    "acts float64": ({"acts": torch.zeros(2, 3, 2, 2).double()}, TypeError,
         "acts has dtype float64; .* float32, float16"),
    "acts int": ({"acts": torch.zeros(2, 3, 2, 2).int()}, TypeError, "acts has dtype int32"),
    "acts complex": ({"acts": torch.zeros(2, 3, 2, 2).cfloat()}, TypeError, "acts has dtype complex64"),
    "acts without cells": ({"acts": torch.zeros(2, 3, 0, 2)}, ValueError,
         r"acts .* \[2, 3, 0, 2\]; h and w must be at l"),
    "acts NaN": (changed("acts", (1, 2, 0, 1), NAN), ValueError,
         r"acts\[1, 2, 0, 1\] is nan; activations must be finite"),
    "acts inf": (changed("acts", (0, 1, 1, 0), INF), ValueError, r"acts\[0, 1, 1, 0\] is inf"),
    "acts -inf": (changed("acts", (1, 0, 0, 0), -INF), ValueError, r"acts\[1, 0, 0, 0\] is -inf"),
    "acts' range": ({"acts": torch.tensor([3e38, -3e38]).repeat(12).view(2, 3, 2, 2)}, ValueError,
                    r"acts ranges from -3.*e\+38 to 3.*e\+38; the difference overflows float32"),
    "thresholds None": ({"thresholds": None}, TypeError,
         r"thresholds is NoneType; it must be a tensor \[C\]"),
    "thresholds scalar": ({"thresholds": torch.tensor(1.0)}, ValueError,
         r"thresholds has shape \[\]; it must be \[C\]"),
    "thresholds length": ({"thresholds": torch.zeros(4)}, ValueError,
         r"thresholds .* \[4\]; its dimension 0 must be 3"),
    "thresholds dtype": ({"thresholds": torch.zeros(3).double()}, TypeError,
         "thresholds has dtype float64; .* float32"),
    "thresholds NaN": (changed("thresholds", 1, NAN), ValueError, r"thresholds\[1\] is NaN"),
    "thresholds elsewhere": (meta("thresholds"), ValueError, "thresholds is on meta; it must be on cpu"),
    "labels float": ({"labels": torch.zeros(2, 1, 2, 3)}, TypeError,
         "labels has dtype float32; it must be uint8, int16"),
    "labels int8": ({"labels": torch.zeros(2, 1, 2, 3).char()}, TypeError, "labels has dtype int8"),
    "labels 3-D": ({"labels": torch.zeros(2, 2, 3).long()}, ValueError,
         r"labels .* \[2, 2, 3\]; it must be \[B, L, H, W\]"),
    "labels B": ({"labels": torch.zeros(3, 1, 2, 3).long(), "image_labels": None}, ValueError,
                 r"labels has shape \[3, 1, 2, 3\]; its dimension 0 must be 2, the B of acts"),
    "labels without pixels": ({"labels": torch.zeros(2, 1, 2, 0).long()}, ValueError,
         r"H and W must be in \[1, 32767\]"),
    "labels too high": ({"labels": torch.zeros(2, 1, 32768, 1).byte()}, ValueError, "H and W must be in"),
    "labels elsewhere": (meta("labels"), ValueError, "labels is on meta; it must be on cpu"),
    "image_labels 1-D": ({"image_labels": torch.zeros(2).long()}, ValueError,
         r"image_labels .* \[2\]; it must be \[B, S\]"),
    "image_labels B": ({"image_labels": torch.zeros(1, 2).long()}, ValueError,
         "image_labels .* dimension 0 must be 2"),
    "image_labels float": ({"image_labels": torch.zeros(2, 1)}, TypeError, "image_labels has dtype float32"),
    "image_labels elsewhere": (meta("image_labels"), ValueError, "image_labels is on meta"),
    "n_concepts 0": ({"n_concepts": 0}, ValueError, r"n_concepts is 0; it must be in \[1, 2\^31\)"),
    "n_concepts -1": ({"n_concepts": -1}, ValueError, "n_concepts is -1"),
    "n_concepts bool": ({"n_concepts": True}, TypeError, "n_concepts is True; it must be an int"),
    "n_concepts float": ({"n_concepts": 5.0}, TypeError, r"n_concepts is 5\.0; it must be an int"),
    "n_concepts huge": ({"n_concepts": 2**40}, ValueError, "n_concepts is 1099511627776"),
    "both placements": ({PLACE: (1, 1, 0, 0), "align_corners": True}, ValueError,
         "align_corners is True and scale_offset"),
    "three numbers": ({PLACE: (1, 1, 0)}, ValueError,
         r"scale_offset is \(1, 1, 0\); it must be \(scale_y, scale_x"),
    "scale 0": ({PLACE: (0, 1, 0, 0)}, ValueError, r"scale_offset is \(0, 1, 0, 0\); .* scales above 0"),
    "scale -1": ({PLACE: (1, -1.0, 0, 0)}, ValueError, "scale_offset is .* scales above 0"),
    "scale inf": ({PLACE: (1, INF, 0, 0)}, ValueError, "scale_offset is .* must be finite"),
    "scale NaN": ({PLACE: (NAN, 1, 0, 0)}, ValueError, "scale_offset is .* must be finite"),
    "offset NaN": ({PLACE: (1, 1, NAN, 0)}, ValueError, "scale_offset is .* must be finite"),
    "not a sequence": ({PLACE: 3.0}, (TypeError, ValueError), r"scale_offset is 3\.0; it must be \(scale_y"),
    "not numbers": ({PLACE: (1, 1, "a", 0)}, (TypeError, ValueError), "scale_offset is .*'a'.*; it must be"),
    "out shape": ({"out": torch.full((3, 6), 7)}, ValueError,
         r"out has shape \[3, 6\], .* contiguous \[3, 5\]"),
    "out strides": ({"out": torch.full((5, 3), 7).T}, ValueError,
         r"out has shape \[3, 5\], strides \[1, 3\]"),
    "out dtype": ({"out": torch.full((3, 5), 7.0)}, TypeError, "out has dtype float32; it must be int64"),
    "out elsewhere": (meta("out"), ValueError, "out is on meta; it must be on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(implementation, name):
    changes, error, message = BAD[name]
    arguments = good() | changes
    with pytest.raises(error, match=message) as caught:
        unit_concept_overlap(**arguments)
    assert "\n" not in str(caught.value)
    if arguments["out"].device.type == "cpu":
        assert (arguments["out"] == 7).all()


def test_the_good_arguments_are_good(implementation):
    assert (unit_concept_overlap(**good()).intersection[:, 1:] > 7).any()


SIGNED = [dtype for dtype in LABEL_DTYPES if torch.iinfo(dtype).min < 0]
OUTSIDE = [(dtype, -1) for dtype in SIGNED] + [(dtype, torch.iinfo(dtype).min) for dtype in SIGNED]
OUTSIDE += [(dtype, 5) for dtype in LABEL_DTYPES] + [(dtype, torch.iinfo(dtype).max) for dtype in LABEL_DTYPES]
OUTSIDE += [(torch.int32, 2**16 + 1), (torch.int64, 2**32 + 1)]  # 1 if cut to 16 or 32 bits


@pytest.mark.parametrize("argument", ["labels", "image_labels"])
@pytest.mark.parametrize(("dtype", "value"), OUTSIDE)
def test_ids_out_of_range(implementation, dtype, value, argument):
    """The bad id is on the second image, after one that could be counted already."""
    arguments = good()
    ids = arguments[argument].to(torch.int64)
    ids[1, ..., -1] = value
    where = [1, 0, 0, 2] if argument == "labels" else [1, 1]
    arguments[argument] = ids.to(dtype)
    message = rf"^{argument}{where} is {value}; concept ids must lie in [0, 5)"
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        unit_concept_overlap(**arguments)
    assert str(caught.value).startswith(message.removeprefix("^"))
    assert (arguments["out"] == 7).all()


@pytest.mark.parametrize("value", [-1, 5])
def test_an_id_out_of_range_is_named_in_any_layer_size_and_layout(implementation, value):
    labels = torch.zeros(3, 4, 37, 41, dtype=torch.int64)
    labels[2, 3, 36, 40] = value
    arguments = {"acts": torch.zeros(3, 1, 2, 2), "thresholds": torch.zeros(1), "n_concepts": 5}
    for view in (labels, labels.transpose(2, 3).contiguous().transpose(2, 3)):
        with pytest.raises(ValueError, match=rf"labels\[2, 3, 36, 40\] is {value};"):
            unit_concept_overlap(labels=view, **arguments)


def test_check_finite_can_be_skipped(implementation):
    arguments = good() | changed("acts", (1, 2, 0, 1), NAN)
    unit_concept_overlap(**arguments, check_finite=False)
    assert (arguments["out"] != 7).any()
