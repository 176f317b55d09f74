"""One image of a run as it is viewed: its facts, its layers, the values of a pixel."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.raster import Header, ground_size
from pipeline.report import ERRORS, hex_color
from pipeline.viewer.channels import Channel, is_drawn_as_is, parse_channels, windows
from pipeline.viewer.colors import DIFFERENT, HEAT
from pipeline.viewer.objects import ObjectRows
from pipeline.viewer.progress import BlockRows
from pipeline.viewer.sources import ImageSource
from pipeline.viewer.subjects import Subject
from pipeline.viewer.tiles import TILE, Drawing, Look, box_of, num_levels

__all__ = ["LAYERS", "Tile", "ViewedImage"]

LAYERS = ("image", "mask", "truth", "error", "overlap", "outlines", "difference")
KEYS = {
    "overlap": [{"name": "tiles disagree", "color": hex_color(HEAT)}],
    "difference": [{"name": "the masks differ", "color": hex_color(DIFFERENT)}],
}
"""What the colours of layers mean, besides those of classes and errors."""
FIRST_DRAWN = 4  # channels of an image of many, unless the user says otherwise
SAMPLE_BOXES, SAMPLE_SIDE = 4, 256  # boxes along an axis, and their side, from which the windows of channels follow
SAMPLED_FROM = 512  # pixels of the longer side of the picture that is sampled


@dataclass(frozen=True)
class Tile:
    """A drawn tile.

    Attributes:
        data: PNG or JPEG; None: nothing is to be seen.
        size: height and width in pixels.
        is_final: whether it stays as it is unless blocks are done.
    """

    data: bytes | None
    size: tuple[int, int]
    is_final: bool = True


def error_keys(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what the colours of errors mean, in the report's words; two classes cannot be taken for each other otherwise."""
    first = classes[0]["name"]
    false, missed = f"false: another class where the truth is {first}", f"missed: {first} where the truth is another class"
    names = [false, missed, f"wrong class: neither of them is {first}"]
    return [{"name": name, "color": hex_color(color)} for name, color in list(zip(names, ERRORS, strict=True))[: max(2, len(classes))]]


