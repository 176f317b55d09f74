"""Polygons as a truth: a raster of one channel on the grid of an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict

from pipeline.errors import InputError, Problem, counted, nearest, one_of
from pipeline.geometry import Box
from pipeline.polygons import PolygonLayer, companions, read_polygons
from pipeline.raster import Header, Raster
from pipeline.readers import Reader

__all__ = ["Polygons"]

MOST_NAMES = 8  # in a message


class Polygons(Reader):
    """Polygons of a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet, drawn as truth values on the grid of an image.

    It serves truth: `truth: buildings.gpkg`, or `truth: {path: buildings.gpkg, attribute: class}`. Without an attribute, polygons have
    the value 1 and the rest has 0. An attribute of numbers or of true and false holds truth values; where no polygon lies, the value is
    0. An attribute of texts names classes; where no polygon lies is class 0. Where polygons overlap, the later one in the file wins.

    The options `grid`, `values`, `value`, `background`, `first_id` and `may_miss` are set from the image and the classes, not by the user.

    Example::

        reader: {name: polygons}
    """

    packages: ClassVar[tuple[str, ...]] = ("pyogrio", "rasterio", "shapely")
    extra: ClassVar[str] = "geo"

    layer: str | None = Field(default=None, description="layer of the file; null: the only one")
    attribute: str | None = Field(default=None, description="attribute that names the class or holds the truth value; null: value 1")
    all_touched: bool = Field(default=False, description="polygons cover every pixel that they touch; false: those whose centre is inside")
    ignore: Annotated[tuple[str, ...], Strict(strict=False)] = Field(default=(), description="names whose polygons are left out")
    grid: dict[str, Any] | None = Field(default=None, description="shape, planes, levels and georeference of the image")
    values: dict[str, int | None] | None = Field(
        default=None, description="truth value of each name; null: each polygon has its own; null for all: the classes have no names"
    )
    value: int | None = Field(default=1, description="truth value of polygons without an attribute; null: each polygon has its own")
    background: int = Field(default=0, description="truth value where no polygon lies, if the attribute holds names")
    first_id: int = Field(default=1, description="least of the values that polygons have of their own")
    may_miss: bool = Field(default=False, description="a layer that lies elsewhere has no polygon here; false: it is refused")

    def companions(self, path: str) -> Sequence[str]:
        """The files of a Shapefile beside the one with the corners."""
        return companions(path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the polygons near the image, or find them read before."""
        if self.grid is None:
            fix = "Name it as truth: `truth: {path: buildings.gpkg, attribute: class}`, or as zones or regions."
            raise InputError(Problem(path, "polygons, which have no pixels of their own", "an image", fix))
        grid = {**self.grid, "shape": tuple(self.grid["shape"]), "levels": tuple(map(tuple, self.grid.get("levels", ())))}
        image = Header(channels=1, dtype="uint8", **grid)
        layer = read_polygons(path, image, layer=self.layer, attribute=self.attribute, may_miss=self.may_miss)
        yield _PolygonRaster(self, path, image, layer)


