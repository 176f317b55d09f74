"""OME-Zarr: multiscale label images, and multiscale images of channels.

A run writes level 0 by block while it predicts. So the group is created before the first block (:meth:`OmeZarr.create`), and
the smaller levels are added after the last block (:meth:`OmeZarr.finish`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import Header, Raster, valid_pixels
from pipeline.storage import BlockStore, Storage, StorageLike, ZarrV2Level, open_storage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta, Writer, _pyramid
from pipeline.writers._geozarr import geozarr_attributes, map_origin

__all__ = ["OmeZarr"]

METADATA = "zarr.json"
SMALLEST = 512  # sides of the last level are at most this, so that what a viewer shows first fits a screen
BLOCK = 2048  # side of a block where none is given
STALE_S = 60.0  # no block takes that long to write
RGB = ("Red", "Green", "Blue")
PALETTE = ("FF0000", "00FF00", "0000FF", "FFFF00", "00FFFF", "FF00FF", "FF8000", "8080FF")


class OmeZarr(Writer):
    """A mask as an OME-Zarr label image, 0.5 (Zarr v3, sharded) or 0.4 (Zarr v2): napari and others overlay it.

    Axes are (y, x); the t and z axes of a stack come first. Class names and colours are in the metadata; class 0
    and *no prediction*, the fill value, are transparent. The metadata links to a source that is OME-Zarr. Where an image lies on a map is
    kept as GeoZarr's attributes ``proj:`` and ``spatial:``; OME-Zarr's y axis points down, so that its y is minus the northing.

    Example::

        writers: [{name: ome_zarr, downsample: mode}]
    """

    suffix: ClassVar[str] = ".ome.zarr"

    probs: bool = Field(default=False, description="also write class probabilities, probs/NAME.ome.zarr (K,Y,X) uint8")
    downsample: Literal["nearest", "mode"] = Field(default="nearest", description="how smaller levels of a mask are made")
    version: float = Field(default=0.5, json_schema_extra={"enum": [0.5, 0.4]}, description="of OME-Zarr: 0.5, or 0.4 for older programs")

    @field_validator("version")
    @classmethod
    def _known(cls, version: float) -> float:
        if version not in (0.5, 0.4):
            raise ValueError("0.5 or 0.4")
        return version

    @property
    def is_block_store(self) -> bool:
        """Whether a run can write blocks directly into the mask."""
        return self.version == 0.5

    @property
    @override
    def wants_probs(self) -> bool:
        return self.probs

    def create(self, where: StorageLike, meta: MaskMeta | Header, block: int) -> BlockStore:
        """Make the group, and return an empty level 0 to write blocks into; what exists stays, pixels included.

        Args:
            where: of the group.
            meta: a mask's, or the header of an image of channels.
            block: side of a block, pixels.

        Raises:
            StoreError: a different array is in the way.
        """
        group = open_storage(where)
        header = meta.header if isinstance(meta, MaskMeta) else meta
        level = BlockStore(group.below("0"), header, block, _fill(meta))
        level.create()
        if group.size(METADATA) is None:
            group.put(METADATA, self._metadata(group, meta, [level]), durable=False)
        return level

    def finish(self, where: StorageLike, meta: MaskMeta | Header, home: Storage | None = None) -> None:
        """Add the smaller levels and list them in the metadata; repeatable, whatever a killed process left behind.

        Args:
            where: of the group.
            meta: as in :meth:`create`.
            home: where the group will lie in the end, which links are relative to; None: where it is.

        Raises:
            BlockError: level 0 is damaged.
        """
        group = open_storage(where)
        header = meta.header if isinstance(meta, MaskMeta) else meta
        levels = [BlockStore.open(group.below("0"))]
        halve = self._halve(meta)
        for number, shape in enumerate(_pyramid.shapes(header.shape, SMALLEST)[1:], 1):
            smaller = replace(levels[0].header, shape=shape, channel_names=header.channel_names, nodata=header.nodata)
            level = BlockStore(group.below(str(number)), smaller, levels[0].block, levels[0].fill)
            level.create(replace=True)
            _pyramid.fill_level(levels[-1], level, halve)
            levels.append(level)
        group.remove_leftovers(STALE_S)
        metadata = self._metadata(home or group, meta, levels)
        if group.get(METADATA) != metadata:
            group.put(METADATA, metadata, durable=False)

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        """Finish the group where the mask is its own level 0; else write a new group from the mask's pixels."""
        if not self.is_block_store:
            with storage.replace_tree(key) as made:
                self._write_old(made, mask, meta, storage.below(key))
            return
        group = storage.below(key)
        if isinstance(mask, BlockStore) and mask.storage == group.below("0"):
            self.finish(group, meta)
            return
        with storage.replace_tree(key) as made:
            level = self.create(made, meta, BLOCK)
            for plane in range(level.header.num_planes):
                for box in Grid(meta.shape, core=BLOCK, halo=0, block=BLOCK).blocks():
                    level.write(box, mask.read(box, plane), plane)
            self.finish(made, meta, group)

    def _write_old(self, made: Storage, mask: Raster, meta: MaskMeta, home: Storage) -> None:
        """Write an OME-Zarr 0.4 group; ``home`` is its final location."""
        levels: list[ZarrV2Level] = []
        for number, shape in enumerate(_pyramid.shapes(meta.shape, SMALLEST)):
            level = ZarrV2Level(made.below(str(number)), replace(meta.header, shape=shape), BLOCK, meta.fill)
            level.create()
            if levels:
                _pyramid.fill_level(levels[-1], level, self._halve(meta))
            else:
                for plane in range(level.header.num_planes):
                    for box in Grid(meta.shape, core=BLOCK, halo=0, block=BLOCK).blocks():
                        level.write(box, mask.read(box, plane), plane)
            levels.append(level)
        made.put(".zgroup", b'{"zarr_format": 2}')
        described = self._described(home, meta, levels[-1], levels[0].axes, len(levels))
        described |= geozarr_attributes(meta.header, [level.header.shape for level in levels], with_layout=False)
        made.put(".zattrs", json.dumps(described).encode())

    def _halve(self, meta: MaskMeta | Header) -> _pyramid.Halve:
        if isinstance(meta, Header):
            return _pyramid.mean(_nodata(meta))
        if meta.holds_ids:  # by stride, as a mean would invent ids, and a majority would drop small objects
            return _pyramid.nearest
        return {"nearest": _pyramid.nearest, "mode": _pyramid.mode}[self.downsample]

    def _metadata(self, home: Storage, meta: MaskMeta | Header, levels: list[BlockStore]) -> bytes:
        """Content of the group's ``zarr.json``."""
        ome = {"version": "0.5", **self._described(home, meta, levels[-1], levels[0].axes, len(levels))}
        header = meta.header if isinstance(meta, MaskMeta) else meta
        attributes = {"ome": ome, **geozarr_attributes(header, [level.header.shape for level in levels], with_layout=True)}
        return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()

    def _described(self, home: Storage, meta: MaskMeta | Header, smallest: Raster, axes: Sequence[str], num_levels: int) -> dict[str, Any]:
        """Return the OME metadata: axes, levels, and classes or channels."""
        if isinstance(meta, MaskMeta):
            header, method = meta.header, "nearest" if meta.holds_ids else str(self.downsample)
            described: Mapping[str, Any] = {"image-label": _image_label(meta, home.url)}
        else:
            header, method = meta, "mean"
            described = {"omero": _omero(meta, _ranges(meta, smallest))} if "c" in axes else {}
        image = {
            "name": home.url.rpartition("/")[2].removesuffix(self.suffix),
            "axes": [_axis(axis, header) for axis in axes],
            "datasets": _datasets(axes, header, num_levels),
            "type": method,
        }
        return {"multiscales": [image if self.is_block_store else {"version": "0.4", **image}], **described}


