"""Networks of the BioImage Model Zoo, as their packages describe them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.models import Predictor, TorchModel
from pipeline.models._orientations import Orientations
from pipeline.models.model_zoo.package import Package, locate, read_package
from pipeline.models.network_files.architecture_file import ArchitectureFile, architecture_of
from pipeline.models.network_files.network_file import NetworkFile
from pipeline.plugins import build
from pipeline.statistics import Fitter
from pipeline.storage import file_sha256

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BioImageIO"]


class BioImageIO(TorchModel):
    """A package of the BioImage Model Zoo, format 0.4 or 0.5: a folder, a zip or its description.

    What the package does to pixels before its network is done here, with statistics of the whole image where it asks
    for some, never of a tile. Its halo is the least that ``halo: auto`` takes, its fixed size, if any, the size of the
    tiles. When a run begins, the package must reproduce its own test output. One output channel tells two classes
    apart; of several, each is a class, unless ``channel`` names the one that tells foreground from background.

    Example::

        model: {name: bioimageio, path: affable-shark.zip}
    """

    path: Annotated[Path, Strict(strict=False)] = Field(description="folder, .zip or .yaml of the package")
    weights: Literal["auto", "torchscript", "onnx", "pytorch_state_dict"] = Field(
        default="auto", description="format to run; auto: onnx, or with trust the first of these that the package has"
    )
    trust: bool = Field(default=False, description="true allows weights that run code when loaded: torchscript, pytorch_state_dict")
    scores: Literal["auto", "logits", "probabilities"] = Field(
        default="auto", description="what the network returns; auto: probabilities where the package says values from 0 to 1"
    )
    channel: int | None = Field(default=None, ge=0, description="output channel that is the foreground; null: every channel is a class")

    @model_validator(mode="after")
    def _readable(self) -> BioImageIO:
        if self.path.exists():
            _ = self.inner  # refused where it is named, not where it is loaded
        return self

    @cached_property
    def package(self) -> Package:
        """What the description says.

        Raises:
            InputError: there is none, or it describes what is not done here.
        """
        return read_package(locate(self.path))

    @cached_property
    def inner(self) -> NetworkFile:
        """The network's file.

        Raises:
            InputError: the package has no weights that may be run.
        """
        package, name = self.package, self._format()
        entry = package.weights[name]
        options: dict[str, Any] = {"path": entry.file, "channels": package.channels}
        if name == "pytorch_state_dict":
            return ArchitectureFile(**options, **architecture_of(package.file, entry.more), classes=len(package.names) or None)
        if name == "torchscript":
            options |= {"trust": self.trust, "classes": len(package.names) or None}
        network: NetworkFile = build("models", {"name": name, **options}, "model")
        return network

    def _format(self) -> str:
        have = list(self.package.weights)
        if self.weights not in ("auto", *have):
            raise InputError(Problem("model.weights", self.weights, f"auto, {', '.join(have)}, as {self.path} has"))
        wanted = have if self.weights == "auto" else [self.weights]
        able = [name for name in wanted if self.trust or name == "onnx"]
        if not able:
            way_out = "Loading them can run any code. Set trust: true if you know where the package comes from."
            raise InputError(Problem("model.trust", f"false, for weights as {', '.join(wanted)}", "true, or a package with onnx", way_out))
        # The runtime of ONNX is an extra: without it, whatever else there is.
        return able[0] if importlib.util.find_spec("onnxruntime") else min(able, key="onnx".__eq__)

    @property
    def takes_normalize(self) -> bool:
        """The package says what is done to raw values."""
        return False

    @property
    def num_classes(self) -> int:
        """Two where one channel tells them apart."""
        return 2 if self.channel is not None else self.inner.num_classes

    @property
    def num_channels(self) -> int | None:
        """As the package says."""
        return self.package.channels or self.inner.num_channels

    @property
    def stride(self) -> int:
        """What both the network and the sizes that the package allows are multiples of."""
        return math.lcm(self.package.step, self.inner.stride)

    @property
    def field(self) -> int | None:
        """The network's."""
        return self.inner.field

    @property
    def margin(self) -> int:
        """As the package says."""
        return max(self.package.offset, self.inner.margin)

    @property
    def fixed_size(self) -> int | None:
        """As the package or its file says."""
        return self.inner.fixed_size or self.package.size

    @property
    def unmeasured_key(self) -> str | None:
        """The network's file, until its stride and field are known."""
        return self.inner.unmeasured_key

    @property
    def uses_gpu(self) -> bool:
        """As the format can."""
        return self.inner.uses_gpu

    @property
    def allows_bf16(self) -> bool:
        """The package was tested as it is."""
        return False

    @property
    def tile(self) -> Mapping[str, int]:
        """The halo that the package asks for, or the field where that is wider."""
        return {"halo": max(self.package.halo, self.field or 0)} if self.package.halo else {}

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """The names of the output's channels."""
        names = self.package.names
        if self.channel is not None or len(names) == 1:
            chosen = names[self.channel or 0] if (self.channel or 0) < len(names) else "foreground"
            return [{"name": "background"}, {"name": chosen}]
        return [{"name": name} for name in names] if len(names) == self.num_classes else []

    @property
    def pixel_size(self) -> float | None:
        """As the package says."""
        return self.package.pixel_size

    def files(self) -> Sequence[Path]:
        """The description and the weights; a zip stands for all it holds."""
        if not self.path.exists() or self.path.suffix.lower() == ".zip":
            return (self.path,)
        return (self.package.file, self.inner.path)

    def fitter(self) -> Fitter | None:
        """What the package's own normalisation needs of a whole image."""
        return self.package.before.fitter()

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """The network's."""
        return self.inner.projected_bytes(tile, channels)

    def load(self) -> nn.Module:
        """The bare network, without what the package does before and after it.

        Raises:
            InputError: the weights are not those that the description names, or cannot be loaded.
        """
        self._verify()
        return self.inner.load()

    def _verify(self) -> None:
        wanted = self.package.weights[self._format()].sha256
        if wanted and (found := file_sha256(self.inner.path)) != wanted:
            way_out = "The file was changed or truncated: get the package again."
            raise InputError(Problem(str(self.inner.path), f"sha256 {found[:12]}...", f"{wanted[:12]}..., as the package says", way_out))

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load the network; tiles are prepared as the package says."""
        del normalize
        self._verify()
        with self.inner.open(recipe) as predict:
            prepared = _Prepared(self, predict)
            yield prepared if self.tta == "none" else Orientations(prepared, self.tta)

    def check(self) -> None:
        """Reproduce the package's test output.

        Raises:
            InputError: it comes out different; the largest difference is named.
        """
        if self.package.test is None:
            return
        taken_NCYX, expected = (np.load(path, allow_pickle=False) for path in self.package.test)
        self._verify()
        with self.inner.open(Recipe()) as predict:
            whole = Box(0, 0, *taken_NCYX.shape[2:])
            fits: list[dict[str, Any]] = [{}] * len(taken_NCYX)
            if fitter := self.fitter():
                fits = [{"model": fitter.fit(fitter.observe(pixels_CYX, None, whole, 0))} for pixels_CYX in taken_NCYX]
            found = _Prepared(self, predict).documented(taken_NCYX, fits)
        if found.shape != expected.shape:
            raise InputError(Problem(str(self.package.test[1]), f"{expected.shape}", f"{found.shape}, as the network returns"))
        relative, absolute = self.package.tolerance
        scale = 1.0 if self.package.activation else float(np.abs(expected).max())  # probabilities reach from 0 to 1
        worst, allowed = float(np.abs(found - expected).max()), absolute + relative * scale
        if not worst <= allowed:
            told = f"a test output that differs by up to {worst:.3g} from what {self.inner.path.name} returns here"
            way_out = "Weights, description or runtime do not fit together; try another model.weights."
            raise InputError(Problem(str(self.package.file), told, f"{allowed:.3g}", way_out))


class _Prepared(Predictor):
    """A predictor from raw values to logits, by the package's own rules.

    It takes numpy's arrays and computes no class ids of its own: those of the backend are of prepared pixels.
    """

    def __init__(self, model: BioImageIO, predict: Predictor) -> None:
        super().__init__(notes=predict.notes)
        self.model, self.package, self.predict = model, model.package, predict

    def raw(self, pixels_BCYX: NDArray[Any], fits: Any) -> Any:
        """What the network returns, as a tensor (B, K, Y, X); K = 1 as two channels, the first of them 0."""
        import torch

        prepared = [self.package.before.apply(pixels, fit.get("model")) for pixels, fit in zip(pixels_BCYX, fits, strict=True)]
        return torch.as_tensor(self.predict(np.stack(prepared), [{}] * len(fits)))

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Any) -> Any:
        import torch

        out_BKYX, package = self.raw(pixels_BCYX, fits), self.package
        is_single = self.model.inner.num_outputs == 1
        if self.model.channel is not None and not is_single:
            one = out_BKYX[:, self.model.channel : self.model.channel + 1]
            out_BKYX, is_single = torch.cat([torch.zeros_like(one), one], 1), True
        if self.model.scores == "probabilities" or (self.model.scores == "auto" and package.is_probability):
            values = out_BKYX.clamp(1e-7, 1 - 1e-7)
            out_BKYX = torch.log(values) - (torch.log1p(-values) if is_single else 0)
            if is_single:
                out_BKYX[:, 0] = 0
        if is_single and package.threshold != 0.5:
            out_BKYX[:, 1] -= math.log(package.threshold / (1 - package.threshold))
        return out_BKYX if out_BKYX.is_cuda else out_BKYX.numpy()

    def documented(self, pixels_BCYX: NDArray[Any], fits: Any) -> NDArray[Any]:
        """What the package documents as its output."""
        import torch

        out_BKYX = self.raw(pixels_BCYX, fits).cpu()
        if self.model.inner.num_outputs == 1:
            out_BKYX = out_BKYX[:, 1:]
        if self.package.activation is not None:
            out_BKYX = torch.sigmoid(out_BKYX) if self.package.activation == "sigmoid" else torch.softmax(out_BKYX, 1)
        found: NDArray[Any] = out_BKYX.numpy()
        return found
