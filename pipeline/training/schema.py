"""The training YAML as one frozen, strict tree: every key, its type, its default and what it means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, Strict, ValidationInfo, field_validator, model_validator

from pipeline.config import (
    DEFAULT_PLUGINS,
    Auto,
    ByteSize,
    Classes,
    Config,
    KeyLocations,
    NonEmptyText,
    PluginSpec,
    PositiveInteger,
    ResolutionKey,
    Sources,
    StrictModel,
    Truth,
    YamlKind,
    parse_bytes,
)
from pipeline.errors import Problem, nearest
from pipeline.training.augmentation import Augment
from pipeline.validation import Expected, problems_error

__all__ = [
    "TRAINING_YAML",
    "About",
    "Border",
    "Kept",
    "Optimizer",
    "RateSchedule",
    "Sampling",
    "TrainCompute",
    "TrainConfig",
    "is_training",
]

Share = Annotated[float, Field(ge=0, le=1)]
Texts = Annotated[
    tuple[NonEmptyText, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Strict(strict=False)
]
Positive = Annotated[float, Field(gt=0)]


class Kept(StrictModel):
    """What of ``images`` is kept for validation: some of them, or a part of each, for few large images such as maps and slides."""

    names: Texts | None = Field(default=None, min_length=1, description="images: NAMEs, or patterns such as slide_7*")
    by: NonEmptyText | None = Field(
        default=None,
        description="region: cells of a coarse grid of each image, with a gap of one crop around them that is not used; "
        "folder: all images of some folders; else a regular expression: all images in whose names it finds the same, such as rat\\d+",
    )
    fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="share of the labelled pixels of each image, or share of the groups; null: 0.2"
    )

    @field_validator("by")
    @classmethod
    def _regular(cls, by: str | None) -> str | None:
        try:
            re.compile(by or "")
        except re.error as error:
            found = f"'{by}', which is no regular expression ({error})"
            raise problems_error([Problem("", found, "region, folder, or a regular expression such as 'rat\\d+'")]) from error
        return by

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.names is None) == (self.by is None) or (self.by is None and self.fraction is not None):
            raise ValueError("{names: [..]}, {fraction: 0.2, by: region}, or {by: 'rat\\d+'}")
        return self

    @property
    def share(self) -> float:
        """``fraction``, or its default."""
        return self.fraction or 0.2


class Border(StrictModel):
    """Splits one class into its interior and its border, so that touching objects stay apart."""

    of: str = Field(description="name of the class whose truth values number its objects")
    width: int = Field(default=2, ge=1, description="width of the border, inside each object, pixels")


class Optimizer(StrictModel):
    """The optimizer and its options."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW (Loshchilov and Hutter 2019), or SGD with Nesterov momentum")
    rate: float = Field(default=1e-3, gt=0, description="largest learning rate")
    weight_decay: float = Field(default=1e-2, ge=0, description="decay of weights with more than one axis; norms and biases have none")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    clip: Positive | None = Field(default=1.0, description="largest norm of the gradient; null: no limit")


class RateSchedule(StrictModel):
    """How the learning rate changes as training goes on."""

    name: Literal["cosine", "poly", "step", "constant"] = Field(default="cosine", description="shape after the warm-up")
    warmup: Share = Field(default=0.03, description="share of the training during which the rate rises from 0")
    power: float = Field(default=0.9, gt=0, description="exponent of poly")
    at: Annotated[tuple[Share, ...], Strict(strict=False)] = Field(
        default=(0.5, 0.75), description="shares of the training after which step lowers the rate"
    )
    factor: float = Field(default=0.1, gt=0, lt=1, description="what step multiplies the rate by")

    def rate_at(self, done: float) -> float:
        """Return the learning rate as a share of the largest one, where ``done`` is the share of the training that is done, 0 to 1.

        Example:
            >>> [round(RateSchedule(warmup=0.1).rate_at(done), 3) for done in (0.05, 0.1, 0.55, 1.0)]
            [0.5, 1.0, 0.5, 0.0]
            >>> [RateSchedule(name="step", warmup=0.0).rate_at(done) for done in (0.4, 0.5)]
            [1.0, 0.1]
        """
        if done < self.warmup:
            return done / self.warmup
        left = (1 - done) / (1 - self.warmup) if self.warmup < 1 else 1.0
        if self.name == "cosine":
            return 0.5 - 0.5 * math.cos(math.pi * left)
        if self.name == "poly":
            return float(left**self.power)
        if self.name == "step":
            return float(self.factor ** sum(done >= at for at in self.at))
        return 1.0


