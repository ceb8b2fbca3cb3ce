"""README's tables are those of the results file: `python -m benches.readme` writes them."""

import pytest

from benches import readme
from benches.relevance import AIMS
from benches.results import load

TEXT = "before\n<!-- figures: dissect -->\nold\n<!-- end of figures -->\nbetween\n"


@pytest.fixture(scope="module")
def figures():
    return load(readme.SOURCE)["families"]


def test_readme_has_the_figures_of_the_results_file(figures):
    text = readme.README.read_text(encoding="utf-8")
    assert all(f"<!-- figures: {name} -->" in text for name in readme.TABLES)
    assert readme.filled(text, figures) == text, "run python -m benches.readme"


def test_what_is_around_a_table_stays_and_filling_again_changes_nothing(figures):
    once = readme.filled(TEXT, figures)
    assert once.startswith("before\n<!-- figures: dissect -->\n| size | an image |")
    assert once.endswith(" |\n<!-- end of figures -->\nbetween\n")
    assert "old" not in once
    assert readme.filled(once, figures) == once


def test_a_figure_that_changes_changes_the_table(figures):
    rows = [dict(row) for row in figures["dissect"]["kernels"]]
    rows[0]["times_best_plain"] = 12345
    assert "| 12345x |" in readme.filled(TEXT, figures | {"dissect": {"kernels": rows}})


def test_unknown_names_are_refused(figures):
    with pytest.raises(ValueError, match="asks for figures 'speed'; there are dissect"):
        readme.filled(TEXT.replace("dissect", "speed"), figures)


def test_a_range_stands_beside_a_factor_that_misses_its_aim():
    def row(composite, times):
        return {"composite": composite, "FB_multiples": {"ours": 1.0}, "times_faster_than": {"zennit": times}}

    rows = [row(composite, times) for composite in AIMS for times in (2.0, 3.0, 4.0)]
    lines = {
        line.split("|")[1].strip(): line.split("|")[4].strip() for line in readme.relevance({"speed": rows}).split("\n")
    }
    assert lines["`epsilon_gamma_box`"] == "3.0x (2.0x to 4.0x)"  # asked 4x
    assert lines["`epsilon`"] == "3.0x"
