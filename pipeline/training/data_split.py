"""Which images train the network and which validate it."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import Config, KeyLocations, Source
from pipeline.errors import InputError, Problem
from pipeline.inputs import Image, TruthMap, check_truth, list_images, place_notes, place_on_grids, read_headers, read_truth_header
from pipeline.training.image_groups import GroupSplit, choose_groups, group_images, straddling_note
from pipeline.training.schema import Kept, TrainConfig

__all__ = ["DataSplit", "make_run_config", "split_images"]


@dataclass(frozen=True)
class DataSplit:
    """Images with truth in two parts, with notes on what was left out and what is wrong with the user's input.

    ``groups`` says which groups of images are in which part; None: images are not grouped.
    """

    train: list[Image]
    val: list[Image]
    notes: list[str]
    problems: list[Problem | str]
    groups: GroupSplit | None = None


def split_images(config: TrainConfig, truth_map: TruthMap) -> DataSplit:
    """Find the images and their truth, and divide them into training and validation images."""
    listed, groups = _list_images(config, "images", config.images, truth_map), None
    if isinstance(config.val, tuple):
        own = _list_images(config, "val", config.val, truth_map)
        parts, val, problems = [listed, own], own.images, [*listed.problems, *own.problems]
        val_paths = {image.path for image in val}
        train = [image for image in listed.images if image.path not in val_paths]
    elif config.region_share is not None:  # the scan chooses the regions
        parts, train, val, problems = [listed], listed.images, listed.images, list(listed.problems)
    elif listed.problems:
        parts, train, val, problems = [listed], listed.images, [], list(listed.problems)
    else:
        parts = [listed]
        train, val, groups, problems = _choose_validation(config, listed.images)
    if not train and not problems:
        kept = f"{len(listed.images)} images, all of them kept for validation"
        problems.append(Problem(config.where("val"), kept, "at least one image to train on", "Give validation images of their own."))
    names = [name for part in parts for name in part.names]
    unused = [pattern for pattern in config.exclude if not any(_matches(name, [pattern]) for name in names)]
    notes = [note for part in parts for note in part.notes]
    notes += [f"exclude: {pattern!r} matches no image" for pattern in unused]
    if groups is None and config.region_share is None and (note := straddling_note(train, val)):
        notes.append(note)
    return DataSplit(train, val, notes, problems, groups)


def make_run_config(config: TrainConfig, images: Sequence[Source], **keys: Any) -> Config:
    """Return the config of a run over images that are read as those of a training: to list them, and to score a bundle on them."""
    shared = {"truth": config.truth, "classes": config.classes, "ignore": config.ignore, "reader": config.reader, "output": config.output}
    return Config(images=tuple(images), **{**shared, "model": config.model, **keys}).with_locations(config.locations)


@dataclass(frozen=True)
class _Listing:
    """What some entries of the YAML stand for: the names of all images, those that have truth, and what was left out or is wrong."""

    names: Sequence[str]
    images: list[Image]
    notes: Sequence[str]
    problems: Sequence[Problem | str]


class _LocationsOfVal(KeyLocations):
    """Places of a run whose ``images`` stand in the YAML as ``val``."""

    def where(self, path: str) -> str:
        return super().where(re.sub(r"^images\b", "val", path))


def _list_images(config: TrainConfig, key: str, entries: Sequence[Source], truth_map: TruthMap) -> _Listing:
    run, locations = make_run_config(config, entries), config.locations
    inputs = list_images(run if key == "images" else run.with_locations(_LocationsOfVal(locations.origin, locations.lines, locations.sets)))
    kept = [candidate for candidate in inputs.images if not _matches(candidate.name, config.exclude)]
    images, rejected, unopenable = read_headers(kept, run)
    paired = [image for image in images if image.truth is not None]
    problems = [*inputs.problems, *unopenable, *check_truth(paired, truth_map)]
    if inputs.images and not kept:
        problems.append(Problem(config.where("exclude"), f"all {len(inputs.images)} images of {key}", "patterns that leave some"))
    elif not paired and not problems:
        problems.append(Problem(config.where("truth"), "no truth for any image", "a pattern such as truth/{stem}.png"))
    placed = place_on_grids(paired, config.resolution, config.where("resolution"))
    notes = [*inputs.notes, *(f"left out, unreadable: {image.name}: {image.cause}" for image in rejected)]
    notes += [f"left out, no truth: {image.name}" for image in images if image.truth is None]
    notes += [] if problems else place_notes(paired, {image.index: read_truth_header(image) for image in paired})
    return _Listing([candidate.name for candidate in inputs.images], placed.images, notes, [*problems, *placed.problems])


def _choose_validation(
    config: TrainConfig, images: Sequence[Image]
) -> tuple[list[Image], list[Image], GroupSplit | None, list[Problem | str]]:
    """Keep whole images for validation, because crops of one image are too similar to validate each other."""
    groups = None
    if isinstance(config.val, Kept) and config.val.by is not None:
        where = config.where("val.by")
        try:
            found = group_images(images, config.val.by, where)
            groups = choose_groups(found, config.val.by, fraction=config.val.share, seed=config.seed, where=where)
        except InputError as error:
            return [], [], None, list(error.problems)
        chosen = {name for group in groups.val for name in found[group]}
    elif isinstance(config.val, Kept):
        names = config.val.names or ()
        chosen = {image.name for image in images if _matches(image.name, names)}
        unused = [name for name in names if not any(_matches(image.name, [name]) for image in images)]
        if unused:
            return [], [], None, [Problem(config.where("val.names"), ", ".join(map(repr, unused[:3])), "names or patterns of images")]
    else:
        assert isinstance(config.val, float)
        ranked = sorted(images, key=lambda image: hashlib.sha256(f"{config.seed} {image.name}".encode()).digest())
        chosen = {image.name for image in ranked[: max(1, round(config.val * len(images)))]}
    train = [image for image in images if image.name not in chosen]
    val = [replace(image, index=index) for index, image in enumerate(image for image in images if image.name in chosen)]
    return train, val, groups, []


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
