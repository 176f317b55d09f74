"""Find what to skip of an image, before its blocks."""

from __future__ import annotations

import io
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.cell_pictures import skipped_image
from pipeline.engine.job import Job
from pipeline.engine.phases import OneFinding, Phase, ReceiptFields, Reduction, finding
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.inputs import Image, open_at_least
from pipeline.plugins import build
from pipeline.records import Block
from pipeline.skips import open_kept, picture_of
from pipeline.writers import draw_image

__all__ = ["Skip"]

QUICK = 4096  # longest side of a level that is read for the picture alone, pixels
SHADE = 0.35  # brightness of what is skipped


class Skip(Phase[dict[str, Any], dict[str, Any]]):
    """Find the kept part of an image, and draw it as a small picture."""

    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """If the YAML sets ``skip``."""
        return job.goal == "segment" and job.skip is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The options, and the state of the region file."""
        assert job.skip is not None
        return job.skip.model_dump(mode="json"), job.skip.identity(image.name, image.path), job.recipe.halo

    def reduction(self, job: Job) -> Reduction:
        """Pass the finding on."""
        return OneFinding()

    def takes_time(self, job: Job, image: Image) -> bool:
        """A coarse picture takes little."""
        return False

    def arrays(self, job: Job, image: Image) -> list[str]:
        """The picture."""
        return [picture_key(image)]

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> dict[str, Any]:
        """Read what the skip needs, and find the kept part."""
        job = resources.job
        assert job.skip is not None
        return job.skip.find(skipped_image(block.image, job.recipe.halo))

    def work(self, resources: Resources, block: Block, loaded: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
        """Nothing is left to compute."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: dict[str, Any], watch: Stopwatch) -> ReceiptFields:
        """Draw what is skipped dark on a small picture of the image, else black on white; the finding travels on the receipt."""
        from PIL import Image as Picture

        storage, key, header = resources.job.storage, picture_key(block.image), block.image.header
        payload = finding({"kept": worked} if worked else {})
        with ExitStack() as stack:
            drawn_YX = np.ones((1, 1), np.bool_)  # all of it
            if worked:
                reader = build("readers", {"name": "auto"}, "skip")
                kept = open_kept(worked, header, lambda path: stack.enter_context(reader.open(path)))
                drawn_YX = picture_of(kept, header.shape, header.num_planes)
        packed = io.BytesIO()
        Picture.fromarray(_drawn(block.image, drawn_YX)).save(packed, "PNG")
        storage.put(key, packed.getvalue())
        return {"payload": payload, "files": {key: packed.tell()}}


def _drawn(image: Image, kept_YX: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a picture of what is kept: on the image where it, or a level of its pyramid, is quickly read; else in white."""
    own = image.grid.own if image.grid else image.header
    is_quick = any(max(shape) <= QUICK for shape in (*own.levels, own.shape))
    if not is_quick or image.header.num_planes > 1:
        return kept_YX.astype(np.uint8) * 255
    try:
        picture_YXS = draw_image(partial(open_at_least, image), (kept_YX.shape[0], kept_YX.shape[1]), 0)
    except BlockError:  # a damaged part costs its blocks, not this picture
        return kept_YX.astype(np.uint8) * 255
    picture_YXS[~kept_YX] = picture_YXS[~kept_YX] * SHADE
    return picture_YXS


def picture_key(image: Image) -> str:
    """Return the storage key of the picture of the kept part."""
    return f"report/skips/{image.name}.png"
