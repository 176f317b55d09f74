"""The life of a block inside one actor: read, compute, write, and what each phase does.

Owns: the job that travels, the resources that an actor holds open, the block pipeline, the phases, seams and exports.
May import: records, models, backends, writers and below. Never touches: the queue of blocks, Ray, the ledger.
"""

from __future__ import annotations

from pipeline.engine.appearance_check import appearance_warning, read_windows
from pipeline.engine.areas import areas_key
from pipeline.engine.block_pipeline import cause_of, process
from pipeline.engine.block_pixels import read_reflected, read_zero_filled
from pipeline.engine.cell_pictures import find_content, skipped_share
from pipeline.engine.exports import mask_of
from pipeline.engine.job import MASK_STORE_NAME, PART_FOLDER, Job, KeptMask, mask_store, part_folder
from pipeline.engine.parts import PartFiles, discard_parts
from pipeline.engine.phases import Phase, ReceiptFields, Reduction, all_phases, phase, rests_on
from pipeline.engine.resources import Resources, open_resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.engine.thumbnails import (
    THUMBNAIL_FOLDER,
    Thumbnails,
    drawn_truth,
    key_of_truth,
    leave_thumbnails,
    pack_thumbnails,
    read_thumbnails,
    thumbnail_key,
)

__all__ = [
    "MASK_STORE_NAME",
    "PART_FOLDER",
    "THUMBNAIL_FOLDER",
    "Job",
    "KeptMask",
    "PartFiles",
    "Phase",
    "ReceiptFields",
    "Reduction",
    "Resources",
    "Stopwatch",
    "Thumbnails",
    "all_phases",
    "appearance_warning",
    "areas_key",
    "cause_of",
    "discard_parts",
    "drawn_truth",
    "find_content",
    "key_of_truth",
    "leave_thumbnails",
    "mask_of",
    "mask_store",
    "open_resources",
    "pack_thumbnails",
    "part_folder",
    "phase",
    "process",
    "read_reflected",
    "read_thumbnails",
    "read_windows",
    "read_zero_filled",
    "rests_on",
    "skipped_share",
    "thumbnail_key",
]
