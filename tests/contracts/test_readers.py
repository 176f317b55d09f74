"""What every reader promises, run over every file in pipeline/readers; and region reads of every format, against numpy."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import available, build, find
from pipeline.readers import Reader, known_suffixes
from tests.contracts.plugin_examples import example_in
from tests.readers.zarr_stores import zip_store

READERS = available("readers")
SUFFIXES = [(name, suffix) for name in READERS for suffix in find("readers", name).suffixes]


@pytest.mark.parametrize("name", READERS)
def test_example_builds(name):
    """The example in a reader's docstring is a valid mapping of the YAML."""
    spec = example_in("readers", name)["reader"]
    assert spec["name"] == name
    assert isinstance(build("readers", spec), Reader)


@pytest.mark.parametrize("name", READERS)
def test_options_are_strict(name):
    """An unknown option and an impossible level are refused together, each by its name."""
    with pytest.raises(InputError) as refused:
        build("readers", {"name": name, "levle": 1, "level": -1}, "reader")
    assert {problem.where for problem in refused.value.problems} == {"reader.levle", "reader.level"}


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
def test_claims_its_suffixes(name, suffix):
    """A reader and ``auto`` claim the suffix in any case; suffixes are lower case and listed for folders."""
    assert suffix == suffix.lower()
    assert suffix in known_suffixes()
    for path in (f"/data/a{suffix}", f"A{suffix.upper()}", f"/data/a{suffix}/"):
        assert build("readers", {"name": name}).claims(path)
        assert build("readers", {"name": "auto"}).claims(path)


@pytest.mark.parametrize("name", READERS)
def test_suffixes_longest_first(name):
    """Suffixes are listed longest first, so that the longest one is cut from a name."""
    lengths = [len(suffix) for suffix in find("readers", name).suffixes]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(("name", "suffix"), SUFFIXES)
@pytest.mark.parametrize("content", [None, b"", b"no image at all, whatever the name says " * 9])
def test_no_image_is_the_users_mistake(name, suffix, content, tmp_path):
    """A file that is not there, is empty or holds something else is refused by name."""
    path = tmp_path / f"a{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="a" + re.escape(suffix)), build("readers", {"name": name}).open(str(path)):
        pass


@dataclass(frozen=True)
class Format:
    """How to write an array (Z, C, Y, X) as one kind of file, and which arrays it can hold."""

    write: Callable
    suffix: str = ".tif"
    dtypes: tuple[str, ...] = ("uint8", "uint16", "float32")
    channels: tuple[int, ...] = (1, 3)
    planes: tuple[int, ...] = (1,)
    least: int = 1  # height and width below which the program that writes it makes something else of it


def tiff(**options):
    """A TIFF of interleaved channels, one page a plane."""

    def write(path, pixels_ZCYX):
        big = {name: options[name] for name in ("bigtiff", "byteorder") if name in options}
        rest = {name: value for name, value in options.items() if name not in big}
        rgb = pixels_ZCYX.shape[1] == 3
        with tifffile.TiffWriter(path, **big) as writer:
            for pixels_CYX in pixels_ZCYX:
                pixels = np.moveaxis(pixels_CYX, 0, -1) if rgb else pixels_CYX[0]
                writer.write(pixels, photometric="rgb" if rgb else "minisblack", metadata=None, **rest)

    return write


def planar(path, pixels_ZCYX):
    """A tiled TIFF that stores one channel after the other."""
    tifffile.imwrite(path, pixels_ZCYX[0], photometric="rgb", planarconfig="separate", tile=(16, 32), compression="lzw", metadata=None)


def pyramid(path, pixels_ZCYX):
    """A tiled TIFF with a second level in a SubIFD."""
    pixels_YXC = np.moveaxis(pixels_ZCYX[0], 0, -1)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels_YXC, tile=(32, 16), subifds=1, photometric="rgb", compression="zlib", metadata=None)
        writer.write(pixels_YXC[::2, ::2], tile=(32, 16), subfiletype=1, photometric="rgb", compression="zlib", metadata=None)


def channel_pages(ome, imagej=False):
    """A TIFF of one page a channel and plane."""

    def write(path, pixels_ZCYX):
        tifffile.imwrite(path, pixels_ZCYX, ome=ome, imagej=imagej, photometric="minisblack", metadata={"axes": "ZCYX"})

    return write


