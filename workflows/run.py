"""Segment what a YAML describes: plan, predict, report. Run again to resume."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.config import RUN_YAML, Config, Recipe, is_url, load_config, read_yaml, replace_auto, to_yaml
from pipeline.engine import Job, phase
from pipeline.errors import AlreadyRunning, InputError, Problem, counted
from pipeline.inputs import Catalogue, build_catalogue, hash_values
from pipeline.records import METRICS_FILE, CommittedReceipts, Receipt, RunFolder, read_rows, refuse_overwriting
from pipeline.report import describe_group, print_table, print_warnings, print_worst, report_of
from pipeline.scheduling import EXIT_INTERRUPTED, MetricsAddress, RunSpec, Stage, execute, make_job, plan_blocks, plan_row, recount
from pipeline.system import say
from pipeline.training import TRAINING_YAML, is_training
from pipeline.tuning import (
    RecipeChoice,
    calibrate_int8,
    choose_backend,
    choose_recipe,
    measure_halo,
    measure_stride_and_field,
    reuse_recipe,
)
from workflows.begun_run import runner_of, with_writers_of
from workflows.pictured_report import write_pictured_report

__all__ = ["execute_config", "print_result", "protect_files", "refuse_training", "run", "run_config"]

OPENER = "open" if sys.platform == "darwin" else "xdg-open"  # opens a file with the program for it, where it is installed
SHOWN_GROUPS = 5  # causes of failures that are printed
NO_CLASS = "belongs to no class"  # in the cause of a failure that other `classes` repair: the truth file itself is sound


def run(
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = False,
    take_over: bool = False,
    max_failed: int | None = None,
    queues: bool = True,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> int:
    """Plan, segment and report what a YAML describes; a second call resumes.

    Args:
        config_path: the YAML.
        overrides: ``key.sub=value`` each, as after ``--set``.
        fresh: remove earlier results from the output folder first.
        take_over: take the run from the live process that holds it.
        max_failed: give up above so many quarantined blocks; None: never.
        queues: wait for room on a cluster that is busy; False: refuse.
        metrics_port: port on which to serve metrics for Prometheus over HTTP; None: none.
        metrics_host: address to serve them on.

    Returns:
        The exit code: 0 done, 3 done but for what is quarantined, 130 interrupted.

    Raises:
        GigasegError: the input is wrong, or the run could not go on.
    """
    refuse_training(config_path)
    address = None if metrics_port is None else MetricsAddress(metrics_port, metrics_host)
    options = {"max_failed": max_failed, "queues": queues, "metrics_address": address}
    return run_config(load_config(config_path, overrides), fresh=fresh, take_over=take_over, **options)


def refuse_training(config_path: Path) -> None:
    """Refuse the YAML of a training with one message, where each of its keys would be reported as unknown."""
    data = read_yaml(config_path).data
    of_run, of_training = (kind.schema.model_fields.keys() for kind in (RUN_YAML, TRAINING_YAML))
    if is_training(data) and data.keys().isdisjoint(of_run - of_training):
        found = f"keys of a training ({', '.join([key for key in data if key not in of_run][:3])})"
        raise InputError(Problem(str(config_path), found, "the keys of a run", f"Did you mean `gigaseg train {config_path}`?"))


def run_config(config: Config, **options: Any) -> int:
    """Do as :func:`execute_config` does, which takes the same options, and print the result; returns the exit code."""
    exit_code, report = execute_config(config, **options)
    folder = RunFolder(config.output)
    if exit_code == EXIT_INTERRUPTED:
        say(f"interrupted; the same command goes on where it stopped. {folder.storage}", event="run interrupted", level="warning")
    else:
        print_result(folder, report, advice(folder, report["failures"]), masks=True)
    return exit_code


def advice(folder: RunFolder, failures: Sequence[Mapping[str, Any]]) -> str:
    """Return advice on failures, to append to a message. A failure of one attempt is permanent, such as a damaged file."""
    failures = [failure for failure in failures if NO_CLASS not in failure["cause"]]
    if not failures:
        return ""
    lasting = [failure for failure in failures if failure["attempts"] == 1]
    repair = "; repair or remove the files that they name, then run again"
    retry = f"; try them again: gigaseg retry {folder.storage}"
    return repair if len(lasting) == len(failures) else retry if not lasting else f"{retry}. Damaged files must be repaired first"


def execute_config(
    config: Config,
    *,
    fresh: bool = False,
    take_over: bool = False,
    retried: Callable[[Receipt], bool] = lambda _: False,
    accepted: Collection[str] | None = None,
    **options: Any,
) -> tuple[int, dict[str, Any]]:
    """Write masks and report as :func:`run` does; print nothing on stdout, notes and progress on stderr.

    ``retried`` says whether the block of a failed receipt is tried again; ``accepted`` are the paths below folders of ``images``
    that are taken, None: all; ``options`` are ``max_failed``, ``queues`` and
    ``metrics_address`` of :class:`RunSpec`.

    Returns:
        The exit code, and the content of report.json.
    """
    folder = RunFolder(config.output)
    catalogue = catalogue_of(config, folder, accepted, fresh=fresh)
    config = catalogue.config
    choice, runner = settle_recipe(catalogue, folder, fresh=fresh), runner_of(folder, catalogue, fresh=fresh)
    protect_files(catalogue, folder, ["config.yaml", *plan_row(catalogue, make_job(catalogue, choice.recipe), {})["outputs"]])
    if fresh:  # after validation, so that a refused run deletes nothing
        folder.clear(take_over=take_over)
    choice = calibrated(catalogue, choice)
    job = make_job(catalogue, choice.recipe)
    model = {"name": config.model["name"], "sha256": model_hash(catalogue), **({"card": card} if (card := catalogue.model.card) else {})}
    notes = [*catalogue.notes, *choice.notes]
    spec = RunSpec(
        folder=folder,
        job=job,
        stages=stages_of(catalogue, job, folder),
        plan=plan_row(catalogue, job, model),
        runner=runner,
        compute=config.compute,
        run={**run_fields(catalogue, choice, model, notes), "runner": runner},
        config=to_yaml(without_auto(config, choice.recipe)),
        forgets=retried,
        **options,
    )
    for note in notes:
        say(note)
    with no_folder_left_behind(folder):
        exit_code, done = execute(spec, take_over=take_over)
    report = report_of(spec.plan, done, folder.read().get("state", "running"))
    write_pictured_report(folder, spec.plan, job, catalogue.images, report)
    return exit_code, report


def catalogue_of(config: Config, folder: RunFolder, accepted: Collection[str] | None, *, fresh: bool) -> Catalogue:
    """Return what a config names; refuse it where the folder holds a run of something else that goes on."""
    catalogue = build_catalogue(config, accepted)
    if fresh:
        return catalogue
    catalogue = with_writers_of(folder, catalogue, config)
    folder.refuse_other(catalogue.identity)
    return catalogue


def protect_files(catalogue: Catalogue, folder: RunFolder, outputs: Sequence[str]) -> None:
    """Refuse a run that would write ``outputs`` over an image, a truth, or a file that no run has written."""
    refuse_overwriting(
        folder.storage,
        catalogue.config.where("output"),
        reads=[path for image in catalogue.images for path in (image.path, image.truth) if path],
        outputs=["log.txt", METRICS_FILE, *sorted(outputs)],
        command="run",
        is_begun=folder.storage.has("run.json") or folder.ledger.exists(),
    )


def settle_recipe(catalogue: Catalogue, folder: RunFolder, *, fresh: bool) -> RecipeChoice:
    """Keep the recipe that the folder records, so that a resumed run gives the same masks; choose one where none is recorded."""
    recorded = None if fresh else folder.read().get("recipe")
    if recorded is not None:
        measure_stride_and_field(catalogue, wants_field=False)
        kept = reuse_recipe(catalogue, recorded)
        return replace(kept, notes=(*kept.notes, *folder.other_versions()))
    catalogue.model.check()
    return choose_recipe(catalogue, halo=measure_halo(catalogue), backend=choose_backend(catalogue, anew=fresh))


def calibrated(catalogue: Catalogue, choice: RecipeChoice) -> RecipeChoice:
    """Calibrate an int8 recipe that has not been calibrated yet; return any other choice as it is."""
    if choice.recipe.precision != "int8" or choice.recipe.calibrated:
        return choice
    recipe, calibration = calibrate_int8(catalogue, choice.recipe, catalogue.config.output)
    return replace(choice, recipe=recipe, notes=(*choice.notes, str(calibration)), calibration=calibration)


def stages_of(catalogue: Catalogue, job: Job, folder: RunFolder) -> dict[str, list[Stage]]:
    """Return the stages of each image by name; where only the truth is new, finished masks are counted again and stay."""
    stages = plan_blocks(catalogue, job)
    if not folder.ledger.exists():
        return stages
    return recount(catalogue, job, stages, lambda: CommittedReceipts(folder.ledger).last)


def model_hash(catalogue: Catalogue) -> str | None:
    """Return the SHA-256 of the model's file, or a hash of the hashes where it has several; None where it has none."""
    hashes = list(catalogue.model.file_hashes())
    return None if not hashes else hashes[0] if len(hashes) == 1 else hash_values(hashes)


