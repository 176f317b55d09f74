"""What a reader makes of axes, scale, colours, absent parts and damage."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from tests.conftest import blobs, save_tiff

RGB = {"photometric": "rgb", "metadata": None}
GREY = {"photometric": "minisblack", "metadata": None}


def header(path, **options):
    """The header of a file, by the ``auto`` reader."""
    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        return raster.header


def whole(path, plane=0, **options):
    """All pixels (C, Y, X) of one plane, by the ``auto`` reader."""
    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        return raster.read(Box(0, 0, *raster.header.shape), plane)


def noise(*shape, dtype="uint8"):
    """The same noise every time."""
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def plain(path, pixels, **options):
    """A Zarr array of this content."""
    zarr.create_array(str(path), data=pixels, chunks=tuple(min(size, 16) for size in pixels.shape), **options)
    return path


def test_choosing_a_reader_loads_no_library():
    """Choosing a reader and listing suffixes imports neither Zarr nor an image library."""
    code = (
        "import sys; from pipeline.plugins import build; from pipeline.readers import known_suffixes; known_suffixes();"
        "build('readers', {'name': 'auto'}).claims('a.tif');"
        "sys.exit(' '.join({'zarr', 'tifffile', 'imagecodecs', 'PIL', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("shape", "names", "axes", "channels", "planes"),
    [
        ((20, 30), None, None, 1, {}),  # two unnamed axes are y, x
        ((20, 30, 4), None, None, 4, {}),  # a last axis of at most 4 is channels
        ((20, 30, 9), None, "yxc", 9, {}),
        ((9, 20, 30), None, "zyx", 1, {"z": 9}),
        ((2, 3, 4, 20, 30), None, "ctzyx", 2, {"t": 3, "z": 4}),  # planes are t, z whatever the file's order
        ((4, 3, 20, 30), ["z", "time", "y", "x"], None, 1, {"t": 3, "z": 4}),
        ((1, 20, 30, 5), ["lambda", "Y", "X", "channel"], None, 5, {}),  # any axis of length 1 is dropped
        ((20, 30), ["a", "b"], None, 1, {}),  # names without y and x are no names
    ],
)
def test_axes_rule(shape, names, axes, channels, planes, tmp_path):
    """Named axes come in any order, unnamed ones follow the rule, ``reader.axes`` wins."""
    plain(tmp_path / "a.zarr", noise(*shape), dimension_names=names)
    found = header(tmp_path / "a.zarr", axes=axes)
    assert (found.shape, found.channels, found.planes) == ((20, 30), channels, planes)


@pytest.mark.parametrize(
    ("shape", "names", "axes", "says"),
    [
        ((9, 20, 30), None, None, "reader.axes"),
        ((20, 30, 5), None, None, "reader.axes"),
        ((5,), None, None, "reader.axes"),
        ((20, 30, 5), ["y", "x", "angle"], None, "reader.axes"),
        ((20, 30, 5), None, "yx", "3 letters"),
        ((20, 30, 5), None, "yxx", "at most once"),
        ((0, 30), None, None, "without pixels"),
    ],
)
def test_axes_that_say_too_little(shape, names, axes, says, tmp_path):
    """An array whose axes are unknown is refused, and the message says which option settles it."""
    zarr.create_array(
        str(tmp_path / "a.zarr"), shape=shape, chunks=tuple(max(1, size) for size in shape), dtype="u1", dimension_names=names
    )
    with pytest.raises(InputError, match=says):
        header(tmp_path / "a.zarr", axes=axes)


@pytest.mark.parametrize("kind", ["zarr", "tif"])
def test_planes_and_channels_are_chosen(kind, tmp_path):
    """``channels`` keeps and orders; ``planes`` keeps a list, or fixes one and drops the axis; t runs before z."""
    pixels_ZTCYX = noise(4, 3, 5, 8, 9)
    path = tmp_path / f"a.ome.{kind}"
    if kind == "zarr":
        plain(path, pixels_ZTCYX, dimension_names="ztcyx")
    else:
        tifffile.imwrite(path, pixels_ZTCYX, ome=True, photometric="minisblack", metadata={"axes": "ZTCYX"})
    assert header(path).planes == {"t": 3, "z": 4}
    np.testing.assert_array_equal(whole(path, plane=1 * 4 + 2), pixels_ZTCYX[2, 1])
    chosen = {"channels": [4, 0], "planes": {"z": 3, "t": [2, 0]}}
    assert (header(path, **chosen).planes, header(path, **chosen).channels) == ({"t": 2}, 2)
    np.testing.assert_array_equal(whole(path, plane=1, **chosen), pixels_ZTCYX[3, 0][[4, 0]])
    np.testing.assert_array_equal(whole(path, channels=[2, 3]), pixels_ZTCYX[0, 0][2:4])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": [3]}, r"reader.channels \[3\]; expected 0..2"),
        ({"channels": []}, "reader.channels"),
        ({"planes": {"z": 5}}, r"reader.planes.z \[5\]; expected 0..1"),
        ({"planes": {"t": 0}}, "reader.planes 't'; expected z: 0..1"),
        ({"level": 1}, "reader.level 1; expected 0..0"),
    ],
)
def test_choices_beyond_the_file(options, says, tmp_path):
    """A channel, plane or level that is not there is refused with what there is."""
    tifffile.imwrite(tmp_path / "a.tif", noise(2, 20, 30, 3), **RGB)
    with pytest.raises(InputError, match=says):
        header(tmp_path / "a.tif", **options)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_types_that_are_no_pixels(dtype, tmp_path):
    """Complex numbers are refused when the file is opened."""
    plain(tmp_path / "a.zarr", noise(20, 30, dtype=dtype))
    with pytest.raises(InputError, match=f"type {dtype}"):
        header(tmp_path / "a.zarr")


def ome_zarr(path, version=3, **image):
    """An OME-Zarr image of two levels."""
    moved = {"type": "translation", "translation": [0, 1, 2]}
    scales = [{"type": "scale", "scale": [1, 0.5 * 2**level, 0.25 * 2**level]} for level in range(2)]
    levels = [{"path": str(level), "coordinateTransformations": [scale, moved]} for level, scale in enumerate(scales)]
    axes = [{"name": "c"}, {"name": "y", "unit": "micrometer"}, {"name": "x", "unit": "micrometer"}]
    image = {"axes": axes, "datasets": levels, **image}
    attributes = {"multiscales": [image]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [image]}}
    group = zarr.create_group(str(path), zarr_format=version, attributes=attributes)
    for level in range(2):
        group.create_array(str(level), data=noise(2, 32, 48)[:, :: level + 1, :: level + 1], chunks=(1, 16, 16))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_levels_and_scale(version, tmp_path):
    """Scale and translation of level and image make pixel size and offset of the level that is read."""
    moved = [{"type": "scale", "scale": [1, 2, 2]}, {"type": "translation", "translation": [0, 10, 20]}]
    path = ome_zarr(tmp_path / "a.ome.zarr", version, coordinateTransformations=moved)
    small = header(path, level=1)
    assert (small.shape, small.pixel_size, small.unit, small.offset) == ((16, 24), (2.0, 1.0), "micrometer", (12.0, 24.0))
    np.testing.assert_array_equal(whole(path, level=1), noise(2, 32, 48)[:, ::2, ::2])
    assert header(path, pixel_size=0.7).pixel_size == (0.7, 0.7)
    with pytest.raises(InputError, match=r"expected 0\.\.1"):
        header(path, level=2)


def test_images_inside_a_zarr(tmp_path):
    """Labels are opened by their inner path; a folder with Zarr's metadata needs no suffix; file:// is a path."""
    path = ome_zarr(tmp_path / "folder")
    ome_zarr(path / "labels" / "nuclei", version=3)
    (path / "labels" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "labels": ["nuclei"]}}})
    )
    assert header(path).channels == header(path / "labels" / "nuclei").channels == header(f"file://{path}").channels == 2
    with pytest.raises(InputError, match="labels/nuclei"):
        header(path / "labels")


