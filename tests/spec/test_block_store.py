"""The array that a run writes block by block: whole shards, torn or not, from several processes."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, StoreError
from pipeline.geometry import Box
from pipeline.raster import ArrayRaster, Header
from pipeline.storage import BlockStore, LocalStorage, store_errors
from pipeline.storage.block_store import chunk_side
from pipeline.tiling import Grid


def cells(store):
    """Every block of a plane."""
    return list(Grid(store.header.shape, core=store.block, halo=0, block=store.block).blocks())


def write_all(store, pixels):
    """Write every block of every plane; return the files."""
    raster, files = ArrayRaster(pixels, store.header), {}
    for plane in range(store.header.num_planes):
        for box in cells(store):
            files |= store.write(box, raster.read(box, plane), plane)
    return files


sides = st.one_of(st.integers(1, 70), st.sampled_from([128, 255, 256, 257, 400]))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, block=st.sampled_from([1, 16, 31, 128, 256, 300]), channels=st.integers(1, 3), data=st.data())
def test_what_is_written_is_read(tmp_path_factory, height, width, block, channels, data):
    """For any image and block side, blocks together give the image back, in any box, and each is one file of the size that was told."""
    block = max(block, max(height, width) // 6)
    header = Header((height, width), channels, data.draw(st.sampled_from(["uint8", "uint16", "float32"])))
    pixels = np.random.default_rng(height).integers(0, 255, (channels, height, width)).astype(header.dtype)
    store = BlockStore(tmp_path_factory.mktemp("s") / "0", header, block, 255)
    store.create()
    files = write_all(store, pixels)
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    again = BlockStore.open(store.storage.root)
    np.testing.assert_array_equal(again.read(box), pixels[:, *box.slices])
    assert (again.header, again.axes, again.fill) == (header, store.axes, store.fill)
    on_disk = {
        str(file.relative_to(store.storage.root)): file.stat().st_size for file in (store.storage.root / "c").rglob("*") if file.is_file()
    }
    assert files == on_disk
    assert len(files) == len(cells(store))


@pytest.mark.parametrize(("planes", "axes"), [({"t": 2, "z": 3}, "tczyx"), ({"z": 3, "t": 2}, "tczyx"), ({"z": 2}, "czyx")], ids=str)
def test_planes_keep_their_number(tmp_path, planes, axes):
    """A plane is counted over the stack axes as the header lists them, while the array has OME-Zarr's order of axes."""
    header = Header((20, 30), 2, "uint8", planes)
    pixels = np.random.default_rng(0).integers(0, 9, (header.num_planes, 2, 20, 30), np.uint8)
    store = BlockStore(tmp_path / "0", header, 16)
    store.create()
    write_all(store, pixels)
    for plane in range(header.num_planes):
        np.testing.assert_array_equal(store.read(Box(0, 0, 20, 30), plane), pixels[plane])
    stack = pixels.reshape(*planes.values(), 2, 20, 30)
    found = zarr.open_array(store.storage.root, mode="r")
    assert found.metadata.dimension_names == tuple(axes)
    np.testing.assert_array_equal(found[...], np.einsum(f"{''.join(planes)}cyx->{axes}", stack))


def test_zarr_itself_would_write_the_same_metadata(tmp_path):
    """The metadata is what zarr-python makes of the same array, so that every reader of Zarr v3 opens it."""
    store = BlockStore(tmp_path / "a", Header((5001, 3003), 1, "uint16"), 2048, 65535)
    store.create()
    made = zarr.create_array(
        tmp_path / "b",
        shape=(5001, 3003),
        shards=(2048, 2048),
        chunks=(512, 512),
        dtype="uint16",
        fill_value=65535,
        compressors=zarr.codecs.ZstdCodec(level=1),
        dimension_names=["y", "x"],
    )
    assert zarr.open_array(store.storage.root, mode="r").metadata == made.metadata


@pytest.mark.parametrize("damage", [b"", b"torn", None], ids=["empty", "short", "cut"])
def test_a_torn_shard_is_replaced(tmp_path, damage):
    """A damaged block is an error when read, and is gone when written again; plain zarr stumbles over it."""
    store = BlockStore(tmp_path / "0", Header((600, 600), 1, "uint8"), 512, 255)
    store.create()
    pixels = np.random.default_rng(0).integers(0, 3, (600, 600), np.uint8)
    file = store.storage.root / next(iter(write_all(store, pixels)))
    file.write_bytes(file.read_bytes()[:-1000] if damage is None else damage)
    if damage:
        with pytest.raises(BlockError, match="cannot be read at"):
            store.read(Box(0, 0, 512, 512))
    if damage is None:
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_array(store.storage.root)[:512, :512] = pixels[:512, :512]
    store.write(Box(0, 0, 512, 512), pixels[:512, :512])
    np.testing.assert_array_equal(store.read(Box(0, 0, 600, 600))[0], pixels)


def test_a_block_of_fill_leaves_a_file(tmp_path):
    """A block that holds nothing but the fill value can be verified like any other: its file is there."""
    store = BlockStore(tmp_path / "0", Header((600, 600), 1, "uint8"), 512, 255)
    store.create()
    files = write_all(store, np.full((600, 600), 255, np.uint8))
    assert len(files) == 4
    assert all((store.storage.root / name).stat().st_size == size > 0 for name, size in files.items())


