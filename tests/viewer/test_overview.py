"""Pictures of files without a pyramid: made in the background, block by block, again where blocks have changed."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.viewer import overview, tiles
from pipeline.viewer.overview import Overview, Overviews
from tests.viewer.conftest import SHAPE
from tests.viewer.test_tiles import COLORS, stored_mask


@pytest.fixture
def overviews():
    made = Overviews()
    yield made
    made.close()


def reading(pixels_YX, asked):
    def read(step, box):
        asked.append(box)
        return pixels_YX[::step, ::step][box.slices], np.ones(box.shape, np.bool_)

    return read


def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_overview_is_read_once_block_by_block(monkeypatch, overviews):
    """Every pixel is there in the end; coarser and finer steps are cut from it."""
    monkeypatch.setattr(overview, "BLOCK", 64)
    pixels_YX = np.random.default_rng(0).integers(0, 9, (300, 500), np.uint8)
    asked = []
    made = Overview(reading(pixels_YX, asked), (300, 500), 4)
    assert made.cut(4, Box(0, 0, 5, 5)) is None
    assert overviews.get("a", (), lambda: made) is made
    wait(lambda: made.is_complete)
    assert len(asked) == len(set(asked)) == 5 * 8
    for step, expected in ((4, pixels_YX[::4, ::4]), (8, pixels_YX[::8, ::8])):
        found, valid_YX = made.cut(step, Box(0, 0, *expected.shape))
        np.testing.assert_array_equal(found, expected)
        assert valid_YX.all()
    finer, _ = made.cut(2, Box(0, 0, 4, 4))
    assert finer[0, 0] == finer[1, 1] == pixels_YX[0, 0]
    wait(lambda: overviews.changes["a"] == 1)
    assert not overviews.is_drawing


def test_blocks_that_are_done_later_are_read_then(overviews):
    """A block that is not there is not read, and a block that has changed is read again, alone."""
    pixels_YX, asked = np.ones((4096, 4096), np.uint8), []
    stamps = np.array([[1, 0], [0, 0]])
    made = Overview(reading(pixels_YX, asked), (4096, 4096), 16, lambda rows, cols: stamps.copy())
    overviews.get("a", (), lambda: made)
    wait(lambda: made.is_complete)
    assert asked == [Box(0, 0, 128, 128)]
    stamps[1, 0], stamps[0, 0] = 2, 3
    overviews.get("a", (), lambda: made)
    wait(lambda: len(asked) == 3)
    assert sorted(asked[1:]) == [Box(0, 0, 128, 128), Box(128, 0, 256, 128)]


def test_a_file_that_cannot_be_read_ends_its_overview(overviews):
    """It is complete; whoever asks for what could not be read is told why, and others go on."""

    def fail(step, box):
        if box.y0 or step == 16:
            raise BlockError("damaged") if step == 16 else ZeroDivisionError("of a decoder")
        return np.ones(box.shape), np.ones(box.shape, np.bool_)

    broken, half = Overview(fail, (100, 100), 16), Overview(fail, (4096, 64), 8)
    sound = Overview(reading(np.ones((100, 100)), []), (100, 100), 16)
    for name, one in (("a", broken), ("b", half), ("c", sound)):
        overviews.get(name, (), lambda one=one: one)
    wait(lambda: sound.is_complete and half.is_complete and broken.is_complete)
    with pytest.raises(BlockError, match="damaged"):
        broken.cut(16, Box(0, 0, 1, 1))
    assert half.cut(8, Box(0, 0, 1, 1))[1].all()
    with pytest.raises(BlockError, match="ZeroDivisionError: of a decoder"):
        half.cut(8, Box(300, 0, 301, 1))


def test_overviews_stay_within_their_memory(monkeypatch, overviews):
    """The one that was asked for longest ago is given up."""
    monkeypatch.setattr(overview, "ALL_BYTES", 30_000)
    for name in "abcd":
        overviews.get(name, (), lambda: Overview(reading(np.ones((100, 100), np.uint8), []), (100, 100), 1))
        wait(lambda: not overviews.is_drawing)
    assert [key[0] for key in overviews._kept] == ["d"] or len(overviews._kept) == 2


def test_a_large_file_without_a_pyramid_gets_clearer(scene, opened, monkeypatch):
    """Until the overview is there, the run's thumbnail is shown and may not be kept; then the version grows, and it is exact."""
    page = opened(scene / "out")
    exact = page.picture("truth", 4), page.picture("image", 4)
    monkeypatch.setattr(tiles, "WORTH_AN_OVERVIEW", 1 << 17)
    monkeypatch.setattr(tiles, "MOST_READ", 1 << 18)
    monkeypatch.setattr(tiles, "overview_step", lambda shape, size: 4)
    page = opened(scene / "out")
    version = page.json("/api/image", name="scan")["version"]
    first = page.get("/tile/a/image/7/0_0.png", name="scan")
    assert first.headers["cache-control"] == "no-store"
    assert len(first.content) > 500  # not nothing
    page.picture("truth", 4)
    wait(lambda: not page.json("/api/state")["drawing"])
    wait(lambda: page.json("/api/state", since=version)["images"])
    np.testing.assert_array_equal(page.picture("truth", 4), exact[0])
    np.testing.assert_array_equal(page.picture("image", 4), exact[1])
    assert page.get("/tile/a/image/9/0_0.png", name="scan").headers["cache-control"] != "no-store"
    np.testing.assert_array_equal(page.picture("mask", 4), COLORS[stored_mask(scene, 4)])
    assert page.picture("truth", 4).shape[:2] == (SHAPE[0] // 4, SHAPE[1] // 4)
