"""The memory that an actor will need, and the largest tiles that fit into the budget."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue, Image, read_truth_header
from pipeline.plugins import build
from pipeline.raster import Header, aligned_header
from pipeline.tiling import Grid, num_seam_shares
from pipeline.writers import Writer

__all__ = ["format_bytes", "project_actor_bytes", "project_object_file_bytes", "project_seam_file_bytes", "shrink_to_memory"]

SMALLEST_CORE = 64  # side below which a core is not shrunk to save memory, pixels
SCORE_BYTES = 4  # float32
MAP_BYTES = 6  # per pixel of a channel of a map: as stored, and as float32
OBJECT_BYTES = 100  # per pixel while a region is labelled or measured, the most of all methods: `python -m tests.benchmarks.objects`
LABEL_BYTES = 12  # per pixel that waits to be labelled, measured or written: labels and id
TRUTH_BYTES = 4  # of a truth pixel: most files store object ids in at most 32 bits


def project_actor_bytes(catalogue: Catalogue, recipe: Recipe) -> int:
    """Return the bytes that one actor needs at its peak, above its loaded model: those of the most expensive image.

    Blocks are held as they are read ahead, computed and written, each clipped to the image. The network's own memory counts
    on a CPU only: on a GPU it is the GPU's, where a batch that does not fit is halved.
    """
    writers: list[Writer] = [build("writers", spec, "writers") for spec in catalogue.config.writers]
    exports = (writer.memory_bytes(image.header, len(catalogue.classes)) for writer in writers for image in catalogue.images)
    phases = (one(catalogue, recipe, image) for image in catalogue.images for one in (_image_bytes, _object_bytes))
    return max(max(phases, default=0), max(exports, default=0))


def _image_bytes(catalogue: Catalogue, recipe: Recipe, image: Image) -> int:
    header, model, (readers, writers), classes = image.header, catalogue.model, recipe.io_threads, len(catalogue.classes)
    sides = [ceil_to(side, recipe.core if model.fixed_size else model.stride) for side in header.shape]
    height, width = (min(side, recipe.block) for side in sides)
    depth = header.channels * np.dtype(header.dtype).itemsize
    pixels = math.prod(min(side, recipe.block) + 2 * recipe.halo for side in sides)
    read = pixels * depth
    # If data may be missing, a copy of the block is zeroed there, and a validity map is kept.
    valid, copy = (pixels, read) if _may_lack_data(header) else (0, 0)
    truth = height * width * 6 if image.truth else 0
    mask = height * width * (1 if classes <= 255 else 2)
    beside, maps = height * width * _bytes_beside_mask(catalogue), _map_channels(catalogue)
    scores = _blended_scores(recipe, header.shape, (height, width))
    shared, given, taken = (count * (classes + maps) * SCORE_BYTES for count in scores)
    # Where blocks blend with each other, the results of phase score are read: mask, probabilities, maps and the sums of their seams.
    loaded = max(read + valid + truth, mask + beside + taken + truth if given else 0)
    tile = min(height, recipe.core) + 2 * recipe.halo, min(width, recipe.core) + 2 * recipe.halo
    on_gpu = recipe.device == "cuda" and model.gives_scores
    network = 0 if on_gpu else (model.projected_bytes(tile, header.channels) + math.prod(tile) * maps * 2 * SCORE_BYTES) * recipe.batch
    # Every writing thread holds one result, and so does the thread that waits for them. Beside it lies the store's copy, or what goes into
    # seam files.
    results = (writers + 1) * (mask + beside + max(mask + beside, given))
    own = image.grid.own if image.grid else header
    headers = [header, *([aligned_header(read_truth_header(image), own)] if image.truth else [])]
    decoded = sum(one.whole_bytes + one.work_bytes for one in headers) + _source_bytes(image, pixels)
    once = 0
    if image.truth_reader["name"] == "polygons":  # a layer is read once in a process, for all threads
        once = headers[1].work_bytes
        decoded -= once
    return (readers + 1) * loaded + read + shared + network + results + readers * (decoded + copy) + once


def _object_bytes(catalogue: Catalogue, recipe: Recipe, image: Image) -> int:
    """Return the bytes of the phases that tell objects apart and measure them; 0 without objects."""
    instances, header = catalogue.instances, image.header
    if instances is None:
        return 0
    readers, writers = recipe.io_threads
    region = math.prod(min(side, recipe.block + 2 * instances.halo) for side in header.shape)
    inputs = _map_channels(catalogue) * MAP_BYTES
    inputs += len(catalogue.classes) if instances.uses_probs else 0
    inputs += header.channels * np.dtype(header.dtype).itemsize
    return region * (OBJECT_BYTES + (readers + 1) * inputs + (readers + writers) * LABEL_BYTES)


def _may_lack_data(header: Header) -> bool:
    return header.has_mask or header.nodata is not None or np.dtype(header.dtype).kind == "f"


def _source_bytes(image: Image, pixels: int) -> int:
    """Return the bytes of image, validity and truth on the file's own grid that ``pixels`` of the working grid need."""
    grid = image.grid
    if grid is None:
        return 0
    own, once = grid.own, math.prod(grid.factor) * pixels
    copies = 2 if _may_lack_data(own) else 1
    of_image = once * (own.channels * np.dtype(own.dtype).itemsize + 1) * copies if grid.is_resampled else 0
    return int(of_image + math.prod(grid.own_factor) * pixels * TRUTH_BYTES * bool(image.truth))


