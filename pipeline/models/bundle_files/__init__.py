"""Bundles on disk: a folder with ``model.yaml`` and ``weights.safetensors``.

Owns: the format; finding, reading and writing bundles; the short names of models on the command line. May import: models, storage.
Never touches: pixels.
"""

from __future__ import annotations

from pipeline.models.bundle_files.folders import MERGED_CHANNELS, find_bundle, list_bundles, read_architecture, read_spec, save_bundle
from pipeline.models.bundle_files.model_text import parse_model
from pipeline.models.bundle_files.spec import BundleSpec

__all__ = [
    "MERGED_CHANNELS",
    "BundleSpec",
    "find_bundle",
    "list_bundles",
    "parse_model",
    "read_architecture",
    "read_spec",
    "save_bundle",
]