class Sampling(StrictModel):
    """Which crops the network sees."""

    images: Literal["area", "equal"] = Field(
        default="area", description="an image is drawn in proportion to its area, or all images equally often"
    )
    balance: Share = Field(default=0.0, description="share of the crops that are centred on a pixel of a class, all classes equally often")
    empty: Share = Field(default=1.0, description="largest share of crops that hold only class 0")


class TrainCompute(StrictModel):
    """Where training runs; the number of workers changes its speed, not the crops of a batch."""

    runner: Literal["auto", "serial", "ray"] = Field(default="auto", description="auto: Ray Train for more than one worker")
    address: str | None = Field(default=None, description="address of a running Ray cluster; null: this machine")
    workers: PositiveInteger | Auto = Field(default="auto", description="processes that share each batch; auto: one for each GPU, else one")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the network is trained")
    threads: PositiveInteger | Auto = Field(
        default="auto", description="compute threads of each worker; auto: the cores divided by the workers"
    )
    loaders: PositiveInteger | Auto = Field(
        default="auto",
        description="what prepares the crops of a worker: 1: a thread; above 1: that many processes; "
        "auto: 1 on CPU, the worker's share of the cores on a GPU",
    )
    memory: ByteSize = Field(default="4GiB", description="memory for decoded images of each worker; larger images are read by region")
    failures: int = Field(default=3, ge=0, description="how many times a lost worker is replaced")

    @property
    def memory_bytes(self) -> int:
        """``memory`` in bytes."""
        return parse_bytes(self.memory)


class About(StrictModel):
    """What model.yaml says about the weights."""

    licence: str = Field(default="", description="licence of the weights")
    trained_on: str = Field(default="", description="data set, its source and licence")
    citation: str = Field(default="", description="what users of the weights should cite")
    kinds: Texts = Field(default=(), description="kinds of images, such as fluorescence or aerial")
    not_for: Texts = Field(
        default=(), description="images that it must not be used on, each a phrase such as `stained tissue: use nuclei-stained`"
    )
    limits: Texts = Field(default=(), description="what was measured to change its masks, each a sentence with its figure")
    diameter: Positive | None = Field(
        default=None,
        description="median diameter of the objects, pixels of the training grid; null: measured where `border` is given",
    )


