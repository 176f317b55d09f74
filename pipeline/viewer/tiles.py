"""One tile of one layer: pixels of the sources that it needs, drawn as a PNG or JPEG."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import Thumbnails
from pipeline.geometry import Box
from pipeline.report import ERRORS, error_kinds
from pipeline.viewer.channels import Channel, composite, is_drawn_as_is
from pipeline.viewer.colors import (
    DIFFERENT,
    class_colors,
    encode_colors,
    encode_ids,
    encode_picture,
    heat_colors,
)
from pipeline.viewer.overview import Overview, Overviews, overview_step
from pipeline.viewer.progress import BlockRows
from pipeline.viewer.sources import IdSource, shape_at
from pipeline.viewer.subjects import Subject

__all__ = ["TILE", "Drawing", "Look", "box_of", "num_levels"]

TILE = 256  # side of a tile, pixels
MOST_READ = 1 << 24  # pixels that are read for a tile
WORTH_AN_OVERVIEW = 1 << 22  # the same, from which an overview is made
HIGHLIGHT = (255, 255, 0, 160)  # of the object that was chosen


def num_levels(shape: tuple[int, int]) -> int:
    """Return how many levels a picture has: level 0 is one pixel, the last one has all, as in Deep Zoom.

    Example:
        >>> num_levels((1, 1)), num_levels((1000, 1024)), num_levels((1, 1025))
        (1, 11, 12)
    """
    return (max(shape) - 1).bit_length() + 1


def box_of(shape: tuple[int, int], level: int, x: int, y: int) -> tuple[int, Box] | None:
    """Return the step of a level, and the pixels of a tile in the picture at this step; None where there is no such tile.

    Example:
        >>> box_of((1000, 600), 9, 1, 0), box_of((1000, 600), 9, 2, 0)
        ((2, Box(y0=0, x0=256, y1=256, x1=300)), None)
    """
    if not 0 <= level < num_levels(shape):
        return None
    step = 1 << (num_levels(shape) - 1 - level)
    height, width = shape_at(shape, step)
    if not (0 <= x * TILE < width and 0 <= y * TILE < height):
        return None
    return step, Box(y * TILE, x * TILE, (y + 1) * TILE, (x + 1) * TILE).clip((height, width))


@dataclass(frozen=True)
class Look:
    """What is asked of a tile besides its place.

    Attributes:
        plane: index over the stack axes.
        classes: ids that are shown; None: all.
        channels: how channels are drawn; empty: as the file means them.
        chosen: id of the object that is filled among the outlines; 0: none.
    """

    plane: int = 0
    classes: frozenset[int] | None = None
    channels: tuple[Channel, ...] = ()
    chosen: int = 0


class Drawing:
    """Draws the layers of one image of a run.

    Args:
        subject: what there is of the image.
        blocks: what the ledger says of its blocks.
        block: side of a block, pixels.
        classes: of the run.
        fill: the mask's value for no prediction.
        has_mask_before: whether the mask was there before the run, which only scored it.
        overviews: of files without a pyramid.
        thumbnails: shown until an overview is there; None: there are none.
    """

    def __init__(
        self,
        subject: Subject,
        blocks: BlockRows,
        block: int,
        classes: Sequence[Mapping[str, Any]],
        fill: int,
        overviews: Overviews,
        *,
        has_mask_before: bool = False,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._subject, self._blocks, self._block, self.classes, self.fill = subject, blocks, block, classes, fill
        self._overviews, self._has_mask_before, self._thumbnails = overviews, has_mask_before, thumbnails

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the working grid."""
        return self._subject.header.shape

    def image(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """Return the picture of a box, None where there is nothing to see, and whether it stays as it is."""
        source = self._subject.image
        assert source is not None
        header, to_read, overview = source.header, box.area * source.excess(step) ** 2, None
        if to_read > WORTH_AN_OVERVIEW:
            plane = look.plane
            size = header.channels * np.dtype(header.dtype).itemsize
            overview = self._overviews.get(
                self._subject.name,
                ("image", plane),
                lambda: Overview(lambda at, part: source.read(at, part, plane), self.shape, overview_step(self.shape, size)),
            )
        is_ready = overview is not None and overview.is_complete and overview.step <= step
        if overview is None or (to_read <= MOST_READ and not is_ready):
            pixels_CYX, valid_YX = source.read(step, box, look.plane)
        else:
            cut = overview.cut(step, box)
            if not overview.is_complete and (small := self._thumbnail(step, box, look)) is not None:
                return encode_picture(small, np.ones(box.shape, np.bool_)), False
            if cut is None:
                return None, False
            pixels_CYX, valid_YX = cut
        return encode_picture(self._colored(pixels_CYX, look), valid_YX), overview is None or to_read <= MOST_READ or overview.is_complete

    def _colored(self, pixels_CYX: NDArray[Any], look: Look) -> NDArray[np.uint8]:
        assert self._subject.image is not None
        if not look.channels and is_drawn_as_is(self._subject.image.header):
            return np.ascontiguousarray(pixels_CYX[:3].transpose(1, 2, 0))
        return composite(pixels_CYX, look.channels)

    def _thumbnail(self, step: int, box: Box, look: Look) -> NDArray[np.uint8] | None:
        """Return a box of the thumbnail, enlarged; None where there is none of this plane."""
        small = self._thumbnails
        if small is None or small.image_YXS is None or look.plane != self._subject.header.num_planes // 2:
            return None
        rows, cols = (
            np.minimum(np.arange(start, stop) * step * side // whole, side - 1)
            for start, stop, side, whole in zip((box.y0, box.x0), (box.y1, box.x1), small.image_YXS.shape[:2], self.shape, strict=True)
        )
        return np.ascontiguousarray(small.image_YXS[rows[:, None], cols])

    def mask_ids(self, step: int, box: Box, plane: int) -> tuple[NDArray[Any], bool]:
        """Return class ids of a box of the mask, and whether they are final as far as reading goes; other blocks have no prediction."""
        source = self._subject.mask
        assert source is not None
        ids_YX, is_final = self._ids(source, "mask", step, box, plane, None if self._has_mask_before else self._blocks)
        if not self._has_mask_before and not (is_done := self._blocks.is_done).all():
            ids_YX = np.where(is_done[self._block_index(step, box, plane)], ids_YX, ids_YX.dtype.type(self.fill))
        return ids_YX, is_final

    def truth_ids(self, step: int, box: Box, plane: int) -> tuple[NDArray[Any], bool]:
        """Return class ids of a box of the truth, and whether they are final."""
        assert self._subject.truth is not None
        return self._ids(self._subject.truth, "truth", step, box, plane)

    def mask(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """As :meth:`image`: classes in their colours; where there is no prediction, nothing is drawn."""
        ids_YX, is_final = self.mask_ids(step, box, look.plane)
        return self._in_colors(ids_YX, look), is_final

    def truth(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """As :meth:`image`: true classes; where the truth is ignored, nothing is drawn."""
        ids_YX, is_final = self.truth_ids(step, box, look.plane)
        return self._in_colors(ids_YX, look), is_final

    def error(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """As :meth:`image`: where the mask's tile differs from the truth's, and how."""
        (mask_YX, is_final), (truth_YX, is_true) = self.mask_ids(step, box, look.plane), self.truth_ids(step, box, look.plane)
        kinds_YX = error_kinds(mask_YX, truth_YX, self.fill, look.classes)
        return encode_ids(kinds_YX, _flat(ERRORS)), is_final and is_true

    def overlap(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """As :meth:`image`: blocks, the stronger the more their tiles disagree."""
        with np.errstate(invalid="ignore", divide="ignore"):
            colors_N4 = heat_colors(self._blocks.unequal / self._blocks.overlap)
        return encode_colors(colors_N4[self._block_index(step, box, look.plane)]), True

    def difference(self, step: int, box: Box, look: Look, other: Drawing) -> tuple[bytes | None, bool]:
        """As :meth:`image`: where the masks of two runs differ, and both have a prediction. Classes are those of a name, in any order."""
        (ours_YX, is_final), (theirs_YX, is_theirs) = self.mask_ids(step, box, look.plane), other.mask_ids(step, box, look.plane)
        is_known_YX = (ours_YX != self.fill) & (theirs_YX != other.fill)
        differs_YX = is_known_YX & (ours_YX != _ids_by_name(other.classes, self.classes, other.fill)[theirs_YX])
        return encode_ids(differs_YX.astype(np.uint8), _flat([DIFFERENT])), is_final and is_theirs

    def outlines(self, step: int, box: Box, look: Look) -> tuple[bytes | None, bool]:
        """As :meth:`image`: the outermost pixels of each object in the colour of its class; the chosen object is filled."""
        assert self._subject.labels is not None
        wide = box.grow(1).clip(shape_at(self.shape, step))
        ids_YX, is_final = self._ids(self._subject.labels, "labels", step, wide, look.plane)
        inner = np.s_[box.y0 - wide.y0 : box.y1 - wide.y0, box.x0 - wide.x0 : box.x1 - wide.x0]
        is_outline_YX = _is_outline(ids_YX)[inner]
        colors_YX4 = np.zeros((*box.shape, 4), np.uint8)
        if self._subject.mask is not None and is_outline_YX.any():
            mask_YX, _ = self.mask_ids(step, box, look.plane)
            colors_YX4[is_outline_YX] = self._class_colors(mask_YX.dtype, look)[mask_YX[is_outline_YX]]
        if look.chosen:
            is_chosen_YX = ids_YX[inner] == look.chosen
            colors_YX4[is_chosen_YX] = HIGHLIGHT
            colors_YX4[is_chosen_YX & is_outline_YX, 3] = 255
        return encode_colors(colors_YX4), is_final

    def _in_colors(self, ids_YX: NDArray[Any], look: Look) -> bytes | None:
        return encode_ids(ids_YX, self._class_colors(ids_YX.dtype, look))

    def _class_colors(self, dtype: np.dtype[Any], look: Look) -> NDArray[np.uint8]:
        return class_colors(self.classes, look.classes, 1 << (8 * dtype.itemsize))

    def _ids(
        self, source: IdSource, kind: str, step: int, box: Box, plane: int, blocks: BlockRows | None = None
    ) -> tuple[NDArray[Any], bool]:
        """Return ids of a box, and whether they are final: of an overview that is not complete, they are not."""
        to_read = box.area * source.excess(step) ** 2
        if to_read <= WORTH_AN_OVERVIEW:
            return source.read(step, box, plane), True
        key = (kind, source.path, plane, id(self._blocks))
        overview = self._overviews.get(self._subject.name, key, lambda: self._begin(source, plane, blocks))
        if to_read <= MOST_READ and not (overview.is_complete and overview.step <= step):
            return source.read(step, box, plane), True
        cut = overview.cut(step, box)
        if cut is None:
            return np.full(box.shape, self.fill if kind != "labels" else 0, np.uint8 if self.fill == 255 else np.uint16), False
        ids_YX, valid_YX = cut
        return np.where(valid_YX, ids_YX, ids_YX.dtype.type(0 if kind == "labels" else self.fill)), overview.is_complete

    def _begin(self, source: IdSource, plane: int, blocks: BlockRows | None) -> Overview:
        def read(step: int, box: Box) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            return source.read(step, box, plane), np.ones(box.shape, np.bool_)

        step = overview_step(self.shape, 2)
        return Overview(read, self.shape, step, None if blocks is None else partial(self._stamps, blocks, plane))

    def _stamps(self, blocks: BlockRows, plane: int, rows: Sequence[tuple[int, int]], cols: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Return when a block of each rectangle of the working grid changed last (R, C)."""
        found: NDArray[np.int64] = blocks.versions.reshape(blocks.grid)[plane]
        for axis, ranges in enumerate((rows, cols)):
            spans = [slice(start // self._block, -(-stop // self._block)) for start, stop in ranges]
            found = np.stack([found[(slice(None),) * axis + (span,)].max(axis) for span in spans], axis)
        return found

    def _block_index(self, step: int, box: Box, plane: int) -> NDArray[np.intp]:
        """Return the place of the block of each pixel of a box (Y, X)."""
        _, num_rows, num_cols = self._blocks.grid
        rows, cols = (np.arange(start, stop) * step // self._block for start, stop in ((box.y0, box.y1), (box.x0, box.x1)))
        return (plane * num_rows + rows[:, None]) * num_cols + cols


def _flat(colors: Collection[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Return colours of ids from 1 on (N, 4); 0 is transparent."""
    return np.array([(0, 0, 0, 0), *((*color, 255) for color in colors)], np.uint8)


def _ids_by_name(classes: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], fill: int) -> NDArray[np.intp]:
    """Return which of our classes has the name of each class of another run; where the runs have other names, the one of its id.

    Example:
        >>> _ids_by_name([{"name": "a"}, {"name": "b"}], [{"name": "b"}, {"name": "a"}], 3).tolist()
        [1, 0, 2, 3]
    """
    found = np.arange(fill + 1)
    ids = {str(one["name"]): index for index, one in enumerate(ours)}
    if ids.keys() == {str(one["name"]) for one in classes}:
        found[: len(classes)] = [ids[str(one["name"])] for one in classes]
    return found


def _is_outline(ids_YX: NDArray[Any]) -> NDArray[np.bool_]:
    """Find the pixels of objects that have another id above, below, left or right.

    Example:
        >>> _is_outline(np.array([[1, 1, 1, 2, 0]])).tolist()
        [[False, False, True, True, False]]
    """
    found_YX = np.zeros(ids_YX.shape, np.bool_)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs_YX = ids_YX[here] != ids_YX[there]
        found_YX[here] |= differs_YX
        found_YX[there] |= differs_YX
    is_object_YX: NDArray[np.bool_] = ids_YX != 0
    return found_YX & is_object_YX
