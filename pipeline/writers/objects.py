"""Object tables: a row for each object, with its measures."""

from __future__ import annotations

from itertools import chain
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers._object_table import write_csv

__all__ = ["Objects"]


class Objects(Writer):
    """The table of objects. A run that tells objects apart always writes it as Parquet; this writer adds CSV.

    Columns are id, class, bounding box, position, area, shape, mean probability and intensities of each channel, in pixels and in
    physical units. Rows are written part by part, in the order of ids.

    Example::

        writers: [{name: ome_zarr}, {name: objects, format: csv}]
    """

    folder: ClassVar[str] = "objects"
    holds_mask: ClassVar[bool] = False
    required_keys: ClassVar[tuple[str, ...]] = ("instances",)

    format: Literal["parquet", "csv"] = Field(default="parquet", description="format of the file")

    @property
    @override
    def suffix(self) -> str:
        return f".{self.format}"

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        from pyarrow.parquet import ParquetWriter

        objects = self.objects_of(meta)
        if key == objects.table_key:
            return
        with storage.local_file(key, durable=False) as path:
            tables = objects.tables()
            if self.format == "csv":
                write_csv(tables, path)
                return
            first = next(tables)
            with ParquetWriter(path, first.schema, compression="zstd") as file:
                for table in chain([first], tables):
                    file.write_table(table)
