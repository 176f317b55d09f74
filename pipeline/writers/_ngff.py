"""Metadata of OME-Zarr 0.5: levels, axes, classes and channels of a group, as plain JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.raster import Header
from pipeline.writers import MaskMeta

__all__ = ["group", "image_label", "multiscales", "omero"]

PALETTE = ("FF0000", "00FF00", "0000FF", "FFFF00", "00FFFF", "FF00FF", "FF8000", "8080FF")


def group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``zarr.json`` of a group that holds these OME attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **attributes}}}


def multiscales(name: str, axes: Sequence[str], header: Header, num_levels: int, method: str) -> list[dict[str, Any]]:
    """Return the scale and position of each level.

    The position of a pixel is that of its centre, as viewers draw it: level n starts (2**n - 1) / 2 pixels of level 0 further
    in, so that all levels cover the same area.

    Args:
        name: of the image.
        axes: of the arrays, in order.
        header: pixel size, unit and offset.
        num_levels: levels at paths ``0``, ``1``, ...
        method: how a level was computed from the one before.
    """
    size = dict(zip("yx", header.pixel_size or (1.0, 1.0), strict=True))
    offset = dict(zip("yx", header.offset, strict=True))
    datasets = []
    for level in range(num_levels):
        scale = [size[axis] * 2**level if axis in size else 1.0 for axis in axes]
        start = [offset[axis] + size[axis] * (2**level - 1) / 2 if axis in size else 0.0 for axis in axes]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": start}]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return [{"name": name, "axes": [_axis(axis, header) for axis in axes], "datasets": datasets, "type": method}]


def _axis(axis: str, header: Header) -> dict[str, str]:
    kind = {"t": "time", "c": "channel"}.get(axis, "space")
    # OME-Zarr recommends units and does not list degrees; without its unit the scale of a map would mean nothing.
    has_unit = axis in "yx" and header.pixel_size is not None and header.unit
    return {"name": axis, "type": kind, **({"unit": header.unit} if has_unit else {})}


def image_label(meta: MaskMeta, url: str) -> dict[str, Any]:
    """Return the name and colour of each value of a mask; *no prediction* is transparent.

    Args:
        meta: classes and colours.
        url: where the mask lies; a source in another folder that is OME-Zarr too is linked relative to it.
    """
    colors = [{"label-value": spec["id"], "rgba": [*bytes.fromhex(spec["color"].lstrip("#")), 255]} for spec in meta.classes]
    colors.append({"label-value": meta.fill, "rgba": [0, 0, 0, 0]})
    properties = [{"label-value": spec["id"], "name": spec["name"]} for spec in meta.classes]
    properties.append({"label-value": meta.fill, "name": "no prediction"})
    label: dict[str, Any] = {"colors": colors, "properties": properties}
    if meta.source.rstrip("/").endswith(".zarr") and "://" not in meta.source + url:
        label["source"] = {"image": os.path.relpath(meta.source, url)}
    return label


def omero(header: Header, ranges: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return how viewers draw each channel.

    Args:
        header: channels and their names.
        ranges: of each channel, the values that are drawn black and in full colour.
    """
    channels = []
    for index, (start, end) in enumerate(ranges):
        low, high = (start, end)
        if np.dtype(header.dtype).kind in "iu":
            low, high = np.iinfo(header.dtype).min, np.iinfo(header.dtype).max
        label = header.channel_names[index] if header.channel_names else f"channel {index}"
        color = "FFFFFF" if len(ranges) == 1 else PALETTE[index % len(PALETTE)]
        window = {"min": low, "max": high, "start": start, "end": end}
        channels.append({"label": label, "color": color, "active": True, "window": window})
    return {"channels": channels}
