"""Zarr and OME-Zarr: zips, plates, series, scale, names, colours, nodata, codecs, and metadata that is wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import imagecodecs
import numcodecs
import numpy as np
import pytest
import zarr
from ome_zarr_models.v04.hcs import HCS as HCS04
from ome_zarr_models.v05.hcs import HCS as HCS05

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.inputs.identity import identify
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from pipeline.readers import known_suffixes
from pipeline.storage import MemoryStorage
from tests.readers.zarr_stores import array, edit_json, group, header, image, members, noise, plate, to_memory, whole, zip_store

ATTRIBUTES = {2: ".zattrs", 3: "zarr.json"}
SUITES = sorted(Path(os.environ.get("GIGASEG_TEST_DATA", "no test data"), "formats/ome-zarr").glob("spec-suites-*/*.json"))


def name_of(value):
    """The name of a case: its text, without the set whose order differs from process to process."""
    return re.sub(r"_tunable_attrs=\{.*?\}, ", "", str(value))


def refused(path, *says, **options):
    """Assert that a path is refused by its name, and that the message says this."""
    with pytest.raises(InputError) as error:
        header(path, **options)
    for text in (str(path), *says):
        assert text in str(error.value)


# Zips


@pytest.mark.parametrize("suffix", [".ome.zarr.zip", ".zarr.zip", ".ozx"])
@pytest.mark.parametrize(
    ("zarr_format", "options"),
    [
        (2, {}),
        (3, {}),
        (3, {"folder": "a.ome.zarr/"}),
        (2, {"compression": zipfile.ZIP_DEFLATED}),
        (3, {"separator": "\\", "folder": "b\\"}),
    ],
)
def test_zipped_stores(suffix, zarr_format, options, tmp_path):
    """A store in a zip, at its root or in one folder, reads as the folder does: pixels, scale, levels, labels inside."""
    pixels_CYX = noise(2, 70, 50)
    store = image(tmp_path / "a.ome.zarr", pixels_CYX, pixels_CYX[:, ::2, ::2], axes="cyx", zarr_format=zarr_format)
    image(store / "labels" / "nuclei", pixels_CYX[0] % 7, zarr_format=zarr_format, **{"image-label": {"source": {"image": "../../"}}})
    path = zip_store(store, tmp_path / f"a{suffix}", **options)
    assert header(path) == header(store)
    for level in (0, 1):
        np.testing.assert_array_equal(whole(path, level=level), pixels_CYX[:, :: level + 1, :: level + 1])
    np.testing.assert_array_equal(whole(path / "labels" / "nuclei")[0], pixels_CYX[0] % 7)
    assert max((known for known in known_suffixes() if path.name.endswith(known)), key=len) == suffix  # what is cut from a NAME
    refused(path / "labels" / "cells", "nothing at this path in the zip")


def test_zip64_and_sharded(tmp_path):
    """A zip in the form of RFC-9, ZIP64 and shards, is read by region: a box reads some bytes of a shard, not the shard."""
    pixels_YX = noise(256, 256)
    store = group(tmp_path / "a.ome.zarr", 3, multiscales=[{"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "s0"}]}])
    zarr.create_array(str(store / "s0"), data=pixels_YX, chunks=(64, 64), shards=(256, 256), compressors=None)
    path = tmp_path / "a.ozx"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(store.rglob("*"), key=lambda file: file.name != "zarr.json"):
            if file.is_file():
                with packed.open(file.relative_to(store).as_posix(), "w", force_zip64=True) as member:
                    member.write(file.read_bytes())
        packed.comment = b'{"ome": {"version": "0.5"}}\0'
    np.testing.assert_array_equal(whole(path)[0], pixels_YX)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        read = []
        reads = zipfile.ZipExtFile.read
        zipfile.ZipExtFile.read = lambda self, size=-1: read.append(reads(self, size)) or read[-1]
        try:
            raster.read(Box(0, 0, 60, 60))
        finally:
            zipfile.ZipExtFile.read = reads
    assert sum(map(len, read)) < 64 * 64 + 1000  # one chunk and the index


def test_threads_share_a_zip(tmp_path):
    """Threads that read rasters of one zip at once get what one thread gets."""
    pixels_YX = noise(90, 90)
    path = zip_store(image(tmp_path / "a.zarr", pixels_YX), tmp_path / "a.zarr.zip")

    def read(number):
        with build("readers", {"name": "auto"}).open(str(path)) as raster:
            box = Box(number, number, 50 + number, 40 + number)
            return np.array_equal(raster.read(box)[0], pixels_YX[box.slices])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(40)))


def test_a_zip_that_is_replaced(tmp_path):
    """A zip that is written anew is read anew, and has another identity."""
    path = zip_store(image(tmp_path / "a.zarr", noise(20, 20)), tmp_path / "a.zarr.zip")
    before = identify(str(path / "0"), {}, build("readers", {"name": "zarr"}))[0], whole(path)[0]
    zip_store(image(tmp_path / "b.zarr", noise(20, 20) + 1), path)
    np.testing.assert_array_equal(whole(path)[0], before[1] + 1)
    assert identify(str(path / "0"), {}, build("readers", {"name": "zarr"}))[0] != before[0]


def test_damaged_zips(tmp_path):
    """No zip, a part of one, an encrypted one, one without a store or with two: each is refused by name and says what it is."""
    path = zip_store(image(tmp_path / "a.zarr", noise(20, 20)), tmp_path / "a.zarr.zip")
    content = path.read_bytes()
    (tmp_path / "cut.ozx").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "cut.ozx", "no zip, or a damaged one")
    (tmp_path / "text.zarr.zip").write_text("no zip at all")
    refused(tmp_path / "text.zarr.zip", "no zip, or a damaged one")
    flag = content.index(b"PK\x01\x02") + 8
    (tmp_path / "locked.ozx").write_bytes(content[:flag] + b"\1" + content[flag + 1 :])
    refused(tmp_path / "locked.ozx", "encrypted")
    with zipfile.ZipFile(tmp_path / "other.ozx", "w") as packed:
        packed.writestr("readme.txt", "no store")
    refused(tmp_path / "other.ozx", "without Zarr metadata")
    with zipfile.ZipFile(tmp_path / "two.ozx", "w") as packed:
        for name in ("a", "b"):
            packed.writestr(f"{name}/.zgroup", '{"zarr_format": 2}')
    refused(tmp_path / "two.ozx", "a or b")
    damaged = bytearray(content)
    start = content.index((tmp_path / "a.zarr" / "0" / "0.0").read_bytes())
    damaged[start + 30] ^= 255
    (tmp_path / "damaged.ozx").write_bytes(damaged)
    with pytest.raises(BlockError, match=r"damaged\.ozx: rows"):
        whole(tmp_path / "damaged.ozx")


def test_zip_bombs(tmp_path):
    """A chunk or a metadata file that unpacks to 128 MiB is refused before it is unpacked."""
    store = image(tmp_path / "a.zarr", noise(20, 20))
    bombs = {"chunk": "0/0.0", "metadata": ".zattrs"}
    for kind, name in bombs.items():
        path = zip_store(store, tmp_path / f"{kind}.ozx")
        with zipfile.ZipFile(path) as packed:
            files = {one: packed.read(one) for one in packed.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for one in sorted(set(files) - {name}):
                packed.writestr(one, files[one])
            with packed.open(name, "w") as member:
                for _ in range(128):
                    member.write(bytes(1 << 20))
        tracemalloc.start()
        with pytest.raises((InputError, BlockError), match="134217728 bytes in the zip"):
            whole(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
        tracemalloc.stop()


def test_a_folder_named_like_a_zip(tmp_path):
    """A folder is a folder and a zip a zip, whatever they are called."""
    store = image(tmp_path / "a.ozx", noise(20, 20))
    np.testing.assert_array_equal(whole(store)[0], noise(20, 20))
    with zipfile.ZipFile(zip_store(store, tmp_path / "a.zarr")) as packed:
        assert packed.namelist()
    np.testing.assert_array_equal(whole(tmp_path / "a.zarr")[0], noise(20, 20))


# Plates and series


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["folder", "zip", "memory", "zip in memory"])
def test_plates(zarr_format, kind, tmp_path):
    """Every field of a plate is an image named by well and field, in the plate's order, wherever the plate lies."""
    store = plate(tmp_path / "p.zarr", ["B/2", "A/1", "A/10"], 2, zarr_format)
    model = (HCS04 if zarr_format == 2 else HCS05).from_zarr(zarr.open_group(str(store), mode="r"))
    path = zip_store(store, tmp_path / "p.ozx") if "zip" in kind else store
    path = to_memory(path, f"memory://plates{zarr_format}") if "memory" in kind else path
    wells = (model.attributes if zarr_format == 2 else model.attributes.ome).plate.wells
    expected = [f"{well.path}/{field}" for well in wells for field in (0, 1)]
    assert members(path) == members(path, series=1) == expected == ["B/2/0", "B/2/1", "A/1/0", "A/1/1", "A/10/0", "A/10/1"]
    reader = {"name": "auto", "series": 1}
    for member, value in zip(build("readers", reader).members(str(path)), (0, 1, 10, 11, 20, 21), strict=True):
        assert member.path == f"{path}/{member.name}"
        assert (whole(member.path, **{**reader, **member.options, "name": "zarr"}) == value).all()
    assert members(f"{path}/A/1") == ["0", "1"]
    refused(path, "a plate", f"{path}/B/2/0")
    refused(f"{path}/A/1", "a well", f"{path}/A/1/0")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plate_with_gaps(zarr_format, tmp_path):
    """A field or a well that is not there stays in the list, and opening it names it; the others are read."""
    store = plate(tmp_path / "p.zarr", ["A/1", "A/2", "A/3"], 2, zarr_format)
    shutil.rmtree(store / "A/1/1")
    shutil.rmtree(store / "A/2")
    shutil.rmtree(store / "A/3/0/0")
    assert members(store) == ["A/1/0", "A/1/1", "A/2", "A/3/0", "A/3/1"]
    refused(store / "A/1/1", "no file")
    refused(store / "A/2", "no file")
    refused(store / "A/3/0", "no array at '0'")
    assert (whole(store / "A/3/1") == 21).all()


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_plates_are_listed_by_one_read_a_well(kind, tmp_path, monkeypatch):
    """96 wells of 4 fields are 384 images; one file a well is read, and of no field."""
    wells = [f"{row}/{column}" for row in "ABCDEFGH" for column in range(1, 13)]
    store = plate(tmp_path / "p.zarr", wells, 0)
    for well in wells:
        edit_json(store / well / ".zattrs", lambda found: found["well"].update(images=[{"path": str(field)} for field in range(4)]))
    path, read = str(store), []
    if kind == "memory":
        path, get = to_memory(store, "memory://wells"), MemoryStorage.get
        monkeypatch.setattr(MemoryStorage, "get", lambda self, key, *rest: read.append(f"{self.url}/{key}") or get(self, key, *rest))
    assert members(path) == [f"{well}/{field}" for well in wells for field in range(4)]
    assert len(read) <= (4 + len(wells) if kind == "memory" else 0)


