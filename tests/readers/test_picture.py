"""Pictures as the file means them: upright, in colour, without their opacity, in bounded memory, or refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.readers._picture_file import content_kind

RED, GREEN, BLUE = (200, 10, 20), (10, 200, 20), (10, 20, 200)


def read(path, **options):
    """Header, all pixels (C, Y, X), and where they are valid, by the reader of pictures."""
    with build("readers", {"name": "picture", **options}).open(str(path)) as raster:
        return raster.header, *raster.read_valid(Box(0, 0, *raster.header.shape))


def noise(*shape, dtype="uint8"):
    """The same noise every time."""
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def smooth(height, width):
    """A picture (Y, X, 3) that compression keeps."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)


def png(width, height, bits, color, rows, chunks=(), late=()):
    """A PNG made by hand; each row of ``rows`` holds its packed samples, ``chunks`` stand before the pixels and ``late`` behind."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)), *chunks]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows))), *late, (b"IEND", b"")]
    framed = [struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def exif(orientation):
    """EXIF that says nothing but the orientation."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


ORIENTED = {
    "jpg": lambda image, path, data: image.save(path, exif=data, quality=95),
    "png": lambda image, path, data: image.save(path, exif=data),
    "webp": lambda image, path, data: image.save(path, exif=data, lossless=True),
}


