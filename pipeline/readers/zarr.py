"""Zarr and OME-Zarr in folders, at URLs and in zips, read by region."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import Box
from pipeline.raster import Header, Raster, coarsened, map_scale
from pipeline.readers import Member, Reader
from pipeline.readers._files import bare_path, is_remote, opening, reading
from pipeline.readers._geozarr import georeference_of, names_georeference
from pipeline.readers._layout import Layout, check_level, make_header, pixel_dtype, resolve_layout
from pipeline.readers._ome_zarr import Image, Placement, axis_letters, choose_image, images_of, level_nodes, list_members, refuse_group
from pipeline.readers._remote_folders import has_file, is_web
from pipeline.readers._series import choose_series
from pipeline.readers._zarr_files import METADATA, Node, ZipStorage, child_nodes, open_files, read_node
from pipeline.storage import LocalStorage, with_fast_codecs

if TYPE_CHECKING:
    import zarr

__all__ = ["Zarr"]

INSIDE = (".zarr/", ".zarr.zip/", ".ozx/")
NODATA = ("_FillValue", "missing_value", "nodata")  # attributes of CF and of GDAL
PACKED = ("scale_factor", "add_offset")


class Zarr(Reader):
    """Zarr v2 and v3 arrays and OME-Zarr 0.1 to 0.5 images, also zipped, and images inside them such as ``a.ome.zarr/labels/nuclei``.

    A plate stands for all of its fields; ``series`` chooses one image of several. The axes of an array that is no OME-Zarr come
    from its dimension names. A folder with Zarr's metadata is recognised whatever its name. A chunk that is not stored holds the
    fill value, which is no data only where the attribute ``_FillValue`` or ``nodata`` says so. Channels are colours where the
    metadata displays them so, if an axis is named after samples, or if the last axis holds three unnamed uint8 values.

    Example::

        reader: {name: zarr, level: 1}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr.zip", ".ome.zarr", ".zarr.zip", ".zarr", ".ozx")

    def claims(self, path: str) -> bool:
        """Whether the path is a store or inside one, by the suffix or by Zarr's metadata files."""
        if super().claims(path) or any(part in path.lower() for part in INSIDE):
            return True
        return any(has_file(f"{bare_path(path)}/{name}") for name in METADATA)

    def members(self, path: str) -> Sequence[Member]:
        """List the fields of a plate or a well, as ``A/1/0``; with ``series: all`` the images of a store of several."""
        with opening(path):
            node = _open_node(path)
            return () if node.is_array else list_members(node, self, path.rstrip("/"))

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open an array, or one level of an image; no chunk is read."""
        with opening(path):
            raster = _open_raster(_find_level(_open_node(path), path, self), path, self)
        yield raster


def _open_node(path: str) -> Node:
    """Read the metadata at a path."""
    files = open_files(path)
    node = read_node(files, path.rstrip("/"))
    if node is None:
        inside = [] if is_web(path) else child_nodes(files)
        fix = f"Name one of its members: {one_of(inside[:8])}." if inside else ""
        what = "a folder without Zarr metadata"
        if isinstance(files, ZipStorage) and not files.list():
            what = "nothing at this path in the zip"
        elif is_web(path):
            what = "no Zarr metadata at this URL"
        elif is_remote(path) and not files.exists():
            what = "nothing at this URL"
        raise InputError(Problem(path, what, f"{one_of(METADATA)} in it", fix))
    return node


@dataclass(frozen=True)
class _Level:
    """The array of one level, and the image that it belongs to."""

    node: Node
    image: Image | None = None  # None: an array that is no OME-Zarr
    placement: Placement | None = None
    shapes: Sequence[Sequence[int]] = ()  # of all levels
    series: str = ""
    notes: tuple[str, ...] = ()


def _find_level(node: Node, path: str, options: Reader) -> _Level:
    """Find the array of the series and level that the options choose; refuse a group without an image."""
    if node.is_array:
        check_level(options, 1, path)
        choose_series(options, ["0"], [0], path)
        return _Level(node)
    images = [] if "plate" in node.attributes else images_of(node)
    if not images:
        raise refuse_group(node, options)
    image, notes = choose_image(images, options, path)
    levels = level_nodes(image)
    array, dataset = levels[check_level(options, len(levels), path)]
    shapes = [level.metadata["shape"] for level, _ in levels]
    return _Level(array, image, Placement.of(image, dataset), shapes, image.name if len(images) > 1 else "", notes)


def _open_raster(level: _Level, path: str, options: Reader) -> _ZarrRaster:
    from pipeline.readers._zarr_codecs import check_codecs

    node, image = level.node, level.image
    codec, is_lossy = check_codecs(node.metadata, node.zarr_format, path)
    array = _open_array(node)
    if not array.shape:
        raise InputError(Problem(path, "a single number", "an array with y and x"))
    letters = image.letters if image else _array_letters(node)
    count = math.prod(size for letter, size in zip(options.axes or letters or "", array.shape, strict=False) if letter.lower() in "cs")
    channel_names, notes = image.channel_names(count) if image else ((), ())
    layout = resolve_layout(options, letters, array.shape, path, channel_names=channel_names)
    dtype = pixel_dtype(array.dtype, path)
    facts = level.placement.facts(layout) if level.placement else {}
    place = _place(level, layout, path)
    told = facts.pop("notes", ())
    facts |= place
    facts |= {
        "notes": (
            *level.notes,
            *notes,
            *(() if options.pixel_size or place else told),
            *_attribute_notes(node, image, is_placed=bool(place)),
        ),
        "channel_names": channel_names,
        "nodata": _declared_nodata(node, image, dtype.kind),
        "is_color": dtype.name == "uint8" and layout.channels == (0, 1, 2) and _is_color(image, letters, layout),
        "is_lossy": is_lossy,
        "levels": _level_shapes(level.shapes, layout, path),
        "series": level.series,
    }
    header = make_header(options, layout, dtype, whole_bytes=layout.whole_bytes(array.chunks, array.dtype.itemsize), **facts)
    files = node.files
    folder = files.root if isinstance(files, LocalStorage) else None if isinstance(files, ZipStorage) else files.url
    return _ZarrRaster(path, header, layout, _with_decoder(array, node, layout, codec), folder)


def _place(level: _Level, layout: Layout, path: str) -> dict[str, Any]:
    """Return the header fields of the place on a map; empty if it is not known."""
    tags = georeference_of(level.node, level.image.group if level.image else None, path)
    if not tags:
        return {}
    if level.shapes:
        sides = [[shape[layout.axes.index(axis)] for axis in "yx"] for shape in (level.shapes[0], level.node.metadata["shape"])]
        steps = [2.0 ** round(math.log2(whole / side)) for whole, side in zip(*sides, strict=True)]
        tags = coarsened(tags, (steps[0], steps[1])) if steps != [1.0, 1.0] else tags
    size, unit, offset = map_scale(tags)
    scale = {"pixel_size": size, "unit": unit, "offset": offset, "pixel_size_from": "GeoZarr"} if size and unit else {}
    return {"georeference": tags, **scale}


def _open_array(node: Node) -> zarr.Array[Any]:
    import zarr
    from zarr.storage import StorePath

    metadata = dict(node.metadata)
    if node.zarr_format == 2:
        metadata |= {"filters": metadata.get("filters") or None, "attributes": node.attributes}
    array = zarr.Array.from_dict(StorePath(node.files.zarr()), metadata)
    if not all(array.chunks):
        raise InputError(Problem(node.path, f"chunks of {' x '.join(map(str, array.chunks))}", "at least one pixel"))
    return array


def _with_decoder(array: zarr.Array[Any], node: Node, layout: Layout, codec: str) -> zarr.Array[Any]:
    """Return the array with its decoder: zarrs if it can, else Zarr over a :class:`CheckedStore`, which refuses unsafe chunks."""
    import zarr
    from zarr.storage import StorePath

    from pipeline.readers._zarr_codecs import NUMCODECS, CheckedStore, max_bytes, unbounded_codec

    is_sliced = layout.channels == tuple(range(layout.channels[0], layout.channels[0] + len(layout.channels)))
    is_local = isinstance(node.files, LocalStorage)
    unbounded = unbounded_codec(node.metadata, node.zarr_format)
    can_zarrs = node.zarr_format == 3 and is_sliced and not codec.startswith(NUMCODECS) and not unbounded
    if can_zarrs and is_local and find_spec("zarrs"):
        return with_fast_codecs(array)
    chunk_bytes = math.prod(array.shards or array.chunks) * array.dtype.itemsize
    if isinstance(node.files, ZipStorage):
        node.files.max_bytes = max_bytes(chunk_bytes)
    store = CheckedStore(node.files.zarr(), "" if array.shards else codec, chunk_bytes, unbounded)
    return zarr.Array.from_dict(StorePath(store), array.metadata.to_dict())


def _array_letters(node: Node) -> str | None:
    """Return one letter for each axis from the dimension names; None unless they name y and x."""
    names = node.metadata.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    letters = axis_letters(names) if isinstance(names, list) and all(names) else ""
    return letters if "y" in letters and "x" in letters else None


def _is_color(image: Image | None, letters: str | None, layout: Layout) -> bool:
    """Whether the channels are red, green and blue."""
    if layout.length("c") * layout.length("s") != 3:
        return False
    if image:
        return image.is_color()
    return layout.axes == "yxc" if letters is None else layout.length("s") == 3


def _declared_nodata(node: Node, image: Image | None, kind: str) -> str | float | None:
    """Return the nodata value in an array's metadata, as CF, GDAL and xarray write it."""
    declared = [node.attributes.get(name) for name in NODATA]
    if node.zarr_format == 2 and image is None and "_ARRAY_DIMENSIONS" in node.attributes:
        declared.append(node.metadata.get("fill_value") or None)  # xarray's only place for it in Zarr v2; 0 is the default
    for value in declared:
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, str) and kind == "f":
            with suppress(ValueError, struct.error):  # xarray writes floats of Zarr v3 in base64
                return float(struct.unpack("<d", base64.b64decode(value, validate=True))[0])
        if isinstance(value, (str, int, float)):
            return value
    return None


