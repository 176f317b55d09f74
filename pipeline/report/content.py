"""The content of report.json, from the ledger alone: no mask is read, so a report can be made again at any time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.engine import all_phases, phase
from pipeline.metrics import Metric
from pipeline.plugins import build
from pipeline.records import Receipt
from pipeline.report.areas import areas_of_image, pooled_areas, pooled_zones, zones_of_image
from pipeline.report.change import change_areas, change_rows
from pipeline.report.failure_groups import group_failures
from pipeline.report.intervals import intervals_of
from pipeline.scheduling import RESULTS, Tally, without_truth
from pipeline.statistics import AreaSums, Counts, ObjectCounts, is_area, is_change
from pipeline.tiling import Grid

__all__ = ["Failure", "ImageCounts", "build_report", "failures_of", "in_order", "phase_rows", "report_of"]

PHASES = tuple(one.name for one in all_phases())
"""Names of phases, each behind those that it comes after. A ledger may hold receipts of other ones."""


@dataclass(frozen=True)
class Failure:
    """One thing that was not done, and why."""

    image: str
    block: str | None  # id; None: the whole image
    phase: str  # `plan` where the image could not be opened
    cause: str  # one line
    attempts: int = 1


@dataclass(frozen=True)
class ImageCounts:
    """One image of the run.

    Attributes:
        counts: summed over its blocks in plan order; None: nothing could be counted.
        objects: counts of each class that has objects, by class id; None: they are not told apart, or could not be counted.
        seen_area: predicted area without what was skipped, squared in the unit that follows, ``micrometer`` or ``meter``; None: unknown.
        truth_error: why its truth could not be counted, with value and first position; empty when it could.
        numbers: sums over its blocks, by phase and name.
        pixel_area: of the working grid, its mean, squared in the unit that follows; None: unknown.
        by_row: whether the rows of the image are not equally large, so that areas are counted row by row.
        areas: counted by row, and by zone; None: they are not counted.
        change: pixels and areas counted by true and predicted class; empty: they are not counted.
        warnings: why its result is to be treated with care.
        worst_block: ``{"block", "box", "wrong"}`` of the block with the most wrong pixels: its id without the name, rows and columns
            (y0, x0, y1, x1), and the share of its pixels with truth that are wrong; None: no block has truth.
        no_data: pixels of blocks that are done without a prediction, as the image holds no data there; none of them was skipped.
        not_done: pixels of blocks that have neither a prediction nor a failure yet.
    """

    name: str
    counts: Counts | None = None
    objects: Mapping[int, ObjectCounts] | None = None
    seen_area: tuple[float, str] | None = None
    has_truth: bool = False
    truth_error: str = ""
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pixel_area: tuple[float, str] | None = None
    worst_block: Mapping[str, Any] | None = None
    no_data: int = 0
    not_done: int = 0
    by_row: bool = False
    areas: AreaSums | None = None
    change: dict[str, int] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def report_of(plan: Mapping[str, Any], done: Tally, state: str) -> dict[str, Any]:
    """Return the content of report.json, from the last ``plan`` row of the ledger and what its receipts amount to."""
    of_image = _by_image(done.troubled.values())
    images = [_image_counts(image, done, of_image.get(image["name"], []), plan) for image in plan["images"]]
    images += [ImageCounts(one["name"]) for one in plan["rejected"]]
    seconds = {stage: round(value, 3) for stage, value in sorted(done.seconds.items())}
    return build_report(
        state,
        plan["classes"],
        [build("metrics", spec) for spec in plan["metrics"]],
        images,
        failures=_listed(plan, of_image),
        left_out=plan.get("left_out", ()),
        model=plan["model"],
        has_change=plan.get("change", False),
        timing={"stage_seconds": seconds, "phases": phase_rows(done), "peak_actor_bytes": done.peak_bytes, "actors": _actor_rows(done)},
    )


def failures_of(plan: Mapping[str, Any], troubled: Iterable[Receipt]) -> list[dict[str, Any]]:
    """Return the failures that :func:`report_of` lists, from the receipts that failed or whose truth could not be counted."""
    of_image = _by_image(troubled)
    errors = {one["name"]: _truth_error(of_image.get(one["name"], ()), one["count_key"]) for one in plan["images"]}
    broken = [Failure(name, None, "count", error) for name, error in errors.items() if error]
    return [asdict(failure) for failure in (*_listed(plan, of_image), *broken)]


def _by_image(receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    """Return the receipts of each image, in an order that does not depend on that of the work."""
    of_image: dict[str, list[Receipt]] = {}
    for receipt in receipts:
        of_image.setdefault(receipt.image, []).append(receipt)
    return {name: sorted(some, key=lambda receipt: (receipt.phase, _position(receipt))) for name, some in of_image.items()}


def _listed(plan: Mapping[str, Any], of_image: Mapping[str, Sequence[Receipt]]) -> list[Failure]:
    """Return images that could not be opened, and blocks that failed, in the order of the plan."""
    failed = (receipt for image in plan["images"] for receipt in _failures(of_image.get(image["name"], ())))
    rejected = [Failure(one["name"], None, "plan", one["cause"]) for one in plan["rejected"]]
    return [*rejected, *(Failure(r.image, r.block, r.phase, r.cause, r.attempts) for r in failed)]


def build_report(
    state: str,
    classes: Sequence[Mapping[str, Any]],
    metrics: Sequence[Metric],
    images: Sequence[ImageCounts],
    *,
    failures: Sequence[Failure] = (),
    left_out: Sequence[Mapping[str, str]] = (),
    model: Mapping[str, Any] | None = None,
    has_change: bool = False,
    timing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of report.json: a pure function of the counts of each image.

    Pooled metrics are those of the summed counts, not means over images. An image whose truth could not be counted keeps its
    areas, has no metrics, is left out of the pooled metrics and is listed among the failures. ``failure_groups`` are the failures
    by cause. Where only some images have
    truth, the others are named in ``without_truth``.

    Args:
        state: of the run.
        classes: ``{"name", ...}`` of each class; the id is the position.
        metrics: their fields are reported side by side.
        images: in the order of the plan, in which floats are added.
        failures: what could not be done; truth that could not be counted is added to them.
        left_out: ``{"path", "reason"}`` of each file of folders and globs that is no image, and of each folder of earlier outputs.
        model: ``{"name", "sha256"}``; None where masks that existed were scored.
        has_change: whether the report says what became of each class of the truth.
        timing: any numbers by name; the one part that differs from run to run.

    Returns:
        Plain JSON: what is undefined or not finite is None.
    """
    empty = Counts(np.zeros(len(classes), np.int64))
    counted = [without_truth(image.counts or empty) if image.truth_error else image.counts or empty for image in images]
    pooled = sum(counted, start=empty)
    per_image = [_image_row(image, counts, classes, metrics) for image, counts in zip(images, counted, strict=True)]
    broken = [Failure(image.name, None, "count", image.truth_error) for image in images if image.truth_error]
    failed = [asdict(failure) for failure in (*failures, *broken)]
    zones = pooled_zones(row.get("zones") for row in per_image)
    some_truth = any(image.has_truth for image in images)
    report: dict[str, Any] = _plain(
        {
            "format": "gigaseg.report/1",
            "state": state,
            "images": len(images),
            **_with_intervals(_fields(pooled, classes, metrics, images), counted),
            "areas": pooled_areas(row["areas"] for row in per_image if row["pixels"]),
            **({} if zones is None else {"zones": zones}),
            **({"change": _change(images, counted, classes)} if has_change else {}),
            "confusion": None if pooled.confusion is None else pooled.confusion.tolist(),
            "per_image": per_image,
            "without_truth": [image.name for image in images if some_truth and not image.has_truth],
            "left_out": left_out,
            "failures": failed,
            "failure_groups": group_failures(failed),
            "model": {"name": None, "sha256": None} if model is None else model,
            "timing": timing or {},
        }
    )
    return report


