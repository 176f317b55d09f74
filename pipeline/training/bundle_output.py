"""The bundle of a training: a candidate for each validation, the best of them, and what is measured of the best in the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.models.bundle_files import read_spec, save_bundle
from pipeline.plugins import build
from pipeline.training.plan import TrainPlan
from pipeline.training.validation_scores import measure_bundle_halo, validate_bundle
from pipeline.training.worker_group import WorkerGroup

if TYPE_CHECKING:
    from torch import nn

__all__ = ["best_bundle", "candidate_bundle", "complete_bundle", "keep_candidate", "save_candidate"]


def best_bundle(plan: TrainPlan) -> Path:
    """Return the folder of the best bundle so far."""
    return plan.config.output / "bundle"


def candidate_bundle(plan: TrainPlan) -> Path:
    """Return the folder of the bundle that is being scored."""
    return plan.config.output / "candidate"


def save_candidate(plan: TrainPlan, network: nn.Module) -> None:
    """Write a network as the candidate."""
    _save(plan, candidate_bundle(plan), network, tile={}, scores={})


def keep_candidate(plan: TrainPlan) -> None:
    """Replace the best bundle by the candidate."""
    best = best_bundle(plan)
    aside = best.with_name(f".{best.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if best.exists():
        best.rename(aside)
    candidate_bundle(plan).rename(best)
    shutil.rmtree(aside, ignore_errors=True)


def complete_bundle(plan: TrainPlan, workers: WorkerGroup) -> None:
    """Measure field and halo of the best bundle, score it once more with these, write them into it, and remove the candidate.

    Args:
        plan: scanned.
        workers: this worker alone.
    """
    bundle = best_bundle(plan)
    network = plan.network.model_copy(update={"weights": bundle / read_spec(bundle).weights.file}).load()
    halo = measure_bundle_halo(plan, bundle, workers)
    field = build("models", {"name": "bundle", "path": str(bundle)}).field
    tile = {**({} if halo is None else {"halo": halo.halo}), **({} if field is None else {"field": field})}
    _save(plan, bundle, network, tile, scores={})
    report = validate_bundle(plan, bundle, workers)
    scores = {key: report[key] for key in ("mean_iou", "mean_dice", "pixel_accuracy")}
    scores |= {"iou": {row["name"]: row["iou"] for row in report["classes"]}, "images": report["images"], "pixels": report["pixels"]}
    _save(plan, bundle, network, tile, scores={"validation": scores})
    shutil.rmtree(candidate_bundle(plan), ignore_errors=True)


def _save(plan: TrainPlan, folder: Path, network: nn.Module, tile: dict[str, int], scores: dict[str, Any]) -> None:
    options = plan.network.model_dump(mode="json", exclude={"weights", "seed", "tta", "pretrained"})
    spec: dict[str, Any] = {
        "architecture": {"name": plan.config.model["name"], **options},
        "classes": [dict(spec) for spec in plan.classes],
        "outputs": None if plan.output_classes is None else list(plan.output_classes),
        "normalize": plan.normalize,
        "merge_channels": plan.config.merge_channels,
        "tile": tile,
        **plan.config.about.model_dump(),
        "scores": scores,
    }
    save_bundle(folder, network, half=plan.config.half, **spec)
