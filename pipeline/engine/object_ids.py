"""The ids of an image's objects: labels of all blocks are joined into sets, which are numbered in the order of the first pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.job import Job
from pipeline.engine.objects import TABLE, Subject, bands_kind, block_number, ids_kind, labels_kind, method_of, pairs_kind, read_part
from pipeline.engine.parts import PartFiles
from pipeline.geometry import Box
from pipeline.records import Block
from pipeline.tiling import connected_sets, without_conflicts

__all__ = ["JoinedObjects", "ids_of", "join_labels"]


@dataclass(frozen=True)
class JoinedObjects:
    """The result of joining the labels of an image.

    Attributes:
        objects: number of objects.
        lost: ids of the blocks that have no labels.
        digest: fingerprint of the ids and classes of all labels.
        files: files written, with their size in bytes.
    """

    objects: int
    lost: tuple[str, ...]
    digest: str
    files: Mapping[str, int]


def join_labels(job: Job, block: Block, subject: Subject) -> JoinedObjects:
    """Give every label of an image the id of its object, 0 if the object is too small or too large, and write the ids of each block.

    Args:
        job: what every actor is told.
        block: the whole image; its ``lost`` are the blocks without labels.
        subject: predicted objects, or truth objects.
    """
    return _Joining(job, block, subject).run()


class _Joining:
    """Joins the labels of one image: see :func:`join_labels`."""

    def __init__(self, job: Job, block: Block, subject: Subject) -> None:
        self.job, self.block, self.image, self.subject = job, block, block.image, subject
        self.parts, self.method = PartFiles(job, block.image), method_of(job, subject)
        self.rows, self.cols = job.grid(block.image).num_blocks
        self.files: dict[str, int] = {}
        self.digest = hashlib.blake2b(digest_size=16)
        self.next_id = 1

    def run(self) -> JoinedObjects:
        """Join labels into sets, then number the objects of one row of blocks after the other."""
        self.nodes, self.set_of = self._sets()
        self.sets = _SetTotals(int(self.set_of.max(initial=-1)) + 1)
        for number, table in self._tables():
            members, at = self._members(number)
            self.sets.add(self.set_of[at], table, members)
        self.set_classes = self.sets.classes()
        self.set_ids = np.zeros(len(self.sets.areas), np.int64)
        starts = []
        for band in range(self.image.header.num_planes * self.rows):
            starts.append(self.next_id)
            self._number_band(band)
        self.files |= self.parts.write(bands_kind(self.subject), self.block, {"starts": np.array([*starts, self.next_id], np.int64)})
        return JoinedObjects(self.next_id - 1, self.block.lost, self.digest.hexdigest(), self.files)

    def _number_band(self, band: int) -> None:
        """Number the objects whose first pixel lies in one row of blocks, and write the ids of the labels of its blocks."""
        tables = dict(self._tables([band]))
        singles = {number: self._singles(number, table) for number, table in tables.items()}
        sets = self._sets_of(band)
        firsts_N = np.concatenate([self.sets.firsts[sets], *(tables[number]["firsts"][one] for number, one in singles.items())])
        ids_N = np.empty(len(firsts_N), np.int64)
        ids_N[np.argsort(firsts_N)] = np.arange(self.next_id, self.next_id + len(firsts_N), dtype=np.int64)
        self.next_id += len(firsts_N)
        self.set_ids[sets] = ids_N[: len(sets)]
        done = len(sets)
        for number, table in tables.items():
            one, (members, at) = singles[number], self._members(number)
            ids, classes, shared = np.zeros(len(table["areas"]), np.int64), table["classes"].copy(), np.zeros(len(table["areas"]), np.bool_)
            ids[one], done = ids_N[done : done + len(one)], done + len(one)
            ids[members], classes[members], shared[members] = self.set_ids[self.set_of[at]], self.set_classes[self.set_of[at]], True
            plane, row, col = number // (self.rows * self.cols), number // self.cols % self.rows, number % self.cols
            place = replace(self.block, plane=plane, row=row, col=col)
            self.files |= self.parts.write(ids_kind(self.subject), place, {"ids": ids, "classes": classes, "shared": shared})
            self.digest.update(ids.tobytes() + classes.tobytes())

    def _sets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sorted nodes (:func:`~pipeline.engine.objects.match_labels`) of all matched labels, and the set of each."""
        pairs, agreement = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
        for _, file in self.parts.each(pairs_kind(self.subject), self.block.lost):
            pairs.append(file["pairs"])
            agreement.append(file["agreement"])
        pairs_N2 = np.concatenate(pairs)
        if self.method.joins == "agreement" and len(pairs_N2):
            self.nodes, ends = np.unique(pairs_N2, return_inverse=True)
            whole_N = np.zeros(len(self.nodes), np.bool_)
            for number, table in self._tables():
                members, at = self._members(number)
                whole_N[at] = table["whole"][members]
            kept_N = without_conflicts(ends.reshape(-1, 2), np.concatenate(agreement), self.nodes >> 32, whole_N)
            pairs_N2 = pairs_N2[kept_N]
        return connected_sets(pairs_N2)

    def _tables(self, bands: Sequence[int] | None = None) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield number and table of each block that has labels; ``bands`` are rows of blocks, None: all."""
        for place, file in self.parts.each(labels_kind(self.subject), self.block.lost, bands):
            yield block_number(self.job, self.image, *place), {name: file[name] for name in TABLE}

    def _members(self, number: int) -> tuple[NDArray[np.int64], slice]:
        """Return the positions of a block's matched labels in its table, and their positions among the nodes."""
        first, last = np.searchsorted(self.nodes, [number << 32, (number + 1) << 32]).tolist()
        return (self.nodes[first:last] & 0xFFFFFFFF) - 1, slice(first, last)

    def _singles(self, number: int, table: Mapping[str, Any]) -> NDArray[np.intp]:
        """Return the positions in a block's table of unmatched labels whose area is within the limits."""
        alone = self._has_size(table["areas"])
        alone[self._members(number)[0]] = False
        return np.flatnonzero(alone)

    def _sets_of(self, band: int) -> NDArray[np.intp]:
        """Return the sets whose first pixel lies in one row of blocks and whose area is within the limits."""
        height, width = self.image.header.shape
        plane, row = divmod(band, self.rows)
        box = self.job.grid(self.image).block_box(row, 0)
        start, end = (plane * height + box.y0) * width, (plane * height + box.y1) * width
        firsts = self.sets.firsts
        return np.flatnonzero((firsts >= start) & (firsts < end) & self._has_size(self.sets.areas))

    def _has_size(self, areas: NDArray[np.int64]) -> NDArray[np.bool_]:
        least, most = max(1, self.method.min_area), self.method.max_area
        return (areas >= least) & (areas <= (np.iinfo(np.int64).max if most is None else most))


