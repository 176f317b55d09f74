"""What a training is made of: which images teach, which judge, and the network that fits both. Headers only; no torch."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, Places, palette
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Image, TruthMap, list_inputs, open_all, truth_problems
from pipeline.losses import Loss
from pipeline.models import Network
from pipeline.models.bundle import MERGED
from pipeline.plugins import available, build, find
from pipeline.statistics import check_fixed
from pipeline.training.schema import Names, TrainConfig
from pipeline.training.weight_averaging import bundles_of, weights_file
from pipeline.tuning import print_bytes

__all__ = ["TrainPlan", "make_plan", "run_config"]

EPOCHS = 100.0


@dataclass(frozen=True)
class TrainPlan:
    """A training, checked; a frozen value that travels to the workers.

    Attributes:
        config: the YAML.
        network: with channels and classes filled in.
        loss: as the YAML says; class weights are numbers once the images have been scanned.
        classes: ``{"name", "color"}`` in order.
        outputs: class of each output channel of the network; None: one each.
        crop: side of what the network sees, pixels, a multiple of its stride.
        train: images that teach, all with truth.
        val: images that judge, all with truth.
        truth_map: from truth values to class ids.
        notes: for the user.
        normalize: as asked for, until the scan settles that of the bundle: fixed ``{"mean", "std"}``, ``percentile``, ``zscore`` or None.
    """

    config: TrainConfig
    network: Network
    loss: Loss
    classes: Sequence[Mapping[str, Any]]
    outputs: tuple[int, ...] | None
    crop: int
    train: Sequence[Image]
    val: Sequence[Image]
    truth_map: TruthMap
    notes: Sequence[str] = ()
    normalize: Any = None
    scan: Any = field(default=None, repr=False)

    @property
    def border(self) -> int | None:
        """Id of the class that is split into interior and border."""
        border = self.config.border
        return None if border is None else [one["name"] for one in self.classes].index(border.of)

    @property
    def pixels(self) -> int:
        """Of all training images and planes."""
        return sum(area(image) for image in self.train)

    @property
    def steps(self) -> int | None:
        """Batches in all; None: as many as fit into ``minutes``."""
        if self.config.minutes is not None:
            return None
        if self.config.steps is not None:
            return self.config.steps
        crops = max(self.pixels / self.crop**2, len(self.train))
        return max(1, round((self.config.epochs or EPOCHS) * crops / self.config.batch))


def area(image: Image) -> int:
    """Pixels of all planes of an image."""
    height, width = image.header.shape
    return height * width * image.header.num_planes


def run_config(config: TrainConfig, images: Sequence[str], **keys: Any) -> Config:
    """The run that reads the same kind of images: for listing them, and for judging a bundle."""
    given = {"truth": config.truth, "classes": config.classes, "ignore": config.ignore, "reader": config.reader, "output": config.output}
    return Config(images=tuple(images), **{**given, "model": config.model, **keys}).placed(config._places)  # noqa: SLF001 - where its keys were written


def make_plan(config: TrainConfig) -> TrainPlan:
    """Find images and truth, split them, and fit the network to them.

    Raises:
        InputError: every problem at once.
    """
    truth_map = TruthMap(len(config.classes), config.classes, config.ignore)
    train, val, notes, problems = _parts(config, truth_map)
    network, outputs, trouble = _network(config, [*train, *val])
    problems += [*trouble, *_normalize_problems(config, config.normalize, [*train, *val])]
    if problems or network is None:
        raise InputError(problems)
    crop = ceil_to(config.crop, network.stride)
    if problems := [*_crop_problems(config, network, crop), *_bundle_problems(config, outputs)]:
        raise InputError(problems)
    if crop != config.crop:
        notes.append(f"crop: {config.crop} rounded up to {crop}, a multiple of the network's stride of {network.stride}")
    colors = palette(len(config.classes))
    classes = [{"name": one.name, "color": one.color or colors[at]} for at, one in enumerate(config.classes)]
    loss: Loss = build("losses", config.loss, "loss")
    normalize = _asked_normalize(config, [*train, *val])
    return TrainPlan(config, network, loss, classes, outputs, crop, train, val, truth_map, tuple(notes), normalize)


def _parts(config: TrainConfig, truth_map: TruthMap) -> tuple[list[Image], list[Image], list[str], list[Problem | str]]:
    """The images that teach and those that judge; what was left out; what is wrong."""
    found = _images(config, "images", config.images, truth_map)
    train, val, parts = found.images, list[Image](), [found]
    problems = list(found.problems)
    if isinstance(config.val, tuple):
        parts.append(_images(config, "val", config.val, truth_map))
        val, problems = parts[1].images, [*problems, *parts[1].problems]
        known = {image.path for image in val}
        train = [image for image in found.images if image.path not in known]
    elif not problems:
        train, val, problems = _split(config, found.images)
    if not train and not problems:
        kept = f"{len(found.images)} images, all of them kept for validation"
        problems.append(Problem(config.place("val"), kept, "at least one image to train on", "Give validation images of their own."))
    unused = [one for one in config.exclude if not any(_matches(name, [one]) for part in parts for name in part.names)]
    notes = [note for part in parts for note in part.notes]
    return train, val, [*notes, *(f"exclude: {one!r} matches no image" for one in unused)], problems


@dataclass(frozen=True)
class _Found:
    """What some entries stand for: names of all, the images that have truth, what was left out, what is wrong."""

    names: Sequence[str]
    images: list[Image]
    notes: Sequence[str]
    problems: Sequence[Problem | str]


class _PlacesOfVal(Places):
    """Where ``val`` was written: the run that lists those images has them as ``images``."""

    def of(self, path: str) -> str:
        return super().of(re.sub(r"^images\b", "val", path))


def _images(config: TrainConfig, key: str, texts: Sequence[str], truth_map: TruthMap) -> _Found:
    run, places = run_config(config, texts), config._places  # noqa: SLF001 - where its keys were written
    listed = list_inputs(run if key == "images" else run.placed(_PlacesOfVal(places.origin, places.lines, places.sets)))
    kept = [one for one in listed.found if not _matches(one.name, config.exclude)]
    images, rejected, trouble = open_all(kept, run)
    paired = [image for image in images if image.truth is not None]
    problems = [*listed.problems, *trouble, *truth_problems(paired, truth_map)]
    if listed.found and not kept:
        problems.append(Problem(config.place("exclude"), f"all {len(listed.found)} images of {key}", "patterns that leave some"))
    elif not paired and not problems:
        problems.append(Problem(config.place("truth"), "no truth for any image", "a pattern such as truth/{stem}.png"))
    notes = [f"left out, unreadable: {one.name}: {one.cause}" for one in rejected]
    notes += [f"left out, no truth: {image.name}" for image in images if image.truth is None]
    return _Found([one.name for one in listed.found], paired, notes, problems)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _split(config: TrainConfig, images: Sequence[Image]) -> tuple[list[Image], list[Image], list[Problem | str]]:
    """Keep some images for validation, whole ones: crops of one image are too much alike to judge each other."""
    if isinstance(config.val, Names):
        chosen = {image.name for image in images if _matches(image.name, config.val.names)}
        unused = [name for name in config.val.names if not any(_matches(image.name, [name]) for image in images)]
        if unused:
            return [], [], [Problem(config.place("val.names"), ", ".join(map(repr, unused[:3])), "names or patterns of images")]
    else:
        assert isinstance(config.val, float)
        ranked = sorted(images, key=lambda image: hashlib.sha256(f"{config.seed} {image.name}".encode()).digest())
        chosen = {image.name for image in ranked[: max(1, round(config.val * len(images)))]}
    train = [image for image in images if image.name not in chosen]
    val = [replace(image, index=at) for at, image in enumerate(image for image in images if image.name in chosen)]
    return train, val, []


def _network(config: TrainConfig, images: Sequence[Image]) -> tuple[Network | None, tuple[int, ...] | None, list[Problem | str]]:
    """Build the network's description with the channels of the images and an output for each class."""
    problems: list[Problem | str] = []
    kind = find("models", str(config.model.get("name")), config.place("model.name"))
    if not issubclass(kind, Network):
        names = ", ".join(name for name in available("models") if issubclass(_kind(name), Network))
        return None, None, [Problem(config.place("model.name"), repr(config.model["name"]), names, "Only these can be trained.")]
    found = sorted({image.header.channels for image in images})
    if len(found) > 1 and not config.merge_channels:
        names = ", ".join(f"{next(one.name for one in images if one.header.channels == count)} has {count}" for count in found)
        way_out = "Choose them with reader.channels, or use merge_channels: true."
        problems.append(Problem(config.place("images"), f"images of different channels: {names}", "one number of channels", way_out))
    heads = len(config.classes) + (config.border is not None)
    asked = {"channels": MERGED if config.merge_channels else (found or [1])[0], "classes": heads}
    spec = {**{key: value for key, value in asked.items() if key in kind.model_fields}, **config.model}
    network: Network = build("models", spec, config.place("model"))
    if network.num_classes != heads:
        problems.append(Problem(config.place("model.classes"), str(network.num_classes), f"{heads}, one an output", "Leave it out."))
    if images and network.num_channels not in (None, asked["channels"]):
        where = config.place("model.channels")
        problems.append(Problem(where, str(network.num_channels), f"{asked['channels']}, as the network is shown", "Leave it out."))
    problems += _weight_problems(config, network)
    outputs = None
    if config.border is not None:
        of = [one.name for one in config.classes].index(config.border.of)
        outputs = (*range(len(config.classes)), of)
    return network, outputs, problems


