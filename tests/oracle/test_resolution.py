"""Runs on another grid than the images' own: any cut and any runner give one mask, whose place and scale are true."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
import zarr

import pipeline
from pipeline.config import load_config
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue
from pipeline.raster import ArrayRaster, ResampledRaster, resampled_header
from tests.conftest import Done, blobs, engine_yaml, save_tiff
from tests.oracle.interrupted_runs import ending_after

DATA = os.environ.get("GIGASEG_TEST_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")
FACTOR = 1.6
CLASSES = [{"name": "low", "values": [0]}, {"name": "middle", "values": [1]}, {"name": "high", "values": [2]}]
SCALED = {
    "images": ["img/*.tif"],
    "truth": "truth/{name}.tif",
    "classes": CLASSES,
    "ignore": 9,
    "resolution": {"scale": 1 / FACTOR},
    "tiling": {"core": 32, "halo": 24, "block": 64},
}
SHAPES = {"a": (260, 331), "b": (90, 88)}


def write_images(folder):
    """Two images with holes, of several blocks and of one, and their truth."""
    for name, shape in SHAPES.items():
        pixels = blobs(shape, seed=ord(name), dtype=np.float32)
        pixels[20:31, 40:55] = np.nan
        save_tiff(folder / "img" / f"{name}.tif", pixels)
        truth = blobs(shape, seed=3) // 86
        truth[5:9, 5:19] = 9
        save_tiff(folder / "truth" / f"{name}.tif", truth)


def resampled_by_hand(folder):
    """Write the same images, resampled whole, and their truth below the centres: what a run on the working grid must equal."""
    for name in SHAPES:
        source = ArrayRaster(tifffile.imread(folder / "img" / f"{name}.tif"))
        raster = ResampledRaster(source, resampled_header(source.header, (FACTOR, FACTOR)), (FACTOR, FACTOR))
        height, width = raster.header.shape
        pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, height, width))
        save_tiff(folder / "small" / "img" / f"{name}.tif", np.where(valid_YX, pixels_CYX[0], np.nan).astype(np.float32))
        rows, cols = (((np.arange(length) + 0.5) * FACTOR).astype(int) for length in (height, width))
        save_tiff(folder / "small" / "truth" / f"{name}.tif", tifffile.imread(folder / "truth" / f"{name}.tif")[np.ix_(rows, cols)])


def without_names(report):
    """Return what a report counts."""
    return {key: value for key, value in report.items() if key not in ("model", "left_out")}


def test_a_run_equals_that_of_images_resampled_before(tmp_path, engine, networks):
    """Pixels, masks, counts and metrics are those of the same images resampled whole and written; NaN leaves the same holes."""
    write_images(tmp_path)
    resampled_by_hand(tmp_path)
    keys = {"model": networks["same"], "normalize": "zscore"}
    done = engine(**SCALED, **keys)
    by_hand = engine(**{**SCALED, "resolution": "auto"}, **keys, folder=tmp_path / "small")
    assert done.code == by_hand.code == 0
    for name, shape in SHAPES.items():
        assert done.mask(name).shape == tuple(round(side / FACTOR) for side in shape)
        assert np.array_equal(done.mask(name), by_hand.mask(name))
        assert (done.mask(name) == 255).any()
        assert len(np.unique(done.mask(name))) == 4
    assert without_names(done.report) == without_names(by_hand.report)
    assert done.report["mean_iou"] is not None


def test_any_cut_gives_one_mask(tmp_path, engine, networks):
    """Small and large cores, and blocks of any size, blended or not: the mask of the working grid does not depend on them."""
    write_images(tmp_path)
    for stitch in ("crop", "linear"):
        masks = []
        for number, (core, block) in enumerate([(32, 32), (32, 96), (32, 256)]):
            tiling = {"core": core, "halo": 24, "block": block, "stitch": stitch}
            done = engine(**{**SCALED, "tiling": tiling}, model=networks["same"], output=f"{stitch}{number}")
            masks.append(done.mask("a"))
        assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, engine, traced):
    """Resumed runs find what they have done on the working grid, and go on there."""
    write_images(tmp_path)
    keys = {**SCALED, "model": {"name": "traced.model", "classes": 3}, "normalize": None, "tiling": {"core": 32, "halo": 4, "block": 32}}
    whole = engine(**keys, output="whole")
    with ending_after(9, None):
        assert engine(**keys).code == 130
    before = traced.calls
    done = engine(**keys)
    assert traced.calls - before < before
    assert done.report == whole.report
    assert all(np.array_equal(done.mask(name), whole.mask(name)) for name in SHAPES)


def test_truth_that_comes_later_is_counted_on_the_working_grid(tmp_path, engine, networks):
    """Masks stay and are counted as if the truth had been there, on either grid of the masks."""
    write_images(tmp_path)
    for masks in ("working", "native"):
        keys = {**SCALED, "model": networks["same"], "masks": masks}
        whole = engine(**keys, output=f"whole-{masks}")
        engine(**{**keys, "truth": None}, output=f"later-{masks}")
        later = engine(**keys, output=f"later-{masks}")
        found = [{key: one[key] for key in ("confusion", "mean_iou", "classes")} for one in (whole.report, later.report)]
        assert found[0] == found[1]
        assert found[0]["mean_iou"] is not None


def test_masks_on_the_images_own_grid(tmp_path, engine, networks):
    """`masks: native` writes every format by nearest pixels on the image's own grid; the report is that of the working grid."""
    write_images(tmp_path)
    writers = [{"name": "ome_zarr"}, {"name": "tiff"}]
    working = engine(**SCALED, model=networks["same"], writers=writers, output="working")
    native = engine(**SCALED, model=networks["same"], writers=writers, masks="native", output="native")
    assert without_names(native.report) == without_names(working.report)
    for name, shape in SHAPES.items():
        rows, cols = (
            np.minimum(((np.arange(side) + 0.5) / FACTOR).astype(int), length - 1)
            for side, length in zip(shape, working.mask(name).shape, strict=True)
        )
        expected = working.mask(name)[np.ix_(rows, cols)]
        assert np.array_equal(native.mask(name), expected)
        assert np.array_equal(tifffile.imread(native.folder / "masks" / f"{name}.tif"), expected)
        kept = zarr.open_array(native.folder / "working" / f"{name}.ome.zarr" / "0", mode="r")[...]
        assert np.array_equal(kept, working.mask(name))
    again = engine(**SCALED, model=networks["same"], writers=writers, masks="native", output="native")
    assert again.code == 0
    assert not (working.folder / "working").exists()


