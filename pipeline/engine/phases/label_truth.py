"""Labels of truth objects where the truth has no ids: connected components of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.engine.job import Job
from pipeline.engine.objects import joins_truth, truth_parts
from pipeline.engine.phases.label import Label
from pipeline.inputs import Image

__all__ = ["LabelTruth"]


class LabelTruth(Label):
    """Tell the truth objects of a block apart."""

    after = ()
    subject = "truth"

    def applies(self, job: Job, image: Image) -> bool:
        """Where objects are scored, and the truth has no ids of its own."""
        return joins_truth(job, image)

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The truth, and the meaning of its values."""
        return (*super().key_parts(job, image), *truth_parts(job, image))

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """None: the truth is the user's file."""
        return ()
