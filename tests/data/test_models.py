import contextlib
import sys

import pytest
import torch
from safetensors.torch import save_file

from netinterp_fast.data import load_model

FACTORY = """
import torch

WIDTH = 4

def net():
    return torch.nn.Sequential(torch.nn.Conv2d(3, WIDTH, 1), torch.nn.BatchNorm2d(WIDTH))

def needs(width, depth=1):
    return torch.nn.Identity()

def text():
    return "model"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture
def state(file):
    torch.manual_seed(0)
    return {k: v + 1 for k, v in load_model(f"{file}:net").state_dict().items()}


def assert_holds(model, state):
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_from_file(file):
    model = load_model(f"{file}:net")
    assert isinstance(model, torch.nn.Sequential)
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_files_of_the_same_name_are_apart(file, tmp_path):
    other = tmp_path / "other" / "nets.py"
    other.parent.mkdir()
    other.write_text(FACTORY.replace("WIDTH = 4", "WIDTH = 5"))
    models = [load_model(f"{path}:net") for path in (file, other, file)]
    assert [model[0].out_channels for model in models] == [4, 5, 4]
    assert "nets" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nett", "nets.py has no function 'nett'; did you mean net"),
        ("WIDTH", "nets.py has no function 'WIDTH'"),
        ("needs", "needs must be callable without arguments .*'width'"),
        ("text", r"text\(\) returned a str; expected a torch.nn.Module"),
    ],
)
def test_wrong_factories(file, name, message):
    with pytest.raises(ValueError, match=message):
        load_model(f"{file}:{name}")


def test_broken_file_leaves_no_module(file):
    file.write_text("1 / 0")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_model(f"{file}:net")
    assert set(sys.modules) == before


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model file '.*none.py' does not exist"):
        load_model(f"{tmp_path}/none.py:net")


@pytest.mark.parametrize("spec", ["", "resnet18", "nets.py", "timm:resnet18"])
def test_unknown_spec(spec):
    with pytest.raises(ValueError, match=f"model is '{spec}'; expected demo, torchvision:<name> or"):
        load_model(spec)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights(file, state, tmp_path, name, prefix):
    saved = {prefix + key: value for key, value in state.items()}
    save = save_file if name.endswith("safetensors") else torch.save
    save(saved, tmp_path / name)
    assert_holds(load_model(f"{file}:net", weights=tmp_path / name), state)


def test_weights_under_state_dict(file, state, tmp_path):
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pt")
    assert_holds(load_model(f"{file}:net", weights=tmp_path / "w.pt"), state)


def test_weights_that_do_not_fit(file, state, tmp_path):
    path = tmp_path / "w.safetensors"
    del state["0.bias"]
    save_file(state | {f"extra{i}": torch.zeros(1) for i in range(6)}, path)
    with pytest.raises(ValueError, match=r"missing 0.bias; unexpected extra0, extra1, extra2, extra3 and 2 more"):
        load_model(f"{file}:net", weights=path)
    save_file(state | {"0.bias": torch.zeros(9)}, path)
    with pytest.raises(ValueError, match=r"wrong shapes 0.bias \[9\] for \[4\]"):
        load_model(f"{file}:net", weights=path)


class Payload:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_pickled_objects_are_refused(file, tmp_path, capsys):
    torch.save({"0.weight": Payload()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"cannot be read: it .* holds objects other than tensors") as error:
        load_model(f"{file}:net", weights=tmp_path / "w.pt")
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "content"), [("w.safetensors", b"x" * 50), ("w.pt", b"x" * 50), ("w.pt", b"")])
def test_damaged_weights(file, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}' cannot be read"):
        load_model(f"{file}:net", weights=tmp_path / name)


def test_weights_of_another_kind(file, tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_model(f"{file}:net", weights=tmp_path / "w.pt")
    (tmp_path / "w.bin").touch()
    with pytest.raises(ValueError, match=r"must end in .safetensors, .pt or .pth"):
        load_model(f"{file}:net", weights=tmp_path / "w.bin")
    with pytest.raises(FileNotFoundError, match=r"weights file .* does not exist"):
        load_model(f"{file}:net", weights=tmp_path / "none.pt")


def test_demo_model(monkeypatch):
    demo = pytest.importorskip("netinterp_fast.demo")
    monkeypatch.setattr(demo, "load_demo_model", lambda: torch.nn.Dropout(), raising=False)
    model = load_model("demo")
    assert isinstance(model, torch.nn.Dropout)
    assert not model.training


def test_torchvision_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"torchvision:resnet18 needs torchvision .*pip install torchvision"):
        load_model("torchvision:resnet18")


@pytest.fixture
def torchvision():
    """torchvision, where installed. Without its operators it imports once two of them have a schema."""
    with contextlib.suppress(RuntimeError):
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("torchvision")


def test_torchvision(torchvision):
    model = load_model("torchvision:squeezenet1_1")
    assert isinstance(model, torchvision.models.SqueezeNet)
    assert not model.training
    with pytest.raises(ValueError, match=r"no classifier 'resnet81'; did you mean .*resnet18"):
        load_model("torchvision:resnet81")
    with pytest.raises(ValueError, match="no classifier 'fcn_resnet50'"):  # it would download a backbone
        load_model("torchvision:fcn_resnet50")


def test_torchvision_with_real_weights(torchvision, real_data):
    load_model("torchvision:squeezenet1_1", weights=real_data / "weights" / "squeezenet1_1.safetensors")
