"""Start a run on a cluster, or look after one that was submitted: only the driver runs elsewhere, the run is the same."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pipeline.config import KeyLocations, load_config, read_yaml
from pipeline.errors import InputError, Problem
from pipeline.plugins import build, find
from pipeline.targets import Submission, Target
from pipeline.validation import quote
from workflows.run import refuse_training

__all__ = ["only_one", "submit"]

Action = Literal["submit", "wait", "dry_run", "logs", "stop"]


def submit(
    config: Path, overrides: Sequence[str], *, to: str, flags: Mapping[str, Any], options: Path | None = None, action: Action = "submit"
) -> int:
    """Start a run on a cluster; a run that waits or runs there is not started twice, and one that has ended resumes.

    Args:
        config: the YAML of the run. Its paths must mean the same on the cluster's machines, where gigaseg must be installed.
        overrides: ``key.sub=value`` each, as after ``--set``.
        to: name of the target.
        flags: options of the target from the command line; None: not given.
        options: a YAML with options of the target; flags come before it.
        action: ``submit``; ``wait`` for the end as well; ``dry_run``: print what would be sent; ``logs``: print what the last job of
            this run printed; ``stop`` it.

    Returns:
        0; after waiting the exit code of the run, or 5 where the cluster no longer answers.

    Raises:
        InputError: the input is wrong, or no cluster answers.
        GigasegError: the cluster refused the run.
    """
    refuse_training(config)
    resolved = load_config(config, overrides)
    target = target_of(to, flags, options)
    if action == "wait" and getattr(target, "schedule", None) is not None:
        raise InputError(Problem("--wait", "with --schedule", "one of them", "A schedule has no end; --logs shows its last run."))
    submission = Submission(resolved, target.runner)
    if action == "dry_run":
        print(target.render(submission))
    elif action == "logs":
        print(target.logs(submission))
    elif action == "stop":
        print(f"asked to stop: {target.stop(submission)}", file=sys.stderr)
    else:
        job = target.submit(submission)
        print(job)
        return target.follow(submission, job) if action == "wait" else 0
    return 0


def only_one(asked: Mapping[str, bool]) -> Any:
    """Return what the flags ask for, ``submit`` without any; raises InputError where they ask for two things."""
    actions = [action for action, is_asked in asked.items() if is_asked]
    if len(actions) > 1:
        flags = " and ".join(f"--{action.replace('_', '-')}" for action in actions)
        raise InputError(Problem("submit", flags, "one of them"))
    return actions[0] if actions else "submit"


def target_of(name: str, flags: Mapping[str, Any], options: Path | None) -> Target:
    """Build a target from its YAML and the flags of the command line; a message names the flag, or the line of the YAML."""
    data, written = ({}, KeyLocations()) if options is None else options_of(options)
    set_by_flags = {key: value for key, value in flags.items() if value is not None}
    find("targets", name, "--to")
    try:
        target: Target = build("targets", {**data, **set_by_flags, "name": name}, name)
    except InputError as error:
        raise InputError(_placed(problem, name, flags, written) for problem in error.problems) from error
    return target


def options_of(path: Path) -> tuple[dict[str, Any], KeyLocations]:
    """Read the options of a target from a YAML; return them, and where each is written."""
    document = read_yaml(path)
    if document.problems or not isinstance(document.data, dict):
        raise InputError(document.problems or Problem(str(path), quote(document.data), "options of a target: a mapping"))
    if "name" in document.data:
        raise InputError(
            Problem(document.locations.where("name"), "unknown key 'name'", "options of a target", "Its name stands after --to.")
        )
    return document.data, document.locations


def _placed(problem: Problem | str, name: str, flags: Mapping[str, Any], written: KeyLocations) -> Problem | str:
    """Return a problem of an option with the place where the user gave it; ``name`` is that of the target, a flag of None was not given."""
    if isinstance(problem, str):
        return problem
    key = problem.where.removeprefix(name).removeprefix(".")
    flag = f"--{key.replace('_', '-')}"
    if flags.get(key) is not None:
        return replace(problem, where=f"--to {name} {flag}")
    if problem.found is None:
        problem = replace(problem, fix=f"Set it by {flag} or in --options." if key in flags else "Set it in --options.")
    return replace(problem, where=written.where(key) if written.lines else f"--to {name}: {key}")
