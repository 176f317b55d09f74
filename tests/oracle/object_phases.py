"""The joining of objects across blocks, in this process and on arrays, and what one pass over the whole image gives."""

from __future__ import annotations

import random
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.config import Recipe
from pipeline.engine import Job, PartFiles
from pipeline.engine.object_ids import join_labels
from pipeline.engine.objects import ids_kind, label_block, labels_kind, match_labels, pairs_kind
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.instances import Region
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.records import Block
from pipeline.statistics import count_objects, pair_ids
from pipeline.tiling import connected_sets

STRUCTURES = {4: ndimage.generate_binary_structure(2, 1), 8: ndimage.generate_binary_structure(2, 2)}
MEMORY = "/dev/shm"  # noqa: S108 - the files are small and short-lived; where there is no such folder, the disk does


class CutImage:
    """A mask (Y, X) or (T, Y, X) that is cut into square blocks, and the job that tells its objects apart."""

    def __init__(self, mask, block, method, folder, order=None, classes=None, probs_KYX=None):
        self.mask_TYX = mask if mask.ndim == 3 else mask[None]
        self.order, self.probs_KYX = order, probs_KYX
        classes = classes or list(range(1, int(mask.max(initial=1)) + 1))
        header = Header(self.mask_TYX.shape[1:], 1, "uint8", {"t": len(mask)} if mask.ndim == 3 else {})
        self.image = Image(0, "a", "/a.tif", header, {"name": "auto"})
        self.job = Job(folder, Recipe(core=block, block=block), instances=build("instances", method), object_classes=classes)
        self.grid, self.parts = self.job.grid(self.image), PartFiles(self.job, self.image)
        self.whole = Block("join", self.image, 0, 0, 0, Box(0, 0, *header.shape))

    def blocks(self, phase):
        """All blocks of a phase, shuffled where an order is asked for."""
        rows, cols = self.grid.num_blocks
        places = [(plane, row, col) for plane in range(len(self.mask_TYX)) for row in range(rows) for col in range(cols)]
        if self.order is not None:
            random.Random(f"{self.order}{phase}").shuffle(places)
        return [Block(phase, self.image, *place, self.grid.block_box(*place[1:])) for place in places]

    def join(self):
        """Label, match and join all blocks; return the id of every pixel, of the mask's shape, and what joining left."""
        job, method, labels = self.job, self.job.instances, {}
        for block in self.blocks("label"):
            box = block.box.grow(method.halo).clip(self.image.header.shape)
            seen = Region(self.mask_TYX[block.plane][box.slices], job.object_classes, self._probs(box))
            found = label_block(job, block, box, method.label(seen), method.halo)
            labels[block.id] = found.core_YX
            self.parts.write(labels_kind("predicted"), block, {**found.table, **found.strips})
        for block in self.blocks("match"):
            self.parts.write(pairs_kind("predicted"), block, match_labels(job, block, "predicted"))
        joined = join_labels(job, self.whole, "predicted")
        ids_TYX = np.zeros(self.mask_TYX.shape, np.int64)
        for block in self.blocks("measure"):
            with self.parts.open(ids_kind("predicted"), block.plane) as file_of:
                ids_TYX[block.plane][block.box.slices] = np.append(0, file_of(block.row, block.col)["ids"])[labels[block.id]]
        return ids_TYX, joined

    def _probs(self, box):
        return None if self.probs_KYX is None else self.probs_KYX[(slice(None), *box.slices)]


def joined(mask, block, method, **options):
    """Ids of every pixel, of the mask's shape, joined across blocks."""
    return joined_with_digest(mask, block, method, **options)[0]


def joined_with_digest(mask, block, method, **options):
    with scratch() as folder:
        ids_TYX, found = CutImage(mask, block, method, folder, **options).join()
    assert ids_TYX.max(initial=0) == found.objects
    return ids_TYX.reshape(mask.shape), found.digest


@contextmanager
def scratch():
    """A folder for the files of one image."""
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder:
        yield folder


def components(mask, connectivity=8, min_area=0, max_area=None, classes=None):
    """Connected components of each class and plane by ``scipy.ndimage.label``, numbered by their first pixel."""
    ids, count = np.zeros(mask.shape, np.int64), 0
    for plane_YX, ids_YX in zip(mask if mask.ndim == 3 else [mask], ids if ids.ndim == 3 else [ids], strict=True):
        for class_id in classes or range(1, int(mask.max(initial=1)) + 1):
            found_YX, found = ndimage.label(plane_YX == class_id, STRUCTURES[connectivity])
            ids_YX[found_YX > 0] = found_YX[found_YX > 0] + count
            count += found
    return numbered(ids, min_area, max_area)


