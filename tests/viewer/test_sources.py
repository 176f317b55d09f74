"""Pixels at any step: the same whatever the format, from the level that fits, in bounded memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import config_from_mapping
from pipeline.geometry import Box
from pipeline.inputs import list_images, read_headers
from pipeline.raster import ArrayRaster
from pipeline.viewer import sources
from pipeline.viewer.sources import IdSource, ImageSource, OpenFiles, shape_at
from tests.conftest import blobs, save_tiff

FORMATS = Path(os.environ.get("GIGASEG_TEST_DATA", "no test data")) / "formats"


@pytest.fixture
def files():
    held = OpenFiles()
    yield held
    held.close()


def image_of(path, **reader):
    """An image as a run lists it."""
    mapping = {"images": [str(path)], "model": {"name": "histogram"}, "output": "out", "reader": {"name": "auto", **reader}}
    config = config_from_mapping(mapping, Path.cwd(), "test")
    images, unreadable, problems = read_headers(list_images(config).images, config)
    assert not unreadable
    assert not problems
    return images[0]


def source_of(path, files, own_factor=(1.0, 1.0)):
    image = image_of(path)
    shape = tuple(max(1, round(side / step)) for side, step in zip(image.header.shape, own_factor, strict=True))
    return ImageSource(image, shape, own_factor, files)


def write(path, pixels_YXS, kind):
    """The same pixels as one of several formats; without loss."""
    if kind == "png":
        from PIL import Image

        Image.fromarray(pixels_YXS).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    if kind == "tiff":
        return save_tiff(path.with_suffix(".tif"), pixels_YXS, photometric="rgb")
    from pipeline.raster import Header
    from pipeline.storage import open_storage
    from pipeline.writers.ome_zarr import OmeZarr

    header = Header(pixels_YXS.shape[:2], 3, "uint8", is_color=True)
    group = open_storage(path.with_suffix(".ome.zarr"))
    level = OmeZarr().create(group, header, 256)
    for y in range(0, header.shape[0], 256):
        for x in range(0, header.shape[1], 256):
            box = Box(y, x, y + 256, x + 256).clip(header.shape)
            level.write(box, np.moveaxis(pixels_YXS[box.slices], -1, 0))
    OmeZarr().finish(group, header)
    return path.with_suffix(".ome.zarr")


@pytest.mark.parametrize("kind", ["png", "tiff", "zarr"])
def test_every_format_gives_the_same_picture(tmp_path, files, kind):
    """At full size the stored pixels; smaller, the mean over each square, however many levels the file has."""
    pixels_YXS = np.ascontiguousarray(np.moveaxis(blobs((301, 600), channels=3), 0, -1))
    source = source_of(write(tmp_path / "a", pixels_YXS, kind), files)
    found_CYX, valid_YX = source.read(1, Box(7, 250, 300, 590))
    np.testing.assert_array_equal(found_CYX, np.moveaxis(pixels_YXS[7:300, 250:590], -1, 0))
    assert valid_YX.all()
    small_CYX, _ = source.read(4, Box(0, 0, *shape_at((301, 600), 4)))
    assert small_CYX.shape == (3, 76, 150)
    means = pixels_YXS[:300].reshape(75, 4, 150, 4, 3).mean(axis=(1, 3))
    assert np.abs(np.moveaxis(small_CYX, 0, -1)[:75] - means).max() <= 1.5  # a pyramid rounds at each level


def test_a_pyramid_spares_reading(tmp_path, files):
    """A level that fits is read as it is, and a coarser picture from the smallest level."""
    pixels_YXS = np.ascontiguousarray(np.moveaxis(blobs((600, 900), channels=3), 0, -1))
    with_levels = source_of(write(tmp_path / "a", pixels_YXS, "zarr"), files)
    assert [with_levels.excess(step) for step in (1, 2, 4)] == [1, 1, 2]
    without = source_of(write(tmp_path / "b", pixels_YXS, "tiff"), files)
    assert [without.excess(step) for step in (1, 2, 4)] == [1, 2, 4]


def test_a_resampled_grid_is_drawn_from_the_file(tmp_path, files):
    """On a grid of half the resolution, step 2 is the mean over squares of four pixels."""
    pixels_YX = blobs((400, 520))
    source = source_of(save_tiff(tmp_path / "a.tif", pixels_YX), files, (2.0, 2.0))
    assert source.shape == (200, 260)
    found_CYX, _ = source.read(2, Box(10, 20, 50, 60))
    expected = pixels_YX[40:200, 80:240].reshape(40, 4, 40, 4).mean(axis=(1, 3))
    assert np.abs(found_CYX[0] - expected).max() <= 0.51


@pytest.mark.skipif(not FORMATS.is_dir(), reason="GIGASEG_TEST_DATA names no folder with formats/")
@pytest.mark.parametrize("name", ["svs/CMU-1-Small-Region.svs", "cog/be_cog.tiff", "ome-tiff/multi-channel.ome.tif"])
def test_real_files_look_alike_at_every_step(files, name):
    """A slide, a GeoTIFF with overviews and an OME-TIFF: a small picture is about the mean of one four times as large."""
    source = source_of(FORMATS / name, files)
    fine = 4 if max(source.shape) > 1000 else 1
    (fine_CYX, fine_YX), (small_CYX, small_YX) = (source.read(step, Box(0, 0, *shape_at(source.shape, step))) for step in (fine, 4 * fine))
    assert small_CYX.shape[1:] == shape_at(source.shape, 4 * fine)
    height, width = (side // 4 for side in fine_CYX.shape[1:])
    squares_CYX = fine_CYX[:, : height * 4, : width * 4].astype(float).reshape(-1, height, 4, width, 4)
    is_valid_YX = fine_YX[: height * 4, : width * 4].reshape(height, 4, width, 4).all(axis=(1, 3)) & small_YX[:height, :width]
    means_CN, found_CN = squares_CYX.mean(axis=(2, 4))[:, is_valid_YX], small_CYX[:, :height, :width][:, is_valid_YX]
    assert np.corrcoef(means_CN[0], found_CN[0])[0, 1] > 0.9


def test_a_tile_is_read_in_strips(tmp_path, files, monkeypatch):
    """A tile of a file without levels never holds more of it than a strip; the picture is the same."""
    monkeypatch.setattr(sources, "STRIP_PIXELS", 4096)
    pixels_YX = blobs((512, 512))
    asked = []

    class Watched(ArrayRaster):
        def read_masked(self, box, plane=0):
            asked.append(box.area)
            return super().read_masked(box, plane)

    ids = IdSource("a", (512, 512), {1: lambda: _held(Watched(pixels_YX))}, lambda raw, box, valid: raw[0], files)
    np.testing.assert_array_equal(ids.read(4, Box(0, 0, 128, 128)), pixels_YX[::4, ::4])
    assert len(asked) > 20
    assert max(asked) <= 4096


def _held(raster):
    from contextlib import nullcontext

    return nullcontext(raster)


def test_files_stay_few_and_belong_to_their_thread(tmp_path):
    """A thread holds six files; another thread opens its own; all are closed in the end, and none is opened later."""
    opened, closed, held = [], [], OpenFiles()

    class Opened:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            opened.append(self.name)
            return ArrayRaster(np.zeros((2, 2)))

        def __exit__(self, *_):
            closed.append(self.name)

    for name in "abcdefgh":
        held.get(name, lambda name=name: Opened(name))
    assert closed == ["a", "b"]
    held.get("h", lambda: Opened("h"))
    assert opened == list("abcdefgh")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(held.get, "h", lambda: Opened("h")).result()
    assert opened[-1] == "h"
    assert len(opened) == 9
    held.close()
    assert sorted(closed) == sorted(opened)
    with pytest.raises(Exception, match="has been closed"):
        held.get("z", lambda: Opened("z"))
    assert closed[-1] == "z"


def test_a_large_file_that_is_decoded_whole_is_opened_once(files):
    """Threads share it, and read it one after the other."""
    from dataclasses import replace

    opened = []

    def make():
        raster = ArrayRaster(np.arange(4.0).reshape(2, 2))
        raster.header = replace(raster.header, whole_bytes=2**26)
        opened.append(raster)
        return _held(raster)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: files.get("a", make).read(Box(0, 0, 2, 2))[0], range(8)))
    assert all((one == [[0, 1], [2, 3]]).all() for one in found)
    assert len({id(files.get("a", make))}) == 1


def test_a_shared_file_stays_open_while_a_thread_reads_it(files):
    """It is closed when it has been dropped for others, and nobody has it in hand any more."""
    from contextlib import contextmanager
    from dataclasses import replace

    is_open = {}

    @contextmanager
    def made(name):
        raster = ArrayRaster(np.zeros((2, 2)))
        raster.header = replace(raster.header, whole_bytes=2**26)
        is_open[name] = True
        yield raster
        is_open[name] = False

    in_hand = files.get("a", lambda: made("a"))
    for name in "bcde":
        files.get(name, lambda name=name: made(name))
    assert is_open["a"]
    assert not is_open["b"]
    del in_hand
    assert not is_open["a"]
