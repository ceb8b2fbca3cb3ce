"""Our classes in the place of Captum's: `accelerate`, `install`, reports, and what the classes are."""

import copy
import inspect
import pickle
import subprocess
import sys
import threading
from types import ModuleType

import pytest
import torch
from torch import nn

captum_attr = pytest.importorskip("captum.attr", reason="captum is not installed")

from netinterp_fast.compat import accelerate  # noqa: E402
from netinterp_fast.compat import captum as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's
NAMES = [name for name in ours.__all__ if name[0].isupper() and name != "Report"]
ORIGINALS = {name: getattr(captum_attr, name) for name in NAMES}


def classes():
    """Every class that a module of Captum holds, by module and name."""
    return {
        (module_name, name): value
        for module_name, module in list(sys.modules.items())
        if module_name.split(".")[0] == "captum"
        for name, value in vars(module).items()
        if isinstance(value, type)
    }


@pytest.fixture(autouse=True)
def _same_numbers_in_every_run():
    torch.manual_seed(0)


@pytest.fixture
def unchanged():
    before = classes()
    yield
    assert classes() == before
    assert all(getattr(captum_attr, name) is ORIGINALS[name] for name in NAMES)


@pytest.fixture
def lrp_call():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.randn(2, 5)
    return lambda target=1: captum_attr.LRP(net).attribute(x, target)


def test_accelerate_rebinds_within_alone(unchanged):
    with accelerate("captum") as report:
        for name in NAMES:
            assert getattr(captum_attr, name) is getattr(ours, name)
        assert not any(value in ORIGINALS.values() for value in classes().values())
        from captum.attr import LRP
        from captum.attr._core.lrp import LRP as inner

        assert LRP is inner is ours.LRP
    assert not report.served
    assert not report.passed_on


def test_modules_of_captum_that_are_imported_within(unchanged, monkeypatch):
    with accelerate("captum"):
        late = ModuleType("captum.imported_late")
        monkeypatch.setitem(sys.modules, late.__name__, late)
        exec("from captum.attr import LRP, Saliency", vars(late))
        assert late.Saliency is ours.Saliency
    assert (late.LRP, late.Saliency) == (ORIGINALS["LRP"], ORIGINALS["Saliency"])
    monkeypatch.undo()


def test_nested_and_installed(unchanged, lrp_call):
    with accelerate("captum") as outer:
        lrp_call()
        with accelerate("captum") as inner:
            lrp_call()
        assert captum_attr.LRP is ours.LRP
        lrp_call()
    assert captum_attr.LRP is ORIGINALS["LRP"]
    assert (outer.served, inner.served) == ({"LRP": 3}, {"LRP": 1})
    installed = ours.install()
    assert ours.install() is installed
    with accelerate("captum"):
        lrp_call()
    assert captum_attr.LRP is ours.LRP
    with accelerate("captum"):
        ours.uninstall()
        assert captum_attr.LRP is ours.LRP
    assert captum_attr.LRP is ORIGINALS["LRP"]
    assert installed.served == {"LRP": 1}
    ours.uninstall()


def test_exceptions_leave_nothing(unchanged):
    with pytest.raises(ZeroDivisionError), accelerate("captum"):
        raise ZeroDivisionError


def test_report(unchanged, lrp_call, capsys):
    with accelerate("captum", report=True) as report:
        lrp_call()
        lrp_call()
        with pytest.raises(IndexError):
            lrp_call(target=9)
        net = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid())
        for _ in range(2):
            with pytest.raises(TypeError):
                captum_attr.LRP(net).attribute(torch.randn(2, 5), 1)
    assert report.served == {"LRP": 2}
    assert sum(report.passed_on["LRP"].values()) == 3
    assert report.passed_on["LRP"]["Sigmoid has no rule"] == 2
    printed = capsys.readouterr().out
    assert printed.strip() == str(report)
    assert "2 calls served, 3 passed on" in printed
    assert "2 x Sigmoid has no rule" in printed


def test_calls_of_other_threads_count(unchanged, lrp_call):
    with accelerate("captum") as report:
        threads = [threading.Thread(target=lrp_call) for _ in range(1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert report.served == {"LRP": 1}


def test_unknown_tools():
    with pytest.raises(ValueError, match=r"'shap'.*'captum'"):
        accelerate("shap")


@pytest.mark.parametrize("name", NAMES)
def test_classes_are_captums(name):
    cls, original = getattr(ours, name), ORIGINALS[name]
    assert issubclass(cls, original)
    assert cls.__name__ == original.__name__
    assert inspect.signature(cls) == inspect.signature(original)
    for method in ("attribute", "compute_convergence_delta", "has_convergence_delta"):
        if hasattr(original, method):
            assert inspect.signature(getattr(cls, method)) == inspect.signature(getattr(original, method))
    assert cls.get_name() == original.get_name()
    assert inspect.signature(cls.attribute.__wrapped__) == inspect.signature(original.attribute)


def test_pickles_and_copies():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.randn(2, 5)
    for name in ("LRP", "DeepLift"):
        method = getattr(ours, name)(net)
        expected = method.attribute(x, target=1)
        for copied in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
            assert type(copied) is type(method)
            assert copied.attribute(x, target=1).equal(expected)


def test_captum_is_imported_only_when_it_is_used():
    script = """
import sys
import netinterp_fast.compat
assert not any(name.split(".")[0] == "captum" for name in sys.modules)
sys.modules["captum"] = None
for use in (lambda: netinterp_fast.compat.accelerate("captum"), lambda: __import__("netinterp_fast.compat.captum")):
    try:
        use()
    except ImportError as error:
        assert "pip install captum" in str(error), error
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
