"""Reading beyond the image, and after the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import Recipe
from pipeline.engine.block_pixels import read_reflected
from pipeline.engine.job import Job
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError
from pipeline.geometry import Box, reflect_index
from pipeline.raster import ArrayRaster


@given(shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), pads=st.tuples(*[st.integers(-3, 12)] * 4))
def test_what_lies_outside_is_reflected(shape, pads):
    """Pixels are those that reflected positions name, whatever the box."""
    box = Box(-pads[0], -pads[1], max(shape[0] + pads[2], 1 - pads[0]), max(shape[1] + pads[3], 1 - pads[1]))
    pixels_YX = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    rows, cols = reflect_index(box.y0, box.y1, shape[0]), reflect_index(box.x0, box.x1, shape[1])
    assert np.array_equal(read_reflected(ArrayRaster(pixels_YX), box, 0)[0], pixels_YX[rows][:, cols])


@pytest.mark.parametrize("interleaved", [True, False])
def test_memory_is_laid_out_as_the_reader_does(interleaved):
    """Inside the image and at its border alike, or a graph would be made for each, and every tile be copied pixel by pixel."""
    pixels_CYX = np.zeros((40, 50, 3), np.uint8).transpose(2, 0, 1) if interleaved else np.zeros((3, 40, 50), np.uint8)
    order = np.argsort(pixels_CYX.strides)
    for box in (Box(0, 0, 40, 50), Box(-4, -4, 30, 30), Box(10, 10, 60, 60)):
        assert np.array_equal(np.argsort(read_reflected(ArrayRaster(pixels_CYX), box, 0).strides), order)


def test_a_file_opened_after_the_end_is_closed(tmp_path):
    """A thread that is still reading ahead when a run gives up leaves no file open."""

    def held() -> set[str]:
        return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()}

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    path = str(tmp_path / "a.tif")
    resources = Resources(Job(tmp_path, Recipe()), None)
    resources.raster(path, {"name": "tiff"})
    assert path in held()
    resources.close()
    assert path not in held()
    with pytest.raises(BlockError, match="the run has ended"):
        resources.raster(path, {"name": "tiff"})
    assert path not in held()


@pytest.mark.parametrize("limit", [0, 100, 10**6])
def test_an_image_and_its_truth_are_decoded_once(tmp_path, monkeypatch, limit):
    """Both stay open while blocks take turns of them, however large; an image that comes next takes the place of both."""
    monkeypatch.setattr("pipeline.engine.resources.WHOLE_BYTES", limit)
    resources = Resources(Job(tmp_path, Recipe()), None)
    opened, held = [], []
    for name in "ab":
        for kind in ("image", "truth"):
            Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / f"{name}_{kind}.png")
        for _ in range(4):
            image = resources.raster(str(tmp_path / f"{name}_image.png"), {"name": "auto"})
            truth = resources.raster(str(tmp_path / f"{name}_truth.png"), resources.job.truth_reader)
            opened += [image, truth]
            (mine,) = resources._open.values()
            held.append([Path(key[0]).stem for key in mine])
    assert len({id(one) for one in opened}) == 4
    assert held[3] == ["a_image", "a_truth"]
    assert held[7] == (["a_image", "a_truth"] if limit > 800 else []) + ["b_image", "b_truth"]
    resources.close()