def zarr_array(zarr_format, axes="zcyx", **options):
    """A Zarr array whose axes are named and stored in any order."""

    def write(path, pixels_ZCYX):
        stored = np.moveaxis(pixels_ZCYX, range(4), [axes.index(letter) for letter in "zcyx"])
        sizes = {"z": 1, "c": 2, "y": 16, "x": 12}
        chunks = tuple(sizes[letter] for letter in axes)
        shards = tuple(2 * size for size in chunks) if options.get("sharded") else None
        names = {"dimension_names": list(axes)} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": list(axes)}}
        dtype = stored.dtype.newbyteorder(options.get("order", "="))
        array = zarr.create_array(path, shape=stored.shape, chunks=chunks, shards=shards, dtype=dtype, zarr_format=zarr_format, **names)
        array[...] = stored

    return write


def ome_zarr(version):
    """An OME-Zarr image of one level."""

    def write(path, pixels_ZCYX):
        transforms = [{"type": "scale", "scale": [1.0] * 4}]
        image = {"axes": [{"name": letter} for letter in "zcyx"], "datasets": [{"path": "0", "coordinateTransformations": transforms}]}
        attributes = {"multiscales": [image]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [image]}}
        group = zarr.create_group(path, zarr_format=version, attributes=attributes)
        group.create_array("0", data=pixels_ZCYX, chunks=(1, 1, 16, 16))

    return write


def zipped(write, compression):
    """What another function writes, in a zip."""

    def write_zip(path, pixels_ZCYX):
        write(path.with_suffix(".zarr"), pixels_ZCYX)
        zip_store(path.with_suffix(".zarr"), path, compression=compression)

    return write_zip


def picture(path, pixels_ZCYX):
    """What Pillow writes."""
    pixels_YXC = np.moveaxis(pixels_ZCYX[0], 0, -1)
    Image.fromarray(pixels_YXC if pixels_YXC.shape[-1] > 1 else pixels_YXC[..., 0]).save(path)


def codec(encode):
    """What a codec of imagecodecs writes."""

    def write(path, pixels_ZCYX):
        pixels_YXC = np.ascontiguousarray(np.moveaxis(pixels_ZCYX[0], 0, -1))
        path.write_bytes(encode(pixels_YXC if pixels_YXC.shape[-1] > 1 else pixels_YXC[..., 0]))

    return write


FORMATS = {
    "tiff-raw": Format(tiff(), planes=(1, 3)),
    "tiff-strips": Format(tiff(rowsperstrip=5, compression="zlib", predictor=True), planes=(1, 3)),
    "tiff-one-strip": Format(tiff(rowsperstrip=1000, compression="zstd")),
    "tiff-raw-strips-apart": Format(tiff(rowsperstrip=7)),
    "tiff-tiles": Format(tiff(tile=(16, 32), compression="lzw"), planes=(1, 3)),
    "tiff-raw-tiles": Format(tiff(tile=(16, 16))),
    "tiff-big": Format(tiff(bigtiff=True, tile=(16, 16), compression="packbits"), dtypes=("uint8", "int32", "float16")),
    "tiff-big-endian": Format(tiff(byteorder=">"), dtypes=("uint16", "int16", "float64"), planes=(1, 2)),
    "tiff-big-endian-tiles": Format(tiff(byteorder=">", tile=(16, 16), compression="zlib", predictor=True), dtypes=("uint16", "float32")),
    "tiff-jpeg2000": Format(tiff(tile=(32, 32), compression="jpeg2000"), dtypes=("uint8", "uint16")),
    "tiff-bilevel": Format(tiff(rowsperstrip=9), dtypes=("bool",), channels=(1,)),
    "tiff-planar": Format(planar, channels=(3,)),
    "tiff-pyramid": Format(pyramid, channels=(3,), least=3),
    "tiff-ome": Format(channel_pages(ome=True), suffix=".ome.tif", channels=(2, 5), planes=(2, 3), least=2),
    "tiff-imagej": Format(channel_pages(ome=False, imagej=True), channels=(2, 4), planes=(2, 3), least=2),
    "zarr-v2": Format(zarr_array(2), suffix=".zarr", channels=(1, 3), planes=(1, 2)),
    "zarr-v2-big-endian": Format(zarr_array(2, "yxcz", order=">"), suffix=".zarr", dtypes=("uint16", "float64"), planes=(1, 2)),
    "zarr-v3": Format(zarr_array(3, "cyzx"), suffix=".zarr", dtypes=("uint8", "int16", "float16"), planes=(1, 2)),
    "zarr-v3-sharded": Format(zarr_array(3, "zyxc", sharded=True), suffix=".zarr", planes=(1, 2)),
    "ome-zarr-0.4": Format(ome_zarr(2), suffix=".ome.zarr", planes=(1, 2)),
    "ome-zarr-0.5": Format(ome_zarr(3), suffix=".ome.zarr", planes=(1, 2), dtypes=("bool", "uint8", "uint32")),
    "ozx": Format(zipped(ome_zarr(3), ZIP_STORED), suffix=".ozx", planes=(1, 2)),
    "zarr-zip-sharded": Format(zipped(zarr_array(3, "zyxc", sharded=True), ZIP_STORED), suffix=".zarr.zip", planes=(1, 2)),
    "ome-zarr-zip-deflated": Format(zipped(ome_zarr(2), ZIP_DEFLATED), suffix=".ome.zarr.zip", planes=(1, 2)),
    "png": Format(picture, suffix=".png", dtypes=("uint8",), channels=(1, 3)),
    "png-16": Format(codec(imagecodecs.png_encode), suffix=".png", dtypes=("uint16",), channels=(1, 3), least=2),
    "bmp": Format(picture, suffix=".bmp", dtypes=("uint8",), channels=(1, 3)),
    "webp": Format(
        codec(lambda pixels: imagecodecs.webp_encode(pixels, lossless=True)), suffix=".webp", dtypes=("uint8",), channels=(3,), least=2
    ),
    "jpeg-lossless": Format(
        codec(lambda pixels: imagecodecs.jpeg8_encode(pixels, lossless=True)), suffix=".jpg", dtypes=("uint8", "uint16")
    ),
    "jp2": Format(codec(lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True)), suffix=".jp2", dtypes=("uint8", "uint16")),
    "j2k": Format(
        codec(lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k")),
        suffix=".j2k",
        dtypes=("int16", "uint8"),
    ),
}


