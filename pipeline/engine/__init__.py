"""The life of a block inside one actor: read, compute, write, and what each phase does.

Owns: the job that travels, the resources that an actor holds open, the block pipeline, the phases, seams and exports.
May import: records, models, backends, writers and below. Never touches: the queue of blocks, Ray, the ledger.
"""

from __future__ import annotations

from pipeline.engine.block_pipeline import Watch, cause_of, process
from pipeline.engine.exports import mask_of
from pipeline.engine.job import Job, open_resources, read_reflected, valid_pixels
from pipeline.engine.phases import phases_of
from pipeline.engine.prediction import Predict, digest
from pipeline.engine.seam_files import SEAM_FOLDER, SeamFiles, seam_folders

__all__ = [
    "SEAM_FOLDER",
    "Job",
    "Predict",
    "SeamFiles",
    "Watch",
    "cause_of",
    "digest",
    "mask_of",
    "open_resources",
    "phases_of",
    "process",
    "read_reflected",
    "seam_folders",
    "valid_pixels",
]