@pytest.mark.parametrize("suffix", ORIENTED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation, suffix, tmp_path):
    """Whatever its EXIF orientation, a picture has the pixels that Pillow shows upright, whole and by boxes, with its opacity."""
    path, stored = tmp_path / f"a.{suffix}", np.dstack([smooth(20, 33), noise(20, 33) // 128 * 255])
    stored = stored[..., :3] if suffix == "jpg" else stored
    ORIENTED[suffix](Image.fromarray(stored), path, exif(orientation))
    with Image.open(path) as image:
        seen_YXC = np.asarray(ImageOps.exif_transpose(image))
    header, pixels_CYX, valid_YX = read(path)
    assert header.shape == ((33, 20) if orientation > 4 else (20, 33))
    kept_YX = seen_YXC[..., 3] > 0 if suffix != "jpg" else np.ones(header.shape, bool)
    np.testing.assert_array_equal(pixels_CYX[:, kept_YX], np.moveaxis(seen_YXC[..., :3], -1, 0)[:, kept_YX])
    np.testing.assert_array_equal(kept_YX if valid_YX is None else valid_YX, kept_YX)
    with build("readers", {"name": "picture"}).open(str(path)) as raster:
        for box in (Box(0, 0, 1, 1), Box(3, 5, 17, 11), Box(13, 2, 20, 20)):
            part_CYX, part_YX = raster.read_valid(box)
            np.testing.assert_array_equal(part_CYX, pixels_CYX[:, *box.slices])
            np.testing.assert_array_equal(kept_YX[box.slices], kept_YX[box.slices] if part_YX is None else part_YX)


def test_orientation_after_the_pixels_and_damaged(tmp_path):
    """A PNG may declare its orientation behind its pixels; damaged EXIF is told in a note, values beyond 8 mean nothing."""
    path = tmp_path / "a.png"
    rows = [bytes([1, 2, 3]), bytes([4, 5, 6])]
    path.write_bytes(png(3, 2, 8, 0, rows, late=[(b"eXIf", exif(6)[6:])]))
    header, pixels_CYX, _ = read(path)
    assert (header.notes, pixels_CYX[0].tolist()) == ((), [[4, 1], [5, 2], [6, 3]])
    for damaged in (b"garbage", b"MM\x00*\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00\xff\xff", exif(6)[6:20]):
        path.write_bytes(png(3, 2, 8, 0, rows, [(b"eXIf", damaged)]))
        header, pixels_CYX, _ = read(path)
        assert ("EXIF is damaged" in header.notes[0], pixels_CYX[0].tolist()) == (True, [[1, 2, 3], [4, 5, 6]])
    path.write_bytes(png(3, 2, 8, 0, rows, [(b"eXIf", exif(99)[6:])]))
    assert read(path)[1][0].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp"])
def test_opaque_alpha_changes_nothing(suffix, tmp_path):
    """An opaque picture has the same channels, colours and pixels with an alpha channel as without, and every pixel is valid."""
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    rgb = noise(30, 41, 3)
    Image.fromarray(rgb).save(tmp_path / f"rgb.{suffix}", **options)
    Image.fromarray(np.dstack([rgb, np.full((30, 41), 255, np.uint8)])).save(tmp_path / f"rgba.{suffix}", **options)
    (one, without_CYX, _), (other, with_CYX, valid_YX) = (read(tmp_path / f"{name}.{suffix}") for name in ("rgb", "rgba"))
    np.testing.assert_array_equal(with_CYX, without_CYX)
    np.testing.assert_array_equal(with_CYX, np.moveaxis(rgb, -1, 0))
    assert (one.channels, one.is_color, valid_YX) == (other.channels, other.is_color, None) == (3, True, None)


ALPHA = {
    "LA": lambda path, grey, alpha: Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(path),
    "RGBA": lambda path, grey, alpha: Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(path),
    "LA16": lambda path, grey, alpha: path.write_bytes(imagecodecs.png_encode(np.dstack([grey, alpha]).astype(np.uint16) * 257)),
    "RGBA16": lambda path, grey, alpha: path.write_bytes(imagecodecs.png_encode(np.dstack([grey] * 3 + [alpha]).astype(np.uint16) * 257)),
}


@pytest.mark.parametrize("mode", ALPHA)
def test_alpha_says_where_there_is_data(mode, tmp_path):
    """Opacity 0 is no data and any other keeps the value as it is; named by number, the opacity is a channel and validates nothing."""
    grey, alpha = noise(9, 13) | 1, np.resize(np.array([0, 1, 128, 255], np.uint8), (9, 13))
    path, factor = tmp_path / "a.png", 257 if mode.endswith("16") else 1
    ALPHA[mode](path, grey, alpha)
    header, pixels_CYX, valid_YX = read(path)
    channels = 3 if mode.startswith("RGB") else 1
    assert (header.channels, header.has_mask, header.is_color, header.notes) == (channels, True, channels == 3, ())
    np.testing.assert_array_equal(valid_YX, alpha > 0)
    np.testing.assert_array_equal(pixels_CYX, [grey.astype(int) * factor] * channels)
    header, pixels_CYX, valid_YX = read(path, channels=[channels, 0])
    np.testing.assert_array_equal(pixels_CYX, np.stack([alpha, grey]).astype(int) * factor)
    assert (header.has_mask, valid_YX, header.is_color) == (False, None, False)
    assert f"channel {channels} is opacity" in header.notes[0]


def test_transparent_colours_of_png(tmp_path):
    """The colour that a PNG declares transparent, grey or RGB, of 2, 8 or 16 bits, is no data; no channel is added."""
    path = tmp_path / "a.png"
    path.write_bytes(png(4, 1, 8, 0, [bytes([7, 8, 9, 7])], [(b"tRNS", b"\x00\x07")]))
    header, pixels_CYX, valid_YX = read(path)
    assert (header.channels, pixels_CYX[0].tolist(), valid_YX.tolist()) == (1, [[7, 8, 9, 7]], [[False, True, True, False]])
    path.write_bytes(png(4, 1, 2, 0, [b"\x1b"], [(b"tRNS", b"\x00\x02")]))
    assert [array.tolist() for array in read(path)[1:]] == [[[[0, 1, 2, 3]]], [[True, True, False, True]]]
    path.write_bytes(png(2, 1, 16, 0, [b"\x01\x02\x01\x03"], [(b"tRNS", b"\x01\x02")]))
    assert [array.tolist() for array in read(path)[1:]] == [[[[258, 259]]], [[False, True]]]
    path.write_bytes(png(2, 1, 8, 2, [bytes([*RED, 200, 10, 21])], [(b"tRNS", bytes([0, 200, 0, 10, 0, 20]))]))
    header, pixels_CYX, valid_YX = read(path)
    assert (header.channels, header.is_color, valid_YX.tolist()) == (3, True, [[False, True]])
    assert pixels_CYX[:, 0, 1].tolist() == [200, 10, 21]


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_palettes(suffix, tmp_path):
    """A palette gives its colours, or with ``palette: index`` the class ids that were drawn with it."""
    path, ids = tmp_path / f"a.{suffix}", noise(11, 17) % 3
    image = Image.fromarray(ids).convert("P")
    image.putpalette([*RED, *GREEN, *BLUE])
    image.save(path)
    header, pixels_CYX, _ = read(path)
    assert (header.channels, header.is_color, header.bits, header.notes) == (3, True, 0, ())
    np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), np.array([RED, GREEN, BLUE])[ids])
    header, pixels_CYX, _ = read(path, palette="index")
    assert (header.channels, header.is_color) == (1, False)
    assert "indices of a palette" in header.notes[0]
    np.testing.assert_array_equal(pixels_CYX[0], ids)


