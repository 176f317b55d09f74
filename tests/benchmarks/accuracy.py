"""What a faster backend costs in accuracy: the shipped bundles' IoU on their validation images with every installed backend.

Where a bundle declares how objects are told apart, their AP at IoU 0.5 is printed as well, also for each kind of image.

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
from collections import defaultdict
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.config import config_from_mapping
from pipeline.errors import GigasegError
from pipeline.models.bundle_files import list_bundles
from pipeline.plugins import build
from pipeline.training.plan import TrainPlan
from tests.shipped import DATASETS, training_of
from workflows.run import run_config

ROWS = [("torch", "fp32"), ("torch", "bf16"), ("inductor", "bf16"), ("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")]
ROWS += [("openvino", "int8")]


def scores_of(bundle: str, plan: TrainPlan, folder: Path, backend: str, precision: str) -> dict[str, float]:
    """IoU of each class, and AP of its objects; int8 gives no maps, which objects may need."""
    listed = folder / "val.csv"
    with listed.open("w", newline="", encoding="utf-8") as file:
        rows = ([image.path, image.name, image.truth, image.reader.get("pixel_size")] for image in plan.val)
        csv.writer(file).writerows([["image", "name", "truth", "pixel_size"], *rows])
    output = folder / f"{backend}-{precision}"
    mapping = {
        **plan.config.model_dump(mode="json", include={"classes", "ignore", "reader"}),
        "images": [str(listed)],
        "model": {"name": "bundle", "path": bundle},
        "instances": "auto" if build("models", {"name": "bundle", "path": bundle}).instances and precision != "int8" else None,
        "compute": {"runner": "serial", "backend": backend, "precision": precision},
        "output": str(output),
    }
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run_config(config_from_mapping(mapping, folder, str(listed)))
    report = json.loads((output / "report" / "report.json").read_text())
    objects = {f"AP of {one['class']}": one["ap50"] for one in report.get("instances", ())}
    return {one["name"]: one["iou"] for one in report["classes"]} | {"mean": report["mean_iou"]} | objects | by_kind(bundle, report)


def by_kind(bundle: str, report: Mapping[str, Any]) -> dict[str, float]:
    """AP of the objects in each kind of image, where ``split.csv`` of the data names the kinds; pairs are found again from F1."""
    split = Path(os.environ["GIGASEG_TEST_DATA"], DATASETS[bundle], "split.csv")
    rows = list(csv.DictReader(split.open(encoding="utf-8"))) if split.is_file() and "instances" in report else []
    kinds = {row["id"]: row["modality"] for row in rows if "modality" in row}
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for image in report["per_image"] if kinds else ():
        for one in image["instances"]:
            objects = one["truth"] + one["predicted"]
            sums[kinds[image["name"]]][0] += (one["f1_50"] or 0.0) * objects / 2
            sums[kinds[image["name"]]][1] += objects
    return {f"AP in {kind}": pairs / (objects - pairs) for kind, (pairs, objects) in sorted(sums.items())}


def main() -> None:
    """Print a table a bundle."""
    for bundle in sys.argv[1:] or list_bundles():
        with tempfile.TemporaryDirectory() as text:
            plan, first = training_of(bundle, Path(text)), None
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
