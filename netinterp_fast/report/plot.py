"""The plot of unique detectors by layer and model."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ..dissection.results import Dissection

_ENDINGS = (".png", ".svg", ".pdf")
_LEGEND_ROWS = 14


def plot_unique_detectors(dissection: Dissection, path: str | os.PathLike, iou_threshold: float | None = None) -> Path:
    """See `Dissection.plot_unique_detectors`."""
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ImportError("plot_unique_detectors needs matplotlib: pip install matplotlib") from None
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"path is {os.fspath(path)!r}; the name must end in {', '.join(_ENDINGS)}")
    along, lines = _lines(dissection, iou_threshold)
    legend_columns = math.ceil(len(lines) / _LEGEND_ROWS)
    figure = Figure(figsize=(2.5 + 0.7 * len(along) + 1.5 * legend_columns, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    drawn = [
        axes.plot(counts, marker="o", color=colormaps["viridis"](0.9 * i / max(1, len(lines) - 1)))[0]
        for i, counts in enumerate(lines.values())
    ]
    axes.set_xticks(range(len(along)), along, rotation=30, ha="right", rotation_mode="anchor", parse_math=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    limits = {layer.iou_threshold for layer in dissection.layers.values()} if iou_threshold is None else {iou_threshold}
    axes.set_ylabel(f"unique detectors (IoU > {', '.join(map(str, sorted(limits)))})")
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) == 1:
        axes.set_title(*lines, parse_math=False)
    else:
        legend = axes.legend(
            drawn, lines, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, ncols=legend_columns
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    figure.savefig(path)
    return path


def _lines(dissection: Dissection, iou_threshold: float | None) -> tuple[list[str], dict[str, list[float]]]:
    """What lies along the plot, and the counts there by line: layers and models, or models and the one layer."""
    rows = dissection.unique_detector_table(iou_threshold)
    counts = {(row["model"], row["layer"]): row["unique"] for row in rows}
    models, layers = dissection.models, dissection.questions
    if len(layers) == 1 and len(models) > 1:
        return models, {layers[0]: [counts[model, layers[0]] for model in models]}
    return layers, {model: [counts.get((model, layer), math.nan) for layer in layers] for model in models}