@pytest.mark.parametrize("where", ["plate", "well"])
@pytest.mark.parametrize("bad", ["../../etc", "/etc", "A//1", "", None, 7])
def test_plates_that_lead_out(where, bad, tmp_path):
    """A well or a field whose path leads out of the plate is refused, and nothing outside is read."""
    store = plate(tmp_path / "p.zarr", ["A/1"], 1)
    if where == "plate":
        edit_json(store / ".zattrs", lambda found: found["plate"]["wells"][0].update(path=bad))
    else:
        edit_json(store / "A/1/.zattrs", lambda found: found["well"]["images"][0].update(path=bad))
    with pytest.raises(InputError, match="a path inside this group"):
        members(store)
    refused(store, "a path inside this group")


def series(path, zarr_format=2, names=("small", "large", "middle"), listed=True):
    """A bioformats2raw store of three images; the second is the largest."""
    group(path, zarr_format, **{"bioformats2raw.layout": 3})
    if listed:
        group(path / "OME", zarr_format, series=["0", "1", "2"])
    for index, (name, size) in enumerate(zip(names, (10, 40, 20), strict=True)):
        image(path / str(index), np.full((size, 30), index, np.uint8), zarr_format=zarr_format, content={"name": name} if name else {})
    return path


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("listed", [True, False])
def test_series_of_bioformats2raw(zarr_format, listed, tmp_path):
    """Of several series the largest is read with a note; an index or a name chooses; ``all`` makes each an image."""
    path = series(tmp_path / "a.zarr", zarr_format, listed=listed)
    assert (header(path).series, header(path).shape) == ("large", (40, 30))
    assert "3 images" in header(path).notes[0]
    assert "reader.series" in header(path).notes[0]
    assert (header(path, series=0).shape, header(path, series="Middle").shape, header(path, series=0).notes) == ((10, 30), (20, 30), ())
    refused(path, "'small', 'large' or 'middle'", "Did you mean 'middle'?", series="midle")
    refused(path, "0..2", series=3)
    assert members(path) == []
    assert members(path, series="all") == ["small", "large", "middle"]
    for index, member in enumerate(build("readers", {"name": "auto", "series": "all"}).members(str(path))):
        assert (whole(member.path, **member.options) == index).all()


def test_names_of_series(tmp_path):
    """Series whose names say nothing are named by their paths; one series is the image, named or not."""
    path = series(tmp_path / "a.zarr", names=("same", "same", ""))
    assert members(path, series="all") == ["0", "1", "2"]
    assert (header(path, series="1").shape, header(path).series) == ((40, 30), "1")
    shutil.rmtree(path / "1")
    shutil.rmtree(path / "2")
    edit_json(path / "OME/.zattrs", lambda found: found.update(series=["0"]))
    assert (header(path).shape, header(path).series, header(path).notes) == ((10, 30), "", ())
    refused(path, "0..0", series=1)
    refused(array(tmp_path / "b.zarr", noise(9, 9)).store.root, "0..0", series=1)


