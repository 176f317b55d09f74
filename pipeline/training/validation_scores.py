"""Scores of a bundle on the validation images, by the engine of a run, with nothing written.

Tiles, halo, stitching and counting are those of ``gigaseg run``, so the scores are those of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from pipeline.config import Compute
from pipeline.engine import Job, Phase, ReceiptFields, Resources, Stopwatch, open_resources, phase, process
from pipeline.engine.phases.predict import Predict
from pipeline.engine.prediction import Predicted
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue
from pipeline.plugins import build
from pipeline.records import Block, Receipt, Tally
from pipeline.report import report_of
from pipeline.scheduling import BlockQueue, Stage, make_job, plan_blocks, plan_row
from pipeline.training.data_split import make_run_config
from pipeline.training.plan import TrainPlan
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import HaloDifference, choose_recipe, measure_halo

__all__ = ["measure_bundle_halo", "validate_bundle"]

HALO_IMAGES = 8  # images that a halo is measured on, at most


class _PredictWithoutWriting(Predict):
    """Predicts and counts a block; the mask is dropped."""

    @override
    def save(self, resources: Resources, block: Block, worked: Predicted, watch: Stopwatch) -> ReceiptFields:
        return {"counts": worked.counts, "truth_error": worked.truth_error}


def validate_bundle(plan: TrainPlan, bundle: Path, workers: WorkerGroup) -> dict[str, Any]:
    """Score a bundle on the validation images, which the workers share.

    Returns:
        The content of report.json, on every worker.

    Raises:
        GigasegError: an image cannot be read or predicted.
    """
    catalogue = _catalogue(plan, bundle, workers)
    job = make_job(catalogue, choose_recipe(catalogue, has_gpu=lambda: workers.device != "cpu").recipe)
    row = plan_row(catalogue, job, {"name": "bundle", "sha256": None})
    share = dict(list(plan_blocks(catalogue, job).items())[workers.rank :: workers.size])
    receipts = [receipt for part in workers.gather(list(_run_stages(job, share))) for receipt in part]
    count_keys = {image["name"]: image["count_key"] for image in row["images"]}
    counted = [replace(receipt, count_key=count_keys[receipt.image]) for receipt in receipts]
    content = report_of(row, Tally({(receipt.phase, receipt.block): receipt for receipt in counted}), "done")
    for failure in content["failures"]:
        raise GigasegError(f"validation image {failure['image']}, block {failure['block']}: {failure['cause']}")
    return content


def measure_bundle_halo(plan: TrainPlan, bundle: Path, workers: WorkerGroup) -> HaloDifference | None:
    """Find the smallest halo that changes no sure pixel of several validation images.

    Returns:
        The halo; None where that is the field of the network itself.
    """
    catalogue = _catalogue(plan, bundle, workers)
    return measure_halo(catalogue, catalogue.images[:: -(-len(catalogue.images) // HALO_IMAGES)])


def _catalogue(plan: TrainPlan, bundle: Path, workers: WorkerGroup) -> Catalogue:
    """Return the catalogue of a run of the bundle over the validation images."""
    run = make_run_config(
        plan.config,
        plan.config.images,
        model={"name": "bundle", "path": str(bundle)},
        compute=Compute(device="cpu" if workers.device == "cpu" else "cuda", threads=workers.threads),
        writers=(),
    )
    classes = [{"id": index, **spec} for index, spec in enumerate(plan.classes)]
    return Catalogue(run, build("models", run.model, "model"), plan.val, classes=classes, truth_map=plan.truth_map)


def _run_stages(job: Job, planned: Mapping[str, list[Stage]]) -> Iterator[Receipt]:
    """Execute all phases of some images that go block by block; phases of whole images only write files."""
    queue = BlockQueue({name: [stage for stage in stages if not phase(stage.phase).is_per_image] for name, stages in planned.items()})
    queue.begin({})
    without_writing = _PredictWithoutWriting()

    def phase_of(name: str) -> Phase[Any, Any]:
        return without_writing if isinstance(phase(name), Predict) else phase(name)

    with open_resources(job) as resources:
        while blocks := queue.lease(2**24, 64):
            feed = iter([*blocks, None])
            for receipt in process(partial(next, feed), resources, phase_of=phase_of):
                queue.settle(receipt)
                yield receipt
