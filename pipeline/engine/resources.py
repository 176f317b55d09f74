"""What one actor holds open: its network, and the files that it touched last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from pipeline.backends import keep_freed_memory
from pipeline.engine.job import Job
from pipeline.errors import BlockError
from pipeline.inputs import Image, open_image, open_truth
from pipeline.models import Predictor
from pipeline.plugins import build
from pipeline.raster import Raster
from pipeline.records import Block
from pipeline.skips import Kept, open_kept
from pipeline.storage import BlockStore

__all__ = ["Resources", "open_resources"]

OPEN_FILES = 16  # images held open at once by an actor; enough for a lease of small ones
WHOLE_BYTES = 2**27  # of images that must be decoded whole, before the oldest one is closed


class Resources:
    """The open network and files of one actor.

    Args:
        job: what the actor was told.
        predictor: the open model; None where nothing is predicted.
    """

    def __init__(self, job: Job, predictor: Predictor | None) -> None:
        self.job = job
        self._predictor = predictor
        self._open: dict[str, OrderedDict[tuple[Any, ...], tuple[Raster, ExitStack]]] = {}
        self._stores: OrderedDict[str, BlockStore] = OrderedDict()
        self._making = threading.Lock()
        self._closed = False

    @property
    def predictor(self) -> Predictor:
        """The open model."""
        assert self._predictor is not None, "a phase that predicts needs a model"
        return self._predictor

    def image(self, image: Image) -> Raster:
        """Return the opened image on its working grid; each reading thread opens its own files.

        The files used last stay open.
        """
        options = repr(sorted(image.reader.items()))
        key = image.path, options, image.grid and image.grid.key, image.samples, False
        return self._opened(key, lambda: open_image(image))

    def truth(self, image: Image) -> Raster:
        """Return the opened truth on the image's working grid.

        It is read together with the image, so opening it never closes the image used last.
        """
        key = image.truth, image.name, image.grid and image.grid.key, True  # one truth may lie elsewhere on each image
        return self._opened(key, lambda: open_truth(image))

    def require_unchanged(self, block: Block, *, whole: bool) -> None:
        """Raise BlockError where a file of the block's image is not as it was when the run was planned.

        What was read before is of the planned image, so that no mask is made of two. ``whole`` says that the block ends its image: then
        the chunks of an array are looked at as well.
        """
        if changed := block.image.states.changed(chunks=whole or self.job.is_single(block.image)):
            raise BlockError(f"{changed}: changed while it was read. Run again: the image is then segmented anew")

    def kept(self, image: Image, fit: Mapping[str, Any]) -> Kept | None:
        """Return the kept part of an image that the skip phase found; None: all."""
        found = fit.get("kept")
        return open_kept(found, image.header, self._opened_mask) if found else None

    def _opened_mask(self, path: str) -> Raster:
        return self._opened((path, "kept", True), lambda: build("readers", {"name": "auto"}, "skip").open(path))

    def _opened(self, key: tuple[Any, ...], make: Callable[[], AbstractContextManager[Raster]]) -> Raster:
        """Return an open file from the cache; the last part of ``key`` says whether it is read together with an image."""
        mine = self._open.setdefault(threading.current_thread().name, OrderedDict())
        if key not in mine:
            spare = list(mine)
            if key[-1] and spare and not spare[-1][-1]:
                spare.pop()
            while spare and (len(mine) >= OPEN_FILES or sum(one.header.whole_bytes for one, _ in mine.values()) > WHOLE_BYTES):
                mine.pop(spare.pop(0))[1].close()
            stack = ExitStack()
            raster = stack.enter_context(make())
            with self._making:
                if self._closed:  # a thread may still be reading ahead when the run ends
                    stack.close()
                    raise BlockError(f"{key[0]}: opened too late, the run has ended")
                mine[key] = raster, stack
        mine.move_to_end(key)
        return mine[key][0]

    def store(self, key: str, make: Callable[[], BlockStore]) -> BlockStore:
        """Return the block store of a key; the stores used last are kept."""
        with self._making:
            if key not in self._stores:
                if len(self._stores) >= OPEN_FILES:
                    self._stores.popitem(last=False)
                self._stores[key] = make()
            return self._stores[key]

    def close(self) -> None:
        """Close every file; none can be opened again."""
        with self._making:
            self._closed = True
            for files in list(self._open.values()):
                while files:
                    files.popitem()[1][1].close()


@contextmanager
def open_resources(job: Job) -> Iterator[Resources]:
    """Load the model, and close the model and every file at the end."""
    keep_freed_memory()  # blocks are mostly of one size; a backend may know better
    with ExitStack() as stack:
        predictor = stack.enter_context(job.model.predictor(job.recipe, job.normalize, job.model_maps)) if job.model else None
        resources = Resources(job, predictor)
        stack.callback(resources.close)
        yield resources