def test_several_multiscales_in_a_group(tmp_path):
    """Two multiscale images of one group are two series."""
    path = image(tmp_path / "a.zarr", noise(20, 20), content={"name": "raw"})
    array(path / "fine", noise(50, 50), 2)
    fine = {"name": "fine", "axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "fine"}]}
    edit_json(path / ".zattrs", lambda found: found["multiscales"].append(fine))
    assert (header(path).series, header(path).shape, header(path, series="raw").shape) == ("fine", (50, 50), (20, 20))
    assert members(path, series="all") == ["raw", "fine"]


def test_groups_that_are_no_image(tmp_path):
    """A group of several arrays, or of label images, is refused with what it holds; folders of other formats are not claimed."""
    path = group(tmp_path / "a.zarr")
    refused(path, "holds nothing")
    array(path / "raw", noise(9, 9), 2)
    image(path / "labels" / "cells", noise(9, 9))
    group(path / "labels", labels=["cells"])
    refused(path, f"{path}/labels, {path}/raw")
    refused(path / "labels", "a group of label images", f"{path}/labels/cells")
    for suffix in (".n5", ".h5", ".ims", ".hdf5", ".zip"):
        assert not build("readers", {"name": "zarr"}).claims(f"/data/a{suffix}")


# Metadata that is old, damaged or absurd


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_stale_consolidated_metadata(zarr_format, tmp_path):
    """A level that was added after the metadata was consolidated is found, and so is metadata that has changed since."""
    path = image(tmp_path / "a.zarr", noise(40, 40), zarr_format=zarr_format)
    zarr.consolidate_metadata(str(path), zarr_format=zarr_format)
    array(path / "1", noise(20, 20), zarr_format)

    def add(found):
        content = found["multiscales"][0] if zarr_format == 2 else found["attributes"]["ome"]["multiscales"][0]
        content["datasets"].append({"path": "1", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]})

    edit_json(path / ATTRIBUTES[zarr_format], add)
    assert header(path).levels == ((40, 40), (20, 20))
    assert header(path, level=1).pixel_size == (1.0, 1.0)
    np.testing.assert_array_equal(whole(path, level=1)[0], noise(20, 20))


def test_one_read_a_level_of_a_remote_store(tmp_path, monkeypatch):
    """Opening an image far away costs one read a level besides those of its group."""
    store, read, get = image(tmp_path / "a.zarr", *[noise(40, 40)] * 5, zarr_format=3), [], MemoryStorage.get
    url = to_memory(store, "memory://reads")
    monkeypatch.setattr(MemoryStorage, "get", lambda self, key, *rest: read.append(f"{self.url}/{key}") or get(self, key, *rest))
    header(url)
    assert sorted(read) == [*(f"{url}/{level}/zarr.json" for level in range(5)), f"{url}/zarr.json"]


def test_missing_levels(tmp_path):
    """Levels that the metadata lists and nobody stored are all named; thousands are not listed one by one."""
    path = image(tmp_path / "a.zarr", *[noise(20, 20)] * 4)
    shutil.rmtree(path / "1")
    (path / "3" / ".zarray").unlink()
    refused(path, "no array at '1', '3'")
    edit_json(path / ".zattrs", lambda found: found["multiscales"][0].update(datasets=[{"path": f"x{one}"} for one in range(500)]))
    refused(path, "'x7' and 492 more")
    edit_json(path / ".zattrs", lambda found: found["multiscales"][0].update(datasets=[{"path": "0"}] * 5000))
    refused(path, "5000 levels")


@pytest.mark.parametrize("bad", ["../b.zarr/0", "/etc", "..", "", None, "a\0b", ["0"]])
def test_levels_that_lead_out(bad, tmp_path):
    """A dataset whose path leads out of its image is refused."""
    path = image(tmp_path / "a.zarr", noise(9, 9))
    image(tmp_path / "b.zarr", noise(9, 9))
    edit_json(path / ".zattrs", lambda found: found["multiscales"][0]["datasets"][0].update(path=bad))
    refused(path, "a path inside this group")


def test_many_levels_in_any_order(tmp_path):
    """Hundreds of levels open; levels are counted from the largest, wherever the metadata lists it."""
    path = image(tmp_path / "a.zarr", noise(10, 20), noise(40, 80), noise(20, 40))
    assert header(path).levels == ((40, 80), (20, 40), (10, 20))
    np.testing.assert_array_equal(whole(path, level=1)[0], noise(20, 40))
    edit_json(path / ".zattrs", lambda found: found["multiscales"][0].update(datasets=[{"path": "0"}] * 600))
    assert len(header(path, level=599).levels) == 600


def test_absurd_shapes(tmp_path):
    """An array of two million pixels a side opens without memory for them; 10^9 a side or planes, no pixels or no axes are refused."""
    path = image(tmp_path / "a.zarr", noise(16, 16))
    edit_json(path / "0" / ".zarray", lambda found: found.update(shape=[2 * 10**6, 2 * 10**6]))
    tracemalloc.start()
    assert header(path).shape == (2 * 10**6, 2 * 10**6)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        np.testing.assert_array_equal(raster.read(Box(2 * 10**6 - 9, 2 * 10**6 - 9, 2 * 10**6, 2 * 10**6)), np.zeros((1, 9, 9)))
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()
    for shape, chunks, says in [
        ([10**9, 16, 16], [1, 16, 16], "1048576"),
        ([0, 16, 16], [1, 16, 16], "without pixels"),
        ([], [], "a single number"),
        ([16, 16, 16], [1, 0, 16], "chunks of 1 x 0 x 16"),
        ([-1, 16, 16], [1, 16, 16], "0.zarr"),
    ]:
        path = tmp_path / f"{len(shape)}{max([*shape, 0])}{min([*chunks, 0])}0.zarr"
        path.mkdir(exist_ok=True)
        content = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "|u1", "compressor": None, "fill_value": 0, "order": "C"}
        (path / ".zarray").write_text(json.dumps({**content, "filters": None}))
        refused(path, says, axes="zyx" if shape else None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ('{"multiscales": [{"axes"', "cannot be read"),
        ("[" * 100_000 + "]" * 100_000, "cannot be read"),
        ('{"a":' * 50_000, "cannot be read"),
        ("[1, 2]", "a list"),
        ('"text"', "a str"),
        ("\xff", "cannot be read"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damaged_metadata(text, says, zarr_format, tmp_path):
    """Metadata that is cut, nested without end, or no object is refused by the name of its file."""
    path = image(tmp_path / "a.zarr", noise(9, 9), zarr_format=zarr_format)
    (path / ATTRIBUTES[zarr_format]).write_bytes(text.encode("latin-1"))
    refused(path, says, ATTRIBUTES[zarr_format])


def test_endless_metadata(tmp_path):
    """A metadata file of a gigabyte is refused before it is parsed."""
    path = image(tmp_path / "a.zarr", noise(9, 9))
    with (path / ".zattrs").open("wb") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    refused(path, "more than 64 MiB of metadata")
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": 7},
        {"multiscales": [7]},
        {"multiscales": [{"datasets": 7}]},
        {"multiscales": [{"datasets": [7]}]},
        {"multiscales": [{"datasets": [{"path": "0"}], "axes": 7}]},
        {"multiscales": [{"datasets": [{"path": "0"}], "axes": ["y", "x", "z"]}]},
        {"multiscales": [{"datasets": [{"path": "0", "coordinateTransformations": 7}], "axes": ["y", "x"]}]},
        {"plate": 7},
        {"plate": {"wells": 7}},
        {"plate": {"wells": [7]}},
        {"bioformats2raw.layout": 3},
    ],
)
def test_metadata_of_wrong_types(attributes, tmp_path):
    """Numbers in place of lists are refused by the store's name, by members as by open."""
    path = image(tmp_path / "a.zarr", noise(9, 9))
    (path / ".zattrs").write_text(json.dumps(attributes))
    refused(path)
    try:
        assert members(path, series="all") == []
    except InputError as error:
        assert str(path) in str(error)  # noqa: PT017 - both ends are allowed


