"""Say how far a run or a training is, from its output alone."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.engine import all_phases
from pipeline.errors import counted
from pipeline.records import Holder, RunFolder, current_holder, read_rows, tally
from pipeline.report import num_blocks, phase_rows, planned, report_of
from pipeline.storage import StorageLike

__all__ = ["state_of", "status"]

COUNTED = {"scored": [one.name for one in all_phases() if one.prepares], "done": [one.name for one in all_phases() if one.is_result]}
"""Phases whose blocks are counted together, by the word that is printed."""


def status(output: StorageLike, *, as_json: bool = False) -> int:
    """Print how far the run or the training of an output is, as text or one JSON object. Returns 0.

    Raises:
        InputError: no run is here.
    """
    folder = RunFolder(output)
    if folder.require().get("kind") == "training":
        print_training(folder, as_json=as_json)
    elif as_json:
        print(json.dumps(run_summary(folder), indent=1))
    else:
        print_run(folder, run_summary(folder))
    return 0


def state_of(folder: RunFolder) -> str:
    """Return the recorded state; ``interrupted`` where it is ``running`` and the process is gone, as a killed one cannot record it."""
    recorded: str = folder.require()["state"]
    holder = current_holder(folder.ledger) if recorded == "running" else None
    is_dead = recorded == "running" and (holder is None or holder.is_gone(Holder.here()) is True)
    return "interrupted" if is_dead else recorded


def run_summary(folder: RunFolder) -> dict[str, Any]:
    """Return state, images, pixels, blocks and failures of a run; pixels and blocks count what the ledger holds."""
    recorded, plan = folder.require(), folder.last_plan()
    done = planned(plan, tally(read_rows(folder.ledger)))
    report = report_of(plan, done, recorded["state"]) if plan else {}
    committed = [key for key, receipt in done.receipts.items() if receipt.ok]
    blocks = {what: {block for phase, block in committed if phase in phases} for what, phases in COUNTED.items()}
    pixels = report.get("pixels", 0)
    return {
        "state": state_of(folder),
        "images": report.get("images", 0),
        "pixels": pixels,
        "predicted": pixels - report.get("no_prediction", 0),
        "blocks": sum(map(math.prod, num_blocks(plan).values())),
        **speed_of(recorded, pixels, len(done.receipts)),
        "blocks_scored": len(blocks["scored"]),
        "blocks_done": len(blocks["done"]),
        "phases": phase_rows(done),
        "failures": report.get("failures", []),
        "started": recorded.get("started"),
        "ended": recorded.get("ended"),
        "recipe": recorded.get("recipe"),
    }


def speed_of(recorded: dict[str, Any], pixels: int, settled: int) -> dict[str, float | None]:
    """Return pixels a second and seconds left, from the blocks that the last execution settled; None if it settled none."""
    total, before = recorded.get("blocks"), recorded.get("blocks_before")
    is_running = recorded["state"] == "running"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(recorded["started"])).total_seconds() if is_running else recorded.get("seconds")
    if not total or before is None or not seconds or settled <= before:
        return {"pixels_per_second": None, "seconds_left": None}
    rate = (settled - before) / seconds
    return {"pixels_per_second": rate * pixels / total, "seconds_left": max(0, total - settled) / rate if is_running else None}


def print_run(folder: RunFolder, summary: dict[str, Any]) -> None:
    """Print state, share of the pixels and of the blocks, and a line a failure."""
    share = summary["predicted"] / summary["pixels"] if summary["pixels"] else 0.0
    parts = [f"{share:.1%} of {summary['pixels'] / 1e6:.1f} Mpx predicted"]
    parts += [f"{count} of {summary['blocks']} blocks {what}" for what in COUNTED if (count := summary[f"blocks_{what}"])]
    if summary["pixels_per_second"]:
        parts.append(f"{summary['pixels_per_second'] / 1e6:.1f} Mpx/s")
    if summary["seconds_left"]:
        parts.append(f"{timedelta(seconds=round(summary['seconds_left']))} left")
    print(f"{folder.storage}: {summary['state']}, {summary['images']} images")
    print(", ".join(parts))
    if phases := [f"{name} {row['blocks']:.0f}" for name, row in summary["phases"].items()]:
        print(f"blocks by phase: {', '.join(phases)}")
    for failure in summary["failures"]:
        tries = counted(failure["attempts"], "try", "tries")
        print(f"{failure['phase']} {failure['block'] or failure['image']} after {tries}: {failure['cause']}")


def print_training(folder: RunFolder, *, as_json: bool) -> None:
    """Print state, step, loss and best mean IoU of a training, from the rows of its history."""
    rows = list(csv.DictReader((folder.storage.get("history.csv") or b"").decode().splitlines()))
    last: dict[str, str] = next((row for row in reversed(rows) if row["loss"]), {})
    best = max((row for row in rows if row["mean_iou"]), key=lambda row: float(row["mean_iou"]), default={})
    state, step, steps = state_of(folder), int(last.get("step", 0)), folder.read()["training"]["steps"]
    if as_json:
        numbers = {"loss": last.get("loss"), "best": best.get("mean_iou")}
        floats = {key: text if text is None else float(text) for key, text in numbers.items()}
        print(json.dumps({"state": state, "step": step, "steps": steps, **floats}))
        return
    print(f"{folder.storage}: training {state}, step {step:,} of {'?' if steps is None else f'{steps:,}'}")
    print(f"loss {last.get('loss') or '-'}, best mean IoU {best.get('mean_iou') or '-'} at step {best.get('step', '-')}")
