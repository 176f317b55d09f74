"""Areas of a block on the ground: by class where the rows of a map are not equally large, and by zone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.job import Job
from pipeline.geometry import Box
from pipeline.inputs import Image, ImageZones, hash_values
from pipeline.raster import has_equal_rows, row_areas
from pipeline.records import Block
from pipeline.statistics import AreaCounts, AreaSums, whole_areas

__all__ = ["areas_key", "count_areas", "counts_areas"]

PIECE = 512  # side of the squares in which polygons are drawn, pixels


def counts_areas(job: Job, image: Image) -> bool:
    """Whether the areas of an image are counted from its mask: it has zones, or the rows of its map are not equally large."""
    return job.goal != "convert" and (image.zones is not None or not has_equal_rows(image.header))


def areas_key(job: Job, image: Image) -> str:
    """Return what the areas of an image depend on besides its mask: zones, their file, and the truth; empty: they are not counted."""
    if not counts_areas(job, image):
        return ""
    truth = "" if image.truth is None or job.truth_map is None else job.truth_map.key_of(image.truth_identity)
    return hash_values("areas", "" if image.zones is None else image.zones.identity, truth)


def count_areas(job: Job, block: Block, mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, zones: ImageZones | None) -> AreaSums:
    """Count the pixels and areas of a block, piece by piece.

    Args:
        job: what every actor is told.
        block: whose pixels they are.
        mask_YX: class ids, or the fill value.
        truth_YX: class ids; other values are ignored; None: there is no truth.
        zones: the zones of the image; None: there are none.
    """
    header, box, sums = block.image.header, block.box, AreaSums()
    areas = None if has_equal_rows(header) else row_areas(header, box.y0, box.y1)
    areas_Y = None if areas is None else whole_areas(areas)
    for piece in _pieces(box):
        here = piece.relative_to(box).slices
        of_rows = None if areas_Y is None else areas_Y[here[0]]
        pixels = _Pixels.of(mask_YX[here], job, of_rows)
        if areas_Y is not None:
            sums.predicted = _sum(sums.predicted, pixels.count(np.ones(piece.shape, np.bool_)))
            if truth_YX is not None:
                scored_YX = (truth_YX[here] < job.num_classes) & (pixels.codes_YX < job.num_classes)
                sums.truth = _sum(sums.truth, _Pixels.of(truth_YX[here], job, of_rows).count(scored_YX))
        if zones is not None:
            _count_zones(sums, pixels, piece, zones)
    return sums


@dataclass(frozen=True)
class _Pixels:
    """The codes of a piece (Y, X): classes, and behind them no prediction; and the area of a pixel of each row."""

    codes_YX: NDArray[np.intp]
    num_codes: int
    areas_Y: Sequence[int] | None

    @classmethod
    def of(cls, ids_YX: NDArray[Any], job: Job, areas_Y: Sequence[int] | None) -> _Pixels:
        """Take class ids over; the fill value means no prediction."""
        return cls(np.where(ids_YX == job.fill, job.num_classes, ids_YX).astype(np.intp), job.num_classes + 1, areas_Y)

    def count(self, covered_YX: NDArray[np.bool_], here: tuple[slice, slice] = (slice(None), slice(None))) -> AreaCounts:
        """Count the covered pixels of a part."""
        rows_YX = np.broadcast_to(np.arange(len(self.codes_YX))[:, None], self.codes_YX.shape)
        return AreaCounts.of(self.codes_YX[here][covered_YX], rows_YX[here][covered_YX], self.num_codes, self.areas_Y)


def _count_zones(sums: AreaSums, pixels: _Pixels, piece: Box, zones: ImageZones) -> None:
    """Count each zone: overlapping zones each count their pixels; polygons of one name are one zone, which counts a pixel once."""
    inside_YX = np.zeros(piece.shape, np.bool_)
    shared: dict[str, NDArray[np.bool_]] = {}
    for index, part, covered_YX in zones.layer.covered(piece):
        here, name = part.relative_to(piece).slices, zones.names[index]
        inside_YX[here] |= covered_YX
        if name in zones.shared:
            shared.setdefault(name, np.zeros(piece.shape, np.bool_))[here] |= covered_YX
        else:
            sums.zones[name] = _sum(sums.zones.get(name), pixels.count(covered_YX, here))
    for name, covered_YX in shared.items():
        sums.zones[name] = _sum(sums.zones.get(name), pixels.count(covered_YX))
    sums.outside = _sum(sums.outside, pixels.count(~inside_YX))


def _sum(counts: AreaCounts | None, more: AreaCounts) -> AreaCounts:
    return more if counts is None else counts + more


def _pieces(box: Box) -> Iterator[Box]:
    """Cut a box along lines of the image: each square of polygons is drawn once, and little memory is needed."""
    for y in range(box.y0 // PIECE * PIECE, box.y1, PIECE):
        for x in range(box.x0 // PIECE * PIECE, box.x1, PIECE):
            if (piece := Box(y, x, y + PIECE, x + PIECE).intersection(box)) is not None:
                yield piece
