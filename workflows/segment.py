"""Segment images: plan, run, report; retry and stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.config import RUN, Config, Recipe, config_from, load_config, read_yaml, settled, to_yaml
from pipeline.engine import Job
from pipeline.errors import InputError, Problem
from pipeline.inputs import Catalogue, build_catalogue, file_hash, fingerprint
from pipeline.records import Receipt, RunFolder, Tally, latest, read_rows, tally
from pipeline.report import planned, print_table, report_of, write_report
from pipeline.scheduling import EXIT_INTERRUPTED, Order, Stage, complete, execute, make_job, plan_row, recount
from pipeline.storage import put_text
from pipeline.training.schema import TRAIN, is_training
from pipeline.tuning import Choice, calibrate, choose, keep, measure, measure_backends, measure_file, runner_of
from workflows._overwriting import refuse_overwriting
from workflows.catalog import parse

__all__ = ["refuse_training", "report", "retry", "run", "run_resolved", "segment", "stop"]


def run(
    config_path: Path, overrides: Sequence[str] = (), *, fresh: bool = False, take_over: bool = False, max_failed: int | None = None
) -> int:
    """Plan, segment and report what a YAML describes; again, it resumes.

    Returns:
        The exit code: 0 done, 3 done but for what is quarantined, 130 interrupted.

    Raises:
        GigasegError: wrong input, or the run could not go on.
    """
    refuse_training(config_path)
    return run_resolved(load_config(config_path, overrides), fresh=fresh, take_over=take_over, max_failed=max_failed)


def refuse_training(config_path: Path) -> None:
    """Refuse a YAML with keys that only a training has, and none that only a run has: all of them would be unknown."""
    data = read_yaml(config_path).data
    of_run, of_training = (form.tree.model_fields.keys() for form in (RUN, TRAIN))
    if is_training(data) and data.keys().isdisjoint(of_run - of_training):
        found = f"{', '.join([key for key in data if key not in of_run][:3])}, as in a training"
        raise InputError(Problem(str(config_path), found, "the keys of a run", f"Is `gigaseg train {config_path}` meant?"))


def segment(images: Sequence[str], model: str, output: Path, overrides: Sequence[str] = ()) -> int:
    """Do as :func:`run` does without a YAML; the folder's config.yaml is the one it used."""
    mapping = {"images": list(images), "model": parse(model, "--model"), "output": str(output)}
    return run_resolved(config_from(mapping, Path.cwd(), "command line", overrides))


def run_resolved(
    config: Config,
    *,
    fresh: bool = False,
    take_over: bool = False,
    max_failed: int | None = None,
    again: Callable[[Receipt], bool] = lambda _: False,
) -> int:
    """Do as :func:`run` does, with a config that is at hand; ``again`` chooses receipts of failures that are forgotten."""
    found = build_catalogue(config)
    folder = RunFolder(config.output)
    if not fresh:
        folder.refuse_other(found.identity)
    choice = _recipe(found, folder, anew=fresh)
    refuse_overwriting(found, folder, ["config.yaml", *plan_row(found, make_job(found, choice.recipe), {})["outputs"]])
    if fresh:  # not before all that can be wrong has been looked at
        folder.clear(take_over=take_over)
    choice = _calibrated(found, choice)
    job = make_job(found, choice.recipe)
    stages = _stages(found, job, folder)
    model = {"name": config.model["name"], "sha256": _model_hash(found)}
    notes = [*found.notes, *choice.notes]
    order = Order(
        folder=folder,
        job=job,
        stages=stages,
        plan=plan_row(found, job, model),
        runner=runner_of(found),
        compute=config.compute,
        run=_fields(found, choice, model, notes),
        config=to_yaml(_settled(config, choice.recipe)),
        again=again,
        max_failed=max_failed,
    )
    for note in notes:
        print(note, file=sys.stderr)
    with _clean(folder):
        code, done = execute(order, take_over=take_over)
    _report(folder, order.plan, done)
    _say(folder, job, code)
    return code


def _stages(found: Catalogue, job: Job, folder: RunFolder) -> dict[str, list[Stage]]:
    """All that the run needs; where masks are done and only the truth is new, no more than counting them again."""
    stages = complete(found, job)
    if not folder.ledger.is_dir():
        return stages
    known = latest(read_rows(folder.ledger))
    return {name: recount(found, job, list(some), known) for name, some in stages.items()}


@contextmanager
def _clean(folder: RunFolder) -> Iterator[None]:
    """Leave no new folder behind where the input proves wrong before anything is done: weights are read late, by the actors."""
    is_new = not folder.ledger.exists()
    try:
        yield
    except InputError:
        if is_new and folder.ledger.exists() and not any(row.ok for row in read_rows(folder.ledger)):
            folder.clear()
            with suppress(OSError):
                folder.path.rmdir()  # it stays where it holds what is not ours
        raise


def _settled(config: Config, recipe: Recipe) -> Config:
    """The config with what was chosen in place of ``auto``: run elsewhere, it gives the same masks."""
    sections = {name: getattr(config, name) for name in ("tiling", "compute")}
    chosen = settled({name: section.model_dump() for name, section in sections.items()}, recipe.to_dict())
    return config.model_copy(update={name: section.model_copy(update=chosen[name]) for name, section in sections.items()})