def _weight_problems(config: TrainConfig, network: Network) -> list[Problem]:
    """What is wrong with the weights that it begins with."""
    problems = [Problem(config.place("model.weights"), str(path), "a file that exists") for path in network.files() if not path.is_file()]
    for text in config.mean_of:
        try:
            exists = weights_file(Path(text)).is_file()
        except InputError:
            exists = False
        if not exists:
            problems.append(Problem(config.place("mean_of"), text, "a bundle, or a file of weights"))
    given = [key for key in ("weights", "pretrained") if getattr(network, key, None)]
    if config.mean_of and given:
        problems.append(Problem(config.place("mean_of"), f"mean_of and model.{given[0]}", "one of them"))
    if config.freeze_norms and not config.mean_of and not given:
        way_out = "Give the weights to go on from, or leave it out."
        problems.append(Problem(config.place("freeze_norms"), "true without model.weights", "true with weights, or false", way_out))
    return problems


def _bundle_problems(config: TrainConfig, outputs: Sequence[int] | None) -> list[Problem]:
    """Refuse the mean of networks whose outputs stand for other classes: shapes would not tell."""
    wanted = [config.classes[at].name for at in outputs or range(len(config.classes))]
    problems = []
    for path, spec in bundles_of(config.mean_of).items():
        names = [spec.classes[at].name for at in spec.outputs or range(len(spec.classes))]
        if names != wanted:
            found = f"{path}, whose outputs are {', '.join(names)}"
            problems.append(Problem(config.place("mean_of"), found, f"bundles whose outputs are {', '.join(wanted)}, as the YAML has them"))
    return problems


