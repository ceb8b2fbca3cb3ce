"""Writes a dissection as a folder of HTML that a browser opens from the disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..dissection.results import Dissection
from .layer_data import layer_data, script_json
from .summary import BAR_STEP, PLOT_HEIGHT, categories, summarise

HERE = Path(__file__).parent
MARKER = '<meta name="generator" content="netinterp_fast report">'
CONTENTS = {"index.html", "data", "images"}


def write_report(dissection: Dissection, directory: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write `dissection` as a web page into the folder `directory` and return the path of its index.html.

    The folder appears complete or not at all. It holds index.html, data/layer_<i>.js for the units of the
    i-th layer and images/<index>.jpg, needs no network and no server, and depends on `dissection` alone.
    `settings["model"]` and `settings["dataset"]` give the title; `settings["time"]`, a dict with "finished"
    (text) and "seconds", appears in the footer only.

    Raises ValueError when there is no layer, and FileExistsError when `directory` is a file or a folder that
    is not empty; with `overwrite` a folder that holds an earlier report, and nothing else, is replaced.
    """
    if not dissection.layers:
        raise ValueError("dissection.layers is empty; a report needs at least one layer")
    target = Path(directory).resolve()
    _check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
        report = Path(work) / "report"
        _write_files(dissection, report)
        _put_in_place(report, target, previous=Path(work) / "previous")
    return target / "index.html"


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"{target} is a file; a report needs a folder of its own")
    contents = {path.name for path in target.iterdir()}
    if contents and not overwrite:
        raise FileExistsError(f"{target} is not empty; pass overwrite=True to replace a report")
    if contents and not (contents <= CONTENTS and _is_report(target / "index.html")):
        raise FileExistsError(f"{target} holds something else than a report and is not overwritten")


def _is_report(index: Path) -> bool:
    if not index.is_file():
        return False
    with index.open("rb") as file:
        return MARKER.encode() in file.read(1024)


def _put_in_place(report: Path, target: Path, previous: Path) -> None:
    """Rename `report` to `target`; what was there moves to `previous`, and back if that fails."""
    if not target.exists():
        report.rename(target)
        return
    target.rename(previous)
    try:
        report.rename(target)
    except BaseException:
        previous.rename(target)
        raise


def _write_files(dissection: Dissection, folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "images").mkdir()
    for i, layer in enumerate(dissection.layers.values()):
        data = script_json(layer_data(layer, dissection.image_names))
        (folder / "data" / f"layer_{i}.js").write_bytes(f"receiveLayer({i}, {data});\n".encode("ascii"))
    for index, jpeg in dissection.thumbnails.items():
        (folder / "images" / f"{int(index)}.jpg").write_bytes(jpeg)
    (folder / "index.html").write_bytes(_render(dissection).encode("utf-8", errors="replace"))


def _render(dissection: Dissection) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (HERE / "report.js").read_text(encoding="utf-8")
    style = (HERE / "report.css").read_text(encoding="utf-8")
    settings = dissection.settings
    return environment.get_template("template.html").render(
        marker=Markup(MARKER),
        script=Markup(script),
        script_hash=_content_hash(script),
        style=Markup(style),
        style_hash=_content_hash(style),
        title=" on ".join(_as_text(settings[key]) for key in ("model", "dataset") if settings.get(key)),
        settings={key: _as_text(value) for key, value in settings.items() if key != "time"},
        generated=_generated(settings.get("time") or {}),
        layers=summarise(dissection),
        categories=categories(dissection),
        plot_height=PLOT_HEIGHT,
        bar_step=BAR_STEP,
    )


def _content_hash(text: str) -> str:
    """The hash by which the page's Content-Security-Policy admits an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _generated(time: dict) -> str:
    """The footer's words, on one line."""
    words = ["Generated by netinterp_fast"]
    if "finished" in time:
        words.append(f"at {time['finished']}")
    if "seconds" in time:
        words.append(f"in {time['seconds']:.1f} s")
    return " ".join(" ".join(words).split())
