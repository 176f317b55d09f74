"""OpenVINO: the network compiled for this processor, several times the speed of eager torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.backends._allocator import give_back, give_back_freed_memory
from pipeline.backends._openvino_graph import convert, core
from pipeline.backends._processor import bf16_supported
from pipeline.backends._torch_threads import torch_threads
from pipeline.config import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pipeline.backends._graph_predictor import Graph, Run
    from pipeline.models import Predictor
    from pipeline.statistics import ImageFit

__all__ = ["Openvino"]

LARGE = 2**19  # pixels of a tile from which on its memory counts
RAW = ("uint8", "int8", "uint16", "int16", "float32")


class Openvino(Backend):
    """One graph from raw pixels to logits, or to classes where nobody needs logits; float32, bfloat16 or int8, on a processor.

    Logits come back as float32 numpy, contiguous (B, K, Y, X).

    Example::

        backend: {name: openvino}
    """

    needs: ClassVar[tuple[str, ...]] = ("openvino",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8")
    compiles: ClassVar[bool] = True

    @classmethod
    def missing_for_int8(cls) -> list[str]:
        """Packages that calibrating needs and that are not installed; running what was calibrated needs OpenVINO alone."""
        return [name for name in (*cls.needs, "nncf") if find_spec(name) is None]

    @staticmethod
    def calibrate(
        network: nn.Module, normalize: Mapping[str, Any] | None, tiles: Sequence[tuple[NDArray[Any], ImageFit]], folder: Path
    ) -> str:
        """Calibrate a network for eight bits; see :func:`pipeline.backends._int8_calibration.quantize`."""
        from pipeline.backends._int8_calibration import quantize

        return quantize(network, normalize, tiles, folder)

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predictor]:
        """Take the network over; see :class:`pipeline.backends.Backend`. It is compiled when the type of the pixels is known."""
        self.require(recipe)
        from pipeline.backends._graph_predictor import GraphPredictor

        give_back_freed_memory()  # it plans the memory of a tile, and holds it
        with torch_threads(recipe.threads):
            predict = GraphPredictor(network, normalize, lambda graph, pixels: _compile(graph, pixels, recipe), RAW)
            if recipe.precision == "bf16" and not bf16_supported():
                predict.notes.append("this processor has no bfloat16: OpenVINO computed in float32")
            yield predict


def _compile(graph: Graph, pixels: NDArray[Any], recipe: Recipe) -> tuple[Run, bool]:
    """Compile a graph for this processor, and say whether it takes any size.

    Raises:
        InputError: the network does something that OpenVINO cannot.
    """
    from pipeline.backends._graph_predictor import refusal

    try:
        if recipe.precision == "int8":
            model, takes_any, floats = _calibrated(graph, pixels, recipe)
        else:
            (model, takes_any), floats = convert(graph, pixels), {"fp32": "f32", "bf16": "bf16"}[recipe.precision]
        requests = _Requests(model, _config(recipe, floats), by_size=takes_any)
        requests.of(pixels.shape)
    except RuntimeError as error:
        raise refusal("openvino", error) from error

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        request = requests.of(inputs[0].shape)
        request.infer(list(inputs), share_inputs=True)
        found = [tensor.data for tensor in request.output_tensors]
        # The next tile is computed into the same memory: classes are kept for longer, and a graph of any size may let go of it.
        return [one.copy() for one in found] if graph.classes or request is requests.any else found

    return run, takes_any


class _Requests:
    """What computes tiles: one graph for all sizes, and for large tiles one of their own size, whose memory is planned.

    A graph of any size keeps what it computes between layers in 2.6 times the memory. Large tiles are mostly of one size, and
    come size by size, so that one such graph at a time is enough.

    Args:
        model: OpenVINO's.
        config: how it is to compute.
        by_size: whether large tiles get a graph of their own.
    """

    def __init__(self, model: Any, config: Mapping[str, Any], *, by_size: bool) -> None:
        self.model, self.config, self.by_size = model, config, by_size
        self.any: Any = None
        self.large: tuple[tuple[int, ...], Any] = ((), None)

    def of(self, shape: tuple[int, ...]) -> Any:
        """Give the request for pixels of this shape."""
        if self.by_size and math.prod(shape) > LARGE * shape[0] * min(shape[1:]):  # the channels, of which there are fewer than pixels
            if self.large[0] != shape:
                self.large = ((), None)  # let go of before the next one is made
                give_back()
                model = self.model.clone()
                model.reshape({model.inputs[0]: list(shape)})
                self.large = (shape, self._compiled(model))
            return self.large[1]
        self.any = self.any or self._compiled(self.model)
        return self.any

    def _compiled(self, model: Any) -> Any:
        request = core().compile_model(model, "CPU", self.config).create_infer_request()
        give_back()  # compiling takes much that computing does not
        return request


def _config(recipe: Recipe, floats: str) -> dict[str, Any]:
    """How OpenVINO is to compute, with floats of which type."""
    return {
        # Said always: left alone, it would be bfloat16 wherever the processor has it. A calibrated network says where it is int8.
        "INFERENCE_PRECISION_HINT": floats,
        "INFERENCE_NUM_THREADS": recipe.threads,
        "NUM_STREAMS": 1,
        # Left alone, every process pins its threads from core 0 on, and actors take turns.
        "ENABLE_CPU_PINNING": False,
    }


def _calibrated(graph: Graph, pixels: NDArray[Any], recipe: Recipe) -> tuple[Any, bool, str]:
    from pipeline.backends._int8_calibration import floats_of, read, surround

    model = read(recipe, pixels.shape[3 if graph.interleaved else 1])
    floats = floats_of(model)
    return surround(model, graph, pixels), True, floats