def _blended_scores(recipe: Recipe, shape: tuple[int, int], sides: tuple[int, int]) -> tuple[int, int, int]:
    """How many scores of a class blending holds for a block with these sides, of an image of this shape, in pixels.

    Returns:
        What the block's tiles share while it is computed, what it leaves for seams, and what its own seams take in the end.
    """
    if recipe.stitch == "crop":
        return 0, 0, 0
    height, width = sides
    # Along a row of tiles, tiles of another size (at the image's edge) that came before, the tile at hand, and around the block.
    each = sum(range(2 * recipe.halo, 0, -recipe.core))  # rows of one tile that wait for the next rows of tiles
    along = (2 * width + height) * recipe.outer // recipe.core + recipe.outer
    shared = each * along if max(sides) > recipe.core else 0
    if max(shape) <= recipe.block:
        return shared, 0, 0
    around = 2 * (height + width)
    return shared, each * around * recipe.outer // recipe.core, min(recipe.halo * around, height * width)


def _map_channels(catalogue: Catalogue) -> int:
    """Return the number of channels that the model predicts besides the classes."""
    return 0 if catalogue.instances is None else sum(catalogue.model.maps[name] for name in catalogue.instances.maps)


def _bytes_beside_mask(catalogue: Catalogue) -> int:
    """Return the bytes per pixel besides its class: probabilities, and maps as float16."""
    instances = catalogue.instances
    has_probs = any(spec.get("probs") for spec in catalogue.config.writers) or (instances is not None and instances.uses_probs)
    of_winner = instances is not None and catalogue.model.gives_scores
    return len(catalogue.classes) * has_probs + of_winner + _map_channels(catalogue) * np.dtype(np.float16).itemsize


def project_seam_file_bytes(catalogue: Catalogue, recipe: Recipe) -> int:
    """Return the bytes on disk of the largest image's seam files: masks, probabilities, and scores along seams."""
    if recipe.stitch == "crop":
        return 0
    largest, classes = 0, len(catalogue.classes)
    bytes_per_pixel = (1 if classes <= 255 else 2) + _bytes_beside_mask(catalogue)
    for image in catalogue.images:
        shape = image.header.shape
        if shares := num_seam_shares(Grid(shape, recipe.core, recipe.halo, recipe.block), recipe.halo):
            plane_bytes = math.prod(shape) * bytes_per_pixel + shares * (classes + _map_channels(catalogue)) * SCORE_BYTES
            largest = max(largest, image.header.num_planes * plane_bytes)
    return largest


def project_object_file_bytes(catalogue: Catalogue) -> int:
    """Return the bytes on disk, before compression, of the temporary files for objects of the largest image; 0 without objects."""
    instances = catalogue.instances
    if instances is None:
        return 0
    maps = _map_channels(catalogue) * np.dtype(np.float16).itemsize
    probs = len(catalogue.classes) if instances.uses_probs else 0
    pixel = np.dtype(np.uint32).itemsize + maps + probs + catalogue.model.gives_scores  # uint32: labels
    return max((math.prod(image.header.shape) * image.header.num_planes for image in catalogue.images), default=0) * pixel


def format_bytes(size: int, *, up: bool = False) -> str:
    """Return a size for people, which the YAML takes too; rounded down, or ``up``.

    Example:
        >>> format_bytes(4 * 2**30), format_bytes(700 * 2**20 + 1, up=True)
        ('4GiB', '701MiB')
    """
    unit, name = (2**30, "GiB") if size >= 10 * 2**30 or size % 2**30 == 0 else (2**20, "MiB")
    return f"{-(-size // unit) if up else size // unit}{name}"


def shrink_to_memory(catalogue: Catalogue, recipe: Recipe, notes: list[str]) -> tuple[Recipe, int]:
    """Make the block, then the core, smaller until the projection fits the budget; what the YAML fixes stays.

    Returns:
        The recipe that fits, and its bytes; ``notes`` gets what was made smaller.

    Raises:
        InputError: no recipe fits; the message names a budget and sides that do.
    """
    tiling, budget, stride = catalogue.config.tiling, catalogue.config.compute.memory_bytes, catalogue.model.stride
    asked = recipe
    while (need := project_actor_bytes(catalogue, recipe)) > budget:
        if tiling.block == "auto" and recipe.block > recipe.core:
            recipe = replace(recipe, block=max(1, recipe.block // recipe.core // 2) * recipe.core)
        elif tiling.core == "auto" and recipe.core > ceil_to(SMALLEST_CORE, stride):
            core = ceil_to(max(SMALLEST_CORE, recipe.core // 2), stride)
            recipe = replace(recipe, core=core, block=core if tiling.block == "auto" else ceil_to(recipe.block, core))
        else:
            raise InputError(_too_large(catalogue, recipe, need, budget))
    if recipe != asked:
        notes.append(
            f"compute.memory: core {asked.core}, block {asked.block} made {recipe.core}, {recipe.block} to fit {format_bytes(budget)}"
        )
    return recipe, need


def _too_large(catalogue: Catalogue, recipe: Recipe, need: int, budget: int) -> Problem:
    core = recipe.core if catalogue.model.fixed_size else ceil_to(SMALLEST_CORE, catalogue.model.stride)
    smaller = replace(recipe, core=core, block=core)
    least = project_actor_bytes(catalogue, smaller)
    way_out = f"Use compute.memory: {format_bytes(need, up=True)}"
    if least <= budget:
        way_out += f", or leave tiling.core and tiling.block to auto (core {smaller.core} needs {format_bytes(least, up=True)})"
    asked = f"core {recipe.core}, halo {recipe.halo}, block {recipe.block} needing {format_bytes(need, up=True)} an actor"
    return Problem("compute.memory", asked, f"{format_bytes(budget)}", f"{way_out}.")
