"""What an actor is said to need is what it needs: measured, and counted."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from pipeline.config import Recipe, load_config
from pipeline.inputs import build_catalogue
from pipeline.models.unet import UNet
from pipeline.tuning.memory_model import project_actor_bytes
from tests.conftest import blobs, engine_yaml, save_tiff

UNET = {"name": "unet", "channels": 1, "classes": 40, "depth": 1, "base": 4, "seed": 1}


@pytest.mark.parametrize("stitch", ["crop", "linear"])
def test_probabilities_stay_within_the_projection(tmp_path, engine, monkeypatch, stitch):
    """With as many threads as a GPU gets, a run that writes probabilities holds no more than was said."""
    monkeypatch.setattr(Recipe, "io_threads", Recipe(device="cuda").io_threads)
    monkeypatch.setattr(UNet, "projected_bytes", lambda *_: 0)  # torch's own memory is not traced
    save_tiff(tmp_path / "warm.tif", blobs((300, 300)))
    save_tiff(tmp_path / "a.tif", blobs((800, 700)))
    keys = {"model": UNET, "normalize": None, "writers": [{"name": "ome_zarr", "probs": True}]}
    keys |= {"tiling": {"core": 128, "halo": 16, "block": 256, "stitch": stitch}, "compute": {"backend": "torch"}}
    engine(**keys, images=["warm.tif"], output="warm")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    done = engine(**keys)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    catalogue = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    need = project_actor_bytes(catalogue, Recipe(core=128, halo=16, block=256, stitch=stitch))
    assert done.code == 0
    assert peak <= need


def test_a_truth_that_decodes_whole_counts(tmp_path):
    """Image and truth are held decoded beside each other, by each thread that reads."""
    save_tiff(tmp_path / "a.tif", blobs((300, 200)))
    Image.fromarray(np.zeros((300, 200, 3), np.uint8)).save(tmp_path / "whole.png")
    save_tiff(tmp_path / "parts.tif", np.zeros((300, 200), np.uint8))
    classes = [{"name": name, "color": color} for name, color in (("a", "#000000"), ("b", "#ffffff"), ("c", "#808080"))]
    for device, readers in (("cpu", 1), ("cuda", 4)):
        recipe = Recipe(core=64, halo=24, block=64, device=device)
        whole, parts = (
            project_actor_bytes(build_catalogue(load_config(engine_yaml(tmp_path, truth=truth, classes=classes))), recipe)
            for truth in ("whole.png", "parts.tif")
        )
        assert whole - parts == readers * 300 * 200 * 3
