"""What the page of a report says in words: the headline, facts with their units, commands that people want next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.errors import counted
from pipeline.web import in_area, in_bytes, in_digits, in_percent, in_pixels, in_seconds

__all__ = [
    "PHASES",
    "STAGES",
    "STATES",
    "Fact",
    "commands_of",
    "headline_of",
    "main_facts",
    "missing_parts",
    "provenance_facts",
    "recipe_facts",
    "score_facts",
    "time_facts",
]

STATES = {
    "done": "finished",
    "partial": "finished, but some of it failed",
    "failed": "could not go on",
    "interrupted": "interrupted: run it again and it goes on",
    "running": "still running: this is what is known so far",
}
STAGES = {"read": "reading", "compute": "model", "stitch": "stitching", "count": "counting", "write": "writing"}
PHASES = {
    "appearance": "comparing with the training images",
    "copy": "copying",
    "tissue": "finding what counts",
    "skip": "finding what to skip",
    "fit": "statistics of the images",
    "score": "scores that blend",
    "predict": "prediction",
    "label": "objects of each block",
    "match": "objects across blocks",
    "join": "joining objects",
    "measure": "measuring objects",
    "tabulate": "table of objects",
    "label_truth": "truth objects of each block",
    "match_truth": "truth objects across blocks",
    "join_truth": "joining truth objects",
    "pair": "comparing objects",
    "count_objects": "counting objects",
    "finish": "pyramid and exports",
    "count_areas": "areas and zones",
    "count": "counting the masks",
    "count_change": "areas from class to class",
}
SCORES = {
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixels that are right",
    "frequency_weighted_iou": "IoU weighted by class area",
    "micro_f1": "F1 over all pixels",
    "cross_entropy": "cross-entropy, nats a pixel",
}


class Fact(NamedTuple):
    """A word, its value as text, and what else there is to say."""

    word: str
    value: str
    note: str = ""


class Missing(NamedTuple):
    """Pixels without a prediction: skipped on purpose, also as the first class; without data; failed or not done yet."""

    skipped: int
    no_data: int
    failed: int


def headline_of(report: Mapping[str, Any]) -> str:
    """Return the result in one line.

    Example:
        >>> image = {"pixels": 9, "no_prediction": 0, "skipped": 0}
        >>> headline_of({"images": 1, "per_image": [image], "mean_iou": 0.92456, "failure_groups": []})
        '1 of 1 image, mean IoU 0.925'
    """
    images = report["images"]
    whole = sum(one["pixels"] > 0 and missing_parts(one).failed == 0 for one in report["per_image"])
    parts = [f"{whole:,} of {counted(images, 'image') if images < 1000 else f'{images:,} images'}"]
    if report.get("mean_iou") is not None:
        parts.append(f"mean IoU {in_digits(report['mean_iou'])}")
    elif report.get("instances"):
        objects = sum(one["predicted"] for one in report["instances"])
        parts.append(counted(objects, "object") if objects < 1000 else f"{objects:,} objects")
    return ", ".join([*parts, *_failed(report["failure_groups"])])


def _failed(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how much failed, by what it is."""
    words = {"block": ("block failed", "blocks failed"), "plan": ("image could not be opened", "images could not be opened")}
    words |= {"count": ("truth could not be counted", "truths could not be counted"), "image": ("image failed", "images failed")}
    sums: dict[str, int] = {}
    for group in groups:
        kind = next((one for one in group["phases"] if one in words), "image") if group["unit"] == "image" else "block"
        sums[kind] = sums.get(kind, 0) + group["units"]
    return [counted(number, *words[kind]) for kind, number in sums.items()]


def main_facts(report: Mapping[str, Any], run: Mapping[str, Any], area: tuple[float, str] | None) -> list[Fact]:
    """Return what stands below the headline.

    Args:
        report: the content of report.json.
        run: the content of run.json; may be empty.
        area: of all images, in the square of a unit.
    """
    facts = [Fact("State", STATES.get(report["state"], report["state"]))]
    size, exact = in_pixels(report["pixels"]), f"{report['pixels']:,} px"
    facts.append(Fact("Size", size, in_area(*area) if area else exact if exact != size else ""))
    if run.get("seconds") is not None:
        resumed = "since it was resumed" if run.get("blocks_before") else ""
        facts.append(Fact("Time", in_seconds(run["seconds"]), resumed or _speed(report, run)))
    if report.get("mean_iou") is not None:
        facts.append(Fact("Mean IoU", in_digits(report["mean_iou"]), _interval(report.get("mean_iou_interval"))))
    if report.get("overlap_agreement") is not None:
        facts.append(Fact("Overlapping tiles agree", in_percent(report["overlap_agreement"]), "of the pixels that two tiles see"))
    missing = report["no_prediction"]
    facts.append(Fact("No prediction", in_percent(missing / report["pixels"]) if report["pixels"] else "–", _missing(report)))
    return facts


def _interval(interval: Sequence[float] | None) -> str:
    return f"95 % interval {in_digits(interval[0])} to {in_digits(interval[1])}" if interval else ""


def _missing(report: Mapping[str, Any]) -> str:
    parts = zip(missing_parts(report), ("skipped on purpose", "without data", "failed or not done"), strict=True)
    return "; ".join(f"{in_pixels(pixels)} {word}" for pixels, word in parts if pixels > 0) or "every pixel has one"


