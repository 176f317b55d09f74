"""How good a bundle is: the validation images through the engine of a run, with nothing written.

Tiles, halo, stitching and counting are those of ``gigaseg run``, so its score is the run's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Compute
from pipeline.engine import Job, Predict, Watch, open_resources, phases_of, process
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue
from pipeline.plugins import build
from pipeline.records import Block, Receipt, Tally
from pipeline.report import report_of
from pipeline.scheduling import BlockQueue, Stage, complete, make_job, plan_row
from pipeline.training.plan import TrainPlan, run_config
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import HaloError, choose, measure

__all__ = ["measured_halo", "validate"]

MEASURED = 8  # images at most that a halo is measured on


@dataclass(frozen=True)
class _Score(Predict):
    """Predict and count; the mask is let go."""

    def save(self, block: Block, worked: Any, watch: Watch) -> dict[str, Any]:
        """Write nothing."""
        return {"counts": worked.counts, "truth_error": worked.truth_error}


def validate(plan: TrainPlan, bundle: Path, team: WorkerGroup) -> dict[str, Any]:
    """Score a bundle on the validation images, shared by the workers.

    Returns:
        The content of report.json, on every worker.

    Raises:
        GigasegError: an image cannot be read or predicted.
    """
    found = _survey(plan, bundle, team)
    recipe = choose(found, has_gpu=lambda: team.device != "cpu").recipe
    job = make_job(found, recipe)
    stages = {name: [stage for stage in some if stage.phase != "finish"] for name, some in complete(found, job).items()}
    mine = {name: some for at, (name, some) in enumerate(stages.items()) if at % team.size == team.rank}
    receipts = [receipt for some in team.gather(list(_work(job, mine))) for receipt in some]
    done = Tally({(receipt.phase, receipt.block): receipt for receipt in receipts})
    keys = {image["name"]: image["count_key"] for image in plan_row(found, job, {})["images"]}
    done.receipts = {at: replace(one, count_key=keys[one.image]) for at, one in done.receipts.items()}
    content = report_of(plan_row(found, job, {"name": "bundle", "sha256": None}), done, "done")
    for failure in content["failures"]:
        raise GigasegError(f"validation image {failure['image']}, block {failure['block']}: {failure['cause']}")
    return content


def measured_halo(plan: TrainPlan, bundle: Path, team: WorkerGroup) -> HaloError | None:
    """The smallest halo that changes no sure pixel of several validation images; None: the field itself."""
    found = _survey(plan, bundle, team)
    return measure(found, found.images[:: -(-len(found.images) // MEASURED)])


def _survey(plan: TrainPlan, bundle: Path, team: WorkerGroup) -> Catalogue:
    run = run_config(
        plan.config,
        plan.config.images,
        model={"name": "bundle", "path": str(bundle)},
        compute=Compute(device="cpu" if team.device == "cpu" else "cuda", threads=team.threads),
        writers=(),
    )
    classes = [{"id": at, **one} for at, one in enumerate(plan.classes)]
    return Catalogue(run, build("models", run.model, "model"), plan.val, classes=classes, truth_map=plan.truth_map)


def _work(job: Job, stages: Mapping[str, list[Stage]]) -> Iterator[Receipt]:
    """Carry out a schedule, one block after the other; fit first."""
    schedule = BlockQueue(stages, job.merge, job.conclude)
    schedule.begin({})
    with open_resources(job) as bench:
        phases = {**phases_of(bench), "predict": _Score(bench)}
        while blocks := schedule.lease(2**24, 64):
            feed = iter([*blocks, None])
            for receipt in process(lambda feed=feed: next(feed), phases):  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                schedule.settle(receipt)
                yield receipt
