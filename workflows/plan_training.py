"""Say what a training would learn from, how much there is of each class, and what it costs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import load_yaml
from pipeline.errors import counted
from pipeline.inputs import Image, first_of
from pipeline.models import num_parameters
from pipeline.training import TRAINING_YAML, Forecast, StepCost, Training, TrainPlan, prepare_training
from pipeline.tuning import format_bytes

__all__ = ["plan_training"]

SHOWN = 10  # images of each part
LATE = 1.1  # share of `minutes` above which a note says that the training takes longer


def plan_training(config_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False, every: bool = False) -> int:
    """Print the images, class shares, memory and time of a training, from a scan of the images and a few steps.

    Args:
        config_path: the YAML.
        overrides: ``key.sub=value`` each, as after ``--set``.
        as_json: for machines.
        every: print a line for each image.

    Returns:
        The exit code: 0.

    Raises:
        InputError: every problem at once.
    """
    training = prepare_training(load_yaml(TRAINING_YAML, config_path, overrides), resume=False)
    begin_s = training.spent_s
    cost = training.measure_step()
    content = _content(training, cost, training.forecast(cost, begin_s))
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print(content, every=every)
    return 0


def _content(training: Training, cost: StepCost, expected: Forecast) -> dict[str, Any]:
    plan, workers, config = training.plan, training.workers, training.plan.config
    return {
        "train": [_image(image) for image in plan.train],
        "val": [{**_image(image), **_regions(plan, image)} for image in plan.val],
        "validation": plan.val_words,
        "groups": None if plan.groups is None else {"train": list(plan.groups.train), "val": list(plan.groups.val)},
        "classes": _class_shares(plan),
        "network": {"name": config.model["name"], "parameters": num_parameters(plan.network), "stride": plan.network.stride},
        "normalize": plan.normalize,
        "loss": {"name": config.loss["name"], **plan.loss.model_dump(mode="json")},
        "crop": plan.crop,
        "batch": config.batch,
        "steps": plan.num_steps,
        "workers": workers.size,
        "device": workers.device,
        "threads": workers.threads,
        "precision": training.precision,
        "seconds_per_step": cost.seconds,
        "minutes": expected.total_s / 60,
        "minutes_allowed": config.minutes,
        "minutes_of_steps": expected.learn_s / 60,
        "validations": expected.validations,
        "seconds_per_validation": expected.validation_s,
        "memory_bytes_per_worker": cost.peak_bytes,
        "notes": list(plan.notes),
        "output": str(config.output),
    }


def _image(image: Image) -> dict[str, Any]:
    return {"name": image.name, "image": image.path, "truth": image.truth, "shape": list(image.header.shape)}


def _regions(plan: TrainPlan, image: Image) -> dict[str, Any]:
    """Return the regions that are kept of an image, (y0, x0, y1, x1) on its working grid; empty: all of it validates."""
    regions = plan.regions_of(image)
    return {} if regions is None else {"regions": [[box.y0, box.x0, box.y1, box.x1] for box in regions.boxes]}


def _class_shares(plan: TrainPlan) -> list[dict[str, Any]]:
    """Return pixels and share of each class over the training images, of a border apart from its class."""
    border, areas = plan.config.border, plan.statistics.areas.pixels
    names = [*(spec["name"] for spec in plan.classes), *([f"border of {border.of}"] if border else [])]
    total = sum(areas) or 1
    return [{"name": name, "pixels": area, "share": area / total} for name, area in zip(names, areas, strict=True)]


def _print(content: Mapping[str, Any], *, every: bool) -> None:
    shown = None if every else SHOWN
    for part in ("train", "val"):
        for image in content[part][:shown]:
            kept = f", {counted(len(image['regions']), 'region')} of it" if "regions" in image else ""
            print(f"{part}: {image['name']}, {' x '.join(map(str, image['shape']))}, truth {image['truth']}{kept}")
        if shown and len(content[part]) > shown:
            print(f"{part}: and {len(content[part]) - shown} more; --list names all")
    for row in content["classes"]:
        print(f"class {row['name']}: {row['share']:.2%} of the training pixels")
    network = content["network"]
    print(
        f"network: {network['name']}, {network['parameters']:,} parameters, stride {network['stride']}; normalize: {content['normalize']}"
    )
    print(f"validation: {content['validation']}")
    if content["groups"] is not None:
        names = content["groups"]["train"]
        print(f"groups to train on: {first_of(names, shown or len(names))}")
    steps = "as many steps as fit" if content["steps"] is None else f"{content['steps']:,} steps"
    print(f"{len(content['train'])} images to train on, {len(content['val'])} to validate with; {steps} of {content['batch']} crops")
    workers = f"{content['workers']} workers on {content['device']}, {content['precision']}, {content['threads']} threads each"
    memory = format_bytes(content["memory_bytes_per_worker"], up=True)
    print(f"compute: {workers}; {content['seconds_per_step']:.2f} s a step, {memory} a worker")
    _print_time(content)
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"output: {content['output']}")


def _print_time(content: Mapping[str, Any]) -> None:
    """Print how long the training takes, all of it, and warn where ``minutes`` are too few for the validation images."""
    each = f"{counted(content['validations'], 'validation')} of about {content['seconds_per_validation']:.0f} s"
    steps = f"{content['minutes_of_steps']:.1f} of steps"
    print(f"time: about {content['minutes']:.1f} minutes in all: {steps}, {each}, the rest to read the images and for the final scores")
    allowed = content["minutes_allowed"]
    if allowed is not None and content["minutes"] > allowed * LATE:
        images = counted(len(content["val"]), "validation image")
        print(f"note: minutes: {allowed:g} is short for {images}: reading and scoring alone take that; it will be {content['minutes']:.1f}")
