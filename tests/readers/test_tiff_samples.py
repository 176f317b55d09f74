"""Samples of a TIFF as they are meant: upright, bright where they show bright, RGB, without opacity, in as many bits as they have."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from tests.readers.tiff_files import GREY, RGB, header, noise, ome_image, ome_text, pixels, valid, write_pages

STORAGE = [{}, {"tile": (16, 32), "compression": "zlib"}, {"rowsperstrip": 7, "compression": "lzw"}]
STORED = pytest.mark.parametrize("storage", STORAGE, ids=["raw", "tiles", "strips"])


@STORED
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read_upright(orientation, storage, tmp_path):
    """Header and pixels, read by boxes, are what Pillow shows; the pixel's height and width change places with the image's."""
    stored_YXC, path = noise(50, 90, 3), tmp_path / "a.tif"
    size = {"resolution": (20000, 40000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, stored_YXC, extratags=[(274, 3, 1, orientation, True)], **RGB, **storage, **size)
    image = Image.fromarray(stored_YXC)
    image.getexif()[274] = orientation
    expected_YXC = np.asarray(ImageOps.exif_transpose(image))
    found = header(path)
    assert found.shape == expected_YXC.shape[:2]
    assert found.pixel_size == ((0.25, 0.5) if orientation < 5 else (0.5, 0.25))
    np.testing.assert_array_equal(pixels(path), expected_YXC.transpose(2, 0, 1))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_is_none_changes_nothing(orientation, tmp_path):
    """Values outside 1..8 are damage."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30), extratags=[(274, 3, 1, orientation, True)], **GREY)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[0], noise(20, 30))


def test_every_level_is_upright(tmp_path):
    """A smaller level has no tag of its own; it is turned as the largest is, and so is the list of levels."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 96), tile=(16, 16), subifds=1, extratags=[(274, 3, 1, 6, True)], **GREY)
        writer.write(noise(64, 96)[::2, ::2], tile=(16, 16), subfiletype=1, **GREY)
    assert header(path, level=1).levels == ((96, 64), (48, 32))
    np.testing.assert_array_equal(pixels(path, level=1)[0], np.rot90(noise(64, 96)[::2, ::2], -1))


@STORED
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "uint32"])
def test_white_is_zero_is_read_as_shown(dtype, storage, tmp_path):
    """The largest number of the type is what was 0; of a signed type, the order is turned round."""
    stored_YX, path = noise(40, 60, dtype=dtype), tmp_path / "a.tif"
    tifffile.imwrite(path, stored_YX, photometric="miniswhite", metadata=None, **storage if dtype != "bool" else {})
    expected = {"bool": lambda: ~stored_YX, "int16": lambda: -1 - stored_YX}
    shown_YX = expected.get(dtype, lambda: np.iinfo(dtype).max - stored_YX)()
    np.testing.assert_array_equal(pixels(path)[0], shown_YX)
    assert any("0 is white" in note for note in header(path).notes)


def test_white_is_zero_of_12_bits(tmp_path):
    """White of 12 bits is 4095, not 65535."""
    stored_YX = noise(40, 60, dtype="uint16") * 16
    tifffile.imwrite(tmp_path / "a.tif", stored_YX, photometric="miniswhite", metadata=None, extratags=[(281, 3, 1, 4095, True)])
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[0], 4095 - stored_YX)


def test_white_is_zero_of_floats_is_told(tmp_path):
    """Floats have no darkest number: they stay as stored, and a note says so."""
    stored_YX = noise(20, 30, dtype="float32")
    tifffile.imwrite(tmp_path / "a.tif", stored_YX, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif")[0], stored_YX)
    assert any("floats" in note for note in header(tmp_path / "a.tif").notes)


def test_nodata_of_white_is_zero_is_that_of_the_file(tmp_path):
    """GDAL_NODATA names stored numbers, also where brightness is turned round."""
    stored_YX = noise(20, 30)
    stored_YX[:5] = 255
    tifffile.imwrite(tmp_path / "a.tif", stored_YX, photometric="miniswhite", metadata=None, extratags=[(42113, 2, 0, "255", True)])
    assert header(tmp_path / "a.tif").nodata == 0
    np.testing.assert_array_equal(valid(tmp_path / "a.tif"), stored_YX != 255)


def palette(seed=0):
    """Codes (3, 256) of 16 bits, as TIFF has them."""
    return np.random.default_rng(seed).integers(0, 256, (3, 256)).astype(np.uint16) * 257


@STORED
def test_a_palette_is_read_as_its_colours_or_indices(storage, tmp_path):
    """Colours are Pillow's; `palette: index` gives the indices, for a truth."""
    index_YX, path = noise(40, 60), tmp_path / "a.tif"
    tifffile.imwrite(path, index_YX, photometric="palette", colormap=palette(), metadata=None, **storage)
    expected_YXC = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(pixels(path), expected_YXC.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels(path, channels=[2, 0]), expected_YXC.transpose(2, 0, 1)[[2, 0]])
    np.testing.assert_array_equal(pixels(path, palette="index")[0], index_YX)
    assert (header(path).channels, header(path).is_color, header(path).dtype) == (3, True, "uint8")
    assert (header(path, palette="index").channels, header(path, palette="index").is_color) == (1, False)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_nodata_of_a_palette_is_an_index(dtype, tmp_path):
    """GDAL_NODATA of a palette image names an index: its pixels hold no data, whatever their colour, and other black ones do."""
    index_YX, path = noise(40, 60, dtype=dtype) % 4, tmp_path / "a.tif"
    colors = np.zeros((3, 256 if dtype == "uint8" else 65536), np.uint16)
    tifffile.imwrite(path, index_YX, photometric="palette", colormap=colors, metadata=None, extratags=[(42113, 2, 0, "2", True)])
    assert (header(path).nodata, header(path).has_mask) == (None, True)
    np.testing.assert_array_equal(valid(path), index_YX != 2)
    np.testing.assert_array_equal(valid(path, palette="index"), index_YX != 2)
    assert valid(path, nodata="none").all()
    np.testing.assert_array_equal(valid(path, nodata=3), index_YX != 3)


