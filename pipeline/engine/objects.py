"""Objects of an image, from the labels of its blocks to ids that hold everywhere.

::

    label  a block and its halo ──▶ its labels, and those that it sees in its neighbours
    match  two neighbours ──▶ pairs of labels that are one object
    join   all pairs ──▶ sets, area limits, and the id of every label

Ids are 1, 2, ... in the order of the first pixel, row by row and plane by plane: they do not depend on who did what, and when.
Objects are ``predicted``, or made of a ``truth`` that has none: connected components of its classes. Memory follows the labels of one
row of blocks, and the objects on seams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import read_truth
from pipeline.engine.exports import stored_mask
from pipeline.engine.job import Job
from pipeline.engine.parts import PartFiles
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.instances import Instances, Labels, Region
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.records import Block
from pipeline.storage import BlockStore
from pipeline.tiling import agreeing_labels, connected_sets, overlapping_labels, without_conflicts

__all__ = [
    "Arrays",
    "BlockLabels",
    "JoinedObjects",
    "Subject",
    "bands_kind",
    "ids_kind",
    "ids_of",
    "ids_phase",
    "join_labels",
    "joins_truth",
    "label_block",
    "labels_header",
    "labels_kind",
    "labels_phase",
    "match_labels",
    "method_of",
    "pairs_kind",
    "pairs_phase",
    "read_part",
    "read_region",
    "truth_parts",
]

Subject = Literal["predicted", "truth"]
Arrays = dict[str, NDArray[Any]]

TABLE = ("areas", "firsts", "classes", "whole")
SIDES = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
"""Neighbours of a block: steps of row and column."""
OPPOSITE = {"right": "left", "down": "up"}
"""The neighbours that a block is matched with, so that each pair is matched once, and what they call this block."""


def method_of(job: Job, subject: Subject) -> Instances:
    """Return how objects are told apart: as the YAML says, or for truth without ids as connected components."""
    if subject == "predicted":
        assert job.instances is not None
        return job.instances
    method: Instances = build("instances", {"name": "components"})
    return method


def read_region(resources: Resources, block: Block, subject: Subject) -> tuple[Box, Region]:
    """Read what a method sees of a block, and its box; a truth that cannot be used has no objects.

    Raises:
        BlockError: what was written of the block is damaged.
    """
    job, image = resources.job, block.image
    method = method_of(job, subject)
    box = block.box.grow(method.halo).clip(image.header.shape)
    if subject == "truth":
        truth_YX, _ = read_truth(resources, replace(block, box=box))
        if truth_YX is None:  # the count of the mask reports why
            truth_YX = np.full(box.shape, job.fill, job.dtype)
        return box, Region(truth_YX, job.object_classes)
    mask_YX = stored_mask(resources, image).read(box, block.plane)[0]
    probs_KYX = read_part(job, block, "probs", box, job.num_classes).astype(np.uint8) if method.uses_probs else None
    maps = {}
    if job.model_maps:
        assert job.model is not None
        counts = [job.model.maps[name] for name in job.model_maps]
        maps_EYX = read_part(job, block, "maps", box, sum(counts)).astype(np.float32)
        maps = dict(zip(job.model_maps, np.split(maps_EYX, np.cumsum(counts)[:-1]), strict=True))
    return box, Region(mask_YX, job.object_classes, probs_KYX, maps)


def read_part(job: Job, block: Block, kind: str, box: Box, channels: int = 1) -> NDArray[Any]:
    """Read pixels_CYX of a temporary group; 0 where no block was written."""
    group = job.storage.below(PartFiles(job, block.image).store_key(kind)).below("0")
    return BlockStore.open(group).read(box, block.plane) if group.exists() else np.zeros((channels, *box.shape), np.uint8)


@dataclass(frozen=True)
class BlockLabels:
    """The labels of a block.

    Attributes:
        core_YX: of the block's own pixels, uint32.
        table: per label 1..N ``areas`` (own pixels), ``firsts`` (own first pixel, counted row by row and plane by plane; -1: none),
            ``classes`` and ``whole`` (whether the region holds the whole object).
        strips: of what block and neighbour both see, by side; there is none at the edge of the image.
    """

    core_YX: NDArray[np.uint32]
    table: Arrays
    strips: Arrays


def label_block(job: Job, block: Block, box: Box, labels: Labels, halo: int) -> BlockLabels:
    """Describe the labels of a region ``box``, which is a block and its ``halo``, clipped at the image."""
    shape, labels_YX = block.image.header.shape, labels.labels_YX.astype(np.uint32)
    core_YX = np.ascontiguousarray(labels_YX[block.box.relative_to(box).slices])
    count = len(labels.classes_N)
    areas = np.bincount(core_YX.ravel(), minlength=count + 1)[1:]
    inside = np.flatnonzero(core_YX)[::-1]  # numpy keeps the last of several values that are assigned to one place
    firsts = np.full(count + 1, -1, np.int64)
    firsts[core_YX.ravel()[inside]] = inside
    y, x = np.divmod(firsts[1:], core_YX.shape[1])
    places = np.where(areas > 0, ((block.plane * shape[0] + y + block.box.y0) * shape[1]) + x + block.box.x0, -1)
    whole = np.ones(count + 1, np.bool_)
    edges = [labels_YX[0], labels_YX[-1], labels_YX[:, 0], labels_YX[:, -1]]
    at_image = [box.y0 == 0, box.y1 == shape[0], box.x0 == 0, box.x1 == shape[1]]
    for edge, is_end in zip(edges, at_image, strict=True):
        whole[edge] &= is_end
    table: Arrays = {"areas": areas.astype(np.int64), "firsts": places.astype(np.int64), "classes": labels.classes_N, "whole": whole[1:]}
    grid, strips = job.grid(block.image), Arrays()
    for side, (down, right) in SIDES.items():
        row, col = block.row + down, block.col + right
        if 0 <= row < grid.num_blocks[0] and 0 <= col < grid.num_blocks[1]:
            shared = box.intersection(grid.block_box(row, col).grow(halo).clip(shape))
            assert shared is not None
            strips[side] = labels_YX[shared.relative_to(box).slices]
    return BlockLabels(core_YX, table, strips)


def match_labels(job: Job, block: Block, subject: Subject) -> Arrays:
    """Return the labels of a block and of its right and lower neighbours that are one object: ``pairs`` of nodes, ``agreement``.

    A node is a label anywhere in the image: the number of its block, and the label in the lower 32 bits.

    Raises:
        BlockError: the block has no labels, or a file is gone or damaged.
    """
    rule = {"overlap": overlapping_labels, "agreement": agreeing_labels}[method_of(job, subject).joins]
    rows, cols = job.grid(block.image).num_blocks
    found: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    with PartFiles(job, block.image).open(labels_kind(subject), block.plane, block.lost) as file_of:
        own = file_of(block.row, block.col)
        if own is None:
            raise BlockError("it has no labels: see its earlier failure")
        for side, theirs in OPPOSITE.items():
            row, col = block.row + SIDES[side][0], block.col + SIDES[side][1]
            neighbour = file_of(row, col) if row < rows and col < cols else None
            if neighbour is not None:
                pairs_N2, agreement_N = rule(own[side], neighbour[theirs])
                numbers = [block_number(job, block.image, block.plane, *at) for at in ((block.row, block.col), (row, col))]
                found.append((pairs_N2 | (np.array(numbers, np.int64) << 32), agreement_N))
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *(one for one, _ in found)])
    return {"pairs": pairs, "agreement": np.concatenate([np.zeros(0), *(one for _, one in found)])}


def block_number(job: Job, image: Image, plane: int, row: int, col: int) -> int:
    """Count the blocks of an image row by row and plane by plane, from 0."""
    rows, cols = job.grid(image).num_blocks
    return (plane * rows + row) * cols + col


def labels_phase(subject: Subject) -> str:
    """Name of the phase that labels."""
    return "label" if subject == "predicted" else "label_truth"


def pairs_phase(subject: Subject) -> str:
    """Name of the phase that matches labels."""
    return "match" if subject == "predicted" else "match_truth"


def ids_phase(subject: Subject) -> str:
    """Name of the phase that gives ids."""
    return "join" if subject == "predicted" else "join_truth"


def joins_truth(job: Job, image: Image) -> bool:
    """Whether the objects of an image's truth are connected components, as it has no ids."""
    return job.scores_objects and image.truth is not None and not image.truth_has_ids


