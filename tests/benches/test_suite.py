"""The suite from the command line to the file, the table and the plots, and every kernel case, at sizes that take no
time."""

import pytest
import torch

from benches import dissect, endtoend, paths, relevance, results, suite, tables, thresholds
from benches.family import Ceilings, Copy, Part, Setting
from benches.kernels import Kernel, check, measure
from benches.timing import CPU
from benches.work import Work
from netinterp_fast import build_info

SETTING = Setting(CPU, True, Ceilings(1e10, 1e11))


def small_cases():
    torch.manual_seed(0)
    acts = dissect.smooth_activations(5, 6, 7)
    cases = [dissect.overlap_kernel(3, 5, 4, 12, 20, CPU), dissect.area_kernel(3, 9, CPU)]
    cases += [
        thresholds.quantile_kernel(acts, kept=9) if kernel is thresholds.quantile_kernel else kernel(acts)
        for kernel in thresholds.KERNELS
    ]
    cases += relevance.ratio_kernels((2, 3, 5, 5), CPU)
    cases += paths.path_kernels((2, 3, 8, 8), 4, CPU)
    return {kernel.op: kernel for kernel in cases}


def small_copy(device):
    return Copy(torch.ones(99), torch.ones(99))


@pytest.fixture
def small_memory(monkeypatch):
    """As if the caches were small: few buffers rotate."""
    monkeypatch.setattr("benches.kernels.large_copy", small_copy)
    for module in ("kernels", "dissect"):
        monkeypatch.setattr(f"benches.{module}.cache_bytes", lambda device: 2**12)


@pytest.fixture(scope="module")
def cases():
    return small_cases()


def test_every_op_has_a_case(cases):
    raw_ops = {op for kernel in cases.values() for op in kernel.raw_ops or (kernel.op,)}
    assert raw_ops == set(build_info()["ops"])


def test_kernels_reference_and_plain_torch_agree(cases):
    for kernel in cases.values():
        check(kernel)


def test_nothing_lies_on_another_device():
    """What can be told without a GPU: a tensor left on the CPU would not go with these."""
    meta = torch.device("meta")
    for kernel in relevance.ratio_kernels((2, 3, 5, 5), meta) + paths.path_kernels((2, 3, 8, 8), 4, meta):
        for run in (kernel.run, *kernel.plain.values()):
            assert run(*kernel.tensors).device == meta


def test_a_kernel_that_differs_is_not_timed():
    def kernel(**plain):
        calls = iter((torch.ones(1), torch.zeros(1)))
        run = (lambda x: x) if plain else (lambda x: next(calls))
        return Kernel("an op", "a size", [torch.ones(2)], run, Work(1, 1), plain)

    with pytest.raises(AssertionError, match="an op, a size: the kernel differs from the reference"):
        check(kernel())
    with pytest.raises(AssertionError, match="an op, a size: doubled in plain torch gives something else"):
        check(kernel(doubled=lambda x: 2 * x))


def test_a_row_holds_the_kernel_against_the_ceilings(cases, small_memory):
    row = measure(cases["path_points"], SETTING, repeats=1, turn=0.0)
    seconds = row["ms"] / 1e3
    assert row["gb_per_second"] == pytest.approx(row["bytes"] / seconds / 1e9)
    assert 0 < row["of_copy"] < 5
    assert row["of_peak"] == pytest.approx(row["operations"] / seconds / 1e11)
    assert row["best_plain"] in row["plain_ms"]
    assert row["ms_spread"][0] <= row["ms"] <= row["ms_spread"][1]


def test_slow_candidates_see_a_part_and_count_for_the_whole(cases):
    kernel = cases["unit_concept_overlap"]
    assert [len(part) for part in kernel.few(kernel.tensors)][::2] == [2, 2]
    assert kernel.share == pytest.approx(2 / 3)


