"""Objects of an image, from the labels of its blocks to ids that hold everywhere.

::

    label  a block and its halo ──▶ labels of its own pixels, and of the pixels that its neighbours see as well
    match  two neighbours ──▶ pairs of labels that are one object
    join   all pairs ──▶ sets of labels, area limits, and the id of every label

Ids are 1, 2, ... in the order of the first pixel, row by row and plane by plane: they do not depend on the order of the work.
Objects are ``predicted``, or ``truth``: connected components of the classes of a truth without ids. Memory grows with the labels of one
row of blocks, and with the objects on block borders.
"""

from __future__ import annotations

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
from pipeline.tiling import agreeing_labels, overlapping_labels

__all__ = [
    "TABLE",
    "Arrays",
    "BlockLabels",
    "Subject",
    "bands_kind",
    "block_number",
    "ids_kind",
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
"""The four neighbours of a block: steps in row and column of blocks."""
OPPOSITE = {"right": "left", "down": "up"}
"""The neighbours that a block is matched with, so that each pair is matched once, and the side on which the block lies for them."""


def method_of(job: Job, subject: Subject) -> Instances:
    """Return the method: that of the YAML for predicted objects, connected components for a truth without ids."""
    if subject == "predicted":
        assert job.instances is not None
        return job.instances
    method: Instances = build("instances", {"name": "components"})
    return method


def read_region(resources: Resources, block: Block, subject: Subject) -> tuple[Box, Region]:
    """Read the region of a block, which a method labels, and its box. A truth that cannot be used has no objects.

    Raises:
        BlockError: the stored mask, maps or probabilities are damaged.
    """
    job, image = resources.job, block.image
    method = method_of(job, subject)
    box = block.box.grow(method.halo).clip(image.header.shape)
    if subject == "truth":
        truth_YX, _ = read_truth(resources, replace(block, box=box))
        if truth_YX is None:  # counting the mask reports why
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
        core_YX: labels of the block's own pixels, uint32.
        table: for the labels 1..N: ``areas`` (pixels of the block), ``firsts`` (the first of them, counted row by row and plane by plane;
            -1: none), ``classes``, and ``whole`` (whether the region holds the whole object).
        strips: labels of the pixels that block and neighbour both see, by side; a side without a neighbour has none.
    """

    core_YX: NDArray[np.uint32]
    table: Arrays
    strips: Arrays


def label_block(job: Job, block: Block, box: Box, labels: Labels, halo: int) -> BlockLabels:
    """Return the labels of a block, from those of its region ``box``: the block and its ``halo``, clipped at the image."""
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
    """Match the labels of a block with those of its right and lower neighbours: ``pairs`` of nodes that are one object, and ``agreement``.

    A node names a label in the whole image: the number of its block in the upper 32 bits, and the label in the lower ones.

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


def joins_truth(job: Job, image: Image) -> bool:
    """Whether the objects of an image's truth are connected components, as it has no ids."""
    return job.scores_objects and image.truth is not None and not image.truth_has_ids


def truth_parts(job: Job, image: Image) -> tuple[Any, ...]:
    """Return what the truth objects of an image depend on, as plain values for a key."""
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
