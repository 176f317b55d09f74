"""Packages of the BioImage Model Zoo."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.models import Expectation, Predictor, TorchModel, fact_of
from pipeline.models._predictors import augmented
from pipeline.models.model_zoo import ArchitectureFile, Package, architecture_of, find_description, read_package
from pipeline.models.network_files import NetworkFile
from pipeline.plugins import build
from pipeline.statistics import Fitter
from pipeline.storage import fetch, file_sha256

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BioImageIO"]


class BioImageIO(TorchModel):
    """A package of the BioImage Model Zoo, format 0.4 or 0.5: a folder, a zip or its description.

    The package's preprocessing uses statistics of the whole image, never of a tile. ``halo: auto`` takes at least the
    package's halo; tiles have the package's fixed size, if any. When a run begins, the package must reproduce its own
    test output. A single output channel separates two classes. Of several channels each is a class, unless ``channel``
    names the one that separates foreground from background.

    Example::

        model: {name: bioimageio, path: affable-shark.zip}
    """

    takes_normalize: ClassVar[bool] = False  # the package has its own preprocessing
    allows_bf16: ClassVar[bool] = False  # the package was tested in float32

    path: Path | str = Field(description="folder, .zip or .yaml of the package, or the URL of a .zip")
    weights: Literal["auto", "torchscript", "onnx", "pytorch_state_dict"] = Field(
        default="auto", description="format to run; auto: onnx, or with trust the first of these that the package has"
    )
    trust: bool = Field(default=False, description="true allows weights that run code when loaded: torchscript, pytorch_state_dict")
    scores: Literal["auto", "logits", "probabilities"] = Field(
        default="auto", description="what the network returns; auto: probabilities where the package says values from 0 to 1"
    )
    channel: int | None = Field(default=None, ge=0, description="output channel that is the foreground; null: every channel is a class")

    field: ClassVar[int | None] = fact_of("network.field")
    has_stride: ClassVar[bool] = fact_of("network.has_stride")
    has_field: ClassVar[bool] = fact_of("network.has_field")
    unmeasured_key: ClassVar[str | None] = fact_of("network.unmeasured_key")
    uses_gpu: ClassVar[bool] = fact_of("network.uses_gpu")

    @model_validator(mode="after")
    def _readable(self) -> BioImageIO:
        if self.file.exists():
            _ = self.network  # an unreadable package is refused when the YAML is read, not when it is loaded
        return self

    @property
    def file(self) -> Path:
        """Local path of the package; a zip at a URL is fetched."""
        return fetch(self.path)

    @cached_property
    def package(self) -> Package:
        """The package's description."""
        return read_package(find_description(self.file))

    @cached_property
    def network(self) -> NetworkFile:
        """The network of the weights that will run."""
        package, name = self.package, self._format()
        entry = package.weights[name]
        options: dict[str, Any] = {"path": entry.file, "channels": package.channels}
        if name == "pytorch_state_dict":
            return ArchitectureFile(**options, **architecture_of(package.file, entry.entry), classes=len(package.names) or None)
        if name == "torchscript":
            options |= {"trust": self.trust, "classes": len(package.names) or None}
        network: NetworkFile = build("models", {"name": name, **options}, "model")
        return network

    def _format(self) -> str:
        present = list(self.package.weights)
        if self.weights not in ("auto", *present):
            raise InputError(Problem("model.weights", self.weights, f"auto, {', '.join(present)}, as {self.path} has"))
        wanted = present if self.weights == "auto" else [self.weights]
        allowed = [name for name in wanted if self.trust or name == "onnx"]
        if not allowed:
            way_out = "Loading them can run any code. Set trust: true if you know where the package comes from."
            raise InputError(Problem("model.trust", f"false, for weights as {', '.join(wanted)}", "true, or a package with onnx", way_out))
        # ONNX Runtime is an optional package: without it, any other allowed format comes first.
        return allowed[0] if importlib.util.find_spec("onnxruntime") else min(allowed, key="onnx".__eq__)

    @property
    def expects(self) -> Expectation:
        """The pixel size that the package declares."""
        return Expectation(pixel_size=self.package.pixel_size)

    @property
    def num_classes(self) -> int:
        """Two where one channel separates them."""
        return 2 if self.channel is not None else self.network.num_classes

    @property
    def num_channels(self) -> int | None:
        """As the package says."""
        return self.package.channels or self.network.num_channels

    @property
    def stride(self) -> int:
        """Least common multiple of the network's stride and the step of the sizes that the package allows."""
        return math.lcm(self.package.step, self.network.stride)

    @property
    def margin(self) -> int:
        """As the package says."""
        return max(self.package.offset, self.network.margin)

    @property
    def fixed_size(self) -> int | None:
        """As the package or its file says."""
        return self.network.fixed_size or self.package.size

    @property
    def tile(self) -> Mapping[str, int]:
        """The package's halo, or the field where it is wider."""
        return {"halo": max(self.package.halo, self.field or 0)} if self.package.halo else {}

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """As the package names its output channels."""
        names = self.package.names
        if self.channel is not None or len(names) == 1:
            chosen = names[self.channel or 0] if (self.channel or 0) < len(names) else "foreground"
            return [{"name": "background"}, {"name": chosen}]
        return [{"name": name} for name in names] if len(names) == self.num_classes else []

    def files(self) -> Sequence[Path]:
        """Return the description, the weights and a YAML beside them, or the zip that holds all."""
        if not self.file.exists() or self.file.suffix.lower() == ".zip":
            return (self.file,)
        return (self.package.file, *self.network.files())

    def fitter(self) -> Fitter | None:
        """Gather what the package's preprocessing needs of a whole image."""
        return self.package.preprocessing.fitter()

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Return the network's."""
        return self.network.projected_bytes(tile, channels)

    def load(self) -> nn.Module:
        """Load the network alone, without the package's pre- and postprocessing."""
        self._verify()
        return self.network.load()

    def _verify(self) -> None:
        wanted = self.package.weights[self._format()].sha256
        if wanted and (found := file_sha256(self.network.file)) != wanted:
            way_out = "The file was changed or truncated: get the package again."
            raise InputError(Problem(str(self.network.path), f"sha256 {found[:12]}...", f"{wanted[:12]}..., as the package says", way_out))

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load the network; the predictor does the package's preprocessing."""
        del normalize
        self._verify()
        with self.network.open(recipe) as predict:
            yield augmented(_PackagePredictor(self, predict), self.tta, self.num_classes)

    def check(self) -> None:
        """Compare the network's output for the package's test input with the package's test output."""
        if self.package.test is None:
            return
        taken_NCYX, expected = (np.load(path, allow_pickle=False) for path in self.package.test)
        self._verify()
        with self.network.open(Recipe()) as predict:
            whole = Box(0, 0, *taken_NCYX.shape[2:])
            fits: list[dict[str, Any]] = [{}] * len(taken_NCYX)
            if fitter := self.fitter():
                fits = [{"model": fitter.fit(fitter.observe(pixels_CYX, None, whole, 0))} for pixels_CYX in taken_NCYX]
            computed = _PackagePredictor(self, predict).documented_output(taken_NCYX, fits)
        if computed.shape != expected.shape:
            raise InputError(Problem(str(self.package.test[1]), f"{expected.shape}", f"{computed.shape}, as the network returns"))
        relative, absolute = self.package.tolerance
        scale = 1.0 if self.package.activation else float(np.abs(expected).max())  # probabilities lie between 0 and 1
        worst, allowed = float(np.abs(computed - expected).max()), absolute + relative * scale
        if not worst <= allowed:
            found = f"a test output that differs by up to {worst:.3g} from what {self.network.file.name} returns here"
            way_out = "Weights, description or runtime do not fit together; try another model.weights."
            raise InputError(Problem(str(self.package.file), found, f"{allowed:.3g}", way_out))