def test_a_palette_with_an_imagej_description_counts(tmp_path):
    """ImageJ stores a lookup table as a palette; a stack of planes keeps them apart."""
    index_ZYX = noise(3, 20, 30)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, index_ZYX, imagej=True, photometric="palette", colormap=palette(1), metadata={"axes": "ZYX"})
    assert (header(path).planes, header(path).channels) == ({"z": 3}, 3)
    table = (palette(1) >> 8).astype(np.uint8)
    np.testing.assert_array_equal(pixels(path, plane=2), table[:, index_ZYX[2]])


def test_palettes_of_several_channels_are_false_colours(tmp_path):
    """Channels that each have a table to show them keep their intensities."""
    index_CYX, path = noise(2, 20, 30), tmp_path / "a.tif"
    tifffile.imwrite(path, index_CYX, imagej=True, photometric="palette", colormap=palette(1), metadata={"axes": "CYX"})
    np.testing.assert_array_equal(pixels(path), index_CYX)
    assert any("indices" in note for note in header(path).notes)


def ycbcr(rgb_YXC, luma, codes):
    """The codes of colours by the definitions of TIFF 6.0, section 21."""
    red, green, blue = np.moveaxis(rgb_YXC.astype(float), -1, 0)
    y = luma[0] * red + luma[1] * green + luma[2] * blue
    parts = [y, (blue - y) / (2 - 2 * luma[2]), (red - y) / (2 - 2 * luma[0])]
    coded = [
        codes[2 * i] + part * (codes[2 * i + 1] - codes[2 * i]) / span
        for i, (part, span) in enumerate(zip(parts, (255, 127, 127), strict=True))
    ]
    return np.clip(np.rint(np.stack(coded, axis=-1)), 0, 255).astype(np.uint8)


FULL, VIDEO = (0, 255, 128, 255, 128, 255), (16, 235, 128, 240, 128, 240)
BT601, BT709 = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)


