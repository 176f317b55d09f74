"""Score masks that exist, through the same counting as a run's own."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.config import Config, Recipe, config_from_mapping, is_url, load_classes
from pipeline.engine import PART_FOLDER, THUMBNAIL_FOLDER, Job
from pipeline.errors import InputError, Problem, counted
from pipeline.geometry import Box
from pipeline.inputs import (
    TRUTH_READER,
    Catalogue,
    Image,
    build_catalogue,
    first_of,
    list_images,
    open_image,
    open_truth,
)
from pipeline.raster import Raster
from pipeline.records import RunFolder
from pipeline.report import report_of
from pipeline.scheduling import RunSpec, Tally, execute, plan_blocks, plan_row
from workflows.change import classes_of_two, earlier_masks, listed_pairs
from workflows.pictured_report import write_pictured_report
from workflows.run import print_result
from workflows.run_masks import classes_of, is_of_a_run, on_other_grids, run_masks, run_of

__all__ = ["evaluate", "listed_classes", "score_masks", "scored_masks"]

BLOCK = 2048
NO_ID = re.compile("is not a class id|is not an object id")


def evaluate(
    pred: str,
    truth: str | Mapping[str, Any],
    classes: Path | None,
    ignore: str | None,
    output: str,
    *,
    instances: bool = False,
    change: bool = False,
) -> int:
    """Count predicted masks against truth, write the report and print its table.

    Args:
        pred: masks of class ids: file, folder, glob, CSV or the output of a run. 255 (65535 in 16 bits) means no prediction, and so
            do the file's nodata value, mask and alpha. Palettes are read as indices.
        truth: a file, a folder of files with the same names, or a template such as ``truth/{stem}.png``; or a mapping as in a config,
            for polygons: ``{"path": "buildings.gpkg", "attribute": "class"}``; or the output of an earlier run, whose masks are compared
            by name, else by place: the report then says what each class has become.
        classes: a YAML with the list of classes; None: the classes of the run that wrote the masks, else one for each id up to the largest.
        ignore: a truth value, or a colour ``#rrggbb``, that is left out; with an ``attribute`` of polygons also names, between commas.
        output: folder or URL of the report.
        instances: whether the masks are label images, which hold ids of objects of one class, 0 for none; of a run's output, its label
            images are scored. The truth holds ids as well, or one value: then its connected components are the objects.
        change: whether the truth is an earlier state of the masks, so that the report says what each class has become; an earlier run is.

    Returns:
        The exit code: 0 done, 3 done but for masks that cannot be counted.

    Raises:
        InputError: the input is wrong, or a mask holds a value that is no class id.
    """
    ignored = int(ignore) if ignore and ignore.lstrip("-").isdigit() else ignore
    if isinstance(truth, Mapping) and "attribute" in truth and isinstance(ignored, str) and not ignored.startswith("#"):
        truth, ignored = {**truth, "ignore": ignored.split(",")}, None
    listed = listed_classes(classes) if classes else None
    exit_code, report = score_masks([pred], truth, listed, ignored, output, instances=instances, change=change)
    print_result(RunFolder(output), report)
    return exit_code


def score_masks(
    pred: Sequence[str],
    truth: str | Mapping[str, Any],
    classes: Sequence[Mapping[str, Any]] | None,
    ignore: int | str | None,
    output: str,
    *,
    instances: bool = False,
    change: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Score one or several ``pred`` as :func:`evaluate` does, and print nothing on stdout; ``classes`` are those of a config.

    Returns:
        The exit code and the content of report.json.
    """
    catalogue = catalogue_of(pred, truth, classes, ignore, output, instances=instances)
    for note in catalogue.notes:
        print(note, file=sys.stderr)
    require_masks(catalogue)
    folder = RunFolder(catalogue.config.output)
    is_new = not folder.ledger.exists()
    earlier = run_of(truth) if isinstance(truth, str) else None
    told = str(earlier.storage) if earlier else catalogue.config.model_dump(mode="json")["truth"]
    given = {"pred": pred[0] if len(pred) == 1 else list(pred), "truth": told}
    identity = {"evaluate": {**given, **({"instances": True} if instances else {})}}
    folder.refuse_other(identity)
    job = job_of(catalogue, folder)
    plan = plan_row(catalogue, job, {"name": None, "sha256": None})
    plan["outputs"] = [key for key in plan["outputs"] if key.startswith((f"{PART_FOLDER}/", f"{THUMBNAIL_FOLDER}/"))]  # no mask
    if not instances and (earlier or change):
        plan["change"] = True
    scored = {"pred": [one if is_url(one) else str(Path(one).absolute()) for one in pred], "classes": classes, "ignore": ignore}
    run = {"identity": identity, "scored": scored}
    spec = RunSpec(folder, job, plan_blocks(catalogue, job), plan, "serial", catalogue.config.compute, run=run)
    exit_code, done = execute(spec)
    if problems := unknown_ids(catalogue, done):
        if is_new:
            folder.discard()
        raise InputError(problems)
    report = report_of(plan, done, folder.read().get("state", "running"))
    made_by = run_of(pred[0]) if len(pred) == 1 else None
    write_pictured_report(folder, plan, job, catalogue.images, report, made_by.storage if made_by else None)
    warn_of_single_ids(report) if instances else warn_of_fill_values(catalogue, done)
    return exit_code, report


