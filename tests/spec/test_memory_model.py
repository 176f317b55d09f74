"""What an actor is said to need is what it needs: measured, and counted."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Recipe, load_config
from pipeline.inputs import TRUTH_READER, build_catalogue
from pipeline.models.unet import UNet
from pipeline.plugins import build
from pipeline.tuning.memory_model import _image_bytes, project_actor_bytes, project_seam_file_bytes
from tests.conftest import blobs, engine_yaml, save_tiff

UNET = {"name": "unet", "channels": 1, "classes": 40, "depth": 1, "base": 4, "seed": 1}


def traced_peak(engine, keys):
    """Peak bytes that Python and numpy hold in a run, after one over warm.tif that fills every cache."""
    engine(**keys, images=["warm.tif"], output="warm")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    assert engine(**keys).code == 0
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("stitch", ["crop", "linear"])
def test_probabilities_stay_within_the_projection(tmp_path, engine, monkeypatch, stitch):
    """With as many threads as a GPU gets, a run that writes probabilities holds no more than was said."""
    monkeypatch.setattr(Recipe, "io_threads", Recipe(device="cuda").io_threads)
    monkeypatch.setattr(UNet, "projected_bytes", lambda *_: 0)  # torch's own memory is not traced
    save_tiff(tmp_path / "warm.tif", blobs((300, 300)))
    save_tiff(tmp_path / "a.tif", blobs((800, 700)))
    keys = {"model": UNET, "normalize": None, "writers": [{"name": "ome_zarr", "probs": True}]}
    keys |= {"tiling": {"core": 128, "halo": 16, "block": 256, "stitch": stitch}, "compute": {"backend": "torch"}}
    peak = traced_peak(engine, keys)
    catalogue = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    need = project_actor_bytes(catalogue, Recipe(core=128, halo=16, block=256, stitch=stitch))
    assert peak <= need


def test_missing_data_stay_within_the_projection(tmp_path, engine, monkeypatch):
    """Zeros in the place of what is missing, and the map of where it is, are part of what was said; an image of bytes needs neither."""
    monkeypatch.setattr(Recipe, "io_threads", Recipe(device="cuda").io_threads)
    monkeypatch.setattr(UNet, "projected_bytes", lambda *_: 0)  # torch's own memory is not traced
    pixels_CYX = blobs((700, 800), dtype=np.float32, channels=8)
    pixels_CYX[3, ::5, ::7] = np.nan
    for name, pixels in (("warm", pixels_CYX[:, :300, :300]), ("a", pixels_CYX)):
        save_tiff(tmp_path / f"{name}.tif", pixels, planarconfig="separate", photometric="minisblack")
    keys = {"model": {**UNET, "channels": 8, "classes": 2}, "normalize": None, "reader": {"name": "auto", "axes": "cyx"}}
    keys |= {"tiling": {"core": 128, "halo": 64, "block": 256}, "compute": {"backend": "torch"}}
    peak = traced_peak(engine, keys)
    need = project_actor_bytes(build_catalogue(load_config(engine_yaml(tmp_path, **keys))), Recipe(core=128, halo=64, block=256))
    assert peak <= need


def test_a_truth_that_decodes_whole_counts(tmp_path):
    """Image and truth are held decoded beside each other, by each thread that reads."""
    save_tiff(tmp_path / "a.tif", blobs((300, 200)))
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(tmp_path / "whole.png")
    save_tiff(tmp_path / "parts.tif", np.zeros((300, 200), np.uint8))
    classes = [{"name": name, "color": color} for name, color in (("a", "#000000"), ("b", "#ffffff"), ("c", "#808080"))]
    with build("readers", TRUTH_READER).open(str(tmp_path / "whole.png")) as raster:
        decoded = raster.header.whole_bytes + raster.header.work_bytes
    assert decoded >= 300 * 200 * 3
    for device, readers in (("cpu", 1), ("cuda", 4)):
        recipe = Recipe(core=64, halo=24, block=64, device=device)
        whole, parts = (
            project_actor_bytes(build_catalogue(load_config(engine_yaml(tmp_path, truth=truth, classes=classes))), recipe)
            for truth in ("whole.png", "parts.tif")
        )
        assert whole - parts == readers * decoded


def test_what_objects_are_made_of_counts(tmp_path):
    """Maps and probabilities lie beside the mask: in seam files, and in the blocks that an actor holds."""
    save_tiff(tmp_path / "a.tif", blobs((2000, 2000)))
    keys = {"model": {"name": "bundle", "path": "nuclei"}, "normalize": None}
    one, other = (build_catalogue(load_config(engine_yaml(tmp_path, **keys, instances=method))) for method in (None, {"name": "border"}))
    recipe = Recipe(core=512, halo=48, block=1024, stitch="linear")
    seams, mask = project_seam_file_bytes(one, recipe) - 2000**2, 2000**2
    maps = sum(other.model.maps[name] for name in other.instances.maps)
    # The probability of the winner, and maps as float16; the scores of two classes, and behind them the maps.
    assert project_seam_file_bytes(other, recipe) == seams * (2 + maps) // 2 + mask * (1 + 1 + 2 * maps)
    assert _image_bytes(other, recipe, other.images[0]) > _image_bytes(one, recipe, one.images[0])
