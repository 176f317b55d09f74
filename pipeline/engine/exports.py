"""Writing pixels: level 0 block by block while a run goes on, pyramids and exports when an image is complete.

The mask of an image of one block is exported straight from memory, without a block store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.engine.job import Job
from pipeline.engine.resources import Resources
from pipeline.inputs import Image
from pipeline.raster import ArrayRaster, Header
from pipeline.records import Block, Receipt
from pipeline.storage import BlockStore, open_storage
from pipeline.writers.ome_zarr import OmeZarr

__all__ = [
    "block_store_arrays",
    "finish_copy",
    "finish_mask",
    "mask_of",
    "read_stored",
    "stored_files",
    "write_copy",
    "write_mask",
    "write_probs",
]

Files = dict[str, int]
"""Size in bytes by path, relative to the output folder."""


def write_mask(resources: Resources, block: Block, mask_YX: NDArray[Any]) -> Files:
    """Write one block of a mask; for an image of one block, write every export."""
    job, image = resources.job, block.image
    if job.is_single(image):
        return _export(job, image, ArrayRaster(mask_YX))
    path = job.path(image, OmeZarr.suffix)
    store = resources.store(path, lambda: _zarr_writer(job).create(path, job.meta(image), job.recipe.block))
    return stored_files(job, store, store.write(block.box, mask_YX, block.plane))


def write_probs(resources: Resources, block: Block, probs_KYX: NDArray[Any]) -> Files:
    """Write one block of class probabilities, in steps of 1/255."""
    job, image = resources.job, block.image
    path = job.path(image, OmeZarr.suffix, "probs")
    header = _probs_header(job, image)
    store = resources.store(path, lambda: OmeZarr().create(path, header, job.recipe.block))
    files = stored_files(job, store, store.write(block.box, probs_KYX, block.plane))
    if job.is_single(image):
        OmeZarr().finish(path, header)
    return files


def finish_mask(job: Job, block: Block) -> Files:
    """Write the pyramid and every export of a mask whose blocks are all done; may be repeated."""
    image = block.image
    if job.probs:
        path = job.path(image, OmeZarr.suffix, "probs")
        if path.exists():
            OmeZarr().finish(path, _probs_header(job, image))
    # A quarantined block left no file. Where every block is quarantined, there is no array yet: it is all *no prediction*.
    level = _zarr_writer(job).create(job.path(image, OmeZarr.suffix), job.meta(image), job.recipe.block)
    return _export(job, image, level)


def write_copy(resources: Resources, block: Block, pixels_CYX: NDArray[Any]) -> Files:
    """Write one block of a converted image."""
    job, image = resources.job, block.image
    path = job.path(image, OmeZarr.suffix)
    store = resources.store(path, lambda: OmeZarr().create(path, image.header, job.recipe.block))
    files = stored_files(job, store, store.write(block.box, pixels_CYX, block.plane))
    if job.is_single(image):
        finish_copy(job, block)
    return files


def finish_copy(job: Job, block: Block) -> Files:
    """Write the pyramid of a converted image."""
    path = job.path(block.image, OmeZarr.suffix)
    OmeZarr().finish(path, block.image.header)
    return _sizes(job, [path / "zarr.json"])


def mask_of(job: Job, image: Image) -> Image | None:
    """Return the mask that a run wrote for an image, as an image to read; None when there is none."""
    # Exports of larger images come from the block store, which is therefore never older than they are.
    exported = [writer.suffix for writer in job.writers] if job.is_single(image) else []
    for suffix in dict.fromkeys([*exported, OmeZarr.suffix]):
        path = job.path(image, suffix)
        if path.exists():
            return replace(image, path=str(path), reader={"name": "auto"})
    return None


def block_store_arrays(job: Job, image: Image) -> list[str]:
    """Return the arrays that are written block by block for an image: paths relative to the output folder."""
    return [str(job.path(image, OmeZarr.suffix, folder).relative_to(job.output)) for folder in (None, "probs")]


def read_stored(job: Job, block: Block, receipt: Receipt) -> NDArray[Any] | None:
    """Read what the block store holds of a block, pixels_CYX.

    Returns:
        None where the receipt's files lie in no block store: other exports of single-block images are not read again.

    Raises:
        StoreError, BlockError: the array or its pixels are damaged.
    """
    path = job.path(block.image, OmeZarr.suffix) / "0"
    if not path.is_dir() or not any(f"{OmeZarr.suffix}/" in name for name in receipt.files):
        return None
    return BlockStore.open(path).read(block.box, block.plane)


def _export(job: Job, image: Image, mask: Any) -> Files:
    """Run every writer; a resumed run looks for the files returned here."""
    paths = []
    for writer in job.writers:
        path = job.path(image, writer.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.export(mask, job.meta(image), open_storage(path.parent), path.name)
        paths.append(path / "zarr.json" if path.is_dir() else path)
    return _sizes(job, paths)


def _zarr_writer(job: Job) -> OmeZarr:
    """Return the user's OME-Zarr writer, or a default one: other exports read the block store too."""
    return next((writer for writer in job.writers if isinstance(writer, OmeZarr)), OmeZarr())


def _probs_header(job: Job, image: Image) -> Header:
    names = tuple(str(one["name"]) for one in job.classes)
    return replace(image.header, channels=job.num_classes, dtype="uint8", nodata=None, channel_names=names)


def stored_files(job: Job, store: BlockStore, files: Files) -> Files:
    """Name files of a block store relative to the output folder."""
    return {str((store.path / name).relative_to(job.output)): size for name, size in files.items()}


def _sizes(job: Job, paths: list[Path]) -> Files:
    return {str(path.relative_to(job.output)): path.stat().st_size for path in paths}