def test_links(tmp_path):
    """A level, a file or a whole store may be a link, as data managers make them; links in a circle are refused, at once."""
    path = image(tmp_path / "a.zarr", noise(40, 40))
    (path / "0").rename(tmp_path / "elsewhere")
    (path / "0").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".zarray").rename(tmp_path / "object")
    (tmp_path / "elsewhere" / ".zarray").symlink_to(tmp_path / "object")
    (tmp_path / "b.zarr").symlink_to(path)
    np.testing.assert_array_equal(whole(tmp_path / "b.zarr")[0], noise(40, 40))
    (path / "0").unlink()
    (path / "0").symlink_to(path / "0")
    refused(path, "no array at '0'")
    (path / "0").unlink()
    (path / "0").symlink_to(path)
    refused(path, "no array at '0'")
    circle = group(tmp_path / "c.zarr", **{"bioformats2raw.layout": 3})
    for name in ("0", "1"):
        (circle / name).symlink_to(circle)
    refused(circle, "not one image")


@pytest.mark.skipif(not SUITES, reason="GIGASEG_TEST_DATA names no folder with the suites of the specification")
@pytest.mark.parametrize("suite", SUITES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_suites_of_the_specification(suite, tmp_path):
    """Of the specification's own examples, the valid images open, and the others open or are refused by name."""
    zarr_format, is_image = 2 if "0.4" in suite.parent.name else 3, suite.stem == "image_suite"
    tests = [test for test in json.loads(suite.read_text())["tests"] if isinstance(test["data"], dict)]
    assert tests
    for number, test in enumerate(tests):
        attributes = test["data"] if zarr_format == 2 else test["data"].get("attributes", test["data"])
        path = tmp_path / f"{number}.zarr"
        zarr.create_group(str(path), zarr_format=zarr_format, attributes=attributes)
        described = (attributes if zarr_format == 2 else attributes.get("ome", {})).get("multiscales") or [{}]
        axes = described[0].get("axes") if isinstance(described[0], dict) else []
        for dataset in (described[0].get("datasets") or []) if axes else []:
            if dataset.get("path"):
                array(path / dataset["path"], np.zeros([1] * (len(axes) - 2) + [9, 9], np.uint8), zarr_format)
        try:
            assert header(path).shape == (9, 9)
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 - both ends are allowed, each with its own promise
            assert not (is_image and test["valid"]), (test["formerly"], str(error))  # noqa: PT017 - as above


# Scale


LENGTHS = {f"{name}meter": power + 6 for name, power in {"pico": -12, "nano": -9, "micro": -6, "milli": -3, "centi": -2}.items()}
LENGTHS |= {"angstrom": -4, "decimeter": 5}
FEET = {"inch": 25400.0, "foot": 304800.0, "yard": 914400.0}


@pytest.mark.parametrize(("unit", "factor"), [*((unit, 10.0**power) for unit, power in LENGTHS.items()), *FEET.items()])
def test_units_of_length(unit, factor, tmp_path):
    """A pixel size is in micrometres whatever unit of OME-Zarr it was written in, and so is the offset."""
    step = 0.5 / factor
    content = {"coordinateTransformations": [{"type": "translation", "translation": [3 * step, 0]}]}
    found = header(image(tmp_path / "a.zarr", noise(9, 9), units=[unit] * 2, scale=[step, 2 * step], content=content))
    assert found.pixel_size == pytest.approx((0.5, 1.0), rel=1e-12)
    assert found.offset == pytest.approx((1.5, 0.0), rel=1e-12)
    assert (found.unit, found.pixel_size_from, found.notes) == ("micrometer", "OME-Zarr", ())


@pytest.mark.parametrize(
    ("units", "scale", "expected", "unit"),
    [
        (["micrometer", "nanometer"], [0.25, 500], (0.25, 0.5), "micrometer"),  # each axis has its own
        (["meter", "meter"], [0.35, 0.35], (0.35, 0.35), "meter"),  # a map
        (["kilometer", "meter"], [0.01, 10], (10.0, 10.0), "meter"),
        (["meter", "meter"], [2.5e-7, 2.5e-7], (0.25, 0.25), "micrometer"),  # a microscope that writes SI units
        (["degree", "degree"], [0.1, 0.2], (0.1, 0.2), "degree"),
        ([None, None], [1, 1], None, ""),  # a default that nobody has changed
        (["micrometer", "micrometer"], [1, 1], (1.0, 1.0), "micrometer"),
    ],
)
def test_units_of_two_axes(units, scale, expected, unit, tmp_path):
    """Sizes of maps stay in metres, others become micrometres, each axis by its own unit."""
    found = header(image(tmp_path / "a.zarr", noise(9, 9), units=units, scale=scale))
    assert (found.pixel_size, found.unit) == (pytest.approx(expected, rel=1e-12) if expected else None, unit)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("units", "scale", "says"),
    [
        (["micrometer"] * 2, [0, 0.5], "0 x 0.5 is no pixel size"),
        (["micrometer"] * 2, [-0.5, 0.5], "-0.5 x 0.5 is no pixel size"),
        (["micrometer"] * 2, [float("nan"), 0.5], "nan x 0.5 is no pixel size"),
        (["micrometer"] * 2, [float("inf"), 0.5], "inf x 0.5 is no pixel size"),
        (["micrometer"] * 2, [2e6, 2e6], "is no pixel size"),
        (["pixel"] * 2, [0.5, 0.5], "'pixel' is no length"),
        (["micrometer", None], [0.5, 0.5], "'micrometer' and '' is no length"),
        (["second"] * 2, [0.5, 0.5], "'second' is no length"),
        (["micrometer"] * 2, ["0.5", 0.5], "'scale' is not read"),
        (["micrometer"] * 2, [0.5], "'scale' is not read"),
    ],
)
def test_sizes_that_are_none(units, scale, says, tmp_path):
    """A size that cannot be one is unknown and noted; ``reader.pixel_size`` takes its place, and the note goes."""
    path = image(tmp_path / "a.zarr", noise(9, 9), units=units)
    transform = [{"type": "scale", "scale": scale}]
    edit_json(path / ".zattrs", lambda found: found["multiscales"][0]["datasets"][0].update(coordinateTransformations=transform))
    found = header(path)
    assert (found.pixel_size, found.unit, found.pixel_size_from) == (None, "", "")
    assert len(found.notes) == 1
    assert says in found.notes[0]
    given = header(path, pixel_size=0.3)
    assert (given.pixel_size, given.unit, given.pixel_size_from, given.notes) == ((0.3, 0.3), "micrometer", "reader.pixel_size", ())


