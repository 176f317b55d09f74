"""Eight-bit networks for OpenVINO: made once from tiles of the user's own images, then used by every process as they are.

What is kept is one graph from float32 pixels to logits for each number of channels, in a folder that is named by its hash. Around it each
process puts what its pixels need and what it is asked for, so that scores and classes come from the same arithmetic.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends._graph_predictor import Classes, Graph, prepared, refusal
from pipeline.backends._openvino_graph import convert, core, to_openvino
from pipeline.backends._processor import bf16_supported
from pipeline.errors import InputError, Problem
from pipeline.statistics import mean_and_std

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from pipeline.config import Recipe
    from pipeline.statistics import ImageFit

__all__ = ["floats_of", "quantize", "read", "surround"]

WEIGHTED = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
FLOATS = ["gigaseg", "floats"]  # where a graph says it
PASSING = {"Slice", "StridedSlice", "Pad", "MaxPool", "Reshape", "Transpose", "Interpolate"}


def quantize(network: nn.Module, normalize: Mapping[str, Any] | None, tiles: Sequence[tuple[NDArray[Any], ImageFit]], folder: Path) -> str:
    """Calibrate a network and write it into a folder, once for each number of channels that the tiles have.

    Args:
        network: is taken over and changed.
        normalize: see :class:`pipeline.backends.Backend`.
        tiles: raw pixels_BCYX of one height and width, and the fit of their image.
        folder: empty.

    Returns:
        The hash of what the folder holds now.

    Raises:
        InputError: OpenVINO cannot run the network, or runs it at one size only.
    """
    import openvino

    network = prepared(network)
    groups: dict[int, list[Any]] = {pixels_BCYX.shape[1]: [] for pixels_BCYX, _ in tiles}
    for pixels_BCYX, fit in tiles:
        groups[pixels_BCYX.shape[1]].append(_inputs(pixels_BCYX, normalize, fit))
    for channels, inputs in groups.items():
        try:
            model, takes_any = convert(Graph(network, interleaved=False, classes=False), inputs[0][0])
            if not takes_any:
                raise refusal("openvino", "in int8, as it takes one size of tile only")
            quantized = _quantize(model, inputs)
        except RuntimeError as error:
            raise refusal("openvino", error) from error
        # Where bfloat16 is quick, it is the type of what stays a float; kept, so that every process computes the same.
        quantized.set_rt_info("bf16" if bf16_supported() else "f32", FLOATS)
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
            # Images differ: the mean of their extremes, which is usual, would clip the brightest of them.
            advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX),
        )


def _ends(model: Any) -> list[str]:
    """Names of what stays float32: up to the first layers with weights, all behind the last ones, and layers of joined inputs.

    Raw pixels have any range, and sums of exponentials are no place for eight bits. With layers behind a concatenation in
    eight bits, a U-Net lost most of its classes (OpenVINO 2026.4, AMD EPYC: negative values became 0); without, 0.1 % or less.
    """
    before: set[str] = set()  # behind a layer with weights
    ordered = model.get_ordered_ops()
    behind = {one.get_friendly_name(): one.get_type_name() in WEIGHTED for one in ordered}
    ends = []
    for one in ordered:
        name = one.get_friendly_name()
        sources = {place.get_source_output().get_node().get_friendly_name() for place in one.inputs()}
        if sources & before:
            before.add(name)
        else:
            ends.append(name)
            if behind[name]:
                before.add(name)
        if behind[name] and _is_joined(one):
            ends.append(name)
    for one in reversed(ordered):
        name = one.get_friendly_name()
        targets = {place.get_node().get_friendly_name() for output in one.outputs() for place in output.get_target_inputs()}
        if any(behind[target] for target in targets):
            behind[name] = True
        elif not behind[name]:
            ends.append(name)
    return ends


def _is_joined(layer: Any) -> bool:
    """Whether a layer's input is a concatenation, perhaps cut, pooled or resized on the way."""
    node = layer
    while node.inputs():
        node = node.inputs()[0].get_source_output().get_node()
        if node.get_type_name() not in PASSING:
            break
    return bool(node.get_type_name() == "Concat")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and advice off stdout, where results go; the root logger stays as it was."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA, loudly, on machines without a GPU
    named, root = logging.getLogger("nncf"), logging.getLogger()
    before, handlers = named.level, list(root.handlers)
    named.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        named.setLevel(before)
        root.handlers[:] = handlers


def read(recipe: Recipe, channels: int) -> Any:
    """Read the calibrated network of a recipe for so many channels.

    Raises:
        InputError: there is none, or it is not the one that the recipe was recorded with.
    """
    folder, way_out = Path(recipe.calibration_folder, recipe.calibrated), "Start over with --fresh."
    if not recipe.calibrated:
        raise InputError(Problem("compute.precision", "int8 without a calibrated network", "fp32, bf16", "A run calibrates its own."))
    if not folder.is_dir() or _digest(folder) != recipe.calibrated:
        found = "changed" if folder.is_dir() else "gone"
        raise InputError(Problem(str(folder), f"a calibrated network that is {found}", "the one that this run began with", way_out))
    file = folder / f"{channels}.xml"
    if not file.is_file():
        calibrated = ", ".join(sorted(one.stem for one in folder.glob("*.xml")))
        raise InputError(Problem("compute.precision", f"int8 for an image of {channels} channels", f"{calibrated}, as calibrated", way_out))
    return core().read_model(file)


def floats_of(model: Any) -> str:
    """What stays a float in a calibrated network is of this type, as OpenVINO names it."""
    return str(model.get_rt_info(FLOATS).astype(str))


def surround(model: Any, graph: Graph, pixels: NDArray[Any]) -> Any:
    """Give a calibrated network the inputs and outputs of a graph: raw pixels of a type and layout in, logits or classes out."""
    import torch
    from openvino import Model, PartialShape, Type
    from openvino import opset13 as ops

    taken, mean, std = model.get_parameters()
    channels = taken.get_partial_shape()[1].get_length()
    shape = [-1, -1, -1, channels] if graph.interleaved else [-1, channels, -1, -1]
    raw = ops.parameter(PartialShape(shape), Type(pixels.dtype))
    values = ops.convert(raw, "f32")
    taken.output(0).replace((ops.transpose(values, [0, 3, 1, 2]) if graph.interleaved else values).output(0))
    (result,) = model.get_results()
    if not graph.classes:
        return Model([result], [raw, mean, std])
    logits = result.input_value(0)
    classes = logits.get_partial_shape()[1].get_length()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is old
        traced = torch.jit.trace(Classes(), torch.zeros(1, classes, 2, 2))  # type: ignore[no-untyped-call]  # torch has no types here
    after = to_openvino(traced, [([-1, classes, -1, -1], Type.f32)])
    after.get_parameters()[0].output(0).replace(logits)
    return Model(after.get_results(), [raw, mean, std])


def _digest(folder: Path) -> str:
    """Hash of a folder's files and their names."""
    found = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        found.update(f"{file.name} {file.stat().st_size} ".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
