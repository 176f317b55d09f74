"""Torch modules that are built here, their weights, and what is measured of them.

Owns: reading and recognising files of weights, stride and field found by trial. May import: base modules and storage.
Never touches: models. The modules that import torch are imported by name, where a network is built.
"""

from __future__ import annotations

from pipeline.models.networks.segnet_layers import SegNetLayers
from pipeline.models.networks.stride_and_field import Probe, answer_key, cached, probe, remember
from pipeline.models.networks.tensor_shapes import Shapes, channels_and_classes
from pipeline.models.networks.weights import load_weights, read_pickle, read_weights, refuse_mismatch

__all__ = [
    "Probe",
    "SegNetLayers",
    "Shapes",
    "answer_key",
    "cached",
    "channels_and_classes",
    "load_weights",
    "probe",
    "read_pickle",
    "read_weights",
    "refuse_mismatch",
    "remember",
]