def test_a_size_without_a_unit(tmp_path):
    """A scale without a unit is kept as a number of unknown unit, and said to be one."""
    found = header(image(tmp_path / "a.zarr", noise(9, 9), units=[None, None], scale=[0.5, 0.25]))
    assert (found.pixel_size, found.unit) == ((0.5, 0.25), "")
    assert "has no unit" in found.notes[0]


def test_planes_are_placed(tmp_path):
    """Steps and offsets of z and t are in micrometres and seconds, and follow the planes that are kept."""
    scale, units = [100, 1, 2000, 0.5, 0.25], ["millisecond", None, "nanometer", "micrometer", "micrometer"]
    content = {"coordinateTransformations": [{"type": "translation", "translation": [500, 0, 7000, 0, 0]}]}
    path = image(tmp_path / "a.zarr", noise(3, 2, 6, 9, 9), axes="tczyx", scale=scale, units=units, content=content)
    assert header(path).plane_steps == {"t": PlaneStep(0.1, "second", 0.5), "z": PlaneStep(2.0, "micrometer", 7.0)}
    chosen = header(path, planes={"t": 1, "z": [1, 3, 5]})
    assert (chosen.plane_steps, chosen.planes) == ({"z": PlaneStep(4.0, "micrometer", 9.0)}, {"z": 3})
    assert header(path, planes={"t": [0, 1], "z": [0, 1, 3]}).plane_steps == {"t": PlaneStep(0.1, "second", 0.5)}
    bare = image(tmp_path / "b.zarr", noise(3, 4, 9, 9), axes="tzyx", units=[None] * 4, scale=[1, 3, 1, 1])
    assert header(bare).plane_steps == {"z": PlaneStep(3.0)}


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_old_versions(version, tmp_path):
    """Versions before 0.4 have five axes or names alone, and no scale: sizes are unknown, and no note tells so."""
    pixels_TCZYX = noise(1, 2, 3, 9, 9)
    content = {"version": version, "datasets": [{"path": "0"}], **({"axes": list("tczyx")} if version == "0.3" else {})}
    path = group(tmp_path / "a.zarr", multiscales=[content])
    array(path / "0", pixels_TCZYX, 2, chunk_key_encoding={"name": "v2", "separator": "/" if version != "0.1" else "."})
    found = header(path)
    assert (found.channels, found.planes, found.pixel_size, found.plane_steps, found.notes) == (2, {"z": 3}, None, {}, ())
    np.testing.assert_array_equal(whole(path, plane=1), pixels_TCZYX[0, :, 1])


def test_version_0_6(tmp_path):
    """Coordinate systems in place of axes, and a sequence in place of a list, say the same."""
    steps = [{"type": "scale", "scale": [0.25, 0.5]}, {"type": "translation", "translation": [10, 20]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    dataset = {"path": "s0", "coordinateTransformations": [{"type": "sequence", "transformations": steps}]}
    path = group(tmp_path / "a.zarr", 3, multiscales=[{"coordinateSystems": [{"name": "world", "axes": axes}], "datasets": [dataset]}])
    array(path / "s0", noise(9, 9))
    assert (header(path).pixel_size, header(path).offset) == ((0.25, 0.5), (10.0, 20.0))


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        ({"type": "affine", "affine": [[1, 0, 0], [0, 1, 0]]}, "'affine' is not read"),
        ({"type": "rotation", "rotation": [[0, 1], [1, 0]]}, "'rotation' is not read"),
    ],
)
def test_other_transformations(transform, says, tmp_path):
    """A transformation that is no scale leaves the size unknown, with a note."""
    path = image(tmp_path / "a.zarr", noise(9, 9), content={"coordinateTransformations": [transform]})
    assert header(path).pixel_size is None
    assert says in header(path).notes[0]


def test_transformations_stored_as_arrays(tmp_path):
    """A scale that lies in an array of its own is refused: nothing tells what it is."""
    path = image(tmp_path / "a.zarr", noise(9, 9), content={"coordinateTransformations": [{"type": "scale", "path": "scales"}]})
    refused(path, "a scale stored as an array, 'scales'")


# Channels and colours


def omero(*labels, colors=("FF0000", "00FF00", "0000FF"), model="color"):
    """What OMERO draws."""
    channels = [
        {"label": label, "color": color} if label is not None else {"color": color} for label, color in zip(labels, colors, strict=False)
    ]
    return {"channels": channels, "rdefs": {"model": model}}


def test_channel_names(tmp_path):
    """Channels have the names of the metadata, those without one their number; the names choose."""
    path = image(tmp_path / "a.zarr", noise(3, 9, 9), axes="cyx", omero=omero("DAPI", None, "GFP"))
    assert header(path).channel_names == ("DAPI", "channel 1", "GFP")
    assert header(path, channels=["gfp", 0, "channel 1"]).channel_names == ("GFP", "DAPI", "channel 1")
    np.testing.assert_array_equal(whole(path, channels=["GFP"]), noise(3, 9, 9)[2:])
    refused(path, "'DAPI', 'channel 1' or 'GFP'", channels=["GFB"])
    edit_json(path / ".zattrs", lambda found: found["omero"]["channels"].pop())
    assert header(path).channel_names == ()
    assert "names 2 channels but there are 3" in header(path).notes[0]
    edit_json(path / ".zattrs", lambda found: found.update(omero={"channels": [{}, {}, {}]}))
    assert (header(path).channel_names, header(path).notes) == ((), ())


def test_label_images_have_no_channels(tmp_path):
    """What describes channels and colours of a label image is not read."""
    described = {"image-label": {"colors": [{"label-value": 1, "rgba": [0, 0, 255, 255]}]}, "omero": omero("a", "b", "c")}
    found = header(image(tmp_path / "a.zarr", noise(3, 9, 9), axes="cyx", **described))
    assert (found.channel_names, found.is_color, found.notes) == ((), False, ())


