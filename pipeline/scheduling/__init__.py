"""From a plan to a finished run: the queue of blocks, its execution, progress, and the runners that carry it out.

Owns: plan, queue, execution, audit, runners (here ``runners/`` alone imports Ray). May import: engine, records and below.
Never touches: pixels; how a recipe is chosen; how a report looks.
"""

from __future__ import annotations

from pipeline.scheduling.block_queue import BlockQueue, Position
from pipeline.scheduling.execution import EXIT_INTERRUPTED, execute
from pipeline.scheduling.live_table import ImageRow, ImageRows, LiveTable, busy_text, pace_text
from pipeline.scheduling.monitoring import MetricsAddress, read_metrics
from pipeline.scheduling.plan import RunSpec, make_job, plan_blocks, plan_row, recount
from pipeline.scheduling.stage_state import Stage
from pipeline.scheduling.tally import RESULTS, Tally, num_blocks, without_truth

__all__ = [
    "EXIT_INTERRUPTED",
    "RESULTS",
    "BlockQueue",
    "ImageRow",
    "ImageRows",
    "LiveTable",
    "MetricsAddress",
    "Position",
    "RunSpec",
    "Stage",
    "Tally",
    "busy_text",
    "execute",
    "make_job",
    "num_blocks",
    "pace_text",
    "plan_blocks",
    "plan_row",
    "read_metrics",
    "recount",
    "without_truth",
]
