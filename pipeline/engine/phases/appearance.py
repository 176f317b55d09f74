"""Say where an image is far from what the model was trained on. No mask depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.engine.appearance_check import appearance_warning, read_windows
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError, InputError, StoreError
from pipeline.inputs import Image
from pipeline.models import Model
from pipeline.records import Block
from pipeline.statistics import Window

__all__ = ["Appearance"]


class Appearance(Phase[Sequence[Window], tuple[str, ...]]):
    """Compare windows of an image with the appearance that the bundle of the model keeps of its training images.

    Whatever goes wrong here costs the comparison, never the image.
    """

    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where a model knows what its training images look like."""
        return job.goal == "segment" and bool(_informed(job))

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """What is known, and what is said."""
        return tuple((model.title, model.expects.appearance, tuple(model.expects.not_for)) for model in _informed(job))

    def takes_time(self, job: Job, image: Image) -> bool:
        """A few windows take little."""
        return False

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Sequence[Window]:
        """Read the windows; none where the image cannot be read, which the blocks of its mask report."""
        try:
            return read_windows(resources.image(block.image))
        except (BlockError, InputError, StoreError):
            return ()

    def work(self, resources: Resources, block: Block, loaded: Sequence[Window], watch: Stopwatch) -> tuple[str, ...]:
        """Compare them with what each model knows."""
        job = resources.job
        is_by_image = "normalize" in job.fitters.by_name
        found = (
            appearance_warning(model, loaded, has_levels=not is_by_image and job.normalize in (None, model.normalize))
            for model in _informed(job)
        )
        return tuple(dict.fromkeys(warning for warning in found if warning))

    def save(self, resources: Resources, block: Block, worked: tuple[str, ...], watch: Stopwatch) -> ReceiptFields:
        """Write nothing: what is to be said travels on the receipt."""
        return {"warnings": worked}


def _informed(job: Job) -> list[Model]:
    """Return the models of a run that know what their training images look like."""
    return [] if job.model is None else [model for model in job.model.constituents if model.expects.appearance]
