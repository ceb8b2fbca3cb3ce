"""What a dissection found in all its layers, and how it is written down and read again."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .._folders import is_occupied, new_folder
from ..data.protocol import Concept
from .layer_results import LayerDissection, UnitLabel

MANIFEST, TENSORS, TABLES, REPORT = "dissection.json", "dissection.safetensors", "tables", "report"
UNIQUE_DETECTORS = "unique_detectors.csv"
_FORMAT = 1  # of the saved files
_MAPS = ("thresholds", "intersection", "unit_area", "concept_area", "top_images", "top_activations", "top_maps")
_OPTIONAL = ("null_iou", "iou_interval")
_SIGNIFICANT = 0.05  # p-values that a summary counts


@dataclass
class Dissection:
    """The result of `dissect`: one `LayerDissection` a model, layer, basis, tail and quantile, in the order asked for.

    settings      what was run: model, layers, data set, quantile, convention ... (JSON values)
    thumbnails    image index -> JPEG bytes, for every image that some `top_images` names
    image_names   image index -> name, for the same images
    """

    layers: dict[str, LayerDissection]
    settings: dict
    thumbnails: dict[int, bytes] = field(default_factory=dict)
    image_names: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> LayerDissection:
        if layer not in self.layers:
            raise KeyError(f"no layer {layer!r} in this dissection; it has {', '.join(self.layers)}")
        return self.layers[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def summary(self, best: int = 8) -> str:
        """A few lines a layer: how many detectors of what, and the best unit of each of the best-matched concepts."""
        return "\n".join(line for layer in self.layers.values() for line in _summary_lines(layer, best))

    @property
    def models(self) -> list[str]:
        """The models' names in order; one dissected alone has the name ""."""
        return list(dict.fromkeys(layer.model for layer in self.layers.values()))

    @property
    def questions(self) -> list[str]:
        """What was asked of the models, in order: layers, with basis, tail and quantile as in their keys."""
        return list(dict.fromkeys(layer.question for layer in self.layers.values()))

    @property
    def categories(self) -> list[str]:
        """The categories of all layers, in order of first appearance."""
        return list(dict.fromkeys(name for layer in self.layers.values() for name in layer.categories))

    def unique_detector_table(self, iou_threshold: float | None = None) -> list[dict]:
        """How interpretability differs between models and layers (Bau et al., CVPR 2017, sections 3.3 to 3.5).

        One row a layer of a model: model, layer (with basis, tail and quantile as in its key), units, detectors, unique
        (the distinct concepts that have a detector), and of these for each category "<category>-unique".

        A unit is a detector when its best IoU is above `iou_threshold`; None: above that of the run.
        """
        return [self._unique_row(layer, iou_threshold) for layer in self.layers.values()]

    def _unique_row(self, layer: LayerDissection, iou_threshold: float | None) -> dict:
        unique = layer.unique_detectors(iou_threshold)
        return {
            "model": layer.model,
            "layer": layer.question,
            "units": layer.n_units,
            "detectors": len(layer.detectors(iou_threshold)),
            "unique": sum(map(len, unique.values())),
        } | {f"{category}-unique": len(unique.get(category, ())) for category in self.categories}

    def to_csv(self, directory: str | os.PathLike) -> list[Path]:
        """Write one table a layer, `<layer>.csv` with NetDissect's column names, into a folder; return the paths.

        FileExistsError if one of them exists.
        """
        folder = Path(directory)
        paths = {name: folder / f"{quote(name, safe=' ')}.csv" for name in self.layers}
        for path in paths.values():
            if path.exists():
                raise FileExistsError(f"{path} exists; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            rows = self.layers[name].rows()
            _write_table(path, rows[0] if rows else ["unit"], rows)
        return list(paths.values())

    def to_pandas(self):
        """All layers' tables as one pandas DataFrame, with a first column `layer`. Needs pandas."""
        try:
            import pandas
        except ImportError:
            raise ImportError("to_pandas needs pandas: pip install pandas") from None
        return pandas.DataFrame([{"layer": name} | row for name, layer in self.layers.items() for row in layer.rows()])

    def save(
        self,
        directory: str | os.PathLike,
        *,
        overwrite: bool = False,
        tables: bool = False,
        report: bool = False,
    ) -> Path:
        """Write everything into a folder, all or nothing: JSON and safetensors, no pickle; return the folder.

        With `tables` the CSV tables of `to_csv` and the `unique_detector_table` go beside them, with `report` the HTML
        report does. FileExistsError if the folder holds something, unless `overwrite` is set and it is a saved
        dissection.
        """
        folder = Path(directory)
        if is_occupied(folder) and not (overwrite and (folder / MANIFEST).is_file()):
            raise FileExistsError(
                f"{folder} is not empty" + ("" if not overwrite else " and holds no saved dissection")
            )
        with new_folder(folder) as new:
            (new / MANIFEST).write_text(json.dumps(self._manifest(), indent=1, ensure_ascii=False), encoding="utf-8")
            save_file(self._tensors(), new / TENSORS)
            if tables:
                self.to_csv(new / TABLES)
                rows = self.unique_detector_table()
                _write_table(new / UNIQUE_DETECTORS, rows[0], rows)
            if report:
                self.report(new / REPORT)
        return folder

    def _manifest(self) -> dict:
        first = next(iter(self.layers.values()))
        return {
            "format": _FORMAT,
            "settings": self.settings,
            "concepts": [list(c) for c in first.concepts],
            "layers": [
                {
                    "name": layer.name,
                    "iou_threshold": layer.iou_threshold,
                    "upsampling": layer.upsampling,
                    "inclusive": layer.inclusive,
                    "label_size": layer.label_size,
                    "scale_offset": layer.scale_offset,
                    "layer": layer.layer,
                    "model": layer.model,
                    "basis": layer.basis,
                    "tail": layer.tail,
                    "quantile": layer.quantile,
                }
                for layer in self.layers.values()
            ],
            "image_names": {str(i): name for i, name in self.image_names.items()},
        }

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {
            f"{i}.{name}": getattr(layer, name).contiguous()
            for i, layer in enumerate(self.layers.values())
            for name in (*_MAPS, *_OPTIONAL)
            if getattr(layer, name) is not None
        }
        pictures = {
            f"thumbnail.{i}": torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)
            for i, jpeg in self.thumbnails.items()
        }
        return {
            name: tensor.clone() for name, tensor in (tensors | pictures).items()
        }  # safetensors refuses shared memory

    @classmethod
    def load(cls, directory: str | os.PathLike) -> Dissection:
        """Read what `save` wrote. FileNotFoundError or ValueError, naming the file, for what is missing or damaged."""
        folder = Path(directory)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} holds no saved dissection ({MANIFEST} is missing)")
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT:
                raise ValueError(f"its format is {manifest['format']}, this version reads {_FORMAT}")
            tensors = load_file(folder / TENSORS)
            concepts = [Concept(*c) for c in manifest["concepts"]]
            layers = {
                spec["name"]: LayerDissection(
                    concepts=concepts,
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()},
                    **{name: tensors[f"{i}.{name}"] for name in _MAPS},
                    **{name: tensors.get(f"{i}.{name}") for name in _OPTIONAL},
                )
                for i, spec in enumerate(manifest["layers"])
            }
            for layer in layers.values():
                _check_tables(layer)
            prefix = "thumbnail."
            return cls(
                layers=layers,
                settings=dict(manifest["settings"]),
                thumbnails={
                    int(k.removeprefix(prefix)): t.numpy().tobytes() for k, t in tensors.items() if k.startswith(prefix)
                },
                image_names={int(i): name for i, name in manifest["image_names"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds a damaged or foreign dissection: {error}") from None

    def report(self, directory: str | os.PathLike, overwrite: bool = False) -> Path:
        """Write the HTML report into `directory` and return the path of its index.html."""
        from ..report import write_report  # the report reads results; results only call it

        return write_report(self, directory, overwrite=overwrite)

    def plot_unique_detectors(self, path: str | os.PathLike, iou_threshold: float | None = None) -> Path:
        """Draw the `unique_detector_table` as a line a model over the layers, or a line a layer over the models where
        one layer was dissected; return the path. Needs matplotlib.

        The name's ending says what is written: .png, .svg or .pdf; a file that is there is replaced. ValueError for
        another ending.
        """
        from ..report.plot import plot_unique_detectors

        return plot_unique_detectors(self, path, iou_threshold)


def _write_table(path: Path, columns: Iterable[str], rows: list[dict]) -> None:
    with path.open("x", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _check_tables(layer: LayerDissection) -> None:
    """ValueError unless the layer's tensors fit each other and the concepts."""
    units, concepts, top = layer.thresholds.shape[:1], layer.concept_area.shape[:1], layer.top_images.shape[1:2]
    shapes = {
        "thresholds": (torch.float32, units),
        "intersection": (torch.int64, units + concepts),
        "unit_area": (torch.int64, units + concepts),
        "concept_area": (torch.int64, concepts),
        "top_images": (torch.int64, units + top),
        "top_activations": (torch.float32, units + top),
        "top_maps": (torch.float32, units + top + layer.top_maps.shape[2:4]),
        "null_iou": (torch.float64, units + getattr(layer.null_iou, "shape", units)[1:2]),
        "iou_interval": (torch.float64, (*units, 2)),
    }
    for name, (dtype, shape) in shapes.items():
        tensor = getattr(layer, name)
        if tensor is None and name in _OPTIONAL:
            continue
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(shape)}")
    for concept in layer.concepts:
        if not 1 <= concept.id < concepts[0]:
            raise ValueError(f"concept {concept.name!r} has the id {concept.id}, not one in [1, {concepts[0]})")


def _summary_lines(layer: LayerDissection, best: int) -> Iterator[str]:
    detectors = layer.detectors()
    unique = {category: len(found) for category, found in layer.unique_detectors().items() if found}
    counts = ", ".join(f"{n} {category}" for category, n in sorted(unique.items(), key=lambda item: -item[1]))
    yield (
        f"{layer.name}: {len(detectors)} of {layer.n_units} units detect {sum(unique.values())} concepts"
        + (f" ({counts})" if counts else "")
    )
    if layer.null_iou is not None and detectors:
        chosen = int((layer.p_values[[unit.unit for unit in detectors]] <= _SIGNIFICANT).sum())
        yield f"    {chosen} of the {len(detectors)} detectors have p <= {_SIGNIFICANT} under shuffled labels"
    best_of_each: dict[Concept, UnitLabel] = {}
    for unit in detectors:
        best_of_each.setdefault(unit.concept, unit)
    shown = ", ".join(f"{u.concept.name} {u.iou:.2f} (unit {u.unit})" for u in list(best_of_each.values())[:best])
    if shown:
        yield f"    best: {shown}"
