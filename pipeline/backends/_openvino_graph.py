"""OpenVINO's graphs: converted from torch modules, and calibrated to eight bits with tiles of the user's images.

A network is calibrated once, then used unchanged by every process. A folder named by its hash holds one graph from float32 pixels to
logits for each number of channels. Each process adds inputs for its pixels and outputs for what it needs, so that scores and class
ids come from the same arithmetic.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.backends._graph import GraphKind, refuse_network
from pipeline.backends._kept_graphs import core
from pipeline.backends._process import bf16_supported
from pipeline.backends._tracing import Argmax, prepare_network, trace
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.statistics import mean_and_std
from pipeline.storage import open_storage

if TYPE_CHECKING:
    from pipeline.statistics import ImageFit

__all__ = ["attach_ends", "convert", "quantize", "read_calibrated"]

WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
FLOAT_TYPE = ["gigaseg", "floats"]  # key of the float type in a graph
PASSING = {"Slice", "StridedSlice", "Pad", "MaxPool", "Reshape", "Transpose", "Interpolate"}


def convert(network: nn.Module, kind: GraphKind, pixels: NDArray[Any]) -> tuple[Any, bool]:
    """Convert the graph of a prepared network to OpenVINO's, and return it with whether it takes any size."""
    from openvino import Type

    traced, takes_any = trace(network, kind, pixels.shape, "openvino")
    batch, *rest = pixels.shape
    channels = kind.channels(pixels.shape)
    if takes_any:
        batch, rest = -1, [-1, -1, channels] if kind.interleaved else [channels, -1, -1]
    return _to_openvino(traced, [([batch, *rest], Type(pixels.dtype)), *[([batch, channels, 1, 1], Type.f32)] * 2]), takes_any


def _to_openvino(traced: Any, taken: Sequence[tuple[Sequence[int], Any]]) -> Any:
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


def quantize(network: nn.Module, normalize: Mapping[str, Any] | None, tiles: Sequence[tuple[NDArray[Any], ImageFit]], folder: Path) -> str:
    """Calibrate a network and write it into a folder, once for each number of channels that the tiles have.

    Args:
        network: the function takes the network over and changes it.
        normalize: see :class:`pipeline.backends.Backend`.
        tiles: raw pixels_BCYX of one height and width, and the fit of their image.
        folder: an empty folder.

    Returns:
        The hash of the folder's files.

    Raises:
        InputError: OpenVINO cannot run the network, or runs it at one size only.
    """
    import openvino

    network = prepare_network(network)
    groups: dict[int, list[Any]] = {pixels_BCYX.shape[1]: [] for pixels_BCYX, _ in tiles}
    for pixels_BCYX, fit in tiles:
        groups[pixels_BCYX.shape[1]].append(_inputs(pixels_BCYX, normalize, fit))
    for channels, inputs in groups.items():
        try:
            model, takes_any = convert(network, GraphKind(interleaved=False, classes=False), inputs[0][0])
            if not takes_any:
                raise refuse_network("openvino", "in int8, as it takes one size of tile only")
            quantized = _quantize(model, inputs)
        except RuntimeError as error:
            raise refuse_network("openvino", error) from error
        # The layers that stay floats use bfloat16 where this processor has it. The file says so, and every process computes the same.
        quantized.set_rt_info("bf16" if bf16_supported() else "f32", FLOAT_TYPE)
        openvino.save_model(quantized, folder / f"{channels}.xml", compress_to_fp16=False)
    return _digest(folder)


def _inputs(pixels_BCYX: NDArray[Any], normalize: Mapping[str, Any] | None, fit: ImageFit) -> list[NDArray[np.float32]]:
    batch, channels = pixels_BCYX.shape[:2]
    numbers = mean_and_std(normalize, [fit] * batch, channels)
    mean_BC, std_BC = numbers or (np.zeros((batch, channels), np.float32), np.ones((batch, channels), np.float32))
    return [pixels_BCYX.astype(np.float32), mean_BC[:, :, None, None], std_BC[:, :, None, None]]


def _quantize(model: Any, tiles: Sequence[Any]) -> Any:
    with _quiet():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        return nncf.quantize(
            model,
            nncf.Dataset(tiles),
            subset_size=len(tiles),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=_ends(model), validate=False),
            # The usual range, the mean of all tiles' extremes, would clip the brightest images.
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX),
        )