def _attribute_notes(node: Node, image: Image | None, *, is_placed: bool) -> tuple[str, ...]:
    """Return notes on attributes that are not honoured."""
    attributes = {**(image.group.attributes if image else {}), **node.attributes}
    packed = [f"{name} {attributes[name]}" for name in PACKED if name in attributes]
    notes = [f"values are read as stored, without {' and '.join(packed)}"] if packed else []
    if not is_placed and names_georeference(attributes):
        way_out = "" if find_spec("rasterio") else ', which needs pip install "gigaseg[geo]"'
        notes.append(f"the georeference of this Zarr is not read{way_out}")
    return tuple(notes)


def _level_shapes(shapes: Sequence[Sequence[int]], layout: Layout, path: str) -> tuple[tuple[int, int], ...]:
    """Return height and width of each level; empty if there is only one."""
    if any(len(shape) != len(layout.axes) for shape in shapes):
        raise InputError(Problem(path, f"levels of {one_of([str(len(shape)) for shape in shapes])} axes", f"{len(layout.axes)} each"))
    y, x = layout.axes.index("y"), layout.axes.index("x")
    return tuple((shape[y], shape[x]) for shape in shapes) if len(shapes) > 1 else ()


class _ZarrRaster(Raster):
    """One open array; Zarr allows reads from several threads."""

    def __init__(self, path: str, header: Header, layout: Layout, array: zarr.Array[Any], folder: Any) -> None:
        self.header, self.folder = header, folder
        self._path, self._layout, self._array = path, layout, array

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode the chunks that the box touches."""
        with reading(self._path, box):
            return self._layout.read(self._array.oindex, box, plane).astype(self.header.dtype, copy=False)