def _change(images: Sequence[ImageCounts], counted: Sequence[Counts], classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    pairs = zip(images, counted, strict=True)
    areas = [change_areas(counts, image.pixel_area, image.change, by_row=image.by_row) for image, counts in pairs]
    return change_rows(areas, [str(one["name"]) for one in classes])


def _image_row(image: ImageCounts, counts: Counts, classes: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return what the report holds of one image."""
    fields = _fields(counts, classes, metrics, [image])
    fields.pop("reliability", None)  # of all images together: one has few pixels of each confidence
    names = [str(one["name"]) for one in classes]
    known: dict[str, Any] = {"pixel_area": image.pixel_area, "worst_block": None if image.truth_error else image.worst_block}
    known["areas"] = areas_of_image(counts, names, image.pixel_area, image.areas, by_row=image.by_row)
    if (zones := zones_of_image(image.areas, names, image.pixel_area)) is not None:
        known["zones"] = zones
    told: dict[str, Any] = {"numbers": image.numbers} if image.numbers else {}
    told |= {"warnings": list(image.warnings)} if image.warnings else {}
    return {"name": image.name, **fields, **known, **told}


def _with_intervals(fields: dict[str, Any], counted: Sequence[Counts]) -> dict[str, Any]:
    """Return the pooled fields with the bootstrap intervals of their IoU over the images that have truth."""
    matrices = [counts.confusion for counts in counted if counts.confusion is not None]
    if "mean_iou" not in fields:  # the user chose other metrics
        return fields
    num_classes = len(fields["classes"])
    matrices_NKK = np.array(matrices, np.int64).reshape(-1, num_classes, num_classes)
    hits_NK = matrices_NKK.diagonal(axis1=1, axis2=2)
    claims_NK, truths_NK = matrices_NKK.sum(axis=1), matrices_NKK.sum(axis=2)
    found = intervals_of(np.stack([hits_NK, claims_NK - hits_NK, truths_NK - hits_NK], axis=-1))
    classes = [{**one, "iou_interval": interval} for one, interval in zip(fields["classes"], found.classes, strict=True)]
    return {**fields, "classes": classes, "mean_iou_interval": found.mean, "intervals": found.describe()}


def _fields(counts: Counts, specs: Sequence[Mapping[str, Any]], metrics: Sequence[Metric], images: Sequence[ImageCounts]) -> dict[str, Any]:
    """Return the fields that the report and each image in it share; ``counts`` are those of all ``images``."""
    classes: list[dict[str, Any]] = [{"id": index, "name": spec["name"]} for index, spec in enumerate(specs)]
    scalars: dict[str, Any] = {}
    objects = _sum_objects(images)
    for metric in metrics:
        fields = dict(metric.compute(counts, objects))
        if "instances" in fields:
            densities = _densities(images)
            named = [{**one, "class": specs[one["class"]]["name"], **densities.get(one["class"], {})} for one in fields["instances"]]
            fields["instances"] = named
        for index, class_fields in enumerate(fields.pop("classes", [])):
            classes[index] |= class_fields
        scalars |= fields
    areas = {name: getattr(counts, name) for name in ("pixels", "no_prediction", "skipped", "quarantined")}
    areas |= {name: sum(getattr(image, name) for image in images) for name in ("no_data", "not_done")}
    return {**areas, "classes": classes, **scalars}


def _sum_objects(images: Sequence[ImageCounts]) -> dict[int, ObjectCounts] | None:
    """Add up the objects of images by class, without the truth of images whose truth cannot be counted. None: there are no counts."""
    total: dict[int, ObjectCounts] = {}
    for image in images:
        for class_id, counts in (image.objects or {}).items():
            counted = replace(counts, matches=None) if image.truth_error else counts
            total[class_id] = total[class_id] + counted if class_id in total else counted
    return total or None


def _densities(images: Sequence[ImageCounts]) -> dict[int, dict[str, float]]:
    """Return objects per square millimetre or hectare of the seen area, by class; empty if areas are unknown or their units differ."""
    known = [image for image in images if image.objects is not None]
    areas = [image.seen_area or (0.0, "") for image in known]
    units = {unit for _, unit in areas}
    if len(units) != 1 or "" in units:
        return {}
    name, size = {"micrometer": ("per_mm2", 1e6), "meter": ("per_hectare", 1e4)}[units.pop()]
    area = sum(one for one, _ in areas) / size
    return {class_id: {name: counts.predicted / area} for class_id, counts in (_sum_objects(known) or {}).items() if area}


def _plain(value: Any) -> Any:
    """Return a value in Python's own types, with None for numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def phase_rows(done: Tally) -> dict[str, dict[str, float]]:
    """Return how many blocks of each phase are done or failed, and their seconds, by phase."""
    blocks, failed = done.blocks, done.failed
    return {
        name: {"blocks": blocks[name] - failed[name], "failed": failed[name], "seconds": round(done.phase_seconds.get(name, 0.0), 3)}
        for name in in_order(blocks)
    }


def _actor_rows(done: Tally) -> list[dict[str, Any]]:
    """Return blocks and seconds by stage of each actor, the busiest first."""
    rows = [
        {"actor": name, "blocks": work.blocks, "seconds": {stage: round(value, 3) for stage, value in sorted(work.seconds.items())}}
        for name, work in done.actors.items()
    ]
    return sorted(rows, key=lambda row: (-sum(row["seconds"].values()), row["actor"]))


def in_order(phases: Iterable[str]) -> list[str]:
    """Return names of phases, each behind those that it comes after; unknown ones last."""
    return sorted(phases, key=lambda name: (PHASES.index(name) if name in PHASES else len(PHASES), name))


def _position(receipt: Receipt) -> tuple[int, ...]:
    """Return plane, row and column of a block, from its id."""
    return tuple(int(part) for part in receipt.block.rpartition(":")[2].split("."))


def _image_counts(image: Mapping[str, Any], done: Tally, troubled: Sequence[Receipt], plan: Mapping[str, Any]) -> ImageCounts:
    """Sum the blocks of one image; what has no receipt has no prediction."""
    name, empty = image["name"], Counts(np.zeros(len(plan["classes"]), np.int64))
    grid = Grid(tuple(image["shape"]), plan["block"], 0, plan["block"])
    counts = done.counts(name)
    as_background = plan.get("skipped_as") == "background"
    no_data = counts.no_prediction - (0 if as_background else counts.skipped)
    for receipt in troubled:
        if not receipt.ok and done.is_counted(receipt):
            area = grid.block_box(*_position(receipt)[1:]).area
            counts += replace(empty, no_prediction=area, quarantined=area)
    undone = image["planes"] * image["shape"][0] * image["shape"][1] - counts.pixels
    counts += replace(empty, no_prediction=undone)
    every = done.numbers.get(name, {})
    areas, numbers = _take_areas(image, every, len(plan["classes"]) + 1)
    seen = int(counts.predicted.sum()) - (counts.skipped if as_background else 0)
    pixel, unit = image.get("pixel_area") or (None, "")
    seen_area = None if pixel is None else (seen * pixel, unit)
    error = _truth_error(troubled, image["count_key"])
    return ImageCounts(
        name,
        counts,
        done.objects(name),
        seen_area,
        bool(image["truth"]),
        error,
        numbers,
        None if pixel is None else (pixel, unit),
        _worst_block(done.worst_block(name), grid),
        no_data,
        undone,
        image.get("by_row", False),
        areas,
        {key: number for sums in every.values() for key, number in sums.items() if is_change(key)},
        [warning for receipt in troubled for warning in receipt.warnings],
    )


def _take_areas(
    image: Mapping[str, Any], numbers: Mapping[str, Mapping[str, int]], num_codes: int
) -> tuple[AreaSums | None, dict[str, dict[str, int]]]:
    """Return the areas among the numbers of an image, and the other numbers by phase; areas of zones as they were are left out."""
    key = image.get("areas")
    every = [(name, value) for sums in numbers.values() for name, value in sums.items()]
    rest = {
        phase: dict(sorted((name, value) for name, value in sums.items() if not (is_area(name) or is_change(name))))
        for phase, sums in sorted(numbers.items())
    }
    areas = AreaSums.from_numbers(every, key, num_codes, has_areas=image.get("by_row", False)) if key else None
    return areas, {phase: sums for phase, sums in rest.items() if sums}


def _worst_block(worst: tuple[int, int, int] | None, grid: Grid) -> dict[str, Any] | None:
    """Return where the block with the most wrong pixels is; None: no block has truth, or no pixel is wrong."""
    if worst is None or worst[1] == 0:
        return None
    place, wrong, pixels = worst
    rows, cols = grid.num_blocks
    plane, index = divmod(place, rows * cols)
    row, col = divmod(index, cols)
    return {"block": f"{plane}.{row}.{col}", "box": astuple(grid.block_box(row, col)), "wrong": wrong / pixels}


def _truth_error(receipts: Iterable[Receipt], count_key: str) -> str:
    """Return the first error in the truth of an image, in the order of its pixels; empty if there is none in the truth as it is now."""
    of_block: dict[str, dict[str, Receipt]] = {}
    for receipt in receipts:
        of_block.setdefault(receipt.block, {})[receipt.phase] = receipt
    errors = {}
    for phases in of_block.values():
        results = [phases[name] for name in RESULTS if name in phases]
        now = [one for one in results if one.count_key == count_key and one.truth_error]
        if now and results[0].ok:
            # The first error of an image is told, not the first of the blocks that have one.
            pixel = re.search(r"\(y=(\d+), x=(\d+)\)", now[0].truth_error)
            errors[_position(now[0])[0], *map(int, pixel.groups() if pixel else ())] = now[0].truth_error
    return errors[min(errors)] if errors else ""


def _failures(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the failed receipts, without those that follow from another failure."""
    failed = [receipt for receipt in receipts if not receipt.ok]
    known = {(one.phase, one.image if _is_per_image(one) else one.block) for one in failed}

    def follows(receipt: Receipt) -> bool:
        earlier = phase(receipt.phase).follows if receipt.phase in PHASES else ()
        return any((name, key) in known for name in earlier for key in (receipt.block, receipt.image))

    return [receipt for receipt in failed if not follows(receipt)]


def _is_per_image(receipt: Receipt) -> bool:
    return receipt.phase in PHASES and phase(receipt.phase).is_per_image
