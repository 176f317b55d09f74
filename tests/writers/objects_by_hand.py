"""Objects as writers get them, made from an array of ids without the code under test."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.ndimage import find_objects

from pipeline.raster import ArrayRaster
from pipeline.writers import MaskMeta, ObjectsView

CLASSES = ({"id": 0, "name": "background", "color": "#000000"}, {"id": 1, "name": "nucleus", "color": "#e6194b"})
CLASSES += ({"id": 2, "name": "axon", "color": "#3cb44b"},)


def table_of(ids, planes=None, classes=CLASSES):
    """The table of dense ids ([planes...,] Y, X): even ids are axons, the others nuclei."""
    stack = ids.reshape(-1, *ids.shape[-2:])
    rows = []
    for plane, ids_YX in enumerate(stack):
        for number, box in enumerate(find_objects(ids_YX.astype(np.int64)), 1):
            if box is not None:
                rows.append((number, plane, box[0].start, box[1].start, box[0].stop, box[1].stop))
    rows = np.array(sorted(rows), np.int64).reshape(-1, 6)
    sizes = tuple((planes or {}).values())
    at = dict(zip(planes or {}, np.unravel_index(rows[:, 1], sizes), strict=True)) if sizes else {}
    names = pa.array([str(spec["name"]) for spec in classes], pa.string())
    area = np.bincount(ids.ravel().astype(np.int64), minlength=len(rows) + 1)[rows[:, 0]]
    columns = {
        "id": rows[:, 0],
        "class": pa.DictionaryArray.from_arrays(np.where(rows[:, 0] % 2, 1, 2).astype(np.int32), names),
        **{axis: index.astype(np.int32) for axis, index in at.items()},
        **{name: rows[:, 2 + at].astype(np.int32) for at, name in enumerate(("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"))},
        "area_px": area.astype(np.int64),
        "touches_border": (rows[:, 2] == 0) | (rows[:, 3] == 0),
        "mean_probability": pa.array(np.full(len(rows), np.nan), from_pandas=True),
        "intensity_mean_0": area / 7.0,
    }
    return pa.table(columns)


def view_of(ids, labels=None, rows=1000, **meta):
    """Objects of ids ([planes...,] Y, X); the table comes in parts of some rows, and at least one part."""
    meta = MaskMeta(ids.shape[-2:], dtype=ids.dtype.name, classes=CLASSES, holds_ids=True, **meta)
    table = table_of(ids, meta.planes)
    parts = [table.slice(start, rows) for start in range(0, max(1, table.num_rows), rows)]
    return ObjectsView(labels or ArrayRaster(ids, meta.header), meta, table.num_rows, lambda: iter(parts), "objects/a.parquet")


def in_order(labels_YX):
    """Ids 1..n in the order of the first pixel of each label, row by row."""
    found, first, at = np.unique(labels_YX, return_index=True, return_inverse=True)
    numbers = np.zeros(len(found), np.uint32)
    numbers[np.argsort(np.where(found == 0, -1, first))] = np.arange(len(found)) + (found[0] != 0)
    return numbers[at].reshape(labels_YX.shape)


def cells(shape, count, radius=12, seed=0):
    """Many touching cells."""
    from skimage.segmentation import expand_labels

    rng = np.random.default_rng(seed)
    seeds_YX = np.zeros(shape, np.int32)
    seeds_YX[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = np.arange(1, count + 1)
    return in_order(expand_labels(seeds_YX, radius))