def test_palette_with_opacity_and_holes(tmp_path):
    """A palette's transparent entry is no data, by colour and by index; an index without an entry fails its block."""
    path, palette = tmp_path / "a.png", (b"PLTE", bytes([*RED, *GREEN, *BLUE]))
    path.write_bytes(png(4, 1, 8, 3, [bytes([0, 1, 2, 0])], [palette, (b"tRNS", b"\x00\x80")]))
    for options in ({}, {"palette": "index"}):
        header, pixels_CYX, valid_YX = read(path, **options)
        assert (header.has_mask, valid_YX.tolist()) == (True, [[False, True, True, False]])
        assert len(pixels_CYX) == (1 if options else 3)
    assert read(path, channels=[3])[1].tolist() == [[[0, 128, 255, 0]]]
    path.write_bytes(png(4, 1, 2, 3, [b"\x1b"], [palette]))
    with pytest.raises(BlockError, match=r"a\.png: rows 0\.\.1, columns 0\.\.4"):
        read(path)
    header, pixels_CYX, _ = read(path, palette="index")
    assert (header.bits, pixels_CYX[0].tolist()) == (2, [[0, 1, 2, 3]])


def test_grey_of_few_bits(tmp_path):
    """Grey of 1, 2 and 4 bits is its small numbers, and the header says so; sBIT changes nothing, as values are scaled."""
    path = tmp_path / "a.png"
    for bits, row, expected in ((1, b"\xa5", [1, 0, 1, 0, 0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x5f", [5, 15])):
        path.write_bytes(png(len(expected), 1, bits, 0, [row]))
        header, pixels_CYX, _ = read(path)
        assert (header.dtype, header.bits, pixels_CYX[0].tolist()) == ("uint8", bits, [expected])
    Image.fromarray(noise(5, 9) > 99).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(read(tmp_path / "a.bmp")[1][0], noise(5, 9) > 99)
    path.write_bytes(png(2, 1, 16, 0, [b"\xff\xff\x80\x08"], [(b"sBIT", b"\x0c")]))
    header, pixels_CYX, _ = read(path)
    assert (header.bits, pixels_CYX[0].tolist()) == (0, [[65535, 32776]])


def test_ink_becomes_light(tmp_path):
    """CMYK and YCCK JPEGs, inverted as Adobe's programs write them, become RGB as Pillow converts them, with a note."""
    path = tmp_path / "a.jpg"
    ink = Image.fromarray(smooth(40, 56)).convert("CMYK")
    ink = Image.merge("CMYK", [*ink.split()[:3], Image.fromarray(smooth(40, 56)[..., 2] // 3)])
    ink.save(path, quality=95)
    ycck = imagecodecs.jpeg8_encode(255 - np.asarray(ink), level=95, colorspace="CMYK", outcolorspace="YCCK")
    for content in (path.read_bytes(), bytes(ycck)):
        path.write_bytes(content)
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB")).astype(int)
        header, pixels_CYX, _ = read(path)
        assert (header.channels, header.is_color, header.is_lossy) == (3, True, True)
        assert "cyan, magenta, yellow and black" in header.notes[0]
        assert np.abs(np.moveaxis(pixels_CYX, 0, -1) - expected).max() <= 1


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "progressive": True}, {"keep_rgb": True}]
)
def test_jpeg_is_pillows(options, tmp_path):
    """Colour JPEGs of any subsampling, progressive or stored as RGB, have Pillow's pixels."""
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(67, 93)).save(path, quality=80, **options)
    header, pixels_CYX, valid_YX = read(path)
    np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), np.asarray(Image.open(path)))
    assert (header.is_lossy, header.is_color, header.bits, valid_YX) == (True, True, 0, None)


