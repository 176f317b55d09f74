"""OpenVINO: the network compiled for this processor, several times faster than eager torch.

Its graphs are kept in the user's cache, so that later processes start without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.backends._process import bf16_supported, give_back_freed_memory, torch_threads, trim_memory
from pipeline.config import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pipeline.backends._graph import GraphKind, Run
    from pipeline.backends._kept_graphs import KeptGraphs
    from pipeline.backends._lazy_network import LazyNetwork
    from pipeline.models import Predictor
    from pipeline.statistics import ImageFit

__all__ = ["Openvino"]

LARGE = 2**19  # pixels of a tile above which its memory is planned for its own size
RAW = ("uint8", "int8", "uint16", "int16", "float32")


class Openvino(Backend):
    """One graph from raw pixels to logits, or to class ids where nobody needs logits; float32, bfloat16 or int8, on a CPU.

    Logits come back as float32 numpy, contiguous (B, K, Y, X).

    Example::

        backend: {name: openvino}
    """

    needs: ClassVar[tuple[str, ...]] = ("openvino",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8")
    compiles: ClassVar[bool] = True
    keeps_casts: ClassVar[bool] = True
    keeps_graphs: ClassVar[bool] = True

    @classmethod
    def missing_for_int8(cls) -> list[str]:
        """Return the packages that calibration needs and that are not installed; a calibrated network needs OpenVINO alone."""
        return [name for name in (*cls.needs, "nncf") if find_spec(name) is None]

    @staticmethod
    def calibrate(
        network: nn.Module, normalize: Mapping[str, Any] | None, tiles: Sequence[tuple[NDArray[Any], ImageFit]], folder: Path
    ) -> str:
        """Calibrate a network for eight bits; see :func:`pipeline.backends._openvino_graph.quantize`."""
        from pipeline.backends._openvino_graph import quantize

        return quantize(network, normalize, tiles, folder)

    @classmethod
    def has_kept(cls, network_key: str | None) -> bool:
        """Whether the user's cache has a graph of the network."""
        from pipeline.backends._kept_graphs import KeptGraphs

        return KeptGraphs(network_key).has_any()

    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> AbstractContextManager[Predictor]:
        """Take the network over; see :class:`pipeline.backends.Backend`. The first tile of each dtype compiles it."""
        return self.open_kept(lambda: network, None, recipe, normalize)

    @contextmanager
    def open_kept(
        self, load: Callable[[], nn.Module], network_key: str | None, recipe: Recipe, normalize: Mapping[str, Any] | None
    ) -> Iterator[Predictor]:
        """Load the network only where a graph of it is missing in the user's cache."""
        self.require(recipe)
        from pipeline.backends._graph import GraphPredictor
        from pipeline.backends._kept_graphs import KeptGraphs
        from pipeline.backends._lazy_network import LazyNetwork

        give_back_freed_memory()  # OpenVINO plans the memory of a tile, and keeps it
        kept = KeptGraphs(None if recipe.precision == "int8" else network_key)  # a calibrated network is a file of the run
        with ExitStack() as stack:

            def load_for_torch() -> nn.Module:
                stack.enter_context(torch_threads(recipe.threads))
                return load()

            network = LazyNetwork(load_for_torch)
            if not kept.has_any():
                network.load()  # a model that cannot be loaded is refused before the first tile
            predict = GraphPredictor(normalize, lambda kind, pixels: _compile(network, kept, kind, pixels, recipe), RAW)
            if recipe.precision == "bf16" and not bf16_supported():
                predict.notes.append("this processor has no bfloat16: OpenVINO computed in float32")
            yield predict


def _compile(network: LazyNetwork, kept: KeptGraphs, kind: GraphKind, pixels: NDArray[Any], recipe: Recipe) -> tuple[Run, bool]:
    """Compile a network's graph for this processor, and return it with whether it takes any size.

    Raises:
        InputError: OpenVINO cannot run the network.
    """
    from pipeline.backends._graph import refuse_network

    try:
        model, takes_any, float_type = _find_or_make(network, kept, kind, pixels, recipe)
        requests = _Requests(model, _config(recipe, float_type), by_size=takes_any)
        requests.of(pixels.shape)
    except RuntimeError as error:
        raise refuse_network("openvino", error) from error

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        request = requests.of(inputs[0].shape)
        request.infer(list(inputs), share_inputs=True, share_outputs=True)
        outputs = [tensor.data for tensor in request.output_tensors]
        # The next tile overwrites this memory, or frees it in a graph of any size; class ids must live longer than that.
        return [output.copy() for output in outputs] if kind.classes or request is requests.any else outputs

    return run, takes_any


def _find_or_make(network: LazyNetwork, kept: KeptGraphs, kind: GraphKind, pixels: NDArray[Any], recipe: Recipe) -> tuple[Any, bool, str]:
    """Return a graph for such pixels, whether it takes any size, and the type of its floats, as OpenVINO names it."""
    float_type, dtype = {"fp32": "f32", "bf16": "bf16", "int8": ""}[recipe.precision], pixels.dtype.name
    if float_type and (found := kept.read(kind, pixels.shape, dtype)):
        return *found, float_type
    ready = network.ready()
    from pipeline.backends._openvino_graph import attach_ends, convert, read_calibrated

    if not float_type:
        calibrated, float_type = read_calibrated(recipe, kind.channels(pixels.shape))
        return attach_ends(calibrated, kind, pixels), True, float_type
    model, takes_any = convert(ready, kind, pixels)
    kept.keep(model, kind, pixels.shape, dtype, takes_any=takes_any)
    return model, takes_any, float_type


class _Requests:
    """Inference requests: one graph for all sizes, and for large tiles one of their own size, whose memory is planned.

    A graph of any size needs 2.6 times the memory for values between layers. Large tiles mostly have one size, and
    come size by size, so one such graph at a time is enough. Without ``by_size``, all tiles use the first graph.
    """

    def __init__(self, model: Any, config: Mapping[str, Any], *, by_size: bool) -> None:
        self.model, self.config, self.by_size = model, config, by_size
        self.any: Any = None
        self.large: tuple[tuple[int, ...], Any] = ((), None)

    def of(self, shape: tuple[int, ...]) -> Any:
        """Return the request for pixels of this shape."""
        batch, channels = shape[0], min(shape[1:])  # there are fewer channels than rows or columns
        if self.by_size and math.prod(shape) > LARGE * batch * channels:
            if self.large[0] != shape:
                self.large = ((), None)  # freed before the next one is made
                trim_memory()
                model = self.model.clone()
                numbers = [batch, channels, 1, 1]  # mean and std; with any batch, no layer's memory is planned
                model.reshape({taken: numbers if index else list(shape) for index, taken in enumerate(model.inputs)})
                self.large = (shape, self._compiled(model))
            return self.large[1]
        self.any = self.any or self._compiled(self.model)
        return self.any

    def _compiled(self, model: Any) -> Any:
        from pipeline.backends._kept_graphs import core

        request = core().compile_model(model, "CPU", self.config).create_infer_request()
        trim_memory()  # compiling needs much memory that computing does not
        return request


def _config(recipe: Recipe, float_type: str) -> dict[str, Any]:
    return {
        # Always set: the default is bfloat16 wherever the processor has it. A calibrated network itself marks its int8 layers.
        "INFERENCE_PRECISION_HINT": float_type,
        "INFERENCE_NUM_THREADS": recipe.threads,
        "NUM_STREAMS": 1,
        # By default every process pins its threads from core 0 on, and actors would share cores.
        "ENABLE_CPU_PINNING": False,
    }