def truth_parts(job: Job, image: Image) -> tuple[Any, ...]:
    """What the objects of an image's truth depend on, as plain values."""
    truth_map = job.truth_map
    assert truth_map is not None
    classes = [spec.model_dump(mode="json") for spec in truth_map.classes or ()]
    return image.truth_identity, image.truth_has_ids, classes, truth_map.num_classes, truth_map.ignore


def labels_header(image: Image) -> Header:
    """Return the header of the temporary labels."""
    return Header(image.header.shape, 1, "uint32", image.header.planes)


def labels_kind(subject: Subject) -> str:
    """Kind of the temporary files of labels."""
    return f"{subject}_labels"


def pairs_kind(subject: Subject) -> str:
    """Kind of the temporary files of pairs."""
    return f"{subject}_pairs"


def bands_kind(subject: Subject) -> str:
    """Kind of the temporary file that holds the first id of each row of blocks, and one more than the last id."""
    return f"{subject}_bands"


def ids_kind(subject: Subject) -> str:
    """Kind of the temporary files that hold the id of each label."""
    return f"{subject}_ids"


@dataclass(frozen=True)
class JoinedObjects:
    """What joining an image leaves.

    Attributes:
        objects: their number.
        lost: ids of the blocks that have no labels.
        digest: of the id of every label.
        files: files written, with their size in bytes.
    """

    objects: int
    lost: tuple[str, ...]
    digest: str
    files: Mapping[str, int]


def join_labels(job: Job, block: Block, subject: Subject) -> JoinedObjects:
    """Give every label of an image its object's id, or 0 where the object is too small or too large, and write the ids by block.

    Args:
        job: what every actor is told.
        block: the whole image; its ``lost`` are the blocks without labels.
        subject: whose objects.
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
        """Return all labels that were matched, as sorted nodes, and the set of each."""
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
        """Yield number and table of each block that has labels, of all rows of blocks or of some."""
        for place, file in self.parts.each(labels_kind(self.subject), self.block.lost, bands):
            yield block_number(self.job, self.image, *place), {name: file[name] for name in TABLE}

    def _members(self, number: int) -> tuple[NDArray[np.int64], slice]:
        """Return the labels of a block that were matched, as positions in its table, and their positions among the nodes."""
        first, last = np.searchsorted(self.nodes, [number << 32, (number + 1) << 32]).tolist()
        return (self.nodes[first:last] & 0xFFFFFFFF) - 1, slice(first, last)

    def _singles(self, number: int, table: Mapping[str, Any]) -> NDArray[np.intp]:
        """Return the positions in a block's table of objects that no other block sees and that have the right size."""
        alone = self._has_size(table["areas"])
        alone[self._members(number)[0]] = False
        return np.flatnonzero(alone)

    def _sets_of(self, band: int) -> NDArray[np.intp]:
        """Return the sets whose first pixel lies in one row of blocks and that have the right size."""
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
        """Return the class with most pixels of each set; ties go to the lowest."""
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
        block: whose plane it is.
        subject: whose objects.
        box: may reach beyond the image.
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