def test_why_a_part_is_left_out(monkeypatch):
    monkeypatch.delenv("NETINTERP_FAST_TEST_DATA", raising=False)
    on_gpu = SETTING._replace(device=torch.device("cuda"))
    assert Part(print).why_not(SETTING) is None
    assert Part(print, in_quick=False).why_not(SETTING) == "takes too long for --quick"
    assert Part(print, on_cuda=False).why_not(on_gpu) == "is measured on the CPU only"
    assert "needs NETINTERP_FAST_TEST_DATA" in Part(print, needs=("NETINTERP_FAST_TEST_DATA",)).why_not(SETTING)
    monkeypatch.setattr("benches.family.peer_version", lambda name: None)
    assert "needs zennit, of pip install" in Part(print, needs=("zennit",)).why_not(SETTING)


def test_methods_without_peers_and_with():
    row = {"method": "lrp, epsilon", "network": "VGG16", "side": 224, "batch": 1}
    alone = row | {"FB_multiples": {"ours": 1.25}, "times_faster_than": {}}
    beside = row | {"FB_multiples": {"ours": 1.25, "zennit": 2.5}, "times_faster_than": {"zennit": 2.0}}
    lines = tables.of_methods([alone, beside]).splitlines()
    assert lines[2].split()[-1] == "1.25"
    assert all(line.startswith("lrp, epsilon") for line in lines[2:])


@pytest.fixture
def tiny(monkeypatch, small_memory):
    """The dissect family at sizes that take no time."""
    monkeypatch.setattr(dissect, "SIZES", {(4, 3, 8): 1, (4, 5, 16): 1})
    monkeypatch.setattr(dissect, "IMAGES", 3)
    monkeypatch.setattr(dissect, "AREA_SIDES", (5, 9))
    monkeypatch.setattr("benches.family.large_copy", small_copy)
    monkeypatch.setattr(dissect, "GROWTH_FROM", {"images": 2, "units": 4, "concepts": 9, "side": 8})
    monkeypatch.setattr(dissect.growth, "__defaults__", ({"images": (1, 2), "units": (4, 8)},))
    monkeypatch.setitem(suite.PRODUCT_SIDE, "cpu", 64)


def test_from_the_command_line_to_the_file_the_table_and_the_plots(tiny, tmp_path, capsys):
    path = tmp_path / "figures.json"
    suite.main(["dissect", "--quick", "--json", str(path)])
    printed = capsys.readouterr().out
    assert "\nKernels\n\nop " in printed
    assert "left out: dissect, whole_job: takes too long for --quick" in printed
    figures = results.load(path)["families"]["dissect"]
    assert [row["op"] for row in figures["kernels"]] == ["unit_concept_overlap"] * 2 + ["concept_area"] * 2
    assert [row["units"] for row in figures["growth"]["units"]] == [4, 8]
    assert figures["command"] == f"python -m benches dissect --quick --json {path}"
    pictures = {picture.name for picture in tmp_path.glob("*.png")}
    assert pictures == {f"figures-{name}.png" for name in ("roofline", "ratios", "growth")}
    suite.main(["dissect", "--quick", "--only", "growth", "--json", str(path)])
    again = results.load(path)["families"]["dissect"]
    assert (again["kernels"], again["command"]) == (figures["kernels"], figures["command"])
    assert "--only growth" in again["later"]["growth"]["command"]


def test_unknown_families_are_refused(capsys):
    with pytest.raises(SystemExit):
        suite.main(["dissection"])
    assert "'dissection' is none of the families dissect, thresholds" in capsys.readouterr().err


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        suite.main(["dissect", "thresholds", "--only", "kernels", "kernel"])
    assert "--only kernel: the parts are growth, kernels, top_quantile, whole_job" in capsys.readouterr().err


def test_end_to_end_on_the_cpu():
    size = endtoend.Size(("SqueezeNet",), 64, 1, 3, 1)
    row = endtoend.dissection("SqueezeNet", size, CPU)
    assert row["times_bare_pass"] > 0
    assert row["tally_of_forward"] > 0
    assert set(endtoend.modes(CPU)) == {"bfloat16"}
    assert set(endtoend.modes(torch.device("cuda"))) == {"bfloat16", "graph", "bfloat16, graph"}
