"""From a plan to a finished run: the queue of blocks, its execution, progress, and the runners that carry it out.

Owns: plan, queue, execution, runners (``runners/`` alone imports Ray). May import: engine, records and below.
Never touches: pixels; how a recipe is chosen; how a report looks.
"""

from __future__ import annotations

from pipeline.scheduling.block_queue import BlockQueue, Stage
from pipeline.scheduling.execution import EXIT_INTERRUPTED, Order, execute
from pipeline.scheduling.plan import block_keys, complete, make_job, one_stage, plan_row, recount

__all__ = [
    "EXIT_INTERRUPTED",
    "BlockQueue",
    "Order",
    "Stage",
    "block_keys",
    "complete",
    "execute",
    "make_job",
    "one_stage",
    "plan_row",
    "recount",
]
