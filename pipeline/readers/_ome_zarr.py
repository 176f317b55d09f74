"""OME-Zarr metadata: the images of a group, their levels, axes, scale and channels.

``bioformats2raw.layout`` groups hold numbered images, plates hold wells of fields, and a group may list several multiscale
images. Display colours, labels and acquisitions in the metadata are not read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.raster import PlaneStep
from pipeline.readers import Member, Reader
from pipeline.readers._layout import Layout
from pipeline.readers._series import choose_series, series_members
from pipeline.readers._units import is_plausible, micrometers, seconds
from pipeline.readers._zarr_files import Node, child_nodes, is_inside

__all__ = ["Image", "Placement", "axis_letters", "choose_image", "images_of", "level_nodes", "list_members", "refuse_group"]

LETTERS = {"time": "t", "channel": "c", "channels": "c", "band": "c", "bands": "c", "sample": "s", "samples": "s", "rgb": "s"}
MAX_SERIES, MAX_LEVELS = 10_000, 1000
SHOWN = 8  # names in a message
NUM_THREADS = 8  # for the metadata of wells
COLOR_NAMES = ({"r", "red"}, {"g", "green"}, {"b", "blue"})
MAP_UM = 1e6  # a unit of at least a metre means a map, if pixels are at least a millimetre wide
MAP_PIXEL_UM = 1e3


def axis_letters(names: Sequence[str], kinds: Sequence[str] = ()) -> str:
    """Return one letter for each axis; an unknown name longer than a letter becomes ``?``.

    Example:
        >>> axis_letters(["time", "C", "y", "x", "lambda"]), axis_letters(["frame", "y", "x"], ["time", "space", "space"])
        ('tcyx?', 'tyx')
    """
    lower = [LETTERS.get(str(name).lower(), str(name).lower()) for name in names]
    typed = [name if len(name) == 1 else LETTERS.get(str(kind).lower(), "?") for name, kind in zip(lower, kinds or lower, strict=True)]
    return "".join(typed)


@dataclass(frozen=True)
class Image:
    """One multiscale image of a group, from its metadata."""

    group: Node
    content: Mapping[str, Any]  # one entry of `multiscales`
    name: str = ""  # from the metadata, else the path of its group

    @property
    def datasets(self) -> list[Mapping[str, Any]]:
        """The metadata of each level."""
        datasets = self.content.get("datasets")
        if not isinstance(datasets, list) or not datasets or not all(isinstance(one, dict) for one in datasets):
            raise InputError(Problem(self.group.path, "a multiscale image without datasets", "one dataset for each level"))
        return datasets

    @property
    def axes(self) -> list[Mapping[str, Any]]:
        """The metadata of each axis: its name, and perhaps its type and unit."""
        systems = self.content.get("coordinateSystems") or [{}]  # OME-Zarr 0.6
        axes = self.content.get("axes") or systems[0].get("axes") or "tczyx"  # the fixed axes of 0.1 and 0.2
        return [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]

    @property
    def letters(self) -> str:
        """One letter for each axis."""
        return axis_letters([axis.get("name", "?") for axis in self.axes], [axis.get("type", "") for axis in self.axes])

    @property
    def is_label(self) -> bool:
        """Whether the pixels are labels, which have no channels."""
        return "image-label" in self.group.attributes

    def channel_names(self, count: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return a name for each channel (its number if unnamed) or nothing, and notes."""
        channels = self._channels()
        labels = [str(channel.get("label") or "").strip() for channel in channels]
        if not any(labels):
            return (), ()
        if len(labels) != count:
            return (), (f"the metadata names {len(labels)} channels but there are {count}: the names are not used",)
        return tuple(label or f"channel {index}" for index, label in enumerate(labels)), ()

    def is_color(self) -> bool:
        """Whether the channels are red, green and blue: displayed so, in colour, and not named otherwise.

        Fluorescence is often displayed in the same three colours; its channel names tell it apart.
        """
        channels, rendering = self._channels(), self._omero.get("rdefs")
        colors = [str(channel.get("color", "")).upper().lstrip("#") for channel in channels]
        labels = [str(channel.get("label") or "").strip().lower() for channel in channels]
        is_drawn = isinstance(rendering, dict) and rendering.get("model") == "color" and colors == ["FF0000", "00FF00", "0000FF"]
        return is_drawn and all(
            not label.removeprefix("channel").strip(" :_-0123456789") or label in names
            for label, names in zip(labels, COLOR_NAMES, strict=True)
        )

    @property
    def _omero(self) -> Mapping[str, Any]:
        omero = self.group.attributes.get("omero")
        return omero if isinstance(omero, dict) and not self.is_label else {}

    def _channels(self) -> list[Mapping[str, Any]]:
        channels = self._omero.get("channels")
        return [one if isinstance(one, dict) else {} for one in channels] if isinstance(channels, list) else []


