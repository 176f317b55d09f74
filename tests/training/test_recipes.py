"""The trainings that come with the package: each is a YAML that can be planned."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pipeline.config import load_yaml
from pipeline.models import num_parameters
from pipeline.training.plan import make_plan
from pipeline.training.schema import TRAINING_YAML

WORKFLOWS = Path(__file__).parents[2] / "workflows"
CAMVID = sorted((WORKFLOWS / "camvid").glob("*.yaml"))
DATA = os.environ.get("GIGASEG_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")
@pytest.mark.parametrize("path", CAMVID, ids=lambda path: path.stem)
def test_road_scenes_can_be_planned(path, tmp_path):
    """All frames find their masks, in both parts, and the network has the number of parameters of the table."""
    folder = f"{DATA}/aerial/camvid-noncommercial"
    plan = make_plan(load_yaml(TRAINING_YAML, path, [f"images={folder}/train/images", f"val={folder}/val/images", f"output={tmp_path}"]))
    assert (len(plan.train), len(plan.val)) == (367, 101)
    assert {one.truth for one in plan.val} == {f"{folder}/val/masks/{one.name}.png" for one in plan.val}
    row = re.search(rf"`{path.name}` \| ([\d,]+) \|", (path.parent / "README.md").read_text(encoding="utf-8"))
    assert row
    assert num_parameters(plan.network) == int(row[1].replace(",", ""))
