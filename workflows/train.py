"""Train a network: images with truth in, a bundle out; again, it resumes."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import config_from, load_form, to_yaml
from pipeline.errors import InputError, Problem
from pipeline.inputs import COLUMNS, Image, fingerprint
from pipeline.interrupts import handled_by
from pipeline.models.bundle import read_spec
from pipeline.models.networks.stride_and_field import file_sha256
from pipeline.plugins import build
from pipeline.records import Ledger, RunFolder, hardware, versions
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.storage import put_text
from pipeline.training.gallery import pictures
from pipeline.training.launch import crew_of, launch
from pipeline.training.learner import precision_of
from pipeline.training.loop import bundle_of, checkpoint_of, save
from pipeline.training.output_files import clear, is_begun, refuse_overwriting
from pipeline.training.page import write_page
from pipeline.training.plan import TrainPlan, make_plan
from pipeline.training.scan import scan
from pipeline.training.schema import TRAIN, TrainConfig
from pipeline.training.validation import measured_halo, validate
from pipeline.training.weight_averaging import begin, weights_file
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import num_gpus
from workflows.run import run_config

__all__ = ["train"]


def train(config_path: Path, overrides: Sequence[str] = (), *, fresh: bool = False, take_over: bool = False) -> int:
    """Train what a YAML describes; again, it goes on from the checkpoint.

    Returns:
        The exit code: 0 done, 130 interrupted.

    Raises:
        GigasegError: wrong input, or the training could not go on.
    """
    config: TrainConfig = load_form(TRAIN, config_path, overrides)
    plan = make_plan(config)
    workers, team = crew_of(plan, num_gpus())
    folder = RunFolder(config.output)
    refuse_overwriting(plan, folder)
    if not fresh:
        folder.refuse_other(_identity(plan))
        _refuse_resuming(plan)
    plan = scan(plan)
    for note in plan.notes:
        print(note, file=sys.stderr)
    facts = {"workers": workers, "device": team.device, "precision": precision_of(plan, team.device), "steps": plan.steps}
    said = {"identity": _identity(plan), "training": facts, "versions": versions(), "hardware": hardware(), "notes": plan.notes}
    if fresh or not is_begun(folder):  # all that can be wrong is looked at before anything is removed or written
        begin(plan)
    if fresh:
        clear(folder, take_over=take_over)
    if not is_begun(folder):  # first of all, so that whatever comes after is known to be a training's
        folder.write(kind="training", state="running", **said)
    with Ledger.open(folder.ledger, take_over=take_over):
        put_text(folder.path / "config.yaml", to_yaml(config))
        folder.write(**said)
        if folder.read().get("state") != "done" and not _learn(plan, workers, team, folder):
            folder.write(state="interrupted")
            print(f"interrupted; the same command goes on from its checkpoint. {folder.path}", file=sys.stderr)
            return EXIT_INTERRUPTED
    return _judge_aloud(plan, folder)


def _learn(plan: TrainPlan, workers: int, team: WorkerGroup, folder: RunFolder) -> bool:
    """Train, and settle the bundle; False: interrupted."""
    folder.write(state="running")
    with _signals(folder.stop_flag) as arm:
        if not launch(plan, workers, team, folder.stop_flag, arm):
            return False
    _settle(plan, replace(team, size=1))
    folder.write(state="done")
    return True


def _refuse_resuming(plan: TrainPlan) -> None:
    path = checkpoint_of(plan)
    if not plan.config.resume and path.is_file():
        raise InputError(Problem(str(path), "a checkpoint", "none, as resume is false", "Use --fresh, or another output folder."))


def _identity(plan: TrainPlan) -> dict[str, Any]:
    """What makes this training this training: where and how fast it runs is no part of it."""
    config = plan.config.model_dump(mode="json", exclude={"compute", "output", "resume", "checkpoint_minutes"})
    files = [*plan.network.files(), *(weights_file(Path(text)) for text in plan.config.mean_of)]
    parts = {"train": plan.train, "validation": plan.val}
    images = {name: [fingerprint(one.identity, one.truth_identity) for one in part] for name, part in parts.items()}
    return {**config, **images, "weights": {str(file): file_sha256(file) for file in files}}


def _settle(plan: TrainPlan, team: WorkerGroup) -> None:
    """Measure the field and the halo of the best bundle, score it once more with those, and write all of it into it."""
    bundle = bundle_of(plan)
    network = replace_weights(plan, bundle)
    halo = measured_halo(plan, bundle, team)
    field = build("models", {"name": "bundle", "path": str(bundle)}).field
    tile = {**({} if halo is None else {"halo": halo.halo}), **({} if field is None else {"field": field})}
    save(plan, bundle, network, tile, {})
    report = validate(plan, bundle, team)
    scores = {key: report[key] for key in ("mean_iou", "mean_dice", "pixel_accuracy")}
    scores |= {"iou": {one["name"]: one["iou"] for one in report["classes"]}, "images": report["images"], "pixels": report["pixels"]}
    save(plan, bundle, network, tile, {"validation": scores})
    shutil.rmtree(plan.config.output / "candidate", ignore_errors=True)


def replace_weights(plan: TrainPlan, bundle: Path) -> Any:
    """The plan's network with the weights of a bundle."""
    weights = bundle / read_spec(bundle).weights.file
    return plan.network.model_copy(update={"weights": weights}).load()


