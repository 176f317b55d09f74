"""Sessions of ONNX Runtime: one thread pool of a given size, and messages instead of tracebacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem

__all__ = ["CUDA", "LazySession", "onnx_providers", "open_session"]

CUDA = "CUDAExecutionProvider"


def _runtime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as missing:
        way_out = "It needs a package that is not installed: pip install onnxruntime, or onnxruntime-gpu."
        raise InputError(Problem("model.name", "'onnx'", "", way_out)) from missing
    return onnxruntime


def onnx_providers() -> list[str]:
    """Return the names of the installed execution providers; none without ONNX Runtime."""
    try:
        return list(_runtime().get_available_providers())
    except InputError:
        return []


def open_session(source: Path | bytes, *, threads: int, optimize: bool = True, cuda: bool = False, where: str = "") -> Any:
    """Open an ONNX file, or its bytes.

    Args:
        source: the file or the bytes.
        threads: that compute one tile.
        optimize: False: the graph is only inspected.
        cuda: run on a GPU.
        where: what a message calls the source; the path if empty.

    Raises:
        InputError: ONNX Runtime is missing, or it cannot run the file.
    """
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.use_deterministic_compute = True
    # Threads that spin while they wait take cores from the other actors.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = source if isinstance(source, bytes) else str(source)
        return runtime.InferenceSession(content, options, providers=[CUDA] * cuda + ["CPUExecutionProvider"])
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        way_out = "Check it with onnx.checker, or use a newer onnxruntime."
        raise InputError(
            Problem(where or str(source), f"a graph that ONNX Runtime cannot run ({text})", "an ONNX file", way_out)
        ) from error


class LazySession:
    """A graph as a function of tensors. The first call opens the session, with the threads and device of that call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> LazySession:
        """Return a graph that opens a session of its own, because sessions cannot be copied."""
        return LazySession(self.path)

    def __call__(self, pixels_NCYX: Any) -> Any:
        """Return the outputs, float32, on the input's device, by the names of the outputs."""
        import torch

        device = pixels_NCYX.device
        if self.session is None:
            self.session = open_session(self.path, threads=torch.get_num_threads(), cuda=device.type == "cuda")
        values = pixels_NCYX.to("cpu", torch.float32).contiguous().numpy()
        names = [output.name for output in self.session.get_outputs()]
        options = _runtime().RunOptions()
        options.log_severity_level = 4  # an error is raised, and told once
        arrays = self.session.run(names, {self.session.get_inputs()[0].name: values}, options)
        return {name: torch.from_numpy(array).to(device) for name, array in zip(names, arrays, strict=True)}
