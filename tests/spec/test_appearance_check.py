"""An image is compared by few windows of it, whatever its size; damaged parts are left out."""

from __future__ import annotations

import numpy as np

from pipeline.engine.appearance_check import appearance_warning, read_windows
from pipeline.errors import BlockError
from pipeline.models import Expectation
from pipeline.raster import ArrayRaster, Header, Raster


class Counting(Raster):
    """A large image of which no pixel is kept: says what was read."""

    def __init__(self, shape, channels=1, dtype="uint8", planes=1, damaged=lambda box: False):
        self.header = Header(shape, channels, dtype, planes={"z": planes} if planes > 1 else {})
        self.boxes, self.damaged = [], damaged

    def read(self, box, plane=0):
        if self.damaged(box):
            raise BlockError("damaged")
        self.boxes.append((box, plane))
        return np.zeros((self.header.channels, *box.shape), self.header.dtype)


def test_a_large_image_is_not_read():
    """Of four gigapixels at most 64 windows are read, spread over all quarters."""
    raster = Counting((65_536, 65_536), 3)
    windows = read_windows(raster)
    assert len(windows) == len(raster.boxes) <= 64
    assert {(box.y0 < 32_768, box.x0 < 32_768) for box, _ in raster.boxes} == {(a, b) for a in (False, True) for b in (False, True)}


def test_many_channels_take_no_more_memory():
    """Fewer windows are read where a pixel takes many bytes."""
    windows = read_windows(Counting((65_536, 65_536), 40, "float32"))
    assert sum(window.pixels_CYX.nbytes for window in windows) <= (1 << 25) + 256 * 256 * 40 * 4


def test_the_middle_plane_stands_for_a_stack():
    """One plane is read."""
    raster = Counting((300, 300), planes=7)
    read_windows(raster)
    assert {plane for _, plane in raster.boxes} == {3}


def test_damaged_parts_are_left_out():
    """Windows that cannot be read are missing; the others are there."""
    raster = Counting((2000, 2000), damaged=lambda box: box.x0 < 900)
    assert 0 < len(read_windows(raster)) == len(raster.boxes) < 64


def test_windows_can_be_chosen():
    """Those that may not be read are not."""
    raster = Counting((2000, 2000))
    read_windows(raster, lambda box: box.y0 > 1000)
    assert all(box.y0 > 1000 for box, _ in raster.boxes)


def test_an_image_that_shows_too_little_is_not_judged():
    """An even image, or one without a window, is neither like nor unlike."""

    class Known:
        title, normalize, expects = "mine", None, Expectation(appearance={"sharpness": {"limit": 1.0, "points": [[0.0, 0.0, 0.0]]}})

    assert appearance_warning(Known, read_windows(ArrayRaster(np.full((1, 300, 300), 7, np.uint8)))) == ""
    assert appearance_warning(Known, []) == ""