def test_jpeg_of_twelve_bits(tmp_path):
    """A JPEG of 12 bits has its numbers and says so; a lossless one loses nothing and says that too."""
    path, pixels_YX = tmp_path / "a.jpg", noise(24, 31, dtype="uint16") >> 4
    for lossless in (False, True):
        path.write_bytes(imagecodecs.jpeg8_encode(pixels_YX, level=98, bitspersample=12, lossless=lossless))
        header, read_CYX, _ = read(path)
        assert (header.dtype, header.bits, header.is_lossy) == ("uint16", 12, not lossless)
        assert np.abs(read_CYX[0].astype(int) - pixels_YX).max() <= (0 if lossless else 200)


def test_lossy_and_lossless_webp(tmp_path):
    """WebP says whether its pixels were changed, with alpha and without; both have Pillow's pixels."""
    path = tmp_path / "a.webp"
    for lossless in (True, False):
        for channels in (3, 4):
            stored = np.dstack([smooth(30, 40), noise(30, 40)])[..., :channels]
            Image.fromarray(stored).save(path, lossless=lossless, exact=True, quality=70)
            header, pixels_CYX, _ = read(path)
            assert (header.is_lossy, header.has_mask, header.channels) == (not lossless, channels == 4, 3)
            np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), np.asarray(Image.open(path))[..., :3])


def test_print_resolution_is_no_pixel_size(tmp_path):
    """The dots per inch of a PNG, JPEG or BMP say nothing about the size of what was imaged."""
    for suffix in ("png", "jpg", "bmp"):
        Image.fromarray(smooth(8, 9)).save(tmp_path / f"a.{suffix}", dpi=(72, 72))
        header = read(tmp_path / f"a.{suffix}")[0]
        assert (header.pixel_size, header.unit, header.pixel_size_from) == (None, "", "")


def test_world_file_places_the_picture(tmp_path):
    """A world file gives size, corner and tags; turned upright by EXIF, the picture covers the same ground."""
    path = tmp_path / "a.png"
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.25\n100.25\n199.875\n")
    Image.fromarray(smooth(20, 30)).save(path)
    header = read(path)[0]
    assert (header.pixel_size, header.unit, header.offset, header.pixel_size_from) == ((0.25, 0.5), "", (200.0, 100.0), "world file")
    assert header.georeference["33922"]["value"] == [0.0, 0.0, 0.0, 100.0, 200.0, 0.0]
    overridden = read(path, pixel_size=2)[0]
    assert (overridden.pixel_size, overridden.unit, overridden.pixel_size_from) == ((2.0, 2.0), "meter", "reader.pixel_size")
    assert str(tmp_path / "a.pgw") in build("readers", {"name": "picture"}).companions(str(path))
    Image.fromarray(smooth(20, 30)).save(path, exif=exif(6))
    header = read(path)[0]
    a, b, _, x, d, e, _, y = header.georeference["34264"]["value"][:8]
    assert header.pixel_size == (0.5, 0.25)
    corners = [(x + a * column + b * row, y + d * column + e * row) for column, row in ((0, 0), (20, 0), (0, 30), (20, 30))]
    assert sorted(corners) == [(100.0, 195.0), (100.0, 200.0), (115.0, 195.0), (115.0, 200.0)]
    assert corners[0] == (100.0, 195.0)  # the upper left pixel was stored in the lowest row


