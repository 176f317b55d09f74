"""What a faster backend costs in accuracy: the shipped bundles' IoU on their validation images with every installed backend.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.accuracy [BUNDLE...]`` (all). Each row is a whole run with one backend and
precision; the first is eager float32. Every IoU is wanted within 0.001 of it; int8, which is calibrated on the run's images, says its own.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pipeline.config import config_from_mapping, load_yaml
from pipeline.errors import GigasegError
from pipeline.models.bundle_files import list_bundles
from pipeline.training import TRAINING_YAML
from pipeline.training.plan import TrainPlan, make_plan
from workflows.run import run_config

WORKFLOWS = Path(__file__).parents[2] / "workflows"
DATA = {
    "nuclei": ("microscopy/nuclei-dsb2018/images", "microscopy/nuclei-dsb2018/labels/{stem}.png"),
    "aerial-landcover": ("aerial/dubai-mbrsc/images", "aerial/dubai-mbrsc/masks/{stem}.png"),
}
ROWS = [("torch", "fp32"), ("torch", "bf16"), ("inductor", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")]
ROWS += [("openvino", "int8")]


def plan_of(bundle: str, folder: Path) -> TrainPlan:
    """The training that made a bundle: it knows the validation images."""
    data = Path(os.environ["GIGASEG_TEST_DATA"])
    images, truth = DATA[bundle]
    sets = [f"images={data / images}", f"truth={data / truth}", f"output={folder / 'training'}"]
    return make_plan(load_yaml(TRAINING_YAML, WORKFLOWS / f"train_{bundle.replace('-', '_')}.yaml", sets))


def scores_of(bundle: str, plan: TrainPlan, folder: Path, backend: str, precision: str) -> dict[str, float]:
    """IoU of each class."""
    listed = folder / "val.csv"
    with listed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "name", "truth"], *([image.path, image.name, image.truth] for image in plan.val)])
    output = folder / f"{backend}-{precision}"
    mapping = {
        **plan.config.model_dump(mode="json", include={"classes", "ignore", "reader"}),
        "images": [str(listed)],
        "model": {"name": "bundle", "path": bundle},
        "compute": {"runner": "serial", "backend": backend, "precision": precision},
        "output": str(output),
    }
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run_config(config_from_mapping(mapping, folder, str(listed)))
    report = json.loads((output / "report" / "report.json").read_text())
    return {one["name"]: one["iou"] for one in report["classes"]} | {"mean": report["mean_iou"]}


def main() -> None:
    """Print a table a bundle."""
    for bundle in sys.argv[1:] or list_bundles():
        with tempfile.TemporaryDirectory() as text:
            plan, first = plan_of(bundle, Path(text)), None
            for backend, precision in ROWS:
                try:
                    found = scores_of(bundle, plan, Path(text), backend, precision)
                except GigasegError as error:
                    print(f"{bundle} {backend} {precision}: {str(error)[:150]}", flush=True)
                    continue
                first = first or found
                told = ", ".join(f"{name} {value:.4f} ({value - first[name]:+.4f})" for name, value in found.items())
                print(f"{bundle} {backend} {precision}: {told}", flush=True)


if __name__ == "__main__":
    main()