def test_damaged_chunk(tmp_path):
    """A chunk that cannot be decoded fails the boxes that touch it, by file and region, and no other."""
    path = plain(tmp_path / "a.zarr", noise(32, 32))
    chunk = path / "c" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:20])
    with build("readers", {"name": "zarr"}).open(str(path)) as raster:
        with pytest.raises(BlockError, match=r"a\.zarr: rows 10\.\.20, columns 12\.\.20"):
            raster.read(Box(10, 12, 20, 20))
        np.testing.assert_array_equal(raster.read(Box(0, 0, 16, 32))[0], noise(32, 32)[:16])


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 8, "compression": "lzw"}])
def test_truncated_tiff(options, tmp_path):
    """The part of a truncated TIFF that is there is read; the rest is a block error, never a wrong pixel."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 64), **GREY, **options)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        cut = (page.dataoffsets[-1] + page.databytecounts[-1] * 3 // 4) if len(page.dataoffsets) > 1 else page.dataoffsets[0] + 3000
    path.write_bytes(path.read_bytes()[:cut])
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        with pytest.raises(BlockError, match="truncated, needs bytes"):
            raster.read(Box(60, 60, 64, 64))
        np.testing.assert_array_equal(raster.read(Box(0, 0, 8, 8))[0], noise(64, 64)[:8, :8])


def fails_once(call, error):
    """A call that fails the first time: what stands behind a mount, a disk or a limit of open files."""
    errors = iter([error])

    def may_fail(*args, **options):
        if error := next(errors, None):
            raise error
        return call(*args, **options)

    return may_fail


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EMFILE])
def test_what_may_pass_is_no_damage(number, tmp_path, monkeypatch):
    """A failure of the system is told as such, by file and region, and the next read succeeds, with a file of its own."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32), tile=(16, 16), compression="zlib")
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        stale = raster.page.parent.filehandle._fh
        monkeypatch.setattr(tifffile.FileHandle, "read", fails_once(tifffile.FileHandle.read, OSError(number, "hiccup")))
        with pytest.raises(OSError, match=r"a\.tif: rows 10\.\.20, columns 12\.\.20") as raised:
            raster.read(Box(10, 12, 20, 20))
        assert raised.value.errno == number
        np.testing.assert_array_equal(raster.read(Box(0, 0, 32, 32))[0], noise(32, 32))
        assert stale.closed
    monkeypatch.setattr(tifffile, "TiffFile", fails_once(tifffile.TiffFile, OSError(number, "hiccup")))
    with pytest.raises(OSError, match=r"a\.tif: ") as raised, build("readers", {"name": "tiff"}).open(str(path)):
        pass
    assert raised.value.errno == number
    assert header(path).shape == (32, 32)


