"""Pixels and truth of one block as every phase reads them: reflected beyond the image, valid or not, as class ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.job import Job
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box, reflect_index
from pipeline.raster import Raster
from pipeline.records import Block

__all__ = ["mask_ids", "pixel_digest", "read_mask", "read_reflected", "read_truth", "read_zero_filled", "require_class_ids"]


def read_reflected(raster: Raster, box: Box, plane: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read a box that may reach beyond the image; what lies outside is reflected (:func:`reflect_index`), and so is where it is valid.

    Only pixels inside the image are read.

    Returns:
        pixels_CYX of the box's shape, in the reader's memory layout; and valid_YX, None where every pixel is valid.
    """
    rows = reflect_index(box.y0, box.y1, raster.header.shape[0])
    cols = reflect_index(box.x0, box.x1, raster.header.shape[1])
    inside = Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
    pixels_CYX, valid_YX = raster.read_valid(inside, plane)
    if inside == box:
        return pixels_CYX, valid_YX
    rows, cols = rows - inside.y0, cols - inside.x0
    return _pick(pixels_CYX, rows, cols), None if valid_YX is None else _pick(valid_YX[None], rows, cols)[0]


def read_zero_filled(raster: Raster, box: Box, plane: int) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read a box as a model takes it, and find its valid pixels: :func:`read_reflected`, with 0 where there is no data.

    A NaN, an infinity or a nodata value of -3e38 would spread over a network's whole field.
    """
    pixels_CYX, valid_YX = read_reflected(raster, box, plane)
    if valid_YX is not None:
        pixels_CYX = pixels_CYX.copy(order="K")
        np.copyto(pixels_CYX, 0, where=~valid_YX)
    return pixels_CYX, valid_YX


def _pick(pixels_CYX: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[Any]:
    """Return pixels_CYX[:, rows][:, :, cols] by slices, which keep the memory layout and copy whole rows, as arrays of numbers do not."""
    out_CYX = np.empty_like(pixels_CYX, shape=(len(pixels_CYX), len(rows), len(cols)))
    for rows_to, rows_from in _runs(rows):
        for cols_to, cols_from in _runs(cols):
            out_CYX[:, rows_to, cols_to] = pixels_CYX[:, rows_from, cols_from]
    return out_CYX


def _runs(index_N: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Cut positions into stretches that go up by one, go down by one, or stay.

    Yields:
        The slice of each stretch, and the slice that it copies.

    Example:
        >>> list(_runs(np.array([2, 1, 0, 1, 2, 3])))
        [(slice(0, 3, None), slice(2, None, -1)), (slice(3, 6, None), slice(1, 4, 1))]
    """
    turns = np.flatnonzero(np.diff(index_N, n=2)) + 2
    for start, stop in pairwise([0, *turns.tolist(), len(index_N)]):
        first, last = int(index_N[start]), int(index_N[stop - 1])
        if first == last:
            yield slice(start, stop), slice(first, first + 1)
        else:
            step = 1 if last > first else -1
            yield slice(start, stop), slice(first, last + step if last + step >= 0 else None, step)


def read_mask(resources: Resources, block: Block) -> NDArray[Any]:
    """Read a block of a mask that exists as class ids of the job's type, with its fill value where there is no prediction or no data.

    Raises:
        BlockError: a pixel is neither.
    """
    mask_CYX, valid_YX = resources.image(block.image).read_valid(block.box, block.plane)
    return mask_ids(resources.job, mask_CYX[0], valid_YX, block.box)


def mask_ids(job: Job, raw_YX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box) -> NDArray[Any]:
    """Turn pixels of a mask that exists into class ids, as :func:`read_mask` does; ``box`` says where they are, for messages."""
    ids_YX: NDArray[Any] = raw_YX if valid_YX is None else np.where(valid_YX, raw_YX, raw_YX.dtype.type(0))
    if job.goal == "evaluate" and job.scores_objects:
        _require_object_ids(ids_YX, box)
        ids_YX = (ids_YX != 0).astype(job.dtype)  # a label image: objects are class 1
    require_class_ids(ids_YX, box, job.num_classes, "prediction")
    ids_YX = ids_YX.astype(job.dtype, copy=False)  # 65535, the fill value of wider types, becomes 255
    return ids_YX if valid_YX is None else np.where(valid_YX, ids_YX, ids_YX.dtype.type(job.fill))


def read_truth(resources: Resources, block: Block) -> tuple[NDArray[Any] | None, str]:
    """Read a block's truth as class ids.

    Returns:
        truth_YX, ignored where the truth holds no data, and why it cannot be counted: a truth value outside the classes costs the
        image its metrics, not its mask. None where the image has no truth.
    """
    image, job = block.image, resources.job
    if image.truth is None or job.truth_map is None:
        return None, ""
    try:
        raw_CYX, valid_YX = resources.truth(image).read_valid(block.box, block.plane)
        if changed := image.truth_states.changed():
            return None, f"{changed}: changed while it was read. Run again: the image is then counted anew"
        return job.truth_map.apply(raw_CYX, block.box, valid_YX), ""
    except (BlockError, InputError) as error:
        return None, f"{image.truth}: {error}"


def require_class_ids(ids_YX: NDArray[Any], box: Box, classes: int, what: str) -> None:
    """Check that pixels are class ids or the value of *no prediction*.

    Raises:
        BlockError: a pixel is neither; the message says what and where.
    """
    fill = 255 if ids_YX.dtype.itemsize == 1 else 65535
    strange_YX = (ids_YX < 0) | ((ids_YX >= classes) & (ids_YX != fill))
    if ids_YX.dtype.kind == "f":
        strange_YX |= ids_YX != np.floor(ids_YX)
    if strange_YX.any():
        y, x = divmod(int(strange_YX.argmax()), strange_YX.shape[1])
        where = f"(y={box.y0 + y}, x={box.x0 + x})"
        raise BlockError(f"{what} {ids_YX[y, x]} at {where} is not a class id; expected 0..{classes - 1}, or {fill} for none")


def _require_object_ids(ids_YX: NDArray[Any], box: Box) -> None:
    """Refuse negative ids, whose meaning is unclear: some programs write -1 for *no object*, others for *not annotated*."""
    if ids_YX.dtype.kind == "i" and (negative_YX := ids_YX < 0).any():
        y, x = divmod(int(negative_YX.argmax()), negative_YX.shape[1])
        where = f"(y={box.y0 + y}, x={box.x0 + x})"
        raise BlockError(f"prediction {ids_YX[y, x]} at {where} is not an object id; expected 0 for none, or a number above 0")


def pixel_digest(pixels: NDArray[Any]) -> str:
    """Return the fingerprint of decoded pixels, whatever their memory layout."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
