"""Look at a training before it begins: what it would learn from, how much there is of each class, what it costs here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import load_form
from pipeline.models import num_parameters
from pipeline.records import RunFolder
from pipeline.training.launch import crew_of
from pipeline.training.learner import enough_memory, precision_of
from pipeline.training.output_files import refuse_overwriting
from pipeline.training.plan import TrainPlan, make_plan
from pipeline.training.scan import scan
from pipeline.training.schema import TRAIN
from pipeline.training.step_trial import StepTrial, try_steps
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import num_gpus, print_bytes

__all__ = ["plan_training"]

SHOWN = 10  # pairs of each part


def plan_training(config_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Say what a training would do: pairs, class shares, memory and time, from a scan of the truth and a few steps.

    Returns:
        0.

    Raises:
        InputError: every problem at once.
    """
    plan = make_plan(load_form(TRAIN, config_path, overrides))
    workers, team = crew_of(plan, num_gpus())
    refuse_overwriting(plan, RunFolder(plan.config.output))
    plan = scan(plan)
    with enough_memory(plan):
        trial = try_steps(plan, workers, team)
    content = _content(plan, workers, team, trial)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print(content)
    return 0


def _content(plan: TrainPlan, workers: int, team: WorkerGroup, trial: StepTrial) -> dict[str, Any]:
    areas, config = plan.scan.areas.pixels, plan.config
    names = [*(one["name"] for one in plan.classes), *([f"border of {config.border.of}"] if config.border else [])]
    total = sum(areas) or 1
    minutes = config.minutes if plan.steps is None else plan.steps * trial.seconds / 60
    return {
        "train": [{"name": one.name, "image": one.path, "truth": one.truth, "shape": list(one.header.shape)} for one in plan.train],
        "val": [{"name": one.name, "image": one.path, "truth": one.truth, "shape": list(one.header.shape)} for one in plan.val],
        "classes": [{"name": name, "pixels": area, "share": area / total} for name, area in zip(names, areas, strict=True)],
        "network": {"name": config.model["name"], "parameters": num_parameters(plan.network), "stride": plan.network.stride},
        "normalize": plan.normalize,
        "loss": {"name": config.loss["name"], **plan.loss.model_dump(mode="json")},
        "crop": plan.crop,
        "batch": config.batch,
        "steps": plan.steps,
        "workers": workers,
        "device": team.device,
        "threads": team.threads,
        "precision": precision_of(plan, team.device),
        "seconds_per_step": trial.seconds,
        "minutes": minutes,
        "memory_bytes_per_worker": trial.peak_bytes,
        "notes": list(plan.notes),
        "output": str(config.output),
    }


def _print(content: Mapping[str, Any]) -> None:
    for part in ("train", "val"):
        for one in content[part][:SHOWN]:
            print(f"{part}: {one['name']}, {' x '.join(map(str, one['shape']))}, truth {one['truth']}")
        if len(content[part]) > SHOWN:
            print(f"{part}: and {len(content[part]) - SHOWN} more; --json lists all")
    for one in content["classes"]:
        print(f"class {one['name']}: {one['share']:.2%} of the training pixels")
    network = content["network"]
    print(
        f"network: {network['name']}, {network['parameters']:,} parameters, stride {network['stride']}; normalize: {content['normalize']}"
    )
    steps = "as many steps as fit" if content["steps"] is None else f"{content['steps']:,} steps"
    print(f"{len(content['train'])} images to train on, {len(content['val'])} to validate with; {steps} of {content['batch']} crops")
    how = f"{content['workers']} workers on {content['device']}, {content['precision']}, {content['threads']} threads each"
    print(
        f"compute: {how}; {content['seconds_per_step']:.2f} s a step, {print_bytes(content['memory_bytes_per_worker'], up=True)} a worker"
    )
    print(f"time: about {content['minutes']:.0f} minutes, validation apart")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"output: {content['output']}")
