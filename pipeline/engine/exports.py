"""Writing pixels: level 0 block by block while a run goes on, pyramids and exports when an image is complete.

The mask of an image of one block is exported straight from memory, without a block store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.job import Job, KeptMask
from pipeline.engine.resources import Resources
from pipeline.errors import BlockError, StoreError
from pipeline.inputs import TRUTH_READER, FileStates, Image
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header, Raster
from pipeline.records import Block, Receipt
from pipeline.storage import BlockStore
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta, ObjectsView, ObjectTable, num_rows, read_tables
from pipeline.writers.ome_zarr import OmeZarr

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "block_store_keys",
    "discard_stored",
    "finish_copy",
    "finish_mask",
    "kept_mask",
    "mask_of",
    "open_finished",
    "open_objects",
    "read_stored",
    "stored_mask",
    "write_block",
    "write_copy",
    "write_mask",
    "write_objects",
    "write_probs",
]

PART = 2048  # side of what is read of a mask at once, pixels
ROW_GROUP = 1 << 16  # objects per row group of a table: they are written and read together

Files = dict[str, int]  # size in bytes by key, in the storage of the output


def write_mask(resources: Resources, block: Block, mask_YX: NDArray[Any]) -> Files:
    """Write one block of a mask; for an image of one block, write every export."""
    job, image = resources.job, block.image
    if job.is_single(image):
        return _export(job, image, ArrayRaster(mask_YX))
    return write_block(resources, block, mask_YX, job.store_key(image, OmeZarr.suffix), job.meta(image), _zarr_writer(job))


def stored_mask(resources: Resources, image: Image) -> BlockStore:
    """Return the block store of an image's mask; pixels whose block failed have the fill value."""
    job, key = resources.job, resources.job.store_key(image, OmeZarr.suffix)
    return resources.store(key, lambda: _zarr_writer(job).create(job.storage.below(key), job.meta(image), job.recipe.block))


def write_probs(resources: Resources, block: Block, probs_KYX: NDArray[Any]) -> Files:
    """Write one block of class probabilities, in steps of 1/255."""
    job, image = resources.job, block.image
    key, header = job.key(image, OmeZarr.suffix, "probs"), _probs_header(job, image)
    files = write_block(resources, block, probs_KYX, key, header)
    if job.is_single(image):
        OmeZarr().finish(job.storage.below(key), header)
    return files


def write_copy(resources: Resources, block: Block, pixels_CYX: NDArray[Any]) -> Files:
    """Write one block of a converted image."""
    job, image = resources.job, block.image
    files = write_block(resources, block, pixels_CYX, job.key(image, OmeZarr.suffix), image.header)
    if job.is_single(image):
        finish_copy(job, block)
    return files


def write_block(
    resources: Resources, block: Block, pixels: NDArray[Any], key: str, meta: MaskMeta | Header, writer: OmeZarr | None = None
) -> Files:
    """Write one block (C, Y, X), or (Y, X) of a single channel, of an OME-Zarr array, which is made where it is missing.

    Args:
        resources: what this actor holds open.
        block: whose pixels they are.
        pixels: to write.
        key: of the OME-Zarr group.
        meta: of the mask, or the header of an image of channels.
        writer: None: with default options.
    """
    job = resources.job
    store = resources.store(key, lambda: (writer or OmeZarr()).create(job.storage.below(key), meta, job.recipe.block))
    return {f"{key}/0/{name}": size for name, size in store.write(block.box, pixels, block.plane).items()}


def finish_mask(job: Job, block: Block) -> Files:
    """Write the pyramid and every export of a mask whose blocks are all done; may be repeated.

    Raises:
        BlockError: the file that takes the place of the blocks does not hold their pixels.
    """
    image = block.image
    probs = job.storage.below(job.key(image, OmeZarr.suffix, "probs"))
    if job.probs and probs.exists():
        OmeZarr().finish(probs, _probs_header(job, image))
    replacing = job.replacing_writer(image)
    with open_finished(job, image) as mask:
        if replacing is None:
            store, shards = _restored(job, image, mask) if image.name in job.kept else (mask, {})
            return shards | _export(job, image, store)
        before = _hash_pixels(mask)
        files = _export(job, image, mask)
    written = f"{job.storage}/{job.export_key(replacing, image)}"
    with build("readers", TRUTH_READER).open(written) as copy:
        if _hash_pixels(copy) != before:
            raise BlockError(f"{written}: does not hold the pixels that were predicted; the blocks are kept")
    return files


