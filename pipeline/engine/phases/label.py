"""Labels of the objects in a block, and in the pixels that its neighbours see as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.exports import write_block
from pipeline.engine.job import Job
from pipeline.engine.objects import BlockLabels, Subject, label_block, labels_header, labels_kind, method_of, read_region
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.geometry import Box
from pipeline.inputs import Image, hash_values
from pipeline.instances import Region
from pipeline.records import Block

__all__ = ["Label"]


class Label(Phase[tuple[Box, Region], BlockLabels]):
    """Tell the objects of a block apart."""

    after: ClassVar[tuple[str, ...]] = ("predict",)
    subject: ClassVar[Subject] = "predicted"

    def applies(self, job: Job, image: Image) -> bool:
        """Where the YAML asks for objects."""
        return job.goal == "segment" and job.instances is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The method, and the classes that have objects."""
        method = method_of(job, self.subject)
        return (type(method).__name__, method.model_dump(mode="json"), list(job.object_classes))

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The maps and probabilities, where the method needs them."""
        return ("predict",) if job.model_maps or method_of(job, self.subject).uses_probs else ()

    def arrays(self, job: Job, image: Image) -> Sequence[str]:
        """The labels."""
        return (PartFiles(job, image).store_key(labels_kind(self.subject)),)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> tuple[Box, Region]:
        """Read the region."""
        return read_region(resources, block, self.subject)

    def work(self, resources: Resources, block: Block, loaded: tuple[Box, Region], watch: Stopwatch) -> BlockLabels:
        """Label the region."""
        method = method_of(resources.job, self.subject)
        with watch("compute"):
            return label_block(resources.job, block, loaded[0], method.label(loaded[1]), method.halo)

    def save(self, resources: Resources, block: Block, worked: BlockLabels, watch: Stopwatch) -> ReceiptFields:
        """Write the labels of the block's own pixels, their table, and the labels of the pixels that its neighbours see as well."""
        parts, kind = PartFiles(resources.job, block.image), labels_kind(self.subject)
        files = write_block(resources, block, worked.core_YX, parts.store_key(kind), labels_header(block.image))
        files |= parts.write(kind, block, {**worked.table, **worked.strips})
        digests = [pixel_digest(array) for array in (worked.core_YX, *worked.table.values(), *worked.strips.values())]
        return {"digest": hash_values(digests), "files": files}
