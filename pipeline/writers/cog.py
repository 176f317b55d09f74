"""Cloud Optimized GeoTIFF: a mask for maps, which programs read over the network by region and by level."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import Header, MapGrid, Part, Raster, affine, map_grid, map_tags
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer
from pipeline.writers._cog_layout import attribute_table, has_attribute_table, write_mask_levels, write_probability_levels
from pipeline.writers._placement import missing_geo_packages
from pipeline.writers._tiff_levels import SPOOL_BYTES

__all__ = ["Cog"]

TABLE_SUFFIX = ".aux.xml"  # beside a raster: what its format cannot hold, as GDAL reads it
TILE = 512
CRS_TAGS = ("34735", "34736", "34737")  # GeoKeys and their values
ANYWHERE = {"33550": {"type": 12, "value": [2.0, 2.0, 0.0]}, "33922": {"type": 12, "value": [0.0] * 3 + [1.0, 1.0, 0.0]}}
CACHE_MIB = 64  # of GDAL's blocks, in the process


class Cog(Writer):
    """A mask as a Cloud Optimized GeoTIFF of class ids, which QGIS, GDAL and web maps read by region, also over the network.

    Each overview pixel is the most frequent class of the four pixels below it; ties go to the lowest class, so *no prediction*, which is
    the nodata value, never wins one. Up to 255 classes have a colour table. Names and colours of the classes are also in NAME.tif.aux.xml,
    as GDAL's raster attribute table and category names. With ``probs`` probabilities are a second file, probs/NAME.tif, with a band for
    each class in steps of 1/255. With ``per_tile`` a mosaic also gets a file for each of its tiles, masks/NAME/TILE.tif.

    An image without georeference is written too, unless ``only_georeferenced``. Where this is the only writer, blocks are kept in a
    temporary store, which is removed once the file is complete. Needs rasterio.

    Example::

        writers: [{name: cog, compression: zstd}]
    """

    suffix: ClassVar[str] = ".tif"
    takes_stack: ClassVar[bool] = False

    compression: Literal["deflate", "zstd", "lzw", "none"] = Field(default="deflate", description="deflate is read everywhere")
    predictor: bool = Field(default=False, description="compress differences of neighbours: smaller for ids that change slowly")
    of: Literal["mask", "objects"] = Field(default="mask", description="what the pixels are: class ids, or ids of objects")
    probs: bool = Field(default=False, description="also write class probabilities, probs/NAME.tif, a uint8 band for each class")
    per_tile: bool = Field(default=False, description="also write a file for each tile of a mosaic, masks/NAME/TILE.tif")
    only_georeferenced: bool = Field(default=False, description="leave out stacks and images whose coordinate system is not known")

    @property
    @override
    def folder(self) -> str:
        return "instances" if self.of == "objects" else "masks"

    @property
    @override
    def holds_mask(self) -> bool:
        return self.of == "mask" and not self.only_georeferenced

    @property
    @override
    def replaces_store(self) -> bool:
        return self.holds_mask

    @property
    @override
    def needs_objects(self) -> bool:
        return self.of == "objects"

    @property
    @override
    def wants_probs(self) -> bool:
        return self.probs

    @override
    def missing(self) -> str:
        return missing_geo_packages("rasterio")

    @override
    def takes(self, header: Header) -> bool:
        return not self.only_georeferenced or (header.num_planes == 1 and is_georeferenced(header))

    @override
    def memory_bytes(self, header: Header, num_classes: int) -> int:
        if not self.takes(header):
            return 0
        height, width = header.shape
        depth = max(1 if num_classes <= 255 else 2, num_classes if self.probs else 1, 4 if self.of == "objects" else 1)
        waiting = SPOOL_BYTES * max(0, max(header.shape).bit_length() - TILE.bit_length() + 1)  # compressed overviews
        return min(CACHE_MIB << 20, height * width * depth) + min(waiting, height * width) + 3 * min(TILE, height) * width * depth

    @override
    def files(self, key: str, meta: MaskMeta) -> tuple[str, ...]:
        tiles = [tile for tile, _ in _tiles(key, meta.parts)] if self.per_tile and self.of == "mask" else []
        named = [key, *tiles]
        tables = [f"{one}{TABLE_SUFFIX}" for one in named] if self.of == "mask" and has_attribute_table(meta) else []
        return (*named, *tables, *([_probs_key(key)] if self.probs else []))

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        if self.of == "objects":
            objects = self.objects_of(meta)
            mask, meta = objects.labels, objects.meta
        if self.probs and meta.probs is not None:
            probs = meta.probs
            with storage.local_file(_probs_key(key)) as path, _scratch(path) as levels:
                write_probability_levels(levels, probs)
                self._copy(levels, path, RESAMPLING="AVERAGE", OVERVIEWS="IGNORE_EXISTING")
        grid = map_grid(meta.georeference) if self.per_tile and meta.parts and not meta.holds_ids else None
        for tile, box in _tiles(key, meta.parts) if self.per_tile and not meta.holds_ids else ():
            self._write(_Window(mask, box), _meta_of_tile(meta, box, grid), storage, tile)
        self._write(mask, meta, storage, key)

    def _write(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        """Write one file, and before it the table beside it: whoever finds the file finds its table."""
        # Durable, unlike other exports: the blocks may be removed once this file is there.
        with storage.local_file(key) as path, _scratch(path) as levels:
            write_mask_levels(levels, mask, meta)
            self._copy(levels, path, OVERVIEWS="FORCE_USE_EXISTING")
            if has_attribute_table(meta):
                storage.put(f"{key}{TABLE_SUFFIX}", attribute_table(meta))

    def _copy(self, levels: Path, path: Path, **options: str) -> None:
        """Order the tiles of a TIFF as a Cloud Optimized GeoTIFF: smallest level first, and where each level lies at the start."""
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
        from rasterio.shutil import copy

        options |= {"COMPRESS": self.compression.upper(), "BLOCKSIZE": str(TILE), "BIGTIFF": "IF_SAFER", "STATISTICS": "NO"}
        if self.predictor and self.compression != "none":
            options |= {"PREDICTOR": "YES", "OVERVIEW_PREDICTOR": "YES"}
        with rasterio.Env(GDAL_CACHEMAX=CACHE_MIB, GDAL_NUM_THREADS="1"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            copy(levels, path, driver="COG", **options)


def is_georeferenced(header: Header) -> bool:
    """Whether the coordinate system and the place of an image on it are known; needs rasterio."""
    keys = {code: header.georeference[code] for code in CRS_TAGS if code in header.georeference}
    if not keys or affine(header.georeference) is None:
        return False
    try:
        return map_grid({**keys, **ANYWHERE}) is not None  # the same for all tiles of a map: read once
    except Exception:  # noqa: BLE001 - tags of others, which GDAL may refuse in any way
        return False


class _Window(Raster):
    """A box of a mask as a mask of its own."""

    def __init__(self, mask: Raster, box: Box) -> None:
        self.header, self._mask, self._box = Header(box.shape, 1, mask.header.dtype), mask, box

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read from the mask."""
        y, x = self._box.y0, self._box.x0
        return self._mask.read(Box(box.y0 + y, box.x0 + x, box.y1 + y, box.x1 + x), plane)


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Give the path of a temporary file beside an unfinished one."""
    levels = path.with_name(f"levels-{path.name}")
    try:
        yield levels
    finally:
        levels.unlink(missing_ok=True)


def _probs_key(key: str) -> str:
    return f"probs/{key.removeprefix('masks/')}"


def _tiles(key: str, parts: Sequence[Part]) -> Iterator[tuple[str, Box]]:
    """Yield key and box of each tile of a mosaic; where tiles share a name, the later ones get a number."""
    taken: set[str] = set()
    for part in parts:
        names = chain([part.name], (f"{part.name}-{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield f"{key.removesuffix(Cog.suffix)}/{name}{Cog.suffix}", part.box


def _meta_of_tile(meta: MaskMeta, box: Box, grid: MapGrid | None) -> MaskMeta:
    """Describe the mask of one tile, which lies where the tile lies in the mosaic."""
    place: Mapping[str, Any] = {}
    if grid is not None:
        a, b, c, d, e, f = grid.matrix
        place = map_tags(MapGrid((a, b, a * box.x0 + b * box.y0 + c, d, e, d * box.x0 + e * box.y0 + f), grid.wkt))
    return replace(meta, shape=box.shape, georeference=place, parts=())
