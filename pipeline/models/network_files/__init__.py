"""Networks whose graph comes from a file: TorchScript, ``torch.export`` or ONNX.

Owns: the facts that such a file declares, the check of the first tile, sessions of ONNX Runtime. May import: models, networks.
Never touches: how a backend runs the network.
"""

from __future__ import annotations

from pipeline.models.network_files.network_file import FileFacts, NetworkFile, TrustedFile, facts_of_shapes, last_line
from pipeline.models.network_files.onnx_session import CUDA, LazySession, onnx_providers, open_session

__all__ = [
    "CUDA",
    "FileFacts",
    "LazySession",
    "NetworkFile",
    "TrustedFile",
    "facts_of_shapes",
    "last_line",
    "onnx_providers",
    "open_session",
]