def _fields(found: Catalogue, choice: Choice, model: Mapping[str, Any], notes: Sequence[str]) -> dict[str, Any]:
    """What run.json says before the run begins."""
    tried = {"trial": choice.trial, "calibration": choice.calibration}
    fields = {"identity": found.identity, "recipe": choice.recipe.to_dict(), "notes": notes, "model": model}
    return {**fields, **{name: asdict(one) for name, one in tried.items() if one}}


def _recipe(found: Catalogue, folder: RunFolder, *, anew: bool) -> Choice:
    """The recorded recipe where the folder has one, so that a resumed run is the same run; else one is chosen."""
    recorded = None if anew else folder.read().get("recipe")
    if recorded is not None:
        measure_file(found)
        kept = keep(found, recorded)
        return replace(kept, notes=(*kept.notes, *folder.other_versions()))
    found.model.check()
    return choose(found, measured=measure(found), outcome=measure_backends(found, anew=anew))


def _calibrated(found: Catalogue, choice: Choice) -> Choice:
    """The choice with the network that int8 is calibrated for, where none is recorded."""
    if choice.recipe.precision != "int8" or choice.recipe.calibrated:
        return choice
    recipe, calibration = calibrate(found, choice.recipe, found.config.output)
    return replace(choice, recipe=recipe, notes=(*choice.notes, str(calibration)), calibration=calibration)


def _model_hash(found: Catalogue) -> str | None:
    """SHA-256 of the model's file; of several, of their hashes; None where the model has none."""
    hashes = [file_hash(Path(path)) for path in found.model.files()]
    return None if not hashes else hashes[0] if len(hashes) == 1 else fingerprint(hashes)


def _report(folder: RunFolder, plan: Mapping[str, Any], done: Tally) -> dict[str, Any]:
    content = report_of(plan, done, folder.read().get("state", "running"))
    write_report(content, folder.report)
    return content


def _say(folder: RunFolder, job: Job, code: int) -> None:
    """The table on stdout, and where things are."""
    from rich.console import Console

    content = json.loads((folder.report / "report.json").read_text())
    console = Console(soft_wrap=True)
    if code == EXIT_INTERRUPTED:
        print(f"interrupted; the same command goes on where it stopped. {folder.path}", file=sys.stderr)
        return
    print_table(content, console)
    print(f"masks:  {folder.path / job.masks}")
    print(f"report: {folder.report / 'index.html'}")
    failures = content["failures"]
    if failures:
        print(
            f"{len(failures)} failures, listed in {folder.report / 'failures.csv'}; try them again: gigaseg retry {folder.path}",
            file=sys.stderr,
        )


def retry(folder_path: Path, block: str | None = None) -> int:
    """Run quarantined blocks again, all or one; everything else stays as it is."""
    folder = RunFolder(folder_path.absolute())
    identity = _require_run(folder, f"Is `gigaseg train {folder.path / 'config.yaml'}` meant?").get("identity", {})
    if other := next((name for name in ("evaluate", "convert") if name in identity), None):
        raise InputError(Problem(str(folder.path), f"the output of `gigaseg {other}`", "that of a run", f"Run gigaseg {other} again."))
    failed = [receipt for receipt in latest(read_rows(folder.ledger)).values() if not receipt.ok]
    if block is not None and block not in {receipt.block for receipt in failed}:
        names = ", ".join(dict.fromkeys(receipt.block for receipt in failed)) or "none is quarantined"
        raise InputError(Problem("--block", repr(block), names))
    config = load_config(folder.path / "config.yaml").model_copy(update={"output": folder.path})  # it may have been moved
    return run_resolved(config, again=lambda receipt: block is None or receipt.block == block)


def report(folder_path: Path) -> int:
    """Write the report again, from the ledger alone, and print the table."""
    from rich.console import Console

    folder = RunFolder(folder_path.absolute())
    scores = folder.path / "val"
    _require_run(folder, f"Its scores are in {scores}: gigaseg report {scores}")
    plan = folder.last_plan()
    if not plan:
        way_out = "Run it again; a report follows."
        raise InputError(Problem(str(folder.path), "a run that ended before it had begun with any block", "one that has", way_out))
    done = planned(plan, tally(read_rows(folder.ledger)))
    print_table(_report(folder, plan, done), Console(soft_wrap=True))
    print(f"report: {folder.report / 'index.html'}")
    return 0


def _require_run(folder: RunFolder, way_out: str) -> dict[str, Any]:
    """Content of run.json, of anything but a training."""
    found = folder.require()
    if found.get("kind") == "training":
        raise InputError(Problem(str(folder.path), "the output of a training", "that of a run", way_out))
    return found


def stop(folder_path: Path) -> int:
    """Ask a run to finish the blocks in flight and end; it can be resumed."""
    folder = RunFolder(folder_path.absolute())
    found = folder.require()
    put_text(folder.stop_flag, "")
    print(f"asked to stop: {folder.path} ({found['state']})", file=sys.stderr)
    return 0
