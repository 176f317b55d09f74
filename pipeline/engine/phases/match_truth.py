"""Pairs of labels in neighbouring blocks that are one truth object."""

from __future__ import annotations

from pipeline.engine.job import Job
from pipeline.engine.objects import joins_truth
from pipeline.engine.phases.match import Match
from pipeline.inputs import Image

__all__ = ["MatchTruth"]


class MatchTruth(Match):
    """Compare the labels of the truth as :class:`Match` does those of the prediction."""

    after = ("label_truth",)
    follows = ("label_truth",)
    subject = "truth"

    def applies(self, job: Job, image: Image) -> bool:
        """Where objects are scored, and the truth has no ids of its own."""
        return joins_truth(job, image)
