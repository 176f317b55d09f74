"""Look without touching: what a run would do, and how far one is."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import load_config, read_yaml
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.records import Holder, RunFolder, current_holder, read_rows, tally
from pipeline.report import num_blocks, planned, report_of
from pipeline.scheduling import Stage, complete, make_job
from pipeline.training.schema import is_training
from pipeline.tuning import Calibration, Choice, choose, expected, keep, print_bytes, projected_bytes, runner_of

__all__ = ["plan", "status"]

PHASES = {"scored": ("score",), "done": ("predict", "count", "copy")}


def plan(config_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Say what a run would do, reading headers only; of a training, what it would learn from."""
    if is_training(read_yaml(config_path).data):
        from workflows.plan_training import plan_training

        return plan_training(config_path, overrides, as_json=as_json)
    config = load_config(config_path, overrides)
    found = build_catalogue(config)
    folder = RunFolder(config.output)
    folder.refuse_other(found.identity)
    recorded = folder.read().get("recipe")
    choice = choose(found, outcome=expected(found)) if recorded is None else keep(found, recorded)
    choice = replace(choice, notes=(*choice.notes, *_calibration(choice, folder)))
    job = make_job(found, choice.recipe)
    stages = complete(found, job)
    content = _plan_content(found, choice, stages, runner_of(found))
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print_plan(content)
    return 3 if found.rejected else 0


def _calibration(choice: Choice, folder: RunFolder) -> list[str]:
    """What eight bits change, as far as it is known."""
    if choice.recipe.precision != "int8":
        return []
    known = folder.read().get("calibration")
    later = "compute.precision: int8 is calibrated on tiles of the images when the run begins; what it changes is said then"
    return [str(Calibration(**known)) if known else later]


def _plan_content(found: Catalogue, choice: Choice, stages: Mapping[str, Sequence[Stage]], runner: str) -> dict[str, Any]:
    blocks = {image: sum(len(stage.blocks) for stage in some if stage.phase == "predict") for image, some in stages.items()}
    itemsize = 1 if len(found.classes) <= 255 else 2
    return {
        "images": [
            {
                "name": image.name,
                "path": image.path,
                "shape": list(image.header.shape),
                "planes": image.header.num_planes,
                "channels": image.header.channels,
                "dtype": image.header.dtype,
                "pixel_size": image.header.pixel_size,
                "blocks": blocks[image.name],
                "truth": image.truth,
                "decoded_whole_bytes": image.header.whole_bytes,
            }
            for image in found.images
        ],
        "unreadable": [{"name": one.name, "path": one.path, "cause": one.cause} for one in found.rejected],
        "ignored_files": found.ignored,
        "pixels": found.pixels,
        "blocks": sum(blocks.values()),
        "mask_bytes_uncompressed": found.pixels * itemsize,
        "memory_bytes_per_actor": projected_bytes(found, choice.recipe),
        "memory_budget_bytes": found.config.compute.memory_bytes,
        "recipe": choice.recipe.to_dict(),
        "runner": runner,
        "notes": [*found.notes, *choice.notes],
        "output": str(found.config.output),
    }


def _print_plan(content: Mapping[str, Any]) -> None:
    for image in content["images"]:
        parts = [
            " x ".join(map(str, image["shape"])),
            f"{image['planes']} planes" if image["planes"] > 1 else "",
            f"{image['channels']} channels {image['dtype']}",
            f"{image['blocks']} blocks",
            "decoded whole" if image["decoded_whole_bytes"] else "",
            "" if image["truth"] else "no truth",
        ]
        print(f"{image['name']}: {', '.join(part for part in parts if part)}")
    for one in content["unreadable"]:
        print(f"unreadable: {one['path']}: {one['cause']}")
    recipe, megapixels = content["recipe"], content["pixels"] / 1e6
    more = ((recipe["core"] + 2 * recipe["halo"]) / recipe["core"]) ** 2
    need, budget = print_bytes(content["memory_bytes_per_actor"], up=True), print_bytes(content["memory_budget_bytes"])
    print(
        f"{len(content['images'])} images, {megapixels:.1f} Mpx, {content['blocks']} blocks; {content['ignored_files']} other files ignored"
    )
    print(f"tiles: core {recipe['core']}, halo {recipe['halo']}, block {recipe['block']}, stitch {recipe['stitch']}")
    print(f"halo: {more:.2f} x the pixels are computed on full tiles")
    how = f"{recipe['backend']} {recipe['precision']} on {recipe['device']}, batch {recipe['batch']}, {recipe['threads']} threads an actor"
    print(f"compute: runner {content['runner']}, {how}")
    print(f"memory: {need} an actor above its model, of {budget}")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"output: {content['output']}")