def run_fields(catalogue: Catalogue, choice: RecipeChoice, model: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """Return the fields of run.json that are known before the run begins."""
    fields = {"identity": catalogue.identity, "recipe": choice.recipe.to_dict(), "notes": notes, "model": model, "pixels": catalogue.pixels}
    tried = {"trial": choice.trial, "calibration": choice.calibration}
    return {**fields, **{name: asdict(result) for name, result in tried.items() if result}}


def without_auto(config: Config, recipe: Recipe) -> Config:
    """Return the config with the recipe's values in place of ``auto``: another machine then gives the same masks."""
    sections = {name: getattr(config, name) for name in ("tiling", "compute")}
    chosen = replace_auto({name: section.model_dump() for name, section in sections.items()}, recipe.to_dict())
    return config.model_copy(update={name: section.model_copy(update=chosen[name]) for name, section in sections.items()})


@contextmanager
def no_folder_left_behind(folder: RunFolder) -> Iterator[None]:
    """Remove a new output folder where the input proves wrong before the first block is done: actors load weights late."""
    is_new = not folder.last_plan()
    try:
        yield
    except AlreadyRunning:
        raise
    except InputError:
        if is_new and folder.ledger.exists() and not any(row.ok and phase(row.phase).is_result for row in read_rows(folder.ledger)):
            folder.discard()
        raise


def print_result(folder: RunFolder, report: Mapping[str, Any], way_out: str = "", *, masks: bool = False) -> None:
    """Print the tables of a report, where the results are, and the commands that show them.

    On stderr goes how many failures there are, followed by ``way_out``. ``masks``: whether the run made any.
    """
    from rich.console import Console

    console = Console(soft_wrap=True)
    print_table(report, console)
    print_worst(report, console)
    print_warnings(report, console)
    if masks:
        print(f"masks:  {folder.storage}/masks")
        if folder.read_config().instances:
            print(f"objects: {folder.storage}/objects and {folder.storage}/instances")
    print(f"report: {folder.report}/index.html")
    sys.stdout.flush()  # failures stand above the commands also where both streams go to one file
    if report["failures"]:
        _say_failures(folder, report, way_out)
    if any(NO_CLASS in failure["cause"] for failure in report["failures"]):
        keys = "`classes` in the YAML" if masks else "--classes"
        say(f"truth holds values that belong to no class: say what they mean with {keys}, such as {{name: cell, values: other}}")
    print(f"view:   gigaseg view {shlex.quote(str(folder.storage))}")
    if not is_url(str(folder.report)):
        command = f"{OPENER} " if shutil.which(OPENER) else ""
        print(f"open:   {command}{shlex.quote(f'{folder.report}/index.html')}")


def _say_failures(folder: RunFolder, report: Mapping[str, Any], way_out: str) -> None:
    """Say how many failures there are, followed by ``way_out``, and their causes."""
    told = f"{counted(len(report['failures']), 'failure')}, listed in {folder.report}/failures.csv{way_out}"
    say(told, event="failures", level="warning")
    groups = report["failure_groups"]
    for group in groups[:SHOWN_GROUPS]:
        say(describe_group(group), event="failures of one cause", level="warning", **group)
    if len(groups) > SHOWN_GROUPS:
        say(f"and {len(groups) - SHOWN_GROUPS} other causes, listed in {folder.report}/failure_groups.csv", level="warning")
