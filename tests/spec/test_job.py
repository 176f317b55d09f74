"""What every actor is told: values that travel, and what follows from them for one image."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import Recipe
from pipeline.engine import Job
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.tiling import Grid

RECIPE = Recipe(core=32, halo=8, block=64)
UNET = build("models", {"name": "unet", "channels": 1, "classes": 3, "depth": 2, "base": 4})


def image(shape, planes=None, **header):
    return Image(0, "slides/a", "/data/a.tif", Header(shape, 1, "uint8", planes or {}, **header), {"name": "auto"})


def classes(number):
    return [{"id": at, "name": str(at), "color": "#000000"} for at in range(number)]


def test_a_job_travels():
    """It is a value: a pickled one equals the job, models and writers included."""
    job = Job(Path("/out"), RECIPE, UNET, classes=classes(3), writers=[build("writers", {"name": "ome_zarr", "probs": True})])
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.parametrize(("number", "dtype", "fill"), [(2, "uint8", 255), (255, "uint8", 255), (256, "uint16", 65535)])
def test_a_mask_is_as_wide_as_its_classes_need(number, dtype, fill):
    """Up to 255 classes a mask has 8 bits and 255 is no prediction; beyond, 16 bits and 65535."""
    job = Job(Path("/out"), RECIPE, classes=classes(number))
    assert (job.num_classes, job.dtype, job.fill, job.meta(image((9, 9))).dtype) == (number, dtype, fill, dtype)


def test_an_image_is_cut_as_the_recipe_says():
    """Core, halo and block are the recipe's, the stride and full tiles the model's."""
    job = Job(Path("/out"), RECIPE, UNET, stride=4, full=True)
    assert job.grid(image((100, 70))) == Grid((100, 70), 32, 8, 64, 4, full=True)


@pytest.mark.parametrize(
    ("shape", "planes", "expected"), [((64, 64), {}, True), ((65, 64), {}, False), ((9, 9), {"z": 2}, False), ((9, 9), {"z": 1}, True)]
)
def test_a_single_block_waits_for_no_other(shape, planes, expected):
    """An image is single where one block of one plane is all there is."""
    assert Job(Path("/out"), RECIPE).is_single(image(shape, planes)) is expected


@pytest.mark.parametrize(
    ("recipe", "model", "shape", "expected"),
    [
        ({"stitch": "linear"}, UNET, (100, 70), (True, True)),
        ({"stitch": "linear"}, UNET, (64, 64), (True, False)),  # nothing to share scores with
        ({"stitch": "linear", "halo": 0}, UNET, (100, 70), (True, False)),
        ({"stitch": "crop"}, UNET, (100, 70), (False, False)),
        ({"stitch": "linear"}, build("models", {"name": "histogram"}), (100, 70), (False, False)),  # it gives classes
        ({"stitch": "linear"}, None, (100, 70), (False, False)),
    ],
)
def test_blocks_wait_for_each_other_only_where_scores_are_blended(recipe, model, shape, expected):
    """Tiles are blended where the recipe says so and the model gives scores; blocks only where a halo reaches the next one."""
    job = Job(Path("/out"), replace(RECIPE, **recipe), model)
    assert (job.blends, job.blends_blocks(image(shape))) == expected


def test_outputs_lie_under_the_name_of_their_image():
    """Masks lie in masks/, other things in a folder of theirs, converted images at the top; a name keeps its folders."""
    one, job = image((9, 9)), Job(Path("/out"), RECIPE)
    assert job.key(one, ".ome.zarr") == "masks/slides/a.ome.zarr"
    assert job.key(one, ".ome.zarr", "probs") == "probs/slides/a.ome.zarr"
    assert replace(job, masks="").key(one, ".ome.zarr") == "slides/a.ome.zarr"


def test_exports_depend_on_classes_and_writers():
    """Another name of a class, or another option of a writer, makes other exports; the order of pixels in them does not matter."""
    tiff, zarr, probs = (build("writers", spec) for spec in ({"name": "tiff"}, {"name": "ome_zarr"}, {"name": "ome_zarr", "probs": True}))
    jobs = [Job(Path("/out"), RECIPE, classes=classes(number), writers=some) for number in (2, 3) for some in ([tiff], [zarr], [probs])]
    assert len({repr(job.exports) for job in jobs}) == len(jobs)
    assert [job.probs for job in jobs] == [False, False, True] * 2
    assert repr(replace(jobs[0], output=Path("/elsewhere"), recipe=Recipe()).exports) == repr(jobs[0].exports)


def test_a_mask_is_described_by_its_image():
    """Scale, place, georeference and source go from the image to its mask."""
    header = {"pixel_size": (0.5, 0.25), "unit": "micrometer", "offset": (3.0, 4.0), "georeference": {"crs": "EPSG:4326"}}
    meta = Job(Path("/out"), RECIPE, classes=classes(2)).meta(image((9, 9), {"z": 2}, **header))
    assert {name: getattr(meta, name) for name in header} == header
    assert (meta.shape, meta.planes, meta.source, meta.classes) == ((9, 9), {"z": 2}, "/data/a.tif", classes(2))
