"""A layer in numbers, and the geometry of its bar chart: what the template needs to draw them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..dissection.layer_results import LayerDissection
from ..dissection.results import Dissection

BAR_STEP = 18  # pixels from bar to bar
GROUP_GAP = 14  # further pixels between two categories
PLOT_HEIGHT = 120
LONGEST_NAME = 22  # characters below a bar
CHARACTER = 6.6  # width of one, in pixels; names are set at 60 degrees


@dataclass(frozen=True)
class Bar:
    """One concept of the chart: how many units detect it. Positions in pixels from the left and the top."""

    concept: str
    short_name: str
    category: str
    colour: int
    units: int
    x: int
    top: float
    height: float


@dataclass(frozen=True)
class CategoryCount:
    """How many distinct concepts of a category have a detector, and how many in the categories before it."""

    name: str
    colour: int
    concepts: int
    before: int


@dataclass(frozen=True)
class LayerSummary:
    name: str
    units: int
    detectors: int
    unique_detectors: int
    iou_threshold: float
    categories: list[CategoryCount]
    bars: list[Bar]

    @property
    def chart_width(self) -> int:
        """Of the bars alone."""
        return self.bars[-1].x + BAR_STEP

    @property
    def chart_left(self) -> int:
        """How far the names reach out to the left of the first bar."""
        return max(0, *(round(CHARACTER * len(bar.short_name) * 0.5) - bar.x for bar in self.bars))

    @property
    def chart_below(self) -> int:
        """How far the names reach down below the bars."""
        return max(round(CHARACTER * len(bar.short_name) * 0.87) for bar in self.bars) + BAR_STEP


def summarise(dissection: Dissection) -> list[LayerSummary]:
    """One summary a layer; a category has the same colour in all of them."""
    colours = {category: i for i, category in enumerate(dissection.categories)}
    return [_summarise_layer(layer, colours) for layer in dissection.layers.values()]


def by_model(dissection: Dissection) -> dict[str, list[int | None]]:
    """For each model the places of its layers among all, in the order of `dissection.questions`; None for one that it
    does not have."""
    places = {(layer.model, layer.question): place for place, layer in enumerate(dissection.layers.values())}
    return {model: [places.get((model, one)) for one in dissection.questions] for model in dissection.models}


def _summarise_layer(layer: LayerDissection, colours: dict[str, int]) -> LayerSummary:
    detectors = layer.detectors()
    unique = layer.unique_detectors()
    counts = []
    for name, concepts in unique.items():
        counts.append(CategoryCount(name, colours[name], len(concepts), sum(c.concepts for c in counts)))
    return LayerSummary(
        name=layer.name,
        units=layer.n_units,
        detectors=len(detectors),
        unique_detectors=sum(len(concepts) for concepts in unique.values()),
        iou_threshold=layer.iou_threshold,
        categories=counts,
        bars=_bars(Counter(unit.concept for unit in detectors), colours),
    )


def _bars(units: Counter, colours: dict[str, int]) -> list[Bar]:
    """Bars by category, within one the most frequent concept first (Bau et al. 2017, figures 5 and 8)."""
    ordered = sorted(units, key=lambda c: (colours[c.category], -units[c], c.name, c.id))
    bars: list[Bar] = []
    x = 0
    for concept in ordered:
        if bars and bars[-1].category != concept.category:
            x += GROUP_GAP
        height = PLOT_HEIGHT * units[concept] / max(units.values())
        bars.append(
            Bar(
                concept=concept.name,
                short_name=_shorten(concept.name),
                category=concept.category,
                colour=colours[concept.category],
                units=units[concept],
                x=x,
                top=round(PLOT_HEIGHT - height, 2),
                height=round(height, 2),
            )
        )
        x += BAR_STEP
    return bars


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
