"""The ids of a block, written and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.exports import write_block
from pipeline.engine.job import Job
from pipeline.engine.object_ids import ids_of
from pipeline.engine.objects import ids_kind, read_part
from pipeline.engine.parts import PartFiles
from pipeline.engine.phases import Phase, ReceiptFields
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError, StoreError
from pipeline.inputs import Image
from pipeline.records import Block, Receipt
from pipeline.statistics import ObjectParts, measure
from pipeline.storage import BlockStore

__all__ = ["Measure"]


@dataclass(frozen=True)
class LabelledPixels:
    """A block with its ids.

    Attributes:
        ids_YX: id of each pixel of the block and of a ring of one pixel around it; 0 where there is no object.
        classes: the ids in the block, in rising order, and their class ids.
        shared: the ids that lie in other blocks as well.
        image_CYX: raw values of the block.
        valid_YX: which pixels are valid; None: all.
        probability_YX: probability of the predicted class, in steps of 1/255; None: the model gives none.
    """

    ids_YX: NDArray[np.int64]
    classes: tuple[NDArray[np.int64], NDArray[np.int32]]
    shared: NDArray[np.int64]
    image_CYX: NDArray[Any]
    valid_YX: NDArray[np.bool_] | None
    probability_YX: NDArray[np.uint8] | None


class Measure(Phase[LabelledPixels, tuple[LabelledPixels, ObjectParts]]):
    """Write the ids of a block, and measure the part of each object that lies in it."""

    after = ("join",)
    reads = ("join",)
    follows = ("label", "match", "join")

    def applies(self, job: Job, image: Image) -> bool:
        """Where the YAML asks for objects."""
        return job.goal == "segment" and job.instances is not None

    def key_parts(self, job: Job, image: Image) -> tuple[Any, ...]:
        """The format of what is written; the rest follows from the ids."""
        return ("objects",)

    def reads_parts_of(self, job: Job, image: Image) -> Sequence[str]:
        """The labels and their ids, and the probabilities if the model gives them."""
        return ("label", "join", "predict") if job.model is not None and job.model.gives_scores else ("label", "join")

    def arrays(self, job: Job, image: Image) -> Sequence[str]:
        """The label image, and the table."""
        return job.ids_key(image), job.table_key(image)

    def stored_digest(self, job: Job, block: Block, receipt: Receipt) -> str | None:
        """The digest of the ids in the label image."""
        group = job.storage.below(job.ids_key(block.image)).below("0")
        return pixel_digest(BlockStore.open(group).read(block.box, block.plane)[0]) if group.exists() else None

    def discard(self, job: Job, block: Block) -> None:
        """Remove the ids of the block."""
        try:
            store = BlockStore.open(job.storage.below(job.ids_key(block.image)).below("0"))
        except StoreError:  # there is no array
            return
        store.delete(block.box, block.plane)

    def load(self, resources: Resources, block: Block, watch: Stopwatch) -> LabelledPixels:
        """Read the labels and replace them by ids; read the image and the probabilities."""
        job, lost = resources.job, tuple(block.fit.get("predicted_lost", ()))
        if block.id in lost or "predicted_objects" not in block.fit:
            raise BlockError("its labels were not joined: see the earlier failure")
        with PartFiles(job, block.image).open(ids_kind("predicted"), block.plane, lost) as file_of:
            table = file_of(block.row, block.col)
            assert table is not None
            ids, first = np.unique(table["ids"], return_index=True)
            first, ids = first[ids > 0], ids[ids > 0].astype(np.int64)
            classes, shared = table["classes"][first], ids[table["shared"][first]]
        has_probability = job.model is not None and job.model.gives_scores
        return LabelledPixels(
            ids_of(job, block, "predicted", block.box.grow(1), lost),
            (ids, classes),
            shared,
            *resources.image(block.image).read_valid(block.box, block.plane),
            read_part(job, block, "probability", block.box)[0] if has_probability else None,
        )

    def work(self, resources: Resources, block: Block, loaded: LabelledPixels, watch: Stopwatch) -> tuple[LabelledPixels, ObjectParts]:
        """Measure."""
        one, shape = loaded, block.image.header.shape
        with watch("count"):
            parts = measure(one.ids_YX, block.box, one.classes, one.image_CYX, one.valid_YX, one.probability_YX, shape, block.plane)
        return loaded, parts

    def save(self, resources: Resources, block: Block, worked: tuple[LabelledPixels, ObjectParts], watch: Stopwatch) -> ReceiptFields:
        """Write the ids, and the measures."""
        job, (loaded, measured) = resources.job, worked
        meta = job.ids_meta(block.image, block.fit["predicted_objects"])
        ids_YX = loaded.ids_YX[1:-1, 1:-1].astype(meta.dtype)
        files = write_block(resources, block, ids_YX, job.ids_key(block.image), meta)
        arrays = {**measured.arrays(), "shared": np.isin(measured.ids, loaded.shared, assume_unique=True)}
        files |= PartFiles(job, block.image).write("measures", block, arrays)
        # The digest leaves out the measures: they follow from ids, image and probabilities, which are in the keys that this one rests on.
        return {"digest": pixel_digest(ids_YX), "files": files}
