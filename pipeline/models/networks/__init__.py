"""Torch modules that this package builds, their weights, and the measurement of stride and field.

Owns: reading and recognising weights files, finding stride and field by experiment. May import: storage, plugins and base modules.
Never touches: models, pixels. Modules that import torch are imported by name, inside the functions that build networks.
"""

from __future__ import annotations

from pipeline.models.networks.stride_and_field import Probe, probe, probe_key, recall_kept, recall_probe, remember_probe
from pipeline.models.networks.weights import Shapes, channels_and_classes, load_weights, read_pickle, read_weights, refuse_mismatch

__all__ = [
    "Probe",
    "Shapes",
    "channels_and_classes",
    "load_weights",
    "probe",
    "probe_key",
    "read_pickle",
    "read_weights",
    "recall_kept",
    "recall_probe",
    "refuse_mismatch",
    "remember_probe",
]