def test_nodata_of_an_aux_xml(tmp_path):
    """The value without data that an ``.aux.xml`` declares counts; the reader's option overrides it."""
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 7, 9]], np.uint8)).save(path)
    (tmp_path / "a.png.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>7.0E+00</NoDataValue></PAMRasterBand></PAMDataset>'
    )
    assert read(path)[2].tolist() == [[True, False, True]]
    assert read(path, nodata=0)[2].tolist() == [[False, True, True]]
    assert read(path, nodata="none")[2] is None


def test_content_not_suffix(tmp_path):
    """A picture is opened by what it is, whatever its name; a TIFF or JPEG 2000 called .png by its own reader; others are named."""
    pixels_YXC = smooth(40, 50)
    with io.BytesIO() as content:
        Image.fromarray(pixels_YXC).save(content, "PNG")
        (tmp_path / "png.jpg").write_bytes(content.getvalue())
    (tmp_path / "webp.bmp").write_bytes(imagecodecs.webp_encode(pixels_YXC, lossless=True))
    (tmp_path / "jp2.png").write_bytes(imagecodecs.jpeg2k_encode(pixels_YXC, reversible=True))
    tifffile.imwrite(tmp_path / "tif.png", pixels_YXC, photometric="rgb")
    for name in ("png.jpg", "webp.bmp", "jp2.png", "tif.png"):
        np.testing.assert_array_equal(read(tmp_path / name)[1], np.moveaxis(pixels_YXC, -1, 0))
    for content, kind in (
        (b"GIF89a" + bytes(99), "GIF"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg></svg>", "SVG"),
        (b"PK\x03\x04" + bytes(99), "ZIP"),
    ):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.png: found .*{kind}.*; expected a PNG, JPEG, WebP or BMP"):
            read(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(np.random.default_rng(3).bytes(5000))  # as an encrypted file
    with pytest.raises(InputError, match="no picture"):
        read(tmp_path / "a.png")


def test_animations_are_told(tmp_path):
    """Of an animated PNG the first picture is read, with a note; an animated WebP is refused."""
    frames = [Image.fromarray(smooth(10, 12)), Image.fromarray(smooth(10, 12)[::-1])]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    header, pixels_CYX, _ = read(tmp_path / "a.png")
    assert "first picture of an animation" in header.notes[0]
    np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), smooth(10, 12))
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="an animated WebP"):
        read(tmp_path / "a.webp")


HUGE = 10**9
BOMBS = {
    "png": png(HUGE, HUGE, 8, 2, [b""]),
    "bits.png": png(HUGE, HUGE, 1, 0, [b""]),
    "wide.png": png(2**31 - 1, 1, 8, 0, [b""]),
    "jpg": bytes.fromhex("ffd8 ffc0 0011 08 ffff ffff 03 012200 021101 031101 ffda 000c 03 0100 0211 0311 003f00"),
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, HUGE, HUGE, 1, 24, 0, 0, 0, 0, 0, 0),
    "no.jpg": b"\xff\xd8\xff" + b"\xff" * 5000,
    "no.webp": b"RIFF\xff\xff\xff\x7fWEBPVP8X" + bytes(20),
    "zero.png": png(0, 5, 8, 0, [b""]),
    "kind.png": png(5, 5, 8, 5, [b""]),
    "empty.png": b"",
    "head.png": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_absurd_headers_are_refused(name, tmp_path):
    """A header of more pixels than its bytes can hold, or of none, is refused at open, before anything is allocated."""
    path = tmp_path / f"a.{name}"
    path.write_bytes(BOMBS[name])
    with pytest.raises(InputError, match=r"a\."):
        read(path)