@pytest.mark.parametrize(
    ("described", "dtype", "is_color"),
    [
        (omero("Red", "green", "B"), "uint8", True),
        (omero(None, None, None), "uint8", True),
        (omero("channel 0", "Channel:0:1", ""), "uint8", True),
        (omero("Red", "Green", "Blue"), "uint16", False),
        (omero("DAPI", "GFP", "mCherry"), "uint8", False),  # fluorescence drawn in red, green and blue
        (omero("Red", "Green", "Blue", model="greyscale"), "uint8", False),
        (omero("Red", "Green", "Blue", colors=("FFFFFF",) * 3), "uint8", False),
        (omero("B", "G", "R"), "uint8", False),
        ({}, "uint8", False),  # three channels that nothing describes
        (7, "uint8", False),
    ],
)
def test_colours_of_ome_zarr(described, dtype, is_color, tmp_path):
    """Three channels are colours where the metadata draws 8-bit ones as red, green and blue, and names them nothing else."""
    path = image(tmp_path / "a.zarr", noise(3, 9, 9, dtype=dtype), axes="cyx", omero=described)
    assert header(path).is_color is is_color
    assert not header(path, channels=[0]).is_color
    assert not header(path, channels=[2, 1, 0]).is_color


@pytest.mark.parametrize(
    ("shape", "dtype", "names", "is_color"),
    [
        ((9, 9, 3), "uint8", None, True),
        ((9, 9, 3), "uint16", None, False),
        ((9, 9, 4), "uint8", None, False),
        ((9, 9, 3), "uint8", ["y", "x", "c"], False),  # any three channels
        ((9, 9, 3), "uint8", ["y", "x", "s"], True),
        ((9, 9, 3), "uint8", ["y", "x", "rgb"], True),
        ((3, 9, 9), "uint8", ["sample", "y", "x"], True),
        ((3, 9, 9), "uint8", ["band", "y", "x"], False),
    ],
)
def test_colours_of_arrays(shape, dtype, names, is_color, tmp_path):
    """Of arrays, three unnamed values at the end are colours, and so are those of an axis named after samples; in 8 bits."""
    array(tmp_path / "a.zarr", noise(*shape, dtype=dtype), dimension_names=names)
    assert header(tmp_path / "a.zarr").is_color is is_color


# Data and no data


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_that_are_not_stored_are_data(zarr_format, tmp_path):
    """A chunk that is not stored holds the fill value, which is data: zero, or what it says."""
    for fill in (0, 7, None):
        path = tmp_path / f"{fill}.zarr"
        made = zarr.create_array(str(path), shape=(32, 32), chunks=(16, 16), dtype="u2", zarr_format=zarr_format, fill_value=fill)
        made[:16] = 300
        with build("readers", {"name": "auto"}).open(str(path)) as raster:
            pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, 32, 32))
        assert valid_YX is None
        assert (pixels_CYX[0, 16:] == (fill or 0)).all()


@pytest.mark.parametrize(
    ("dtype", "attributes", "value"),
    [
        ("uint8", {"_FillValue": 255}, 255),
        ("uint8", {"_FillValue": 0}, 0),
        ("uint8", {"_FillValue": -9999}, None),  # no pixel can have it
        ("int16", {"nodata": -9999}, -9999),
        ("int16", {"missing_value": [-5]}, -5),
        ("float32", {"_FillValue": 1e20}, float(np.float32(1e20))),
        ("float32", {"_FillValue": "NaN"}, math.nan),
        ("float32", {"_FillValue": "text"}, None),
        ("float32", {"_FillValue": None, "other": 3}, None),
        ("int64", {"_FillValue": 2**53 + 1}, 2**53 + 1),
    ],
)
def test_declared_nodata(dtype, attributes, value, tmp_path):
    """An attribute declares which value is no data, in the array's own type."""
    array(tmp_path / "a.zarr", noise(9, 9, dtype=dtype), attributes=attributes)
    found = header(tmp_path / "a.zarr").nodata
    assert found == value or (value is not None and math.isnan(value) and math.isnan(found))
    assert header(tmp_path / "a.zarr", nodata="none").nodata is None


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_nodata_of_xarray(zarr_format, tmp_path):
    """What xarray writes as missing is no data, in either format, and where xarray reads NaN."""
    import xarray

    pixels_YX = noise(9, 9, dtype="float32")
    pixels_YX[3:5] = -9999
    data = xarray.DataArray(np.where(pixels_YX == -9999, np.nan, pixels_YX), dims=("y", "x"), name="band", attrs={"grid_mapping": "crs"})
    data.to_dataset().to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, encoding={"band": {"_FillValue": -9999.0, "dtype": "f4"}})
    with build("readers", {"name": "auto"}).open(str(tmp_path / "a.zarr" / "band")) as raster:
        pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, 9, 9))
        assert "georeference" in raster.header.notes[0]
    with xarray.open_zarr(tmp_path / "a.zarr", zarr_format=zarr_format) as opened:
        np.testing.assert_array_equal(valid_YX, np.isfinite(opened["band"].values))
    np.testing.assert_array_equal(pixels_CYX[0], pixels_YX)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"scale_factor": 0.1, "add_offset": 5}, "without scale_factor 0.1 and add_offset 5"),
        ({"proj:epsg": 32631}, "georeference"),
        ({"_CRS": {"wkt": "..."}}, "georeference"),
        ({"long_name": "x"}, None),
    ],
)
def test_what_is_not_read_is_noted(attributes, says, tmp_path):
    """Packed values and a georeference that an array declares are told, not dropped in silence."""
    array(tmp_path / "a.zarr", noise(9, 9), attributes=attributes)
    notes = header(tmp_path / "a.zarr").notes
    assert (says is None and notes == ()) or says in notes[0]


# Codecs and layouts


COMPRESSORS = [
    None,
    *(numcodecs.Blosc(cname) for cname in ("lz4", "zstd", "zlib", "blosclz")),
    *(codec() for codec in (numcodecs.Zstd, numcodecs.LZ4, numcodecs.GZip, numcodecs.Zlib, numcodecs.BZ2, numcodecs.LZMA)),
]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=name_of)
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<f4"])
def test_compressors_of_zarr_2(compressor, dtype, tmp_path):
    """Every compressor of numcodecs, and a filter before it, gives the pixels back, in any byte order."""
    pixels_YX = noise(40, 50, dtype=dtype)
    for filters in (None, [numcodecs.Delta(dtype)], [numcodecs.Shuffle(pixels_YX.itemsize)]):
        path = tmp_path / f"{filters}.zarr"
        array(path, pixels_YX, 2, compressors=compressor, filters=filters)
        np.testing.assert_array_equal(whole(path)[0], pixels_YX)
        assert not header(path).is_lossy


