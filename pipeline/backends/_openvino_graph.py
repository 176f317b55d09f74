"""OpenVINO's runtime, one for each process, and its graphs, converted from torch modules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.backends._graph import Graph

__all__ = ["convert", "core", "to_openvino"]


@cache
def core() -> Any:
    """Return OpenVINO's runtime, which lives as long as the process.

    Each runtime installs a stack for signal handlers and restores the former one when it is freed. With two of them, the
    restored stack may be freed memory, and the next Ctrl-C would crash the process.
    """
    import openvino

    return openvino.Core()


def convert(graph: Graph, pixels: NDArray[Any]) -> tuple[Any, bool]:
    """Convert a torch graph to OpenVINO's, and return it with whether it takes any size."""
    from openvino import Type

    from pipeline.backends._graph import trace

    traced, takes_any = trace(graph, pixels.shape, "openvino")
    batch, *rest = pixels.shape
    channels = rest[-1] if graph.interleaved else rest[0]
    if takes_any:
        batch, rest = -1, [-1, -1, channels] if graph.interleaved else [channels, -1, -1]
    return to_openvino(traced, [([batch, *rest], Type(pixels.dtype)), *[([batch, channels, 1, 1], Type.f32)] * 2]), takes_any


def to_openvino(traced: Any, taken: Sequence[tuple[Sequence[int], Any]]) -> Any:
    """Convert a recorded module to an OpenVINO graph, with inputs of these shapes (-1: any) and types.

    This function uses the front end directly, because ``openvino.convert_model`` reports each use over the network.
    """
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    front = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # referenced until the end: the front end calls it again when it converts
    loaded = front.load(decoder)
    for port, (shape, kind) in zip(loaded.get_inputs(), taken, strict=True):
        loaded.set_partial_shape(port, PartialShape(list(shape)))
        loaded.set_element_type(port, kind)
    return front.convert(loaded)