def test_what_cannot_be_resumed_is_refused(tmp_path, engine, networks):
    """Another grid is another run: its folder is not taken over, whichever of both keys changes."""
    write_images(tmp_path)
    engine(**SCALED, model=networks["same"])
    for keys in ({"resolution": {"scale": 0.5}}, {"masks": "native"}):
        with pytest.raises(pipeline.InputError, match="another"):
            engine(**{**SCALED, **keys}, model=networks["same"])


def test_the_resolved_yaml_is_the_same_run(tmp_path, engine, networks):
    """`config.yaml` of the output says what was asked, in the form in which it was asked."""
    write_images(tmp_path)
    done = engine(**SCALED, model=networks["same"], masks="native")
    written = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert written["resolution"] == {"scale": 1 / FACTOR}
    assert written["masks"] == "native"
    assert load_config(done.folder / "config.yaml").resolution == load_config(tmp_path / "run.yaml").resolution


def test_the_api_opens_all_on_one_grid(tmp_path, engine, networks):
    """Image, truth and mask of a run overlay each other, on the grid of the mask."""
    write_images(tmp_path)
    for masks, shape in (("working", (162, 207)), ("native", SHAPES["a"])):
        done = engine(**SCALED, model=networks["same"], masks=masks, output=masks)
        opened = pipeline.open_run(done.folder)
        for lazy in (opened.mask("a"), opened.truth("a"), opened.image("a")):
            assert lazy.shape[-2:] == np.asarray(lazy).shape[-2:] == shape


def test_masks_of_a_working_grid_are_scored_by_the_run(tmp_path, engine, networks):
    """`evaluate` tells why masks and truth do not fit, and with `masks: native` scores them on the images' own grid."""
    write_images(tmp_path)
    keys = {**SCALED, "model": networks["same"]}
    working = engine(**keys, output="working")
    with pytest.raises(pipeline.InputError, match="truth of the image's size") as refused:
        pipeline.evaluate(str(working.folder), str(tmp_path / "truth"), output=tmp_path / "scored")
    assert any("masks: native" in note for note in refused.value.__notes__)
    native = engine(**keys, masks="native", output="native")
    report = pipeline.evaluate(str(native.folder), str(tmp_path / "truth"), output=tmp_path / "scored")
    assert report.pixels == sum(height * width for height, width in SHAPES.values())
    assert report.mean_iou == pytest.approx(native.report["mean_iou"], abs=0.02)


GEO = [(33550, 12, 3, (0.25, 0.25, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True)]
KEYS = [(34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32616), True)]