class _PolygonRaster(Raster):
    """Polygons on the grid of an image; the same on every plane of a stack."""

    def __init__(self, options: Polygons, path: str, image: Header, layer: PolygonLayer) -> None:
        self._layer, self._all_touched = layer, options.all_touched
        values, fill, ignored = _truth_values(options, path, layer)
        nodata, notes = None, list(layer.notes)
        if ignored.any():
            nodata = int(max(values[~ignored].max(initial=0), fill)) + 1
            values = np.where(ignored, nodata, values)
            notes.append(f"{counted(int(ignored.sum()), 'polygon')} left out of every count: {', '.join(options.ignore)}")
        if image.num_planes > 1:
            notes.append("polygons are the same on every plane")
        self._values, self._fill = _smallest(values, fill), fill
        self.header = Header(
            image.shape,
            1,
            self._values.dtype.name,
            image.planes,
            georeference=image.georeference if layer.is_placed else {},
            nodata=nodata,
            work_bytes=2 * layer.nbytes,  # while it is read; half of it later
            notes=tuple(notes),
        )

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Draw the polygons of a box."""
        del plane
        return self._layer.rasterise(box, self._values, self._fill, all_touched=self._all_touched)[None]


def _truth_values(options: Polygons, path: str, layer: PolygonLayer) -> tuple[NDArray[Any], int, NDArray[np.bool_]]:
    """Return the truth value of each polygon, the value where none lies, and which polygons are left out of every count."""
    none, own = np.zeros(len(layer), np.bool_), options.first_id + np.arange(len(layer), dtype=np.int64)
    values = layer.values
    if values is None:
        return (own if options.value is None else np.full(len(layer), options.value)), 0, none
    if values.dtype != np.object_:
        kept = values.astype(np.uint8) if values.dtype == np.bool_ else values
        if kept.dtype.kind == "f" and np.isnan(kept).any():
            raise InputError(_without_value(options, path, int(np.isnan(kept).sum())))
        return kept, 0, none
    names = values.tolist()
    if None in names:
        raise InputError(_without_value(options, path, names.count(None)))
    if not names:
        return own, options.background, none
    _check_names(options, path, names)
    table = {**(options.values or {}), **dict.fromkeys(options.ignore, 0)}
    kept = np.array([table[name] for name in names], object)
    is_own = np.array([one is None for one in kept.tolist()])
    kept[is_own] = own[is_own]
    return kept.astype(np.int64), options.background, np.isin(names, options.ignore)


def _without_value(options: Polygons, path: str, number: int) -> Problem:
    fix = "Fill them in, or remove these polygons: where they lie would otherwise count as background."
    return Problem(path, f"{counted(number, 'polygon')} without a value of {options.attribute!r}", "a value for each polygon", fix)


def _check_names(options: Polygons, path: str, names: Sequence[Any]) -> None:
    """Refuse names that are no class, all at once."""
    if not all(isinstance(name, str) for name in names):
        kind = type(next(name for name in names if not isinstance(name, str))).__name__
        raise InputError(Problem(path, f"{options.attribute!r} with values of type {kind}", "names of classes, numbers, or true and false"))
    counts = Counter(names)
    classes = list(options.values or ())
    unknown = [(name, number) for name, number in counts.most_common() if name not in classes and name not in options.ignore]
    if not unknown:
        return
    found = ", ".join(f"{name!r} ({counted(number, 'polygon')})" for name, number in unknown[:MOST_NAMES])
    more = f" and {counted(len(unknown) - MOST_NAMES, 'more name')}" if len(unknown) > MOST_NAMES else ""
    close = " ".join(filter(None, (nearest(name, classes) for name, _ in unknown[:MOST_NAMES])))
    leave = "Rename them, add them to `classes`, or leave them out of every count with `ignore` beside `attribute`"
    fix = f"{close} {leave}; without `attribute`, every polygon is class 1.".strip()
    expected = one_of(classes) if classes else "names in `classes`, and the classes have none"
    raise InputError(Problem(path, f"{options.attribute!r} names no class by {found}{more}", expected, fix))


def _smallest(values: NDArray[Any], fill: int) -> NDArray[Any]:
    """Return values in the smallest type of whole numbers that holds them and the fill value; floats that are not whole stay."""
    if values.dtype.kind == "f":
        if not (np.isfinite(values).all() and (values == np.floor(values)).all() and np.abs(values).max(initial=0) < 2**53):
            return values
        values = values.astype(np.int64)
    least, most = int(values.min(initial=fill)), int(values.max(initial=fill))
    types = ("uint8", "uint16", "uint32", "uint64") if least >= 0 else ("int8", "int16", "int32", "int64")
    return values.astype(next(name for name in types if np.iinfo(name).min <= least and most <= np.iinfo(name).max))
