"""The bundle of a training: a candidate for each validation, its scores, and the best one with what is measured of it in the end.

Scores come from the engine of a run with nothing written: tiles, halo, stitching and counting are those of ``gigaseg run``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from pipeline.config import Compute
from pipeline.engine import Job, Phase, ReceiptFields, Resources, Stopwatch, open_resources, phase, process
from pipeline.engine.phases import finding
from pipeline.engine.phases.predict import Predict
from pipeline.engine.phases.skip import Skip
from pipeline.engine.prediction import Predicted
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue, common_pixel_size, sample_range
from pipeline.models.bundle_files import read_spec, save_bundle
from pipeline.plugins import build
from pipeline.records import Block, Receipt
from pipeline.report import report_of
from pipeline.scheduling import BlockQueue, Stage, Tally, make_job, plan_blocks, plan_row
from pipeline.training.appearance import training_appearance
from pipeline.training.data_split import make_run_config
from pipeline.training.object_sizes import median_diameter
from pipeline.training.output_files import region_skip
from pipeline.training.plan import TrainPlan
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import choose_recipe, measure_halo, measure_stride_and_field

if TYPE_CHECKING:
    from torch import nn

__all__ = ["best_bundle", "candidate_bundle", "complete_bundle", "keep_candidate", "save_candidate", "validate_bundle"]

BEST, CANDIDATE = "bundle", "candidate"  # in the output folder
HALO_IMAGES = 8  # images that a halo is measured on, at most


def best_bundle(plan: TrainPlan) -> Path:
    """Return the folder of the best bundle so far."""
    return plan.config.output / BEST


def candidate_bundle(plan: TrainPlan) -> Path:
    """Return the folder of the bundle that is being scored."""
    return plan.config.output / CANDIDATE


def save_candidate(plan: TrainPlan, network: nn.Module) -> None:
    """Write a network as the candidate."""
    _save(plan, candidate_bundle(plan), network, tile={})


def keep_candidate(plan: TrainPlan) -> None:
    """Replace the best bundle by the candidate."""
    candidate = plan.storage.below(CANDIDATE)
    with plan.storage.replace_tree(BEST) as best:
        for key in candidate.list():
            with candidate.open(key) as file:
                best.put(key, file.read())
    plan.storage.delete_tree(CANDIDATE)


def complete_bundle(plan: TrainPlan, workers: WorkerGroup) -> None:
    """Write what is measured of the best bundle and its images into it, and remove the candidate; a run then scores it."""
    bundle = best_bundle(plan)
    network = plan.network.model_copy(update={"weights": bundle / read_spec(bundle).weights.file}).load()
    catalogue = _catalogue(plan, bundle, workers)
    measure_stride_and_field(catalogue, wants_field=True, is_limited=False)
    halo = measure_halo(catalogue, catalogue.images[:: -(-len(catalogue.images) // HALO_IMAGES)])
    field = build("models", {"name": "bundle", "path": str(bundle)}).field
    tile = {**({} if halo is None else {"halo": halo.halo}), **({} if field is None else {"field": field})}
    measured: dict[str, Any] = {} if plan.config.about.diameter else {"diameter": median_diameter(plan)}
    measured |= {"appearance": training_appearance(plan)}
    _save(plan, bundle, network, tile, **measured)
    plan.storage.delete_tree(CANDIDATE)


def validate_bundle(plan: TrainPlan, bundle: Path, workers: WorkerGroup) -> dict[str, Any]:
    """Score a bundle on the validation images, which the workers share; return the content of report.json, on every worker.

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
    content = report_of(row, Tally(row, [(receipt, True) for receipt in counted]), "done")
    for failure in content["failures"]:
        raise GigasegError(f"validation image {failure['image']}, block {failure['block']}: {failure['cause']}")
    return content


