"""Pre- and postprocessing of a resource description, read as steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.models.model_zoo.preprocessing import Preprocessing, Step

__all__ = ["read_postprocessing", "read_preprocessing"]

PREPROCESSING = "ensure_dtype, scale_linear, zero_mean_unit_variance, fixed_zero_mean_unit_variance, scale_range, clip, binarize, sigmoid"
FLOAT_MAX = 3.4028234663852886e38  # in place of infinity, which JSON does not have
POSTPROCESSING = "ensure_dtype, sigmoid, softmax, binarize, clip to 0..1"


def read_preprocessing(file: Path, entries: Sequence[Mapping[str, Any]], channels: Any) -> Preprocessing:
    """Read the steps that pixels go through before the network.

    Args:
        file: the description, for messages.
        entries: the list under ``preprocessing``.
        channels: number of channels of the input, as the description has it.

    Raises:
        InputError: a step is not supported, or its axes leave out y or x.
    """
    steps = []
    for entry in entries:
        name, options = _name_and_options(entry)
        where = f"{file}: preprocessing {name}"
        if name == "ensure_dtype":
            if options.get("dtype") not in ("float32", "float64"):
                raise InputError(Problem(where, str(options.get("dtype")), "float32"))
            continue
        steps.append(_step(name, options, where, channels))
    return Preprocessing(tuple(steps))


def _name_and_options(entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return str(entry.get("id") or entry.get("name")), entry.get("kwargs") or {}


def _step(name: str, options: Mapping[str, Any], where: str, channels: Any) -> Step:
    eps = float(options.get("eps", 1e-6))
    if options.get("axis", "channel") != "channel":
        raise InputError(Problem(where, f"numbers along {options['axis']}", "numbers along the channels"))
    if name == "fixed_zero_mean_unit_variance":
        return Step("scale", _numbers(options["mean"]), _numbers(options["std"]))
    if name == "zero_mean_unit_variance" and options.get("mode", "fixed") == "fixed" and "mean" in options:
        return Step("scale", _numbers(options["mean"]), tuple(std + eps for std in _numbers(options["std"])))
    if name == "zero_mean_unit_variance":
        return Step("zscore", pooled=_pooled(options, where, channels), eps=eps)
    if name == "scale_range" and options.get("reference_tensor") is None:
        shares = _numbers(options.get("min_percentile", 0.0)), _numbers(options.get("max_percentile", 100.0))
        return Step("range", *shares, pooled=_pooled(options, where, channels), eps=eps)
    if name == "scale_linear":
        return Step("linear", _numbers(options.get("gain", 1.0)), _numbers(options.get("offset", 0.0)))
    if name == "clip":
        low, high = ((sign * FLOAT_MAX if end is None else float(end)) for sign, end in ((-1, options.get("min")), (1, options.get("max"))))
        return Step("clip", (low,), (high,))
    if name == "binarize":
        return Step("binarize", _numbers(options["threshold"]), (0.0,))
    if name == "sigmoid":
        return Step("sigmoid", (0.0,), (0.0,))
    raise InputError(Problem(where, "a step that is not supported", PREPROCESSING))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in value) if isinstance(value, Sequence) else (float(value),)


def _pooled(options: Mapping[str, Any], where: str, channels: Any) -> bool:
    """Return whether channels share their statistics; y and x must be among the axes."""
    axes = options.get("axes")
    if axes is None:
        return True
    short = {"batch": "b", "channel": "c"}
    found = {short.get(str(axis), str(axis)) for axis in axes}
    if not {"x", "y"} <= found:
        raise InputError(Problem(where, f"axes {sorted(found)}", "y and x among them: statistics of the whole image"))
    return "c" in found and channels != 1


def read_postprocessing(file: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[str | None, float]:
    """Read the activation after the network, if any, and the threshold of a final ``binarize``, else 0.5.

    Args:
        file: the description, for messages.
        entries: the list under ``postprocessing``.

    Raises:
        InputError: a step is not supported.
    """
    activation, threshold = None, 0.5
    for entry in entries:
        name, options = _name_and_options(entry)
        if name in ("sigmoid", "softmax") and activation is None and options.get("axis", "channel") == "channel":
            activation = name
        elif name == "binarize" and isinstance(options.get("threshold"), (int, float)) and 0 < options["threshold"] < 1:
            threshold = float(options["threshold"])
        elif name != "ensure_dtype" and not (name == "clip" and (options.get("min"), options.get("max")) == (0, 1)):
            raise InputError(Problem(f"{file}: postprocessing {name}", str(dict(options)), POSTPROCESSING))
    return activation, threshold
