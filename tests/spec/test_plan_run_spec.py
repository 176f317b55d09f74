"""What one execution is told: blocks in the plan's order, files that go before the end, keys of what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Compute, Recipe
from pipeline.engine import Job
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.records import Block, Receipt, RunFolder
from pipeline.scheduling import RunSpec, Stage

UNET = build("models", {"name": "unet", "channels": 1, "classes": 3, "depth": 2, "base": 4})
SHAPES = {"large": (100, 90), "small": (60, 50)}


def spec_of(stitch, phases=("score", "predict", "finish")):
    """A run of a large and a small image with some phases each."""
    job = Job(Path("/out"), Recipe(core=32, halo=8, block=64, stitch=stitch), UNET)
    images = [
        Image(at, name, f"/{name}.tif", Header(shape, 1, "uint8"), {"name": "auto"}) for at, (name, shape) in enumerate(SHAPES.items())
    ]
    stages = {
        one.name: [Stage(phase, [Block(phase, one, 0, 0, at, Box(0, 0, 9, 9)) for at in (0, 1)]) for phase in phases] for one in images
    }
    plan = {"images": [{"name": name, "count_key": f"key of {name}"} for name in SHAPES]}
    return RunSpec(RunFolder("/out"), job, stages, plan, "serial", Compute())


def test_blocks_come_in_the_plans_order():
    """Image by image, phase by phase, block by block; asked for again they come again."""
    spec = spec_of("linear")
    wanted = [(name, phase, at) for name in SHAPES for phase in ("score", "predict", "finish") for at in (0, 1)]
    for _ in range(2):
        assert [(block.image.name, block.phase, block.col) for block in spec.blocks] == wanted


@pytest.mark.parametrize(("stitch", "expected"), [("linear", {"large"}), ("crop", set())])
def test_images_whose_blocks_wait_for_each_other_have_temporary_files(stitch, expected):
    """Scores are kept between blocks only where blocks blend: not in an image of one block, not where tiles are cropped."""
    spec = spec_of(stitch, ("score", "predict") if stitch == "linear" else ("predict",))
    assert set(spec.temporary_files) == expected


def test_counts_have_a_key_by_image():
    """It is what the plan says that the counts depend on."""
    assert spec_of("crop").count_keys == {"large": "key of large", "small": "key of small"}


def test_nothing_is_forgotten_unless_asked_for():
    """A resumed run leaves quarantined blocks as they are, and has no limit of failures."""
    spec = spec_of("crop")
    assert not spec.forgets(Receipt("predict", "large", "large:0.0.0", cause="no memory"))
    assert spec.max_failed is None
