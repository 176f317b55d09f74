"""OpenVINO's own objects: its runtime, one for a process, and its graphs made of torch modules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.backends._graph_predictor import Graph

__all__ = ["convert", "core", "to_openvino"]


@cache
def core() -> Any:
    """OpenVINO itself: one for the process, for good.

    Each makes a stack for signal handlers; of two that come and go, the last one leaves the other's in place, which is gone
    by then, and the next Ctrl-C would end the process.
    """
    import openvino

    return openvino.Core()


def convert(graph: Graph, pixels: NDArray[Any]) -> tuple[Any, bool]:
    """Make OpenVINO's graph of a torch one, and say whether it takes any size."""
    from openvino import Type

    from pipeline.backends._graph_predictor import trace

    traced, takes_any = trace(graph, pixels.shape, "openvino")
    batch, *rest = pixels.shape
    channels = rest[-1] if graph.interleaved else rest[0]
    if takes_any:
        batch, rest = -1, [-1, -1, channels] if graph.interleaved else [channels, -1, -1]
    return to_openvino(traced, [([batch, *rest], Type(pixels.dtype)), *[([batch, channels, 1, 1], Type.f32)] * 2]), takes_any


def to_openvino(traced: Any, taken: Sequence[tuple[Sequence[int], Any]]) -> Any:
    """Make OpenVINO's graph of a recorded module, with inputs of these shapes (-1: any) and types.

    The front end is used as it is: ``openvino.convert_model`` would do the same, and report each use over the network.
    """
    from openvino import PartialShape
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    front = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # held here: the front end asks it again when it converts
    loaded = front.load(decoder)
    for place, (shape, kind) in zip(loaded.get_inputs(), taken, strict=True):
        loaded.set_partial_shape(place, PartialShape(list(shape)))
        loaded.set_element_type(place, kind)
    return front.convert(loaded)
