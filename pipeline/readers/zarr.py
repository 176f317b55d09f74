"""Zarr and OME-Zarr: arrays are read by region; axes and pixel size come from the metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._files import local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, make_header, pixel_dtype, resolve_layout
from pipeline.storage import LocalStorage, Storage, open_storage, with_fast_codecs

if TYPE_CHECKING:
    import zarr

__all__ = ["Zarr"]

METADATA = ("zarr.json", ".zarray", ".zgroup")
MICROMETERS = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4}
LETTERS = {"time": "t", "channel": "c", "band": "c"}  # known names of axes that are longer than a letter


class Zarr(Reader):
    """Zarr v2 and v3 arrays, OME-Zarr 0.1 to 0.5 images, and images inside them such as ``a.ome.zarr/labels/nuclei``.

    The axes of an array that is no OME-Zarr come from its dimension names. A folder with Zarr's metadata is recognised
    whatever its name. A chunk that is not stored holds the fill value.

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
        """Open an array, or one level of an image; no chunk is read."""
        with opening(path):
            image = _image(_open_store(path), path, self)
            layout = resolve_layout(self, image.names, image.array.shape, path)
            dtype = pixel_dtype(image.array.dtype, path)
            whole_bytes = layout.whole_bytes(image.array.chunks, image.array.dtype.itemsize)
            header = make_header(self, layout, dtype, whole_bytes=whole_bytes, **_scale(image, layout))
            raster = _ZarrRaster(path, header, layout, with_fast_codecs(image.array))
            storage = _storage(path)
            raster.folder = storage.root / image.array.path if isinstance(storage, LocalStorage) else None
        yield raster


def _storage(path: str) -> Storage:
    """Return the storage of a folder, or of a URL that is one's."""
    try:
        return open_storage(path)
    except InputError:
        return LocalStorage(local_path(path))  # raises what says how to read such a URL


def _open_store(path: str) -> zarr.Array[Any] | zarr.Group:
    """Open an array or a group."""
    import zarr

    storage = _storage(path)
    names = [name for name in METADATA if storage.has(name)]
    if not names and isinstance(storage, LocalStorage) and not storage.root.exists():
        raise InputError(Problem(path, "no file at this path"))
    if not names:
        raise InputError(Problem(path, "a folder without Zarr metadata", f"{one_of(METADATA)} in it"))
    return zarr.open(store=storage.zarr(), mode="r", zarr_format=3 if "zarr.json" in names else 2)


@dataclass(frozen=True)
class _Image:
    """One array, and what the group around it says about each axis: letter, unit, scale and translation."""

    array: zarr.Array[Any]
    names: str | None
    units: Sequence[str] = ()
    scale: Sequence[float] = ()
    translation: Sequence[float] = ()
    channel_names: tuple[str, ...] = ()


def _image(node: zarr.Array[Any] | zarr.Group, path: str, options: Reader) -> _Image:
    """Find the array of the level that the options name; refuse a group that holds no image, or several."""
    import zarr

    if isinstance(node, zarr.Array):
        check_level(options, 1, path)
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
    """Return one letter for each axis, from the dimension names; None where they do not name y and x."""
    names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.asdict().get("_ARRAY_DIMENSIONS")
    letters = _letters(names) if names and all(names) else ""
    return letters if "y" in letters and "x" in letters else None


def _letters(names: Sequence[str]) -> str:
    """Return one letter for each axis; an unknown name becomes ``?``.

    Example:
        >>> _letters(["time", "C", "y", "x", "lambda"])
        'tcyx?'
    """
    lower = [LETTERS.get(name.lower(), name.lower()) for name in names]
    return "".join(name if len(name) == 1 else "?" for name in lower)


def _level(group: zarr.Group, attributes: Mapping[str, Any], path: str, options: Reader) -> _Image:
    """Return one level of the first multiscale image, with the transformations of both the level and the image."""
    import zarr

    image = attributes["multiscales"][0]
    datasets = image["datasets"]
    dataset = datasets[check_level(options, len(datasets), path)]
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
        scale=[level * whole for level, whole in zip(inner[0], outer[0], strict=True)],
        translation=[level * whole + moved for level, whole, moved in zip(inner[1], outer[0], outer[1], strict=True)],
        channel_names=labels if all(labels) else (),
    )


def _transform(node: Mapping[str, Any], axes: int) -> tuple[list[float], list[float]]:
    """Return scale and translation of a level or an image; 1 and 0 where the metadata gives none."""
    numbers = {"scale": [1.0] * axes, "translation": [0.0] * axes}
    for step in node.get("coordinateTransformations", []):
        kind = step.get("type")
        if kind in numbers and kind in step:
            numbers[kind] = [float(number) for number in step[kind]]
    return numbers["scale"], numbers["translation"]


def _scale(image: _Image, layout: Layout) -> dict[str, Any]:
    """Return pixel size, unit and offset for the header; the offset is the translation as written."""
    facts: dict[str, Any] = {"channel_names": image.channel_names}
    y, x = (layout.axes.index(letter) for letter in "yx")
    if not image.scale:
        return facts
    unit = image.units[y]
    if not unit and image.scale[y] == image.scale[x] == 1.0:
        return facts  # a default that nobody has changed
    factors = {axis: MICROMETERS.get(image.units[axis], 1.0) for axis in (y, x)}
    facts["pixel_size"] = tuple(image.scale[axis] * factor for axis, factor in factors.items())
    facts["offset"] = tuple(image.translation[axis] * factor for axis, factor in factors.items())
    facts["unit"] = "micrometer" if unit in MICROMETERS else unit if unit in ("meter", "degree") else ""
    return facts


class _ZarrRaster(Raster):
    """One open array; Zarr allows reads from several threads."""

    def __init__(self, path: str, header: Header, layout: Layout, array: zarr.Array[Any]) -> None:
        self.header = header
        self._path, self._layout, self._array = path, layout, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the chunks that the box touches."""
        with reading(self._path, box):
            return self._layout.read(self._array.oindex, box, plane).astype(self.header.dtype, copy=False)
