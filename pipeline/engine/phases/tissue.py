"""What of an image counts for its statistics, found on a coarse picture of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.engine.cell_pictures import find_content
from pipeline.engine.job import Job
from pipeline.engine.phases import Phase, ReceiptFields, Reduction
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.inputs import Image
from pipeline.records import Block
from pipeline.statistics import Content, Summary, encode_summary

__all__ = ["Tissue"]


class _Found:
    """The text of the one receipt of an image."""

    def merge(self, one: Summary, other: Summary) -> Summary:
        """Keep the first: there is no other."""
        del other
        return one

    def conclude(self, total: Summary) -> dict[str, Any]:
        """Return what :meth:`pipeline.statistics.Content.to_json` returned."""
        found: dict[str, Any] = json.loads(total["found"].tobytes())
        return found


class Tissue(Phase[Content, Content]):
    """Find which pixels are not glass, collar or padding."""

    is_per_image = True

    def applies(self, job: Job, image: Image) -> bool:
        """Where statistics are fitted to colours: an even background of grey values is content, as nobody can tell it from padding."""
        return job.goal == "segment" and bool(job.fitters) and image.header.is_color

    def reduction(self, job: Job) -> Reduction:
        """Hand over what was found."""
        return _Found()

    def takes_time(self, job: Job, image: Image) -> bool:
        """A coarse picture takes hardly any."""
        return False

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> Content:
        """Read the coarse picture, and find what is empty in it."""
        return find_content(block.image)

    def work(self, resources: Resources, block: Block, loaded: Content, watch: Stopwatch) -> Content:
        """Compute nothing more: no network waits for it."""
        return loaded

    def save(self, resources: Resources, block: Block, worked: Content, watch: Stopwatch) -> ReceiptFields:
        """Write nothing: what was found travels on the receipt."""
        return {"payload": encode_summary({"found": np.frombuffer(json.dumps(worked.to_json()).encode(), np.uint8)})}