@pytest.mark.parametrize("name", ["jpeg2k", "jpegxl", "jpegls", "png", "webp", "zfp", "blosc2", "deflate", "zstd"])
def test_codecs_of_imagecodecs(name, tmp_path):
    """Codecs that imagecodecs brings are found by their name; those that may lose values say so."""
    pixels_YX = noise(32, 32, dtype="float32" if name == "zfp" else "uint8")
    options = {"webp": {"lossless": True}, "jpeg2k": {"reversible": True, "level": 0}, "jpegxl": {"lossless": True}}.get(name, {})
    shape = (1, 32, 32, 3) if name == "webp" else (1, 32, 32)
    pixels = noise(*shape) if name == "webp" else pixels_YX[None]
    path = tmp_path / "a.zarr"
    names = ["z", "y", "x", "c"][: len(shape)]
    zarr.create_array(
        str(path), shape=shape, chunks=shape, dtype=pixels.dtype, zarr_format=2, attributes={"_ARRAY_DIMENSIONS": names}, compressors=None
    )
    edit_json(path / ".zarray", lambda found: found.update(compressor={"id": f"imagecodecs_{name}", **options}))
    encode = getattr(imagecodecs, f"{name}_encode")
    content = encode(pixels[0], **options) if name in ("jpeg2k", "jpegxl", "jpegls", "png", "webp", "zfp") else encode(pixels.tobytes())
    (path / (".".join("0" * len(shape)))).write_bytes(content)
    expected = pixels.transpose(0, 3, 1, 2)[0] if name == "webp" else pixels
    np.testing.assert_array_equal(whole(path), expected)
    assert header(path).is_lossy is (name == "zfp")


def test_codecs_that_are_not_there(tmp_path):
    """A codec that is not installed is refused by its name when the array is opened, also inside shards; pickle always is."""
    path = tmp_path / "a.zarr"
    array(path, noise(9, 9), 2)
    for codec in ("jpegxxl", "imagecodecs_none", "pickle"):
        edit_json(path / ".zarray", lambda found, codec=codec: found.update(compressor={"id": codec}, filters=None))
        refused(path, f"the codec '{codec}'")
        edit_json(path / ".zarray", lambda found, codec=codec: found.update(compressor=None, filters=[{"id": codec}]))
        refused(path, f"the codec '{codec}'")
    shutil.rmtree(path)
    zarr.create_array(str(path), shape=(32, 32), chunks=(16, 16), shards=(32, 32), dtype="u1")
    for codec in ("jpegxxl", "numcodecs.nothing"):
        edit_json(path / "zarr.json", lambda found, codec=codec: found["codecs"][0]["configuration"]["codecs"].append({"name": codec}))
        refused(path, f"the codec '{codec}'")
        edit_json(path / "zarr.json", lambda found: found["codecs"][0]["configuration"]["codecs"].pop())


@pytest.mark.parametrize(
    ("dtype", "says"), [("<U4", "pixels of type"), ("M8[s]", "pixels of type datetime64"), ("c8", "pixels of type complex64")]
)
@pytest.mark.filterwarnings("ignore:The data type")
def test_values_that_are_no_pixels(dtype, says, tmp_path):
    """Texts, dates and complex numbers are refused when the array is opened; texts of any length too."""
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(9, 9), chunks=(9, 9), dtype=dtype, zarr_format=2)
    refused(tmp_path / "a.zarr", says)
    zarr.create_array(str(tmp_path / "b.zarr"), shape=(9, 9), chunks=(9, 9), dtype=str)
    refused(tmp_path / "b.zarr", "pixels of type")


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"shards": (32, 32), "chunks": (8, 16)},
        {"shards": (32, 32), "chunks": (8, 16), "filters": [zarr.codecs.TransposeCodec(order=(1, 0))]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"compressors": [zarr.codecs.BloscCodec(), zarr.codecs.Crc32cCodec()]},
        {"compressors": [zarr.codecs.GzipCodec()], "chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"compressors": None, "chunks": (50, 7)},
    ],
    ids=name_of,
)
def test_layouts_of_zarr_3(quick, options, tmp_path, monkeypatch):
    """Shards, transposed and big-endian chunks, checksums and other names of chunks: the same pixels by zarrs and by Zarr."""
    if not quick:
        monkeypatch.setattr("pipeline.readers.zarr.find_spec", lambda _: None)
    array(tmp_path / "a.zarr", noise(70, 50, dtype="uint16"), **options)
    np.testing.assert_array_equal(whole(tmp_path / "a.zarr")[0], noise(70, 50, dtype="uint16"))
    np.testing.assert_array_equal(whole(zip_store(tmp_path / "a.zarr", tmp_path / "a.ozx"))[0], noise(70, 50, dtype="uint16"))


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_layouts_of_zarr_2(separator, order, tmp_path):
    """Chunks in files or in folders, in C or in Fortran order."""
    array(tmp_path / "a.zarr", noise(70, 50, 3), 2, order=order, chunk_key_encoding={"name": "v2", "separator": separator})
    np.testing.assert_array_equal(whole(tmp_path / "a.zarr"), noise(70, 50, 3).transpose(2, 0, 1))


DAMAGED = """
import sys
from pathlib import Path
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.plugins import build
path, chunk = map(Path, sys.argv[1:3])
content, accepted = chunk.read_bytes(), []
with build("readers", {"name": "zarr", "channels": [2, 0]}).open(str(path)) as raster:
    for length in (0, 3, 20, 100, 1000, len(content) // 2, len(content) - 5, len(content) - 1):
        for flip in range(-1, 16):
            damaged = bytearray(content[:length])
            if 0 <= flip < length:
                damaged[flip] ^= 1 << (length % 8)
            chunk.write_bytes(damaged)
            try:
                raster.read(Box(0, 0, 64, 64))
                accepted.append((length, flip))
            except BlockError:
                pass
print(accepted)
"""


