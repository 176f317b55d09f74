"""The predicted objects of an image: labels of one object get one id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.engine.job import Job
from pipeline.engine.object_ids import JoinedObjects, join_labels
from pipeline.engine.objects import Subject, labels_phase, method_of, pairs_phase
from pipeline.engine.phases import OneFinding, Phase, ReceiptFields, Reduction, finding
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block

__all__ = ["Join"]


class Join(Phase[JoinedObjects, JoinedObjects]):
    """Join the labels of all blocks, and number the objects."""

    after = ("match",)
    is_per_image = True
    subject: ClassVar[Subject] = "predicted"

    def applies(self, job: Job, image: Image) -> bool:
        """Where the YAML asks for objects."""
        return job.goal == "segment" and job.instances is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The limits of an object's area."""
        method = method_of(job, self.subject)
        return (method.min_area, method.max_area)

    def takes_time(self, job: Job, image: Image) -> bool:
        """Its work grows with the objects, not with the pixels."""
        return False

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The tables of labels, and the pairs."""
        return (labels_phase(self.subject), pairs_phase(self.subject))

    def reduction(self, job: Job) -> Reduction:
        """Pass on the number of objects, and the ids of the blocks without labels."""
        return OneFinding()

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> JoinedObjects:
        """Join, and write the id of every label."""
        return join_labels(resources.job, block, self.subject)

    def work(self, resources: Resources, block: Block, loaded: JoinedObjects, watch: Stopwatch) -> JoinedObjects:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: JoinedObjects, watch: Stopwatch) -> ReceiptFields:
        """Report what was written."""
        found = {f"{self.subject}_objects": worked.objects, f"{self.subject}_lost": list(worked.lost)}
        return {"digest": worked.digest, "files": worked.files, "payload": finding(found)}
