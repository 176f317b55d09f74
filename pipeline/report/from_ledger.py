"""From the ledger alone to the report: no mask is read, so a report can be made again at any time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.plugins import build
from pipeline.records import Receipt, Tally
from pipeline.report.build import Failure, ImageCounts, ReportInput, build_report
from pipeline.statistics import Counts
from pipeline.tiling import Grid

__all__ = ["num_blocks", "planned", "report_of"]


def num_blocks(plan: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Planes, rows and columns of the blocks of each image of a plan, by name."""
    block = plan.get("block", 1)
    return {one["name"]: (one["planes"], *Grid(tuple(one["shape"]), block, 0, block).num_blocks) for one in plan.get("images", ())}


def planned(plan: Mapping[str, Any], done: Tally) -> Tally:
    """Leave out what the plan does not have: blocks of an image that has become smaller since, images that have left."""
    limits = num_blocks(plan)

    def is_planned(block_id: str) -> bool:
        name, _, place = block_id.rpartition(":")
        return name in limits and all(int(at) < limit for at, limit in zip(place.split("."), limits[name], strict=True))

    return replace(done, receipts={key: receipt for key, receipt in done.receipts.items() if is_planned(key[1])})


def report_of(plan: Mapping[str, Any], done: Tally, state: str) -> dict[str, Any]:
    """Make the content of report.json.

    Args:
        plan: the last ``plan`` row of the ledger.
        done: what the ledger holds.
        state: of the run.
    """
    of_image: dict[str, list[Receipt]] = {}
    for receipt in done.receipts.values():
        if receipt.block:
            of_image.setdefault(receipt.image, []).append(receipt)
    images, failures = [], [Failure(one["name"], None, "plan", one["cause"]) for one in plan["rejected"]]
    for image in plan["images"]:
        # Plan order makes the sums of floats, and so the report, the same whatever the order of work was.
        ordered = sorted(of_image.get(image["name"], []), key=lambda receipt: (receipt.phase, _place(receipt)))
        images.append(_image_counts(image, ordered, plan))
        # A block without scores has no mask, which is the same failure.
        failed = {(r.block, r.phase.replace("score", "predict")): r for r in ordered if not r.ok}
        failures += [Failure(r.image, r.block, r.phase, r.cause, r.attempts) for r in failed.values()]
    images += [ImageCounts(one["name"]) for one in plan["rejected"]]
    return build_report(
        ReportInput(
            state=state,
            classes=plan["classes"],
            metrics=[build("metrics", spec) for spec in plan["metrics"]],
            images=images,
            failures=failures,
            model=plan["model"],
            timing=_timing(done),
        )
    )


def _place(receipt: Receipt) -> tuple[int, ...]:
    """Plane, row and column of a block, from its id."""
    return tuple(int(part) for part in receipt.block.rpartition(":")[2].split("."))


def _position(error: str) -> tuple[int, ...]:
    """Row and column that a truth error names, so that the first one of an image can be told from the first of a block."""
    found = re.search(r"\(y=(\d+), x=(\d+)\)", error)
    return (int(found[1]), int(found[2])) if found else ()


def _image_counts(image: Mapping[str, Any], receipts: Sequence[Receipt], plan: Mapping[str, Any]) -> ImageCounts:
    """Sum the blocks of one image; what has no receipt has no prediction."""
    empty = Counts(np.zeros(len(plan["classes"]), np.int64))
    counts, errors = empty, {}
    for receipt in _counted(receipts, image["count_key"]):
        if not receipt.ok:
            area = _area(image, receipt, plan["block"])
            counts += replace(empty, no_prediction=area, quarantined=area)
        elif receipt.counts is not None:
            fresh = receipt.count_key == image["count_key"]
            counts += receipt.counts if fresh else replace(receipt.counts, confusion=None, cross_entropy=None, cross_entropy_pixels=0)
            if fresh and receipt.truth_error:
                errors[_place(receipt)[0], *_position(receipt.truth_error)] = receipt.truth_error
    undone = image["planes"] * image["shape"][0] * image["shape"][1] - counts.pixels
    counts += replace(empty, no_prediction=undone)
    return ImageCounts(image["name"], counts, bool(image["truth"]), errors[min(errors)] if errors else "")


def _counted(receipts: Sequence[Receipt], count_key: str) -> Iterator[Receipt]:
    """The receipt of each block that holds its counts: a later count of the same mask goes first."""
    again = {receipt.block: receipt for receipt in receipts if receipt.phase == "count" and receipt.count_key == count_key}
    predicted = {receipt.block for receipt in receipts if receipt.phase == "predict"}
    for receipt in receipts:
        if receipt.phase == "predict":
            is_fresh = not receipt.ok or receipt.count_key == count_key  # what was counted again may be of an earlier mask
            yield receipt if is_fresh else again.get(receipt.block, receipt)
        elif receipt.phase == "count" and receipt.block not in predicted:
            yield receipt


def _area(image: Mapping[str, Any], receipt: Receipt, block: int) -> int:
    _, row, col = _place(receipt)
    height, width = image["shape"]
    return Grid((height, width), block, 0, block).block_box(row, col).area


def _timing(done: Tally) -> dict[str, Any]:
    """Seconds of all blocks by stage, and the largest process."""
    seconds = {stage: round(value, 3) for stage, value in sorted(done.seconds.items())}
    return {"stage_seconds": seconds, "peak_actor_bytes": done.peak_bytes}
