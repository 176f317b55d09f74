"""What of an image is not computed, found before its blocks are begun."""

from __future__ import annotations

import io
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline.engine.cell_pictures import skipped_image
from pipeline.engine.job import Job
from pipeline.engine.phases import OneFinding, Phase, ReceiptFields, Reduction, finding
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.records import Block
from pipeline.skips import open_kept, picture_of

__all__ = ["Skip"]


class Skip(Phase[dict[str, Any], dict[str, Any]]):
    """Find what is kept of an image, and draw it as a small picture."""

    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where something is skipped."""
        return job.goal == "segment" and job.skip is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """Options, and the file of the regions."""
        assert job.skip is not None
        return job.skip.model_dump(mode="json"), job.skip.identity(image.name, image.path), job.recipe.halo

    def reduction(self, job: Job) -> Reduction:
        """Hand over what was found."""
        return OneFinding()

    def takes_time(self, job: Job, image: Image) -> bool:
        """A coarse picture takes hardly any."""
        return False

    def arrays(self, job: Job, image: Image) -> list[str]:
        """The picture."""
        return [picture_key(image)]

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> dict[str, Any]:
        """Read what it takes, and decide."""
        job = resources.job
        assert job.skip is not None
        return job.skip.find(skipped_image(block.image, job.recipe.halo))

    def work(self, resources: Resources, block: Block, loaded: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
        """Compute nothing more: no network waits for it."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: dict[str, Any], watch: Stopwatch) -> ReceiptFields:
        """Draw what is kept in white; what was found travels on the receipt."""
        from PIL import Image as Picture

        storage, key, header = resources.job.storage, picture_key(block.image), block.image.header
        payload = finding({"kept": worked} if worked else {})
        with ExitStack() as stack:
            drawn_YX = np.ones((1, 1), np.bool_)
            if worked:
                reader = build("readers", {"name": "auto"}, "skip")
                kept = open_kept(worked, header, lambda path: stack.enter_context(reader.open(path)))
                drawn_YX = picture_of(kept, header.shape, header.num_planes)
        packed = io.BytesIO()
        Picture.fromarray(drawn_YX.astype(np.uint8) * 255).save(packed, "PNG")
        storage.put(key, packed.getvalue())
        return {"payload": payload, "files": {key: packed.tell()}}


def picture_key(image: Image) -> str:
    """Return the key of the picture of what is kept."""
    return f"report/skips/{image.name}.png"