def _asked_normalize(config: TrainConfig, images: Sequence[Image]) -> Any:
    """What the YAML asks for; where it leaves that open, what all bundles of the mean were trained with, if that fits the images."""
    theirs = [spec.normalize or "none" for spec in bundles_of(config.mean_of).values()]
    if config.normalize != "auto" or not theirs or any(one != theirs[0] for one in theirs):
        return config.normalize
    return config.normalize if _normalize_problems(config, theirs[0], images) else theirs[0]


def _normalize_problems(config: TrainConfig, normalize: Any, images: Sequence[Image]) -> list[Problem]:
    """What is wrong with fixed numbers."""
    if not isinstance(normalize, dict):
        return []
    counts: set[int | None] = {image.header.channels for image in images} or {None}
    problems = dict.fromkeys(problem for count in counts for problem in check_fixed(normalize, count))
    return [replace(one, where=config.place(one.where)) for one in problems]


def _crop_problems(config: TrainConfig, network: Network, crop: int) -> list[Problem]:
    """What is wrong with a crop that is too small for valid padding, or one that not even this machine's whole memory holds."""
    import psutil

    problems, where = [], config.place("crop")
    least = ceil_to(2 * network.margin + 1, network.stride)
    if crop < least:
        problems.append(Problem(where, str(config.crop), f"at least {least}, as the network takes {network.margin} pixels off each side"))
    need, total = crop**2 * 4 * ((network.num_channels or 1) + network.num_classes), psutil.virtual_memory().total
    if config.compute.address is None and need > total:
        found = f"{config.crop}, {print_bytes(need, up=True)} for pixels and outputs of one"
        problems.append(Problem(where, found, f"crops that fit into memory, {print_bytes(total)} here"))
    return problems


def _kind(name: str) -> type[Any]:
    try:
        return find("models", name)
    except InputError:
        return object  # its package is not installed
