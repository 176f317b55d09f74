"""Packages of the BioImage Model Zoo: reading, preprocessing, writing.

Owns: resource descriptions of the formats 0.4 and 0.5, and the steps that they name. May import: models, network files, networks.
Never touches: tiling, backends.
"""

from __future__ import annotations

from pipeline.models.model_zoo.architecture_file import ArchitectureFile, architecture_of
from pipeline.models.model_zoo.description import OPSET, describe, export_notes
from pipeline.models.model_zoo.package import Package, find_description, read_package

__all__ = ["OPSET", "ArchitectureFile", "Package", "architecture_of", "describe", "export_notes", "find_description", "read_package"]
