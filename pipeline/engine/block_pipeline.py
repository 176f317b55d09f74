"""The life of a block: read, compute, write, one after the other and each beside the next block's.

::

    blocks ──▶ load ──▶ work ──▶ save ──▶ receipts
            (threads) (caller) (threads)

While one block computes, the next is read and the last is written; a GPU, which is faster than that, gets several
threads for each. No more blocks than these are held, so memory is bounded whatever the image. Pixels stay here: only
receipts leave. Both runners use this same generator, which is why they agree.
"""

from __future__ import annotations

import queue
import resource
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.errors import GigasegError, InputError, StoreError
from pipeline.records import Block, Receipt

__all__ = ["Phase", "Watch", "process"]

Feed = Callable[[], Block | None]
"""Returns the next block, waiting for it; None when there are no more."""


class Phase(Protocol):
    """What is done to a block, in three steps; a step returns what the next one takes."""

    def load(self, block: Block, watch: Watch) -> Any:
        """Read pixels; runs in the reading thread."""

    def work(self, block: Block, loaded: Any, watch: Watch) -> Any:
        """Compute; runs in the caller's thread, where the network lives."""

    def save(self, block: Block, worked: Any, watch: Watch) -> dict[str, Any]:
        """Write, and return the receipt's fields; runs in the writing thread."""


class Watch:
    """Seconds that one block spent in each stage; a stage inside another one is not counted twice.

    Example:
        >>> watch = Watch()
        >>> with watch("compute"), watch("stitch"):
        ...     pass
        >>> list(watch.seconds)
        ['stitch', 'compute']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = 0.0  # of the stages inside the one that is running

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time inside the context to a stage."""
        start, before, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + took - self._inner
            self._inner = before + took


def process(feed: Feed, phases: dict[str, Phase], readers: int = 1, writers: int = 1) -> Generator[Receipt, None, None]:
    """Take blocks until there are no more, and give back one receipt for each.

    A block that fails gives a receipt with its cause and the others go on. What is wrong with the
    store rather than with a block ends the run.

    Args:
        feed: called by one reading thread at a time, whenever it has room.
        phases: what to do, by ``Block.phase``.
        readers: threads that read; so many blocks are loaded ahead.
        writers: threads that write.

    Raises:
        StoreError: the output cannot be written.
        InputError: computing showed that the model does not fit the images.
    """
    line = _Line(phases, readers, writers)
    for number in range(readers):  # files are kept open by name
        threading.Thread(target=line.read_all, args=(feed,), daemon=True, name=f"read {number}").start()
    for _ in range(writers):
        threading.Thread(target=line.write_all, daemon=True, name="write").start()
    try:
        yield from line.run()
    finally:
        line.close()


class _Line:
    """The three stations and the one inbox where their results meet."""

    def __init__(self, phases: dict[str, Phase], readers: int, writers: int) -> None:
        self.phases, self.readers, self.writers = phases, readers, writers
        self.inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.to_write: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.may_read = threading.Semaphore(readers)  # blocks loaded ahead of the one that computes
        self.may_write = threading.Semaphore(writers)  # blocks being written behind it
        self.feeding = threading.Lock()
        self.closed = False

    def read_all(self, feed: Feed) -> None:
        while True:
            self.may_read.acquire()
            try:
                with self.feeding:  # the end is said once, and is the end for all
                    block = None if self.closed else feed()
                    self.closed |= block is None
            except Exception as error:  # noqa: BLE001 - it ends the run, in the thread that can
                self.inbox.put(("broken", error))
                return
            if block is None:
                self.inbox.put(("end", None))
                return
            self.inbox.put(("loaded", self._step("load", "read", block, Watch())))

    def write_all(self) -> None:
        while (item := self.to_write.get()) is not None:
            saved = self._step("save", "write", *item)
            del item  # a mask is large, and the next one may be long in coming
            self.may_write.release()
            self.inbox.put(("saved", saved))

    def run(self) -> Iterator[Receipt]:
        outstanding, reading = 0, self.readers
        while reading or outstanding:
            kind, item = self.inbox.get()
            if kind == "broken":
                raise item
            if kind == "end":
                reading -= 1
                self.may_read.release()
            elif kind == "loaded":
                outstanding += 1
                self.may_read.release()
                *whose, worked = self._step("work", "compute", *item)
                if isinstance(worked, InputError) and worked is not item[2]:
                    raise worked  # the model does not fit the images: no block of the run could be done
                del item
                self.may_write.acquire()
                self.to_write.put((*whose, worked))
                del worked
            else:
                outstanding -= 1
                yield receipt_of(*item)

    def close(self) -> None:
        self.closed = True
        self.may_read.release(self.readers)
        for _ in range(self.writers):
            self.to_write.put(None)

    def _step(self, name: str, stage: str, block: Block, watch: Watch, *given: Any) -> tuple[Block, Watch, Any]:
        """Run one step; what it raises, or an earlier one has, travels on in place of its result."""
        if given and isinstance(given[0], Exception):
            return block, watch, given[0]
        try:
            with watch(stage):
                return block, watch, getattr(self.phases[block.phase], name)(block, *given, watch)
        except Exception as error:  # noqa: BLE001 - whatever a block raises is that block's, not the run's
            del given  # which the error's traceback would hold, and what the step made of it
            traceback.clear_frames(error.__traceback__)
            return block, watch, error


def receipt_of(block: Block, watch: Watch, result: Any) -> Receipt:
    """Make the receipt of a block from what its last step returned or raised.

    Raises:
        StoreError: when that is what the step raised.
    """
    if isinstance(result, StoreError):
        raise result
    fields = result if isinstance(result, dict) else {"cause": cause_of(result), "transient": not isinstance(result, GigasegError)}
    seconds = {stage: round(value, 6) for stage, value in watch.seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Receipt(
        block.phase, block.image.name, block.id, block.key, attempts=block.attempt + 1, seconds=seconds, peak_bytes=peak, **fields
    )


def cause_of(error: BaseException) -> str:
    """One line that names what went wrong; our own errors already say where."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, GigasegError) else f"{type(error).__name__}: {text}"