def job_of(catalogue: Catalogue, folder: RunFolder) -> Job:
    """Return what is told to whatever counts the masks."""
    return Job(
        folder.storage,
        Recipe(core=BLOCK, block=BLOCK),
        goal="evaluate",
        classes=catalogue.classes,
        truth_map=catalogue.truth_map,
        object_classes=catalogue.object_classes,
        scores_objects=catalogue.scores_objects,
    )


def scored_masks(folder: RunFolder) -> Catalogue:
    """Open the headers of the masks and the truth that a run of :func:`evaluate` scored; raises InputError where they are gone."""
    recorded = folder.read()
    identity = recorded["identity"]["evaluate"]
    scored = {"pred": [identity["pred"]], "classes": None, "ignore": None, **recorded.get("scored", {})}
    has_ids = bool(identity.get("instances"))
    return catalogue_of(scored["pred"], identity["truth"], scored["classes"], scored["ignore"], folder.storage.url, instances=has_ids)


def catalogue_of(
    pred: Sequence[str],
    truth: str | Mapping[str, Any],
    classes: Sequence[Mapping[str, Any]] | None,
    ignore: int | str | None,
    output: str,
    *,
    instances: bool,
) -> Catalogue:
    """Open the headers of masks and truth; the arguments are those of :func:`score_masks`."""
    run, earlier = run_of(pred[0]) if len(pred) == 1 else None, run_of(truth) if isinstance(truth, str) else None
    kind = "instances" if instances else "masks"
    if instances:
        classes = object_class(classes)
    elif earlier:
        classes, ignore = classes_of_two(run, earlier, classes, ignore)
    elif run and classes is None:
        classes, of_run = classes_of(run)
        ignore = of_run if ignore is None else ignore
    with ExitStack() as stack:
        masks = stack.enter_context(masks_of(pred, kind, placed=earlier is not None))
        if earlier:
            later = {one.name: one.path for one in list_images(config_of(masks, None, [], None, output)).images}
            masks = [stack.enter_context(listed_pairs(later, earlier_masks(str(truth), kind)))]
        config = config_of(masks, None if earlier else truth, classes, ignore, output, instances=instances)
        try:
            catalogue = build_catalogue(config)
        except InputError as error:
            if run and on_other_grids(run):
                error.add_note("Masks of this run lie on its working grid. Run it with `masks: native` to score them on the images' own.")
            raise
    return replace(catalogue, images=[with_background(image) for image in catalogue.images]) if instances else catalogue


def with_background(image: Image) -> Image:
    """Return a label image whose value 0 means *no object*, also if the file declares 0 as nodata, as files for maps often do."""
    if image.header.nodata != 0:
        return image
    return replace(image, header=replace(image.header, nodata=None), reader={**image.reader, "nodata": "none"})


def object_class(classes: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    """Return the two classes of a label image and its truth, by default background, value 0, and object, all other values."""
    if classes is None:
        return [{"name": "background", "values": [0]}, {"name": "object", "values": "other"}]
    if len(classes) != 2:
        raise InputError(Problem("--classes", f"{len(classes)} classes with --instances", "2: background and object"))
    return classes


@contextmanager
def masks_of(pred: Sequence[str], kind: str = "masks", *, placed: bool = False) -> Iterator[list[str]]:
    """Yield the images to read: for the output of a run, or a folder in it, a CSV list of one file a mask, else ``pred`` itself.

    ``kind`` is the folder: ``masks``, or ``instances`` for label images; ``placed`` prefers files that say where they lie on a map.
    """
    masks = run_masks(pred[0], kind, placed=placed) if len(pred) == 1 else {}
    if not masks and len(pred) == 1 and kind == "instances" and run_of(pred[0]):
        raise InputError(Problem("--pred", f"{pred[0]}, a run without objects", "a run with `instances` in its YAML, or label images"))
    with TemporaryDirectory(prefix="gigaseg-masks-") as folder:
        listed = Path(folder, "masks.csv")
        with listed.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "name"), *((path, name) for name, path in masks.items())])
        yield [str(listed)] if masks else list(pred)


def unknown_ids(catalogue: Catalogue, done: Tally) -> list[str]:
    """Return a line for each mask that holds a value which is no id, and one that says what to do; empty if all values are ids."""
    paths = {image.name: image.path for image in catalogue.images}
    causes = {paths[one.image]: one.cause for one in reversed(done.troubled.values()) if NO_ID.search(one.cause)}
    of_classes = "Name the classes with --classes, or correct the masks."
    way_out = "Write 0 where there is no object." if catalogue.scores_objects else of_classes
    return [*(f"{path}: {cause}" for path, cause in sorted(causes.items())), way_out] if causes else []