@pytest.mark.parametrize(
    ("zarr_format", "compressor"),
    [(2, numcodecs.Blosc()), (2, numcodecs.Zstd()), (2, numcodecs.LZ4()), (3, zarr.codecs.BloscCodec()), (3, zarr.codecs.ZstdCodec())],
    ids=name_of,
)
def test_chunks_cut_short(zarr_format, compressor, tmp_path):
    """A chunk that is cut, whatever else is wrong with it, fails its block; numcodecs' Blosc alone reads on, or ends the process."""
    path = tmp_path / "a.zarr"
    names = {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x", "c"]}} if zarr_format == 2 else {"dimension_names": ["y", "x", "c"]}
    pixels = noise(256, 256, 3, dtype="uint16") % 50  # large enough for a read beyond its end to leave the process's memory
    zarr.create_array(str(path), data=pixels, chunks=pixels.shape, zarr_format=zarr_format, compressors=compressor, **names)
    command = [sys.executable, "-c", DAMAGED, str(path), str(path / ("0.0.0" if zarr_format == 2 else "c/0/0/0"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(
    "codec", [numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.LZ4(), numcodecs.GZip()], ids=lambda codec: codec.codec_id
)
def test_chunks_that_unpack_to_more(codec, tmp_path):
    """A chunk that would decode to a hundred times its pixels is refused before it is decoded."""
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), data=noise(64, 64), chunks=(64, 64), zarr_format=2, compressors=codec)
    (path / "0.0").write_bytes(bytes(codec.encode(bytes(1 << 26))))
    tracemalloc.start()
    with pytest.raises(BlockError, match=r"chunk 0\.0"):
        whole(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 23
    tracemalloc.stop()


def test_identity_follows_the_chunks(tmp_path):
    """A chunk of a plate's field, or of a chosen level, that is written anew changes the identity of that image, and of no other."""
    store = plate(tmp_path / "p.zarr", ["A/1"], 2)
    before = [identify(str(store / "A/1" / field), {}, build("readers", {"name": "zarr"}))[0] for field in "01"]
    chunk = store / "A/1/1/0/0.0"
    os.utime(chunk, ns=(chunk.stat().st_atime_ns, chunk.stat().st_mtime_ns + 10**9))
    after = [identify(str(store / "A/1" / field), {}, build("readers", {"name": "zarr"}))[0] for field in "01"]
    assert (after[0] == before[0], after[1] == before[1]) == (True, False)


def test_plates_zips_and_labels_in_a_run(tmp_path, engine):
    """Fields of a plate, folders and zips are images of one run, their labels its truth; a broken field is quarantined alone."""
    (tmp_path / "in").mkdir()
    store = plate(tmp_path / "in" / "p.zarr", ["A/1", "B/2"], 2, size=(40, 50))
    single = image(tmp_path / "s.zarr", noise(40, 50))
    fields = [store / well / field for well in ("A/1", "B/2") for field in "01"]
    for number, path in enumerate([*fields, single]):
        image(path / "labels" / "nuclei", (noise(40, 50) > 100).astype(np.uint8) * (number % 2), **{"image-label": {}})
        group(path / "labels", labels=["nuclei"])
    zip_store(single, tmp_path / "in" / "s.ome.zarr.zip")
    shutil.rmtree(store / "B/2/0/0")
    done = engine(
        images=["in"],
        truth="{image}/labels/nuclei",
        model={"name": "histogram", "classes": 2},
        normalize=None,
    )
    assert done.code == 3
    assert [one["image"] for one in done.report["failures"]] == ["p/B/2/0"]
    assert sorted(path.name for path in (done.folder / "masks").rglob("*.ome.zarr")) == [
        "0.ome.zarr",
        "1.ome.zarr",
        "1.ome.zarr",
        "s.ome.zarr",
    ]
    truths = {one["name"]: one["classes"][1]["truth"] for one in done.report["per_image"] if one["name"] != "p/B/2/0"}
    count = (noise(40, 50) > 100).sum()
    assert truths == {"p/A/1/0": 0, "p/A/1/1": count, "p/B/2/1": count, "s": 0}
    assert done.mask("p/B/2/1").shape == (40, 50)
    mask = zarr.open_group(str(done.folder / "masks" / "s.ome.zarr"), mode="r").attrs["ome"]["multiscales"][0]
    assert mask["datasets"][0]["coordinateTransformations"][0]["scale"] == [0.5, 0.5]


@pytest.mark.parametrize("shape", [(10**9, 10**9), (2, 3_000_000, 3_000_000), (2000, 2000, 8, 8), (2**21, 8, 8)])
def test_an_absurd_shape_is_refused(shape, tmp_path):
    """More pixels a plane than two million a side, or a million planes, are refused at once; an array needs no chunk to declare them."""
    zarr.create_array(str(tmp_path / "a.zarr"), shape=shape, chunks=(1,) * (len(shape) - 2) + (8, 8), dtype="u1", zarr_format=3)
    with (
        pytest.raises(InputError, match="at most"),
        build("readers", {"name": "auto", "axes": "tzyx"[-len(shape) :]}).open(str(tmp_path / "a.zarr")),
    ):
        pass


def test_an_index_of_a_shard_beyond_its_end(tmp_path):
    """A shard whose index points past 2**64 fails its block, though zarrs panics on it."""
    index = zarr.codecs.ShardingCodec(chunk_shape=(16, 16), codecs=[zarr.codecs.BytesCodec()], index_codecs=[zarr.codecs.BytesCodec()])
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(32, 32), chunks=(32, 32), dtype="u1", zarr_format=3, serializer=index, compressors=None
    )
    array[...] = 7
    shard = tmp_path / "a.zarr" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[-64:-48] = struct.pack("<QQ", 2**63, 2**63)
    shard.write_bytes(content)
    with build("readers", {"name": "auto"}).open(str(tmp_path / "a.zarr")) as raster:
        with pytest.raises(BlockError, match="rows 0..16, columns 0..16: cannot be decoded"):
            raster.read(Box(0, 0, 16, 16))
        assert (raster.read(Box(16, 16, 32, 32)) == 7).all()


BOMBS = {
    "gzip": (3, {"compressors": zarr.codecs.GzipCodec()}, lambda data: gzip.compress(data, 1)),
    "gzip in shards": (3, {"compressors": zarr.codecs.GzipCodec(), "shards": (64, 64)}, lambda data: gzip.compress(data, 1)),
    "gzip of v2": (2, {"compressors": numcodecs.GZip()}, lambda data: gzip.compress(data, 1)),
    "gzip of many streams": (3, {"compressors": zarr.codecs.GzipCodec()}, lambda data: gzip.compress(data[: 1 << 15], 1) * 99),
    "zlib": (2, {"compressors": numcodecs.Zlib()}, zlib.compress),
    "bz2": (2, {"compressors": numcodecs.BZ2()}, bz2.compress),
    "lzma": (2, {"compressors": numcodecs.LZMA()}, lzma.compress),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_chunk_that_unfolds_without_end(kind, tmp_path):
    """A chunk of 4 kB that unfolds to 200 MB, or to 3 in many streams, fails its block in little memory; good chunks are read."""
    zarr_format, options, pack = BOMBS[kind]
    pixels, path = noise(64, 128), tmp_path / "a.zarr"
    zarr.create_array(str(path), data=pixels, chunks=(64, 64) if "shards" not in options else (32, 32), zarr_format=zarr_format, **options)
    assert (whole(path)[0] == pixels).all()
    chunk = path / ("0.1" if zarr_format == 2 else "c/0/1")
    if "shards" in options:
        content = bytearray(chunk.read_bytes())
        packed = pack(bytes(200 << 20))
        index = struct.pack("<QQ", 0, len(packed)) + bytes(content[-68 + 16 : -4])
        chunk.write_bytes(packed + index + struct.pack("<I", google_crc32c.value(index)))
    else:
        chunk.write_bytes(pack(bytes(200 << 20)))
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        np.testing.assert_array_equal(raster.read(Box(0, 0, 64, 64))[0], pixels[:, :64])
        tracemalloc.start()
        with pytest.raises(BlockError, match=r"decompresses|bytes of pixels|bytes, but its pixels"):
            raster.read(Box(0, 64, 32, 96))
        assert tracemalloc.get_traced_memory()[1] < 1 << 24  # lzma has a dictionary of 8 MB
        tracemalloc.stop()
