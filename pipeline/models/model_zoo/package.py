"""Finding packages, unpacking zips, and reading resource descriptions of the formats 0.4 and 0.5 as far as running a model needs them.

https://bioimage-io.github.io/spec-bioimage-io describes the whole format.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, Problem
from pipeline.models.model_zoo.preprocessing import Preprocessing, read_postprocessing, read_preprocessing
from pipeline.storage import cache_folder, file_sha256

__all__ = ["Package", "Weights", "find_description", "read_package"]

_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
_FORMATS = ("torchscript", "onnx", "pytorch_state_dict")
_TOLERANCE = 1e-4  # share of the largest expected value by which float32 may differ between machines


@dataclass(frozen=True)
class Weights:
    """One entry of ``weights``: the file, its declared hash if any, and the entry, which for a state dict names its architecture."""

    file: Path
    sha256: str | None
    entry: Mapping[str, Any]


@dataclass(frozen=True)
class Package:
    """What a resource description declares."""

    file: Path  # the description
    weights: Mapping[str, Weights]  # by format, of those that are supported
    channels: int | None  # C of the input; None: any
    size: int | None  # the only height and width that the network takes, pixels; None: multiples of ``step``
    step: int  # sizes are multiples of this, pixels
    offset: int  # pixels that valid padding takes off every side
    halo: int  # border of the output that the authors call unreliable, pixels
    preprocessing: Preprocessing  # what is done to raw pixels
    threshold: float  # probability above which a single output channel means class 1
    activation: str | None  # ``sigmoid`` or ``softmax`` after the network; None: its output is used as it is
    is_probability: bool  # whether the network itself is declared to return values between 0 and 1
    names: tuple[str, ...]  # of the output channels; empty: not declared
    pixel_size: float | None  # micrometres; None: not declared
    test: tuple[Path, Path] | None  # files of the reference input and output; None: not in the package
    tolerance: tuple[float, float]  # relative and absolute, as documented


def find_description(path: Path) -> Path:
    """Return the description of a package: a folder, a description, or a zip, which is unpacked once, into the user's cache.

    Raises:
        InputError: there is no description.
    """
    if path.is_file() and path.suffix.lower() == ".zip":
        path = _unpacked(path)
    if path.is_file():
        return path
    found = next((path / name for name in _NAMES if (path / name).is_file()), None)
    if found is None:
        reason = "a folder without rdf.yaml or bioimageio.yaml" if path.is_dir() else "no such file or folder"
        raise InputError(Problem(str(path), reason, "a BioImage Model Zoo package: a folder, a .zip or its .yaml"))
    return found


def _unpacked(archive: Path) -> Path:
    folder = cache_folder("packages") / file_sha256(archive)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)  # zipfile removes name parts that lead out of the folder
        if not folder.is_dir():  # another process may have unpacked it first
            scratch.rename(folder)
    except (zipfile.BadZipFile, OSError) as error:
        if not folder.is_dir():
            raise InputError(Problem(str(archive), f"no readable zip ({error})", "a package as the zoo offers it")) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def read_package(file: Path) -> Package:
    """Read a description.

    Raises:
        InputError: the file is no description of a model, or a key is missing, wrong or not supported; the message names the key.
    """
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(Problem(str(file), f"no readable YAML ({' '.join(str(error).split())})")) from error
    if not isinstance(data, Mapping) or data.get("type", "model") != "model":
        raise InputError(Problem(str(file), "no description of a model", "type: model"))
    version = ".".join(str(data.get("format_version", "")).split(".")[:2])
    if version not in ("0.4", "0.5"):
        raise InputError(Problem(f"{file}: format_version", repr(data.get("format_version")), "0.4 or 0.5"))
    try:
        return _package(file, data, is_new=version == "0.5")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            Problem(str(file), f"a key that is missing or wrong ({type(error).__name__}: {error})", f"format {version}")
        ) from error


def _package(file: Path, data: Mapping[str, Any], *, is_new: bool) -> Package:
    if (len(data["inputs"]), len(data["outputs"])) != (1, 1):
        raise InputError(Problem(str(file), f"{len(data['inputs'])} inputs and {len(data['outputs'])} outputs", "one of each"))
    (taken,), (given,) = data["inputs"], data["outputs"]
    sides, results = (_axes(file, tensor, is_new=is_new) for tensor in (taken, given))
    size, step = _size(file, sides)
    activation, threshold = read_postprocessing(file, given.get("postprocessing") or ())
    scale, unit = sides["x"].get("scale"), sides["x"].get("unit")
    channel = sides["c"].get("size")
    low_high = (given.get("data") or {}).get("range") if is_new and isinstance(given.get("data"), Mapping) else given.get("data_range")
    return Package(
        file=file,
        weights=_weights(file, data["weights"]),
        channels=channel if isinstance(channel, int) else None,
        size=size,
        step=step,
        offset=-int(results["x"].get("offset", 0)),
        halo=int(results["x"].get("halo") or 0),
        preprocessing=read_preprocessing(file, taken.get("preprocessing") or (), channel),
        threshold=threshold,
        activation=activation,
        is_probability=activation is None and list(low_high or ()) == [0, 1],
        names=tuple(map(str, results["c"].get("names") or ())),
        pixel_size=float(scale) if scale and unit == "micrometer" else None,
        test=_tests(file, data, taken, given, is_new=is_new),
        tolerance=_tolerance(data),
    )


def _axes(file: Path, tensor: Mapping[str, Any], *, is_new: bool) -> dict[str, dict[str, Any]]:
    """Return what is declared of the axes b, c, y, x: size, or minimum and step; offset and halo of one side; channel names."""
    axes: dict[str, dict[str, Any]] = {}
    if not is_new:
        shape = tensor["shape"]
        for at, name in enumerate(tensor["axes"]):
            if isinstance(shape, Mapping) and "min" in shape:
                side: dict[str, Any] = {"size": {"min": shape["min"][at], "step": shape["step"][at]}}
            elif isinstance(shape, Mapping):
                side = {"factor": shape["scale"][at], "offset": shape["offset"][at]}
            else:
                side = {"size": shape[at]}
            axes[name] = {**side, "halo": (tensor.get("halo") or [0] * len(tensor["axes"]))[at]}
    else:
        for axis in tensor["axes"]:
            name = {"batch": "b", "channel": "c"}.get(axis["type"], str(axis.get("id", "x")))
            size = axis.get("size")
            more: dict[str, Any] = {"size": size, "names": axis.get("channel_names")}
            if axis["type"] == "channel":
                more["size"] = len(axis["channel_names"]) if isinstance(axis.get("channel_names"), Sequence) else None
            if isinstance(size, Mapping) and "tensor_id" in size:
                more["offset"] = size.get("offset", 0) / 2
            axes[name] = {**axis, **more}
    if list(axes) != ["b", "c", "y", "x"]:
        raise InputError(Problem(f"{file}: axes", "".join(axes), "batch, channel, y, x in this order", "Volumes are not read."))
    if any(side.get("factor", 1) != 1 for side in (axes["y"], axes["x"])):
        raise InputError(Problem(f"{file}: outputs", "another size than the input's", "one class a pixel"))
    return axes


def _size(file: Path, sides: Mapping[str, Mapping[str, Any]]) -> tuple[int | None, int]:
    """Return the only size that the network takes and 1, or None and the step of the sizes."""
    size = sides["y"].get("size")
    if isinstance(size, Mapping) and "min" not in size:
        size = sides["x"]["size"]  # the size of y refers to that of x
    elif size != sides["x"].get("size") and not isinstance(sides["x"].get("size"), Mapping):
        raise InputError(Problem(f"{file}: inputs", f"{size} x {sides['x'].get('size')}", "as high as wide"))
    if isinstance(size, int):
        return size, 1
    if not isinstance(size, Mapping):
        raise InputError(Problem(f"{file}: inputs", f"a size of {size!r}", "a number, or min and step"))
    least, step = int(size["min"]), max(int(size["step"]), 1)
    if least % step == 0:
        return None, step
    return least + -(-max(512 - least, 0) // step) * step, 1  # sizes are multiples of no step: choose one near 512


def _weights(file: Path, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Weights]:
    found = {}
    for name in _FORMATS:
        entry = data.get(name)
        if entry and (source := _source(file, entry.get("source"))):
            found[name] = Weights(source, entry.get("sha256"), entry)
    if not found:
        given = ", ".join(data) or "no entry"
        raise InputError(
            Problem(f"{file}: weights", given, f"{', '.join(_FORMATS)}, as files of the package", "Download the whole package.")
        )
    return found


def _source(file: Path, source: Any) -> Path | None:
    """Return a file of the package; None where it lies elsewhere or is missing."""
    name = source.get("source") if isinstance(source, Mapping) else source
    if not isinstance(name, str) or "://" in name:
        return None
    path = file.parent / name
    return path if path.is_file() else None


def _tests(file: Path, data: Mapping[str, Any], taken: Any, given: Any, *, is_new: bool) -> tuple[Path, Path] | None:
    pair = (taken.get("test_tensor"), given.get("test_tensor")) if is_new else (data["test_inputs"][0], data["test_outputs"][0])
    taken_file, given_file = (_source(file, source) for source in pair)
    return (taken_file, given_file) if taken_file and given_file else None


def _tolerance(data: Mapping[str, Any]) -> tuple[float, float]:
    """Return the widest documented tolerance, and at least what float32 needs."""
    config = data.get("config") or {}
    entries = (config.get("bioimageio") or {}).get("reproducibility_tolerance") or ()
    relative = max([_TOLERANCE, *(float(entry.get("relative_tolerance", 1e-3)) for entry in entries)])
    return relative, max([0.0, *(float(entry.get("absolute_tolerance", 1e-3)) for entry in entries)])
