"""Conversions to RGB against Pillow, scikit-image, LittleCMS and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageCms

from pipeline.readers._color import cmyk_to_rgb, color_table, lab_to_rgb, palette_to_rgb, unpremultiply, ycbcr_to_rgb

CUBE = np.stack(np.meshgrid(*[np.linspace(0, 255, 18)] * 3, indexing="ij"), axis=-1).round().astype(np.uint8).reshape(-1, 18, 3)


def test_cmyk_is_converted_as_pillow_does() -> None:
    """Equal to Pillow to the bit over the four-dimensional cube of inks."""
    steps = np.linspace(0, 255, 16).round().astype(np.uint8)
    cmyk = np.stack(np.meshgrid(steps, steps, steps, steps, indexing="ij"), axis=-1).reshape(256, 256, 4)
    np.testing.assert_array_equal(cmyk_to_rgb(cmyk), np.asarray(Image.frombuffer("CMYK", (256, 256), cmyk.tobytes()).convert("RGB")))


def test_cmyk_of_16_bits_spans_its_type() -> None:
    """No ink is white, black ink is black, half the ink is half the light."""
    cmyk = np.array([[0, 0, 0, 0], [0, 0, 0, 65535], [65535, 0, 32768, 0]], np.uint16)
    assert cmyk_to_rgb(cmyk).tolist() == [[65535] * 3, [0] * 3, [0, 65535, 32767]]


def test_ycbcr_is_converted_as_pillow_does() -> None:
    """Full-range BT.601 within one level of Pillow's integer tables, and exact where they round right."""
    expected = np.asarray(Image.frombuffer("YCbCr", CUBE.shape[1::-1], CUBE.tobytes()).convert("RGB"))
    difference = np.abs(ycbcr_to_rgb(CUBE).astype(int) - expected)
    # TIFF scales the differences by 127 codes about 128, JPEG by 128: equal to rounding.
    assert difference.max() <= 1


def forward(rgb: np.ndarray, luma: tuple[float, float, float], codes: tuple[float, ...]) -> np.ndarray:
    """RGB 0..255 to YCbCr codes, by the definitions of TIFF 6.0, section 21."""
    red, green, blue = np.moveaxis(rgb.astype(float), -1, 0)
    y = luma[0] * red + luma[1] * green + luma[2] * blue
    differences = [y, (blue - y) / (2 - 2 * luma[2]), (red - y) / (2 - 2 * luma[0])]
    spans = (255, 127, 127)
    return np.stack([codes[2 * i] + differences[i] * (codes[2 * i + 1] - codes[2 * i]) / spans[i] for i in range(3)], axis=-1)


@pytest.mark.parametrize("luma", [(0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)])
@pytest.mark.parametrize("codes", [(0, 255, 128, 255, 128, 255), (16, 235, 128, 240, 128, 240), (0, 255, 128, 248, 128, 250)])
def test_the_files_own_coefficients_count(luma: tuple[float, float, float], codes: tuple[float, ...]) -> None:
    """Colours that were written with other coefficients, or with reference black and white of video, come back within rounding."""
    stored = np.clip(np.rint(forward(CUBE, luma, codes)), 0, 255).astype(np.uint8)
    difference = np.abs(ycbcr_to_rgb(stored, luma, codes).astype(int) - CUBE)
    assert np.quantile(difference, 0.99) <= 2


def test_ycbcr_of_16_bits_spans_its_type() -> None:
    """Grey stays grey, white is the largest code."""
    ycbcr = np.array([[65535, 32768, 32768], [0, 32768, 32768], [1000, 32768, 32768]], np.uint16)
    assert ycbcr_to_rgb(ycbcr).tolist() == [[65535] * 3, [0] * 3, [1000] * 3]