@STORED
@pytest.mark.parametrize(("luma", "codes"), [(BT601, FULL), (BT709, FULL), (BT601, VIDEO)])
def test_ycbcr_without_jpeg_is_read_as_rgb(luma, codes, storage, tmp_path):
    """With the file's own coefficients, black and white, colours come back within the rounding of two conversions."""
    rgb_YXC, path = noise(40, 60, 3), tmp_path / "a.tif"
    tags = [(532, 5, 6, sum(((code, 1) for code in codes), ()), True)]
    tags += [] if luma == BT601 else [(529, 5, 3, sum(((round(share * 10000), 10000) for share in luma), ()), True)]
    stored_YXC = ycbcr(rgb_YXC, luma, codes)
    tifffile.imwrite(path, stored_YXC, photometric="ycbcr", subsampling=(1, 1), extratags=tags, metadata=None, **storage)
    difference = np.abs(pixels(path).astype(int) - rgb_YXC.transpose(2, 0, 1))
    assert difference.max() <= 4
    assert difference.mean() < 0.7
    assert header(path).is_color


def test_subsampled_ycbcr_without_jpeg_is_refused(tmp_path):
    """What no library here upsamples is refused when the file is opened, with the way out."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32, 3), photometric="ycbcr", subsampling=(1, 1), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[530].overwrite((2, 2))
    with pytest.raises(InputError, match=r"YCbCr without JPEG, subsampled \(2, 2\).*Convert"):
        header(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
def test_lab_is_read_as_srgb(photometric, dtype, tmp_path):
    """Colours that LittleCMS made CIELAB come back within 8-bit rounding of L*, a* and b*."""
    rgb_YXC, path = noise(40, 60, 3), tmp_path / "a.tif"
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    codes = np.frombuffer(ImageCms.applyTransform(Image.fromarray(rgb_YXC), to_lab).tobytes(), np.uint8).reshape(rgb_YXC.shape)
    offset = np.array([0, 128, 128], np.uint8) if photometric == "icclab" else 0
    stored = codes + offset
    if dtype == "uint16":
        stored = np.concatenate([stored[..., :1] * np.uint16(257), stored[..., 1:].astype(np.uint16) << 8], axis=-1)
    tifffile.imwrite(path, stored, photometric=photometric, metadata=None, tile=(16, 16), compression="zlib")
    scale = 1 if dtype == "uint8" else 257
    difference = np.abs(pixels(path) / scale - rgb_YXC.transpose(2, 0, 1))
    assert header(path).dtype == dtype
    assert np.quantile(difference, 0.99) <= 6  # half a level of a* or b* is several levels of a dark blue
    assert difference.mean() < 1.5


@pytest.mark.parametrize(("photometric", "dtype"), [("itulab", "uint8"), ("logluv", "uint32"), ("cielab", "float32")])
def test_colours_that_cannot_be_converted_are_refused(photometric, dtype, tmp_path):
    """No other meaning is given to them."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30, 3, dtype=dtype), photometric=photometric, metadata=None)
    with pytest.raises(InputError, match=r"Convert the file to RGB first"):
        header(tmp_path / "a.tif")


@STORED
def test_cmyk_is_read_as_rgb(storage, tmp_path):
    """Equal to Pillow to the bit, and told."""
    path = tmp_path / "a.tif"
    cmyk_YXC = noise(40, 60, 4)
    tifffile.imwrite(path, cmyk_YXC, photometric="separated", metadata=None, **storage)
    expected = np.asarray(Image.frombuffer("CMYK", (60, 40), cmyk_YXC.tobytes()).convert("RGB"))
    np.testing.assert_array_equal(pixels(path), expected.transpose(2, 0, 1))
    assert any("red, green and blue" in note for note in header(path).notes)
    assert (header(path).is_color, header(path).channels) == (True, 3)