def _state(folder: RunFolder, recorded: str) -> str:
    """A process that was killed could not say so: `running` needs somebody who runs."""
    holder = current_holder(folder.ledger) if recorded == "running" else None
    is_dead = recorded == "running" and (holder is None or holder.is_gone(Holder.here()) is True)
    return "interrupted" if is_dead else recorded


def status(folder_path: Path, *, as_json: bool = False) -> int:
    """Say how far a run is, from its folder alone."""
    folder = RunFolder(folder_path.absolute())
    found, plan_found = folder.require(), folder.last_plan()
    if found.get("kind") == "training":
        return _training_status(folder, _state(folder, found["state"]), as_json=as_json)
    done_so_far = planned(plan_found, tally(read_rows(folder.ledger)))
    content = report_of(plan_found, done_so_far, found["state"]) if plan_found else {}
    failures = content.get("failures", [])
    committed = [key for key, receipt in done_so_far.receipts.items() if receipt.ok]
    done = {what: {block for phase, block in committed if phase in phases} for what, phases in PHASES.items()}
    pixels = content.get("pixels", 0)
    summary = {
        "state": _state(folder, found["state"]),
        "images": content.get("images", 0),
        "pixels": pixels,
        "predicted": pixels - content.get("no_prediction", 0),
        "blocks": sum(map(math.prod, num_blocks(plan_found).values())),
        "blocks_scored": len(done["scored"]),
        "blocks_done": len(done["done"]),
        "failures": failures,
        "started": found.get("started"),
        "ended": found.get("ended"),
        "recipe": found.get("recipe"),
    }
    if as_json:
        print(json.dumps(summary, indent=1))
        return 0
    share = summary["predicted"] / pixels if pixels else 0.0
    print(f"{folder.path}: {summary['state']}, {summary['images']} images")
    told = [
        f"{share:.1%} of {pixels / 1e6:.1f} Mpx predicted",
        *(f"{len(blocks)} of {summary['blocks']} blocks {what}" for what, blocks in done.items() if blocks),
    ]
    print(", ".join(told))
    for one in failures:
        print(f"{one['phase']} {one['block'] or one['image']} after {one['attempts']} tries: {one['cause']}")
    return 0


def _training_status(folder: RunFolder, state: str, *, as_json: bool) -> int:
    """How far a training is: its last row of each kind."""
    history = folder.path / "history.csv"
    rows = list(csv.DictReader(history.read_text(encoding="utf-8").splitlines())) if history.is_file() else []
    learnt: dict[str, str] = next((row for row in reversed(rows) if row["loss"]), {})
    judged = [row for row in rows if row["mean_iou"]]
    best = max(judged, key=lambda row: float(row["mean_iou"]), default={})
    steps = folder.read()["training"]["steps"]
    summary = {"state": state, "step": int(learnt.get("step", 0)), "steps": steps, "loss": learnt.get("loss"), "best": best.get("mean_iou")}
    if as_json:
        print(json.dumps({key: float(value) if isinstance(value, str) and key != "state" else value for key, value in summary.items()}))
        return 0
    print(f"{folder.path}: training {state}, step {summary['step']:,} of {'?' if steps is None else f'{steps:,}'}")
    print(f"loss {summary['loss'] or '-'}, best mean IoU {summary['best'] or '-'} at step {best.get('step', '-')}")
    return 0
