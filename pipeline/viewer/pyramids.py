"""Layers as Deep Zoom pyramids in a folder: a descriptor and a folder of tiles each.

Tiles in which nothing is to be seen are not written.
"""

from __future__ import annotations

import io
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError, cause_of
from pipeline.geometry import Box
from pipeline.viewer.colors import QUALITY, class_colors, encode_ids
from pipeline.viewer.runs import ViewedRun
from pipeline.viewer.sources import shape_at
from pipeline.viewer.tiles import TILE, box_of
from pipeline.web import in_bytes, in_digits

__all__ = ["DrawnLayer", "Pyramid", "Written", "places_of", "write_layer"]

AT_ONCE = 64  # tiles that are drawn before the next ones are asked for
LONGEST_S = 600.0  # that a tile waits for the coarse picture of its file
PAUSE_S = 0.05
TELL_S = 5.0
BY_CLASS = ("mask", "truth")  # layers that are split into a pyramid for each class
Place = tuple[int, int, int]  # level, column, row


def places_of(shape: tuple[int, int], finest: int) -> list[list[Place]]:
    """Return the tiles of each level of a picture up to the level ``finest``.

    Example:
        >>> [len(places) for places in places_of((300, 600), 10)]
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 6]
    """
    sides = [shape_at(shape, 1 << ((max(shape) - 1).bit_length() - level)) for level in range(finest + 1)]
    return [
        [(level, x, y) for y in range(-(-height // TILE)) for x in range(-(-width // TILE))] for level, (height, width) in enumerate(sides)
    ]


@dataclass
class Written:
    """What has been written, and the first reason why a tile was not.

    Attributes:
        tell: is told how much it is, every :data:`TELL_S` seconds.
    """

    tell: Callable[[str], None]
    files: int = 0
    bytes: int = 0
    missing: int = 0
    cause: str = ""
    told: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """Return how much has been written, in words."""
        return f"{in_digits(self.files)} files, {in_bytes(self.bytes)}"

    def count(self, size: int) -> None:
        """Count a file."""
        self.files += 1
        self.bytes += size
        if time.monotonic() - self.told >= TELL_S:
            self.told = time.monotonic()
            self.tell(f"{self} so far")


@dataclass
class Pyramid:
    """One pyramid.

    Attributes:
        stem: its path without a suffix, below the folder of the copy.
        kind: suffix of its tiles.
        class_id: the class that it shows; None: all.
        tiles: for each level, which tiles there are, row by row.
    """

    stem: str
    kind: str
    class_id: int | None
    tiles: list[NDArray[np.bool_]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """Return what the page must know: the tiles as bits in base64, null where all of a level are there."""
        bits = [None if level.all() else b64encode(np.packbits(level).tobytes()).decode() for level in self.tiles]
        return {"stem": self.stem, "kind": self.kind, "class": self.class_id, "tiles": bits}

    def descriptor(self, shape: tuple[int, int]) -> str:
        """Return the ``.dzi`` file of a pyramid whose finest level has this height and width."""
        attributes = f'xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{self.kind}" Overlap="0" TileSize="{TILE}"'
        return f'<?xml version="1.0" encoding="UTF-8"?>\n<Image {attributes}><Size Width="{shape[1]}" Height="{shape[0]}"/></Image>\n'


@dataclass(frozen=True)
class DrawnLayer:
    """A layer of an image, as its tiles are drawn for a copy.

    Attributes:
        plane: index over the stack axes.
        classes: those of the run; the layers of :data:`BY_CLASS` are drawn for each of them; empty: they are drawn as one.
        other: the run that this one is compared with.
    """

    run: ViewedRun
    name: str
    layer: str
    plane: int
    classes: tuple[Mapping[str, Any], ...] = ()
    other: ViewedRun | None = None

    @property
    def class_ids(self) -> list[int | None]:
        """The class of each of its pyramids; None: all classes."""
        return [one["id"] for one in self.classes] if self.classes and self.layer in BY_CLASS else [None]

    @property
    def kind(self) -> str:
        """Suffix of its tiles."""
        return "jpg" if self.layer == "image" else "png"

    def draw(self, shape: tuple[int, int], place: Place) -> dict[int | None, bytes]:
        """Return the tiles of a place, by class; raises as :meth:`ViewedRun.tile` does."""
        return self._draw_classes(shape, place) if self.class_ids != [None] else self._draw_one(place)

    def _draw_one(self, place: Place) -> dict[int | None, bytes]:
        for _ in _tries(self.name):
            tile = self.run.tile(self.layer, *place, name=self.name, plane=self.plane, other=self.other)
            if tile is None or tile.is_final:
                return {} if tile is None or tile.data is None else {None: _as_jpeg(tile.data) if self.layer == "image" else tile.data}
        raise AssertionError("the tries end with an error")

    def _draw_classes(self, shape: tuple[int, int], place: Place) -> dict[int | None, bytes]:
        """Read the ids once, and draw those of each class."""
        found = box_of(shape, *place)
        assert found is not None
        ids_YX = self._ids(*found)
        size = 1 << (8 * ids_YX.dtype.itemsize)
        tiles = {one["id"]: encode_ids(ids_YX, class_colors(self.classes, [one["id"]], size)) for one in self.classes}
        return {class_id: data for class_id, data in tiles.items() if data is not None}

    def _ids(self, step: int, box: Box) -> NDArray[Any]:
        for _ in _tries(self.name):
            drawing = self.run.viewed(self.name).drawing
            ids_YX, is_final = (drawing.mask_ids if self.layer == "mask" else drawing.truth_ids)(step, box, self.plane)
            if is_final:
                return ids_YX
        raise AssertionError("the tries end with an error")


def write_layer(
    layer: DrawnLayer, shape: tuple[int, int], finest: int, root: Path, stem: str, pool: Executor, written: Written
) -> list[Pyramid]:
    """Write the pyramids of a layer, and return those in which there is anything.

    Args:
        layer: what is drawn.
        shape: of the working grid.
        finest: the finest level.
        root: folder of the copy.
        stem: path of the pyramids below it, to which the class is added.
        pool: draws and writes the tiles.
        written: counts what is written.

    Raises:
        OSError: the folder cannot be written.
    """
    names = {one: stem if one is None else f"{stem}-{one}" for one in layer.class_ids}
    pyramids = {one: Pyramid(name, layer.kind, one) for one, name in names.items()}

    def make(place: Place) -> tuple[dict[int | None, int], str]:
        try:
            tiles = layer.draw(shape, place)
        except Exception as error:  # noqa: BLE001 - decoders of damaged files raise anything, and the other tiles are sound
            return {}, cause_of(error)
        for class_id, data in tiles.items():
            path = root / f"{names[class_id]}_files" / str(place[0]) / f"{place[1]}_{place[2]}.{layer.kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return {class_id: len(data) for class_id, data in tiles.items()}, ""

    for places in places_of(shape, finest):
        there = {one: np.zeros(len(places), np.bool_) for one in pyramids}
        for index, (sizes, cause) in enumerate(_in_order(pool, make, places)):
            written.missing += bool(cause)
            written.cause = written.cause or cause
            for class_id, size in sizes.items():
                there[class_id][index] = True
                written.count(size)
        for class_id, pyramid in pyramids.items():
            pyramid.tiles.append(there[class_id])
    return [one for one in pyramids.values() if _described(one, shape_at(shape, _step(shape, finest)), root, written)]


def _described(pyramid: Pyramid, shape: tuple[int, int], root: Path, written: Written) -> bool:
    """Write the descriptor of a pyramid, unless it has no tile."""
    if not any(level.any() for level in pyramid.tiles):
        return False
    text = pyramid.descriptor(shape)
    (root / f"{pyramid.stem}.dzi").write_text(text, encoding="utf-8")
    written.count(len(text))
    return True


def _step(shape: tuple[int, int], level: int) -> int:
    return 1 << ((max(shape) - 1).bit_length() - level)


def _in_order(pool: Executor, act: Any, items: Iterable[Any]) -> Iterator[Any]:
    """Call a function for each item, a bounded number at once, and return the results in order."""
    waiting = iter(items)
    while batch := list(islice(waiting, AT_ONCE)):
        yield from pool.map(act, batch)


def _tries(name: str) -> Iterator[None]:
    """Return again and again, with pauses; a coarse picture of a file without a pyramid is made meanwhile."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        yield
        time.sleep(PAUSE_S)
    raise BlockError(f"{name}: its coarse picture was not made within {LONGEST_S:.0f} s")


def _as_jpeg(data: bytes) -> bytes:
    """Return a tile of an image as JPEG; pixels without data become white, as a JPEG has no opacity."""
    from PIL import Image

    if data[:2] == b"\xff\xd8":
        return data
    with Image.open(io.BytesIO(data)) as picture:
        tile = picture.convert("RGBA")
    paper = Image.new("RGBA", tile.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(paper, tile).convert("RGB").save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
