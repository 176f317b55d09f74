"""Zones: polygons of a file whose areas of each class are reported apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config, as_spelled
from pipeline.errors import InputError, Problem
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.file_states import FileStates
from pipeline.inputs.identity import identify
from pipeline.inputs.pairing import matching_files
from pipeline.plugins import build
from pipeline.polygons import PolygonLayer, read_polygons
from pipeline.raster import Header

if TYPE_CHECKING:
    from pipeline.inputs.headers import Image

__all__ = ["OUTSIDE", "UNNAMED", "ImageZones", "ZoneFile", "find_zones"]

OUTSIDE = "outside"
"""What reports call the pixels of no zone."""
UNNAMED = "unnamed"
"""The zone of polygons whose attribute is null."""

SYSTEM_TAGS = ("34735", "34736", "34737")


@dataclass(frozen=True, slots=True)
class ZoneFile:
    """The zones of an image, in a file.

    Attributes:
        path: of the file, absolute or a URL.
        layer: of the file; None: the only one.
        attribute: that names a zone; None: its number in the file.
        identity: hash of path, size, time of change, layer and attribute.
        states: of the file when the run was planned.
    """

    path: str
    layer: str | None
    attribute: str | None
    identity: str
    states: FileStates

    def on(self, image: Image) -> ImageZones:
        """Read the zones that touch an image, on its working grid; what was read last is kept.

        Raises:
            InputError: the file, its layer or its attribute cannot be read, or no polygon lies where the image does.
        """
        own = image.grid.own if image.grid is not None else image.header
        place = json.dumps([own.shape, own.levels, dict(own.georeference)], default=str)
        factor = image.grid.own_factor if image.grid is not None else (1.0, 1.0)
        return _read(self.path, self.layer, self.attribute, self.identity, place, factor, image.header.shape)


@dataclass(frozen=True)
class ImageZones:
    """The polygons of zones in the pixels of an image.

    Attributes:
        layer: the polygons.
        names: zone of each polygon; several polygons may be one zone.
        shared: the names that several polygons have.
    """

    layer: PolygonLayer
    names: Sequence[str]
    shared: frozenset[str]


@lru_cache(maxsize=2)
def _read(
    path: str,
    layer: str | None,
    attribute: str | None,
    identity: str,  # noqa: ARG001 - a file that has changed has another identity
    place: str,
    factor: tuple[float, float],
    shape: tuple[int, int],
) -> ImageZones:
    own_shape, levels, georeference = json.loads(place)
    own = Header(tuple(own_shape), 1, "uint8", levels=tuple(map(tuple, levels)), georeference=georeference)
    found = read_polygons(path, own, layer=layer, attribute=attribute, may_miss=True)
    found = found if factor == (1.0, 1.0) and found.shape == shape else found.scaled(factor, shape)
    names = [_name(value) for value in (found.numbers if found.values is None else found.values).tolist()]
    if OUTSIDE in names:
        fix = "Give the zone another name: reports call the pixels of no zone so."
        raise InputError(Problem(path, f"a zone named {OUTSIDE!r}", "any other name", fix))
    return ImageZones(found, names, frozenset(name for name, number in Counter(names).items() if number > 1))


def _name(value: Any) -> str:
    """Return the name of a zone.

    Example:
        >>> [_name(value) for value in ("north", 3, 3.0, 2.5, None, float("nan"))]
        ['north', '3', '3', '2.5', 'unnamed', 'unnamed']
    """
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return UNNAMED
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def find_zones(images: Sequence[Image], config: Config) -> tuple[list[Image], list[Problem | str], list[str]]:
    """Find the zones of each image as the YAML's ``zones`` says.

    Of each file, the first image on each kind of map is looked at, and others until one meets a polygon.

    Returns:
        The images with their zones, the problems (a missing file, layer, attribute or package, polygons that meet no image), and notes.
    """
    if config.zones is None or not images:
        return list(images), [], []
    where, missing, problems, notes = config.where("zones"), list[str](), list[Problem | str](), list[str]()
    found: list[Image] = []
    template, file_of = as_spelled(config.zones.path), cache(lambda path: _zone_file(path, config))
    for image in images:
        matches = matching_files(template, image.name, image.path, ())
        if len(matches) > 1:
            problems.append(Problem(where, f"{len(matches)} files for {image.name!r}: {first_of(matches, 3)}", "one file for each image"))
        missing += [] if matches else [image.name]
        found.append(replace(image, zones=file_of(matches[0])) if len(matches) == 1 else image)
    with_zones = [image for image in found if image.zones is not None]
    if missing and not with_zones:
        problems.append(Problem(where, repr(config.zones.path), "a file that exists", f"No zones for {first_of(missing, 3)}."))
    elif missing:
        notes.append(f"{first_of(missing, 3)}: no file of zones")
    refused, told = _checked(with_zones, where)
    return found, [*problems, *refused], [*notes, *told]


def _zone_file(path: str, config: Config) -> ZoneFile:
    assert config.zones is not None
    layer, attribute = config.zones.layer, config.zones.attribute
    spec = {"name": "polygons", "layer": layer, "attribute": attribute}
    identity, states = identify(path, spec, build("readers", spec, "zones"))
    return ZoneFile(path, layer, attribute, identity, states)


def _checked(images: Sequence[Image], where: str) -> tuple[list[Problem | str], list[str]]:
    """Read each file for images on different maps until one image meets a polygon."""
    problems: dict[str, Problem | str] = {}
    notes: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()
    met: set[str] = set()
    apart: list[Image] = []
    for image in images:
        assert image.zones is not None
        path, system = image.zones.path, json.dumps([image.header.georeference.get(tag) for tag in SYSTEM_TAGS], default=str)
        if path in met and (path, system) in seen:
            continue
        seen.add((path, system))
        try:
            zones = image.zones.on(image)
        except InputError as error:
            problems |= {str(problem): problem for problem in error.problems}
            continue
        notes |= {f"{path}: {note}": None for note in zones.layer.notes}
        if len(zones.layer):
            met.add(path)
        else:
            apart.append(image)
    if apart and not problems and not met:
        return _apart(apart, where), list(notes)
    return list(problems.values()), list(notes)


def _apart(images: Sequence[Image], where: str) -> list[Problem | str]:
    """Return what is wrong with zones that meet none of the images: where the first image and they lie, if their extents say enough."""
    first = images[0]
    assert first.zones is not None
    try:
        read_polygons(
            first.zones.path,
            first.grid.own if first.grid is not None else first.header,
            layer=first.zones.layer,
            attribute=first.zones.attribute,
        )
    except InputError as error:
        return list(error.problems)
    names = first_of([image.name for image in images], 3)
    return [Problem(where, f"zones that do not meet {names}", "polygons that meet an image", "Are they of another place?")]
