"""Zarr and OME-Zarr: arrays read by region, axes and pixel size from the metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._axes import CHANNEL, Layout, decoded_bytes, layout, local_path, make_header, native, opening, reading, resolution
from pipeline.storage import quickened

if TYPE_CHECKING:
    import zarr

__all__ = ["Zarr"]

METADATA = ("zarr.json", ".zarray", ".zgroup")
MICROMETERS = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
LETTERS = {"time": "t", "channel": "c", "band": "c"}  # names other than one letter that mean something here


class Zarr(Reader):
    """Zarr v2 and v3 arrays, OME-Zarr 0.1 to 0.5 images, and images inside them such as ``a.ome.zarr/labels/nuclei``.

    The axes of an array that is no OME-Zarr come from its dimension names. A folder with Zarr's
    metadata is recognised whatever its name. A chunk that is not stored holds the fill value.

    Example::

        reader: {name: zarr, level: 1}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr", ".zarr")

    def claims(self, path: str) -> bool:
        """Whether the path ends in or lies inside a ``.zarr``, or is a folder with Zarr's metadata."""
        inside = ".zarr/" in path.lower()
        return inside or super().claims(path) or any(Path(path.removeprefix("file://"), name).is_file() for name in METADATA)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open an array, or one level of an image; no chunk is read yet."""
        with opening(path):
            image = _image(_open_store(path), path, self)
            found = layout(self, image.names, image.array.shape, path)
            dtype = native(image.array.dtype, path)
            header = make_header(self, found, dtype, whole_bytes=_whole_bytes(found, image.array), **_scale(image, found))
            raster = _ZarrRaster(path, header, found, quickened(image.array))
            raster.folder = Path(local_path(path), image.array.path)
        yield raster


def _open_store(path: str) -> zarr.Array[Any] | zarr.Group:
    """Open what lies at a path; the one place that knows what kind of store that is."""
    import zarr

    folder = Path(local_path(path))
    if not folder.exists():
        raise InputError(Problem(path, "no file at this path"))
    if not any((folder / name).is_file() for name in METADATA):
        raise InputError(Problem(path, "a folder without Zarr metadata", f"{one_of(METADATA)} in it"))
    return zarr.open(store=folder, mode="r", zarr_format=3 if (folder / "zarr.json").is_file() else 2)


@dataclass(frozen=True)
class _Image:
    """One array, and what the group around it says: axes, units, scale and translation of each axis."""

    array: zarr.Array[Any]
    names: str | None
    units: Sequence[str] = ()
    scale: Sequence[float] = ()
    translation: Sequence[float] = ()
    channel_names: tuple[str, ...] = ()


def _image(node: zarr.Array[Any] | zarr.Group, path: str, options: Reader) -> _Image:
    """Find the array of the wanted level.

    Raises:
        InputError: the group holds no image, or several.
    """
    import zarr

    if isinstance(node, zarr.Array):
        resolution(options, 1, path)
        return _Image(node, _array_names(node))
    attributes: dict[str, Any] = dict(node.attrs.asdict())
    attributes = {**attributes, **attributes.get("ome", {})}
    if attributes.get("multiscales"):
        return _level(node, attributes, path, options)
    if "bioformats2raw.layout" in attributes and "0" in node and "1" not in node:
        return _image(node["0"], path, options)
    inside = attributes.get("labels") or [image["path"] for image in attributes.get("well", {}).get("images", [])]
    inside = inside or [well["path"] for well in attributes.get("plate", {}).get("wells", [])] or sorted(node)
    named = ", ".join(f"{path.rstrip('/')}/{name}" for name in inside[:8])
    fix = f"Name one of its members: {named}." if named else ""
    raise InputError(Problem(path, "a Zarr group that is not one image", "an image", fix))


def _array_names(array: zarr.Array[Any]) -> str | None:
    """One letter an axis from the dimension names; None where they do not name y and x."""
    names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    letters = _letters(names) if names and all(names) else ""
    return letters if "y" in letters and "x" in letters else None


def _letters(names: Sequence[str]) -> str:
    """One letter an axis; a name that means nothing here becomes ``?``.

    Example:
        >>> _letters(["time", "C", "y", "x", "lambda"])
        'tcyx?'
    """
    lower = [LETTERS.get(name.lower(), name.lower()) for name in names]
    return "".join(name if len(name) == 1 else "?" for name in lower)


def _level(group: zarr.Group, attributes: Mapping[str, Any], path: str, options: Reader) -> _Image:
    """One level of the first multiscale image, with the transformations of both the level and the image."""
    import zarr

    image = attributes["multiscales"][0]
    datasets = image["datasets"]
    dataset = datasets[resolution(options, len(datasets), path)]
    array = group.get(dataset["path"])
    if not isinstance(array, zarr.Array):
        raise InputError(Problem(path, f"no array at {dataset['path']!r}", "the array that the metadata gives for this level"))
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in image.get("axes", "tczyx")]
    inner = _transform(dataset, len(axes))
    outer = _transform(image, len(axes))
    channels = attributes.get("omero", {}).get("channels", [])
    labels = tuple(str(channel.get("label", "")) for channel in channels)
    return _Image(
        array,
        _letters([axis["name"] for axis in axes]),
        units=[axis.get("unit") or "" for axis in axes],
        scale=[one * whole for one, whole in zip(inner[0], outer[0], strict=True)],
        translation=[one * whole + moved for one, whole, moved in zip(inner[1], outer[0], outer[1], strict=True)],
        channel_names=labels if all(labels) else (),
    )


def _transform(node: Mapping[str, Any], axes: int) -> tuple[list[float], list[float]]:
    """Scale and translation of a level or an image; 1 and 0 where none is written."""
    found = {"scale": [1.0] * axes, "translation": [0.0] * axes}
    for step in node.get("coordinateTransformations", []):
        if step.get("type") in found and step["type"] in step:
            found[step["type"]] = [float(one) for one in step[step["type"]]]
    return found["scale"], found["translation"]


def _scale(image: _Image, found: Layout) -> dict[str, Any]:
    """Pixel size, unit and offset as a header has them; the offset is the translation as written."""
    facts: dict[str, Any] = {"channel_names": image.channel_names}
    at = [found.axes.index(letter) for letter in "yx"]
    if not image.scale:
        return facts
    unit = image.units[at[0]]
    if not unit and [image.scale[one] for one in at] == [1.0, 1.0]:
        return facts  # an untouched default says nothing
    factors = [MICROMETERS.get(image.units[one], 1.0) for one in at]
    facts["pixel_size"] = tuple(image.scale[one] * factor for one, factor in zip(at, factors, strict=True))
    facts["offset"] = tuple(image.translation[one] * factor for one, factor in zip(at, factors, strict=True))
    facts["unit"] = "micrometer" if unit in MICROMETERS else unit if unit in ("meter", "degree") else ""
    return facts


def _whole_bytes(found: Layout, array: zarr.Array[Any]) -> int:
    """Bytes that one read must decode whatever its box: only where chunks are huge or hold whole planes."""
    chunks = dict(zip(found.axes, array.chunks, strict=True))
    across = math.prod(chunks.get(letter, 1) for letter in CHANNEL)
    apart = -(-found.length("c") * found.length("s") // across)
    plane_bytes = found.length("y") * found.length("x") * across * array.dtype.itemsize
    return decoded_bytes(math.prod(array.chunks) * array.dtype.itemsize, plane_bytes) * apart


class _ZarrRaster(Raster):
    """One open array; Zarr's own reads are safe from several threads."""

    def __init__(self, path: str, header: Header, found: Layout, array: zarr.Array[Any]) -> None:
        self.header = header
        self._path, self._layout, self._array = path, found, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the chunks that the box touches."""
        found = self._layout
        rows, columns = box.slices
        picks: dict[str, Any] = {**found.position(plane), "y": rows, "x": columns, "c": slice(None), "s": slice(None), ".": 0}
        channels: Any = list(found.channels)
        one_axis = "c" if found.length("s") == 1 else "s"
        if found.length("c") * found.length("s") == found.length(one_axis):
            picks[one_axis], channels = _narrow(found.channels), slice(None)  # only the chunks of these channels are decoded
        with reading(self._path, box):
            block = np.asarray(self._array.oindex[tuple(picks[letter] for letter in found.axes)])
            left = [letter for letter in found.axes if letter in "csyx"]
            pixels_CYX = block.transpose([left.index(letter) for letter in "csyx" if letter in left]).reshape(-1, *box.shape)
            out_CYX: NDArray[Any] = pixels_CYX[channels].astype(self.header.dtype, copy=False)
            return out_CYX


def _narrow(channels: tuple[int, ...]) -> slice | list[int]:
    """The same channels as a slice where they follow one another, which Zarr reads without an index array."""
    span = range(channels[0], channels[0] + len(channels))
    return slice(span.start, span.stop) if channels == tuple(span) else list(channels)
