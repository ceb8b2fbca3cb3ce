"""The results file: a family replaces its own figures and nothing else, whole or not at all."""

import json

import pytest
import torch

from benches import results
from benches.timing import CPU


def families(path):
    return results.load(path)["families"]


def test_a_family_replaces_its_own_figures(tmp_path):
    path = tmp_path / "new" / "cpu-x.json"
    results.replace_family(path, CPU, "dissect", {"command": "first"}, {"kernels": [1], "growth": 2})
    results.replace_family(path, CPU, "paths", {"command": "second"}, {})
    results.replace_family(path, CPU, "dissect", {"command": "third"}, {"kernels": [3]})
    assert families(path) == {"dissect": {"command": "third", "kernels": [3]}, "paths": {"command": "second"}}
    fourth, fifth = {"command": "fourth"}, {"command": "fifth"}
    results.replace_family(path, CPU, "dissect", fourth, {"growth": 4}, keep=True)
    expected = {"command": "third", "kernels": [3], "growth": 4, "later": {"growth": fourth}}
    assert families(path)["dissect"] == expected
    results.replace_family(path, CPU, "dissect", fifth, {"kernels": [5]}, keep=True)
    assert families(path)["dissect"] == expected | {"kernels": [5], "later": {"growth": fourth, "kernels": fifth}}
    results.replace_family(path, CPU, "endtoend", fifth, {"speed": 6}, keep=True)
    assert families(path)["endtoend"] == fifth | {"speed": 6}
    assert [p.name for p in path.parent.iterdir()] == ["cpu-x.json"]


def test_what_cannot_be_written_leaves_the_file(tmp_path):
    path = tmp_path / "cpu-x.json"
    results.replace_family(path, CPU, "paths", {"command": "first"}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="Tensor"):
        results.replace_family(path, CPU, "dissect", {}, {"kernels": torch.ones(1)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_figures_of_a_cpu_say_that_no_cuda_kernel_has_run(tmp_path):
    results.replace_family(tmp_path / "a.json", CPU, "paths", {}, {})
    assert results.load(tmp_path / "a.json")["cuda"] == {"run": False, "checked": results.CHECKED}


def test_every_results_file_says_where_its_figures_are_from():
    for path in results.RESULTS.glob("*.json"):
        content = json.loads(path.read_text())
        assert path.stem.split("-")[0] in ("cpu", "cuda")
        assert "run" in content["cuda"]
        for figures in content["families"].values():
            assert figures["command"].startswith("python -m benches")
            assert {"date", "torch", "netinterp_fast"} <= set(figures["environment"])


def test_the_slug_names_the_device():
    assert results.slug(CPU).startswith("cpu-")
    assert set(results.slug(CPU)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