def _fill(meta: MaskMeta | Header) -> float:
    """Return the value of pixels that are not written: *no prediction*, or nodata where an image declares it."""
    return meta.fill if isinstance(meta, MaskMeta) else _nodata(meta) or 0


def _nodata(header: Header) -> float | None:
    """Return the declared nodata value, if the image's type can hold it."""
    if header.nodata is None:
        return None
    with np.errstate(invalid="ignore"):
        stored = np.asarray(header.nodata).astype(header.dtype)
    return header.nodata if np.array_equal(stored, header.nodata, equal_nan=True) else None


def _ranges(header: Header, smallest: Raster) -> list[tuple[float, float]]:
    """Return the display range of each channel: 0..255 for 8 bits, else that of valid pixels in the smallest level's middle plane."""
    if header.dtype == "uint8" or max(smallest.header.shape) > SMALLEST:
        limits = np.iinfo(header.dtype) if np.dtype(header.dtype).kind in "iu" else None
        low, high = (int(limits.min), int(limits.max)) if limits else (0.0, 1.0)
        return [(low, high)] * header.channels
    pixels_CYX = smallest.read(Box(0, 0, *smallest.header.shape), header.num_planes // 2)
    valid_YX = valid_pixels(pixels_CYX, header.nodata)
    kept_CYX = pixels_CYX if valid_YX is None else pixels_CYX[:, None, valid_YX]
    return [(float(channel.min()), float(channel.max())) if channel.size else (0.0, 1.0) for channel in kept_CYX]


def _datasets(axes: Sequence[str], header: Header, num_levels: int) -> list[dict[str, Any]]:
    """Return path, scale and position of each level.

    The position of a pixel is that of its centre, as viewers draw it: level n starts (2**n - 1) / 2 pixels of level 0 further
    in, so that all levels cover the same area.
    """
    size = dict(zip("yx", header.pixel_size or (1.0, 1.0), strict=True))
    offset = dict(zip("yx", map_origin(header), strict=True))
    steps = header.plane_steps
    datasets = []
    for level in range(num_levels):
        scale = [size[axis] * 2**level if axis in size else steps[axis].step if axis in steps else 1.0 for axis in axes]
        start = [
            offset[axis] + size[axis] * (2**level - 1) / 2 if axis in size else steps[axis].offset if axis in steps else 0.0
            for axis in axes
        ]
        transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": start}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return datasets


def _axis(axis: str, header: Header) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(axis, "space")
    # OME-Zarr recommends units and does not list degrees; without its unit the scale of a map would mean nothing.
    unit = header.unit if axis in "yx" and header.pixel_size is not None else ""
    unit = header.plane_steps[axis].unit if axis in header.plane_steps else unit
    return {"name": axis, "type": kind, **({"unit": unit} if unit else {})}


def _image_label(meta: MaskMeta, url: str) -> dict[str, Any]:
    """Describe a label image at ``url``: the name and colour of each class, and a relative link to a source that is OME-Zarr too.

    Ids of objects have neither names nor colours: viewers choose a colour for each.
    """
    label = {} if meta.holds_ids else _class_colors(meta)
    if meta.source.rstrip("/").endswith(".zarr") and "://" not in meta.source + url:
        label["source"] = {"image": os.path.relpath(meta.source, url)}
    return label


def _class_colors(meta: MaskMeta) -> dict[str, Any]:
    """Return the colour and name of each value of a mask; class 0 is transparent: an opaque background would hide the image."""
    colors: list[dict[str, Any]] = [
        {"label-value": spec["id"], "rgba": [*bytes.fromhex(spec["color"].lstrip("#")), 255 if spec["id"] else 0]} for spec in meta.classes
    ]
    colors.append({"label-value": meta.fill, "rgba": [0, 0, 0, 0]})
    properties = [{"label-value": spec["id"], "name": spec["name"]} for spec in meta.classes]
    properties.append({"label-value": meta.fill, "name": "no prediction"})
    return {"colors": colors, "properties": properties}


def _omero(header: Header, ranges: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return how viewers draw each channel: ``ranges`` are the values that are drawn black and in full colour."""
    channels = []
    for index, (start, end) in enumerate(ranges):
        low, high = start, end
        if np.dtype(header.dtype).kind in "iu":
            low, high = np.iinfo(header.dtype).min, np.iinfo(header.dtype).max
        names = header.channel_names or (RGB if header.is_color else ())
        label = names[index] if index < len(names) else f"channel {index}"
        color = "FFFFFF" if len(ranges) == 1 else PALETTE[index % len(PALETTE)]
        window = {"min": low, "max": high, "start": start, "end": end}
        channels.append({"label": label, "color": color, "active": True, "window": window})
    return {"channels": channels, **({"rdefs": {"model": "color"}} if header.is_color else {})}
