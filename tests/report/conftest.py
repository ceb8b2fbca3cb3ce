import io

import pytest
import torch
from PIL import Image

from netinterp_fast.data.protocol import Concept
from netinterp_fast.dissection.layer_results import LayerDissection
from netinterp_fast.dissection.results import Dissection

CONCEPTS = [
    Concept(1, "cat", "object"),
    Concept(2, "car", "object"),
    Concept(3, "carpet", "object"),
    Concept(4, "striped", "texture"),
    Concept(5, "wheel", "part"),
]
# unit -> concept id -> intersection in percent of the union, so exactly the IoU x 100; unit 4 is dead
IOU_PERCENT = [{2: 30, 4: 10}, {1: 50, 5: 5}, {3: 20}, {4: 3}, {}, {2: 40, 1: 10}]
SIDE = 8


def jpeg(colour: tuple[int, int, int] = (255, 255, 255)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "JPEG")
    return file.getvalue()


def layer(
    name: str = "features.3",
    iou_percent: list[dict[int, int]] = IOU_PERCENT,
    concepts: list[Concept] = CONCEPTS,
    n_top: int = 3,
) -> LayerDissection:
    """A layer whose units have the IoUs asked for, and random maps on images unit, unit + 1, ..."""
    n_units, n_ids = len(iou_percent), max(concept.id for concept in concepts) + 1
    intersection = torch.zeros(n_units, n_ids, dtype=torch.int64)
    for unit, percents in enumerate(iou_percent):
        for concept, percent in percents.items():
            intersection[unit, concept] = percent
    maps = torch.rand(n_units, n_top, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return LayerDissection(
        name=name,
        concepts=concepts,
        iou_threshold=0.04,
        thresholds=torch.full((n_units,), 0.6),
        intersection=intersection,
        unit_area=intersection.clone(),
        concept_area=torch.full((n_ids,), 100),
        top_images=torch.arange(n_units)[:, None] + torch.arange(n_top),
        top_activations=maps.amax(dim=(2, 3)),
        top_maps=maps,
    )


def dissection(*layers: LayerDissection, **settings: object) -> Dissection:
    """A dissection of these layers, with a white thumbnail for each image that they name."""
    images = sorted({i for one in layers for i in one.top_images.flatten().tolist() if i >= 0})
    return Dissection(
        layers={one.name: one for one in layers},
        settings={"model": "TinyNet", "dataset": "shapes", "quantile": 0.005, **settings},
        thumbnails=dict.fromkeys(images, jpeg()),
        image_names={i: f"photo {i}" for i in images},
    )


@pytest.fixture
def make_layer():
    return layer


@pytest.fixture
def make_dissection():
    return dissection