def images_of(group: Node) -> list[Image]:
    """Return the images of a group, those of bioformats2raw in their order; empty if it describes none."""
    images = _multiscales(group)
    if images or "bioformats2raw.layout" not in group.attributes:
        return images
    found = [(name, image) for name in _series_paths(group) if (node := group.child(name)) for image in _multiscales(node)]
    names = [str(image.content.get("name") or "") for _, image in found]
    has_names = all(names) and len(set(names)) == len(names)
    return [image if has_names else Image(image.group, image.content, name) for name, image in found]


def _multiscales(group: Node) -> list[Image]:
    multiscales = group.attributes.get("multiscales")
    contents = [one if isinstance(one, dict) else {} for one in multiscales] if isinstance(multiscales, list) else []
    return [Image(group, content, str(content.get("name") or index)) for index, content in enumerate(contents)]


def _series_paths(group: Node) -> Iterator[str]:
    """Yield the paths of the images of bioformats2raw: those in its list, else 0, 1, 2 and so on."""
    listed = group.child_attributes("OME").get("series")
    if isinstance(listed, list) and listed:
        yield from (_inside(name, group) for name in listed[:MAX_SERIES])
        return
    for number in range(MAX_SERIES):
        if group.child(str(number)) is None:
            return
        yield str(number)


def _inside(name: Any, group: Node) -> str:
    """Return a path from the metadata; refuse one that leads out of the group."""
    if not is_inside(name):
        raise InputError(Problem(group.path, f"the path {name!r} in its metadata", "a path inside this group"))
    return str(name)


def choose_image(images: Sequence[Image], options: Reader, path: str) -> tuple[Image, tuple[str, ...]]:
    """Return the image that ``reader.series`` chooses, and notes. Of several, the largest is the default."""
    is_open = len(images) > 1 and options.series == "largest"
    areas = [math.prod(level_nodes(image)[0][0].metadata["shape"]) if is_open else 0 for image in images]
    index, notes = choose_series(options, [image.name for image in images], areas, path)
    return images[index], notes


def level_nodes(image: Image) -> list[tuple[Node, Mapping[str, Any]]]:
    """Return the array of each level and its metadata, the largest first; refuse missing levels."""
    datasets = image.datasets
    if len(datasets) > MAX_LEVELS:
        raise InputError(Problem(image.group.path, f"an image of {len(datasets)} levels", f"at most {MAX_LEVELS}"))
    paths = [_inside(dataset.get("path"), image.group) for dataset in datasets]
    nodes = [image.group.child(path) for path in paths]
    there = [(node, dataset) for node, dataset in zip(nodes, datasets, strict=True) if node and node.is_array and _has_shape(node)]
    if len(there) < len(datasets):
        arrays = {id(dataset) for _, dataset in there}
        missing = [path for path, dataset in zip(paths, datasets, strict=True) if id(dataset) not in arrays]
        fix = "The store may be only partly copied."
        raise InputError(Problem(image.group.path, f"no array at {_listed(missing)}", "an array for each level of its metadata", fix))
    return sorted(there, key=lambda level: -math.prod(level[0].metadata["shape"]))


