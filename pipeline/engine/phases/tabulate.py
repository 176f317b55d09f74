"""The table of an image's objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.exports import write_objects
from pipeline.engine.job import Job
from pipeline.engine.objects import bands_kind
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header, ground_sizes, has_equal_rows, pixel_shares
from pipeline.records import Block
from pipeline.statistics import ObjectParts, PixelSize, measure, object_columns

__all__ = ["Tabulate"]


class Tabulate(Phase[dict[str, int], dict[str, int]]):
    """Add up the measures of each object over the blocks, and write one row per object.

    Memory grows with the objects in one row of blocks, and those that reach into the next rows.
    """

    after = ("measure",)
    is_per_image = True
    follows = ("join",)

    def applies(self, job: Job, image: Image) -> bool:
        """Where the YAML asks for objects."""
        return job.goal == "segment" and job.instances is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The names of the classes, and that lengths are those on the ground where they are not those of the map."""
        return ([spec["name"] for spec in job.classes], *([] if has_equal_rows(image.header) else ["ground"]))

    def takes_time(self, job: Job, image: Image) -> bool:
        """Its work grows with the objects, not with the pixels."""
        return False

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The measures, and the first id of each row of blocks."""
        return ("measure", "join")

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> dict[str, int]:
        """Add up, and write."""
        header = block.image.header

        def columns(parts: ObjectParts) -> Mapping[str, NDArray[Any]]:
            rows = parts.sum_of("y") / np.maximum(parts.sum_of("area"), 1)
            size, unit = _sizes_of(header, rows)
            share = pixel_shares(header, rows)
            names = header.channel_names
            return object_columns(parts, planes=header.planes, channel_names=names, pixel_size=size, unit=unit, pixel_share=share)

        rows = (_sorted([columns(one) for one in parts]) for parts in _whole_objects(resources.job, block))
        return write_objects(resources.job, block.image, rows)

    def work(self, resources: Resources, block: Block, loaded: dict[str, int], watch: Stopwatch) -> dict[str, int]:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: dict[str, int], watch: Stopwatch) -> ReceiptFields:
        """Report the file."""
        return {"digest": block.key, "files": worked}


def _sizes_of(header: Header, rows: NDArray[Any]) -> tuple[PixelSize | None, str]:
    """Return height and width of a pixel and their unit: on a map whose rows differ, metres on the ground at the mean row of each object.

    An area is then wrong by under 0.002 % for an object that is a degree high.
    """
    if has_equal_rows(header):
        return header.pixel_size, header.unit
    return ground_sizes(header, rows), "meter"


def _whole_objects(job: Job, block: Block) -> Iterator[Iterator[ObjectParts]]:
    """Yield the objects that begin in each row of blocks, part by part."""
    parts = PartFiles(job, block.image)
    with parts.open(bands_kind("predicted"), 0) as file_of:
        file = file_of(0, 0)
        assert file is not None
        starts = file["starts"].tolist()
    none, shared, num_read = _no_objects(parts, block), list[ObjectParts](), 0
    for band, (first, stop, last) in enumerate(zip(starts, starts[1:], _last_bands(job, parts, block, starts), strict=False)):
        for ahead in range(num_read, last + 1):
            shared += [measured.only(is_shared) for measured, is_shared in _measured(parts, block, [ahead])]
        num_read = max(num_read, last + 1)
        if stop > first or band == 0:
            crossing = ObjectParts.concat([none, *(one.within(first, stop) for one in shared)])
            yield chain([crossing], (measured.only(~is_shared) for measured, is_shared in _measured(parts, block, [band])))
        shared = [left for one in shared if len(left := one.only(one.ids >= stop))]


def _last_bands(job: Job, parts: PartFiles, block: Block, starts: Sequence[int]) -> list[int]:
    """Return for each row of blocks the last row into which its objects reach; ``starts`` are the first ids of the rows."""
    rows, last = job.grid(block.image).num_blocks[0], list(range(len(starts) - 1))
    for (plane, row, _), file in parts.each("measures", block.lost):
        for band in np.unique(np.searchsorted(starts, file["ids"][file["shared"]], side="right") - 1).tolist():
            last[band] = max(last[band], plane * rows + row)
    return last


def _no_objects(parts: PartFiles, block: Block) -> ObjectParts:
    """Return the measures of no object, with the image's channels unless every block failed."""
    for measured, _ in _measured(parts, block):
        return measured.only(np.zeros(len(measured), np.bool_))
    nothing = np.zeros(0, np.int64)
    return measure(np.zeros((3, 3), np.int64), Box(0, 0, 1, 1), (nothing, nothing), None, None, None, (1, 1))


def _sorted(columns: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Join columns, sorted by id."""
    order = np.argsort(np.concatenate([one["id"] for one in columns]))
    return {name: np.concatenate([one[name] for one in columns])[order] for name in columns[0]}


def _measured(parts: PartFiles, block: Block, bands: Sequence[int] | None = None) -> Iterator[tuple[ObjectParts, NDArray[np.bool_]]]:
    """Yield the measures of each block, and which of its objects lie in other blocks as well."""
    for _, file in parts.each("measures", block.lost, bands):
        yield ObjectParts.from_arrays(file), file["shared"]
