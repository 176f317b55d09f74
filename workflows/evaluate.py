"""Score masks that exist, through the same counting as a run's own."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.config import Config, Recipe, config_from, load_classes
from pipeline.engine import Job
from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.inputs import Candidate, Catalogue, build_catalogue
from pipeline.plugins import build
from pipeline.readers import known_suffixes
from pipeline.records import RunFolder, Tally
from pipeline.report import print_table, report_of, write_report
from pipeline.scheduling import Order, execute, one_stage, plan_row

__all__ = ["evaluate"]

BLOCK = 2048


def evaluate(pred: str, truth: str, classes: Path | None, ignore: str | None, output: Path) -> int:
    """Count predicted masks against truth, and report.

    Args:
        pred: masks that hold class ids: file, folder, glob, CSV or the output folder of a run; 255 (65535 in 16 bits) means no prediction.
        truth: a file, a folder of files with the same names, or a template such as ``truth/{stem}.png``.
        classes: a YAML with the list of classes; None: as many as the largest id in masks and truth says.
        ignore: a truth value, or a colour ``#rrggbb``, that is left out.
        output: folder of the report.

    Returns:
        The exit code: 0 done, 3 done but for masks that cannot be counted.

    Raises:
        InputError: wrong input, or a mask that holds what is no class id.
    """
    from rich.console import Console

    with _listed(pred) as masks:
        config = _config(masks, truth, classes, ignore, output)
        found = build_catalogue(config)
    _require_masks(found)
    folder = RunFolder(config.output)
    is_new = not folder.ledger.exists()
    identity = {"evaluate": {"pred": pred, "truth": config.truth}}
    folder.refuse_other(identity)
    job = Job(folder.path, Recipe(core=BLOCK, block=BLOCK), classes=found.classes, truth_map=found.truth_map)
    plan = plan_row(found, job, {"name": None, "sha256": None}) | {"outputs": []}
    order = Order(folder, job, one_stage(found, job, "count"), plan, "serial", config.compute, run={"identity": identity})
    code, done = execute(order)
    paths = {image.name: image.path for image in found.images}
    strange = {paths[one.image]: one.cause for one in reversed(done.receipts.values()) if "is not a class id" in one.cause}
    if strange:
        if is_new:
            folder.discard()
        problems = [f"{path}: {cause}" for path, cause in sorted(strange.items())]
        raise InputError([*problems, "Name the classes with --classes, or mend the masks."])
    content = report_of(plan, done, folder.read().get("state", "running"))
    write_report(content, folder.report)
    print_table(content, Console(soft_wrap=True))
    print(f"report: {folder.report / 'index.html'}")
    _warn(found, done)
    if content["failures"]:
        print(f"{len(content['failures'])} failures, listed in {folder.report / 'failures.csv'}", file=sys.stderr)
    return code


@contextmanager
def _listed(pred: str) -> Iterator[str]:
    """What to read: for the output folder of a run, or its ``masks``, a list of one file a mask, else what was given."""
    path = Path(pred)
    run = RunFolder((path.parent if path.name == "masks" and not (path / "ledger").is_dir() else path).absolute())
    masks, suffixes = dict[str, Path](), known_suffixes()
    for place in run.last_plan().get("outputs", []):  # OME-Zarr first
        if place.startswith("masks/") and place.endswith(suffixes) and (run.path / place).exists():
            masks.setdefault(Candidate(place.removeprefix("masks/")).short(suffixes), run.path / place)
    if not masks:
        yield pred
        return
    with TemporaryDirectory() as folder:
        listed = Path(folder) / "masks.csv"
        with listed.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "name"), *((path, name) for name, path in masks.items())])
        yield str(listed)


def _warn(found: Catalogue, done: Tally) -> None:
    """Say on stderr that masks which no run of ours has written hold the value of no prediction: a class may be meant."""
    images = {image.name: image for image in found.images if not _is_ours(Path(image.path))}
    missing: Counter[str] = Counter()
    for one in done.receipts.values():
        if one.counts is not None and one.image in images:
            missing[one.image] += one.counts.no_prediction
    names = list(+missing)
    if names:
        first = images[names[0]]
        fill = 255 if np.dtype(first.header.dtype).itemsize == 1 else 65535
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        way_out = "Where a class is meant, save its id, such as 1."
        print(f"{first.path}{more}: {fill} means no prediction ({missing.total():,} px). {way_out}", file=sys.stderr)


def _is_ours(mask: Path) -> bool:
    """Whether a mask lies in the output folder of a run."""
    return any(parent.name == "masks" and (parent.parent / "ledger").is_dir() for parent in mask.parents)


def _config(pred: str, truth: str, classes: Path | None, ignore: str | None, output: Path) -> Config:
    """The YAML that says the same."""
    mapping: dict[str, Any] = {
        "images": [pred],
        "truth": _template(truth),
        "ignore": int(ignore) if ignore and ignore.lstrip("-").isdigit() else ignore,
        "model": {"name": "identity", "classes": 2},
        "output": str(output),
    }
    if classes:
        specs = load_classes(classes)
        mapping["classes"] = [spec.model_dump(mode="json", exclude_none=True) for spec in specs]
        mapping["model"] = {"name": "identity", "classes": max(len(specs), 2)}
    else:
        mapping["model"] = {"name": "identity", "classes": _count_classes(config_from(mapping, Path.cwd(), "evaluate"))}
    return config_from(mapping, Path.cwd(), "evaluate")


def _template(truth: str) -> str:
    """A folder means the file of the same name in it."""
    folder = Path(truth)
    is_store = any((folder / name).exists() for name in ("zarr.json", ".zgroup", ".zarray"))
    return f"{truth.rstrip('/')}/{{name}}.*" if folder.is_dir() and not is_store else truth


def _count_classes(config: Config) -> int:
    """One more than the largest id in any mask or truth, block by block; the values of no prediction and ``ignore`` are no ids."""
    found = build_catalogue(config)
    largest = 1
    paths = [(image.path, dict(image.reader)) for image in found.images]
    paths += [(image.truth, {"name": "auto"}) for image in found.images if image.truth]
    for path, reader in paths:
        with build("readers", reader).open(path) as raster:
            header = raster.header
            fill = 255 if header.dtype == "uint8" else 65535
            for plane in range(header.num_planes):
                for top in range(0, header.shape[0], BLOCK):
                    for left in range(0, header.shape[1], BLOCK):
                        box = Box(top, left, top + BLOCK, left + BLOCK).clip(header.shape)
                        ids_YX = raster.read(box, plane)[0]
                        ids = ids_YX[(ids_YX != fill) & (ids_YX != (config.ignore if isinstance(config.ignore, int) else fill))]
                        largest = max(largest, int(ids.max(initial=0)))
    if largest >= 65535:
        raise InputError(Problem("--classes", f"ids up to {largest}", "class ids", "Are these instance ids? Map them with --classes."))
    return largest + 1


def _require_masks(found: Catalogue) -> None:
    """Refuse what cannot be masks."""
    problems = [
        Problem(image.path, f"{image.header.channels} channels of {image.header.dtype}", "one channel of class ids")
        for image in found.images
        if image.header.channels != 1 or image.header.dtype.startswith("float")
    ]
    if found.truth_map is None:
        problems.append(Problem("--truth", "no truth for any mask", "one file a mask"))
    if problems:
        raise InputError(problems)
