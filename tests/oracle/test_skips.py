"""What is skipped costs nothing and changes nothing: inside what is kept the mask is that of a run that skips nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.engine import block_pixels, prediction
from tests.conftest import blobs
from tests.oracle.interrupted_runs import ending_after

SHAPE = (420, 510)
CLASSES = [{"name": "low", "values": [0]}, {"name": "middle", "values": [1]}, {"name": "high", "values": "other"}]
TRIANGLES = [[[70, 40], [400, 60], [120, 300], [70, 40]], [[300, 200], [480, 390], [310, 400], [300, 200]]]
HOLE = [[120, 80], [160, 90], [130, 130], [120, 80]]
SKIPS = {"regions": {"name": "regions", "path": "{stem}.geojson"}, "tissue": {"name": "tissue"}}


def write_slide(folder, name="a"):
    """A stack of two planes of colours: grey glass but for a piece of noisy pink; truth; and two regions, one with a hole."""
    pixels_YXC = np.full((2, *SHAPE, 3), 240, np.uint8)
    piece = np.stack([blobs((150, 170), seed=2, channels=3), blobs((150, 170), seed=3, channels=3)]) // 3
    pixels_YXC[:, 60:210, 90:260] = np.moveaxis(piece, 1, 3) + np.array([110, 20, 70], np.uint8)
    tifffile.imwrite(folder / f"{name}.ome.tif", pixels_YXC, photometric="rgb", tile=(64, 64), metadata={"axes": "ZYXS"}, ome=True)
    truth = np.stack([blobs(SHAPE, seed=seed) // 86 for seed in (5, 6)])
    tifffile.imwrite(folder / f"{name}_truth.tif", truth, tile=(64, 64), metadata={"axes": "ZYX"})
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [TRIANGLES[0], HOLE]}, "properties": {}}]
    features += [{"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[TRIANGLES[1]]]}, "properties": {}}]
    (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def keys_of(networks, **more):
    """A run of the slide."""
    keys = {"images": ["a.ome.tif"], "truth": "a_truth.tif", "classes": CLASSES, "model": networks["same3"], "normalize": "percentile"}
    return {**keys, "tiling": {"core": 32, "halo": 24, "block": 64}, **more}


@pytest.fixture
def counted_reads(monkeypatch):
    """The regions of the image that are read for predictions."""
    seen = []
    read = block_pixels.read_zero_filled
    monkeypatch.setattr(prediction, "read_zero_filled", lambda raster, box, plane: seen.append((box, plane)) or read(raster, box, plane))
    return seen


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("stitch", ["crop", "gaussian"])
def test_what_is_kept_is_as_if_nothing_were_skipped(tmp_path, engine, networks, skip, stitch, counted_reads):
    """To the pixel, in masks and probabilities; what is skipped is counted apart and has no prediction; fewer blocks are read."""
    write_slide(tmp_path)
    tiling = {"stitch": stitch, "core": 32, "halo": 24, "block": 64}
    writers = [{"name": "ome_zarr", "probs": True}]
    whole = engine(**keys_of(networks, tiling=tiling, writers=writers), output="whole")
    reads_of_whole = len(counted_reads)
    counted_reads.clear()
    done = engine(**keys_of(networks, tiling=tiling, writers=writers, skip=SKIPS[skip]), output="out")
    assert whole.code == done.code == 0
    mask, expected = done.mask("a"), whole.mask("a")
    kept = mask != 255
    assert 0.05 < kept.mean() < 0.7
    assert np.array_equal(mask[kept], expected[kept])
    probs = [np.asarray(zarr.open_array(one.folder / "probs" / "a.ome.zarr" / "0", mode="r")) for one in (done, whole)]
    channels_last = [np.moveaxis(one, 0, -1) for one in probs]
    assert np.array_equal(channels_last[0][kept], channels_last[1][kept])
    assert len(counted_reads) < 0.8 * reads_of_whole
    report = done.report
    assert report["skipped"] == report["no_prediction"] == int((~kept).sum())
    assert report["pixels"] == mask.size
    assert sum(one["predicted"] for one in report["classes"]) == int(kept.sum())
    assert sum(map(sum, report["confusion"])) == int(kept.sum())
    picture = picture_at(done.folder / "report" / "skips" / "a.png")
    assert 0 < (picture > 0).mean() < 1


def test_what_is_skipped_is_drawn_dark_on_the_image(tmp_path, engine, networks):
    """The picture of a plane shows the image, and darker what is skipped; without a level that is quickly read, black and white."""
    pixels_YXC = np.full((400, 600, 3), 240, np.uint8)
    pixels_YXC[:, :300] = np.moveaxis(blobs((400, 300), channels=3), 0, 2)
    tifffile.imwrite(tmp_path / "a.tif", pixels_YXC, photometric="rgb", tile=(64, 64))
    square = [[100, 100], [500, 100], [500, 300], [100, 300], [100, 100]]
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [square]}))
    keys = {"images": ["a.tif"], "model": {"name": "kmeans", "classes": 2}, "normalize": None, "skip": SKIPS["regions"]}
    keys["tiling"] = {"core": 64, "halo": 0, "block": 128}
    picture = picture_at(engine(**keys).folder / "report" / "skips" / "a.png")
    expected = (pixels_YXC * 0.35).astype(np.uint8)
    expected[100:300, 100:500] = pixels_YXC[100:300, 100:500]
    assert np.array_equal(picture, expected)


def picture_at(path):
    """A PNG."""
    from PIL import Image

    return np.asarray(Image.open(path))


def test_regions_are_those_of_another_library(tmp_path, engine, networks):
    """What is kept are the pixels whose centres shapely finds in the polygons and in no hole; outside is the rest."""
    shapely = pytest.importorskip("shapely")
    write_slide(tmp_path)
    area = shapely.union(shapely.Polygon(TRIANGLES[0], [HOLE]), shapely.Polygon(TRIANGLES[1]))
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = shapely.contains_xy(area, cols + 0.5, rows + 0.5)
    for keep, expected in (("inside", inside), ("outside", ~inside)):
        done = engine(**keys_of(networks, skip={**SKIPS["regions"], "keep": keep}), output=keep)
        assert np.array_equal(done.mask("a")[0] != 255, expected)


def test_skipped_pixels_may_be_background(tmp_path, engine, networks):
    """They are class 0 then, are counted as such against the truth, and are still told apart."""
    write_slide(tmp_path)
    none = engine(**keys_of(networks, skip=SKIPS["regions"]), output="none")
    done = engine(**keys_of(networks, skip={**SKIPS["regions"], "as": "background"}), output="background")
    skipped = none.mask("a") == 255
    assert np.array_equal(done.mask("a"), np.where(skipped, 0, none.mask("a")))
    assert (done.report["skipped"], done.report["no_prediction"]) == (int(skipped.sum()), 0)
    assert sum(map(sum, done.report["confusion"])) == skipped.size
    assert done.report["cross_entropy"] == none.report["cross_entropy"]


def test_a_mask_file_and_another_grid(tmp_path, engine, networks):
    """A mask of any size keeps what is not zero, below the centres of the pixels of the working grid."""
    write_slide(tmp_path)
    marks = np.zeros((SHAPE[0] // 6, SHAPE[1] // 6), np.uint8)
    marks[10:40, 20:60] = 7
    tifffile.imwrite(tmp_path / "marks.tif", marks)
    scaled = {"resolution": {"scale": 0.5}, "skip": {"name": "regions", "path": "marks.tif"}}
    done = engine(**keys_of(networks, **scaled))
    height, width = done.mask("a").shape[1:]
    rows, cols = ((np.arange(length) + 0.5) * side // length for length, side in ((height, marks.shape[0]), (width, marks.shape[1])))
    expected = marks[np.ix_(rows.astype(int), cols.astype(int))] > 0
    assert np.array_equal(done.mask("a")[0] != 255, expected)
    assert (height, width) == (SHAPE[0] // 2, SHAPE[1] // 2)


def test_blocks_without_data_are_not_predicted(tmp_path, engine, networks, counted_reads):
    """With nodata the mask is as without; blocks that hold no data are not read a second time."""
    pixels = blobs((3 * 64, 6 * 64), seed=4, channels=3)
    pixels[:, :, 200:], pixels[:, 100:, :] = 0, 0
    pixels[:, 20, 300] = 9
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 0, 2), photometric="rgb", tile=(64, 64))
    keys = {"reader": {"name": "tiff", "nodata": 0}, "model": networks["same3"], "normalize": None, "truth": None, "images": ["a.tif"]}
    keys = {**keys, "normalize": {"mean": [128.0], "std": [64.0]}}
    whole = engine(**keys, output="whole")
    reads = len(counted_reads)
    counted_reads.clear()
    done = engine(**keys, skip={"name": "nodata"}, output="out")
    assert np.array_equal(done.mask("a"), whole.mask("a"))
    assert done.mask("a")[20, 300] != 255
    assert 0 < done.report["skipped"] < done.report["no_prediction"] == whole.report["no_prediction"]
    assert len(counted_reads) < reads


def test_a_run_that_skips_resumes(tmp_path, engine, networks):
    """Interrupted runs end as an undisturbed one; regions that change do their image again; what is refused names the file."""
    write_slide(tmp_path)
    keys = keys_of(networks, skip=SKIPS["regions"], tiling={"stitch": "linear", "core": 32, "halo": 24, "block": 64})
    whole = engine(**keys, output="whole")
    for count in (1, 2, 30):
        with ending_after(count, KeyboardInterrupt()):
            assert engine(**keys).code == 130
    done = engine(**keys)
    before = done.report
    assert before == whole.report
    assert np.array_equal(done.mask("a"), whole.mask("a"))
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [TRIANGLES[1]]}))
    again = engine(**keys)
    assert again.report["skipped"] > before["skipped"]
    assert (again.mask("a")[0, 60:180, 90:120] == 255).all()


def test_other_truth_keeps_what_was_skipped(tmp_path, engine, networks):
    """Masks that are counted again are not predicted again, and skipped pixels stay counted."""
    write_slide(tmp_path)
    keys = keys_of(networks, skip=SKIPS["regions"])
    before = engine(**keys).report
    truth = tifffile.imread(tmp_path / "a_truth.tif")
    tifffile.imwrite(tmp_path / "a_truth.tif", 2 - truth, tile=(64, 64), metadata={"axes": "ZYX"})
    after = engine(**keys).report
    assert before["confusion"] != after["confusion"]
    assert before["skipped"] == after["skipped"] > 0


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("stitch", ["crop", "gaussian"])
def test_ray_skips_the_same(tmp_path, engine, networks, stitch):
    """Two actors skip what the serial runner skips."""
    pytest.importorskip("ray")
    write_slide(tmp_path)
    tiling = {"stitch": stitch, "core": 32, "halo": 24, "block": 64}
    done = [
        engine(**keys_of(networks, tiling=tiling, skip=SKIPS["tissue"], compute={"runner": runner, "actors": 2}), output=runner)
        for runner in ("serial", "ray")
    ]
    assert done[0].report == done[1].report
    assert np.array_equal(done[0].mask("a"), done[1].mask("a"))


@pytest.mark.parametrize("skipped_as", ["none", "background"])
def test_objects_are_counted_by_the_area_that_is_kept(tmp_path, engine, skipped_as):
    """Density is that of the region, whatever the mask holds around it."""
    mask_YX = (blobs((100, 120), seed=7) > 150).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", mask_YX)
    (tmp_path / "a.geojson").write_text(
        json.dumps({"type": "Polygon", "coordinates": [[[20, 10], [70, 10], [70, 50], [20, 50], [20, 10]]]})
    )
    keys = {"model": {"name": "identity", "classes": 2}, "normalize": None, "reader": {"name": "auto", "pixel_size": 0.5}}
    skip = {**SKIPS["regions"], "as": skipped_as}
    done = engine(**keys, images=["a.tif"], skip=skip, instances="components", metrics=["instances"])
    (row,) = done.report["instances"]
    assert row["predicted"] > 0
    assert row["per_mm2"] == pytest.approx(row["predicted"] / (50 * 40 * 0.5**2 / 1e6))
