"""Object tables: one row per object, as Parquet, written and read part by part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    from pipeline.writers import MaskMeta

__all__ = ["ObjectTable", "num_rows", "read_tables", "write_csv"]

FORMAT = "gigaseg.objects/1"

# Content and unit of a column, by its name or by a prefix that ends in an underscore; the first match counts.
COLUMNS = {
    "id": ("number of the object in the image, by its first pixel in row-major order", ""),
    "class": ("name of the class", ""),
    "t": ("index of the time point", ""),
    "z": ("index of the slice", ""),
    "bbox_y0": ("first row", "pixel"),
    "bbox_x0": ("first column", "pixel"),
    "bbox_y1": ("last row + 1", "pixel"),
    "bbox_x1": ("last column + 1", "pixel"),
    "centroid_": ("mean position of the pixels", "pixel"),
    "area_px": ("number of pixels", "pixel^2"),
    "area_": ("area; of a map in degrees or Mercator on the ground, as all lengths in metres", "{unit}^2"),
    "perimeter_px": ("length of the outline, by Crofton's formula with four directions", "pixel"),
    "perimeter_": ("length of the outline, by Crofton's formula with four directions", "{unit}"),
    "equivalent_diameter_px": ("diameter of the circle of the same area", "pixel"),
    "equivalent_diameter_": ("diameter of the circle of the same area", "{unit}"),
    "major_axis_px": ("long axis of the ellipse of the same second moments", "pixel"),
    "minor_axis_px": ("short axis of the ellipse of the same second moments", "pixel"),
    "orientation": ("angle from the y axis to the long axis; null where there is none", "radian"),
    "eccentricity": ("of the ellipse: 0 is a circle, near 1 a line", ""),
    "solidity": ("area divided by the area of the convex hull", ""),
    "touches_border": ("whether a pixel lies on the border of the image", ""),
    "mean_probability": ("mean probability of the predicted class; null where it is unknown", ""),
    "intensity_mean_": ("mean of the valid pixels; null where there are none", "raw value"),
    "intensity_min_": ("least valid pixel", "raw value"),
    "intensity_max_": ("greatest valid pixel", "raw value"),
    "intensity_std_": ("standard deviation of the valid pixels", "raw value"),
    "first_": ("first pixel in row-major order", "pixel"),
}


class ObjectTable:
    """A Parquet file of objects that is being written: one row group for each call of :meth:`append`.

    NaN becomes null. The class column holds names. The metadata of a column are its unit and description; those of the table include
    the pixel size. The same columns in the same parts give the same bytes, with one version of pyarrow.

    Example:
        >>> from pipeline.storage import open_storage
        >>> from pipeline.writers import MaskMeta
        >>> storage = open_storage("memory://table")
        >>> with ObjectTable.create(storage, "a.parquet", MaskMeta((8, 8), classes=[{"name": "glass"}, {"name": "cell"}])) as table:
        ...     table.append({"id": np.array([1, 2]), "class": np.array([1, 1])})
        >>> [part.to_pydict() for part in read_tables(storage, "a.parquet")]
        [{'id': [1, 2], 'class': ['cell', 'cell']}]
        >>> storage.delete("a.parquet")
    """

    def __init__(self, path: Path, meta: MaskMeta) -> None:
        self._path, self._meta = path, meta
        self._writer: ParquetWriter | None = None

    @classmethod
    @contextmanager
    def create(cls, storage: Storage, key: str, meta: MaskMeta) -> Iterator[ObjectTable]:
        """Yield a table to append to; the whole file appears under its key when the ``with`` block ends without an error.

        Args:
            storage: of the output.
            key: of the file.
            meta: describes the label image: classes, pixel size, unit and shape.
        """
        with storage.local_file(key) as path:
            table = cls(path, meta)
            try:
                yield table
            finally:
                if table._writer is not None:
                    table._writer.close()
            if table._writer is None:
                raise ValueError(f"{key}: no columns were appended")

    def append(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write objects as a row group; ``columns`` are those of :func:`pipeline.statistics.object_columns`.

        Call it at least once, if need be with empty columns: then the table has columns and no rows.

        Raises:
            ValueError: columns have other names or types than before.
            IndexError: a class has no name.
        """
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        names = pa.array([str(spec["name"]) for spec in self._meta.classes], pa.string())
        arrays = [
            pa.DictionaryArray.from_arrays(values.astype(np.int32), names) if name == "class" else pa.array(values, from_pandas=True)
            for name, values in columns.items()
        ]
        fields = [pa.field(name, array.type, metadata=_about(name, self._meta)) for name, array in zip(columns, arrays, strict=True)]
        schema = pa.schema(fields, metadata={"gigaseg": json.dumps(_description(self._meta))})
        if self._writer is None:
            self._writer = ParquetWriter(self._path, schema, compression="zstd")
        if arrays and len(arrays[0]):
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=len(arrays[0]))


def read_tables(storage: Storage, key: str) -> Iterator[pa.Table]:
    """Yield the row groups of an object table one after the other; a table without rows is yielded once.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from pyarrow.parquet import ParquetFile

    with storage.open(key) as file, ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            yield table.read_row_group(group)
        if not table.num_row_groups:
            yield table.schema_arrow.empty_table()


def num_rows(storage: Storage, key: str) -> int:
    """Return the number of objects in a table; only its footer is read.

    Raises:
        FileNotFoundError: there is no such file.
    """
    from pyarrow.parquet import read_metadata

    with storage.open(key) as file:
        return int(read_metadata(file).num_rows)


def write_csv(tables: Iterable[pa.Table], path: Path) -> None:
    """Write tables of one schema, at least one, as one CSV file with a header: null is empty, booleans are ``true`` and ``false``."""
    import pyarrow as pa
    from pyarrow.csv import CSVWriter

    writer = None
    try:
        for table in tables:
            plain = pa.schema([field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in table.schema])
            writer = writer or CSVWriter(path, plain)
            writer.write_table(table.cast(plain))
    finally:
        if writer is not None:
            writer.close()


def _about(name: str, meta: MaskMeta) -> dict[str, str]:
    """Return the unit and the description of a column."""
    fitting = (about for start, about in COLUMNS.items() if name == start or (start.endswith("_") and name.startswith(start)))
    description, unit = next(fitting, ("", ""))
    # Lengths and areas of a map in degrees are metres on the ground.
    return {"unit": unit.format(unit="meter" if name.endswith(("_m", "_m2")) else meta.unit), "description": description}


def _description(meta: MaskMeta) -> dict[str, Any]:
    """Return the metadata of the whole table."""
    return {
        "format": FORMAT,
        "coordinates": "(y, x) of pixel centres; the first pixel of the image lies at (0, 0)",
        "shape": meta.shape,
        "planes": dict(meta.planes),
        "pixel_size": meta.pixel_size,
        "unit": meta.unit,
        "offset": meta.offset,
        "own_factor": meta.own_factor,
    }
