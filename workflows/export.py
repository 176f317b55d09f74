"""Write a network for other programs: ONNX, TorchScript, or a package of the BioImage Model Zoo."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import __version__
from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import ceil_to
from pipeline.models import Model, TorchModel
from pipeline.models.bundle_files import parse_model
from pipeline.models.model_zoo import OPSET, describe, export_notes
from pipeline.plugins import build
from pipeline.system import say

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FORMATS", "export"]

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "bioimageio": ".zip"}
"""What can be written, and the suffix of its file."""

TOLERANCE = 1e-4  # difference of a logit that is allowed between the network and the file, as a share of the largest logit


def export(spec: str, to: str, output: Path | None = None, *, channels: int | None = None, as_json: bool = False) -> int:
    """Write a network to a file, and check that the file computes the network's logits. Returns 0.

    Weights are float32, and batch norms are not folded. A ``bioimageio`` package contains the normalisation, and a warning says where
    the format lacks it; the other formats take normalised values.

    Args:
        spec: a model's name, a bundle, or a mapping as in the YAML's ``model``.
        to: one of :data:`FORMATS`.
        output: the file; for ``bioimageio`` a folder or a .zip; None: in this folder, by the model's name.
        channels: number of input channels, for a network that accepts any; None: the model's number.
        as_json: print one object, ``{"path", "model", "normalize"}``, instead of a YAML's keys.

    Raises:
        InputError: there is no such model or format, the model is no network, a package for the check is missing, or the file exists.
    """
    if to not in FORMATS:
        raise InputError(Problem("--to", repr(to), one_of(list(FORMATS))))
    options = parse_model(spec, "models export")
    name = Path(str(options["path"])).stem if "path" in options else str(options.get("name"))
    output = output or Path(f"{name}{FORMATS[to]}")
    if output.exists():
        raise InputError(Problem(str(output), "a file or folder that is there already", "", "Move it away or choose another name."))
    model: Model = build("models", options, "models export")
    if not isinstance(model, TorchModel):
        raise InputError(Problem("models export", "a model without a network", "a network, such as unet"))
    channels = _channels(model, channels)
    writers: Mapping[str, Callable[[_Source, Path], None]] = {"onnx": _to_onnx, "torchscript": _to_torchscript, "bioimageio": _to_package}
    source = _Source(name, model, channels, model.load().eval().float())
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        writers[to](source, Path(scratch, output.name))
        Path(scratch, output.name).rename(output)
    for note in export_notes(model) if to == "bioimageio" else ():
        say(note, level="warning")
    usage = _usage(source, to, output)
    print(json.dumps({"path": str(output), **usage}) if as_json else f"{output}\n\n{yaml.safe_dump(usage, sort_keys=False)}", end="")
    return 0


def _channels(model: TorchModel, asked: int | None) -> int:
    """Return the number of input channels: a file has a fixed one, even if the network accepts any."""
    known = model.num_channels
    if asked is not None and known not in (None, asked):
        raise InputError(Problem("--channels", str(asked), f"{known}, as the model takes"))
    if asked is None and known is None:
        raise InputError(Problem("--channels", None, "a number, as the model accepts any number of channels", "Add --channels 3."))
    return asked or known or 1


@dataclass(frozen=True)
class _Source:
    """A network in evaluation mode, float32, and inputs of two sizes to check files with."""

    name: str
    model: TorchModel
    channels: int
    network: nn.Module

    def inputs(self) -> list[torch.Tensor]:
        """Return pixels_NCYX of two sizes: a file is traced with the first one and checked with both."""
        import torch

        stride, size = self.model.stride, self.model.fixed_size
        side = size or ceil_to(2 * self.model.margin, stride) + ceil_to(64, stride)
        shapes = [(side, side), (side, side) if size else (side + 2 * stride, side + stride)]
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(1, self.channels, *shape, generator=generator) for shape in shapes]

    def check_file(self, file: Path, spec: Mapping[str, Any]) -> None:
        """Refuse a file whose logits differ from the network's; ``spec`` is what reads it, besides path and channels."""
        import torch

        written = build("models", {"path": file, "channels": self.channels, **spec}, "models export").load()
        with torch.no_grad():
            for pixels_NCYX in self.inputs():
                expected, computed = self.network(pixels_NCYX), written(pixels_NCYX)
                worst = float((computed - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
                if not worst < TOLERANCE:
                    found = f"a file whose logits differ by {worst:.1g} of the largest, for pixels of {tuple(pixels_NCYX.shape)}"
                    way_out = "The network's code depends on its input; try another format."
                    raise InputError(Problem("models export", found, f"at most {TOLERANCE}", way_out))


def _to_torchscript(source: _Source, file: Path) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format deprecated; other programs need it
        try:
            script = torch.jit.script(source.network)
        except Exception:  # noqa: BLE001 - the compiler may raise anything; then one pass is traced
            script = torch.jit.trace(source.network, source.inputs()[0], check_trace=False)  # type: ignore[no-untyped-call]  # torch has no types here
        torch.jit.save(script, str(file))
    source.check_file(file, {"name": "torchscript", "trust": True})


def _to_onnx(source: _Source, file: Path) -> None:
    import torch

    try:
        import onnx
    except ModuleNotFoundError as missing:
        way_out = "ONNX needs packages that are not installed: pip install onnx onnxruntime"
        raise InputError(Problem("--to", "onnx", "", way_out)) from missing
    axes = {0: "n"} if source.model.fixed_size else {0: "n", 2: "h", 3: "w"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                source.network,
                (source.inputs()[0],),
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=["pixels"],
                output_names=["logits"],
                dynamic_axes={"pixels": axes, "logits": axes},
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            found = f"a network that ONNX cannot express ({str(error).splitlines()[0][:200]})"
            raise InputError(Problem("models export", found, "", "Try --to torchscript.")) from error
    graph = onnx.load(str(file))
    facts = {"stride": source.model.stride, "field": source.model.field, "version": __version__}
    onnx.helper.set_model_props(graph, {"gigaseg": json.dumps(facts)})
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(file))
    source.check_file(file, {"name": "onnx"})


def _to_package(source: _Source, target: Path) -> None:
    """Write a folder, or a zip where the name ends so: description, both kinds of weights, test tensors, README."""
    folder = target.with_suffix("") if target.suffix == ".zip" else target
    folder.mkdir()
    _to_torchscript(source, folder / "weights.pt")
    _to_onnx(source, folder / "weights.onnx")
    describe(folder, source.name, source.model, source.network, source.channels)
    build("models", {"name": "bioimageio", "path": folder}, "models export").check()
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        shutil.rmtree(folder)


def _usage(source: _Source, to: str, output: Path) -> dict[str, Any]:
    """Return the keys of a YAML with which a run gives the masks of the model itself."""
    model: dict[str, Any] = {"name": to, "path": str(output)}
    if to == "torchscript":
        facts = {"classes": source.model.num_classes, "channels": source.channels, "stride": source.model.stride}
        model |= {"trust": True, **facts, **({"field": source.model.field} if source.model.field is not None else {})}
    normalize = source.model.normalize if to != "bioimageio" else None
    return {"model": model, **({"normalize": normalize} if normalize else {})}
