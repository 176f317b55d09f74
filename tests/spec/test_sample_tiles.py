"""Tiles to try something out on: where there is something to see, at a bounded price."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Recipe, config_from_mapping
from pipeline.errors import BlockError
from pipeline.inputs import build_catalogue
from pipeline.tuning import sample_tiles as module
from pipeline.tuning.sample_tiles import predict_tiles, read_sample_tiles, spread_locations
from tests.conftest import UNET, blobs, save_tiff

SIDE, CELLS = 32, 12  # of a tile; tiles along a side of the slide


def glass(seed=0):
    """A slide with nothing on it but noise."""
    return np.random.default_rng(seed).integers(4, 9, (SIDE * CELLS, SIDE * CELLS)).astype(np.uint8)


def put(slide, row, col, pixels):
    """Lay a tile of specimen on it."""
    slide[row * SIDE : (row + 1) * SIDE, col * SIDE : (col + 1) * SIDE] = pixels


@pytest.fixture
def catalogue_of(tmp_path):
    """Build the catalogue of images ``{name: pixels}``."""

    def go(images, normalize=None, **reader):
        for name, pixels in images.items():
            save_tiff(tmp_path / f"{name}.tif", pixels)
        spec = {"images": ["*.tif"], "model": UNET, "normalize": normalize, "output": "out"}
        return build_catalogue(config_from_mapping({**spec, "reader": {"name": "auto", **reader}}, tmp_path, "x", []))

    return go


def widths(tiles):
    """Ranges of the tiles' values."""
    return [int(np.ptp(one.pixels_BCYX)) for one in tiles]


def test_the_specimen_is_found(catalogue_of):
    """Of a slide that is glass but for two tiles, these two come first, though a blind choice of as many tiles misses both."""
    slide = glass()
    catalogue = catalogue_of({"a": slide})
    blind = {(location.box.y0 // SIDE, location.box.x0 // SIDE) for location in spread_locations(catalogue.images, 8, SIDE)}
    rest = [(row, col) for row in range(CELLS) for col in range(CELLS) if (row, col) not in blind]
    for row, col in rest[:: len(rest) - 1]:
        put(slide, row, col, blobs((SIDE, SIDE)))
    tiles = read_sample_tiles(catalogue_of({"a": slide}), catalogue.images, 8, SIDE, CELLS**2)
    assert [width > 200 for width in widths(tiles)] == [True] * 2 + [False] * 6


def test_only_so_many_places_are_read(catalogue_of, monkeypatch):
    """Never more places are read than were allowed, in however many images."""
    read = []
    real = module.read_zero_filled
    monkeypatch.setattr(module, "read_zero_filled", lambda *seen: read.append(seen) or real(*seen))
    catalogue = catalogue_of({name: glass() for name in "abc"})
    assert len(read_sample_tiles(catalogue, catalogue.images, 4, SIDE, 16)) == 4
    assert len(read) == 16


def test_each_image_has_its_share(catalogue_of):
    """A bright image takes no place from a dim one; where there are more images than tiles, the widest ones are taken."""
    images = {name: glass(seed) // (1 if name == "a" else 2) for seed, name in enumerate("abcd")}
    images["a"] = blobs(images["a"].shape)
    catalogue = catalogue_of(images)
    assert [width > 200 for width in widths(read_sample_tiles(catalogue, catalogue.images, 8, SIDE, 64))] == [True] * 2 + [False] * 6
    assert widths(read_sample_tiles(catalogue, catalogue.images, 1, SIDE, 64))[0] > 200


def test_the_fit_is_of_all_that_was_looked_at(catalogue_of):
    """Statistics of an image are those of every place that was read, as the chosen ones are brighter than the image."""
    slide = glass()
    put(slide, 3, 5, blobs((SIDE, SIDE)))
    catalogue = catalogue_of({"a": slide}, normalize="zscore")
    (tile,) = read_sample_tiles(catalogue, catalogue.images, 1, SIDE, CELLS**2)
    assert widths([tile])[0] > 200
    assert tile.fit["normalize"]["mean"] == pytest.approx([slide.mean()])
    assert tile.fit["normalize"]["std"] == pytest.approx([slide.std()])


def test_what_is_no_data_widens_nothing(catalogue_of):
    """Pixels without data, and infinite ones, make no tile worth looking at."""
    slide = glass().astype(np.float32)
    put(slide, 0, 0, np.where(np.eye(SIDE), np.nan, 5))
    put(slide, 0, 1, np.where(np.eye(SIDE), np.inf, 5))
    put(slide, 0, 2, np.nan)
    slide[-1, -1] = 90
    catalogue = catalogue_of({"a": slide})
    tiles = read_sample_tiles(catalogue, catalogue.images, CELLS**2 - 3, SIDE, CELLS**2)
    assert widths(tiles)[0] > 80
    assert all(np.isfinite(one.pixels_BCYX).all() for one in tiles)


def test_answers_are_judged_where_there_is_data(catalogue_of):
    """Of an answer those pixels are kept that hold data; a smaller one is the tile's middle; where nothing does, all is judged."""
    slide = blobs((SIDE, SIDE)).astype(np.float32)
    slide[:, :5], slide[9, 20] = np.nan, np.inf
    holes = ~np.isfinite(slide)
    catalogue = catalogue_of({"a": slide})
    (tile,) = read_sample_tiles(catalogue, catalogue.images, 1, SIDE, 1)
    assert np.array_equal(tile.valid_YX, ~holes)
    logits = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    assert np.array_equal(tile.where_valid(logits), logits[..., ~holes][..., None, :])
    assert np.array_equal(tile.where_valid(logits[..., 3:-3, 3:-3]), logits[..., 3:-3, 3:-3][..., ~holes[3:-3, 3:-3]][..., None, :])
    (answers,), _ = predict_tiles(catalogue, Recipe(), [tile])
    assert answers[0].shape == (1, UNET["classes"], 1, (~holes).sum())
    assert tile._replace(valid_YX=None).where_valid(logits) is logits
    assert tile._replace(valid_YX=np.zeros_like(holes)).where_valid(logits) is logits


def test_a_damaged_place_is_left_out(catalogue_of, monkeypatch):
    """A place that cannot be read is left to the run, which says where it is."""
    real = module.read_zero_filled

    def damaged(raster, box, plane):
        if box.y0 == 0:
            raise BlockError("a segment is missing")
        return real(raster, box, plane)

    monkeypatch.setattr(module, "read_zero_filled", damaged)
    catalogue = catalogue_of({"a": glass()})
    assert len(read_sample_tiles(catalogue, catalogue.images, CELLS**2, SIDE, CELLS**2)) == CELLS**2 - CELLS


def test_files_that_decode_whole_are_few(tmp_path, monkeypatch):
    """Of pictures, which have no parts, so many are opened as decode within the limit, and no fewer than the tiles that are wanted."""
    for at in range(6):
        Image.fromarray(blobs((SIDE, SIDE), seed=at)).save(tmp_path / f"{at}.png")
    catalogue = build_catalogue(config_from_mapping({"images": ["*.png"], "model": UNET, "output": "out"}, tmp_path, "x", []))
    opened, whole_bytes = set(), max(image.header.whole_bytes for image in catalogue.images)
    monkeypatch.setattr(module, "_widest", lambda locations, *_: opened.add(locations[0].image.name) or [])
    for limit, number in ((2**28, 6), (4 * whole_bytes, 4), (1, 2)):
        opened.clear()
        monkeypatch.setattr(module, "MOST_DECODED_BYTES", limit)
        read_sample_tiles(catalogue, catalogue.images, 2, SIDE, 64)
        assert len(opened) == number
