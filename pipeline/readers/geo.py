"""What GDAL opens and no other reader does: VRT, GeoPackage, ERDAS Imagine, ENVI, ASCII grids and others; needs the extra ``geo``."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Member, Reader
from pipeline.readers._files import bare_path, is_remote, opening, reading
from pipeline.readers._geo_bands import Bands, NoData, check_members, check_size, files_looked_at, is_lossy, memory_of, nodata_of
from pipeline.readers._geo_dataset import gdal, lacking_driver, open_dataset
from pipeline.readers._geo_place import place_of_dataset
from pipeline.readers._geo_vrt import Coverage, Vrt, is_vector_vrt, named_files, read_vrt
from pipeline.readers._layout import Layout, check_level, color_notes, make_header, resolve_layout
from pipeline.readers._series import choose_series, series_members
from pipeline.readers._world_file import companions

if TYPE_CHECKING:
    import rasterio

__all__ = ["Geo"]

BESIDE = ("hdr", "prj", "stx", "clr", "ige", "rrd", "aux", "sgrd", "mgrd", "gri", "rdc", "rpb", "rpc", "blw", "IMD", "RPB")
"""Endings of files beside an image of the same stem that hold its header, pixels, overviews or place."""
STARTS: dict[str, tuple[bytes, ...]] = {  # of suffixes that other files have too: how an image begins, in small letters
    ".asc": tuple(b"ncols nrows xll yll dx dy cellsize north south east west rows cols begin_of_head".split()),
    ".img": (b"ehfa_header_tag", b"pds_version_id", b"odl_version_id", b"lblsize"),
    ".ntf": (b"nitf", b"nsif"),
    ".pix": (b"pcidsk",),
    ".flt": (),
    ".rst": (),
}
HEADERS = {".flt": "hdr", ".img": "hdr", ".rst": "rdc"}  # or the file beside one
OF_MEMBER = ("", ".aux.xml", ".msk", ".ovr")  # what a change of a file of a VRT may lie in


class Geo(Reader):
    """Rasters that GDAL opens: VRT, GeoPackage, ERDAS Imagine (.img), ENVI, .bil, .asc, .hgt, .dem, .grd, .ers, NITF and others.

    Bands are channels, by number or by name. An image is never turned or warped: rotated and south-up affines, control points and
    rational polynomials go into the masks as they are. Data are missing where a mask band, opacity 0 or a value without data says
    so, and where a file that a VRT names is missing, which a note tells. Scale and offset of bands are not applied. A VRT may name
    files of this machine; one that names URLs, GDAL's virtual file systems or code is refused. GDAL caches at most 64 MiB a process.

    Example::

        reader: {name: geo, channels: [1, 2]}
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".mbtiles", ".nitf", ".gpkg", ".sdat", ".asc", ".bil", ".bip", ".bsq", ".dem", ".dt0", ".dt1", ".dt2", ".ecw", ".ers"),
        *(".flt", ".grd", ".hgt", ".img", ".kea", ".ntf", ".pix", ".rst", ".sid", ".vrt"),
    )
    packages: ClassVar[tuple[str, ...]] = ("rasterio",)
    extra: ClassVar[str] = "geo"

    def companions(self, path: str) -> Sequence[str]:
        """The headers, masks and world files beside an image, and the files that a VRT names."""
        if is_remote(path):
            return ()
        file = bare_path(path)
        stem = file.removesuffix(PurePosixPath(file).suffix)
        beside = [f"{file}.ovr", f"{file}.msk", f"{file}.hdr", *companions(file), *(f"{stem}.{ending}" for ending in BESIDE)]
        if file.lower().endswith(".ers"):
            beside.append(stem)
        if file.lower().endswith(".vrt") and not self.missing(path):  # else its files are images of their own
            beside += [f"{name}{ending}" for name in named_files(os.path.abspath(file)) for ending in OF_MEMBER]  # noqa: PTH100 - see _target
        return [name for name in beside if name != file]

    def why_not(self, path: str) -> str:
        """A GeoPackage or a VRT of features is no image, nor is another kind of file with the suffix of one, such as README.rst."""
        file = bare_path(path)
        if is_remote(path):
            return "not read over a network"
        if name := lacking_driver(path):
            return f"rasterio of this installation has no driver {name}"
        try:
            if file.lower().endswith(".gpkg"):
                return "" if _has_tiles(file) else "a GeoPackage of features, without an image"
            if file.lower().endswith(".vrt"):
                return "a VRT of features, without an image" if is_vector_vrt(file) else ""
            return "" if _may_be_image(file) else "another kind of file with the suffix of a raster"
        except (OSError, sqlite3.Error):  # opening it tells what is wrong
            return ""

    def members(self, path: str) -> Sequence[Member]:
        """With ``series: all``, every image of a file of several, such as a GeoPackage."""
        if self.series != "all":
            return ()
        with opening(path), gdal(), open_dataset(_target(path)[0]) as dataset:
            return series_members(self, [title for title, _ in _subdatasets(dataset)], path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open a file; nothing is decoded yet."""
        with opening(path), gdal():
            if name := lacking_driver(path):
                fix = "Convert it to GeoTIFF where GDAL has the driver, or install a rasterio that has it, such as conda-forge's."
                raise InputError(Problem(path, f"a format of GDAL's driver {name}, which rasterio of this installation lacks", "", fix))
            raster = _open(self, path)
        try:
            yield raster
        finally:
            raster.close()


def _may_be_image(file: str) -> bool:
    """Whether a file whose suffix says little begins as an image, or has the header of one beside it."""
    suffix = PurePosixPath(file).suffix.lower()
    if suffix not in STARTS:
        return True
    stem, ending = file.removesuffix(PurePosixPath(file).suffix), HEADERS.get(suffix)
    headers = [f"{stem}.{ending}", f"{stem}.{ending.upper()}", f"{file}.{ending}"] if ending else []
    if any(os.path.isfile(name) for name in headers):  # noqa: PTH113 - as in _target
        return True
    with open(file, "rb") as stream:  # noqa: PTH123 - as in _target
        return stream.read(64).lstrip().lower().startswith(STARTS[suffix])


def _has_tiles(file: str) -> bool:
    """Whether a GeoPackage lists a table of images."""
    name = os.path.abspath(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")  # noqa: PTH100 - a link keeps its name
    with closing(sqlite3.connect(f"file:{name}?mode=ro", uri=True)) as base:
        kinds = {row[0] for row in base.execute("SELECT data_type FROM gpkg_contents")}
    return bool(kinds & {"tiles", "2d-gridded-coverage"})


def _target(path: str) -> tuple[str, Vrt | None]:
    """Return what GDAL opens, and what a VRT names.

    Raises:
        InputError: there is no such file, it is at a URL, or it is a VRT that is refused.
    """
    if is_remote(path):
        fix = "Copy the file and what it names to a disk, or convert it to GeoTIFF (COG), which is read by ranges at its URL."
        raise InputError(Problem(path, "a format that is not read over a network, at a URL", "a path of this machine", fix))
    file = os.path.abspath(bare_path(path))  # noqa: PTH100 - not resolved: side files lie beside a link
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises where a name is too long
        raise InputError(Problem(path, "a folder" if os.path.isdir(file) else "no file at this path", "a file"))  # noqa: PTH112
    with open(file, "rb") as stream:  # noqa: PTH123 - as above
        is_vrt = b"<VRTDataset" in stream.read(4096)
    vrt = read_vrt(file) if is_vrt or file.lower().endswith(".vrt") else None
    return (vrt.target if vrt else file), vrt


def _subdatasets(dataset: rasterio.DatasetReader) -> list[tuple[str, str]]:
    """Return title and GDAL's name of each image of a file of several; empty where it holds one."""
    names = dataset.subdatasets
    return [(name.rpartition(":")[2].strip('"') or str(index), name) for index, name in enumerate(names)] if not dataset.count else []


def _chosen(options: Geo, target: str, path: str) -> tuple[str, str, tuple[str, ...]]:
    """Return what GDAL opens of a file of one or several images, the title of that image, and a note on the choice."""
    with open_dataset(target) as dataset:
        found = _subdatasets(dataset)
        if not found and not dataset.count:
            raise InputError(Problem(path, "a file without bands of pixels", "an image"))
    if not found:
        choose_series(options, ["0"], [1], path)
        return target, "", ()
    areas = []
    for _, name in found:
        with open_dataset(name) as inner:
            areas.append(inner.width * inner.height)
    index, notes = choose_series(options, [title for title, _ in found], areas, path)
    return found[index][1], found[index][0], notes


def _levels(dataset: rasterio.DatasetReader, target: str) -> tuple[list[tuple[int, int]], list[int | None]]:
    """Return the shape of each level, and GDAL's number of its overview; overviews that are not smaller than the last are left out."""
    shapes: list[tuple[int, int]] = [dataset.shape]
    numbers: list[int | None] = [None]
    for number in range(len(dataset.overviews(1))):
        with open_dataset(target, number) as level:
            if level.height <= shapes[-1][0] and level.width <= shapes[-1][1] and level.shape != shapes[-1]:
                shapes.append(level.shape)
                numbers.append(number)
    return shapes, numbers


def _open(options: Geo, path: str) -> _GeoRaster:
    """Make the header and the raster."""
    target, vrt = _target(path)
    target, title, notes = _chosen(options, target, path)
    with open_dataset(target) as dataset:
        shapes, overviews = _levels(dataset, target)
        level = check_level(options, len(shapes), path)
        shape, zoom = shapes[level], (shapes[0][0] / shapes[level][0], shapes[0][1] / shapes[level][1])
        bands = Bands(dataset, options, path)
        check_size(dataset, bare_path(path))
        check_members(vrt.files if vrt else ())
        layout = _layout(options, bands, shape, path)
        placement = place_of_dataset(dataset, zoom, vrt.crs if vrt else "")
        stored = _Stored.of(dataset, bands, layout, vrt.coverage if vrt else None)
        nodata = nodata_of(dataset, bands, stored.chosen, options)
        memory, has_lossy_member = memory_of(dataset, files_looked_at(vrt.files if vrt else ()))
        header = make_header(
            options.model_copy(update={"nodata": None}),
            layout,
            bands.dtype,
            **placement.facts | {"nodata": nodata.header},
            has_mask=stored.has_mask or bool(nodata.stored),
            bits=bands.bits,
            is_color=bands.is_color(layout.channels),
            is_lossy=is_lossy(dataset, bare_path(path)) or has_lossy_member,
            levels=tuple(shapes) if len(shapes) > 1 else (),
            series=title,
            channel_names=bands.names,
            whole_bytes=memory.whole,
            work_bytes=memory.work,
            notes=(
                *notes,
                *(vrt.notes if vrt else ()),
                *color_notes(layout, palette=bands.keeps_indices, alpha=bands.alpha),
                *bands.notes(),
                *nodata.notes,
                *placement.notes,
            ),
        )
    return _GeoRaster(path, (target, overviews[level]), header, layout, bands, stored, nodata)


def _layout(options: Geo, bands: Bands, shape: tuple[int, int], path: str) -> Layout:
    """Return the meaning of the bands: channels, unless ``reader.axes`` says otherwise."""
    is_one = bands.channels == 1
    stored = shape if is_one else (bands.channels, *shape)
    layout = resolve_layout(options, "yx" if is_one else "cyx", stored, path, channel_names=bands.names, alpha=bands.alpha)
    if not layout.axes.endswith("yx"):
        raise InputError(Problem(path, f"reader.axes {layout.axes!r}", "y and x last"))
    if bands.table_NC is not None and layout.axes[0] not in "cs":
        raise InputError(Problem(path, f"reader.axes {layout.axes!r} for colours of a palette", "cyx"))
    return layout


class _Stored:
    """Which bands are read, and what declares missing data."""

    def __init__(
        self, chosen: tuple[int, ...], alpha: int | None, masks: tuple[int, ...], coverage: Coverage | None, *, is_shared: bool
    ) -> None:
        self.chosen = chosen  # bands of all planes and channels, numbered from 0, for which masks and values are asked
        self.alpha, self.masks, self.coverage = alpha, masks, coverage
        self.is_shared = is_shared  # whether all bands have the mask of one

    @property
    def has_mask(self) -> bool:
        """Whether a mask, opacity or the lack of files declares missing data."""
        return self.alpha is not None or bool(self.masks) or self.coverage is not None

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader, bands: Bands, layout: Layout, coverage: Coverage | None) -> _Stored:
        from rasterio.enums import MaskFlags

        is_palette = bands.table_NC is not None
        is_channels = "c" in layout.axes or "s" in layout.axes
        chosen = layout.channels if is_channels and not is_palette else tuple(range(1 if is_palette else bands.count))
        alpha = bands.alpha[0] if bands.alpha and not set(bands.alpha) & set(chosen) else None
        flags = [dataset.mask_flag_enums[band] for band in chosen]
        masked = [
            band for band, one in zip(chosen, flags, strict=True) if not set(one) & {MaskFlags.all_valid, MaskFlags.nodata, MaskFlags.alpha}
        ]
        shared = [band for band in masked if MaskFlags.per_dataset in dataset.mask_flag_enums[band]]
        return cls(chosen, alpha, tuple(shared[:1] or dict.fromkeys(masked)), coverage, is_shared=bool(shared))


