"""What a run works on: files found, their names, their truth, and the catalogue of images with what their headers say.

Owns: discovery, CSV lists, output names, truth pairing and truth values, samples, fingerprints.
May import: readers, models (to check an image against one), config and below. Never touches: the output folder, pixels of a whole image.
"""

from __future__ import annotations

from pipeline.inputs.catalogue import Catalogue, build_catalogue, file_hash, fingerprint, open_all, truth_header, truth_problems
from pipeline.inputs.csv_list import COLUMNS
from pipeline.inputs.discovery import Inputs, list_inputs
from pipeline.inputs.image import Image
from pipeline.inputs.names import Candidate
from pipeline.inputs.truth_map import TruthMap

__all__ = [
    "COLUMNS",
    "Candidate",
    "Catalogue",
    "Image",
    "Inputs",
    "TruthMap",
    "build_catalogue",
    "file_hash",
    "fingerprint",
    "list_inputs",
    "open_all",
    "truth_header",
    "truth_problems",
]