class _SetTotals:
    """Area, first pixel and class of each set of labels."""

    def __init__(self, count: int) -> None:
        self.areas = np.zeros(count, np.int64)
        self.firsts = np.full(count, np.iinfo(np.int64).max, np.int64)
        self.votes: dict[int, NDArray[np.int64]] = {}

    def add(self, sets: NDArray[np.int64], table: Mapping[str, Any], rows: NDArray[np.int64]) -> None:
        """Add labels, which are rows of the table of one block."""
        areas, firsts, classes = table["areas"][rows], table["firsts"][rows], table["classes"][rows]
        np.add.at(self.areas, sets, areas)
        has_pixels = areas > 0
        np.minimum.at(self.firsts, sets[has_pixels], firsts[has_pixels])
        for class_id in np.unique(classes).tolist():
            votes = self.votes.setdefault(class_id, np.zeros(len(self.areas), np.int64))
            np.add.at(votes, sets[classes == class_id], areas[classes == class_id])

    def classes(self) -> NDArray[np.int32]:
        """Return the class that most pixels of each set have, the lowest of equals."""
        ids = sorted(self.votes)
        if not ids:
            return np.zeros(len(self.areas), np.int32)
        most: NDArray[np.intp] = np.argmax([self.votes[class_id] for class_id in ids], axis=0)
        found: NDArray[np.int32] = np.array(ids, np.int32)[most]
        return found


def ids_of(job: Job, block: Block, subject: Subject, box: Box, lost: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the ids (Y, X) of a box in and around a block; 0 outside the image, and where a block has no labels.

    Args:
        job: what every actor is told.
        block: says which image and plane.
        subject: predicted objects, or truth objects.
        box: pixels of the plane; may reach beyond the image.
        lost: ids of the blocks that have no labels.
    """
    image, grid = block.image, job.grid(block.image)
    ids_YX = np.zeros(box.shape, np.int64)
    inside = box.clip(image.header.shape)
    labels_YX = read_part(job, block, labels_kind(subject), inside)[0]
    with PartFiles(job, image).open(ids_kind(subject), block.plane, lost) as file_of:
        for row in range(inside.y0 // grid.block, -(-inside.y1 // grid.block)):
            for col in range(inside.x0 // grid.block, -(-inside.x1 // grid.block)):
                part = grid.block_box(row, col).intersection(inside)
                if part is not None and (file := file_of(row, col)) is not None:
                    lookup = np.concatenate([np.zeros(1, np.int64), file["ids"]])
                    ids_YX[part.relative_to(box).slices] = lookup[labels_YX[part.relative_to(inside).slices]]
    return ids_YX
