"""The inputs of a run: images with names, headers and truth, in one catalogue.

Owns: discovery, CSV lists, output names, truth files and truth values, samples, zones, fingerprints, the working grid of each image.
May import: readers and models, to check images against them, and below. Never touches: the output folder, an image's pixels.
"""

from __future__ import annotations

from pipeline.inputs.arrivals import Arrivals
from pipeline.inputs.catalogue import Catalogue, build_catalogue, config_problems
from pipeline.inputs.csv_list import CSV_COLUMNS
from pipeline.inputs.discovery import ImageList, ListedImage, list_images
from pipeline.inputs.expectations import fit_to_model, place_on_grids, sample_range
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.file_states import FileStates
from pipeline.inputs.headers import Image, hash_values, read_headers, read_truth_header
from pipeline.inputs.left_out import LeftOut
from pipeline.inputs.limits import check_num_blocks
from pipeline.inputs.names import NameCandidate
from pipeline.inputs.truth import TRUTH_READER, TruthMap
from pipeline.inputs.truth_checks import check_truth
from pipeline.inputs.truth_places import place_notes
from pipeline.inputs.working_grid import WorkingGrid, common_pixel_size, open_at_least, open_cells, open_finer, open_image, open_truth
from pipeline.inputs.zones import OUTSIDE, ImageZones, ZoneFile

__all__ = [
    "CSV_COLUMNS",
    "OUTSIDE",
    "TRUTH_READER",
    "Arrivals",
    "Catalogue",
    "FileStates",
    "Image",
    "ImageList",
    "ImageZones",
    "LeftOut",
    "ListedImage",
    "NameCandidate",
    "TruthMap",
    "WorkingGrid",
    "ZoneFile",
    "build_catalogue",
    "check_num_blocks",
    "check_truth",
    "common_pixel_size",
    "config_problems",
    "first_of",
    "fit_to_model",
    "hash_values",
    "list_images",
    "open_at_least",
    "open_cells",
    "open_finer",
    "open_image",
    "open_truth",
    "place_notes",
    "place_on_grids",
    "read_headers",
    "read_truth_header",
    "sample_range",
]
