"""The result of a training: a run of its bundle over the validation images, and a page that shows both."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Config, config_from_mapping
from pipeline.inputs import CSV_COLUMNS, Image
from pipeline.models import num_parameters
from pipeline.records import RunFolder
from pipeline.training.bundle_output import best_bundle
from pipeline.training.checkpoint import checkpoint_file, read_checkpoint
from pipeline.training.page import write_page
from pipeline.training.plan import TrainPlan
from pipeline.training.validation_pictures import validation_pictures

__all__ = ["validation_run", "write_result_page"]


def validation_run(plan: TrainPlan, folder: RunFolder) -> Config:
    """Return the config of a run of the bundle over the validation images, after writing the list of these images.

    The run segments them as any user would: its output folder ``val`` has masks and a report.
    """
    listed, output = folder.path / "val.csv", folder.path / "val"
    with listed.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, CSV_COLUMNS)
        rows.writeheader()
        rows.writerows(_csv_row(plan, image) for image in plan.val)
    mapping = {
        **plan.config.model_dump(mode="json", include={"classes", "ignore", "reader"}),
        "images": [str(listed)],
        "model": {"name": "bundle", "path": str(best_bundle(plan))},
        "output": str(output),
    }
    return config_from_mapping(mapping, folder.path, str(listed))


def write_result_page(plan: TrainPlan, folder: RunFolder) -> Path:
    """Write training.html from the history and from the results of the validation run.

    Returns:
        Where the page lies.
    """
    page, run = folder.path / "training.html", folder.path / "val"
    report = json.loads((run / "report" / "report.json").read_text())
    colored = [{**row, "color": spec["color"]} for row, spec in zip(report["classes"], plan.classes, strict=True)]
    write_page(
        page,
        title=folder.path.name,
        facts=_facts(plan, folder.read()["training"]),
        history=folder.path / "history.csv",
        report={**report, "classes": colored},
        pictures=list(validation_pictures(plan, run / "masks")),
    )
    return page


def _csv_row(plan: TrainPlan, image: Image) -> dict[str, Any]:
    """Return an image as a CSV lists it, with those options of its reader that the YAML does not have."""
    options = {option: value for option, value in image.reader.items() if value != plan.config.reader.get(option)}
    cells = {option: " ".join(map(str, value)) if option == "channels" else value for option, value in options.items()}
    return {"image": image.path, "name": image.name, "truth": image.truth, **cells}


def _facts(plan: TrainPlan, training: Mapping[str, Any]) -> dict[str, str]:
    """Return what the page says of the training, by name."""
    facts = {
        "network": str(plan.config.model["name"]),
        "parameters": f"{num_parameters(plan.network):,}",
        "training images": f"{len(plan.train)}, {plan.num_pixels / 1e6:.1f} Mpx",
        "validation images": str(len(plan.val)),
        "crop and batch": f"{plan.crop} px, {plan.config.batch}",
        "workers": f"{training['workers']} on {training['device']}, {training['precision']}",
    }
    checkpoint = read_checkpoint(checkpoint_file(plan.config.output))
    if checkpoint is None:
        return facts
    return {**facts, "steps": f"{checkpoint.step:,}", "minutes": f"{checkpoint.seconds / 60:.1f}, validation apart"}