@pytest.mark.parametrize(
    "error",
    [OSError("image file is truncated"), OSError(errno.EINVAL, "seek"), PermissionError(errno.EACCES, "closed"), RuntimeError("os error")],
)
def test_what_lasts_is_a_block_error(error, tmp_path, monkeypatch):
    """What a decoder says of damage, whatever its type, and what nobody may read stay that way."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(32, 32), tile=(16, 16), compression="zlib")
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        monkeypatch.setattr(raster.segments, "_bytes", fails_once(raster.segments._bytes, error))
        with pytest.raises(BlockError, match=r"a\.tif: rows 10\.\.20, columns 12\.\.20: cannot be decoded"):
            raster.read(Box(10, 12, 20, 20))


@pytest.mark.parametrize("quick", [True, False])
def test_too_many_open_files_may_pass(quick, tmp_path, monkeypatch):
    """Zarr finds no free file handle: with zarrs or without, that is no damage."""
    if not quick:
        monkeypatch.setattr("pipeline.storage.block_store.find_spec", lambda _: None)
    path = plain(tmp_path / "a.zarr", noise(32, 32))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with build("readers", {"name": "zarr"}).open(str(path)) as raster:
        raster.read(Box(0, 0, 32, 32))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match=r"a\.zarr: rows 0\.\.32, columns 0\.\.32: Too many open files"):
                raster.read(Box(0, 0, 32, 32))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        np.testing.assert_array_equal(raster.read(Box(0, 0, 32, 32))[0], noise(32, 32))


def test_tiff_pages_become_what_axes_says(tmp_path):
    """Pages without names are z; ``reader.axes`` makes them channels; rows and columns stay those of a page."""
    path, pixels_PYX = tmp_path / "a.tif", noise(6, 20, 30)
    tifffile.imwrite(path, pixels_PYX, **GREY)
    assert (header(path).planes, header(path).channels) == ({"z": 6}, 1)
    np.testing.assert_array_equal(whole(path, axes="CYX"), pixels_PYX)
    with pytest.raises(InputError, match="6 pages of 20 rows x 30 columns"):
        header(path, axes="yxc")


def test_ome_tiff_of_several_files(tmp_path):
    """Channels in sister files are read from them; where a sister is gone, its blocks fail and are not made up."""
    pixels_CYX = noise(2, 40, 50)
    listed = "".join(
        f'<TiffData FirstC="{c}" FirstZ="0" FirstT="0" IFD="0" PlaneCount="1"><UUID FileName="{c}.ome.tif">urn:uuid:{c}</UUID></TiffData>'
        for c in range(2)
    )
    for c in range(2):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{c}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0"/>'
            f'<Channel ID="Channel:0:1"/>{listed}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"{c}.ome.tif", pixels_CYX[c], description=text, tile=(16, 16), compression="zlib", **GREY)
    np.testing.assert_array_equal(whole(tmp_path / "1.ome.tif"), pixels_CYX)
    (tmp_path / "1.ome.tif").unlink()
    np.testing.assert_array_equal(whole(tmp_path / "0.ome.tif", channels=[0])[0], pixels_CYX[0])
    with pytest.raises(BlockError, match="page 1 is missing"):
        whole(tmp_path / "0.ome.tif")


def test_volumetric_tiff(tmp_path):
    """Tiles with a depth give the planes they hold, also where each channel is stored apart."""
    path, pixels_CZYX = tmp_path / "a.tif", noise(3, 5, 40, 50)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels_CZYX, photometric="rgb", planarconfig="separate", volumetric=True, tile=(2, 16, 32), metadata=None)
    assert (header(path).planes, header(path).channels) == ({"z": 5}, 3)
    for plane in range(5):
        np.testing.assert_array_equal(whole(path, plane), pixels_CZYX[:, plane])


def test_ome_zarr_without_its_array(tmp_path):
    """A level that the metadata names and nobody stored is refused by its path."""
    path = ome_zarr(tmp_path / "a.ome.zarr")
    (path / "1" / "zarr.json").unlink()
    with pytest.raises(InputError, match="no array at '1'"):
        header(path, level=1)


@pytest.mark.parametrize(("extra", "value"), [([], 0), ([(42113, 2, 0, "7", True)], 7)])
def test_absent_tiles_are_nodata(extra, value, tmp_path):
    """A tile that a sparse TIFF leaves out reads as the declared nodata value, else 0."""
    path = tmp_path / "a.tif"
    tiles = [noise(16, 16).tobytes(), b"", b"", noise(16, 16).tobytes()]
    tifffile.imwrite(path, iter(tiles), shape=(32, 32), dtype="u1", tile=(16, 16), compression="none", extratags=extra, **GREY)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        counts = tif.pages[0].tags[325]
        counts.overwrite([256, 0, 0, 256])
    pixels_YX = whole(path)[0]
    assert (pixels_YX[:16, 16:] == value).all()
    np.testing.assert_array_equal(pixels_YX[16:, 16:], noise(16, 16))
    assert header(path).nodata == (value or None)


def test_scale_of_tiff_dialects(tmp_path):
    """Pixel size comes from OME-XML, ImageJ, Aperio and the resolution tags, in micrometres, and grows with the level."""
    grey, path = noise(64, 64), tmp_path / "a.tif"
    tifffile.imwrite(path, grey, resolution=(10000, 20000), resolutionunit="CENTIMETER", **GREY)
    assert (header(path).pixel_size, header(path).unit) == ((0.5, 1.0), "micrometer")
    tifffile.imwrite(path, grey, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert header(path).pixel_size == (0.5, 0.25)
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, noise(2, 64, 64), ome=True, photometric="minisblack", metadata={"axes": "CYX", **sizes})
    assert (header(path).pixel_size, header(path, channels=[1]).channel_names) == ((0.5, 0.25), ("GFP",))
    with tifffile.TiffWriter(path) as writer:
        for level in range(2):
            text = "Aperio Image Library v10|AppMag = 20|MPP = 0.4990"
            writer.write(noise(64, 64, 3)[:: level + 1, :: level + 1], tile=(16, 16), subfiletype=level, description=text, **RGB)
    assert header(path).pixel_size == (0.499, 0.499)
    tifffile.imwrite(path, grey, **GREY)
    assert header(path).pixel_size is None


def geo_tags(*keys):
    """Tags of a north-up map: 2 m by 4 m pixels, first corner at east 1000, north 9000."""
    return [
        (33550, 12, 3, (2.0, 4.0, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 1000.0, 9000.0, 0.0), True),
        (34735, 3, 4 + len(keys), (1, 1, 0, len(keys) // 4, *keys), True),
    ]


def test_georeference_survives_and_follows_the_level(tmp_path):
    """GeoTIFF tags are handed on as plain Python; a smaller level has larger pixels at the same place."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 64), tile=(16, 16), subifds=1, extratags=geo_tags(1024, 0, 1, 1), **GREY)
        writer.write(noise(64, 64)[::2, ::2], tile=(16, 16), subfiletype=1, **GREY)
    large, small = header(path), header(path, level=1)
    assert (large.pixel_size, large.unit, large.offset) == ((4.0, 2.0), "meter", (9000.0, 1000.0))
    assert (small.pixel_size, small.unit, small.offset) == ((8.0, 4.0), "meter", (9000.0, 1000.0))
    assert large.georeference["33550"] == {"type": 12, "value": [2.0, 4.0, 0.0]}
    assert small.georeference["33550"] == {"type": 12, "value": [4.0, 8.0, 0.0]}
    assert json.loads(json.dumps(large.georeference)) == large.georeference
    tifffile.imwrite(path, noise(8, 8), extratags=geo_tags(1024, 0, 1, 2, 1025, 0, 1, 2), **GREY)
    degrees = header(path)  # the tie point is the centre of a pixel
    assert (degrees.unit, degrees.offset) == ("degree", (9002.0, 999.0))
    assert (header(path, pixel_size=0.3).unit, header(path, pixel_size=0.3).pixel_size) == ("meter", (0.3, 0.3))