def _save(plan: TrainPlan, folder: Path, network: nn.Module, tile: dict[str, int], **measured: Any) -> None:
    options = plan.network.model_dump(mode="json", exclude={"weights", "seed", "tta", "pretrained"})
    spec: dict[str, Any] = {
        "architecture": {"name": plan.config.model["name"], **options},
        "classes": [dict(spec) for spec in plan.classes],
        **_outputs(plan),
        "normalize": plan.normalize,
        "merge_channels": plan.config.merge_channels,
        "tile": tile,
        **_trained_on(plan),
        **plan.config.about.model_dump(mode="json"),
        **measured,
    }
    save_bundle(folder, network, half=plan.config.half, **spec)


def _outputs(plan: TrainPlan) -> dict[str, Any]:
    """Return the meaning of the output channels: None if each is a class; else the last one is the border of a class's objects."""
    split = plan.border_class
    if plan.output_classes is None or split is None:
        return {"outputs": None}
    maps = {"interior": [split], "border": [len(plan.classes)]}
    instances = {"name": "border", "of": [plan.classes[split]["name"]]}
    return {"outputs": list(plan.output_classes), "maps": maps, "instances": instances}


def _trained_on(plan: TrainPlan) -> dict[str, Any]:
    """Return the properties that all training images share and that a run compares its images with."""
    headers = [image.header for image in (*plan.train, *plan.val)]
    common: dict[str, Any] = {}
    if size := common_pixel_size(headers):
        common |= {"pixel_size": size[0], "unit": size[1]}
    if len(dtypes := {header.dtype for header in headers}) == 1:
        ranges = {sample_range(header) for header in headers}
        known = ranges.pop() if len(ranges) == 1 else None
        common["samples"] = {"dtype": dtypes.pop(), "range": None if known is None else list(known)}
    if len(names := {header.channel_names for header in headers}) == 1 and not plan.config.merge_channels:
        common["channel_names"] = list(names.pop())
    if plan.chosen_channels is not None and not plan.config.merge_channels:
        common["chosen_channels"] = plan.chosen_channels
    return common


def _catalogue(plan: TrainPlan, bundle: Path, workers: WorkerGroup) -> Catalogue:
    """Return the catalogue of a run of the bundle over the validation images."""
    run = make_run_config(
        plan.config,
        plan.config.images,
        model={"name": "bundle", "path": str(bundle)},
        compute=Compute(device="cpu" if workers.device == "cpu" else "cuda", threads=workers.threads),
        skip=region_skip(plan),
        writers=(),
    )
    classes = [{"id": index, **spec} for index, spec in enumerate(plan.classes)]
    return Catalogue(run, build("models", run.model, "model"), plan.val, classes=classes, truth_map=plan.truth_map)


def _run_stages(job: Job, planned: Mapping[str, list[Stage]]) -> Iterator[Receipt]:
    """Execute the phases of some images up to the prediction, which counts; later ones read or write files of the mask."""

    def needed(stages: list[Stage]) -> list[Stage]:
        last = next(at for at, stage in enumerate(stages) if isinstance(phase(stage.phase), Predict))
        return stages[: last + 1]

    queue = BlockQueue({name: needed(stages) for name, stages in planned.items()})
    queue.begin()
    without_writing: dict[type[Phase[Any, Any]], Phase[Any, Any]] = {Predict: _PredictWithoutWriting(), Skip: _SkipWithoutPicture()}

    def phase_of(name: str) -> Phase[Any, Any]:
        return without_writing.get(type(phase(name)), phase(name))

    with open_resources(job) as resources:
        while blocks := queue.lease(2**24, 64):
            feed = iter([*blocks, None])
            for receipt in process(partial(next, feed), resources, phase_of=phase_of):
                queue.settle(receipt)
                yield receipt


class _PredictWithoutWriting(Predict):
    """Predicts and counts a block; the mask is dropped."""

    @override
    def save(self, resources: Resources, block: Block, worked: Predicted, watch: Stopwatch) -> ReceiptFields:
        return {"counts": worked.counts, "truth_error": worked.truth_error}


class _SkipWithoutPicture(Skip):
    """Finds what is skipped; it is not drawn."""

    @override
    def save(self, resources: Resources, block: Block, worked: dict[str, Any], watch: Stopwatch) -> ReceiptFields:
        return {"payload": finding({"kept": worked} if worked else {})}
