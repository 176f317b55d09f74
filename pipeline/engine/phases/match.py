"""Pairs of labels in neighbouring blocks that are one object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.job import Job
from pipeline.engine.objects import Arrays, Subject, labels_phase, match_labels, method_of, pairs_kind
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image, hash_values
from pipeline.records import Block

__all__ = ["Match"]


class Match(Phase[Arrays, Arrays]):
    """Compare the labels of a block with those of its right and lower neighbours, where both see the same pixels."""

    after = ("label",)
    follows = ("label",)
    subject: ClassVar[Subject] = "predicted"

    def applies(self, job: Job, image: Image) -> bool:
        """Where the YAML asks for objects."""
        return job.goal == "segment" and job.instances is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The rule; the rest follows from the labels."""
        return (method_of(job, self.subject).joins,)

    def takes_time(self, job: Job, image: Image) -> bool:
        """Comparing strips takes little time."""
        return False

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The labels."""
        return (labels_phase(self.subject),)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Arrays:
        """Read the labels that both sides see, and match them."""
        return match_labels(resources.job, block, self.subject)

    def work(self, resources: Resources, block: Block, loaded: Arrays, watch: Stopwatch) -> Arrays:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Arrays, watch: Stopwatch) -> ReceiptFields:
        """Write the pairs."""
        files = PartFiles(resources.job, block.image).write(pairs_kind(self.subject), block, worked)
        return {"digest": hash_values([pixel_digest(array) for array in worked.values()]), "files": files}