def test_tiff_colours(tmp_path):
    """A palette gives colours or indices, MinIsWhite is read as shown; YCbCr inside JPEG and Aperio's JPEG 2000 becomes RGB."""
    path = tmp_path / "a.tif"
    index = noise(16, 16) % 4
    tifffile.imwrite(path, index, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1)), metadata=None)
    np.testing.assert_array_equal(whole(path), np.stack([index] * 3))
    np.testing.assert_array_equal(whole(path, palette="index"), index[np.newaxis])
    tifffile.imwrite(path, index, photometric="miniswhite", metadata=None)
    np.testing.assert_array_equal(whole(path)[0], 255 - index)
    red = np.full((32, 32, 3), (200, 30, 60), np.uint8)
    tifffile.imwrite(path, red, photometric="rgb", compression="jpeg", tile=(16, 16), metadata=None)
    assert np.abs(whole(path).astype(int) - red.transpose(2, 0, 1)).max() <= 3
    ycc = np.full((16, 16, 3), (84, 114, 211), np.uint8)
    for transform, content in ((False, ycc), (True, red[:16, :16])):
        tile = imagecodecs.jpeg2k_encode(content, codecformat="j2k", mct=transform, reversible=True)
        tifffile.imwrite(path, iter([tile]), shape=(16, 16, 3), dtype="u1", tile=(16, 16), compression=33003, **RGB)
        assert np.abs(whole(path).astype(int) - red[:16, :16].transpose(2, 0, 1)).max() <= 2


