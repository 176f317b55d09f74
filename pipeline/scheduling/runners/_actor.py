"""What runs inside an actor: a queue of blocks in, a stream of receipts out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.engine import Job, open_resources, phases_of, process
from pipeline.records import Block

__all__ = ["Actor"]


class Actor:
    """Holds one core or GPU, loads the model once, and works through what it is fed.

    Two calls run side by side: :meth:`receipts` for the whole life of the actor, and the short ones.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self.draining = threading.Event()

    def receipts(self) -> Iterator[Any]:
        """Give the node's id once the model is loaded, then a receipt for every block."""
        import ray

        with open_resources(self.job) as bench:
            yield ray.get_runtime_context().get_node_id()
            yield from process(self._next, phases_of(bench), *self.job.recipe.io_threads)

    def feed(self, blocks: Sequence[Block]) -> None:
        """Take more blocks; they are worked through in order."""
        for block in blocks:
            self.blocks.put(block)

    def drain(self) -> None:
        """Finish the blocks in flight, begin no other."""
        self.draining.set()
        self.blocks.put(None)

    def _next(self) -> Block | None:
        block = self.blocks.get()
        return None if self.draining.is_set() else block