def _has_shape(node: Node) -> bool:
    shape = node.metadata.get("shape")
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def list_members(group: Node, options: Reader, path: str) -> Sequence[Member]:
    """Return the fields of a plate or a well, in the store's order; with ``all``, each image of a group of several.

    A missing well is a member too: opening it reports that it is missing.
    """
    plate, well = group.attributes.get("plate"), group.attributes.get("well")
    if isinstance(plate, dict):
        wells = [_inside(one.get("path"), group) for one in plate.get("wells") or []]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            names = [name for fields in pool.map(lambda name: _fields(group, name), wells) for name in fields]
    elif isinstance(well, dict):
        names = _field_paths(well, group)
    else:
        return series_members(options, [image.name for image in images_of(group)], path) if options.series == "all" else ()
    return [Member(name, f"{path}/{name}", {"series": "largest"}) for name in names]  # a plate always stands for all of its fields


def _fields(plate: Node, name: str) -> list[str]:
    """Return the paths of a well's fields; the well's own path if it lists none."""
    well = plate.child_attributes(name).get("well")
    return [f"{name}/{field}" for field in _field_paths(well, plate)] if isinstance(well, dict) and well.get("images") else [name]


def _field_paths(well: Mapping[str, Any], group: Node) -> list[str]:
    return [_inside(one.get("path"), group) for one in well.get("images") or []]


def refuse_group(group: Node, options: Reader) -> InputError:
    """Return the error for a group that is not one image: its kind, and the images or arrays in it."""
    kinds = {"plate": "a plate", "well": "a well", "labels": "a group of label images"}
    kind = next((text for key, text in kinds.items() if key in group.attributes), "a Zarr group that is not one image")
    inside = [member.path for member in list_members(group, options, group.path)] or [
        f"{group.path}/{name}" for name in child_nodes(group.files)
    ]
    fix = f"Name one of its members: {', '.join(inside[:SHOWN])}." if inside else ""
    return InputError(Problem(group.path, kind if inside else f"{kind}, and holds nothing", "an image", fix))


