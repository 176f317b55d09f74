"""OME-Zarr 0.5: multiscale label images, and images of channels by the same road.

Level 0 is what a run writes block by block while it predicts; so the group exists before the first block
(:meth:`OmeZarr.create`), and the smaller levels are added when the last block is there (:meth:`OmeZarr.finish`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from errno import EEXIST, ENOTEMPTY
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.storage import PARTIAL, BlockStore, put_text, store_errors
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta, Writer, _ngff, _pyramid
from pipeline.writers._workshop import is_older, workshop

__all__ = ["OmeZarr"]

SMALLEST = 512  # sides of the last level are at most this: what a viewer shows first fits a screen
BLOCK = 2048  # side of a block where none is given
STALE_S = 60.0  # a chunk is written in less


class OmeZarr(Writer):
    """A mask as an OME-Zarr 0.5 label image (Zarr v3, sharded): napari and others overlay it.

    Axes are (y, x), or those of t and z that a stack has before them. Class names and colours are in the
    metadata; the fill value is *no prediction*, and transparent.

    Example::

        writers: [{name: ome_zarr, downsample: mode}]
    """

    suffix: ClassVar[str] = ".ome.zarr"

    probs: bool = Field(default=False, description="also write class probabilities, probs/NAME.ome.zarr (K,Y,X) uint8")
    downsample: Literal["nearest", "mode"] = Field(default="nearest", description="how smaller levels of a mask are made")

    def create(self, path: Path, meta: MaskMeta | Header, block: int) -> BlockStore:
        """Make the group and an empty level 0; what is already there stays, pixels included.

        Args:
            path: folder of the group.
            meta: a mask's, or the header of an image of channels.
            block: side of a block, pixels.

        Returns:
            Level 0, to write blocks into.

        Raises:
            StoreError: a different array is in the way, or the disk refuses.
        """
        header = meta.header if isinstance(meta, MaskMeta) else meta
        level = BlockStore(path / "0", header, block, _fill(meta))
        level.create()
        if not (path / "zarr.json").exists():
            put_text(path / "zarr.json", self._group(path, meta, [level]))
        return level

    def finish(self, path: Path, meta: MaskMeta | Header, home: Path | None = None) -> None:
        """Add the smaller levels and say so in the metadata; repeatable, whatever an earlier try left behind.

        Args:
            path: folder of the group.
            meta: as in :meth:`create`.
            home: where the group will lie in the end, which links are relative to; None: where it is.

        Raises:
            StoreError: there is no level 0, or the disk refuses.
            BlockError: level 0 is damaged.
        """
        header = meta.header if isinstance(meta, MaskMeta) else meta
        levels = [BlockStore.open(path / "0")]
        halve = self._halve(meta)
        for number, shape in enumerate(_pyramid.shapes(header.shape, SMALLEST)[1:], 1):
            smaller = replace(levels[0].header, shape=shape, channel_names=header.channel_names)
            level = BlockStore(path / str(number), smaller, levels[0].block, levels[0].fill)
            level.create(replace=True)
            _pyramid.fill_level(levels[-1], level, halve)
            levels.append(level)
        text = self._group(home or path, meta, levels)
        with store_errors(path):
            for leftover in path.rglob(f"*{PARTIAL}"):
                if is_older(leftover, STALE_S):  # else another process may be writing it
                    leftover.unlink(missing_ok=True)
            if not (path / "zarr.json").exists() or (path / "zarr.json").read_text() != text:
                put_text(path / "zarr.json", text)

    def export(self, mask: Raster, meta: MaskMeta, path: Path) -> None:
        """Finish the group where the mask is its own level 0; else write a new one from the mask's pixels."""
        if isinstance(mask, BlockStore) and mask.path == path / "0":
            self.finish(path, meta)
            return
        with workshop(path) as place:
            self._copy(mask, meta, place / path.name, path)
            _put(place, path)

    def _copy(self, mask: Raster, meta: MaskMeta, path: Path, home: Path) -> None:
        level = self.create(path, meta, BLOCK)
        for plane in range(level.header.num_planes):
            for cell in Grid(meta.shape, core=BLOCK, halo=0, block=BLOCK).blocks():
                level.write(cell.box, mask.read(cell.box, plane), plane)
        self.finish(path, meta, home)

    def _halve(self, meta: MaskMeta | Header) -> _pyramid.Halve:
        if isinstance(meta, Header):
            return _pyramid.mean(_nodata(meta))
        return {"nearest": _pyramid.nearest, "mode": _pyramid.mode}[self.downsample]

    def _group(self, path: Path, meta: MaskMeta | Header, levels: list[BlockStore]) -> str:
        """Text of the group's ``zarr.json``."""
        name = path.name.removesuffix(self.suffix)
        if isinstance(meta, MaskMeta):
            scales = _ngff.multiscales(name, levels[0].axes, meta.header, len(levels), self.downsample)
            described: Mapping[str, Any] = {"image-label": _ngff.image_label(meta, str(path))}
        else:
            scales = _ngff.multiscales(name, levels[0].axes, meta, len(levels), "mean")
            described = {"omero": _ngff.omero(meta, _ranges(meta, levels[-1]))} if "c" in levels[0].axes else {}
        return json.dumps(_ngff.group({"multiscales": scales, **described}))


def _put(place: Path, path: Path) -> None:
    """Give a group its name; what has that name already goes, which may be another process's that was quicker."""
    for number in count():
        with suppress(FileNotFoundError):
            path.rename(place / str(number))
        try:
            (place / path.name).rename(path)
        except OSError as error:
            if error.errno not in (ENOTEMPTY, EEXIST):
                raise
        else:
            return


def _fill(meta: MaskMeta | Header) -> float:
    """What an unwritten pixel holds: *no prediction*, or nodata where an image declares it."""
    return meta.fill if isinstance(meta, MaskMeta) else _nodata(meta) or 0


def _nodata(header: Header) -> float | None:
    """The declared nodata value, if the image's type can hold it."""
    if header.nodata is None:
        return None
    with np.errstate(invalid="ignore"):
        stored = np.asarray(header.nodata).astype(header.dtype)
    return header.nodata if np.array_equal(stored, header.nodata, equal_nan=True) else None


def _ranges(header: Header, smallest: BlockStore) -> list[tuple[float, float]]:
    """Range of values worth drawing of each channel: all of 8 bits, else what the middle plane of the smallest level holds."""
    if header.dtype == "uint8" or max(smallest.header.shape) > SMALLEST:
        limits = np.iinfo(header.dtype) if np.dtype(header.dtype).kind in "iu" else None
        low, high = (int(limits.min), int(limits.max)) if limits else (0.0, 1.0)
        return [(low, high)] * header.channels
    pixels_CYX = smallest.read(Box(0, 0, *smallest.header.shape), header.num_planes // 2).astype(np.float64)
    pixels_CYX[~np.isfinite(pixels_CYX)] = 0.0
    return [(float(channel.min()), float(channel.max())) for channel in pixels_CYX]