class ViewedImage:
    """An image as it is until one of its blocks changes. Several threads may ask.

    Args:
        subject: what there is of it.
        blocks: what the ledger says of its blocks.
        drawing: draws its layers.
        stamp: differs from that of the same image at any other time.
        open_rows: opens the table of its objects; None: there is none.
    """

    def __init__(
        self,
        subject: Subject,
        blocks: BlockRows,
        drawing: Drawing,
        stamp: tuple[int, int],
        open_rows: Callable[[], ObjectRows] | None = None,
    ) -> None:
        self.subject, self.drawing, self.stamp = subject, drawing, stamp
        self._blocks, self._lock = blocks, threading.Lock()
        self._sampled: list[dict[str, Any]] | None = None
        self._open_rows = open_rows
        self._rows: ObjectRows | None = None

    @property
    def objects(self) -> ObjectRows | None:
        """The table of its objects; None: there is none."""
        with self._lock:
            if self._rows is None and self._open_rows is not None:
                self._rows = self._open_rows()
            return self._rows

    def facts(self, other: ViewedImage | None) -> dict[str, Any]:
        """Return what headers and ledger say, as JSON. ``other`` is the same image in the run that this one is compared with."""
        subject, header = self.subject, self.subject.header
        size, unit = _size_on_ground(header)
        return {
            "name": subject.name,
            "shape": list(header.shape),
            "planes": dict(header.planes),
            "num_planes": header.num_planes,
            "pixel_size": size,
            "unit": unit,
            "is_color": subject.image is not None and is_drawn_as_is(subject.image.header),
            "channels": self.channels(),
            "tile": TILE,
            "levels": num_levels(header.shape),
            "layers": self.layers(other),
            "keys": {**KEYS, "error": error_keys(self.drawing.classes)},
            "objects": None if self.objects is None else self.objects.total,
            "notes": list(subject.notes),
        }

    def layers(self, other: ViewedImage | None) -> list[str]:
        """Return the layers that there are, from the lowest to the topmost."""
        subject = self.subject
        sources = {"image": subject.image, "mask": subject.mask, "truth": subject.truth, "outlines": subject.labels}
        found = {layer for layer, source in sources.items() if source is not None}
        found |= {"error"} if {"mask", "truth"} <= found else set()
        found |= {"overlap"} if self._blocks.overlap.any() else set()
        if other is not None and "mask" in found and other.subject.mask is not None:
            ours, theirs = subject.header, other.subject.header
            found |= {"difference"} if (ours.shape, ours.num_planes) == (theirs.shape, theirs.num_planes) else set()
        return [layer for layer in LAYERS if layer in found]

    def channels(self) -> list[dict[str, Any]]:
        """Return name, colour and window of each channel, as it is drawn unless the user says otherwise."""
        source = self.subject.image
        if source is None:
            return []
        with self._lock:
            if self._sampled is None:
                samples_CN = np.zeros((source.header.channels, 0)) if is_drawn_as_is(source.header) else _samples(source)
                self._sampled = windows(source.header, samples_CN)
            return self._sampled

    def keep_channels(self, before: ViewedImage) -> None:
        """Take over what was sampled of the same file, so that colours do not change while the run goes on."""
        self._sampled = before._sampled

    def drawn_channels(self, text: str | None) -> tuple[Channel, ...]:
        """Return how channels are drawn; ``text`` as :func:`parse_channels` reads it, None: as usual. Empty: colours as they are."""
        source = self.subject.image
        if source is None or (not text and is_drawn_as_is(source.header)):
            return ()
        usual = (f"{index}:{str(one['color'])[1:]}:{one['low']}:{one['high']}" for index, one in enumerate(self.channels()[:FIRST_DRAWN]))
        return parse_channels(text or ";".join(usual), source.header.channels)

    def draw(self, layer: str, level: int, x: int, y: int, look: Look, other: ViewedImage | None) -> Tile | None:
        """Return a tile of a layer that there is; None outside the picture; raises as :meth:`pipeline.viewer.ViewedRun.tile` does."""
        place = box_of(self.subject.header.shape, level, x, y)
        if place is None:
            return None
        if layer == "difference":
            assert other is not None
            data, is_final = self.drawing.difference(*place, look, other.drawing)
        else:
            draw: Callable[[int, Box, Look], tuple[bytes | None, bool]] = getattr(self.drawing, layer)
            data, is_final = draw(*place, look)
        return Tile(data, place[1].shape, is_final)

    def at(self, plane: int, y: int, x: int) -> dict[str, Any]:
        """Return class, true class, object and values of a pixel of the working grid; what there is not is None.

        Raises:
            InputError: the pixel lies outside.
        """
        subject, box = self.subject, Box(y, x, y + 1, x + 1)
        height, width = subject.header.shape
        if not (0 <= y < height and 0 <= x < width and 0 <= plane < subject.header.num_planes):
            raise InputError(Problem("at", f"plane {plane}, y {y}, x {x}", "a pixel of the image"))
        values: Sequence[Any] = [] if subject.image is None else subject.image.read(1, box, plane)[0][:, 0, 0].tolist()
        return {
            "class": None if subject.mask is None else self._class_at(self.drawing.mask_ids(1, box, plane)[0]),
            "truth": None if subject.truth is None else self._class_at(self.drawing.truth_ids(1, box, plane)[0]),
            "object": None if subject.labels is None else int(subject.labels.read(1, box, plane)[0, 0]) or None,
            "values": [value if math.isfinite(value) else None for value in values],
        }

    def _class_at(self, ids_YX: NDArray[Any]) -> int | None:
        return None if ids_YX[0, 0] == self.drawing.fill else int(ids_YX[0, 0])


def _size_on_ground(header: Header) -> tuple[list[float] | None, str]:
    """Return (y, x) of a pixel and its unit: of a map, metres on the ground at its centre. None: unknown."""
    if (size := ground_size(header)) is not None:
        return list(size), "meter"
    return (None if header.pixel_size is None or not header.unit else list(header.pixel_size)), header.unit


def _samples(source: ImageSource) -> NDArray[Any]:
    """Return valid samples (C, N) from boxes all over the middle plane of a small picture of an image."""
    step = 1
    while max(source.shape) / (2 * step) >= SAMPLED_FROM and source.excess(2 * step) < 2:
        step *= 2
    height, width = (-(-side // step) for side in source.shape)
    found = []
    for row in range(SAMPLE_BOXES):
        for col in range(SAMPLE_BOXES):
            y, x = (max(0, (2 * at + 1) * side // (2 * SAMPLE_BOXES) - SAMPLE_SIDE // 2) for at, side in ((row, height), (col, width)))
            with suppress(BlockError):
                box = Box(y, x, y + SAMPLE_SIDE, x + SAMPLE_SIDE).clip((height, width))
                pixels_CYX, valid_YX = source.read(step, box, source.header.num_planes // 2)
                found.append(pixels_CYX[:, valid_YX])
    return np.concatenate(found, axis=1) if found else np.zeros((source.header.channels, 0))