def test_other_inks_are_read_as_they_are(tmp_path):
    """Separations that are not cyan, magenta, yellow and black keep their samples, with a note."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30, 5), photometric="separated", extratags=[(332, 3, 1, 2, True)], metadata=None)
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), noise(20, 30, 5).transpose(2, 0, 1))
    assert any("inks" in note for note in header(tmp_path / "a.tif").notes)


def with_alpha(path, colors, alpha, kind, **options):
    """A TIFF whose last sample is opacity."""
    samples = np.concatenate([colors.reshape(*colors.shape[:2], -1), alpha[..., np.newaxis]], axis=-1)
    photometric = "rgb" if colors.ndim == 3 else "minisblack"
    if options.get("planarconfig") == "separate":
        samples = samples.transpose(2, 0, 1)
    tifffile.imwrite(path, samples, photometric=photometric, extrasamples=[kind], metadata=None, **options)
    return path


@pytest.mark.parametrize(
    "storage", [*STORAGE, {"planarconfig": "separate", "compression": "zlib"}], ids=["raw", "tiles", "strips", "planar"]
)
@pytest.mark.parametrize("shape", [(40, 60, 3), (40, 60)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_no_colour_and_says_where_there_is_data(dtype, shape, storage, tmp_path):
    """Opacity 0 is no data, any other is data; the colours are those of the file without alpha."""
    colors, alpha_YX = noise(*shape, dtype=dtype), noise(40, 60, seed=4, dtype=dtype) % 3
    path = with_alpha(tmp_path / "a.tif", colors, alpha_YX, "unassalpha", **storage)
    found = header(path)
    assert (found.channels, found.has_mask, found.is_color) == (colors[0, 0].size, True, len(shape) == 3)
    np.testing.assert_array_equal(pixels(path), np.moveaxis(colors.reshape(40, 60, -1), -1, 0))
    np.testing.assert_array_equal(valid(path), alpha_YX > 0)


def test_alpha_that_is_named_is_a_channel(tmp_path):
    """`reader.channels` reads opacity as a number like others, and it then says nothing of validity."""
    colors, alpha_YX = noise(40, 60, 3), noise(40, 60, seed=4) % 3
    path = with_alpha(tmp_path / "a.tif", colors, alpha_YX, "unassalpha")
    np.testing.assert_array_equal(pixels(path, channels=[3, 0]), np.stack([alpha_YX, colors[..., 0]]))
    assert valid(path, channels=[3, 0]).all()
    assert not header(path, channels=[3]).has_mask
    np.testing.assert_array_equal(pixels(path, channels=[1]), colors[np.newaxis, ..., 1])
    np.testing.assert_array_equal(valid(path, channels=[1]), alpha_YX > 0)


@STORED
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_premultiplied_colours_are_divided(dtype, storage, tmp_path):
    """Colours that were multiplied by opacity come back within the rounding that the opacity allows."""
    full = np.iinfo(dtype).max
    colors = noise(40, 60, 3, dtype=dtype) * (1 if dtype == "uint8" else 257)
    alpha_YX = np.random.default_rng(3).integers(0, full, (40, 60), endpoint=True).astype(dtype)
    alpha_YX[:9] = 0
    stored = np.rint(colors * (alpha_YX[..., np.newaxis] / full)).astype(dtype)
    path = with_alpha(tmp_path / "a.tif", stored, alpha_YX, "assocalpha", **storage)
    allowed_YX = np.where(alpha_YX > 0, 0.5 * full / np.maximum(alpha_YX, 1) + 0.5, np.inf)
    assert (np.abs(pixels(path).astype(float) - colors.transpose(2, 0, 1)) <= allowed_YX).all()
    np.testing.assert_array_equal(valid(path), alpha_YX > 0)


def test_converted_colours_may_have_alpha(tmp_path):
    """Cyan, magenta, yellow and black with opacity: the inks become colours, the opacity says where there is data."""
    path, cmyk, alpha_YX = tmp_path / "a.tif", noise(40, 60, 4), noise(40, 60, seed=4) % 3
    samples = np.dstack([cmyk, alpha_YX])
    tifffile.imwrite(path, samples, photometric="separated", extrasamples=["unassalpha"], tile=(16, 16), metadata=None)
    expected = np.asarray(Image.frombuffer("CMYK", (60, 40), cmyk.tobytes()).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels(path), expected)
    np.testing.assert_array_equal(valid(path), alpha_YX > 0)
    np.testing.assert_array_equal(pixels(path, channels=[3, 1]), np.stack([alpha_YX, expected[1]]))
    assert valid(path, channels=[3, 1]).all()


def test_each_channel_of_colours_is_converted(tmp_path):
    """A stack of channels that each hold three samples: channels are numbered over the samples first."""
    path, samples = tmp_path / "a.tif", noise(2, 40, 60, 3)
    options = {"photometric": "ycbcr", "subsampling": (1, 1), "metadata": {"axes": "CYXS"}}
    tifffile.imwrite(path, samples, **options)
    converted = pixels(path)
    assert (header(path).channels, header(path).is_color) == (6, False)
    for index in range(2):
        tifffile.imwrite(tmp_path / "b.tif", samples[index], **options | {"metadata": None})
        np.testing.assert_array_equal(converted[3 * index : 3 * index + 3], pixels(tmp_path / "b.tif"))
    np.testing.assert_array_equal(pixels(path, channels=[5, 3]), converted[[5, 3]])


def test_an_extra_sample_of_no_kind_is_a_channel(tmp_path):
    """Near infrared beside red, green and blue is a channel, as nothing says that it is opacity."""
    path = with_alpha(tmp_path / "a.tif", noise(40, 60, 3), noise(40, 60, seed=4), "unspecified")
    assert (header(path).channels, header(path).has_mask, header(path).is_color) == (4, False, False)
    np.testing.assert_array_equal(pixels(path)[3], noise(40, 60, seed=4))


def test_opaque_and_without_alpha_are_one(tmp_path):
    """The same colours with full opacity and without give the same pixels, channels and colours."""
    tifffile.imwrite(tmp_path / "a.tif", noise(40, 60, 3), **RGB)
    with_alpha(tmp_path / "b.tif", noise(40, 60, 3), np.full((40, 60), 255, np.uint8), "unassalpha")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), pixels(tmp_path / "b.tif"))
    assert valid(tmp_path / "b.tif").all()


@pytest.mark.parametrize(
    ("bits", "dtype", "used"), [(12, "uint16", 12), (10, "uint16", 10), (4, "uint8", 4), (16, "uint16", 0), (8, "uint8", 0)]
)
def test_bits_of_packed_samples_are_known(bits, dtype, used, tmp_path):
    """BitsPerSample below the type says how many bits are used."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 32, dtype=dtype) % 16, bitspersample=bits, **GREY)
    assert (header(tmp_path / "a.tif").bits, header(tmp_path / "a.tif").dtype) == (used, dtype)


