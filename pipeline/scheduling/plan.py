"""From a survey and a recipe to what will be done: the job that every actor is told, and the blocks of every image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config import CALIBRATED, Recipe, settled
from pipeline.engine import Job, mask_of, seam_folders
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, Image, fingerprint
from pipeline.plugins import build
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import Stage
from pipeline.statistics import NormalizeFitter, resolve
from pipeline.tiling import Grid

__all__ = ["FORMAT", "block_keys", "complete", "count_key", "make_job", "one_stage", "plan_row", "recount"]

FORMAT = 1  # of what blocks depend on: raise it when the same recipe gives other pixels


def make_job(found: Catalogue, recipe: Recipe) -> Job:
    """Gather what every actor is told."""
    config, model = found.config, found.model
    normalize = resolve(config.normalize, model)
    fitters = {}
    if fitter := model.fitter():
        fitters["model"] = fitter
    if isinstance(normalize, str):
        fitters["normalize"] = NormalizeFitter(kind=normalize)
    return Job(
        output=config.output,
        recipe=replace(recipe, place=str(config.output / CALIBRATED)) if recipe.calibrated else recipe,
        model=model,
        stride=model.stride,
        full=model.fixed_size is not None,
        normalize=normalize if isinstance(normalize, Mapping) else None,
        fitters=fitters,
        classes=found.classes,
        truth_map=found.truth_map,
        writers=[build("writers", spec, "writers") for spec in config.writers],
    )


def count_key(found: Catalogue, image: Image) -> str:
    """What the counts of an image depend on besides its mask; empty without truth."""
    if image.truth is None or found.truth_map is None:
        return ""
    values = [(spec.values, spec.color) for spec in found.config.classes or ()]
    return fingerprint(image.truth_identity, values, found.config.ignore, len(found.classes))


def plan_row(found: Catalogue, job: Job, model: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a plan: all that a report needs besides receipts, and all that a run writes."""
    suffixes = dict.fromkeys([".ome.zarr", *(writer.suffix for writer in job.writers)])
    outputs = [f"{folder}/{image.name}{suffix}" for image in found.images for folder in ("masks", "probs") for suffix in suffixes]
    return {
        "classes": list(job.classes),
        "metrics": list(found.config.metrics),
        "model": dict(model),
        "block": job.recipe.block,
        "written": fingerprint(*_exports(job)),
        "images": [
            {
                "name": image.name,
                "shape": list(image.header.shape),
                "planes": image.header.num_planes,
                "truth": image.truth,
                "count_key": count_key(found, image),
            }
            for image in found.images
        ],
        "rejected": [asdict(one) for one in found.rejected],
        "outputs": [*outputs, *(place for image in found.images if job.joins(image) for place in seam_folders(image))],
    }


def recount(found: Catalogue, job: Job, stages: list[Stage], known: Mapping[tuple[str, str], Receipt]) -> list[Stage]:
    """Add a count stage for blocks whose masks stay and whose truth, classes or ``ignore`` have changed."""
    predict = next(stage for stage in stages if stage.phase == "predict")
    image = predict.blocks[0].image
    key = count_key(found, image)
    mask = mask_of(job, image)
    if not key or mask is None:
        return stages
    stale = [block for block in predict.blocks if (row := known.get(("predict", block.id))) and row.ok and row.count_key != key]
    again = [replace(block, phase="count", image=mask, key=fingerprint(block.key, key)) for block in stale]
    return [*stages, Stage("count", again)] if again else stages


def complete(found: Catalogue, job: Job) -> dict[str, list[Stage]]:
    """Cut every image: its stages, in the plan's order."""
    recipe = job.recipe.to_dict()
    base = fingerprint(settled(found.identity, recipe), recipe, FORMAT)
    return {image.name: stages_of(image, job, base) for image in found.images}


def stages_of(image: Image, job: Job, base: str) -> list[Stage]:
    """The phases of one image and their blocks, keyed by all that they depend on but the fit."""
    key = fingerprint(base, image.identity, *(["probs"] if job.probs else []))  # these cannot be made of masks
    phases = [*(["fit"] if job.fitters else []), *(["score"] if job.joins(image) else []), "predict"]
    stages = [Stage(phase, Blocks(phase, image, job.grid(image), key)) for phase in phases]
    if len(stages[0].blocks) > 1:
        stages.append(Stage("finish", [finish_block(image, key, job)]))
    return stages


@dataclass(frozen=True)
class Blocks(Sequence[Block]):
    """The blocks of one phase of one image, made as they are asked for: an image of a million costs no memory."""

    phase: str
    image: Image
    grid: Grid
    key: str

    def __len__(self) -> int:
        """Planes, rows and columns."""
        rows, cols = self.grid.num_blocks
        return self.image.header.num_planes * rows * cols

    def __getitem__(self, index: int) -> Block:  # type: ignore[override]  # nobody asks for a slice
        """The block at a place of the plan's order: plane by plane, row by row."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows, cols = self.grid.num_blocks
        plane, row, col = index // (rows * cols), index // cols % rows, index % cols
        return Block(self.phase, self.image, plane, row, col, self.grid.block_box(row, col), self.key)


def finish_block(image: Image, key: str, job: Job) -> Block:
    """The one block of the finish phase."""
    return Block("finish", image, 0, 0, 0, Box(0, 0, *image.header.shape), fingerprint(key, *_exports(job)))


def _exports(job: Job) -> tuple[Any, Any]:
    """What the exports of a mask depend on besides its pixels."""
    return job.classes, [{"name": type(writer).__name__, **writer.model_dump(mode="json")} for writer in job.writers]


def block_keys(block: Block, fit: Mapping[str, Any], before: str) -> Block:
    """Give a block its fit, and make what it depends on part of its key."""
    depends = before if block.phase in ("finish", "count") else [fit, before] if block.phase in ("score", "predict") else None
    return replace(block, fit=fit, key=fingerprint(block.key, block.phase, depends))


def one_stage(found: Catalogue, job: Job, phase: str) -> dict[str, list[Stage]]:
    """Stages of a run that predicts nothing: one phase over every block, and the pyramid where pixels are written."""
    planned = {}
    for image in found.images:
        key = fingerprint(FORMAT, job.recipe.block, image.identity, count_key(found, image))
        blocks = Blocks(phase, image, job.grid(image), fingerprint(key, image.identity))
        finish = [Stage("finish", [finish_block(image, key, job)])] if phase == "copy" and len(blocks) > 1 else []
        planned[image.name] = [Stage(phase, blocks), *finish]
    return planned