class TrainConfig(StrictModel):
    """A whole training. Paths are absolute once loaded."""

    images: Sources = Field(min_length=1, description="files, folders, globs, URLs, {mosaic: tiles/*.tif}, or a CSV: image[,name,...]")
    truth: Truth | None = Field(default=None, description="reference masks or polygons, such as truth/{stem}.png; null: a CSV names them")
    exclude: Texts = Field(default=(), description="images that are left out: NAMEs, or patterns such as bad_*")
    val: Annotated[float, Field(gt=0, lt=1)] | Kept | Texts = Field(
        default=0.2,
        description="validation images: a share of the images, {names: ..}, or files, folders and globs of their own; "
        "{fraction: 0.2, by: region}: parts of each image; {by: 'rat\\d+'}: all images of some animals, scenes or folders",
    )
    classes: Classes = Field(description="the classes, in the order of their ids")
    ignore: int | Annotated[str, Expected("a colour '#rrggbb'")] | None = Field(
        default=None, description="a truth value or colour that is not counted"
    )
    reader: PluginSpec = Field(default=DEFAULT_PLUGINS["reader"], description="how images are read")
    resolution: ResolutionKey = Field(default="auto", description="the grid to train on, as in the YAML of a run; auto: each image's own")
    model: PluginSpec = Field(description="a network and its options; channels and classes follow from the images and from `classes`")
    mean_of: Texts = Field(
        default=(),
        description="bundles, trainings or files of weights: training starts from their mean; norms are measured again where they differ",
    )
    normalize: Literal["auto", "dataset", "percentile", "zscore", "contrast", "none"] | dict[str, list[float]] = Field(
        default="auto",
        description="dataset: mean and deviation of all training images; percentile, zscore, contrast: of each image; "
        "auto: what all bundles of mean_of have, else dataset for 8 bits, and percentile for other types and merged channels",
    )
    merge_channels: bool = Field(
        default=False, description="the network sees mean, minimum and maximum over the channels, so that it takes any number of channels"
    )
    border: Border | None = Field(default=None, description="train the border inside the objects of a class as a separate output")
    crop: int = Field(default=256, ge=16, description="side of what the network sees, pixels; rounded up to a multiple of its stride")
    batch: PositiveInteger = Field(default=8, description="crops in each step, over all workers")
    loss: PluginSpec = Field(
        default={"name": "combined", "losses": [{"name": "cross_entropy"}, {"name": "dice"}]}, description="a loss and its options"
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="the optimizer and its options")
    schedule: RateSchedule = Field(default=RateSchedule(), description="how the learning rate changes")
    epochs: Positive | None = Field(default=None, description="how many times the training pixels are seen; 100 where no length is given")
    steps: Annotated[int, Field(ge=0)] | None = Field(default=None, description="number of batches; 0: keep and score the initial network")
    minutes: Positive | None = Field(
        default=None,
        description="minutes of the whole training, from reading the images to the final scores; validations get fewer where they are long",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", description="auto: bf16 where the hardware has it")
    augment: Augment = Field(default=Augment(), description="how crops are varied")
    sampling: Sampling = Field(default=Sampling(), description="which crops the network sees")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=0.998, description="decay of the averaged weights, which are the ones that are kept; null: no averaging"
    )
    freeze_norms: bool = Field(
        default=False, description="batch norms keep their initial statistics: for fine-tuning with few crops in a batch"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of weights, crops and augmentation")
    validate_every: PositiveInteger | Auto = Field(
        default="auto", description="steps between validations; auto: 20 in all, or fewer that take a fifth of `minutes`"
    )
    early_stop: PositiveInteger | None = Field(default=None, description="validations without a better mean IoU before training ends")
    checkpoint_minutes: float = Field(default=5.0, ge=0, description="minutes between checkpoints")
    resume: bool = Field(default=True, description="continue from the checkpoint of the output folder; false: refuse a folder that has one")
    half: bool = Field(default=False, description="store and score the weights of the bundle in 16 bits, half the size")
    about: About = Field(default=About(), description="what the bundle says about its weights")
    compute: TrainCompute = Field(default=TrainCompute(), description="where training runs")
    # A path, because TensorBoard and Ray Train write their own files below it, and to local folders only.
    output: Path = Field(strict=False, description="folder of the bundle, the checkpoint and the history")

    _locations: KeyLocations = PrivateAttr(default_factory=KeyLocations)

    # Validators of fields, because pydantic skips those of the whole tree where a field is wrong: their problems would come late.
    @field_validator("steps", "minutes")
    @classmethod
    def _one_length(cls, length: float | None, info: ValidationInfo) -> float | None:
        given = [key for key in ("epochs", "steps") if info.data.get(key) is not None]
        if length is not None and given:
            raise problems_error([Problem("", f"{given[0]} and {info.field_name}", "one of epochs, steps, minutes")])
        return length

    @field_validator("border")
    @classmethod
    def _known_border(cls, border: Border | None, info: ValidationInfo) -> Border | None:
        names = [spec.name for spec in info.data.get("classes", ())]
        if border is not None and names and border.of not in names:
            raise problems_error([Problem("of", repr(border.of), ", ".join(names), nearest(border.of, names))])
        return border

    @property
    def region_share(self) -> float | None:
        """Share of each image that is kept for validation as regions; None: whole images are."""
        return self.val.share if isinstance(self.val, Kept) and self.val.by == "region" else None

    def where(self, path: str) -> str:
        """Return what a message calls a key: ``train.yaml:4: crop``."""
        return self._locations.where(path)

    def with_locations(self, locations: KeyLocations) -> Self:
        """Return this config with the lines where its keys were written."""
        self._locations = locations
        return self

    @property
    def locations(self) -> KeyLocations:
        """The lines where the keys were written."""
        return self._locations


TRAINING_YAML = YamlKind(
    TrainConfig,
    {"model": "models", "reader": "readers", "loss": "losses"},
    {"reader": DEFAULT_PLUGINS["reader"], "loss": TrainConfig.model_fields["loss"].default},
    path_keys=frozenset({"images", "truth", "val", "mean_of", "output"}),
    list_keys=frozenset({"images", "exclude"}),
    sparse_keys=frozenset({"model"}),
)
"""How the YAML of a training is read."""


def is_training(data: Any) -> bool:
    """Whether a YAML describes a training: it has a key that no run has.

    Example:
        >>> is_training({"images": ["a/"], "model": "unet", "val": 0.2}), is_training({"images": ["a/"], "model": "unet"})
        (True, False)
    """
    return isinstance(data, Mapping) and not data.keys().isdisjoint(TrainConfig.model_fields.keys() - Config.model_fields.keys())