def _ends(model: Any) -> list[str]:
    """Return the names of the layers that stay floats.

    They are all layers up to the first ones with weights, all layers after the last ones, and layers with concatenated inputs.
    Raw pixels may have any range, and sums of exponentials need more than eight bits. With layers after a concatenation in
    eight bits, a U-Net lost most of its classes (OpenVINO 2026.4, AMD EPYC: negative values became 0); without, 0.1 % or less.
    """
    ordered = model.get_ordered_ops()
    has_weights = {layer.get_friendly_name(): layer.get_type_name() in WEIGHTED for layer in ordered}
    reached: set[str] = set()  # layers with weights, and all layers after one
    ends = []
    for layer in ordered:
        name = layer.get_friendly_name()
        sources = {port.get_source_output().get_node().get_friendly_name() for port in layer.inputs()}
        if sources & reached:
            reached.add(name)
        else:
            ends.append(name)
            if has_weights[name]:
                reached.add(name)
        if has_weights[name] and _has_concatenated_input(layer):
            ends.append(name)
    leads_on = dict(has_weights)  # layers with weights, and all layers before one
    for layer in reversed(ordered):
        name = layer.get_friendly_name()
        targets = {port.get_node().get_friendly_name() for output in layer.outputs() for port in output.get_target_inputs()}
        if any(leads_on[target] for target in targets):
            leads_on[name] = True
        elif not leads_on[name]:
            ends.append(name)
    return ends


def _has_concatenated_input(layer: Any) -> bool:
    """Return whether a layer's input is a concatenation, directly or cropped, padded, pooled, reshaped or resized."""
    node = layer
    while node.inputs():
        node = node.inputs()[0].get_source_output().get_node()
        if node.get_type_name() not in PASSING:
            break
    return bool(node.get_type_name() == "Concat")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep nncf's progress bars and advice off stdout, which is for results, and leave the root logger unchanged."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns about missing CUDA on machines without a GPU
    named, root = logging.getLogger("nncf"), logging.getLogger()
    before, handlers = named.level, list(root.handlers)
    named.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        named.setLevel(before)
        root.handlers[:] = handlers


def read_calibrated(recipe: Recipe, channels: int) -> tuple[Any, str]:
    """Read a recipe's calibrated network for a number of channels, and the type of its floats, as OpenVINO names it.

    Raises:
        InputError: there is none, or it is not the one that the recipe recorded.
    """
    if not recipe.calibrated:
        raise InputError(Problem("compute.precision", "int8 without a calibrated network", "fp32, bf16", "A run calibrates its own."))
    way_out = "Start over with --fresh."
    with open_storage(recipe.calibration_folder).local_folder(recipe.calibrated) as folder:
        if not folder.is_dir() or _digest(folder) != recipe.calibrated:
            where, found = f"{recipe.calibration_folder}/{recipe.calibrated}", "changed" if folder.is_dir() else "gone"
            raise InputError(Problem(where, f"a calibrated network that is {found}", "the one that this run began with", way_out))
        file = folder / f"{channels}.xml"
        if not file.is_file():
            calibrated = ", ".join(sorted(file.stem for file in folder.glob("*.xml")))
            found = f"int8 for an image of {channels} channels"
            raise InputError(Problem("compute.precision", found, f"{calibrated}, as calibrated", way_out))
        model = core().read_model(file)
        return model, str(model.get_rt_info(FLOAT_TYPE).astype(str))


def attach_ends(model: Any, kind: GraphKind, pixels: NDArray[Any]) -> Any:
    """Attach the inputs and outputs of a graph to a calibrated network: raw pixels of a dtype and layout, logits or class ids."""
    from openvino import Model, PartialShape, Type
    from openvino import opset13 as ops

    taken, mean, std = model.get_parameters()
    channels = taken.get_partial_shape()[1].get_length()
    shape = [-1, -1, -1, channels] if kind.interleaved else [-1, channels, -1, -1]
    raw = ops.parameter(PartialShape(shape), Type(pixels.dtype))
    values = ops.convert(raw, "f32")
    taken.output(0).replace((ops.transpose(values, [0, 3, 1, 2]) if kind.interleaved else values).output(0))
    (result,) = model.get_results()
    if not kind.classes:
        return Model([result], [raw, mean, std])
    logits = result.input_value(0)
    classes = logits.get_partial_shape()[1].get_length()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        traced = torch.jit.trace(Argmax(), torch.zeros(1, classes, 2, 2))  # type: ignore[no-untyped-call]  # torch has no types here
    after = _to_openvino(traced, [([-1, classes, -1, -1], Type.f32)])
    after.get_parameters()[0].output(0).replace(logits)
    return Model(after.get_results(), [raw, mean, std])


def _digest(folder: Path) -> str:
    """Return the hash of a folder's files and their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