@contextmanager
def open_finished(job: Job, image: Image) -> Iterator[Raster]:
    """Open the mask of an image of several blocks: the store of its blocks, or the file that took their place."""
    if (kept := job.kept.get(image.name)) is not None:
        with build("readers", TRUTH_READER).open(f"{job.storage}/{kept.key}") as raster:
            yield raster
        return
    # A quarantined block left no file. Where every block is quarantined, there is no array yet: it is all *no prediction*.
    store = job.storage.below(job.store_key(image, OmeZarr.suffix))
    yield _zarr_writer(job).create(store, job.meta(image), job.recipe.block)


def kept_mask(job: Job, block: Block) -> KeptMask | None:
    """Return what holds the whole mask of a finished image if its blocks were temporary; None: its blocks are there."""
    image = block.image
    replacing = job.replacing_writer(image)
    if replacing is None and image.name not in job.kept:
        return None
    key = job.store_key(image, OmeZarr.suffix) if replacing is None else job.export_key(replacing, image)
    size = next(iter(_sizes(job, [key]).values()))
    return KeptMask(key, size, block.rests_on)


def _restored(job: Job, image: Image, mask: Raster) -> tuple[BlockStore, Files]:
    """Write the blocks of a mask again, as no file takes their place any more; return their store and every shard."""
    key = job.store_key(image, OmeZarr.suffix)
    store = _zarr_writer(job).create(job.storage.below(key), job.meta(image), job.recipe.block)
    if job.kept[image.name].key == key:
        shards = job.storage.sizes(job.storage.list(f"{key}/0/c/"))
        return store, {name: size for name, size in shards.items() if size is not None}
    files: Files = {}
    for plane in range(image.header.num_planes):
        for box in job.grid(image).blocks():
            files |= {f"{key}/0/{name}": size for name, size in store.write(box, mask.read(box, plane)[0], plane).items()}
    return store, files


def _hash_pixels(mask: Raster) -> str:
    """Return a digest of all pixels, read in parts."""
    header, total = mask.header, hashlib.blake2b(digest_size=16)
    for plane in range(header.num_planes):
        for box in Grid(header.shape, core=PART, halo=0, block=PART).blocks():
            total.update(np.ascontiguousarray(mask.read(box, plane)[0]).data)
    return f"{header.shape} {header.dtype} {total.hexdigest()}"


def write_objects(job: Job, image: Image, columns: Iterable[Mapping[str, NDArray[Any]]]) -> Files:
    """Write the table of an image's objects, part by part, from columns by name (:func:`pipeline.statistics.object_columns`)."""
    key = job.table_key(image)
    with ObjectTable.create(job.storage, key, job.meta(image)) as table:
        for part in _in_groups(columns):
            table.append(part)
    return _sizes(job, [key])


def _in_groups(columns: Iterable[Mapping[str, NDArray[Any]]], size: int = ROW_GROUP) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the same rows in parts of ``size``, at least one part, so that the file does not depend on how the image was cut."""
    waiting: list[Mapping[str, NDArray[Any]]] = []
    rows = 0
    for part in columns:
        waiting.append(part)
        rows += len(part["id"])
        if rows >= size:
            joined = {name: np.concatenate([one[name] for one in waiting]) for name in part}
            for first in range(0, rows - size + 1, size):
                yield {name: values[first : first + size] for name, values in joined.items()}
            waiting, rows = [{name: values[rows - rows % size :] for name, values in joined.items()}], rows % size
    yield {name: np.concatenate([one[name] for one in waiting]) for name in waiting[0]}


def open_objects(job: Job, image: Image) -> Iterator[pa.Table]:
    """Yield the table of an image's objects, part by part."""
    return read_tables(job.storage, job.table_key(image))


def finish_copy(job: Job, block: Block) -> Files:
    """Write the pyramid of a converted image; write nothing if no block of it could be read."""
    key = job.key(block.image, OmeZarr.suffix)
    if not job.storage.below(key).below("0").exists():
        return {}
    OmeZarr().finish(job.storage.below(key), block.image.header)
    return _sizes(job, [key])


def mask_of(job: Job, image: Image) -> Image | None:
    """Return the mask that a run wrote for an image, as an image to read; None when there is none."""
    # Exports of larger images come from the block store, which is therefore never older than they are.
    exported = [job.key(image, writer.suffix) for writer in job.writers if writer.holds_mask] if job.is_single(image) else []
    keys = [*exported, job.store_key(image, OmeZarr.suffix)]
    if (replacing := job.replacing_writer(image)) is not None:
        keys.append(job.export_key(replacing, image))
    for key in dict.fromkeys(keys):
        if _sizes(job, [key]):
            grid = image.grid.of_mask if image.grid else None
            return replace(image, path=f"{job.storage}/{key}", reader=TRUTH_READER, grid=grid, samples=None, states=FileStates())
    return None


