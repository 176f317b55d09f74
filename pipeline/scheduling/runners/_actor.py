"""What runs inside an actor: a queue of blocks in, a stream of receipts out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.engine import Job, open_resources, process
from pipeline.records import Block

__all__ = ["Actor"]


class Actor:
    """Hold one core or GPU, load the model once, and work through the blocks that come.

    Two calls run at the same time: :meth:`receipts` for the whole life of the actor, and one of the short ones.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self.draining = threading.Event()

    def receipts(self) -> Iterator[Any]:
        """Yield the node's id once the model is loaded, then a receipt for every block."""
        import ray

        with open_resources(self.job) as resources:
            yield ray.get_runtime_context().get_node_id()
            yield from process(self._next, resources, *self.job.recipe.io_threads)

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