def numbered(ids, min_area=0, max_area=None):
    """The same objects as 1, 2, .. in the order of their first pixels, without those of the wrong size."""
    kept, first, areas = np.unique(ids, return_index=True, return_counts=True)
    fits = (kept > 0) & (areas >= min_area) & (areas <= (ids.size if max_area is None else max_area))
    kept, first = kept[fits], first[fits]
    numbers = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    numbers[kept[np.argsort(first)]] = np.arange(1, len(kept) + 1)
    return numbers[ids]


def cells(side, spacing, seed):
    """Dense ellipses, most of which touch: ids (Y, X), one cell on each point of a jittered grid."""
    rng = np.random.default_rng(seed)
    ids_YX, nearest_YX = np.zeros((side, side), np.int64), np.full((side, side), np.inf)
    y, x = np.mgrid[:side, :side]
    for number, (row, col) in enumerate(np.ndindex(side // spacing, side // spacing), 1):
        centre_y, centre_x = (np.array([row, col]) + 0.5 + rng.normal(0, 0.12, 2)) * spacing
        radius, ratio, angle = spacing * rng.uniform(0.4, 0.62), rng.uniform(0.8, 1), rng.uniform(0, np.pi)
        low = np.maximum(0, np.array([centre_y, centre_x]) - radius - 2).astype(int)
        around = tuple(slice(at, at + 2 * int(radius) + 6) for at in low)
        down, right = y[around] - centre_y, x[around] - centre_x
        along, across = down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)
        distance = (along / radius) ** 2 + (across / radius / ratio) ** 2
        inside = (distance <= 1) & (distance < nearest_YX[around])
        nearest_YX[around][inside], ids_YX[around][inside] = distance[inside], number
    return ids_YX


def regions(mask_YX, block, method):
    """Box of each block, box of its region, and the labels of the region."""
    made = build("instances", method)
    for core in CutImage(mask_YX, block, method, "").grid.blocks():
        box = core.grow(made.halo).clip(mask_YX.shape)
        yield core, box, made.label(Region(mask_YX[box.slices], (1,))).labels_YX.astype(np.int64)


def joined_where_touching(mask_YX, block, method):
    """The ids of programs that join labels of two blocks where they touch; not what we do."""
    ids_YX = np.zeros(mask_YX.shape, np.int64)
    for core, box, labels_YX in regions(mask_YX, block, method):
        own_YX = labels_YX[core.relative_to(box).slices]
        ids_YX[core.slices] = np.where(own_YX > 0, own_YX + ids_YX.max(), 0)
    seams = [range(block, side, block) for side in mask_YX.shape]
    pairs_N2 = np.concatenate([*(ids_YX[at - 1 : at + 1].T for at in seams[0]), *(ids_YX[:, at - 1 : at + 1] for at in seams[1])])
    members, sets = connected_sets(pairs_N2[(pairs_N2 > 0).all(axis=1)])
    first_of_set = members[np.unique(sets, return_index=True)[1]]
    new = np.arange(ids_YX.max() + 1)
    new[members] = first_of_set[sets]
    return numbered(new[ids_YX])


def kept_by_centroid(mask_YX, block, method):
    """The ids of programs that keep what has its centroid in a block, and forget the rest; not what we do."""
    ids_YX, count = np.zeros(mask_YX.shape, np.int64), 0
    for core, box, labels_YX in regions(mask_YX, block, method):
        for label, (y, x) in enumerate(ndimage.center_of_mass(labels_YX > 0, labels_YX, range(1, labels_YX.max() + 1)), 1):
            if core.y0 <= y + box.y0 < core.y1 and core.x0 <= x + box.x0 < core.x1:
                count += 1
                ids_YX[box.slices][labels_YX == label] = count
    return numbered(ids_YX)


def compared(ids_YX, whole_YX):
    """Objects of the second, and how many of them the first has pixel for pixel, splits and merges."""
    pairs_N3 = pair_ids(ids_YX, whole_YX, np.ones(ids_YX.shape, np.bool_))
    found, wanted = (np.unique(one[one > 0]) for one in (ids_YX, whole_YX))
    objects = [(one, np.ones(len(one), np.int32)) for one in (found, wanted)]
    matches = count_objects(pairs_N3, *objects)[1].matches
    both_N3 = pairs_N3[(pairs_N3[:, :2] > 0).all(axis=1)]
    areas = [np.bincount(one.ravel())[both_N3[:, side]] for side, one in enumerate((ids_YX, whole_YX))]
    same = int(((both_N3[:, 2] == areas[0]) & (both_N3[:, 2] == areas[1])).sum())
    return {"objects": matches.truth, "found": matches.predicted, "same": same, "splits": matches.splits, "merges": matches.merges}
