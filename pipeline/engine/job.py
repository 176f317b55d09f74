"""What every actor is told once, and what it opens to do its work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends._allocator import keep_freed_memory
from pipeline.config import Recipe
from pipeline.errors import BlockError
from pipeline.geometry import Box, reflect_index
from pipeline.inputs import Image, TruthMap
from pipeline.models import Model, Predictor
from pipeline.plugins import build
from pipeline.raster import Header, Raster
from pipeline.statistics import Fitter, Summary
from pipeline.storage import BlockStore
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta, Writer

__all__ = ["Job", "Resources", "open_resources", "read_reflected", "valid_pixels"]

OPEN_FILES = 16  # images held open at once by an actor; enough for a lease of small ones
WHOLE_BYTES = 2**27  # of those that must be decoded whole, before the oldest is let go


@dataclass(frozen=True)
class Job:
    """Everything about a run that does not change from block to block; a frozen value that travels.

    Attributes:
        output: the output folder.
        recipe: what fixes the numbers.
        model: the segmenter; None where nothing is predicted (``evaluate``, ``convert``).
        stride: the model's, as the plan found it: an actor elsewhere may not have what it was measured with.
        full: whether edge tiles are as large as all others, for a model that takes one size only.
        normalize: fixed ``{"mean": [..], "std": [..]}``; None: raw values, or per image by the fit phase.
        fitters: what the fit phase gathers, by name.
        classes: ``{"id", "name", "color"}`` in order.
        truth_map: from truth values to class ids; None: no image has truth.
        truth_reader: reader name and options for truth files.
        writers: what is written when an image is complete.
        masks: folder of the block stores inside ``output``: ``masks``, or empty for ``convert``.
    """

    output: Path
    recipe: Recipe
    model: Model | None = None
    stride: int = 1
    full: bool = False
    normalize: Mapping[str, Any] | None = None
    fitters: Mapping[str, Fitter] = field(default_factory=dict)
    classes: Sequence[Mapping[str, Any]] = ()
    truth_map: TruthMap | None = None
    truth_reader: Mapping[str, Any] = field(default_factory=lambda: {"name": "auto"})
    writers: Sequence[Writer] = ()
    masks: str = "masks"

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def dtype(self) -> str:
        """Numpy name of the mask's type."""
        return "uint8" if self.num_classes <= 255 else "uint16"

    @property
    def fill(self) -> int:
        """What stands in the mask for no prediction."""
        return 255 if self.num_classes <= 255 else 65535

    @property
    def probs(self) -> bool:
        """Whether probabilities are written."""
        return any(getattr(writer, "probs", False) for writer in self.writers)

    @property
    def blends(self) -> bool:
        """Whether neighbouring tiles are blended."""
        return self.recipe.stitch != "crop" and self.model is not None and self.model.gives_scores

    def joins(self, image: Image) -> bool:
        """Whether tiles of several blocks are blended, so that blocks wait for each other's scores."""
        return self.blends and self.recipe.halo > 0 and self.grid(image).num_blocks != (1, 1)

    def grid(self, image: Image) -> Grid:
        """How an image is cut."""
        return Grid(image.header.shape, self.recipe.core, self.recipe.halo, self.recipe.block, self.stride, self.full)

    def meta(self, image: Image) -> MaskMeta:
        """What the writers are told of an image's mask."""
        header = image.header
        return MaskMeta(
            shape=header.shape,
            planes=header.planes,
            dtype=self.dtype,
            classes=self.classes,
            pixel_size=header.pixel_size,
            unit=header.unit,
            offset=header.offset,
            georeference=header.georeference,
            source=image.path,
        )

    def path(self, image: Image, suffix: str, folder: str | None = None) -> Path:
        """Where an output of an image lies; the name keeps its folders."""
        return self.output / (self.masks if folder is None else folder) / f"{image.name}{suffix}"

    @property
    def fit_halo(self) -> int:
        """Pixels around a block that the fit phase reads: what the widest fitter asks for."""
        return max((fitter.halo for fitter in self.fitters.values()), default=0)

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Summarise a block, read with ``fit_halo``, for every fitter; the names are joined as ``fitter.array``."""
        summary: Summary = {}
        read = box.grow(self.fit_halo)
        for name, fitter in self.fitters.items():
            rows, cols = box.grow(fitter.halo).within(read).slices
            seen_YX = None if valid_YX is None else valid_YX[rows, cols]
            parts = fitter.observe(pixels_CYX[:, rows, cols], seen_YX, box, plane)
            summary.update({f"{name}.{key}": value for key, value in parts.items()})
        return summary

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Add two summaries of :meth:`observe`."""
        merged: Summary = {}
        for name, fitter in self.fitters.items():
            parts = fitter.merge(_part(one, name), _part(other, name))
            merged.update({f"{name}.{key}": value for key, value in parts.items()})
        return merged

    def conclude(self, summary: Summary) -> dict[str, Any]:
        """Fit the sum over an image: plain JSON, by fitter."""
        return {name: fitter.fit(_part(summary, name)) for name, fitter in self.fitters.items()}


