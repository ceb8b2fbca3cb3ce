import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture
def result(make_dissection, make_layer):
    """Two models of two layers each, with 3 and 1, and 1 and 2 unique detectors; their names are no markup."""

    def of(model, name, iou_percent):
        layer = make_layer(f"{model}/{name}", iou_percent)
        layer.model = model
        return layer

    return make_dissection(
        of("_a$b$", "x_1$y_2$", [{1: 30}, {2: 30}, {4: 9}]),
        of("_a$b$", "z<&", [{1: 30}, {1: 50}]),
        of("c", "x_1$y_2$", [{5: 6}, {1: 2}]),
        of("c", "z<&", [{1: 30}, {2: 50}, {2: 50}]),
    )


def texts(path):
    """What an SVG of outlines says: matplotlib notes each text in a comment."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    tree = ElementTree.parse(path, parser)
    return [node.text.strip() for node in tree.iter() if node.tag is ElementTree.Comment]


def test_a_png_of_a_sensible_size(tmp_path, result):
    path = tmp_path / "plot.png"
    path.write_bytes(b"an older one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert result.plot_unique_detectors(path) == path
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert 400 < image.width < 1500
        assert 400 < image.height < 800
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50
    assert (pixels == 255).all(1).mean() > 0.5  # not painted over


def test_names_are_only_text(tmp_path, result):
    result.plot_unique_detectors(str(tmp_path / "plot.svg"))
    said = texts(tmp_path / "plot.svg")
    assert {"_a$b$", "c", "x_1$y_2$", "z&lt;&amp;", "unique detectors (IoU &gt; 0.04)"} <= set(said)


def test_the_lines_are_the_tables_counts(result):
    from netinterp_fast.report.plot import _lines

    assert _lines(result, None) == (["x_1$y_2$", "z<&"], {"_a$b$": [3, 1], "c": [1, 2]})
    assert _lines(result, 0.4) == (["x_1$y_2$", "z<&"], {"_a$b$": [0, 1], "c": [0, 1]})
    result.layers = {key: layer for key, layer in result.layers.items() if layer.question == "z<&"}
    assert _lines(result, None) == (["_a$b$", "c"], {"z<&": [1, 2]})


def test_one_layer_of_several_models_has_the_models_along(tmp_path, result):
    result.layers = {key: layer for key, layer in result.layers.items() if layer.question == "z<&"}
    result.plot_unique_detectors(tmp_path / "plot.svg", iou_threshold=0.1)
    assert {"_a$b$", "c", "z&lt;&amp;", "unique detectors (IoU &gt; 0.1)"} <= set(texts(tmp_path / "plot.svg"))


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_one_model(tmp_path, make_dissection, make_layer, names):
    result = make_dissection(*map(make_layer, names))
    result.plot_unique_detectors(tmp_path / "plot.svg")
    assert set(names) <= set(texts(tmp_path / "plot.svg"))


@pytest.mark.parametrize("name", ["plot", "plot.gif", "png"])
def test_other_endings_are_refused(tmp_path, result, name):
    with pytest.raises(ValueError, match=rf"path is '.*{name}'; the name must end in \.png, \.svg, \.pdf"):
        result.plot_unique_detectors(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(tmp_path, monkeypatch, result):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot_unique_detectors needs matplotlib: pip install matplotlib"):
        result.plot_unique_detectors(tmp_path / "plot.png")
