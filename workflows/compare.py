"""Compare two runs or two trainings, image by image, from their ledgers or reports alone."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.records import RunFolder
from pipeline.report import compare_reports, print_comparison, write_comparison
from pipeline.storage import Storage, open_storage
from workflows.report import report_now, require_segmentation

__all__ = ["compare"]

VALIDATION = "val"  # in the output folder of a training: the run of its bundle over the validation images
UNLIKE_RUN = ("output",)  # keys that differ without a meaning
UNLIKE_TRAINING = ("output", "compute", "resume", "checkpoint_minutes")  # also those that change its speed alone
FILES = ("comparison.json", "comparison.csv", "comparison.html")


def compare(first: str, second: str, output: str | None = None, *, as_json: bool = False) -> int:
    """Compare B with A, write comparison.json, comparison.csv and comparison.html, and print the tables. Returns 0.

    Args:
        first: A, the output of a run, of ``evaluate`` or of a training, or a folder that holds a report.json.
        second: B, likewise. Of a training, the run of its bundle over the validation images is compared.
        output: folder or URL of the files; None: beside the report of A.
        as_json: print the content of comparison.json instead of tables.

    Raises:
        InputError: one of them has no report, they cannot be compared, or the files would replace others.
    """
    from rich.console import Console

    one, other = read_compared(first), read_compared(second)
    where = one.beside if output is None else open_storage(output, to_write=True)
    refuse_files_of_others(where)
    settings = None if one.settings is None or other.settings is None or one.kind != other.kind else (one.settings, other.settings)
    kind = "training" if one.kind == other.kind == "training" else "run"
    try:
        content = compare_reports(one.report, other.report, (first, second), settings=settings, kind=kind)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:  # a report.json is any file that somebody gives
        found = f"a report.json that lacks something, or is damaged ({type(error).__name__}: {error})"
        raise InputError(Problem(f"{first} and {second}", found, "two of gigaseg", "Write them again: gigaseg report DIR")) from error
    write_comparison(content, where)
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print_comparison(content, Console(soft_wrap=True))
        print(f"comparison: {where}/comparison.html")
    return 0


@dataclass(frozen=True)
class Compared:
    """What is known of A or of B.

    Attributes:
        report: the content of report.json.
        beside: the storage in which it belongs.
        settings: the YAML, without what must differ; None: there is none.
        kind: ``run`` or ``training``.
    """

    report: dict[str, Any]
    beside: Storage
    settings: dict[str, Any] | None = None
    kind: str = "run"


def read_compared(output: str) -> Compared:
    """Read the report of an output folder, and the YAML where there is one; of a training, the report of its run ``val``.

    Raises:
        InputError: there is no report, or it is damaged.
    """
    folder = RunFolder(output)
    if folder.storage.exists() and folder.read().get("kind") == "training":
        found = RunFolder(f"{output.rstrip('/')}/{VALIDATION}")
        if not found.ledger.exists() or not found.last_plan():
            state = f"a training without scores ({folder.read().get('state', 'begun')})"
            raise InputError(Problem(output, state, "one that has ended", f"It goes on with: gigaseg train {output}/config.yaml"))
        report, beside = read_report(str(found.storage))
        return Compared(report, beside, read_settings(folder, UNLIKE_TRAINING), "training")
    report, beside = read_report(output)
    return Compared(report, beside, read_settings(folder, UNLIKE_RUN) if folder.ledger.exists() else None)


def read_settings(folder: RunFolder, without: Collection[str]) -> dict[str, Any] | None:
    """Return the YAML of an output folder, without some keys; None: there is none."""
    import yaml

    content = yaml.safe_load(folder.read_config_text() or "null")
    return {key: value for key, value in content.items() if key not in without} if isinstance(content, dict) else None


def read_report(output: str) -> tuple[dict[str, Any], Storage]:
    """Return the content of report.json, from the ledger where there is one, and the storage in which it belongs.

    Raises:
        InputError: there is none, or it is damaged.
    """
    folder = RunFolder(output)
    if folder.ledger.exists():
        report = report_now(folder, require_segmentation(folder).get("state", "running"))
        with suppress(InputError):  # scores of masks that existed have no config
            report["model"]["path"] = folder.read_config().model.get("path")
        return report, folder.report
    found = next((one for one in (folder.report, folder.storage) if one.exists() and one.has("report.json")), None)
    if found is None:
        expected = "the output of a run, of `evaluate` or of a training, or a folder with a report.json"
        raise InputError(Problem(output, "no run and no report.json", expected, "Is the path right?"))
    content = read_json(found, "report.json")
    if content.get("format") != "gigaseg.report/1":
        raise InputError(Problem(f"{found}/report.json", "another file, or a damaged one", "a report.json of gigaseg"))
    return content, found


def refuse_files_of_others(where: Storage) -> None:
    """Raise InputError where a file would be replaced that no comparison has written."""
    existing = [name for name in FILES if where.has(name)] if where.exists() else []
    if existing and not str(read_json(where, "comparison.json").get("format", "")).startswith("gigaseg.comparison/"):
        found = f"{existing[0]}, which no comparison has written"
        raise InputError(Problem(str(where), found, "a folder without it", "Choose another folder with -o."))


def read_json(storage: Storage, name: str) -> dict[str, Any]:
    """Return an object that a JSON file holds; empty where it holds anything else."""
    try:
        content = json.loads(storage.get(name) or b"")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
