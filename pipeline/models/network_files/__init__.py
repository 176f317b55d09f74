"""Networks whose graph comes from a file: TorchScript, ``torch.export`` or ONNX.

Owns: the facts that such a file declares, the YAML beside it, the check of the first tile, sessions of ONNX Runtime.
May import: models, bundle_files, networks.
Never touches: how a backend runs the network.
"""

from __future__ import annotations

from pipeline.models.network_files.card_file import NetworkCard
from pipeline.models.network_files.file_facts import Axes, FileFacts, facts_of_shapes
from pipeline.models.network_files.first_tile import last_line
from pipeline.models.network_files.measuring import measure_network
from pipeline.models.network_files.named_outputs import suggested_outputs
from pipeline.models.network_files.network_file import NetworkFile, TrustedFile
from pipeline.models.network_files.onnx_session import CUDA, LazySession, onnx_providers, open_session

__all__ = [
    "CUDA",
    "Axes",
    "FileFacts",
    "LazySession",
    "NetworkCard",
    "NetworkFile",
    "TrustedFile",
    "facts_of_shapes",
    "last_line",
    "measure_network",
    "onnx_providers",
    "open_session",
    "suggested_outputs",
]
