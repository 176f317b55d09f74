"""The life of a block: read, compute, write. Three neighbouring blocks are in these stages at the same time.

::

    blocks ──▶ load ──▶ work ──▶ save ──▶ receipts
            (threads) (caller) (threads)

While one block is computed, the next one is read and the last one is written. A GPU computes faster than one thread reads,
so it gets several threads for reading and writing. Only the blocks in these stages are in memory, whatever the size of
the image. Pixels stay in this process: only receipts leave it. Both runners use this generator, so they agree.
"""

from __future__ import annotations

import os
import platform
import queue
import resource
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from typing import Any

from pipeline.engine.phases import Phase, phase
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import GigasegError, InputError, LockLost, StoreError
from pipeline.records import Block, Receipt

__all__ = ["cause_of", "process"]

Feed = Callable[[], Block | None]
"""Waits for the next block and returns it; None when there are no more."""

PhaseOf = Callable[[str], Phase[Any, Any]]


def process(
    feed: Feed, resources: Resources, read_threads: int = 1, write_threads: int = 1, phase_of: PhaseOf = phase
) -> Generator[Receipt, None, None]:
    """Take blocks until there are no more, and yield one receipt for each.

    A block that fails yields a receipt with its cause, and the others go on. An error of the store ends the run.

    Args:
        feed: called by one reading thread at a time, whenever it has room.
        resources: what this actor holds open.
        read_threads: so many blocks are loaded ahead.
        write_threads: so many blocks are written at a time.
        phase_of: looks up ``Block.phase``.

    Raises:
        StoreError: the output cannot be written.
        LockLost: another process holds the run now.
        InputError: the model turned out not to fit the images.
    """
    line = _Line(resources, read_threads, write_threads, phase_of)
    for number in range(read_threads):  # files are kept open by name
        threading.Thread(target=line.read_all, args=(feed,), daemon=True, name=f"read {number}").start()
    for _ in range(write_threads):
        threading.Thread(target=line.write_all, daemon=True, name="write").start()
    try:
        yield from line.run()
    finally:
        line.close()


class _Line:
    """The threads of the three stages, and the inbox where their results meet."""

    def __init__(self, resources: Resources, read_threads: int, write_threads: int, phase_of: PhaseOf) -> None:
        self.resources, self.phase_of = resources, phase_of
        self.read_threads, self.write_threads = read_threads, write_threads
        self.inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.to_write: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.may_read = threading.Semaphore(read_threads)  # blocks loaded ahead of the one that computes
        self.may_write = threading.Semaphore(write_threads)  # blocks being written behind it
        self.feeding = threading.Lock()
        self.closed = False

    def read_all(self, feed: Feed) -> None:
        while True:
            self.may_read.acquire()
            try:
                with self.feeding:  # after the feed's None no thread asks again
                    block = None if self.closed else feed()
                    self.closed |= block is None
            except Exception as error:  # noqa: BLE001 - raised again in the caller's thread, where it ends the run
                self.inbox.put(("broken", error))
                return
            if block is None:
                self.inbox.put(("end", None))
                return
            self.inbox.put(("loaded", self._step("load", "read", block, Stopwatch())))

    def write_all(self) -> None:
        while (item := self.to_write.get()) is not None:
            saved = self._step("save", "write", *item)
            del item  # frees the mask: the next one may take long to come
            self.may_write.release()
            self.inbox.put(("saved", saved))

    def run(self) -> Iterator[Receipt]:
        outstanding, reading = 0, self.read_threads
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
                    raise worked  # the model does not fit the images, so every block would fail
                del item
                self.may_write.acquire()
                self.to_write.put((*whose, worked))
                del worked
            else:
                outstanding -= 1
                yield receipt_of(*item)

    def close(self) -> None:
        self.closed = True
        self.may_read.release(self.read_threads)
        for _ in range(self.write_threads):
            self.to_write.put(None)

    def _step(self, name: str, stage: str, block: Block, watch: Stopwatch, *given: Any) -> tuple[Block, Stopwatch, Any]:
        """Run one step of a block; an exception of this step or an earlier one takes the place of its result."""
        if given and isinstance(given[0], Exception):
            return block, watch, given[0]
        try:
            one = self.phase_of(block.phase)
            with watch(stage):
                result = getattr(one, name)(self.resources, block, *given, watch)
                if name == "load":
                    self.resources.require_unchanged(block, whole=one.is_per_image)
                return block, watch, result
        except Exception as error:  # noqa: BLE001 - it fails this block, not the run
            del given  # the traceback would keep these pixels alive
            traceback.clear_frames(error.__traceback__)
            return block, watch, error


def receipt_of(block: Block, watch: Stopwatch, result: Any) -> Receipt:
    """Make the receipt of a block from what its last step returned or raised.

    Raises:
        StoreError, LockLost: the step raised it: the run cannot go on.
    """
    if isinstance(result, (StoreError, LockLost)):
        raise result
    fields = result if isinstance(result, dict) else {"cause": cause_of(result), "transient": not isinstance(result, GigasegError)}
    seconds = {stage: round(value, 6) for stage, value in watch.seconds.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Receipt(
        block.phase,
        block.image.name,
        block.id,
        block.key,
        attempts=block.attempt + 1,
        seconds=seconds,
        peak_bytes=peak,
        actor=f"{platform.node()}/{os.getpid()}",
        **fields,
    )


def cause_of(error: BaseException) -> str:
    """Say in one line what went wrong; an error of our own already says where."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, GigasegError) else f"{type(error).__name__}: {text}"
