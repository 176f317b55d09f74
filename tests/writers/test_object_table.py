"""Object tables: streamed, atomic, the same bytes for the same objects, and readable elsewhere."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.geometry import Box
from pipeline.statistics import measure, object_columns
from pipeline.storage import LocalStorage, MemoryStorage, Storage
from pipeline.writers import MaskMeta
from pipeline.writers._object_table import ObjectTable, read_tables, write_csv

META = MaskMeta(
    (40, 50),
    planes={"t": 2, "z": 2},
    classes=[{"name": "background"}, {"name": 'nucleus, "round"'}, {"name": "axon"}],
    pixel_size=(0.5, 0.5),
    unit="micrometer",
)


@pytest.fixture(params=["folder", "memory"])
def storage(request, tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path) if request.param == "folder" else MemoryStorage(f"memory://{tmp_path.name}")


def columns_of(seed: int, objects: int = 9) -> dict[str, np.ndarray]:
    """Measures of a random image, with ids that go on from part to part."""
    random = np.random.default_rng(seed)
    ids_YX = random.integers(0, objects + 1, (40, 50)).astype(np.int64)
    ids_YX[ids_YX > 0] += seed * objects
    ids = np.unique(ids_YX[ids_YX > 0])
    parts = measure(
        np.pad(ids_YX, 1),
        Box(0, 0, 40, 50),
        (ids, ids % 3),
        random.random((2, 40, 50)).astype(np.float32),
        ids_YX != seed * objects + 2,  # one object has no valid pixel
        None,
        (40, 50),
        seed,
    )
    return object_columns(parts, planes=META.planes, channel_names=("red", "green"), pixel_size=META.pixel_size, unit=META.unit)


def write(storage: Storage, seeds: range, key: str = "a/b.parquet") -> None:
    with ObjectTable.create(storage, key, META) as table:
        for seed in seeds:
            table.append(columns_of(seed))


def test_what_was_appended_is_read_back(storage) -> None:
    """Each call is a row group; values are the same, NaN is null, and classes have their names."""
    write(storage, range(3))
    parts = list(read_tables(storage, "a/b.parquet"))
    assert len(parts) == parquet.ParquetFile(io.BytesIO(storage.get("a/b.parquet") or b"")).num_row_groups == 3
    for seed, part in enumerate(parts):
        expected = columns_of(seed)
        assert part.column_names == list(expected)
        for name, values in expected.items():
            if name != "class":
                np.testing.assert_array_equal(part[name].to_pandas().to_numpy(values.dtype), values)
                assert part[name].null_count == np.isnan(values).sum()
        names = [META.classes[index]["name"] for index in expected["class"]]
        assert part["class"].to_pylist() == names
        assert part["intensity_mean_red"].null_count == 1
        assert part["mean_probability"].null_count == len(part)


def test_other_programs_read_the_table(tmp_path) -> None:
    """Pandas sees one table of all parts, its classes as categories."""
    write(LocalStorage(tmp_path), range(4))
    frame = pd.read_parquet(tmp_path / "a" / "b.parquet")
    assert frame["id"].tolist() == list(range(1, 37))
    assert frame["class"].dtype.name == "category"
    assert frame["touches_border"].dtype == bool


def test_columns_say_what_they_are(storage) -> None:
    """Every column has a description, those with a unit name it, and the table holds the grid."""
    write(storage, range(1))
    schema = next(read_tables(storage, "a/b.parquet")).schema
    assert not [field.name for field in schema if not field.metadata[b"description"]]
    units = {field.name: field.metadata[b"unit"].decode() for field in schema}
    expected = {
        "area_px": "pixel^2",
        "area_um2": "micrometer^2",
        "perimeter_px": "pixel",
        "perimeter_um": "micrometer",
        "equivalent_diameter_um": "micrometer",
        "centroid_y": "pixel",
        "orientation": "radian",
        "solidity": "",
        "id": "",
    }
    assert {name: units[name] for name in expected} == expected
    about = json.loads(schema.metadata[b"gigaseg"])
    assert (about["format"], about["pixel_size"], about["unit"]) == ("gigaseg.objects/1", [0.5, 0.5], "micrometer")
    assert (about["shape"], about["planes"]) == ([40, 50], {"t": 2, "z": 2})


def test_the_same_objects_give_the_same_bytes(storage) -> None:
    """Nothing in the file tells when or where it was written."""
    for key in ("one.parquet", "other.parquet"):
        write(storage, range(3), key)
    assert storage.get("one.parquet") == storage.get("other.parquet")


def test_a_table_that_fails_leaves_the_old_one(storage) -> None:
    """A file appears whole or not at all: after an error the key holds what it held, and nothing else is left."""
    write(storage, range(1))
    before = storage.get("a/b.parquet")
    with pytest.raises(RuntimeError), ObjectTable.create(storage, "a/b.parquet", META) as table:  # noqa: PT012 - the error comes while a table is written
        table.append(columns_of(1))
        raise RuntimeError
    assert storage.get("a/b.parquet") == before
    with pytest.raises(RuntimeError), ObjectTable.create(storage, "new.parquet", META):
        raise RuntimeError
    assert storage.list() == ["a/b.parquet"]


def test_an_image_without_objects(storage, tmp_path) -> None:
    """No objects: a table of no rows that has every column, also as CSV."""
    with ObjectTable.create(storage, "none.parquet", META) as table:
        table.append(columns_of(0, objects=0))
    (part,) = read_tables(storage, "none.parquet")
    assert (part.num_rows, part.column_names) == (0, list(columns_of(0)))
    write_csv(read_tables(storage, "none.parquet"), tmp_path / "none.csv")
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 1


def test_rows_that_do_not_fit_are_refused(storage) -> None:
    """Other columns than before, a class that has no name, and a table without any columns."""
    columns = columns_of(0)
    with pytest.raises(ValueError, match="schema"), ObjectTable.create(storage, "a.parquet", META) as table:  # noqa: PT012 - the second call fails
        table.append(columns)
        table.append({name: values for name, values in columns.items() if name != "solidity"})
    with pytest.raises(IndexError, match="out of bounds"), ObjectTable.create(storage, "a.parquet", META) as table:
        table.append({**columns, "class": columns["class"] + 3})
    with pytest.raises(ValueError, match="no columns"), ObjectTable.create(storage, "a.parquet", META):
        pass
    assert storage.list() == []
    with pytest.raises(FileNotFoundError):
        next(read_tables(storage, "a.parquet"))


def test_csv_holds_the_same_values(storage, tmp_path) -> None:
    """The CSV file has a header, every row, names with commas and quotes in quotes, and nothing for null."""
    write(storage, range(3))
    write_csv(read_tables(storage, "a/b.parquet"), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = pa.concat_tables(read_tables(storage, "a/b.parquet"))
    assert list(rows[0]) == table.column_names
    assert [int(row["id"]) for row in rows] == table["id"].to_pylist()
    assert [row["class"] for row in rows] == table["class"].to_pylist()
    for name in ("intensity_mean_red", "perimeter_um"):
        assert [float(row[name]) if row[name] else None for row in rows] == table[name].to_pylist()
    assert {row["touches_border"] for row in rows} <= {"true", "false"}


def test_importing_the_writers_loads_no_arrow() -> None:
    """Commands that write no table do not wait for pyarrow."""
    script = "import sys, pipeline.writers._object_table; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=False).returncode == 0
