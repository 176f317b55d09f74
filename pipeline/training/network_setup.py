"""The network that fits the images and the classes, the weights that it starts from, and how its input is normalised; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem, one_of
from pipeline.geometry import ceil_to
from pipeline.inputs import Image
from pipeline.models import Network
from pipeline.models.bundle_files import MERGED_CHANNELS
from pipeline.plugins import available, build, find
from pipeline.statistics import check_mean_std
from pipeline.training.schema import TrainConfig
from pipeline.training.weight_averaging import read_bundle_specs, weights_file
from pipeline.tuning import format_bytes

__all__ = [
    "chosen_channels",
    "configure_network",
    "crop_problems",
    "mean_problems",
    "normalization_kind",
    "normalization_problems",
    "output_classes",
    "requested_normalization",
]

HEADERS = 8  # files that are opened at a time


def configure_network(config: TrainConfig, images: Sequence[Image]) -> tuple[Network | None, list[Problem | str]]:
    """Return the network for the channels of the images and for an output of each class and of the border, and what is wrong with it.

    There is no network where the model cannot be trained.
    """
    problems: list[Problem | str] = []
    kind = find("models", str(config.model.get("name")), config.where("model.name"))
    if not issubclass(kind, Network):
        names = [name for name in available("models") if issubclass(_model_class(name), Network)]
        return None, [Problem(config.where("model.name"), repr(config.model["name"]), one_of(names), "Only these can be trained.")]
    channels = sorted({image.header.channels for image in images})
    if len(channels) > 1 and not config.merge_channels:
        examples = {count: next(image.name for image in images if image.header.channels == count) for count in channels}
        found = f"images of different channels: {', '.join(f'{name} has {count}' for count, name in examples.items())}"
        way_out = "Choose them with reader.channels, or use merge_channels: true."
        problems.append(Problem(config.where("images"), found, "one number of channels", way_out))
    num_outputs = len(config.classes) + (config.border is not None)
    num_channels = MERGED_CHANNELS if config.merge_channels else (channels or [1])[0]
    defaults = {"channels": num_channels, "classes": num_outputs}
    spec = {**{key: value for key, value in defaults.items() if key in kind.model_fields}, **config.model}
    network: Network = build("models", spec, config.where("model"))
    if network.num_classes != num_outputs:
        where = config.where("model.classes")
        problems.append(Problem(where, str(network.num_classes), f"{num_outputs}, one for each output", "Leave it out."))
    if images and network.num_channels not in (None, num_channels):
        where = config.where("model.channels")
        problems.append(Problem(where, str(network.num_channels), f"{num_channels}, as the network sees", "Leave it out."))
    return network, [*problems, *_weight_problems(config, network)]


def chosen_channels(images: Sequence[Image]) -> dict[str, Any] | None:
    """Return the ``numbers`` of the channels that ``reader.channels`` or a CSV chooses, and the number of channels ``of`` a file.

    None where all channels are read, or where images differ in this.
    """
    if any(image.reader.get("channels") is None for image in images):
        return None
    with ThreadPoolExecutor(HEADERS) as pool:
        found = set(pool.map(_chosen_of_file, images))
    (numbers, of) = found.pop() if len(found) == 1 else ((), 0)
    return {"numbers": list(numbers), "of": of} if numbers and numbers != tuple(range(of)) else None


def _chosen_of_file(image: Image) -> tuple[tuple[int, ...], int]:
    with build("readers", {**image.reader, "channels": None}).open(image.path) as raster:
        names = [name.casefold() for name in raster.header.channel_names]
        chosen = image.reader["channels"]
        return tuple(one if isinstance(one, int) else names.index(one.casefold()) for one in chosen), raster.header.channels


def output_classes(config: TrainConfig) -> tuple[int, ...] | None:
    """Return the class of each output channel, of which a border is the last; None: output and class are the same."""
    if config.border is None:
        return None
    names = [spec.name for spec in config.classes]
    return (*range(len(names)), names.index(config.border.of))


def mean_problems(config: TrainConfig) -> list[Problem]:
    """Refuse the mean of networks whose outputs stand for other classes, which the shapes of weights would not show."""
    expected = [config.classes[index].name for index in output_classes(config) or range(len(config.classes))]
    problems = []
    for path, spec in read_bundle_specs(config.mean_of).items():
        names = [spec.classes[index].name for index in spec.outputs or range(len(spec.classes))]
        if names != expected:
            found = f"{path}, whose outputs are {', '.join(names)}"
            allowed = f"bundles whose outputs are {', '.join(expected)}, as the YAML has them"
            problems.append(Problem(config.where("mean_of"), found, allowed))
    return problems


def crop_problems(config: TrainConfig, network: Network, crop: int) -> list[Problem]:
    """Refuse a crop that valid padding would use up, and one that is larger than the memory of this machine."""
    import psutil

    problems, where = [], config.where("crop")
    least = ceil_to(2 * network.margin + 1, network.stride)
    if crop < least:
        problems.append(Problem(where, str(config.crop), f"at least {least}, as the network takes {network.margin} pixels off each side"))
    need, total = crop**2 * 4 * ((network.num_channels or 1) + network.num_classes), psutil.virtual_memory().total
    if config.compute.address is None and need > total:
        found = f"{config.crop}, {format_bytes(need, up=True)} for pixels and outputs of one"
        problems.append(Problem(where, found, f"crops that fit into memory, {format_bytes(total)} here"))
    return problems


def requested_normalization(config: TrainConfig, images: Sequence[Image]) -> Any:
    """Return what the YAML asks for; for ``auto``, what all bundles of ``mean_of`` were trained with, if it fits the images."""
    of_bundles = [spec.normalize or "none" for spec in read_bundle_specs(config.mean_of).values()]
    if config.normalize != "auto" or not of_bundles or any(normalize != of_bundles[0] for normalize in of_bundles):
        return config.normalize
    return config.normalize if normalization_problems(config, of_bundles[0], images) else of_bundles[0]


def normalization_problems(config: TrainConfig, normalize: Any, images: Sequence[Image]) -> list[Problem]:
    """Return what is wrong with fixed numbers; other normalisations fit any image."""
    if not isinstance(normalize, dict):
        return []
    channels: set[int | None] = {image.header.channels for image in images} or {None}
    problems = dict.fromkeys(problem for count in channels for problem in check_mean_std(normalize, count))
    return [replace(problem, where=config.where(problem.where)) for problem in problems]


def normalization_kind(config: TrainConfig, requested: Any, train: Sequence[Image]) -> str:
    """Return ``dataset``, ``fixed``, ``none`` or a method of :data:`PER_IMAGE` for what :func:`requested_normalization` returned.

    Raises:
        InputError: numbers of the whole data set are asked for, and its images have several data types.
    """
    if isinstance(requested, dict):
        return "fixed"
    types = sorted({image.header.dtype for image in train})
    if requested == "dataset" and len(types) > 1:
        found, way_out = f"dataset for images of {', '.join(types)}", "Use normalize: percentile, which is of each image."
        raise InputError(Problem(config.where("normalize"), found, "images of one type", way_out))
    if requested == "auto":
        channels = {image.header.channels for image in train}
        # A network of merged channels takes images with any number of channels, which the numbers of these images would not fit.
        is_one_kind = types == ["uint8"] and len(channels) == 1 and not config.merge_channels
        return "dataset" if is_one_kind else "percentile"
    return str(requested)


def _weight_problems(config: TrainConfig, network: Network) -> list[Problem]:
    """What is wrong with the weights that the network starts from."""
    problems = [Problem(config.where("model.weights"), str(path), "a file that exists") for path in network.files() if not path.is_file()]
    problems += [
        Problem(config.where("mean_of"), text, "a bundle, or a file of weights") for text in config.mean_of if not _has_weights(text)
    ]
    given = [key for key in ("weights", "pretrained") if getattr(network, key, None)]
    if config.mean_of and given:
        problems.append(Problem(config.where("mean_of"), f"mean_of and model.{given[0]}", "one of them"))
    if config.freeze_norms and not config.mean_of and not given:
        way_out = "Give the weights to go on from, or leave it out."
        problems.append(Problem(config.where("freeze_norms"), "true without model.weights", "true with weights, or false", way_out))
    return problems


def _has_weights(path: str) -> bool:
    try:
        return weights_file(Path(path)).is_file()
    except InputError:
        return False


def _model_class(name: str) -> type[Any]:
    try:
        return find("models", name)
    except InputError:
        return object  # its package is not installed
