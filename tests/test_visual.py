"""Heat maps: what each colour stands for, and how a map is laid over an image."""

import numpy as np
import pytest
import torch
from PIL import Image

from netinterp_fast.visual import heatmap

WHITE = [255, 255, 255]


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def colours(values: torch.Tensor) -> np.ndarray:
    """The colours of values [N], the largest of which get the full ones: [N, 3]."""
    return pixels(heatmap(values[None], percentile=100))[0]


def lightness(rgb: np.ndarray) -> np.ndarray:
    """OKLab's L of sRGB colours [..., 3] in [0, 255]: how light they look, from 0 to 1."""
    encoded = rgb / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array([
        [0.4122214708, 0.2119034982, 0.0883024619],
        [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005],
    ])  # fmt: skip
    return np.cbrt(cones) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


def test_zero_is_white_positive_red_and_negative_blue():
    negative, zero, positive = colours(torch.tensor([-1.0, 0.0, 1.0]))
    assert zero.tolist() == WHITE
    assert positive[0] > 100 > positive[1:].max()
    assert negative[2] > 100 > negative[:2].max()


def test_larger_values_are_darker_and_purer():
    steps = torch.linspace(0, 1, 101)
    for arm, own, others in ((colours(steps), 0, [1, 2]), (colours(-steps), 2, [0, 1])):
        assert (np.diff(lightness(arm)) < 0).all()
        assert (np.diff(arm, axis=0) <= 0).all()
        assert (arm[1:, own, None] > arm[1:, others]).all()


def test_both_signs_look_equally_strong_and_lightness_is_linear():
    steps = torch.linspace(0, 1, 101)
    red, blue = lightness(colours(steps)), lightness(colours(-steps))
    np.testing.assert_allclose(red, blue, atol=0.01)
    np.testing.assert_allclose(red, 1 + steps.numpy() * (red[-1] - 1), atol=0.01)


def test_the_colours_have_no_jumps():
    assert np.abs(np.diff(colours(torch.linspace(-1, 1, 1001)), axis=0)).max() <= 1


