"""Where pixels go: level 0 block by block while a run goes on, and everything else when an image is complete.

An image of one block skips the detour: its mask is exported straight from memory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.engine.job import Job, Resources
from pipeline.inputs import Image
from pipeline.raster import ArrayRaster, Header
from pipeline.records import Block
from pipeline.storage import BlockStore
from pipeline.writers.ome_zarr import OmeZarr

__all__ = ["finish_copy", "finish_mask", "is_single", "mask_of", "write_copy", "write_mask", "write_probs"]

Files = dict[str, int]
"""Size in bytes by path, relative to the output folder."""


def is_single(job: Job, image: Image) -> bool:
    """Whether an image is one block, so that nothing waits for other blocks."""
    return image.header.num_planes == 1 and job.grid(image).num_blocks == (1, 1)


def write_mask(bench: Resources, block: Block, mask_YX: NDArray[Any]) -> Files:
    """Write one block of a mask; of a single-block image, everything."""
    job, image = bench.job, block.image
    if is_single(job, image):
        return _export(job, image, ArrayRaster(mask_YX))
    path = job.path(image, OmeZarr.suffix)
    store = bench.store(path, lambda: _zarr_writer(job).create(path, job.meta(image), job.recipe.block))
    return _named(job, store, store.write(block.box, mask_YX, block.plane))


def write_probs(bench: Resources, block: Block, probs_KYX: NDArray[Any]) -> Files:
    """Write one block of class probabilities, in steps of 1/255."""
    job, image = bench.job, block.image
    path = job.path(image, OmeZarr.suffix, "probs")
    header = _probs_header(job, image)
    store = bench.store(path, lambda: OmeZarr().create(path, header, job.recipe.block))
    files = _named(job, store, store.write(block.box, probs_KYX, block.plane))
    if is_single(job, image):
        OmeZarr().finish(path, header)
    return files


def finish_mask(job: Job, block: Block) -> Files:
    """Make the pyramid and every export of a mask whose blocks are all there; repeatable."""
    image = block.image
    if job.probs:
        path = job.path(image, OmeZarr.suffix, "probs")
        if path.exists():
            OmeZarr().finish(path, _probs_header(job, image))
    # A block that could not be done left no file; where no block could, the mask is all *no prediction*.
    level = _zarr_writer(job).create(job.path(image, OmeZarr.suffix), job.meta(image), job.recipe.block)
    return _export(job, image, level)


def write_copy(bench: Resources, block: Block, pixels_CYX: NDArray[Any]) -> Files:
    """Write one block of an image that is converted."""
    job, image = bench.job, block.image
    path = job.path(image, OmeZarr.suffix)
    store = bench.store(path, lambda: OmeZarr().create(path, image.header, job.recipe.block))
    files = _named(job, store, store.write(block.box, pixels_CYX, block.plane))
    if is_single(job, image):
        finish_copy(job, block)
    return files


def finish_copy(job: Job, block: Block) -> Files:
    """Make the pyramid of a converted image."""
    path = job.path(block.image, OmeZarr.suffix)
    OmeZarr().finish(path, block.image.header)
    return _sizes(job, [path / "zarr.json"])


def mask_of(job: Job, image: Image) -> Image | None:
    """The mask that a run wrote for an image, as an image to read; None when there is none."""
    exported = [writer.suffix for writer in job.writers] if is_single(job, image) else []  # what an earlier writer left may be older
    for suffix in dict.fromkeys([*exported, OmeZarr.suffix]):
        path = job.path(image, suffix)
        if path.exists():
            return replace(image, path=str(path), reader={"name": "auto"})
    return None


def _export(job: Job, image: Image, mask: Any) -> Files:
    """Run every writer; their files are what a resumed run looks for."""
    paths = []
    for writer in job.writers:
        path = job.path(image, writer.suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.export(mask, job.meta(image), path)
        paths.append(path / "zarr.json" if path.is_dir() else path)
    return _sizes(job, paths)


def _zarr_writer(job: Job) -> OmeZarr:
    """The writer of the block store: the user's, or a plain one that serves the exports."""
    return next((writer for writer in job.writers if isinstance(writer, OmeZarr)), OmeZarr())


def _probs_header(job: Job, image: Image) -> Header:
    names = tuple(str(one["name"]) for one in job.classes)
    return replace(image.header, channels=job.num_classes, dtype="uint8", nodata=None, channel_names=names)


def _named(job: Job, store: BlockStore, files: Files) -> Files:
    return {str((store.path / name).relative_to(job.output)): size for name, size in files.items()}


def _sizes(job: Job, paths: list[Path]) -> Files:
    return {str(path.relative_to(job.output)): path.stat().st_size for path in paths}
