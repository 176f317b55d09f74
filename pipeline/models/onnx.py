"""Any network in the ONNX format, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.models import Predictor
from pipeline.models.network_files import CUDA, Axes, FileFacts, LazySession, NetworkFile, facts_of_shapes, onnx_providers, open_session

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Onnx"]


class Onnx(NetworkFile):
    """An ONNX file: float32 (N, C, H, W) in, logits (N, K, H, W) out.

    Channels, classes, a fixed size and a fixed batch are read from the file; where the size is fixed, core and both
    halos make it up. A file that ``gigaseg models export`` wrote declares stride and field too. Where channels come last, as in
    exports of Keras, tensors are (N, H, W, C). ``outputs`` names tensors, or channels of all tensors together. A file cannot run code.

    Example::

        model: {name: onnx, path: nuclei.onnx}
    """

    kind: ClassVar[str] = "ONNX"
    takes_backend: ClassVar[bool] = False  # ONNX Runtime runs the file

    @classmethod
    def read_facts(cls, path: Path, axes: Axes | None = None) -> FileFacts:
        """Read the shapes of input and output from the graph, with ONNX Runtime."""
        session = open_session(path, threads=1, optimize=False)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = f"{len(inputs)} inputs ({', '.join(tensor.type for tensor in inputs)})"
            raise InputError(Problem(str(path), found, "one tensor(float) in"))
        declared = {}
        with suppress(KeyError, ValueError):
            declared = json.loads(session.get_modelmeta().custom_metadata_map["gigaseg"])
        taken, *given = [[side if isinstance(side, int) else None for side in tensor.shape] for tensor in (*inputs, *outputs)]
        named = dict(zip([tensor.name for tensor in outputs], given, strict=True))
        return facts_of_shapes(path, taken, named, axes=axes, stride=declared.get("stride"), field=declared.get("field"))

    @property
    def uses_gpu(self) -> bool:
        """Whether the installed ONNX Runtime can use one."""
        return CUDA in onnx_providers()

    def load(self) -> nn.Module:
        """Return the graph as a module; the first tile opens the session, on its device."""
        from pipeline.models.networks.wrappers import FixedBatch

        self.require_file()
        return self.adapt(FixedBatch(self.picked(LazySession(self.file)), self.facts.batch))

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Run the graph in ONNX Runtime; refuse a YAML that asks for another backend or precision."""
        if recipe.backend != "torch" or recipe.precision != "fp32":
            found = f"backend {recipe.backend} with {recipe.precision}"
            raise InputError(Problem("compute", found, "backend: auto, precision: auto", "An ONNX file brings its runtime and its types."))
        with super().open(recipe, normalize) as predict:
            yield predict