def test_the_scale_of_the_values_does_not_matter():
    values = torch.randn(9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scale in (1e-300, 1e-3, 1e300):
        np.testing.assert_array_equal(pixels(heatmap(values * scale)), pixels(heatmap(values)))


def test_channels_are_summed():
    relevance = torch.tensor([[[1.0, 2.0]], [[-1.0, 2.0]], [[0.0, -8.0]]])
    np.testing.assert_array_equal(pixels(heatmap(relevance)), pixels(heatmap(torch.tensor([[0.0, -4.0]]))))


def test_half_precision_is_summed_without_overflow():
    relevance = torch.full((3, 1, 2), 60000.0, dtype=torch.float16)
    relevance[:, 0, 1] *= -1
    np.testing.assert_array_equal(pixels(heatmap(relevance)), pixels(heatmap(torch.tensor([[1.0, -1.0]]))))


def test_gradients_and_layout_do_not_matter():
    relevance = torch.arange(-6.0, 6.0).view(3, 4)
    transposed = relevance.T.contiguous().T.requires_grad_()
    np.testing.assert_array_equal(pixels(heatmap(transposed)), pixels(heatmap(relevance)))


def test_one_outlier_does_not_pale_the_rest():
    values = torch.ones(50, 50)
    values[0, 0] = 1e6
    full = colours(torch.ones(1))[0]
    assert (pixels(heatmap(values)) == full).all()
    paled = pixels(heatmap(values, percentile=100))
    assert paled[0, 0].tolist() == full.tolist()
    assert paled[1, 1].tolist() == WHITE


def test_values_beyond_the_percentile_are_clipped():
    values = torch.arange(0.0, 101.0)[None]
    shown = pixels(heatmap(values, percentile=50))[0]
    assert (shown[50:] == shown[50]).all()
    np.testing.assert_array_equal(shown[:51], colours(torch.arange(0.0, 51.0)))


def test_zeros_are_white():
    assert (pixels(heatmap(torch.zeros(3, 4, 5))) == 255).all()


def test_a_map_of_few_values_is_scaled_by_the_largest():
    values = torch.zeros(100, 100)
    values[3, 4], values[5, 6] = 2.0, -1.0
    shown = pixels(heatmap(values, percentile=50))
    expected = colours(torch.tensor([2.0, -1.0]))
    assert shown[3, 4].tolist() == expected[0].tolist()
    assert shown[5, 6].tolist() == expected[1].tolist()


@pytest.mark.parametrize("shape", [(5, 9), (3, 5, 9), (1, 5, 9)])
def test_the_picture_has_the_size_of_the_map(shape):
    assert heatmap(torch.ones(shape)).size == (9, 5)


def test_over_an_image_zero_lets_it_show_and_full_values_hide_it():
    photo = np.zeros((1, 4, 3), dtype=np.uint8)
    photo[0, ::2] = [30, 60, 90]
    values = torch.tensor([[0.0, 0.0, 1.0, -1.0]])
    shown = pixels(heatmap(values, image=photo, percentile=100))[0]
    grey = round(0.299 * 30 + 0.587 * 60 + 0.114 * 90)
    assert shown[0].tolist() == [round(0.6 * 255 + 0.4 * grey)] * 3
    assert shown[1].tolist() == [round(0.6 * 255)] * 3
    assert shown[2:].tolist() == colours(torch.tensor([1.0, -1.0])).tolist()


def test_over_an_image_half_values_are_mixed_with_its_grey():
    shown = pixels(heatmap(torch.tensor([[0.5, 1.0]]), image=Image.new("L", (2, 1), 100), percentile=100))[0, 0]
    pure = colours(torch.tensor([0.5, 1.0]))[0]
    np.testing.assert_allclose(shown, 0.8 * pure + 0.2 * 100, atol=1)


def test_the_map_is_resized_to_the_image_as_values():
    """Between full red and full blue lies white, which no mix of the two colours gives."""
    white = Image.new("RGB", (401, 3), "white")
    shown = pixels(heatmap(torch.tensor([[1.0, -1.0]]), image=white))[1]
    assert shown[200].tolist() == WHITE
    assert shown[0].tolist() == colours(torch.ones(1))[0].tolist()
    assert shown[400].tolist() == colours(-torch.ones(1))[0].tolist()
    assert (np.diff(lightness(shown[:201])) >= 0).all()


@pytest.mark.parametrize("size", [(4, 6), (40, 60), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_images_of_any_size_and_mode(size, mode):
    assert heatmap(torch.ones(3, 12, 8), image=Image.new(mode, size)).size == size


def test_arrays_are_images_too():
    photo = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    values = torch.arange(24.0).view(6, 4)
    as_image = heatmap(values, image=Image.fromarray(photo))
    np.testing.assert_array_equal(pixels(heatmap(values, image=photo)), pixels(as_image))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_must_be_finite(bad):
    relevance = torch.zeros(3, 4, 5)
    relevance[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"relevance is -?(nan|inf) at row 2, column 3; it must be finite"):
        heatmap(relevance)


@pytest.mark.parametrize("shape", [(4,), (1, 3, 4, 5), (), (0, 4), (3, 0, 4), (0, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="relevance has shape"):
        heatmap(torch.zeros(shape))


@pytest.mark.parametrize("relevance", [np.zeros((3, 4)), [[1.0]], None, torch.zeros(3, 4, dtype=torch.complex64)])
def test_other_types_are_refused(relevance):
    with pytest.raises(TypeError, match="relevance"):
        heatmap(relevance)


@pytest.mark.parametrize("percentile", [0, -1, 100.1, float("nan"), float("inf")])
def test_the_percentile_has_a_range(percentile):
    with pytest.raises(ValueError, match=r"percentile is .*\(0, 100\]"):
        heatmap(torch.ones(2, 2), percentile=percentile)


@pytest.mark.parametrize("percentile", ["99", None, True])
def test_the_percentile_is_a_number(percentile):
    with pytest.raises(TypeError, match="percentile"):
        heatmap(torch.ones(2, 2), percentile=percentile)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        ("photo.png", TypeError),
        (np.zeros((4, 4, 3), dtype=np.float32), TypeError),
        (np.zeros((4, 4), dtype=np.uint8), ValueError),
        (np.zeros((3, 4, 4), dtype=np.uint8), ValueError),
        (np.zeros((0, 4, 3), dtype=np.uint8), ValueError),
        (Image.new("RGB", (0, 4)), ValueError),
    ],
)
def test_other_images_are_refused(image, error):
    with pytest.raises(error, match="image"):
        heatmap(torch.ones(4, 4), image=image)
