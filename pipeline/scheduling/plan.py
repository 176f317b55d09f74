"""From a catalogue and a recipe to what will be done: the job of every actor, the blocks of every image, all that an execution needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.config import CALIBRATED_FOLDER, Compute, Recipe, replace_auto
from pipeline.engine import Job, PartFiles, Phase, all_phases, areas_key, part_folder, phase, rests_on, thumbnail_key
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, Image, hash_values
from pipeline.plugins import build
from pipeline.raster import ground_area, has_equal_rows
from pipeline.records import Block, Blocks, Receipt, RunFolder
from pipeline.scheduling.monitoring import MetricsAddress
from pipeline.scheduling.stage_state import Stage
from pipeline.statistics import Fitters, StainFitter, normalization_fitter, resolve_normalization

__all__ = ["FORMAT", "RunSpec", "count_key", "make_job", "plan_blocks", "plan_row", "recount"]

FORMAT = 2  # version of the pixels: raise it when the same recipe gives other pixels


def make_job(catalogue: Catalogue, recipe: Recipe) -> Job:
    """Gather what every actor is told."""
    config, model = catalogue.config, catalogue.model
    normalize = resolve_normalization(config.normalize, model)
    fitters = {}
    if fitter := model.fitter():
        fitters["model"] = fitter
    if config.stain:
        fitters["stain"] = StainFitter(config.stain, normalize if isinstance(normalize, str) and normalize != "contrast" else None)
    elif per_image := normalization_fitter(normalize):
        fitters["normalize"] = per_image
    return Job(
        output=config.output,
        recipe=replace(recipe, calibration_folder=f"{config.output}/{CALIBRATED_FOLDER}") if recipe.calibrated else recipe,
        model=model,
        stride=model.stride,
        full=model.fixed_size is not None,
        normalize=normalize if isinstance(normalize, Mapping) else None,
        fitters=Fitters(fitters),
        classes=catalogue.classes,
        truth_map=catalogue.truth_map,
        writers=[build("writers", spec, "writers") for spec in config.writers],
        skip=build("skips", config.skip, "skip") if config.skip else None,
        instances=catalogue.instances,
        object_classes=catalogue.object_classes,
        scores_objects=catalogue.scores_objects,
        native=config.masks == "native",
    )


def count_key(catalogue: Catalogue, image: Image) -> str:
    """Return what the counts of an image depend on besides its mask; empty without truth."""
    if image.truth is None or catalogue.truth_map is None:
        return ""
    return catalogue.truth_map.key_of(image.truth_identity)


def plan_row(catalogue: Catalogue, job: Job, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the ledger keeps of a plan: all that a report needs besides receipts, and all that a run writes."""
    outputs = [key for image in catalogue.images for key in _written(job, image)]
    if job.instances is not None:
        outputs += [key for image in catalogue.images for key in (job.ids_key(image), job.table_key(image))]
    outputs += [job.store_key(image, ".ome.zarr") for image in catalogue.images if job.has_working_store(image)]
    outputs += [thumbnail_key(image.name) for image in catalogue.images]
    return {
        "classes": list(job.classes),
        "metrics": list(catalogue.config.metrics),
        "model": dict(model),
        "block": job.recipe.block,
        **({"skipped_as": job.skip.skipped_as} if job.skip is not None else {}),
        "written": hash_values(*job.exports),
        "images": [
            {
                "name": image.name,
                "shape": list(image.header.shape),
                "planes": image.header.num_planes,
                "truth": image.truth,
                "count_key": count_key(catalogue, image),
                **({"pixel_area": list(area)} if (area := ground_area(image.header)) else {}),
                **({} if has_equal_rows(image.header) else {"by_row": True}),
                **({"areas": key} if (key := areas_key(job, image)) else {}),
                **({"own_factor": list(image.grid.own_factor)} if image.grid else {}),
            }
            for image in catalogue.images
        ],
        "rejected": [asdict(one) for one in catalogue.rejected],
        "left_out": [asdict(one) for one in catalogue.left_out],
        "outputs": [*outputs, *(part_folder(image) for image in catalogue.images if _has_parts(job, image))],
    }


def _written(job: Job, image: Image) -> Iterable[str]:
    """Return the keys of an image's mask, probabilities and exports."""
    arrays = [f"{folder}/{image.name}.ome.zarr" for folder in ("masks", "probs")]
    return dict.fromkeys([*arrays, *(key for writer in job.writers for key in job.files_of(writer, image))])


def plan_blocks(catalogue: Catalogue, job: Job) -> dict[str, list[Stage]]:
    """Cut every image into the blocks of every phase that it goes through; by name, in the plan's order."""
    if job.goal != "segment":
        planned = {}
        for image in catalogue.images:
            image_key = hash_values(FORMAT, job.recipe.block, image.identity, count_key(catalogue, image))
            planned[image.name] = _stages(image, job, hash_values(image_key, image.identity), image_key)
        return planned
    recipe = job.recipe.to_dict()
    base = hash_values(replace_auto(catalogue.identity, recipe), recipe, FORMAT)
    parts = ["probs"] if job.probs else []  # probabilities cannot be made from masks
    if job.instances is not None:
        parts += ["objects", *job.model_maps, *(["probs of objects"] if job.instances.uses_probs else [])]
    keys = {image.name: hash_values(base, image.identity, *parts) for image in catalogue.images}
    return {image.name: _stages(image, job, keys[image.name], keys[image.name]) for image in catalogue.images}