class _GeoRaster(Raster):
    """One level of an image; each thread that reads has a dataset of its own, as GDAL's serve one thread at a time."""

    def __init__(
        self,
        path: str,
        source: tuple[str, int | None],
        header: Header,
        layout: Layout,
        bands: Bands,
        stored: _Stored,
        nodata: NoData,
    ) -> None:
        self.header = header
        self._path, self._source, self._layout, self._stored, self._nodata = path, source, layout, stored, nodata
        self._dtype, self._table_NC, self._is_mixed = bands.stored_dtype, bands.table_NC, bool(bands.mixed)
        self._lock = threading.Lock()
        self._free: list[rasterio.DatasetReader] = []
        self._is_closed = False

    def close(self) -> None:
        """Close the datasets; those that a thread still reads from are closed when it has read."""
        with self._lock:
            self._is_closed, free, self._free = True, self._free, []
        for dataset in free:
            dataset.close()

    @contextmanager
    def _dataset(self) -> Iterator[rasterio.DatasetReader]:
        """Give a dataset that no other thread uses; after an error it is not used again."""
        with self._lock:
            if self._is_closed:
                raise BlockError(f"{self._path}: read after it was closed")
            dataset = self._free.pop() if self._free else None
        dataset = dataset or open_dataset(*self._source)
        try:
            yield dataset
        except BaseException:
            dataset.close()
            raise
        with self._lock:
            is_kept = not self._is_closed
            if is_kept:
                self._free.append(dataset)
        if not is_kept:
            dataset.close()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read the bands of a box."""
        with reading(self._path, box), gdal(), self._dataset() as dataset:
            return self._pixels(self._read(dataset, box, self._indices(plane)))

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Read the bands of a box; data are missing where opacity or the mask is 0, values say so, or a file is missing."""
        stored = self._stored
        with reading(self._path, box), gdal(), self._dataset() as dataset:
            indices = self._indices(plane)
            both = [*indices, *([stored.alpha] if stored.alpha is not None else [])]
            bands_BYX = self._read(dataset, box, both)
            declared = [bands_BYX[-1] != 0] if stored.alpha is not None else []
            bands_BYX = bands_BYX[: len(indices)]
            if masks := [band for band in stored.masks if band in indices or stored.is_shared]:
                masks_BYX = dataset.read_masks([band + 1 for band in masks], window=_window(box))
                declared.append((masks_BYX != 0).any(axis=0))
        declared += [
            one for one in (self._nodata.has_data(bands_BYX, indices), self._covered(box), self._opaque(bands_BYX)) if one is not None
        ]
        declared_YX = np.logical_and.reduce(declared) if declared else None
        return self._pixels(bands_BYX), declared_YX

    def _covered(self, box: Box) -> NDArray[np.bool_] | None:
        coverage = self._stored.coverage
        return None if coverage is None else coverage.of(box, self.header.shape)

    def _opaque(self, bands_BYX: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Return where the palette has an opacity above 0; None where all of it has."""
        table_NC = self._table_NC
        return None if table_NC is None or table_NC[:, 3].all() else np.asarray(table_NC[:, 3][bands_BYX[0]] != 0)

    def _indices(self, plane: int) -> list[int]:
        """Return the bands of a plane, from 0."""
        if self._table_NC is not None:
            return [0]
        position = self._layout.position(plane) if self._layout.kept else {}
        return list(position.values()) if position else list(self._layout.channels)

    def _read(self, dataset: rasterio.DatasetReader, box: Box, bands: Sequence[int]) -> NDArray[Any]:
        out_BYX: NDArray[Any] = np.empty((len(bands), *box.shape), self._dtype)
        if self._is_mixed:  # rasterio reads bands of several types one by one
            for band, out_YX in zip(bands, out_BYX, strict=True):
                dataset.read(band + 1, window=_window(box), out=out_YX)
        else:
            dataset.read([band + 1 for band in bands], window=_window(box), out=out_BYX)
        return out_BYX

    def _pixels(self, bands_BYX: NDArray[Any]) -> NDArray[Any]:
        """Return the channels of the bands that were read."""
        if self._table_NC is None:
            return bands_BYX
        colors_CYX: NDArray[Any] = np.moveaxis(self._table_NC[:, :3][bands_BYX[0]], -1, 0)
        return colors_CYX[list(self._layout.channels)]


def _window(box: Box) -> Any:
    from rasterio.windows import Window

    return Window(box.x0, box.y0, box.shape[1], box.shape[0])