def test_lab_is_converted_as_littlecms_does() -> None:
    """8-bit CIELAB and ICCLab of colours inside sRGB agree with a colour management system within 2 levels."""
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(CUBE), to_lab)
    cie = np.frombuffer(image.tobytes(), np.uint8).reshape(CUBE.shape)  # Pillow stores a and b in two's complement
    back = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE
    )
    expected = np.asarray(ImageCms.applyTransform(image, back))
    for encoding, lab in (("cie", cie), ("icc", cie + np.array([0, 128, 128], np.uint8))):
        difference = np.abs(lab_to_rgb(lab, encoding).astype(int) - expected)  # type: ignore[arg-type]
        assert difference.max() <= 3, encoding
        assert np.quantile(difference, 0.99) <= 1, encoding


@pytest.mark.parametrize("encoding", ["cie", "icc"])
def test_lab_of_16_bits_agrees_with_8(encoding: str) -> None:
    """16-bit codes of the same colours give the same RGB, at 16 bits."""
    ab = CUBE[..., 1:].astype(int) - 128
    lab8 = np.concatenate([CUBE[..., :1], ab if encoding == "cie" else ab + 128], axis=-1).astype(np.uint8)
    lab16 = np.concatenate([CUBE[..., :1].astype(int) * 257, (ab if encoding == "cie" else ab + 128) * 256], axis=-1).astype(np.uint16)
    difference = lab_to_rgb(lab16, encoding) / 257 - lab_to_rgb(lab8, encoding)  # type: ignore[arg-type]
    assert np.abs(difference).max() <= 0.51


def test_lab_with_the_white_of_srgb_agrees_with_scikit_image() -> None:
    """With white D65 the conversion is scikit-image's lab2rgb."""
    from skimage.color import lab2rgb

    lab = np.array([[50.0, 20, -30], [80, -10, 40]])
    codes = np.concatenate([lab[:, :1] * 65535 / 100, lab[:, 1:] * 256], axis=-1).round().astype(np.int32).astype(np.uint16)
    np.testing.assert_allclose(lab_to_rgb(codes, white="D65") / 65535, lab2rgb(lab), atol=1e-4)


def test_a_palette_gives_its_colours() -> None:
    """Codes of 16 bits and those that were written as 8 bits give the same table; indices become colours."""
    table_NC = np.array([[0, 0, 0], [230, 25, 75], [60, 180, 75], [255, 255, 255]], np.uint8)
    wide = (table_NC.T.astype(np.uint16)) * 257
    np.testing.assert_array_equal(color_table(wide), table_NC)
    np.testing.assert_array_equal(color_table(table_NC.T.astype(np.uint16)), table_NC)
    indices = np.array([[0, 3], [1, 2]])
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(table_NC.tobytes())
    np.testing.assert_array_equal(palette_to_rgb(indices, table_NC), np.asarray(image.convert("RGB")))


def test_an_index_beyond_the_palette_is_an_error() -> None:
    """A damaged index is no colour."""
    with pytest.raises(IndexError):
        palette_to_rgb(np.array([4]), np.zeros((4, 3), np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_premultiplied_colours_come_back(dtype: type) -> None:
    """Colours that were multiplied by their opacity come back within the rounding that the opacity allows; where it is 0, they are 0."""
    full = np.iinfo(dtype).max
    rng = np.random.default_rng(5)
    colors = rng.integers(0, full, (64, 64, 3), endpoint=True).astype(dtype)
    alpha = rng.integers(0, full, (64, 64), endpoint=True).astype(dtype)
    stored = np.rint(colors * (alpha[..., None] / full)).astype(dtype)
    back = unpremultiply(stored, alpha)
    allowed = np.where(alpha > 0, 0.5 * full / np.maximum(alpha, 1) + 0.5, np.inf)[..., None]
    assert (np.abs(back.astype(float) - colors) <= allowed).all()
    assert (unpremultiply(stored, np.zeros_like(alpha)) == 0).all()


def test_premultiplied_floats_come_back() -> None:
    """Floats are divided and not cut: high dynamic range lies above 1."""
    assert unpremultiply(np.array([[1.0, 0.25]], np.float32), np.array([0.5], np.float32)).tolist() == [[2.0, 0.5]]