DAMAGE = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
rng, ends = np.random.default_rng(5), {}
for source in map(Path, sys.argv[1:]):
    good, path = source.read_bytes(), source.with_name("damaged" + source.suffix)
    for attempt in range(60):
        content = bytearray(good)
        if attempt % 3 == 0:
            content = content[: int(rng.integers(0, len(content)))]
        for _ in range(int(rng.integers(1, 9)) if attempt % 3 else 0):
            content[int(rng.integers(0, len(content)))] = int(rng.integers(0, 256))
        path.write_bytes(content)
        try:
            with build("readers", {"name": "picture"}).open(str(path)) as raster:
                box = Box(0, 0, *raster.header.shape).clip((500, 500))
                assert raster.header.whole_bytes < 1 << 30, raster.header
                pixels, _ = raster.read_valid(box)
                assert pixels.shape == (raster.header.channels, *box.shape)
            end = "read"
        except (InputError, BlockError) as error:
            assert "damaged" in str(error), error
            end = type(error).__name__
        ends[source.suffix, end] = ends.get((source.suffix, end), 0) + 1
print(ends)
"""


def test_damage_ends_cleanly(tmp_path):
    """Pictures with bytes changed or cut off give pixels or name themselves: no traceback, no crash, no gigabytes."""
    rgb = smooth(90, 120)
    for suffix in ("png", "jpg", "bmp"):
        Image.fromarray(rgb).save(tmp_path / f"a.{suffix}")
    Image.fromarray(rgb[..., 0]).convert("P").save(tmp_path / "b.png", transparency=3, exif=exif(8))
    Image.fromarray(rgb).save(tmp_path / "b.jpg", progressive=True, exif=exif(5))
    Image.fromarray(np.dstack([rgb, rgb[..., 0]])).save(tmp_path / "a.webp", exif=exif(3))
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", DAMAGE, *files], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ends = eval(done.stdout)  # noqa: S307 - what the program above printed
    assert sum(ends.values()) == 60 * len(files)
    assert all(ends.get((suffix, "BlockError"), 0) + ends.get((suffix, "InputError"), 0) >= 20 for suffix in (".png", ".jpg", ".webp"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_cut_anywhere_is_never_read_as_whole(suffix, tmp_path):
    """A picture that lost its end is refused or fails every block: what is missing is never filled with grey."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(smooth(64, 64)).save(path)
    good = path.read_bytes()
    for size in (*range(0, len(good) - 20, max(len(good) // 40, 1)), len(good) - 20):
        path.write_bytes(good[:size])
        with pytest.raises((BlockError, InputError)):
            read(path)


PEAK = """
import sys
from pathlib import Path
import imagecodecs, numpy as np
from PIL import Image
from pipeline.geometry import Box
from pipeline.plugins import build
imagecodecs.png_decode, imagecodecs.jpeg8_decode, imagecodecs.webp_decode
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) << 10
with build("readers", {"name": "picture"}).open(sys.argv[2]) as raster:
    raster.read_valid(Box(0, 0, 8, 8))
with build("readers", {"name": "picture"}).open(sys.argv[1]) as raster:
    before = peak()
    raster.read_valid(Box(0, 0, 8, 8))
    print(peak() - before, raster.header.whole_bytes)
"""
LARGE = {
    "rgb.png": lambda image, path: image.save(path, compress_level=1),
    "palette.png": lambda image, path: image.quantize(16).save(path, compress_level=1),
    "grey16.png": lambda image, path: path.write_bytes(imagecodecs.png_encode(np.asarray(image)[..., 0].astype(np.uint16) * 257, level=1)),
    "baseline.jpg": lambda image, path: image.save(path, quality=80),
    "progressive.jpg": lambda image, path: image.save(path, quality=80, progressive=True),
    "ink.jpg": lambda image, path: image.convert("CMYK").save(path, quality=80),
    "lossless.webp": lambda image, path: image.save(path, lossless=True, quality=0, method=0),
    "lossy.webp": lambda image, path: image.save(path, quality=60, method=0),
    "rgb.bmp": lambda image, path: image.save(path),
}


@pytest.mark.parametrize("name", LARGE)
def test_whole_bytes_are_what_decoding_takes(name, tmp_path, monkeypatch):
    """The bytes that the header promises are the peak that the process sees, within a tenth and 6 MiB, for every decoder."""
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 24)
    image = Image.fromarray(smooth(3000, 2500) ^ (noise(3000, 2500, 3) >> 6))
    LARGE[name](image, tmp_path / name)
    LARGE[name](image.crop((0, 0, 64, 64)), tmp_path / f"small-{name}")
    command = [sys.executable, "-c", PEAK, str(tmp_path / name), str(tmp_path / f"small-{name}")]
    peak, promised = map(int, subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout.split())
    assert 0.9 * promised - (6 << 20) <= peak <= 1.1 * promised + (6 << 20)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF1234WEBP"]))
def test_any_bytes_are_refused_by_name(tmp_path_factory, content, start):
    """No file of a few bytes, whatever they are, ends otherwise than with pixels or a message that names it."""
    path = tmp_path_factory.mktemp("any") / "any.png"
    path.write_bytes(start + content)
    with pytest.raises((InputError, BlockError), match=r"any\.png"):
        read(path)


def test_kinds_of_content():
    """Formats are known by their first bytes; unknown and empty ones have no name."""
    assert [content_kind(start) for start in (b"\xff\x4f\xff\x51", b"MM\x00+", b"RIFF1234WAVE", b"")] == ["JPEG 2000", "TIFF", "", ""]


@pytest.mark.parametrize("name", ["a.png", "turned.png", "rgba.png", "a.jp2", "half.jp2"])
def test_mask_file_beside(name, tmp_path):
    """A ``.msk`` beside a picture or JPEG 2000, turned and at half the resolution too, says where there is data, as alpha does."""
    stored, mask = np.dstack([smooth(40, 51), noise(40, 51) // 64]), noise(40, 51)[::-1] // 100 * 100
    path = tmp_path / name
    options = {"exif": exif(6)} if name == "turned.png" else {"irreversible": False} if name.endswith("jp2") else {}
    Image.fromarray(stored if name == "rgba.png" else stored[..., :3]).save(path, **options)
    tifffile.imwrite(f"{path}.msk", mask, photometric="minisblack")
    reader = {"name": "jpeg2000", "level": int(name.startswith("half"))} if name.endswith("jp2") else {"name": "picture"}
    expected_YX = mask > 0
    if name == "turned.png":
        expected_YX = expected_YX.T[:, ::-1]
    if name == "rgba.png":
        expected_YX = expected_YX & (stored[..., 3] > 0)
    if name == "half.jp2":
        expected_YX = expected_YX[::2, ::2]
    assert f"{path}.msk" in build("readers", reader).companions(str(path))
    with build("readers", reader).open(str(path)) as raster:
        assert raster.header.has_mask
        for box in (Box(0, 0, *raster.header.shape), Box(3, 5, 19, 20)):
            np.testing.assert_array_equal(raster.read_valid(box)[1], expected_YX[box.slices])
    tifffile.imwrite(f"{path}.msk", mask[1:], photometric="minisblack")
    with (
        pytest.raises(InputError, match=r"a mask of 39 x 51 pixels; expected the image's 40 x 51"),
        build("readers", reader).open(str(path)),
    ):
        pass
