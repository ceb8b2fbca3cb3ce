import numpy as np
import pytest
from PIL import Image

from netinterp_fast.data.io import integer, open_image, read_csv, read_image, resolve_inside


def test_resolve_inside_gives_the_file(tmp_path):
    assert resolve_inside(tmp_path.resolve(), "a/b.png") == tmp_path.resolve() / "a" / "b.png"


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "a/../b.png", "/etc/passwd"])
def test_resolve_inside_refuses(tmp_path, path):
    with pytest.raises(ValueError, match=f"{path}.* leaves the data set's folder"):
        resolve_inside(tmp_path.resolve(), path)


def test_resolve_inside_follows_links(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "root2"
    (root / "images").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").touch()
    (root / "file.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    (root / "inner").symlink_to(root / "images")
    for path in ("file.png", "folder/secret.png"):
        with pytest.raises(ValueError, match="leaves the data set's folder"):
            resolve_inside(root.resolve(), path)
    assert resolve_inside(root.resolve(), "inner/a.png") == root.resolve() / "images" / "a.png"


def test_read_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes("\ufeffid,name,extra\n1,café,x\n\n2,b,y\n".encode())
    rows = read_csv(tmp_path / "a.csv", ("id", "name"))
    assert [(row["id"], row["name"]) for row in rows] == [("1", "café"), ("2", "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"id,label\n1,a\n", "no column name, category; its columns are id, label"),
        (b"", "no column id, name, category; its columns are none"),
        (b"id,name,category\n1,a,b\n2,c\n", "row 2 does not have 3 cells"),
        (b"id,name,category\n1,a,b,c\n", "row 1 does not have 3 cells"),
        (b"id,name,category\n1,\xff,b\n", "can't decode"),
    ],
)
def test_read_csv_errors(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(ValueError, match=rf"a\.csv: .*{message}"):
        read_csv(tmp_path / "a.csv", ("id", "name", "category"))


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.csv"):
        read_csv(tmp_path / "a.csv", ())
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["x", "", "1.5", "-1", "11", "9" * 5000])
def test_integer_refuses(text):
    with pytest.raises(ValueError, match=r"cell is '.*'; expected an integer from 0 to 10"):
        integer(text, 0, 10, "cell")


def test_read_image_gives_rgb(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    image = read_image(tmp_path / "grey.png")
    assert np.array_equal(image, np.full((2, 3, 3), 7))


def test_size_is_checked_before_decoding(tmp_path, encode_png):
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(9000, 9000, 8, 2, b""))
    with pytest.raises(ValueError, match=r"a\.png: 9000 x 9000 pixels; at most 67108864"):
        read_image(path)
    path.write_bytes(encode_png(60000, 60000, 8, 2, b""))
    with pytest.raises(ValueError, match=r"a\.png: .*3600000000 pixels"):
        read_image(path)
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(ValueError, match="4 x 4 pixels; at most 15 "):
        read_image(path, max_pixels=15)


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_truncated_image(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=rf"a\.{kind}: .*truncated") as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_corrupt_png(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[50:60] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: "):
        read_image(path)


def test_other_formats_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="BMP")
    (tmp_path / "b.png").write_bytes(b"not an image")
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=f"{name}: not a JPEG or PNG image"):
            read_image(tmp_path / name)


def test_errors_of_the_block_name_the_file(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: too blue"), open_image(tmp_path / "a.png"):
        raise ValueError("too blue")