def test_a_missing_block_reads_as_fill(tmp_path):
    """Where nothing was written, the fill value is read, and not-a-number survives as fill."""
    for name, fill in (("uint16", 65535), ("float32", float("nan"))):
        store = BlockStore(tmp_path / name, Header((10, 10), 1, name), 512, fill)
        store.create()
        assert np.array_equal(BlockStore.open(store.storage.root).read(Box(0, 0, 10, 10))[0], np.full((10, 10), fill, name), equal_nan=True)
        assert np.array_equal(BlockStore.open(store.storage.root).fill, fill, equal_nan=True)


def test_boxes_that_are_no_block_are_refused(tmp_path):
    """Only whole blocks are written: a part of one would need a lock."""
    store = BlockStore(tmp_path / "0", Header((600, 600), 1, "uint8"), 512)
    store.create()
    for box in (Box(0, 0, 511, 512), Box(1, 0, 513, 512), Box(0, 512, 512, 1024)):
        with pytest.raises(ValueError, match="is not a block"):
            store.write(box, np.zeros(box.shape, np.uint8))


def create_and_write(store, column):
    """What one of several processes does."""
    store.create()
    store.write(Box(0, column * 128, 128, column * 128 + 128), np.full((128, 128), column, np.uint8))


def test_many_processes_create_and_write(tmp_path):
    """Processes that create the same array at once, each writing its own blocks, lose nothing."""
    store = BlockStore(tmp_path / "deep" / "0", Header((128, 128 * 12), 1, "uint8"), 128, 255)
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        list(pool.map(create_and_write, [store] * 12, range(12)))
    pixels = store.read(Box(0, 0, 128, 128 * 12))[0]
    assert (pixels == np.repeat(np.arange(12), 128)).all()
    assert not list(tmp_path.rglob("*.partial"))


def test_creating_again_keeps_pixels_and_refuses_another_array(tmp_path):
    """An equal array stays as it is; a different one is refused with both described, or replaced when that is asked for."""
    store = BlockStore(tmp_path / "0", Header((100, 100), 1, "uint8"), 128, 255)
    store.create()
    store.write(Box(0, 0, 100, 100), np.ones((100, 100), np.uint8))
    store.create()
    assert store.read(Box(0, 0, 100, 100)).all()
    other = BlockStore(tmp_path / "0", Header((100, 90), 1, "uint8"), 128, 255)
    with pytest.raises(StoreError, match=r"holds another array: \[100, 100\] uint8.*this run writes \[100, 90\]"):
        other.create()
    other.create(replace=True)
    assert (other.read(Box(0, 0, 100, 90)) == 255).all()


def test_an_open_store_travels(tmp_path):
    """A store that has been written and read is still a value that another process can use."""
    store = BlockStore(tmp_path / "0", Header((100, 100), 1, "uint8"), 128, 255)
    store.create()
    store.write(Box(0, 0, 100, 100), np.ones((100, 100), np.uint8))
    store.read(Box(0, 0, 1, 1))
    assert pickle.loads(pickle.dumps(store)).read(Box(0, 0, 100, 100)).all()


def test_no_array_is_one_error(tmp_path):
    """Opening what is not there says so, and so does half a metadata file."""
    with pytest.raises(StoreError, match="holds no array"):
        BlockStore.open(tmp_path)
    (tmp_path / "zarr.json").write_text('{"zarr')
    with pytest.raises(StoreError, match="holds no array"):
        BlockStore.open(tmp_path)


@pytest.mark.parametrize("block", [1, 96, 128, 500, 1000, 1013, 1536, 2000, 2026, 2048, 4096, 3 * 1019])
def test_chunks_divide_the_block(block):
    """A chunk side divides the block's side and is within 128..1024, or it is the block's."""
    side = chunk_side(block)
    assert block % side == 0
    assert 128 <= side <= 1024 or side == block


def test_a_name_that_cannot_be_written_is_a_store_error(tmp_path):
    """What the system refuses becomes a StoreError with the path and the reason."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file.*(Not a directory|File exists); remove the file that stands where a folder is needed"):
        LocalStorage(tmp_path).put("file/zarr.json", b"{}")
    with pytest.raises(StoreError, match=r"a\.tif: Input/output error; see to the disk"), store_errors("a.tif"):
        raise OSError(5, os.strerror(5))


FULL = """
import numpy as np, sys
from pathlib import Path
from pipeline.errors import StoreError
from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.raster import ArrayRaster
from pipeline.storage import BlockStore, LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers.tiff import Tiff

folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 255, (2048, 2048), np.uint8)
store = BlockStore(folder / "0", Header((2048, 2048), 1, "uint8"), 2048)
store.create()
meta = MaskMeta((2048, 2048))
block = lambda: store.write(Box(0, 0, 2048, 2048), noise)
export = lambda: Tiff().export(ArrayRaster(noise), meta, LocalStorage(folder), "a.tif")
for write in (block, export):
    try:
        write()
    except StoreError as error:
        print(error)
print(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk(tmp_path):
    """On a full disk a block and an export end in a StoreError that says so, and leave no half-written file behind."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "gigaseg-test", tmp_path], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine lets no disk be mounted")
    try:
        done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert done.returncode == 0, done.stderr
    block, export, files = done.stdout.splitlines()
    assert "c/0/0" in block
    assert all("No space left on device; free space and run again" in line for line in (block, export))
    assert json.loads(files.replace("'", '"')) == ["0/zarr.json"]