def _judge_aloud(plan: TrainPlan, folder: RunFolder) -> int:
    """Segment the validation images as anybody would, and show what came of it."""
    listed = folder.path / "val.csv"
    with listed.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        rows.writerows(_row(plan, image) for image in plan.val)
    mapping = {
        **plan.config.model_dump(mode="json", include={"classes", "ignore", "reader"}),
        "images": [str(listed)],
        "model": {"name": "bundle", "path": str(bundle_of(plan))},
        "output": str(folder.path / "val"),
    }
    code = run_config(config_from(mapping, folder.path, str(folder.path / "val.csv")))
    report = json.loads((folder.path / "val" / "report" / "report.json").read_text())
    colored = [{**one, "color": given["color"]} for one, given in zip(report["classes"], plan.classes, strict=True)]
    page = folder.path / "training.html"
    write_page(
        page,
        title=folder.path.name,
        facts=_facts(plan, folder),
        history=folder.path / "history.csv",
        report={**report, "classes": colored},
        pictures=list(pictures(plan, folder.path / "val" / "masks")),
    )
    print(f"bundle: {bundle_of(plan)}")
    print(f"page:   {page}")
    return code


def _row(plan: TrainPlan, image: Image) -> dict[str, Any]:
    """An image as a CSV lists it, with what its reader alone was told."""
    own = {option: value for option, value in image.reader.items() if value != plan.config.reader.get(option)}
    told = {option: " ".join(map(str, value)) if option == "channels" else value for option, value in own.items()}
    return {"image": image.path, "name": image.name, "truth": image.truth, **told}


def _facts(plan: TrainPlan, folder: RunFolder) -> dict[str, str]:
    from pipeline.models import num_parameters
    from pipeline.training.checkpoint import read_checkpoint

    at = read_checkpoint(checkpoint_of(plan))
    training = folder.read()["training"]
    facts = {
        "network": str(plan.config.model["name"]),
        "parameters": f"{num_parameters(plan.network):,}",
        "training images": f"{len(plan.train)}, {plan.pixels / 1e6:.1f} Mpx",
        "validation images": str(len(plan.val)),
        "crop and batch": f"{plan.crop} px, {plan.config.batch}",
        "workers": f"{training['workers']} on {training['device']}, {training['precision']}",
    }
    return facts if at is None else {**facts, "steps": f"{at.step:,}", "minutes": f"{at.seconds / 60:.1f}, validation apart"}


@contextmanager
def _signals(flag: Path) -> Iterator[Callable[[], None]]:
    """The first signal asks every worker to stop after the step in hand; the second one ends at once.

    Yields:
        What installs the handlers, to be called once more after anything that replaces them.
    """

    def ask(_number: int, _frame: Any) -> None:
        if flag.exists():
            raise KeyboardInterrupt
        put_text(flag, "")

    flag.unlink(missing_ok=True)
    with handled_by(ask) as arm:
        yield arm