def warn_of_fill_values(catalogue: Catalogue, done: Tally) -> None:
    """Warn on stderr where a mask that no run has written leaves pixels out: its author may have meant a class."""
    images = {image.name: image for image in catalogue.images if not is_of_a_run(image.path)}
    missing = Counter({name: done.counts(name).no_prediction for name in images})
    if names := list(+missing):
        first = images[names[0]]
        header = first.header
        fill = 255 if np.dtype(header.dtype).itemsize == 1 else 65535
        nodata = f", and so does its nodata value {header.nodata:g}" if header.nodata not in (None, fill) else ""
        masked = ", and so does what its mask leaves out" if header.has_mask else ""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        way_out = "Where a class is meant, save its id, such as 1."
        print(f"{first.path}{more}: {fill} means no prediction{nodata}{masked} ({missing.total():,} px). {way_out}", file=sys.stderr)


def warn_of_single_ids(report: Mapping[str, Any]) -> None:
    """Warn on stderr if no label image holds more than one id, but some truth does: they may be masks of classes."""
    counts = [(image["name"], one) for image in report["per_image"] for one in image["instances"] if one["predicted"]]
    if counts and all(one["predicted"] == 1 for _, one in counts) and any((one["truth"] or 0) > 1 for _, one in counts):
        what = "only one id, so that all its pixels are one object. If these are masks of classes, number the objects first"
        print(f"{first_of([name for name, _ in counts], 3)}: {what}, for example with skimage.measure.label", file=sys.stderr)


def listed_classes(path: Path) -> list[dict[str, Any]]:
    """Return the classes of a YAML file as a config holds them."""
    return [spec.model_dump(mode="json", exclude_none=True) for spec in load_classes(path)]


def config_of(
    masks: Sequence[str],
    truth: str | Mapping[str, Any] | None,
    classes: Sequence[Mapping[str, Any]] | None,
    ignore: int | str | None,
    output: str,
    *,
    instances: bool = False,
) -> Config:
    """Return the config of a run that counts these masks; without classes it has as many as there are ids, and two where they are empty."""
    model = {"name": "identity", "classes": max(len(classes or ()), 2)}
    mapping: dict[str, Any] = {"images": list(masks), "truth": truth, "ignore": ignore}
    mapping |= {"model": model, "output": output, "reader": dict(TRUTH_READER)}
    if instances:
        mapping["instances"] = "components"
    if classes:
        mapping["classes"] = list(classes)
    elif classes is None:
        model["classes"] = count_classes(config_from_mapping(mapping, Path.cwd(), "evaluate"))
    return config_from_mapping(mapping, Path.cwd(), "evaluate")


def count_classes(config: Config) -> int:
    """Return one more than the largest id in any mask or truth; raise InputError if no mask type could hold it.

    The values of no prediction, nodata and ``ignore`` are not ids.
    """
    catalogue = build_catalogue(config)
    largest = 1
    for image in catalogue.images:
        for opened in (open_image(image), *([open_truth(image)] if image.truth else [])):
            with opened as raster:
                largest = max(largest, largest_id(raster, config.ignore))
    if largest >= 65535:
        raise InputError(Problem("--classes", f"ids up to {largest}", "class ids", "Are these instance ids? Map them with --classes."))
    return largest + 1


def largest_id(raster: Raster, ignore: int | str | None) -> int:
    """Return the largest id of one file, read block by block."""
    largest, header = 0, raster.header
    fill = 255 if header.dtype == "uint8" else 65535
    for plane in range(header.num_planes):
        for top in range(0, header.shape[0], BLOCK):
            for left in range(0, header.shape[1], BLOCK):
                ids_CYX, valid_YX = raster.read_valid(Box(top, left, top + BLOCK, left + BLOCK).clip(header.shape), plane)
                ids = ids_CYX[0] if valid_YX is None else ids_CYX[0, valid_YX]
                ids = ids[(ids != fill) & (ids != (ignore if isinstance(ignore, int) else fill))]
                largest = max(largest, int(ids.max(initial=0)))
    return largest


def require_masks(catalogue: Catalogue) -> None:
    """Refuse images that cannot be masks, and masks without truth, all at once."""
    expected = "one channel of object ids, whole numbers" if catalogue.scores_objects else "one channel of class ids"
    problems = [
        Problem(image.path, f"{counted(image.header.channels, 'channel')} of {image.header.dtype}", expected)
        for image in catalogue.images
        if image.header.channels != 1 or image.header.dtype.startswith("float")
    ]
    if catalogue.truth_map is None:
        problems.append(Problem("--truth", "no truth for any mask", "one file a mask"))
    if problems:
        raise InputError(problems)
