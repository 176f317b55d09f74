"""ONNX Runtime: the network exported in memory, faster than eager torch in float32; CPU and CUDA."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.backends._process import keep_freed_memory, torch_threads
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.models.network_files import CUDA, onnx_providers, open_session

if TYPE_CHECKING:
    from torch import nn

    from pipeline.backends._graph import GraphKind, Run
    from pipeline.backends._lazy_network import LazyNetwork
    from pipeline.models import Predictor

__all__ = ["Onnxruntime"]

OPSET = 17
RAW = ("uint8", "float32")


class Onnxruntime(Backend):
    """One graph from raw pixels to logits, or to class ids where nobody needs logits; float32.

    Logits come back as float32 numpy, contiguous (B, K, Y, X).

    Example::

        backend: {name: onnxruntime}
    """

    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    compiles: ClassVar[bool] = True

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predictor]:
        """Take the network over; see :class:`pipeline.backends.Backend`. The first tile of each dtype exports it."""
        self.require(recipe)
        from pipeline.backends._graph import GraphPredictor
        from pipeline.backends._lazy_network import LazyNetwork

        if recipe.device == "cuda" and CUDA not in onnx_providers():
            raise InputError(Problem("compute.device", "cuda, which this ONNX Runtime lacks", "cpu", "pip install onnxruntime-gpu"))
        keep_freed_memory()
        with torch_threads(recipe.threads):
            lazy = LazyNetwork(lambda: network)
            yield GraphPredictor(normalize, lambda kind, pixels: _load(lazy, kind, pixels, recipe), RAW)


def _load(network: LazyNetwork, kind: GraphKind, pixels: NDArray[Any], recipe: Recipe) -> tuple[Run, bool]:
    """Export a network's graph and open it; return the function, and whether it takes any size.

    Raises:
        InputError: the network cannot be exported to ONNX, or ONNX Runtime cannot run it.
    """
    file, takes_any = _export(network.ready(), kind, pixels)
    session = open_session(file, threads=recipe.threads, cuda=recipe.device == "cuda", where="compute.backend")
    names = [port.name for port in session.get_inputs()]

    def run(inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    return run, takes_any


def _export(network: nn.Module, kind: GraphKind, pixels: NDArray[Any]) -> tuple[bytes, bool]:
    import torch

    from pipeline.backends._graph import refuse_network
    from pipeline.backends._tracing import trace

    traced, takes_any = trace(network, kind, pixels.shape, "onnxruntime")
    channels = kind.channels(pixels.shape)
    numbers = torch.ones(len(pixels), channels, 1, 1)
    file: Any = io.BytesIO()  # the older exporter accepts a file object, though its types deny it
    sides = (1, 2) if kind.interleaved else (2, 3)
    axes = {"pixels": {0: "n", sides[0]: "h", sides[1]: "w"}, "mean": {0: "n"}, "std": {0: "n"}} if takes_any else {}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this exporter is deprecated; the newer one needs another package
            torch.onnx.export(
                traced,
                (torch.from_numpy(pixels.copy()), numbers, numbers),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=["pixels", "mean", "std"],
                dynamic_axes=axes,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise refuse_network("onnxruntime", error) from error
    return file.getvalue(), takes_any
