"""The trainings that made the bundles of the package."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.config import load_yaml
from pipeline.training import TRAINING_YAML
from pipeline.training.plan import TrainPlan, make_plan

__all__ = ["DATASETS", "WORKFLOWS", "training_of"]

WORKFLOWS = Path(__file__).parents[1] / "workflows"
DATASETS = {
    "aerial-buildings": "aerial/banepa-buildings",
    "aerial-landcover": "aerial/dubai-mbrsc",
    "axons": "microscopy/axon-myelin-sem",
    "nuclei": "microscopy/nuclei-dsb2018",
    "nuclei-stained": "microscopy/nuclei-dsb2018",
}
"""Each shipped bundle, and the folder below GIGASEG_TEST_DATA that it was trained on."""


def training_of(bundle: str, folder: Path) -> TrainPlan:
    """Return the training that made a bundle. An empty folder gets its YAML and the data beside it, as the YAML asks for, as links."""
    yaml = f"train_{bundle.replace('-', '_')}"
    for path in (*WORKFLOWS.glob(f"{yaml}.*"), Path(os.environ["GIGASEG_TEST_DATA"], DATASETS[bundle])):
        (folder / path.name).symlink_to(path)
    return make_plan(load_yaml(TRAINING_YAML, folder / f"{yaml}.yaml", ["compute={threads: 1}"]))
