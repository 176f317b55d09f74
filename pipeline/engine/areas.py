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
    is_asked = image.zones is not None or not has_equal_rows(image.header)
    is_kept = job.goal == "evaluate" or not job.is_single(image) or any(writer.holds_mask for writer in job.writers)
    return job.goal != "convert" and is_asked and is_kept


def areas_key(job: Job, image: Image) -> str:
    """Return what the areas of an image depend on besides its mask: zones, their file, and the truth; empty: they are not counted."""
    if not counts_areas(job, image):
        return ""
    truth = "" if image.truth is None or job.truth_map is None else job.truth_map.key_of(image.truth_identity)
    return hash_values("areas", "" if image.zones is None else image.zones.identity, truth)


def count_areas(job: Job, block: Block, mask_YX: NDArray[Any], truth_YX: NDArray[Any] | None, zones: ImageZones | None) -> AreaSums:
    """Count the pixels and areas of a block.

    Args:
        job: what every actor is told.
        block: whose pixels they are.
        mask_YX: class ids, or the fill value.
        truth_YX: class ids; other values are ignored; None: there is no truth.
        zones: the zones of the image; None: there are none.
    """
    header, num_codes = block.image.header, job.num_classes + 1
    codes_YX = np.where(mask_YX == job.fill, job.num_classes, mask_YX).astype(np.intp)
    rows_YX = np.broadcast_to(np.arange(block.box.shape[0], dtype=np.intp)[:, None], block.box.shape)
    areas = None if has_equal_rows(header) else row_areas(header, block.box.y0, block.box.y1)
    areas_Y = None if areas is None else whole_areas(areas)
    sums = AreaSums()
    if areas_Y is not None:
        sums.predicted = AreaCounts.of(codes_YX.ravel(), rows_YX.ravel(), num_codes, areas_Y)
        if truth_YX is not None:
            scored_YX = (truth_YX < job.num_classes) & (codes_YX < job.num_classes)
            sums.truth = AreaCounts.of(truth_YX[scored_YX].astype(np.intp), rows_YX[scored_YX], num_codes, areas_Y)
    if zones is not None:
        _count_zones(sums, _Pixels(codes_YX, rows_YX, num_codes, areas_Y), block.box, zones)
    return sums


@dataclass(frozen=True)
class _Pixels:
    """The codes of a block and their rows, both (Y, X)."""

    codes_YX: NDArray[np.intp]
    rows_YX: NDArray[np.intp]
    num_codes: int
    areas_Y: Sequence[int] | None

    def count(self, here: tuple[slice, slice], covered_YX: NDArray[np.bool_]) -> AreaCounts:
        """Count the covered pixels of a part."""
        return AreaCounts.of(self.codes_YX[here][covered_YX], self.rows_YX[here][covered_YX], self.num_codes, self.areas_Y)


def _count_zones(sums: AreaSums, pixels: _Pixels, box: Box, zones: ImageZones) -> None:
    """Count each zone: overlapping zones each count their pixels; polygons of one name are one zone, which counts a pixel once."""
    outside = AreaCounts.of(np.zeros(0, np.intp), np.zeros(0, np.intp), pixels.num_codes, pixels.areas_Y)
    for piece in _pieces(box):
        inside_YX = np.zeros(piece.shape, np.bool_)
        shared: dict[str, NDArray[np.bool_]] = {}
        for index, part, covered_YX in zones.layer.covered(piece):
            here, name = part.relative_to(piece).slices, zones.names[index]
            inside_YX[here] |= covered_YX
            if name in zones.shared:
                shared.setdefault(name, np.zeros(piece.shape, np.bool_))[here] |= covered_YX
            else:
                _add(sums, name, pixels.count(part.relative_to(box).slices, covered_YX))
        for name, covered_YX in shared.items():
            _add(sums, name, pixels.count(piece.relative_to(box).slices, covered_YX))
        outside += pixels.count(piece.relative_to(box).slices, ~inside_YX)
    sums.outside = outside


def _add(sums: AreaSums, name: str, counts: AreaCounts) -> None:
    sums.zones[name] = sums.zones[name] + counts if name in sums.zones else counts


def _pieces(box: Box) -> Iterator[Box]:
    """Cut a box along lines of the image, so that each square of polygons is drawn once."""
    for y in range(box.y0 // PIECE * PIECE, box.y1, PIECE):
        for x in range(box.x0 // PIECE * PIECE, box.x1, PIECE):
            if (piece := Box(y, x, y + PIECE, x + PIECE).intersection(box)) is not None:
                yield piece
