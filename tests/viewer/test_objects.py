"""The table of objects: sorted and filtered as a whole, given page by page."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.storage import open_storage
from pipeline.viewer.objects import ObjectRows
from pipeline.writers import MaskMeta, ObjectTable

CLASSES = [{"name": "glass"}, {"name": "cell"}, {"name": "lymphocyte"}]
NUM_OBJECTS = 50


@pytest.fixture
def rows(tmp_path):
    """A table of 50 objects in five row groups, of two classes, in two planes; some have no orientation."""
    rng = np.random.default_rng(0)
    meta = MaskMeta((100, 100), planes={"z": 2}, classes=CLASSES, pixel_size=(0.5, 0.5), unit="micrometer")
    storage = open_storage(tmp_path)
    with ObjectTable.create(storage, "a.parquet", meta) as table:
        for first in range(0, NUM_OBJECTS, 10):
            ids = np.arange(first + 1, first + 11)
            area = rng.integers(10, 99, 10)
            place = {f"bbox_{name}": ids.astype(np.int32) for name in ("y0", "x0", "y1", "x1")}
            angle = np.where(ids % 7, ids / 10, np.nan)
            table.append(
                {
                    "id": ids,
                    "class": 1 + ids % 2,
                    "z": (ids > 25).astype(np.int32),
                    **place,
                    "centroid_y": ids / 2,
                    "centroid_x": ids / 4,
                    "area_px": area,
                    "area_um2": area / 4,
                    "orientation": angle,
                    "touches_border": ids % 2 == 0,
                }
            )
    return ObjectRows(storage, "a.parquet", CLASSES, {"z": 2})


def every(rows, **query):
    """All pages one after the other."""
    found = []
    while page := rows.page(offset=len(found), limit=7, **query)["rows"]:
        found += page
    return found


@pytest.mark.parametrize("descending", [False, True])
def test_pages_are_parts_of_the_sorted_table(rows, descending):
    """Each object occurs once, in order, over row groups and pages."""
    found = every(rows, sort="area_px", descending=descending)
    areas = [one["area_px"] for one in found]
    assert areas == sorted(areas, reverse=descending)
    assert sorted(one["id"] for one in found) == list(range(1, NUM_OBJECTS + 1))
    assert rows.page(sort="area_px")["total"] == rows.total == NUM_OBJECTS


@pytest.mark.parametrize("descending", [False, True])
def test_objects_without_a_value_come_last(rows, descending):
    """They are None, as JSON has no NaN."""
    angles = [one["orientation"] for one in every(rows, sort="orientation", descending=descending)]
    known = [angle for angle in angles if angle is not None]
    assert len(known) == 43
    assert angles[:43] == sorted(known, reverse=descending)


def test_a_class_is_chosen_by_its_id(rows):
    """The total counts that class alone."""
    page = rows.page(class_id=2)
    assert page["total"] == 25
    assert [(one["id"], one["class"]) for one in page["rows"]] == [(number, 2) for number in range(1, NUM_OBJECTS, 2)]
    assert rows.page(class_id=0)["total"] == 0


def test_an_object_has_its_place_and_plane(rows):
    """Found by its id without reading the other row groups."""
    found = rows.one(33)
    assert (found["id"], found["box"], found["plane"], found["y"], found["x"]) == (33, [33] * 4, 1, 16.5, 8.25)
    assert rows.one(0) is rows.one(51) is None


def test_columns_have_words_and_units(rows):
    """Places are not columns of their own."""
    columns = {one["key"]: (one["title"], one["unit"]) for one in rows.columns}
    assert columns["area_px"] == ("area", "px²")
    assert columns["area_um2"] == ("area", "µm²")
    assert columns["touches_border"] == ("touches border", "")
    assert "bbox_y0" not in columns
    with pytest.raises(InputError, match="a column of the table"):
        rows.page(sort="bbox")
