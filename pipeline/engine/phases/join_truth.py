"""The truth objects of an image: labels of one object get one id."""

from __future__ import annotations

from pipeline.engine.job import Job
from pipeline.engine.objects import joins_truth
from pipeline.engine.phases.join import Join
from pipeline.inputs import Image

__all__ = ["JoinTruth"]


class JoinTruth(Join):
    """Join the labels of the truth as :class:`Join` does those of the prediction."""

    after = ("match_truth",)
    subject = "truth"

    def applies(self, job: Job, image: Image) -> bool:
        """Where objects are scored, and the truth has no ids of its own."""
        return joins_truth(job, image)