def _has_parts(job: Job, image: Image) -> bool:
    """Whether phases of an image leave temporary files."""
    return any(one.applies(job, image) and one.reads_parts_of(job, image) for one in all_phases())


def recount(
    catalogue: Catalogue, job: Job, planned: Mapping[str, list[Stage]], committed: Callable[[], Iterable[Receipt]]
) -> dict[str, list[Stage]]:
    """Return the stages of each image, with one more for blocks whose masks stay and whose truth, classes or ``ignore`` have changed.

    ``committed`` returns the receipts that hold; it is called where an image has truth.
    """
    keys = {image.name: key for image in catalogue.images if (key := count_key(catalogue, image))}
    results = ((name, one.blocks) for name in keys for one in planned[name] if phase(one.phase).is_result)
    masks = {name: blocks for name, blocks in results if isinstance(blocks, Blocks)}
    stale = {name: np.zeros(len(blocks), np.bool_) for name, blocks in masks.items()}
    for receipt in committed() if keys else ():
        blocks = masks.get(receipt.image)
        if blocks is not None and receipt.phase == blocks.phase and (index := blocks.index_of(receipt.block)) is not None:
            stale[receipt.image][index] = receipt.ok and receipt.count_key != keys[receipt.image]
    stages = {name: list(some) for name, some in planned.items()}
    for name in (name for name, flags in stale.items() if flags.any()):
        present = [stage.phase for stage in planned[name]]
        changed = replace(masks[name], chosen=np.flatnonzero(stale[name]).astype(np.int32))
        again = {one: one.recounts(job, changed, keys[name]) for one in all_phases()}
        stages[name] += [_stage(one, job, blocks, [*present, one.name]) for one, blocks in again.items() if blocks]
    return stages


def _stages(image: Image, job: Job, block_key: str, image_key: str) -> list[Stage]:
    """Return the phases of one image with their blocks.

    Every block depends on ``block_key``, except in phases with key parts of their own: these and ``image_key`` count there.
    """
    phases = [one for one in all_phases() if one.applies(job, image)]
    present = [one.name for one in phases]
    stages = []
    for one in phases:
        parts = one.key_parts(job, image)
        key = hash_values(image_key, *parts) if parts else block_key
        whole = Block(one.name, image, 0, 0, 0, Box(0, 0, *image.header.shape), key)
        blocks: Sequence[Block] = [whole] if one.is_per_image else Blocks(one.name, image, job.grid(image), key)
        stages.append(_stage(one, job, blocks, present))
    return stages


def _stage(one: Phase[Any, Any], job: Job, blocks: Sequence[Block], present: Sequence[str]) -> Stage:
    depends = rests_on(one.name, present) if one.after else None
    return Stage(one.name, blocks, depends, one.reads, one.reduction(job))


@dataclass(frozen=True)
class RunSpec:
    """What is to be executed, and where.

    Attributes:
        stages: phases and blocks of each image, by name, in the plan's order.
        plan: the plan row of the ledger: all that a report needs besides receipts.
        runner: ``serial`` or ``ray``.
        run: fields of run.json that are known before the run begins.
        config: the resolved YAML, for the folder's config.yaml; empty: none is written.
        forgets: which receipts of quarantined blocks are forgotten, so that the blocks are tried again.
        max_failed: give up above so many quarantined blocks; None: never.
        queues: wait for room on a cluster that is busy; False: refuse.
        metrics_address: where to serve metrics for Prometheus over HTTP; None: nowhere.
    """

    folder: RunFolder
    job: Job
    stages: Mapping[str, Sequence[Stage]]
    plan: Mapping[str, Any]
    runner: str
    compute: Compute
    run: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    forgets: Callable[[Receipt], bool] = lambda _: False
    max_failed: int | None = None
    queues: bool = True
    metrics_address: MetricsAddress | None = None

    @property
    def blocks(self) -> Iterator[Block]:
        """Every block of every phase, in the plan's order."""
        return (block for stages in self.stages.values() for stage in stages for block in stage.blocks)

    @property
    def temporary_files(self) -> dict[str, PartFiles]:
        """Files that blocks leave for later phases, by image; images without such files are not in it."""
        images = {name: stages[0].blocks[0].image for name, stages in self.stages.items()}
        return {name: PartFiles(self.job, image) for name, image in images.items() if _has_parts(self.job, image)}

    @property
    def count_keys(self) -> dict[str, str]:
        """What the counts of each image depend on besides its mask, by image."""
        return {image["name"]: image["count_key"] for image in self.plan["images"]}