@pytest.mark.parametrize(("largest", "used"), [(4095, 12), (1023, 10), (16383, 14), (65535, 0), (3417, 0), (0, 0), (255, 8)])
def test_the_largest_sample_tells_the_bits_where_it_is_plausible(largest, used, tmp_path):
    """MaxSampleValue 4095 is that of 12 bits; 3417 is only the brightest pixel of this image."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30, dtype="uint16"), extratags=[(281, 3, 1, largest, True)], **GREY)
    assert header(tmp_path / "a.tif").bits == used


@pytest.mark.parametrize(("significant", "used"), [("12", 12), ("16", 0), ("0", 0), ("x", 0), ("32", 0)])
def test_significant_bits_of_ome_are_known(significant, used, tmp_path):
    """SignificantBits of the OME-XML, where it can be true."""
    text = ome_text(ome_image(0, "a", (20, 30), attributes=f'SignificantBits="{significant}"').replace("uint8", "uint16"))
    assert header(write_pages(tmp_path / "a.ome.tif", noise(20, 30, dtype="uint16"), description=text)).bits == used


def test_lossy_compression_is_told(tmp_path):
    """JPEG changes values, deflate does not."""
    for compression, is_lossy in (("jpeg", True), ("zlib", False)):
        tifffile.imwrite(tmp_path / "a.tif", noise(32, 32, 3), compression=compression, tile=(16, 16), **RGB)
        assert header(tmp_path / "a.tif").is_lossy is is_lossy


def test_converting_takes_memory_for_the_region_only(tmp_path):
    """A large region is converted piece by piece, each in place, and two boxes that overlap agree."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(700, 900, 3), photometric="ycbcr", subsampling=(1, 1), tile=(64, 64), compression="zlib", metadata=None)
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        large = raster.read(Box(3, 5, 699, 897))
        np.testing.assert_array_equal(large[:, 300:400, 200:300], raster.read(Box(303, 205, 403, 305)))