@pytest.mark.parametrize("masks", ["working", "native"])
def test_a_mask_covers_the_ground_of_its_image(tmp_path, engine, networks, masks):
    """Rasterio finds the same bounds in both, to a millionth of a metre, and the pixel size that was asked for."""
    import rasterio

    save_tiff(tmp_path / "a.tif", blobs((160, 240)), extratags=[*GEO, *KEYS])
    writers = [{"name": "ome_zarr"}, {"name": "tiff"}]
    done = engine(model=networks["same"], resolution={"pixel_size": 0.5}, masks=masks, writers=writers)
    with rasterio.open(tmp_path / "a.tif") as image, rasterio.open(done.folder / "masks" / "a.tif") as mask:
        np.testing.assert_allclose(mask.bounds, image.bounds, rtol=0, atol=1e-6)
        assert mask.crs == image.crs
        assert mask.res == ((0.5, 0.5) if masks == "working" else image.res)


def ome_pixel(folder, path):
    """Return scale and translation (y, x) of level 0 of an OME-Zarr."""
    attributes = json.loads((folder / path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    steps = {step["type"]: step[step["type"]] for step in attributes["datasets"][0]["coordinateTransformations"]}
    return steps["scale"][-2:], steps["translation"][-2:]


def test_a_mask_overlays_its_image_in_micrometres(tmp_path, engine, networks):
    """The first pixel of a coarser mask lies half the difference of the sizes further in, so that viewers draw both edges at one place."""
    metadata = {"axes": "YX", **{f"PhysicalSize{axis}": 0.25 for axis in "XY"}, **{f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}}
    tifffile.imwrite(tmp_path / "a.ome.tif", blobs((160, 240)), metadata=metadata, tile=(64, 64))
    keys = {"images": ["a.ome.tif"], "model": networks["same"], "resolution": {"pixel_size": 1.0}}
    done = engine(**keys, output="working")
    assert done.mask().shape == (40, 60)
    assert ome_pixel(done.folder, "masks/a.ome.zarr") == ([1.0, 1.0], [0.375, 0.375])
    done = engine(**keys, masks="native", output="native")
    assert ome_pixel(done.folder, "masks/a.ome.zarr") == ([0.25, 0.25], [0.0, 0.0])
    assert ome_pixel(done.folder, "working/a.ome.zarr") == ([1.0, 1.0], [0.375, 0.375])


def test_the_level_of_a_pyramid_is_read(tmp_path, engine, capsys):
    """The pixels are those of the level that is fine enough, which here look like none of the others; `plan` says which, and how."""
    from workflows.plan import plan

    metadata = {"axes": "YX", **{f"PhysicalSize{axis}": 0.25 for axis in "XY"}, **{f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}}
    levels = [np.zeros((256, 384), np.uint8), blobs((128, 192), seed=5), np.full((64, 96), 255, np.uint8)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        file.write(levels[0], tile=(64, 64), subifds=2, metadata=metadata)
        for level in levels[1:]:
            file.write(level, tile=(64, 64), subfiletype=1)
    keys = {"images": ["a.ome.tif"], "model": {"name": "histogram", "classes": 2}, "normalize": None}
    keys["tiling"] = {"core": 64, "halo": 0, "block": 64}
    save_tiff(tmp_path / "by_hand.tif", levels[1])
    expected = engine(**{**keys, "images": ["by_hand.tif"]}, output="by_hand").mask("by_hand")
    shown = {}
    for number, resolution in enumerate([{"pixel_size": 0.5}, {"level": 1}, {"scale": 0.5}, {"pixel_size": 0.75}]):
        done = engine(**keys, resolution=resolution, output=f"out{number}")
        if number < 3:
            assert np.array_equal(done.mask(), expected)
        capsys.readouterr()
        assert plan(engine_yaml(tmp_path, **keys, resolution=resolution, output=f"plan{number}")) == 0
        shown[number] = capsys.readouterr().out.splitlines()[0]
    own = "from 256 x 384 px of 0.25 um a pixel: level 1 of 128 x 192 px"
    for number in range(3):
        assert "128 x 192 px = 64 x 96 um, 0.5 um a pixel" in shown[number]
        assert f"{own}, unchanged" in shown[number]
    assert "85 x 128 px = 63.75 x 96 um, 0.75 um a pixel" in shown[3]
    assert f"{own}, resampled, 1.5 pixels to one" in shown[3]


def test_memory_counts_what_is_read(tmp_path):
    """A working grid eight times as coarse reads 64 pixels for one: `plan` counts them, and makes blocks smaller until they fit."""
    from pipeline.tuning import choose_recipe, project_actor_bytes

    save_tiff(tmp_path / "a.tif", np.zeros((16384, 16384), np.uint8), compression="zlib")
    needs = {}
    for scale in (1, 0.125):
        keys = {"resolution": {"scale": scale}, "tiling": {"core": 512, "halo": 0, "block": 2048}}
        catalogue = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
        needs[scale] = project_actor_bytes(catalogue, choose_recipe(catalogue).recipe)
    assert needs[0.125] - needs[1] > 16384**2
    small = {"resolution": {"scale": 0.125}, "tiling": {"core": "auto", "halo": 0, "block": "auto"}, "compute": {"memory": "250MiB"}}
    catalogue = build_catalogue(load_config(engine_yaml(tmp_path, **small)))
    choice = choose_recipe(catalogue)
    assert choice.recipe.block < 2048
    assert project_actor_bytes(catalogue, choice.recipe) <= 250 * 2**20


def tissue(shape, seed=0):
    """Draw dark discs of 17 to 23 pixels on a light, uneven ground, RGB uint8 (Y, X, 3)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    pixels = np.full((*shape, 3), (228.0, 190.0, 214.0)) + 10 * blobs(shape, seed)[:, :, None] / 255
    for y, x, radius in zip(rng.integers(0, shape[0], 60), rng.integers(0, shape[1], 60), rng.uniform(8.5, 11.5, 60), strict=True):
        pixels[(rows - y) ** 2 + (cols - x) ** 2 < radius**2] = (92, 60, 140)
    return np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)


def save_slide(path, pixels, size):
    """Write RGB pixels as an OME-TIFF with a pixel size in micrometres."""
    metadata = {"axes": "YXS", **{f"PhysicalSize{axis}": size for axis in "XY"}, **{f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}}
    tifffile.imwrite(path, np.ascontiguousarray(pixels), photometric="rgb", metadata=metadata, tile=(128, 128))


def iou(one, other):
    """Return the IoU of class 1."""
    one, other = one == 1, other == 1
    return float((one & other).sum() / (one | other).sum())


def run_nuclei(folder, **keys):
    """Run the shipped bundle for stained tissue over all slides of a folder."""
    content = {"images": [str(folder / "*.ome.tif")], "model": "nuclei-stained", "output": str(folder / "out"), **keys}
    return Done(0, pipeline.run(content, fresh=True).storage.root)


def test_one_tissue_at_two_magnifications(tmp_path):
    """Drawn nuclei at 0.25 and at 0.5 um, and pixels of 0.5 um enlarged to 0.25: the masks of `nuclei-stained` agree on the common grid."""
    from PIL import Image

    fine = np.asarray(Image.fromarray(tissue((256, 320))).resize((640, 512), Image.Resampling.BICUBIC))
    save_slide(tmp_path / "40x.ome.tif", fine, 0.25)
    save_slide(tmp_path / "20x.ome.tif", Image.fromarray(fine).resize((320, 256), Image.Resampling.LANCZOS), 0.5)
    done = run_nuclei(tmp_path)
    assert (done.mask("20x") == 1).mean() > 0.1
    assert iou(done.mask("40x"), done.mask("20x")) >= 0.95


@needs_data
def test_one_real_tissue_at_two_magnifications(tmp_path):
    """Stained tissue with large nuclei, as 40x, and reduced to 20x: both masks agree; read as they are, they do not."""
    import csv

    from PIL import Image

    root = Path(DATA) / "microscopy" / "nuclei-dsb2018"
    rows = csv.DictReader((root / "split.csv").read_text().splitlines())
    stained = [row["id"] for row in rows if row["modality"] == "stained-purple-on-purple"]
    names = [name for name in stained if median_diameter(root / "labels" / f"{name}.png") > 28][:6]
    for name in names:
        image = Image.open(root / "images" / f"{name}.png")
        save_slide(tmp_path / f"{name}_40x.ome.tif", image, 0.25)
        save_slide(tmp_path / f"{name}_20x.ome.tif", image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 0.5)
    found = {}
    for resolution in ("auto", {"scale": 1}):
        done = run_nuclei(tmp_path, resolution=resolution)
        pairs = [(done.mask(f"{name}_40x"), done.mask(f"{name}_20x")) for name in names]
        found[str(resolution)] = [iou(fine if fine.shape == coarse.shape else fine[1::2, 1::2], coarse) for fine, coarse in pairs]
    print(found)
    assert min(found["auto"]) >= 0.95
    unchanged = found["{'scale': 1}"]
    assert all(one > other for one, other in zip(found["auto"], unchanged, strict=True))
    assert np.mean(unchanged) < np.mean(found["auto"]) - 0.05


def median_diameter(labels):
    """Return the median diameter of the objects of a truth, pixels."""
    from PIL import Image

    areas = np.bincount(np.asarray(Image.open(labels)).ravel())[1:]
    return float(np.median(2 * np.sqrt(areas[areas > 0] / np.pi))) if areas.any() else 0.0