def block_store_keys(job: Job, image: Image) -> list[str]:
    """Return the keys of the arrays that are written block by block for an image, and of the file that may take their place."""
    keys = [job.store_key(image, OmeZarr.suffix), job.key(image, OmeZarr.suffix, "probs")]
    if (replacing := job.replacing_writer(image)) is not None:
        keys += [job.key(image, OmeZarr.suffix), *job.files_of(replacing, image)]
    return keys


def read_stored(job: Job, block: Block, receipt: Receipt) -> NDArray[Any] | None:
    """Read what the block store holds of a block, pixels_CYX.

    Returns:
        None where the receipt's files lie in no block store: other exports of single-block images are not read again.

    Raises:
        StoreError, BlockError: the array or its pixels are damaged.
    """
    array = job.storage.below(job.store_key(block.image, OmeZarr.suffix)).below("0")
    if not array.exists() or not any(f"{OmeZarr.suffix}/" in name for name in receipt.files):
        return None
    return BlockStore.open(array).read(block.box, block.plane)


def discard_stored(job: Job, block: Block) -> None:
    """Remove what is stored of a block: its shards, or every export of an image of one block."""
    image, storage, keys = block.image, job.storage, block_store_keys(job, block.image)
    if job.is_single(image):
        for key in {*keys, *(key for writer in job.writers for key in job.files_of(writer, image))}:
            storage.delete(key)
            storage.delete_tree(key)
        return
    for key in keys:
        try:
            store = BlockStore.open(storage.below(key).below("0"))
        except StoreError:  # there is no array, or its metadata is damaged: making it anew removes every shard
            continue
        store.delete(block.box, block.plane)


def _export(job: Job, image: Image, mask: Raster) -> Files:
    """Run every writer, on the image's own grid if asked. A resumed run checks that the returned files exist."""
    objects = _objects_of(job, image)
    meta = replace(job.meta(image), objects=objects, probs=_probs_of(job, image))
    if image.grid is not None and job.native:
        mask, meta = image.grid.to_own(mask), replace(job.meta(image, image.grid.own), objects=objects, probs=meta.probs)
    keys: list[str] = []
    for writer in job.writers:
        keys += job.files_of(writer, image)
        # Without objects joining failed, and that failure is reported.
        if (objects is not None or not writer.needs_objects) and job.files_of(writer, image):
            writer.export(mask, meta, job.storage, job.export_key(writer, image))
    objects_keys = [job.ids_key(image), job.table_key(image)] if objects is not None else []
    return _sizes(job, [*keys, *objects_keys])


def _probs_of(job: Job, image: Image) -> BlockStore | None:
    """Return the probabilities of an image, with all that its header says; None: the run writes none, or every block failed."""
    group = job.storage.below(job.key(image, OmeZarr.suffix, "probs"))
    if not job.probs or not group.below("0").exists():
        return None
    return OmeZarr().create(group, _probs_header(job, image), job.recipe.block)


def _objects_of(job: Job, image: Image) -> ObjectsView | None:
    """Finish an image's label image and return its objects; None: objects are not told apart, or joining them failed."""
    group, key = job.storage.below(job.ids_key(image)), job.table_key(image)
    if job.instances is None or job.storage.size(key) is None or not group.below("0").exists():
        return None
    labels = BlockStore.open(group.below("0"))
    meta = replace(job.meta(image), dtype=labels.header.dtype, holds_ids=True)
    OmeZarr().finish(group, meta)
    return ObjectsView(labels, meta, num_rows(job.storage, key), partial(open_objects, job, image), key)


def _zarr_writer(job: Job) -> OmeZarr:
    """Return the user's OME-Zarr writer, or a default one: other exports read the block store too."""
    return next((writer for writer in job.writers if isinstance(writer, OmeZarr)), OmeZarr())


def _probs_header(job: Job, image: Image) -> Header:
    names = tuple(str(one["name"]) for one in job.classes)
    return replace(image.header, channels=job.num_classes, dtype="uint8", nodata=None, channel_names=names)


def _sizes(job: Job, keys: Iterable[str]) -> Files:
    """Return the size of each output that exists: of its file, or of the metadata that every Zarr group has."""
    files = ((name, job.storage.size(name)) for key in keys for name in (key, f"{key}/zarr.json"))
    return {name: size for name, size in files if size is not None}