def test_whole_bytes(tmp_path):
    """A file that decodes only as a whole says so at open, and decodes once; one that is cut fine does not."""
    path = tmp_path / "a.tif"
    for options, expected in [
        ({"rowsperstrip": 500, "compression": "zlib"}, 300 * 200 * 3),
        ({"rowsperstrip": 500, "compression": "zlib", "planarconfig": "separate"}, 300 * 200 * 3),
        ({"rowsperstrip": 500}, 0),  # uncompressed rows are read where they lie
        ({"tile": (64, 64), "compression": "zlib"}, 0),
    ]:
        pixels_YXC = noise(300, 200, 3)
        separate = "planarconfig" in options
        tifffile.imwrite(path, pixels_YXC.transpose(2, 0, 1) if separate else pixels_YXC, **RGB, **options)
        with build("readers", {"name": "tiff"}).open(str(path)) as raster:
            assert raster.header.whole_bytes == expected
            decoded = []
            raster.segments._decode = lambda *args, decode=raster.segments._decode, decoded=decoded: decoded.append(args) or decode(*args)
            for y in range(0, 300, 50):
                np.testing.assert_array_equal(raster.read(Box(y, 7, y + 50, 99)), pixels_YXC.transpose(2, 0, 1)[:, y : y + 50, 7:99])
            assert len(decoded) == (3 if separate else 1) or not expected
    Image.fromarray(noise(30, 20, 3)).save(tmp_path / "a.png")
    assert header(tmp_path / "a.png").whole_bytes == 1800 + (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize("kind", ["tif", "raw.tif", "zarr"])
def test_memory_is_bounded_by_the_region(kind, tmp_path):
    """A small box of a 16384 x 16384 image takes a small part of its memory."""
    path, shape = tmp_path / f"a.{kind}", (16384, 16384)
    if kind == "zarr":
        zarr.create_array(str(path), shape=shape, chunks=(256, 256), dtype="u1")[:300, :300] = 1
    elif kind == "tif":
        tile = np.zeros((256, 256), np.uint8)
        tifffile.imwrite(path, iter([tile] * 4096), shape=shape, dtype="u1", tile=(256, 256), compression="zlib", **GREY)
    else:
        tifffile.imwrite(path, None, shape=shape, dtype="u1", **GREY)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        raster.read(Box(0, 0, 1, 1))
        tracemalloc.start()
        raster.read(Box(100, 8000, 612, 8512))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 512 * 512 <= peak_bytes < 8 * 512 * 512  # the whole image is 1024 times the box


def test_damaged_picture(tmp_path):
    """A picture cut short opens, for its header is there, and fails on read; JPEG pixels are Pillow's own."""
    for suffix in ("png", "jpg", "bmp", "jp2"):
        path = tmp_path / f"a.{suffix}"
        pixels = noise(64, 64, 3)
        path.write_bytes(imagecodecs.jpeg2k_encode(pixels)) if suffix == "jp2" else Image.fromarray(pixels).save(path)
        assert whole(path).shape == (3, 64, 64)
        if suffix == "jpg":
            np.testing.assert_array_equal(whole(path), np.asarray(Image.open(path)).transpose(2, 0, 1))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with build("readers", {"name": "auto"}).open(str(path)) as raster:
            assert raster.header.shape == (64, 64)
            with pytest.raises(BlockError, match=r"rows 0\.\.9, columns 0\.\.9"):
                raster.read(Box(0, 0, 9, 9))


def test_unknown_names(tmp_path):
    """A name that no reader claims is refused with the suffixes that are known; a URL of an unknown kind with those that are read."""
    with pytest.raises(InputError, match=r"'\.tfi'; expected .*\.ome\.zarr"):
        header(tmp_path / "a.tfi")
    with pytest.raises(InputError, match="ftp://"):
        header("ftp://host/a.tif")


def test_a_closed_tiff_stays_closed(tmp_path):
    """A thread that is still reading ahead when a run has ended opens nothing again."""
    path = save_tiff(tmp_path / "a.tif", blobs((70, 70)), compression="zlib")
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        raster.read(Box(0, 0, 9, 9))
    with pytest.raises(BlockError, match=r"a\.tif"):
        raster.read(Box(65, 65, 70, 70))
    assert raster.page.parent.filehandle.closed