def missing_parts(counts: Mapping[str, Any]) -> Missing:
    """Return why pixels of an image, or of all, have no prediction of the model.

    A report of an earlier version does not tell missing data apart: all that was not skipped then counts as failed.

    Example:
        >>> missing_parts({"no_prediction": 9, "skipped": 2, "quarantined": 3, "no_data": 4, "not_done": 0})
        Missing(skipped=2, no_data=4, failed=3)
    """
    skipped, missing = counts["skipped"], counts["no_prediction"]
    if "no_data" not in counts:
        return Missing(skipped, 0, max(0, missing - skipped))
    return Missing(skipped, counts["no_data"], counts["quarantined"] + counts["not_done"])


def _speed(report: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return pixels a second; empty: it is not known, as of a run that was resumed by an earlier version."""
    speed = run.get("pixels_per_second")
    if speed is None and run.get("seconds") and not run.get("blocks_before"):
        speed = report["pixels"] / run["seconds"]
    return f"{in_pixels(speed)} a second" if speed else ""


def score_facts(report: Mapping[str, Any]) -> list[Fact]:
    """Return the scores over all classes, those that are known."""
    percent = ("pixel_accuracy",)
    known = [(key, word, report[key]) for key, word in SCORES.items() if report.get(key) is not None]
    return [Fact(word[0].upper() + word[1:], in_percent(value) if key in percent else in_digits(value)) for key, word, value in known]


def time_facts(report: Mapping[str, Any], run: Mapping[str, Any]) -> list[Fact]:
    """Return how long it took, how fast it was and in how much memory."""
    timing, facts = report["timing"], []
    stages, actors = timing.get("stage_seconds") or {}, timing.get("actors") or []
    if run.get("seconds"):
        facts.append(Fact("Time from start to end", in_seconds(run["seconds"]), "since it was resumed" if run.get("blocks_before") else ""))
    if stages:
        facts.append(Fact("Busy time of all actors", in_seconds(sum(stages.values())), counted(len(actors), "actor") if actors else ""))
    if speed := _speed(report, run):
        facts.append(Fact("Speed", speed))
    if run.get("busy_share") is not None:
        facts.append(Fact("Share of busy device", in_percent(run["busy_share"]), f"how much of the time {_device(run)} computed"))
    if timing.get("peak_actor_bytes"):
        facts.append(Fact("Peak memory of an actor", in_bytes(timing["peak_actor_bytes"])))
    return facts


def _device(run: Mapping[str, Any]) -> str:
    return "the GPU" if (run.get("recipe") or {}).get("device") == "cuda" else "the CPU"


def recipe_facts(recipe: Mapping[str, Any]) -> list[Fact]:
    """Return what fixed the numbers, those parts that are known."""
    words = {
        "backend": ("Backend", "{}"),
        "device": ("Device", "{}"),
        "precision": ("Precision", "{}"),
        "core": ("Core of a tile", "{} px"),
        "halo": ("Context around it", "{} px"),
        "block": ("Block", "{} px"),
        "stitch": ("Stitching", "{}"),
        "batch": ("Tiles at a time", "{}"),
        "threads": ("Threads of an actor", "{}"),
    }
    return [Fact(word, form.format(recipe[key])) for key, (word, form) in words.items() if recipe.get(key) is not None]


def provenance_facts(report: Mapping[str, Any], run: Mapping[str, Any]) -> list[Fact]:
    """Return model, machine and times."""
    model, hardware, facts = report.get("model") or {}, run.get("hardware") or {}, []
    if model.get("name"):
        path = (run.get("identity") or {}).get("model", {}).get("path")
        facts.append(Fact("Model", f"{model['name']} {path}" if path else str(model["name"])))
    if model.get("sha256"):
        facts.append(Fact("Hash of the model", str(model["sha256"])))
    if hardware.get("host"):
        cores = f"{counted(hardware['cores'], 'core')}, " if hardware.get("cores") else ""
        facts.append(Fact("Machine", str(hardware["host"]), f"{cores}{in_bytes(hardware.get('memory_bytes'))} of memory"))
    if hardware.get("system"):
        facts.append(Fact("System", str(hardware["system"])))
    gpus = hardware.get("gpus")
    if gpus:
        facts.append(Fact("GPUs", ", ".join(map(str, gpus)) if isinstance(gpus, (list, tuple)) else str(gpus)))
    return [*facts, *(Fact(word, _moment(run[key])) for key, word in (("started", "Started"), ("ended", "Ended")) if run.get(key))]


def _moment(text: str) -> str:
    """Return a time of ISO 8601 as people write it; any other text as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %z")
    except ValueError:
        return text


def commands_of(output: str | None, state: str, run: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the commands that people want next, quoted for a shell; none where the folder is not known.

    Args:
        output: URL or path of the run's folder.
        state: of the run.
        run: the content of run.json: masks that were scored are neither run again nor tried again by these commands.

    Example:
        >>> commands_of("runs/my demo", "partial")
        {'view': "gigaseg view 'runs/my demo'", 'retry': "gigaseg retry 'runs/my demo'"}
    """
    if not output:
        return {}
    found = {"view": f"gigaseg view {shlex.quote(output)}"}
    if (run or {}).get("kind") == "training" or {"evaluate", "convert"} & ((run or {}).get("identity") or {}).keys():
        return found
    if state in ("interrupted", "failed"):
        found["resume"] = f"gigaseg run {shlex.quote(output + '/config.yaml')}"
    return {**found, "retry": f"gigaseg retry {shlex.quote(output)}"}
