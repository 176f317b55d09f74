"""What a run writes of an image: blocks while it goes on, pyramids and exports in the end, and how they are found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.config import Recipe
from pipeline.engine import Job, Resources
from pipeline.engine.exports import (
    block_store_keys,
    discard_stored,
    finish_copy,
    finish_mask,
    mask_of,
    read_stored,
    write_copy,
    write_mask,
    write_probs,
)
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.records import Block, Receipt
from pipeline.storage import MemoryStorage
from tests.conftest import blobs

CLASSES = [{"id": at, "name": name, "color": "#000000"} for at, name in enumerate(("ground", "low", "high"))]
LARGE, SMALL = (100, 90), (60, 50)


def writers(*names, **options):
    return [build("writers", {"name": name, **(options if name == "ome_zarr" else {})}) for name in names]


def job_in(where, *names, **options):
    return Job(where, Recipe(core=32, halo=0, block=64), classes=CLASSES, writers=writers(*names or ("ome_zarr",), **options))


def image(shape, channels=1):
    return Image(0, "a", "/a.tif", Header(shape, channels, "uint8"), {"name": "auto"})


def written(job, one, pixels, write=write_mask):
    """Write every block of an image; returns the blocks, and the files of each."""
    resources = Resources(job, None)
    blocks = [Block("predict", one, 0, box.y0 // job.recipe.block, box.x0 // job.recipe.block, box) for box in job.grid(one).blocks()]
    files = [write(resources, block, pixels[(..., *block.box.slices)]) for block in blocks]
    resources.close()
    return blocks, files


def test_a_mask_of_many_blocks_is_written_block_by_block(tmp_path):
    """Each block is a file of the size that is told; in the end there are the pyramid and every export, of the same pixels."""
    job, mask_YX = job_in(tmp_path, "ome_zarr", "tiff"), blobs(LARGE) // 86
    blocks, files = written(job, image(LARGE), mask_YX)
    assert len({name for some in files for name in some}) == len(blocks) == 4
    assert all((tmp_path / name).stat().st_size == size for some in files for name, size in some.items())
    assert not (tmp_path / "masks" / "a.tif").exists()
    finished = finish_mask(job, replace(blocks[0], phase="finish", box=Box(0, 0, *LARGE)))
    assert set(finished) == {"masks/a.ome.zarr/zarr.json", "masks/a.tif"}
    assert finish_mask(job, blocks[0]) == finished, "it may be repeated"
    assert np.array_equal(zarr.open_array(tmp_path / "masks" / "a.ome.zarr" / "0", mode="r")[...], mask_YX)
    assert np.array_equal(tifffile.imread(tmp_path / "masks" / "a.tif"), mask_YX)


@pytest.mark.parametrize("names", [("ome_zarr",), ("tiff",), ("tiff", "ome_zarr")])
def test_a_mask_of_one_block_is_exported_at_once(tmp_path, names):
    """There is nothing to wait for: every writer gets the mask from memory, and no other file is made."""
    mask_YX = blobs(SMALL) // 86
    _, (files,) = written(job_in(tmp_path, *names), image(SMALL), mask_YX)
    assert set(files) == {{"ome_zarr": "masks/a.ome.zarr/zarr.json", "tiff": "masks/a.tif"}[name] for name in names}
    assert (tmp_path / "masks" / "a.ome.zarr").exists() == ("ome_zarr" in names)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
@pytest.mark.parametrize("names", [("ome_zarr",), ("tiff",)])
def test_a_mask_is_found_again(tmp_path, shape, names):
    """What was written reads back as an image, whatever was written; before, there is none."""
    job, one, mask_YX = job_in(tmp_path, *names), image(shape), blobs(shape) // 86
    assert mask_of(job, one) is None
    blocks, _ = written(job, one, mask_YX)
    if len(blocks) > 1:
        finish_mask(job, blocks[0])
    found = mask_of(job, one)
    assert (found.name, found.header) == (one.name, one.header)
    with build("readers", found.reader).open(found.path) as raster:
        assert np.array_equal(raster.read(Box(0, 0, *shape))[0], mask_YX)


def test_what_an_earlier_writer_left_is_no_mask(tmp_path):
    """An image of one block has the exports of the writers at hand: a mask that another one left beside them does not count."""
    one = image(SMALL)
    written(job_in(tmp_path, "tiff"), one, blobs(SMALL) // 86)
    assert mask_of(job_in(tmp_path, "ome_zarr"), one) is None


def test_a_block_that_failed_is_a_hole(tmp_path):
    """Where no block was written, exports show no prediction; where none was at all, the whole mask is that."""
    job, one, mask_YX = job_in(tmp_path, "ome_zarr", "tiff"), image(LARGE), blobs(LARGE) // 86
    resources = Resources(job, None)
    first, *_ = (Block("predict", one, 0, box.y0 // job.recipe.block, box.x0 // job.recipe.block, box) for box in job.grid(one).blocks())
    finish_mask(job, first)
    assert (tifffile.imread(tmp_path / "masks" / "a.tif") == 255).all()
    write_mask(resources, first, mask_YX[first.box.slices])
    finish_mask(job, first)
    expected = np.full(LARGE, 255)
    expected[:64, :64] = mask_YX[:64, :64]
    assert np.array_equal(tifffile.imread(tmp_path / "masks" / "a.tif"), expected)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_probabilities_have_a_store_of_their_own(tmp_path, shape):
    """They lie in probs/ with a channel for each class, with a pyramid when their image is complete."""
    job, one = job_in(tmp_path, probs=True), image(shape)
    probs_KYX = np.stack([blobs(shape, seed=seed) for seed in range(3)])
    blocks, _ = written(job, one, probs_KYX, write_probs)
    if len(blocks) > 1:
        written(job, one, probs_KYX.argmax(0).astype(np.uint8))
        finish_mask(job, blocks[0])
    assert block_store_keys(job, one) == ["masks/a.ome.zarr", "probs/a.ome.zarr"]
    group = zarr.open_group(tmp_path / "probs" / "a.ome.zarr", mode="r")
    assert np.array_equal(group["0"][...], probs_KYX)
    assert [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]] == ["ground", "low", "high"]


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_a_copy_is_an_image_of_channels(tmp_path, shape):
    """A converted image lies at the top of its folder, with its channels and its own type."""
    job, one = replace(job_in(tmp_path), masks="", goal="convert"), image(shape, channels=3)
    pixels_CYX = blobs(shape, channels=3)
    blocks, _ = written(job, one, pixels_CYX, write_copy)
    if len(blocks) > 1:
        assert set(finish_copy(job, blocks[0])) == {"a.ome.zarr/zarr.json"}
    assert np.array_equal(zarr.open_array(tmp_path / "a.ome.zarr" / "0", mode="r")[...], pixels_CYX)


def test_stored_pixels_are_read_again(tmp_path):
    """A block's pixels come back as they were written; exports that are no store are not read, and a damaged one is told."""
    one, mask_YX = image(LARGE), blobs(LARGE) // 86
    job = job_in(tmp_path)
    blocks, files = written(job, one, mask_YX)
    receipts = [Receipt("predict", "a", block.id, files=some) for block, some in zip(blocks, files, strict=True)]
    for block, receipt in zip(blocks, receipts, strict=True):
        assert np.array_equal(read_stored(job, block, receipt)[0], mask_YX[block.box.slices])
    assert read_stored(job, blocks[0], replace(receipts[0], files={"masks/a.tif": 9})) is None
    path = tmp_path / next(iter(files[0]))
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(BlockError, match="cannot be read"):
        read_stored(job, blocks[0], receipts[0])