def an_array(form, draw):
    """An array (Z, C, Y, X) that the format can hold, of noise."""
    height, width = draw(st.integers(form.least, 40)), draw(st.integers(form.least, 70))
    shape = (draw(st.sampled_from(form.planes)), draw(st.sampled_from(form.channels)), height, width)
    noise = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 250, shape)
    dtype = draw(st.sampled_from(form.dtypes))
    return noise > 99 if dtype == "bool" else noise.astype(dtype)


def a_box(height, width, draw):
    """A box inside the image; corners and edges are as likely as the middle."""
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Box(y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_box_equals_the_slice(kind):
    """Whatever the box, plane, shape and type, a read gives what numpy's slice gives; and the header says so before."""
    form = FORMATS[kind]

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def check(data):
        pixels_ZCYX = an_array(form, data.draw)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a{form.suffix}")
            form.write(path, pixels_ZCYX)
            with build("readers", {"name": "auto"}).open(str(path)) as raster:
                planes, channels, *shape = pixels_ZCYX.shape
                header = raster.header
                assert (header.num_planes, header.channels, header.shape) == (planes, channels, tuple(shape))
                assert header.dtype == (pixels_ZCYX.dtype.name if pixels_ZCYX.dtype != bool else "uint8")
                for _ in range(4):
                    box, plane = a_box(*shape, data.draw), data.draw(st.integers(0, planes - 1))
                    read_CYX = raster.read(box, plane)
                    assert read_CYX.dtype == header.dtype
                    np.testing.assert_array_equal(read_CYX, pixels_ZCYX[plane][:, *box.slices])

    check()


@pytest.mark.parametrize("kind", FORMATS)
def test_two_threads_agree(kind, tmp_path):
    """Two threads that read one open image at once get what one thread gets."""
    form = FORMATS[kind]
    shape = (form.planes[-1], form.channels[-1], 61, 67)
    pixels_ZCYX = np.random.default_rng(1).integers(0, 2 if form.dtypes[0] == "bool" else 250, shape).astype(form.dtypes[0])
    path = tmp_path / f"a{form.suffix}"
    form.write(path, pixels_ZCYX)
    boxes = [(Box(y, x, min(y + 17, 61), min(x + 23, 67)), (y + x) % shape[0]) for y in range(0, 61, 13) for x in range(0, 67, 11)]
    with build("readers", {"name": "auto"}).open(str(path)) as raster, ThreadPoolExecutor(2) as threads:
        for (box, plane), read_CYX in zip(boxes, threads.map(lambda one: raster.read(*one), boxes), strict=True):
            np.testing.assert_array_equal(read_CYX, pixels_ZCYX[plane][:, *box.slices])
