"""`netinterp-fast explain` as a user meets it: pictures beside the photos, and one clear line for what is wrong."""

import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

import netinterp_fast
from netinterp_fast._explain_command import METHODS, Preparation, central_square, read_photo
from netinterp_fast.cli import main
from netinterp_fast.visual import heatmap

MODEL = """
import torch
from torch import nn

class Reds(nn.Module):
    # class 0: how red the image is, 1: how green, 2: how blue
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x.mean((2, 3)) * self.scale

class Broken(Reds):
    def forward(self, x):
        return x.mean((2, 3)) / 0

class Maps(Reds):
    def forward(self, x):
        return x * 1

class Lit(Reds):
    def forward(self, x):
        return torch.relu(x - 0.2).mean((2, 3)) * self.scale

class NoClasses(Reds):
    def forward(self, x):
        return x[:, :0, 0, 0]

def fixed_size():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
"""
PLAIN = ["--mean", "0,0,0", "--std", "1,1,1", "--size", "16"]


def gradient_times_input(model, inputs, target=None, *, composite="epsilon_plus_flat", seed="output"):
    """A stand-in of lrp's signature."""
    inputs = inputs.detach().requires_grad_()
    outputs = model(inputs)
    chosen = outputs.argmax(1) if target is None else torch.as_tensor(target).expand(len(inputs))
    outputs.gather(1, chosen[:, None]).sum().backward()
    return inputs.grad * inputs.detach()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a model file and three photos, as the current directory; lrp is gradient times input."""
    random = np.random.default_rng(0)
    for name, scale in (("red.png", (1, 0.3, 0.3)), ("green.jpg", (0.3, 1, 0.3)), ("blue.png", (0.3, 0.3, 1))):
        picture = (random.integers(100, 256, (20, 30, 3)) * scale).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "two.txt").write_text("red\ngreen\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(netinterp_fast, "lrp", gradient_times_input, raising=False)
    return tmp_path


def explain(*arguments: str, function: str = "Reds") -> int:
    return main(["explain", "--model", f"model.py:{function}", *PLAIN, *arguments])


def fails(capsys, *arguments: str, function: str = "Reds") -> str:
    """Run what must fail without touching a file, and return the one line that it says."""
    before = contents()
    assert explain(*arguments, function=function) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert contents() == before
    return said.err.strip()


def contents() -> dict[Path, bytes | None]:
    files = (path for path in Path().rglob("*") if "__pycache__" not in path.parts)
    return {path: path.read_bytes() if path.is_file() else None for path in files}


def test_a_picture_beside_each_photo(workplace, capsys):
    assert explain("red.png", "green.jpg", "blue.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", score")[0] for line in lines] == [
        "red.png: class 0",
        "green.jpg: class 1",
        "blue.png: class 2",
    ]
    assert [line.split("written to ")[1] for line in lines] == ["red-lrp.png", "green-lrp.png", "blue-lrp.png"]
    assert {path.name for path in Path().glob("*-lrp.png")} == {"red-lrp.png", "green-lrp.png", "blue-lrp.png"}
    assert not list(Path().glob(".*"))


def test_the_score_is_the_models_output(workplace, capsys):
    inputs = Preparation(16, (0, 0, 0), (1, 1, 1)).inputs(read_photo(Path("red.png")))
    assert explain("red.png", "--target", "2") == 0
    assert f"red.png: class 2, score {inputs[0, 2].mean():.4g}, " in capsys.readouterr().out


def test_the_picture_is_the_photo_beside_the_heat_map(workplace):
    assert explain("red.png", "--target", "1") == 0
    with Image.open("red-lrp.png") as picture:
        assert picture.size == (448 + 8 + 448, 448)
        assert picture.format == "PNG"
        halves = picture.crop((0, 0, 448, 448)), picture.crop((456, 0, 904, 448))
    photo = read_photo(Path("red.png"))
    inputs = Preparation(16, (0, 0, 0), (1, 1, 1)).inputs(photo)
    relevance = torch.zeros_like(inputs)
    relevance[0, 1] = inputs[0, 1]
    np.testing.assert_array_equal(halves[0], central_square(photo, 448))
    np.testing.assert_array_equal(np.asarray(halves[1])[14::28, 14::28], heatmap(relevance[0]))


def test_the_method_gets_what_the_options_say(workplace, monkeypatch):
    seen = []

    def lrp(model, inputs, target=None, *, composite="epsilon_plus_flat", seed="output"):
        seen.append((inputs, target, composite))
        return inputs

    monkeypatch.setattr(netinterp_fast, "lrp", lrp)
    arguments = ["--mean", ".1,.2,.3", "--std", ".5,1,2", "--size", "8", "--target", "2", "--composite", "epsilon_plus"]
    assert explain("green.jpg", *arguments) == 0
    ((inputs, target, composite),) = seen
    resized = read_photo(Path("green.jpg")).resize((12, 8), Image.Resampling.BILINEAR)  # from 30 x 20
    expected = np.asarray(resized.crop((2, 0, 10, 8)))
    expected = (expected / 255 - [0.1, 0.2, 0.3]) / [0.5, 1, 2]
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0), expected, atol=1e-6)
    assert inputs.dtype == torch.float32
    assert (target, composite) == (2, "epsilon_plus")


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"lrp"}))
def test_every_method_makes_a_picture(workplace, method):
    assert explain("red.png", "--method", method, function="Lit") == 0
    with Image.open(f"red-{method}.png") as picture:
        assert picture.size == (448 + 8 + 448, 448)


def test_only_lrp_has_composites(workplace, capsys):
    assert "--composite" in fails(capsys, "red.png", "--method", "saliency", "--composite", "epsilon")


@pytest.mark.parametrize("name", ["epsilon_gamma_box", "deep_taylor"])
def test_the_box_rule_gets_the_range_of_the_inputs(workplace, monkeypatch, name):
    seen = []
    composites = types.SimpleNamespace(**{name: lambda *, low, high: ("box", low, high)})
    monkeypatch.setattr(netinterp_fast, "composites", composites, raising=False)
    monkeypatch.setattr(
        netinterp_fast, "lrp", lambda model, inputs, target, *, composite: seen.append(composite) or inputs
    )
    arguments = ["--mean", ".5,.4,.3", "--std", ".5,1,.1", "--composite", name]
    assert explain("red.png", *arguments) == 0
    ((box, low, high),) = seen
    assert box == "box"
    assert low.shape == high.shape == (1, 3, 1, 1)
    torch.testing.assert_close(low.flatten(), torch.tensor([-1.0, -0.4, -3.0]))
    torch.testing.assert_close(high.flatten(), torch.tensor([1.0, 0.6, 7.0]))


def test_weights_are_loaded(workplace, capsys):
    save_file({"scale": torch.tensor([0.0, 0.0, 100.0])}, "weights.safetensors")
    assert explain("red.png", "--weights", "weights.safetensors") == 0
    assert "class 2" in capsys.readouterr().out


def test_class_names_are_shown_without_wordnet_ids(workplace, capsys):
    Path("names.txt").write_text("n01440764 tench, Tinca tinca\nmaillot\nn0 odd\n")
    assert explain("red.png", "green.jpg", "blue.png", "--labels", "names.txt") == 0
    lines = capsys.readouterr().out.splitlines()
    for line, shown in zip(
        lines, ("class 0 (tench, Tinca tinca)", "class 1 (maillot)", "class 2 (n0 odd)"), strict=True
    ):
        assert f": {shown}, score " in line


def test_pictures_go_to_out(workplace, capsys):
    assert explain("red.png", "green.jpg", "--out", "new/pictures") == 0
    written = [line.split("written to ")[1] for line in capsys.readouterr().out.splitlines()]
    assert written == [os.path.join("new/pictures", name) for name in ("red-lrp.png", "green-lrp.png")]
    assert sorted(path.name for path in Path("new/pictures").iterdir()) == ["green-lrp.png", "red-lrp.png"]
    assert not list(Path().glob("*-lrp.png"))


def test_nothing_is_overwritten_unless_forced(workplace, capsys):
    Path("green-lrp.png").write_text("years of work")
    said = fails(capsys, "red.png", "green.jpg")
    assert "green-lrp.png exists" in said
    assert "--force" in said
    assert explain("red.png", "green.jpg", "--force") == 0
    with Image.open("green-lrp.png") as picture:
        assert picture.format == "PNG"


def test_a_photo_is_never_replaced(workplace, capsys):
    Path("red.png").rename("photo.png")
    Path("blue.png").rename("photo-lrp.png")
    assert "among the photos" in fails(capsys, "photo.png", "photo-lrp.png", "--force")


def test_two_photos_of_one_name_are_refused(workplace, capsys):
    Image.new("RGB", (9, 9)).save("red.jpg")
    assert "red.png and red.jpg would both be written to red-lrp.png" in fails(capsys, "red.png", "red.jpg")


@pytest.mark.parametrize("orientation", range(10))
def test_upright_as_the_camera_says(workplace, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(stored).save("turned.png", exif=exif)
    with Image.open("turned.png") as image:
        np.testing.assert_array_equal(read_photo(Path("turned.png")), ImageOps.exif_transpose(image))


def test_very_long_photos_need_no_more_memory():
    assert central_square(Image.new("RGB", (1 << 20, 1)), 224).size == (224, 224)


def truncate(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:300])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: Path("blue.png").unlink(), "blue.png"),
        (lambda: truncate("blue.png"), "blue.png: "),
        (lambda: Path("blue.png").write_text("no image"), "blue.png: not a JPEG or PNG image"),
        (lambda: Image.new("1", (9000, 9000)).save("blue.png"), "blue.png: 9000 x 9000 pixels; at most"),
        (lambda: (Path("blue.png").unlink(), Path("blue.png").mkdir()), "blue.png"),
    ],
    ids=["missing", "truncated", "text", "too large", "folder"],
)
def test_all_photos_must_be_readable_before_one_is_explained(workplace, capsys, spoil, message):
    spoil()
    assert message in fails(capsys, "red.png", "blue.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "3"], "red.png: --target is 3; the model has the classes 0 to 2"),
        (["--target", "-1"], "--target is '-1'; expected top or the index of a class, from 0"),
        (["--target", "cat"], "--target is 'cat'"),
        (["--size", "0"], "--size is 0"),
        (["--size", "100000"], "--size is 100000"),
        (["--std", "1,0,1"], "--std (1.0, 0.0, 1.0)"),
        (["--mean", "nan,0,0"], "--mean is (nan, 0.0, 0.0)"),
        (["--labels", "two.txt"], "--labels has 2 class names; the model has 3 outputs"),
        (["--labels", "red.png"], "--labels red.png is not a UTF-8 text"),
        (["--labels", "no.txt"], "no.txt"),
        (["--weights", "no.safetensors"], "no.safetensors"),
        (["--out", "model.py"], "--out is 'model.py', which is a file"),
        (["--device", "toaster"], "--device is 'toaster'"),
    ],
)
def test_bad_arguments_are_explained(workplace, capsys, arguments, message):
    assert message in fails(capsys, "red.png", *arguments)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("Broken", "red.png: the model's outputs are not all finite"),
        ("Maps", "red.png: the model returned [1, 3, 16, 16]; a classifier must return [1, classes]"),
        ("NoClasses", "red.png: the model returned [1, 0]"),
        ("fixed_size", "red.png: mat1 and mat2 shapes cannot be multiplied"),
        ("Missing", "has no function 'Missing'"),
    ],
)
def test_models_that_do_not_fit_are_explained(workplace, capsys, function, message):
    assert message in fails(capsys, "red.png", function=function)


def test_relevance_that_is_not_finite_writes_nothing(workplace, capsys, monkeypatch):
    monkeypatch.setattr(netinterp_fast, "lrp", lambda model, inputs, target, *, composite: inputs / 0)
    assert "red.png: relevance is inf at row 0, column 0" in fails(capsys, "red.png", "--out", "out")


def test_a_failed_write_leaves_nothing(workplace, capsys, monkeypatch):
    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:100])
        raise OSError("No space left on device")

    with monkeypatch.context() as context:
        context.setattr(Path, "write_bytes", full)
        assert "No space left on device" in fails(capsys, "red.png")


def test_the_demo_model_needs_no_options(workplace, capsys, monkeypatch):
    """It has its own size, normalisation and class names."""
    seen = []
    monkeypatch.setattr(
        netinterp_fast, "lrp", lambda model, inputs, target, *, composite: seen.append(inputs) or inputs
    )
    assert main(["explain", "blue.png"]) == 0
    assert seen[0].shape == (1, 3, 112, 112)
    expected = Preparation(112, (0.5,) * 3, (0.25,) * 3).inputs(read_photo(Path("blue.png")))
    torch.testing.assert_close(seen[0], expected)
    assert " (" in capsys.readouterr().out
    with Image.open("blue-lrp.png") as picture:
        assert picture.size == (904, 448)


@pytest.mark.parametrize(("photo", "name"), [("chelsea", "Egyptian cat"), ("coffee", "espresso"), ("cat", "tabby")])
def test_squeezenet_on_photos(workplace, capsys, photo, name):
    folder = os.environ.get("NETINTERP_FAST_TEST_DATA")
    if not folder:
        pytest.skip("NETINTERP_FAST_TEST_DATA is not set")
    weights = Path(folder) / "weights"
    model = f"{Path(__file__).parents[1] / 'benches' / 'models.py'}:SqueezeNet"
    arguments = ["--weights", weights / "squeezenet1_1.safetensors", "--labels", weights / "synset_words.txt"]
    command = ["explain", Path(folder) / "photos" / f"{photo}.png", "--model", model, *arguments, "--out", "out"]
    assert main([str(part) for part in command]) == 0
    assert f" ({name}" in capsys.readouterr().out