@dataclass(frozen=True)
class Placement:
    """The grid of an array along each stored axis: unit, step, position of the first pixel."""

    units: Sequence[str]
    steps: Sequence[float] | None  # None: the metadata does not say
    starts: Sequence[float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, image: Image, dataset: Mapping[str, Any]) -> Placement:
        """Compose the coordinate transformations of a level with those of its image."""
        axes = image.axes
        units = [str(axis.get("unit") or "") for axis in axes]
        steps, starts, is_scaled = [1.0] * len(axes), [0.0] * len(axes), False
        for transform in _transforms(dataset, image.content):
            kind = str(transform.get("type"))
            if "path" in transform and kind != "identity":
                fix = "Write its numbers into the metadata."
                raise InputError(Problem(image.group.path, f"a {kind} stored as an array, {transform['path']!r}", "numbers", fix))
            if kind == "identity":
                continue
            numbers = _numbers(transform.get(kind), len(axes))
            if kind not in ("scale", "translation") or numbers is None:
                return cls(units, None, starts, (f"a coordinate transformation {kind!r} is not read: the pixel size is unknown",))
            if kind == "scale":
                is_scaled = True
                steps = [step * number for step, number in zip(steps, numbers, strict=True)]
                starts = [start * number for start, number in zip(starts, numbers, strict=True)]
            else:
                starts = [start + number for start, number in zip(starts, numbers, strict=True)]
        return cls(units, steps if is_scaled else None, starts)

    def facts(self, layout: Layout) -> dict[str, Any]:
        """Return the header fields of scale: pixel size, unit, offset (as written), steps between planes, notes."""
        if self.steps is None:
            return {"notes": self.notes}
        y, x = layout.axes.index("y"), layout.axes.index("x")
        units, steps = (self.units[y], self.units[x]), (self.steps[y], self.steps[x])
        starts = (self.starts[y], self.starts[x])
        facts: dict[str, Any] = {"plane_steps": self._plane_steps(layout)}
        if not any(units) and steps == (1.0, 1.0):
            return facts  # the default that programs write without a calibration
        if not all(0 < step < math.inf for step in steps):
            return facts | {"notes": (f"a scale of {steps[0]:g} x {steps[1]:g} is no pixel size: the pixel size is unknown",)}
        facts |= {"pixel_size_from": "OME-Zarr"}
        if not any(units):
            note = f"the scale {steps[0]:g} x {steps[1]:g} has no unit: `reader.pixel_size` sets it in micrometres"
            return facts | {"pixel_size": steps, "offset": starts, "notes": (note,)}
        if all(unit.lower() in ("degree", "degrees") for unit in units):
            return facts | {"pixel_size": steps, "offset": starts, "unit": "degree"}
        return facts | _metric(units, steps, starts)

    def _plane_steps(self, layout: Layout) -> dict[str, PlaneStep]:
        """Return the step of each stack axis whose kept planes are evenly spaced; micrometres or seconds if it has a unit."""
        found = {}
        for letter, kept in layout.kept.items():
            axis = layout.axes.index(letter)
            gaps = {after - before for before, after in pairwise(kept)}
            step, unit = self.steps[axis] if self.steps else math.nan, self.units[axis]
            if len(gaps) != 1 or min(gaps) < 1 or not 0 < step < math.inf or (step == 1 and not unit):
                continue
            convert, name = (micrometers, "micrometer") if letter == "z" else (seconds, "second")
            step, start = step * min(gaps), self.starts[axis] + step * kept[0]
            if not unit:
                found[letter] = PlaneStep(step, "", start)
            elif (converted := convert(step, unit)) is not None:
                found[letter] = PlaneStep(converted, name, convert(start, unit) or 0.0)
        return found


def _metric(units: Sequence[str], steps: Sequence[float], starts: Sequence[float]) -> dict[str, Any]:
    """Return the header fields of sizes in a unit of length: metres for maps, else micrometres."""
    sizes = [micrometers(step, unit) for step, unit in zip(steps, units, strict=True)]
    offset = [micrometers(start, unit) or 0.0 for start, unit in zip(starts, units, strict=True)]
    text = f"a scale of {steps[0]:g} x {steps[1]:g} in {' and '.join(dict.fromkeys(repr(unit) for unit in units))}"
    if None in sizes:
        return {"pixel_size_from": "", "notes": (f"{text} is no length: the pixel size is unknown",)}
    known = [size for size in sizes if size is not None]
    if all((micrometers(1, unit) or 0) >= MAP_UM for unit in units) and min(known) >= MAP_PIXEL_UM:
        return {"pixel_size": _pair(known, MAP_UM), "offset": _pair(offset, MAP_UM), "unit": "meter"}
    if not all(map(is_plausible, known)):
        return {"pixel_size_from": "", "notes": (f"{text} is no pixel size: the pixel size is unknown",)}
    return {"pixel_size": _pair(known), "offset": _pair(offset), "unit": "micrometer"}


def _pair(numbers: Sequence[float], divisor: float = 1.0) -> tuple[float, float]:
    return numbers[0] / divisor, numbers[1] / divisor


def _transforms(*nodes: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the transformations of a level, then those of its image; sequences are unpacked."""
    for node in nodes:
        for transform in node.get("coordinateTransformations") or node.get("transformations") or []:
            if transform.get("type") == "sequence":
                yield from _transforms(transform)
            else:
                yield transform


def _numbers(values: Any, count: int) -> list[float] | None:
    """Return ``count`` finite numbers, one for each axis; None if the metadata holds anything else."""
    if not isinstance(values, list) or len(values) != count or not all(type(value) in (int, float) for value in values):
        return None
    return [float(value) for value in values]
