"""The objects of a run: the method and its classes, checked against the model, and whether the truth has ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipeline.config import Config
from pipeline.errors import GigasegError, Problem, nearest, one_of
from pipeline.geometry import Box
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image, read_truth_header
from pipeline.inputs.truth import TruthMap
from pipeline.inputs.working_grid import open_truth
from pipeline.instances import Instances
from pipeline.models import Model
from pipeline.plugins import available, find, title_of

__all__ = ["find_truth_ids", "object_classes_of", "object_notes", "object_problems"]

BLOCK = 1024  # pixels of truth read at a time
NUM_THREADS = 4


def object_classes_of(instances: Instances | None, classes: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the ids of the classes that have objects: those named by ``of``, by default all but class 0."""
    if instances is None:
        return []
    wanted = [spec["name"] for spec in classes[1:]] if instances.of is None else instances.of
    return [spec["id"] for spec in classes if spec["name"] in wanted]


def object_problems(config: Config, instances: Instances | None, model: Model, classes: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return what is wrong with ``instances``: classes that do not exist, and outputs that the model does not give."""
    if instances is None or config.instances is None:
        return []
    names = [str(spec["name"]) for spec in classes]
    problems = []
    for index, name in enumerate(instances.of or ()):
        if name not in names:
            problems.append(Problem(config.where(f"instances.of.{index}"), repr(name), one_of(names), nearest(name, names)))
    missing = [name for name in instances.maps if name not in model.maps]
    if missing or (instances.uses_probs and not model.gives_scores):
        needs = " and ".join(missing) if missing else "class probabilities"
        found = f"{config.instances['name']}, which needs {needs}, and {title_of(config.model)} gives none"
        problems.append(Problem(config.where("instances.name"), found, one_of(_fitting(model))))
        return problems
    return problems + model.map_problems(instances.maps)


def _fitting(model: Model) -> list[str]:
    """Return the names of the methods whose inputs a model gives."""
    methods = {name: find("instances", name) for name in available("instances")}
    return [name for name, method in methods.items() if set(getattr(method, "maps", ())) <= model.maps.keys()]


def object_notes(instances: Instances | None, model: Model) -> list[str]:
    """Return notes about the objects of a run: a halo narrower than they are."""
    if instances is None:
        return []
    notes, diameter = list[str](), model.expects.diameter or 0
    if instances.joins == "agreement" and instances.halo < diameter:
        found = f"instances.halo: {instances.halo} is less than {diameter:g} px, the diameter of the objects that the model was trained on"
        notes.append(f"{found}: objects at block borders may be cut or joined")
    return notes


def find_truth_ids(images: Sequence[Image], truth_map: TruthMap, object_classes: Sequence[int]) -> tuple[list[Image], list[str]]:
    """Find out for each image whether the values of its truth are ids of objects, and return a note about images without ids.

    They are if several values mean one class, and two of them occur. Reading ends at the second value.
    """
    specs = truth_map.classes or ()
    wide = [one for one in object_classes if one < len(specs) and (specs[one].values == "other" or len(specs[one].values or ()) > 1)]

    def with_ids(image: Image) -> Image:
        return replace(image, truth_has_ids=bool(wide) and image.truth is not None and _has_ids(image, truth_map, wide))

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = list(pool.map(with_ids, images))
    without = [image.name for image in found if image.truth is not None and not image.truth_has_ids]
    note = "the truth has no ids of objects: its objects are connected components of each class"
    if not any(spec.values for spec in specs):
        note += "; where each object has a value of its own, give their class `values: other`"
    return found, [f"{first_of(without, 3)}: {note}"] if without else []


def _has_ids(image: Image, truth_map: TruthMap, classes: Sequence[int]) -> bool:
    """Whether two values of one of these classes occur; a truth that cannot be read is reported when it is counted."""
    try:
        if read_truth_header(image).channels != 1:
            return False
        seen: dict[int, set[int]] = {class_id: set() for class_id in classes}
        with open_truth(image) as raster:
            height, width = raster.header.shape
            boxes = [Box(y, x, y + BLOCK, x + BLOCK).clip((height, width)) for y in range(0, height, BLOCK) for x in range(0, width, BLOCK)]
            for plane in range(raster.header.num_planes):
                for box in boxes:
                    raw_CYX, valid_YX = raster.read_valid(box, plane)
                    ids_YX = truth_map.apply(raw_CYX, box, valid_YX)
                    for class_id, values in seen.items():
                        found = raw_CYX[0][ids_YX == class_id]
                        values |= {int(found.min()), int(found.max())} if found.size else set()
                        if len(values) > 1:
                            return True
    except (GigasegError, OSError):
        return False
    return False
