"""The result of a training: a run of its bundle over the validation images, and a page that shows both."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config, config_from_mapping
from pipeline.inputs import CSV_COLUMNS, Image, open_image, open_truth
from pipeline.models import num_parameters
from pipeline.models.bundle_files import read_spec
from pipeline.plugins import build
from pipeline.records import RunFolder
from pipeline.training.output_files import Checkpoint, read_checkpoint, region_skip
from pipeline.training.page import PAGE, Picture, write_page
from pipeline.training.plan import TrainPlan
from pipeline.training.trained_bundle import best_bundle
from pipeline.training.worst_crops import CROPS, WORST, WorstCrop, worst_crops, worst_csv

__all__ = ["VALIDATION", "validation_run", "write_result_page"]

VALIDATION, VALIDATION_IMAGES = "val", "val.csv"  # the output folder of the run, and the list of its images
DARK, LIGHT = 1.0, 99.8  # percentiles that become black and white


def validation_run(plan: TrainPlan, folder: RunFolder, bundle: Path | None = None) -> Config:
    """Return the config of a run of the bundle over the validation images, after writing the list of those that are files.

    The run segments them as any user would: its output folder ``val`` has masks and a report. A bundle that tells objects apart is
    scored on objects as well.

    Args:
        plan: of the training.
        folder: where the list and the output folder lie.
        bundle: None: the best one of the training.
    """
    bundle = bundle or best_bundle(plan)
    scored = {"instances": "auto", "metrics": ["semantic", "instances"]} if read_spec(bundle).instances else {}
    mosaics = [image for image in plan.val if _is_mosaic(plan, image)]
    files = [image for image in plan.val if not _is_mosaic(plan, image)]
    text = io.StringIO()
    rows = csv.DictWriter(text, CSV_COLUMNS)
    rows.writeheader()
    rows.writerows(_csv_row(plan, image) for image in files)
    folder.storage.put(VALIDATION_IMAGES, text.getvalue().encode())
    listed = f"{folder.storage}/{VALIDATION_IMAGES}"
    mapping = {
        **plan.config.model_dump(mode="json", include={"truth", "classes", "ignore", "reader", "resolution"}),
        "images": [*([listed] if files else []), *map(_mosaic_entry, mosaics)],
        "model": {"name": "bundle", "path": str(bundle), "merge": plan.config.merge_channels},
        **scored,
        "skip": region_skip(plan),
        "output": f"{folder.storage}/{VALIDATION}",
    }
    return config_from_mapping(mapping, plan.config.output, listed)


def write_result_page(plan: TrainPlan, folder: RunFolder) -> Path:
    """Write training.html and worst.csv from the history and from the results of the validation run, and return the path of the page."""
    data = folder.storage.get(f"{VALIDATION}/report/report.json")
    assert data is not None
    report = json.loads(data)
    masks = plan.config.output / VALIDATION / "masks"
    crops = worst_crops(plan, masks)
    folder.storage.put(WORST, worst_csv(plan, crops).encode(errors="backslashreplace"))
    colored = [{**row, "color": spec["color"]} for row, spec in zip(report["classes"], plan.classes, strict=True)]
    write_page(
        folder.storage,
        title=plan.config.output.name,
        facts=_facts(plan, folder),
        report={**report, "classes": colored},
        pictures=[_picture(plan, masks, crop) for crop in crops[:CROPS]],
    )
    return plan.config.output / PAGE


def _is_mosaic(plan: TrainPlan, image: Image) -> bool:
    """Whether an image is a mosaic of ``images``, which no line of a CSV can be."""
    return bool(image.reader["name"] == "mosaic" != plan.config.reader["name"])


def _mosaic_entry(image: Image) -> dict[str, Any]:
    options = {key: image.reader[key] for key in ("overlap", "warp") if key in image.reader}
    return {"mosaic": f"{image.path.rstrip('/')}/{image.reader['tiles']}", "name": image.name, **options}


def _csv_row(plan: TrainPlan, image: Image) -> dict[str, Any]:
    """Return an image as a CSV lists it, with those options of its reader that the YAML does not have."""
    options = {option: value for option, value in image.reader.items() if value != plan.config.reader.get(option)}
    cells = {option: " ".join(map(str, value)) if option == "channels" else value for option, value in options.items()}
    truth = None if image.truth_reader["name"] == "mosaic" else image.truth  # a mosaic of masks is the truth of all images
    return {"image": image.path, "name": image.name, "truth": truth, **cells}


def _facts(plan: TrainPlan, folder: RunFolder) -> dict[str, str]:
    """Return what the page says of the training, by name."""
    training = folder.read()["training"]
    facts = {
        "network": str(plan.config.model["name"]),
        "parameters": f"{num_parameters(plan.network):,}",
        "training images": f"{len(plan.train)}, {plan.num_pixels / 1e6:.1f} Mpx",
        "validation": plan.val_words,
        "crop and batch": f"{plan.crop} px, {plan.config.batch}",
        "workers": f"{training['workers']} on {training['device']}, {training['precision']}",
    }
    checkpoint = read_checkpoint(folder.storage)
    if checkpoint is None:
        return facts
    return {**facts, "steps": f"{checkpoint.step:,}", "minutes": _minutes(checkpoint)}


def _minutes(checkpoint: Checkpoint) -> str:
    """Return how long the steps took, and all until the last of them; earlier versions have not kept that."""
    steps = f"{checkpoint.seconds / 60:.1f} of steps"
    return f"{steps}, {checkpoint.spent_s / 60:.1f} with reading and validation" if checkpoint.spent_s else steps


def _picture(plan: TrainPlan, masks: Path, crop: WorstCrop) -> Picture:
    """Read a crop, its truth and its mask."""
    box, plane, image = crop.box, crop.plane, crop.image
    with (
        open_image(image) as raster,
        open_truth(image) as truth,
        build("readers", {"name": "zarr"}).open(str(masks / f"{image.name}.ome.zarr")) as predicted,
    ):
        truth_CYX, known_YX = truth.read_valid(box, plane)
        truth_YX = plan.truth_map.apply(truth_CYX, box, known_YX)
        pixels_YXC = _displayable(*raster.read_valid(box, plane))
        return Picture(image.name, pixels_YXC, truth_YX, np.array(predicted.read(box, plane)[0]), _place(crop))


def _place(crop: WorstCrop) -> str:
    """Return where a crop lies in its image; empty: it is all of it."""
    header, box = crop.image.header, crop.box
    plane = f"plane {crop.plane}, " if header.num_planes > 1 else ""
    return "" if box.shape == header.shape and not plane else f"{plane}rows {box.y0} to {box.y1}, columns {box.x0} to {box.x1}"


def _displayable(pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Return three channels or one, uint8 (Y, X, C), black where there is no data; contrast is stretched unless they are RGB bytes."""
    some_CYX = pixels_CYX[:3] if len(pixels_CYX) >= 3 else pixels_CYX[:1]
    if valid_YX is not None:
        some_CYX = np.where(valid_YX, some_CYX, some_CYX.dtype.type(0))
    if some_CYX.dtype != np.uint8 or len(some_CYX) == 1:
        values_CYX = some_CYX.astype(np.float32)
        kept = values_CYX if valid_YX is None or not valid_YX.any() else values_CYX[:, valid_YX]
        low, high = np.percentile(kept, (DARK, LIGHT))
        some_CYX = (np.clip((values_CYX - low) / max(high - low, 1e-9), 0, 1) * 255).astype(np.uint8)
    return np.moveaxis(some_CYX, 0, -1)
