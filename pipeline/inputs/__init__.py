"""What a run works on: the images with their names and their truth, and the catalogue of what their headers say.

Owns: discovery, CSV lists, output names, truth files and truth values, samples, fingerprints.
May import: readers and models, to check images against them, and below. Never touches: the output folder, an image's pixels.
"""

from __future__ import annotations

from pipeline.inputs.catalogue import Catalogue, build_catalogue, check_truth
from pipeline.inputs.csv_list import CSV_COLUMNS
from pipeline.inputs.discovery import ImageList, ListedImage, NameCandidate, list_images
from pipeline.inputs.headers import Image, hash_values, read_headers, read_truth_header
from pipeline.inputs.truth import TRUTH_READER, TruthMap

__all__ = [
    "CSV_COLUMNS",
    "TRUTH_READER",
    "Catalogue",
    "Image",
    "ImageList",
    "ListedImage",
    "NameCandidate",
    "TruthMap",
    "build_catalogue",
    "check_truth",
    "hash_values",
    "list_images",
    "read_headers",
    "read_truth_header",
]