class _PackagePredictor(Predictor):
    """Does the package's preprocessing, asks the network, and turns its output into logits."""

    def __init__(self, model: BioImageIO, predict: Predictor) -> None:
        super().__init__(notes=predict.notes)
        self.model, self.package, self.predict = model, model.package, predict

    def network_output(self, pixels_BCYX: NDArray[Any], fits: Any) -> Any:
        """Return the network's output as a tensor (B, K, Y, X); a single channel comes second, after zeros."""
        import torch

        inputs = [self.package.preprocessing.apply(pixels, fit.get("model")) for pixels, fit in zip(pixels_BCYX, fits, strict=True)]
        return torch.as_tensor(self.predict(np.stack(inputs), [{}] * len(fits)))

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Any) -> Any:
        import torch

        out_BKYX, package = self.network_output(pixels_BCYX, fits), self.package
        is_single = self.model.network.num_outputs == 1
        if self.model.channel is not None and not is_single:
            foreground_B1YX = out_BKYX[:, self.model.channel : self.model.channel + 1]
            out_BKYX, is_single = torch.cat([torch.zeros_like(foreground_B1YX), foreground_B1YX], 1), True
        if self.model.scores == "probabilities" or (self.model.scores == "auto" and package.is_probability):
            values = out_BKYX.clamp(1e-7, 1 - 1e-7)
            out_BKYX = torch.log(values) - (torch.log1p(-values) if is_single else 0)
            if is_single:
                out_BKYX[:, 0] = 0
        if is_single and package.threshold != 0.5:
            out_BKYX[:, 1] -= math.log(package.threshold / (1 - package.threshold))
        return out_BKYX if out_BKYX.is_cuda else out_BKYX.numpy()

    def documented_output(self, pixels_BCYX: NDArray[Any], fits: Any) -> NDArray[Any]:
        """Return what the package documents as its output."""
        import torch

        out_BKYX = self.network_output(pixels_BCYX, fits).cpu()
        if self.model.network.num_outputs == 1:
            out_BKYX = out_BKYX[:, 1:]
        if self.package.activation is not None:
            out_BKYX = torch.sigmoid(out_BKYX) if self.package.activation == "sigmoid" else torch.softmax(out_BKYX, 1)
        output_BKYX: NDArray[Any] = out_BKYX.numpy()
        return output_BKYX