def _part(summary: Summary, name: str) -> Summary:
    return {key.removeprefix(f"{name}."): value for key, value in summary.items() if key.startswith(f"{name}.")}


class Resources:
    """The open things of one actor: its network, and the files it touched last."""

    def __init__(self, job: Job, predict: Predictor | None) -> None:
        self.job, self.predict = job, predict
        self._open: dict[str, OrderedDict[tuple[str, str, bool], tuple[Raster, ExitStack]]] = {}
        self._stores: OrderedDict[Path, BlockStore] = OrderedDict()
        self._making = threading.Lock()
        self._closed = False

    def raster(self, path: str, reader: Mapping[str, Any]) -> Raster:
        """The image at a path, held open while it is in use; each reading thread has files of its own.

        A truth (its reader is the job's own) is read beside the image that was asked for last, which therefore stays.
        """
        mine = self._open.setdefault(threading.current_thread().name, OrderedDict())
        is_truth = reader is self.job.truth_reader
        key = (path, repr(sorted(reader.items())), is_truth)
        if key not in mine:
            spare = list(mine)
            if is_truth and spare and not spare[-1][2]:
                spare.pop()
            while spare and (len(mine) >= OPEN_FILES or sum(one.header.whole_bytes for one, _ in mine.values()) > WHOLE_BYTES):
                mine.pop(spare.pop(0))[1].close()
            stack = ExitStack()
            raster = stack.enter_context(build("readers", reader).open(path))
            with self._making:
                if self._closed:  # a thread may still be reading ahead when the run ends
                    stack.close()
                    raise BlockError(f"{path}: opened too late, the run has ended")
                mine[key] = raster, stack
        mine.move_to_end(key)
        return mine[key][0]

    def store(self, path: Path, make: Callable[[], BlockStore]) -> BlockStore:
        """The block store at a path, made once while it is in use."""
        with self._making:
            if path not in self._stores:
                if len(self._stores) >= OPEN_FILES:
                    self._stores.popitem(last=False)
                self._stores[path] = make()
            return self._stores[path]

    def close(self) -> None:
        """Close every file, for good."""
        with self._making:
            self._closed = True
            for files in list(self._open.values()):
                while files:
                    files.popitem()[1][1].close()


@contextmanager
def open_resources(job: Job) -> Iterator[Resources]:
    """Load the model once, and close everything at the end."""
    keep_freed_memory()  # blocks are mostly of one size; a backend may know better
    with ExitStack() as stack:
        predict = stack.enter_context(job.model.predictor(job.recipe, job.normalize)) if job.model else None
        bench = Resources(job, predict)
        stack.callback(bench.close)
        yield bench


def read_reflected(raster: Raster, box: Box, plane: int) -> NDArray[Any]:
    """Read a box that may leave the image; what lies outside is reflected (:func:`reflect_index`).

    Returns:
        pixels_CYX of the box's shape, laid out in memory as the reader does; only pixels inside the image are read.
    """
    rows = reflect_index(box.y0, box.y1, raster.header.shape[0])
    cols = reflect_index(box.x0, box.x1, raster.header.shape[1])
    inside = Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
    pixels_CYX = raster.read(inside, plane)
    if inside == box:
        return pixels_CYX
    # Copied run by run: indexing with numbers would copy pixel by pixel, and lay them out in another order.
    out_CYX = np.empty_like(pixels_CYX, shape=(len(pixels_CYX), *box.shape))
    for rows_to, rows_from in _runs(rows - inside.y0):
        for cols_to, cols_from in _runs(cols - inside.x0):
            out_CYX[:, rows_to, cols_to] = pixels_CYX[:, rows_from, cols_from]
    return out_CYX


def _runs(index_N: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Cut positions into stretches that go up or down by one, or stay: where each lies, and what it is a copy of.

    Example:
        >>> list(_runs(np.array([2, 1, 0, 1, 2, 3])))
        [(slice(0, 3, None), slice(2, None, -1)), (slice(3, 6, None), slice(1, 4, 1))]
    """
    turns = np.flatnonzero(np.diff(index_N, n=2)) + 2
    for start, stop in pairwise([0, *turns.tolist(), len(index_N)]):
        first, last = int(index_N[start]), int(index_N[stop - 1])
        if first == last:
            yield slice(start, stop), slice(first, first + 1)
        else:
            step = 1 if last > first else -1
            yield slice(start, stop), slice(first, last + step if last + step >= 0 else None, step)


def valid_pixels(pixels_CYX: NDArray[Any], header: Header) -> NDArray[np.bool_] | None:
    """Find pixels that hold data: not NaN in any channel, not nodata in all of them.

    Returns:
        valid_YX, or None when every pixel is valid.
    """
    valid_YX = None
    if pixels_CYX.dtype.kind == "f":
        valid_YX = ~np.isnan(pixels_CYX).any(axis=0)
    if header.nodata is not None and not np.isnan(header.nodata):
        has_data_YX = (pixels_CYX != header.nodata).any(axis=0)
        valid_YX = has_data_YX if valid_YX is None else valid_YX & has_data_YX
    return None if valid_YX is None or valid_YX.all() else valid_YX