def test_a_run_may_be_written_to_memory(tmp_path):
    """Blocks and pyramids go through the storage of the output, wherever that is."""
    storage, mask_YX = MemoryStorage(f"memory://{tmp_path.parent.name}-{tmp_path.name}"), blobs(LARGE) // 86
    job = job_in(storage)
    blocks, files = written(job, image(LARGE), mask_YX)
    assert set(finish_mask(job, blocks[0])) == {"masks/a.ome.zarr/zarr.json"}
    assert all(storage.size(name) == size for some in files for name, size in some.items())
    assert np.array_equal(zarr.open_array(storage.zarr(), path="masks/a.ome.zarr/0", mode="r")[...], mask_YX)


@pytest.mark.parametrize("metadata", [None, "{"], ids=["no array", "damaged metadata"])
def test_discarding_a_block_of_no_readable_array_fails_nothing(tmp_path, metadata):
    """A block may be quarantined before its array was made whole: making the array anew removes every shard."""
    job = job_in(tmp_path)
    if metadata:
        array = tmp_path / "masks" / "a.ome.zarr" / "0"
        array.mkdir(parents=True)
        (array / "zarr.json").write_text(metadata)
    discard_stored(job, Block("predict", image(LARGE), 0, 0, 0, Box(0, 0, 64, 64)))
    _, files = written(job, image(LARGE), blobs(LARGE) // 86)
    assert len({name for some in files for name in some}) == 4


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_a_discarded_block_has_no_pixels(tmp_path, shape):
    """Of many blocks its own shard goes and no other; of an image of one block, every export."""
    job, mask_YX = job_in(tmp_path, "ome_zarr", "tiff"), np.ones(shape, np.uint8)
    blocks, _ = written(job, image(shape), mask_YX)
    discard_stored(job, blocks[-1])
    if shape == SMALL:
        assert not (tmp_path / "masks").exists()
        return
    stored_YX = zarr.open_array(tmp_path / "masks" / "a.ome.zarr" / "0", mode="r")[...]
    mask_YX[blocks[-1].box.slices] = 255
    assert np.array_equal(stored_YX, mask_YX)
