"""What runs inside an actor: a queue of blocks in, a stream of receipts out."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.engine import Job, open_resources, process
from pipeline.records import Block
from pipeline.scheduling.runners._node_check import Expected, check_node, unseen

__all__ = ["READY", "Actor"]

READY = "ready"


class Actor:
    """Hold one core or GPU, load the model once, and work through the blocks that come.

    Two calls run at the same time: :meth:`receipts` for the whole life of the actor, and one of the short ones.
    """

    def __init__(self, job: Job, expected: Expected) -> None:
        self.job, self.expected = job, expected
        self.blocks: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        self.fed: dict[tuple[str, str], Block] = {}
        self.draining = threading.Event()

    def receipts(self) -> Iterator[Any]:
        """Yield a report on the node; ``READY`` once the model is loaded; for every block its receipt and files that are not there.

        Where the node has problems, nothing follows the report.
        """
        import ray

        report = check_node(ray.get_runtime_context().get_node_id(), self.job, self.expected)
        yield report
        if report.problems:
            return
        with open_resources(self.job) as resources:
            yield READY
            for receipt in process(self._next, resources, *self.job.recipe.io_threads):
                image = self.fed.pop((receipt.phase, receipt.block)).image
                yield receipt, () if receipt.ok else tuple(unseen(path for path in (image.path, image.truth) if path))

    def feed(self, blocks: Sequence[Block]) -> None:
        """Take more blocks; they are worked through in order."""
        for block in blocks:
            self.fed[block.phase, block.id] = block
            self.blocks.put(block)

    def answer(self) -> None:
        """Show that the actor can be reached."""

    def drain(self) -> None:
        """Finish the blocks in flight, begin no other."""
        self.draining.set()
        self.blocks.put(None)

    def _next(self) -> Block | None:
        block = self.blocks.get()
        return None if self.draining.is_set() else block
