"""A run as it is viewed: what the server and the static copy ask for, as plain Python values and as bytes of tiles."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from pipeline.engine import read_thumbnails
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.inputs import Catalogue
from pipeline.records import RunFolder
from pipeline.storage import StorageLike
from pipeline.viewer.images import Tile, ViewedImage
from pipeline.viewer.objects import ObjectRows
from pipeline.viewer.overview import Overviews
from pipeline.viewer.progress import Progress
from pipeline.viewer.sources import OpenFiles
from pipeline.viewer.subjects import Subjects, fill_of
from pipeline.viewer.tiles import Drawing, Look
from pipeline.viewer.worst import RANKS, worst_blocks

__all__ = ["ViewedRun"]

MOST_IMAGES = 32  # whose headers and windows are remembered
TILE_BYTES = 1 << 26  # of tiles that are remembered
PICTURES = 1000  # a version is the row of the ledger times this, plus how often coarse pictures of the image have changed
TILE_OVERHEAD = 500  # bytes that a tile takes besides its own


class ViewedRun:
    """A run, finished or going on. Nothing in its folder is changed. Several threads may ask.

    Args:
        output: folder or URL of the run.
        scored: gives the catalogue of the masks that the run scored, for the output of ``evaluate``.

    Raises:
        InputError: no run is here, or it has not begun, or it makes no masks.
    """

    def __init__(self, output: StorageLike, scored: Callable[[], Catalogue] | None = None) -> None:
        self.folder = RunFolder(output)
        where, recorded = str(self.folder.storage), self.folder.require()
        if recorded.get("kind") == "training":
            raise InputError(Problem(where, "the output of a training", "that of a run", f"Its validation: gigaseg view {where}/val"))
        self.progress = Progress(self.folder)
        self.progress.look()
        if not self.progress.plan.get("classes"):
            found = "copies of images, without a mask" if self.progress.plan else "a run that has not begun with any block"
            raise InputError(Problem(where, found, "a run that has written masks"))
        self._files, self._overviews, self._scored = OpenFiles(), Overviews(), scored
        self._lock, self._tiles = threading.Lock(), _Tiles()
        self._plan: Mapping[str, Any] = {}
        self._subjects: Subjects | None = None
        self._images: OrderedDict[str, ViewedImage] = OrderedDict()
        self._report: tuple[str | None, dict[str, dict[str, Any]]] = (None, {})

    def close(self) -> None:
        """Close all files; no thread may ask any more."""
        self._overviews.close()
        self._files.close()

    @property
    def names(self) -> Collection[str]:
        """Names of the images that have blocks."""
        return self.progress.blocks.keys()

    def run(self) -> dict[str, Any]:
        """Return what there is of the run: ``GET /api/run``."""
        self.progress.look()
        plan, scores, blocks = self.progress.plan, self._scores(), self.progress.blocks
        images = [{"name": name, "mean_iou": scores.get(name, {}).get("mean_iou"), "state": one.state} for name, one in blocks.items()]
        images += [{"name": one["name"], "mean_iou": None, "state": "failed"} for one in plan.get("rejected", ())]
        return {
            "title": self.folder.storage.url.rstrip("/").rpartition("/")[2],
            "output": self.folder.storage.url,
            "state": self.progress.state,
            "classes": [{"id": index, "name": one["name"], "color": one["color"]} for index, one in enumerate(plan["classes"])],
            "fill": fill_of(plan),
            "images": images,
            "worst_by": [by for by, (against, _) in RANKS.items() if any(getattr(one, against).any() for one in blocks.values())],
        }

    def image(self, name: str, other: ViewedRun | None = None) -> dict[str, Any]:
        """Return what there is of an image: ``GET /api/image``. ``other`` is the run that this one is compared with."""
        scores = self._scores().get(name, {}).get("classes")
        return {
            **self.viewed(name).facts(_same(name, other)),
            "block": self.progress.plan["block"],
            "version": self.version(name),
            "scores": None if scores is None else [{"class": one["name"], "iou": one["iou"]} for one in scores],
        }

    def worst(self, by: str, name: str | None = None, count: int = 50) -> list[dict[str, Any]]:
        """Return the worst blocks of an image, or of all: ``GET /api/worst``. ``by`` is one of ``worst_by`` of :meth:`run`."""
        self.progress.look()
        plan, blocks = self.progress.plan, self.progress.blocks
        shapes = {one["name"]: (int(one["shape"][0]), int(one["shape"][1])) for one in plan["images"]}
        wanted = blocks if name is None else {name: self.progress.of(name)}
        return worst_blocks({one: (rows, shapes[one], int(plan["block"])) for one, rows in wanted.items()}, by, count)

    def state(self, since: int = 0) -> dict[str, Any]:
        """Return how far the run is, and the images that have changed since a version: ``GET /api/state``."""
        self.progress.look()
        blocks = self.progress.blocks
        return {
            "state": self.progress.state,
            "blocks_done": sum(int(one.is_done.sum()) for one in blocks.values()),
            "blocks_total": sum(len(one.versions) for one in blocks.values()),
            "drawing": self._overviews.is_drawing,
            "images": {name: number for name in blocks if (number := self.version(name)) > since},
        }

    def objects(
        self, name: str, *, sort: str = "id", descending: bool = False, offset: int = 0, limit: int = 50, class_id: int | None = None
    ) -> dict[str, Any]:
        """Return a page of the table of an image's objects: ``GET /api/objects``; empty where there is no table.

        Raises:
            InputError: there is no such column.
        """
        rows = self.viewed(name).objects
        if rows is None:
            return {"total": 0, "columns": [], "rows": []}
        return rows.page(sort=sort, descending=descending, offset=offset, limit=limit, class_id=class_id)

    def object(self, name: str, object_id: int) -> dict[str, Any] | None:
        """Return one object; None where there is none: ``GET /api/object``."""
        rows = self.viewed(name).objects
        return None if rows is None else rows.one(object_id)

    def at(self, name: str, plane: int, y: int, x: int) -> dict[str, Any]:
        """Return what lies at a pixel: ``GET /api/at``."""
        return self.viewed(name).at(plane, y, x)

    def tile(
        self,
        layer: str,
        level: int,
        x: int,
        y: int,
        *,
        name: str,
        plane: int = 0,
        classes: Collection[int] | None = None,
        channels: str | None = None,
        chosen: int = 0,
        other: ViewedRun | None = None,
    ) -> Tile | None:
        """Return a tile of a layer; None outside the picture.

        Args:
            layer: one of those of :meth:`image`.
            level: as in Deep Zoom: 0 is one pixel.
            x: column of the tile.
            y: row of the tile.
            name: of the image.
            plane: index over the stack axes.
            classes: ids that are shown; None: all.
            channels: as :func:`pipeline.viewer.channels.parse_channels` reads it; None: as the image is usually drawn.
            chosen: id of the object that is filled among the outlines; 0: none.
            other: the run whose mask is compared, for ``difference``.

        Raises:
            InputError: the image has no such layer or plane, or the channels are no channels.
            BlockError, OSError: a file cannot be read here.
        """
        viewed, theirs = self.viewed(name), _same(name, other)
        if layer not in viewed.layers(theirs) or not 0 <= plane < viewed.subject.header.num_planes:
            raise InputError(Problem("layer", f"{layer}, plane {plane}", "a layer and a plane of this image"))
        # What draws nothing else is no part of the look, so that the same tile is not kept several times.
        shown = None if classes is None else frozenset(classes).intersection(range(len(self.progress.plan["classes"])))
        look = Look(plane, shown, viewed.drawn_channels(channels) if layer == "image" else (), chosen if layer == "outlines" else 0)
        key = layer, level, x, y, name, look, viewed.stamp, theirs.stamp if theirs else None
        if (tile := self._tiles.get(key)) is None:
            tile = viewed.draw(layer, level, x, y, look, theirs)
            if tile is not None and tile.is_final:
                self._tiles.put(key, tile)
        return tile

    def version(self, name: str) -> int:
        """Return a number that grows when a tile of an image changes: a block was done, or a picture has become clearer."""
        return self.progress.of(name).version * PICTURES + min(self._overviews.changes[name], PICTURES - 1)

    def viewed(self, name: str) -> ViewedImage:
        """Return an image as it is now; raises GigasegError where the run has no image of this name."""
        self.progress.look()
        with self._lock:
            plan, blocks = self.progress.plan, self.progress.of(name)
            if plan is not self._plan or self._subjects is None:
                self._plan, self._images = plan, OrderedDict()
                self._subjects = Subjects(self.folder, plan, self._files, self._scored)
            before, stamp = self._images.get(name), (id(plan), blocks.version)
            if before is None or before.stamp != stamp:
                subject = self._subjects.of(name, is_finished=bool(blocks.finished))
                small = read_thumbnails(self.folder.storage, name) if blocks.finished else None
                options: dict[str, Any] = {"has_mask_before": self._scored is not None, "thumbnails": small}
                drawing = Drawing(subject, blocks, int(plan["block"]), plan["classes"], fill_of(plan), self._overviews, **options)
                open_rows = partial(ObjectRows, self.folder.storage, subject.objects or "", plan["classes"], subject.header.planes)
                self._images[name] = ViewedImage(subject, blocks, drawing, stamp, open_rows if subject.objects else None)
                if before is not None:
                    self._images[name].keep_channels(before)
            self._images.move_to_end(name)
            while len(self._images) > MOST_IMAGES:
                self._images.popitem(last=False)
            return self._images[name]

    def _scores(self) -> dict[str, dict[str, Any]]:
        """Return what report.json says of each image; empty where there is none."""
        storage = self.folder.report
        with suppress(GigasegError, ValueError, KeyError):
            version = storage.version("report.json") if storage.exists() else None
            if version is not None and version != self._report[0]:
                content = json.loads(storage.get("report.json") or b"{}")
                self._report = version, {one["name"]: one for one in content["per_image"]}
        return self._report[1]


class _Tiles:
    """The tiles that were drawn last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Tile] = OrderedDict()
        self._lock, self._bytes = threading.Lock(), 0

    def get(self, key: Any) -> Tile | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Any, tile: Tile) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = tile
                self._bytes += TILE_OVERHEAD + len(tile.data or b"")
            while self._bytes > TILE_BYTES:
                self._bytes -= TILE_OVERHEAD + len(self._kept.popitem(last=False)[1].data or b"")


def _same(name: str, other: ViewedRun | None) -> ViewedImage | None:
    """Return the image of the same name in another run."""
    return other.viewed(name) if other is not None and name in other.names else None
