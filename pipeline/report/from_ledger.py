"""From the ledger alone to the report: no mask is read, so a report can be made again at any time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.engine import all_phases, phase
from pipeline.plugins import build
from pipeline.records import Receipt, Tally
from pipeline.report.build import Failure, ImageCounts, ReportInput, build_report
from pipeline.statistics import Counts
from pipeline.tiling import Grid

__all__ = ["RESULTS", "num_blocks", "phase_rows", "planned", "report_of"]

PHASES = tuple(one.name for one in all_phases())
RESULTS = tuple(one.name for one in all_phases() if one.is_result)
"""Names of phases, each behind those that it comes after. A ledger may hold receipts of other ones."""


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
        # In the plan's order, sums of floats, and so the report, do not depend on the order of work.
        ordered = sorted(of_image.get(image["name"], []), key=lambda receipt: (receipt.phase, _place(receipt)))
        images.append(_image_counts(image, ordered, plan))
        failures += [Failure(r.image, r.block, r.phase, r.cause, r.attempts) for r in _failures(ordered)]
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
    return ImageCounts(image["name"], counts, bool(image["truth"]), errors[min(errors)] if errors else "", _numbers(receipts))


def _numbers(receipts: Sequence[Receipt]) -> dict[str, dict[str, int]]:
    """Add the numbers of an image's receipts, by phase and name."""
    sums: dict[str, Counter[str]] = {}
    for receipt in receipts:
        if receipt.numbers:
            sums.setdefault(receipt.phase, Counter()).update(receipt.numbers)
    return {name: dict(numbers) for name, numbers in sums.items()}


def _failures(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the failed receipts, each failure once: a block that could not be prepared cannot be done either."""
    found: dict[tuple[str, str], Receipt] = {}
    for receipt in receipts:
        if not receipt.ok:
            prepares = phase(receipt.phase).prepares if receipt.phase in PHASES else ""
            key = (receipt.block, prepares or receipt.phase)
            if prepares or key not in found:
                found[key] = receipt
    return list(found.values())


def _counted(receipts: Sequence[Receipt], count_key: str) -> Iterator[Receipt]:
    """Yield the receipt of each block that holds its counts.

    A block is counted by the first phase that gives a result; where its truth or classes have changed since, by a later one.
    """
    of_block: dict[str, dict[str, Receipt]] = {}
    for receipt in receipts:
        of_block.setdefault(receipt.block, {})[receipt.phase] = receipt
    for found in sorted(of_block.values(), key=lambda found: _place(next(iter(found.values())))):
        results = [found[name] for name in RESULTS if name in found]
        if results:
            first = results[0]
            is_fresh = not first.ok or first.count_key == count_key  # a later count may be of an earlier mask
            yield first if is_fresh else next((later for later in results[1:] if later.count_key == count_key), first)


def _area(image: Mapping[str, Any], receipt: Receipt, block: int) -> int:
    _, row, col = _place(receipt)
    height, width = image["shape"]
    return Grid((height, width), block, 0, block).block_box(row, col).area


def _timing(done: Tally) -> dict[str, Any]:
    """Return seconds of all blocks by stage, blocks and seconds by phase, and the peak memory of a process, bytes."""
    seconds = {stage: round(value, 3) for stage, value in sorted(done.seconds.items())}
    return {"stage_seconds": seconds, "phases": phase_rows(done), "peak_actor_bytes": done.peak_bytes}


def phase_rows(done: Tally) -> dict[str, dict[str, float]]:
    """Return how many blocks of each phase are done or failed, and their seconds, by phase."""
    failed = Counter(name for (name, _), receipt in done.receipts.items() if not receipt.ok)
    blocks = Counter(name for name, _ in done.receipts)
    return {
        name: {"blocks": blocks[name] - failed[name], "failed": failed[name], "seconds": round(done.phase_seconds.get(name, 0.0), 3)}
        for name in sorted(blocks, key=lambda name: (PHASES.index(name) if name in PHASES else len(PHASES), name))
    }
