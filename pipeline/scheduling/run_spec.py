"""What is to be executed: everything that one execution of a run is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import Compute
from pipeline.engine import Job, SeamFiles, phase
from pipeline.records import Block, Receipt, RunFolder
from pipeline.scheduling.block_queue import Stage

__all__ = ["RunSpec"]


@dataclass(frozen=True)
class RunSpec:
    """What is to be executed, and where.

    Attributes:
        folder: the output folder.
        job: what every actor is told.
        stages: phases and blocks of each image, by name, in the plan's order.
        plan: the plan row of the ledger: all that a report needs besides receipts.
        runner: ``serial`` or ``ray``.
        compute: the YAML's ``compute``.
        run: fields of run.json that are known before the run begins.
        config: the resolved YAML, for the folder's config.yaml; empty: none is written.
        forgets: which receipts of quarantined blocks are forgotten, so that the blocks are tried again.
        max_failed: give up above so many quarantined blocks; None: never.
    """

    folder: RunFolder
    job: Job
    stages: Mapping[str, Sequence[Stage]]
    plan: Mapping[str, Any]
    runner: str
    compute: Compute
    run: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    forgets: Callable[[Receipt], bool] = lambda _: False
    max_failed: int | None = None

    @property
    def blocks(self) -> Iterator[Block]:
        """Every block of every phase, in the plan's order."""
        return (block for stages in self.stages.values() for stage in stages for block in stage.blocks)

    @property
    def temporary_files(self) -> dict[str, SeamFiles]:
        """Files that blocks leave for later phases, by image; images without such files are not in it."""
        found = {}
        for name, stages in self.stages.items():
            for stage in stages:
                if files := phase(stage.phase).temporary_files(self.job, stage.blocks[0].image):
                    found[name] = files
        return found

    @property
    def count_keys(self) -> dict[str, str]:
        """What the counts of each image depend on besides its mask, by image."""
        return {image["name"]: image["count_key"] for image in self.plan["images"]}
