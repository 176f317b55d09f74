"""Writing the description of a network: ``rdf.yaml``, test tensors and a README."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.geometry import Box, ceil_to
from pipeline.models import Model
from pipeline.models.bundle_files import card_parts, score_tables, summary_of
from pipeline.models.model_zoo.preprocessing import read_preprocessing
from pipeline.statistics import HIGH_PERCENTILE, LOW_PERCENTILE
from pipeline.storage import file_sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["OPSET", "describe", "export_notes"]

OPSET = 18
"""Of the ONNX files."""

MOST_LETTERS = 1024  # of a description
SEEDS, TRIES = 8, 3  # candidates for the test pixels, and noises that each candidate is tried with
ROUNDING, STEADY = 2e-7, 1e-5  # relative noise of a pixel; the change of a probability that it may cause


def describe(folder: Path, name: str, model: Model, network: nn.Module, channels: int) -> None:
    """Add description, test tensors and README to a folder that holds ``weights.pt`` and ``weights.onnx``.

    Args:
        folder: of the package.
        name: of the model.
        model: classes, stride, field and normalisation become part of the description.
        network: computes the test output; takes ``channels``.
        channels: C.
    """
    import torch

    steps, size = _steps(model), model.fixed_size or {"min": _least(model), "step": model.stride}
    outputs, activation = _test(folder, model, network, channels, steps)
    weights: dict[str, dict[str, Any]] = {
        "torchscript": {"pytorch_version": torch.__version__.split("+")[0]},
        "onnx": {"parent": "torchscript", "opset_version": OPSET},
    }
    data = {
        "format_version": "0.5.4",
        "type": "model",
        **_credits(name, model),
        "inputs": [
            {
                "id": "raw",
                "axes": _axes([f"channel{at}" for at in range(channels)], {axis: {"size": size} for axis in "yx"}),
                "test_tensor": _file(folder, "test_input.npy"),
                "preprocessing": [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}, *steps],
            }
        ],
        "outputs": [
            {
                "id": "scores",
                "axes": _axes(_names(model, outputs), {axis: _result(model, axis) for axis in "yx"}),
                "test_tensor": _file(folder, "test_output.npy"),
                "postprocessing": [activation],
            }
        ],
        "weights": {
            key: {**_file(folder, file), **weights[key]} for key, file in (("torchscript", "weights.pt"), ("onnx", "weights.onnx"))
        },
    }
    (folder / "README.md").write_text(_documentation(name, model), encoding="utf-8")
    (folder / "rdf.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def export_notes(model: Model) -> list[str]:
    """Return in what a package differs from the model, as sentences: what the format cannot say."""
    if model.normalize != "contrast":
        return []
    percentiles = f"the percentiles {LOW_PERCENTILE:g} and {HIGH_PERCENTILE:g} of the image"
    means = f"The model has normalize: contrast, which the format lacks: the package scales by {percentiles}."
    return [f"{means} Its masks differ from the model's, most of all where an image has much empty background, glass or padding."]


def _documentation(name: str, model: Model) -> str:
    """Return the notes and the card of the model as Markdown, in which no text of it is markup."""
    lines = [f"# {escape(name)}", "", f"Exported by gigaseg {__version__}."]
    lines += [line for note in export_notes(model) for line in ("", note)]
    for part in card_parts(model.card):
        lines += ["", f"## {part.word}", "", *(f"- {escape(entry)}" if len(part.entries) > 1 else escape(entry) for entry in part.entries)]
    for table in score_tables(model.card):
        lines += ["", f"## {escape(table.title)}", "", "| score | value | 95 % interval |", "|---|---|---|"]
        lines += [f"| {' | '.join(escape(cell).replace('|', '/') for cell in row)} |" for row in table.rows]
        lines += ["", f"{escape(table.note)}."] if table.note else []
    return "\n".join(lines) + "\n"


def _credits(name: str, model: Model) -> dict[str, Any]:
    summary = f" Finds {found}" if (found := summary_of(model.card)) else ""
    return {
        "name": f"gigaseg {name}",
        "description": f"Semantic segmentation, exported by gigaseg {__version__}.{summary}"[:MOST_LETTERS],
        "authors": [{"name": "unknown"}],
        "cite": [{"text": model.citation or "gigaseg", "url": "https://pypi.org/project/gigaseg"}],
        **({"license": model.licence} if model.licence else {}),
        "documentation": "README.md",
        "tags": ["segmentation", "gigaseg"],
    }


def _file(folder: Path, name: str) -> dict[str, str]:
    return {"source": name, "sha256": file_sha256(folder / name)}


def _axes(names: list[str], sides: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    space = [{"type": "space", "id": axis, **side} for axis, side in sides.items()]
    return [{"type": "batch"}, {"type": "channel", "channel_names": names}, *space]


def _names(model: Model, outputs: int) -> list[str]:
    names = [str(named["name"]) for named in model.class_list]
    if outputs == 1:
        return names[1:2] or ["foreground"]
    return names if len(names) == outputs else [f"class{k}" for k in range(outputs)]


def _steps(model: Model) -> list[dict[str, Any]]:
    wanted = model.normalize
    if wanted == "zscore":
        return [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["y", "x"]}}]
    if wanted in ("percentile", "contrast"):  # contrast is no step of the format: see export_notes
        return [{"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": LOW_PERCENTILE, "max_percentile": HIGH_PERCENTILE}}]
    if not wanted:
        return []
    means, stds = ([float(number) for number in wanted[key]] for key in ("mean", "std"))
    if len(means) == len(stds) == 1:
        return [{"id": "fixed_zero_mean_unit_variance", "kwargs": {"mean": means[0], "std": stds[0]}}]
    most = max(len(means), len(stds))
    kwargs = {"mean": means * (most // len(means)), "std": stds * (most // len(stds)), "axis": "channel"}
    return [{"id": "fixed_zero_mean_unit_variance", "kwargs": kwargs}]


def _least(model: Model) -> int:
    """Return the smallest side whose output has pixels left without its border."""
    return model.fixed_size or ceil_to(2 * max(model.field or 0, model.margin) + model.stride, model.stride)


def _result(model: Model, axis: str) -> dict[str, Any]:
    size = {"tensor_id": "raw", "axis_id": axis, **({"offset": -2 * model.margin} if model.margin else {})}
    halo = (model.field or 0) - model.margin
    return {"size": size, **({"halo": halo} if halo > 0 and not model.fixed_size else {})}


def _test(folder: Path, model: Model, network: nn.Module, channels: int, steps: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Write the test tensors; return the number of output channels, and the activation that turns them into probabilities."""
    import torch

    side = model.fixed_size or max(_least(model), ceil_to(64, model.stride))
    preprocessing = read_preprocessing(folder, steps, channels)
    fitter = preprocessing.fitter()

    def scores_of(raw_NCYX: NDArray[np.float32]) -> torch.Tensor:
        fit = fitter.fit(fitter.observe(raw_NCYX[0], None, Box(0, 0, side, side), 0)) if fitter else None
        with torch.no_grad():
            logits = network(torch.from_numpy(preprocessing.apply(raw_NCYX[0], fit))[None])
        return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)

    raw_NCYX = _steady_pixels((1, channels, side, side), scores_of)
    scores = scores_of(raw_NCYX)
    np.save(folder / "test_input.npy", raw_NCYX)
    np.save(folder / "test_output.npy", scores.numpy())
    return int(scores.shape[1]), {"id": "sigmoid"} if scores.shape[1] == 1 else {"id": "softmax", "kwargs": {"axis": "channel"}}


def _steady_pixels(shape: tuple[int, ...], scores_of: Callable[[NDArray[np.float32]], torch.Tensor]) -> NDArray[np.float32]:
    """Return pixels for which rounding changes no choice of the network.

    A network may choose between values that are equal but for rounding, such as the position of a maximum in SegNet's unpooling;
    another runtime or processor then chooses differently.
    """
    moved: dict[int, float] = {}
    for seed in range(SEEDS):
        raw_NCYX, expected = _pixels(shape, seed), scores_of(_pixels(shape, seed))
        noise = np.random.default_rng(seed + SEEDS).normal(0, ROUNDING, (TRIES, *shape)).astype(np.float32)
        moved[seed] = max(float((scores_of(raw_NCYX * (1 + noise_NCYX)) - expected).abs().max()) for noise_NCYX in noise)
        if moved[seed] < STEADY:
            break
    return _pixels(shape, min(moved, key=lambda seed: moved[seed]))


def _pixels(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)
