"""The training YAML as one frozen, strict tree: every key, its type, its default and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, ValidationInfo, field_validator

from pipeline.config import Config, Form, Places, parse_bytes
from pipeline.config.schema import DEFAULTS, Auto, Classes, Count, Spec, Text
from pipeline.errors import Problem, nearest
from pipeline.training.augment import Augment
from pipeline.validation import Expected, wrong

__all__ = ["TRAIN", "About", "Border", "Names", "Optimizer", "RateSchedule", "Sampling", "TrainCompute", "TrainConfig", "is_training"]

Share = Annotated[float, Field(ge=0, le=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value), Strict(strict=False)]
Positive = Annotated[float, Field(gt=0)]


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False)


class Names(_Tree):
    """Images of ``images`` that are kept for validation, by name."""

    names: Texts = Field(min_length=1, description="NAMEs, or patterns such as slide_7*")


class Border(_Tree):
    """Splits one class into its interior and its border, so that touching objects can be told apart."""

    of: str = Field(description="name of the class whose truth values number its objects")
    width: int = Field(default=2, ge=1, description="of the border, inside each object, pixels")


class Optimizer(_Tree):
    """How weights follow gradients."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="AdamW (Loshchilov and Hutter 2019), or SGD with Nesterov momentum")
    rate: float = Field(default=1e-3, gt=0, description="largest learning rate")
    weight_decay: float = Field(default=1e-2, ge=0, description="of weights with more than one axis; norms and biases have none")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    clip: Positive | None = Field(default=1.0, description="largest norm of the gradient; null: any")


class RateSchedule(_Tree):
    """How the learning rate changes as training goes on."""

    name: Literal["cosine", "poly", "step", "constant"] = Field(default="cosine", description="shape after the warm-up")
    warmup: Share = Field(default=0.03, description="share of the training in which the rate rises from 0")
    power: float = Field(default=0.9, gt=0, description="of poly")
    at: Annotated[tuple[Share, ...], Strict(strict=False)] = Field(default=(0.5, 0.75), description="of step: shares of the training")
    factor: float = Field(default=0.1, gt=0, lt=1, description="of step: what the rate is multiplied by there")


class Sampling(_Tree):
    """Which crops are shown."""

    images: Literal["area", "equal"] = Field(default="area", description="how often an image is drawn: by its area, or all alike")
    balance: Share = Field(default=0.0, description="share of the crops that are centred on a pixel of a class, all classes alike")
    empty: Share = Field(default=1.0, description="largest share of crops that hold nothing but class 0")


class TrainCompute(_Tree):
    """Where training runs; the number of workers changes its speed, not what it sees."""

    runner: Literal["auto", "serial", "ray"] = Field(default="auto", description="auto: Ray Train for more than one worker")
    address: str | None = Field(default=None, description="address of a running Ray cluster; null: this machine")
    workers: Count | Auto = Field(default="auto", description="processes that share each batch; auto: one a GPU, else one")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the network is trained")
    threads: Count | Auto = Field(default="auto", description="compute threads a worker; auto: the cores, shared by the workers")
    loaders: Count | Auto = Field(
        default="auto",
        description="what prepares a worker's crops: 1, a thread; more: so many processes; auto: 1 on CPU, its share of the cores on a GPU",
    )
    memory: Annotated[str | int, Expected("a size such as 4GiB, 500MB or a number of bytes")] = Field(
        default="4GiB", description="what a worker may use to keep images decoded; larger ones are read by region"
    )
    failures: int = Field(default=3, ge=0, description="times that a lost worker is replaced")

    @field_validator("memory")
    @classmethod
    def _size(cls, memory: str | int) -> str | int:
        parse_bytes(memory)
        return memory

    @property
    def memory_bytes(self) -> int:
        """``memory`` in bytes."""
        return parse_bytes(self.memory)


class About(_Tree):
    """What the bundle says of itself."""

    licence: str = Field(default="", description="of the weights")
    trained_on: str = Field(default="", description="data set, its source and licence")
    citation: str = Field(default="", description="what to cite")


class TrainConfig(_Tree):
    """A whole training. Paths are absolute once loaded."""

    images: Texts = Field(min_length=1, description="files, folders, globs, URLs or a CSV: image[,name,truth,...]")
    truth: Text | None = Field(default=None, description="reference masks, such as truth/{stem}.png; null: a CSV names them")
    exclude: Texts = Field(default=(), description="NAMEs, or patterns such as bad_*, of images that are left out")
    val: Annotated[float, Field(gt=0, lt=1)] | Names | Texts = Field(
        default=0.2, description="a share of the images, {names: ..}, or files, folders and globs of their own"
    )
    classes: Classes = Field(description="in the order of their ids")
    ignore: int | Annotated[str, Expected("a colour '#rrggbb'")] | None = Field(
        default=None, description="a truth value or colour left out"
    )
    reader: Spec = Field(default=DEFAULTS["reader"], description="how images are read")
    model: Spec = Field(description="a network and its options; channels and classes follow the images and the list above")
    mean_of: Texts = Field(
        default=(),
        description="bundles, trainings or files of weights, whose mean to begin with; norms are measured anew where theirs differ",
    )
    normalize: Literal["auto", "dataset", "percentile", "zscore", "none"] | dict[str, list[float]] = Field(
        default="auto",
        description="dataset: numbers of all training images; percentile, zscore: of each image; "
        "auto: as all bundles of mean_of have it, else dataset for 8 bits, and percentile for others and merged channels",
    )
    merge_channels: bool = Field(
        default=False, description="the network sees mean, minimum and maximum over the channels, so that it takes any number of them"
    )
    border: Border | None = Field(default=None, description="train a border inside the objects of a class as an output of its own")
    crop: int = Field(default=256, ge=16, description="side of what the network sees, pixels; rounded up to its stride")
    batch: Count = Field(default=8, description="crops a step, over all workers")
    loss: Spec = Field(
        default={"name": "combined", "losses": [{"name": "cross_entropy"}, {"name": "dice"}]}, description="a loss and its options"
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="how weights follow gradients")
    schedule: RateSchedule = Field(default=RateSchedule(), description="how the learning rate changes")
    epochs: Positive | None = Field(default=None, description="times that the training pixels are seen; 100 where no length is given")
    steps: Annotated[int, Field(ge=0)] | None = Field(default=None, description="batches; 0: the network is kept as it begins, and scored")
    minutes: Positive | None = Field(default=None, description="of training, validation apart")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(default="auto", description="auto: bf16 where the hardware has it")
    augment: Augment = Field(default=Augment(), description="how crops are varied")
    sampling: Sampling = Field(default=Sampling(), description="which crops are shown")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=0.998, description="decay of the averaged weights that are kept; null: none"
    )
    freeze_norms: bool = Field(
        default=False, description="batch norms keep the statistics that they begin with: to go on with few crops a batch"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="of weights, crops and augmentation")
    validate_every: Count | Auto = Field(default="auto", description="steps between validations; auto: 20 in all")
    early_stop: Count | None = Field(default=None, description="validations without a better mean IoU before it ends")
    checkpoint_minutes: float = Field(default=5.0, ge=0, description="between checkpoints")
    resume: bool = Field(default=True, description="go on from the output folder's checkpoint; false: refuse a folder that has one")
    half: bool = Field(default=False, description="keep the bundle's weights in 16 bits: half the size, and scored as such")
    about: About = Field(default=About(), description="what the bundle says of itself")
    compute: TrainCompute = Field(default=TrainCompute(), description="where training runs")
    output: Path = Field(strict=False, description="folder of the bundle, the checkpoint and the history")

    _places: Places = PrivateAttr(default_factory=Places)

    # Validators of fields: those of the whole tree are not asked where a field is wrong, and their problems would come late.
    @field_validator("steps", "minutes")
    @classmethod
    def _one_length(cls, length: float | None, info: ValidationInfo) -> float | None:
        before = [key for key in ("epochs", "steps") if info.data.get(key) is not None]
        if length is not None and before:
            raise wrong([Problem("", f"{before[0]} and {info.field_name}", "one of epochs, steps, minutes")])
        return length

    @field_validator("border")
    @classmethod
    def _known_border(cls, border: Border | None, info: ValidationInfo) -> Border | None:
        names = [one.name for one in info.data.get("classes", ())]
        if border is not None and names and border.of not in names:
            raise wrong([Problem("of", repr(border.of), ", ".join(names), nearest(border.of, names))])
        return border

    def place(self, path: str) -> str:
        """Return what a message calls a key: ``train.yaml:4: crop``."""
        return self._places.of(path)

    def placed(self, places: Places) -> Self:
        """Return this config, knowing where its keys were written."""
        self._places = places
        return self


TRAIN = Form(
    TrainConfig,
    {"model": "models", "reader": "readers", "loss": "losses"},
    {"reader": DEFAULTS["reader"], "loss": TrainConfig.model_fields["loss"].default},
    paths=frozenset({"images", "truth", "val", "mean_of", "output"}),
    lists=frozenset({"images", "exclude"}),
    sparse=frozenset({"model"}),
)
"""A training."""


def is_training(data: Any) -> bool:
    """Whether a YAML is that of a training: some keys only it has.

    Example:
        >>> is_training({"images": ["a/"], "model": "unet", "val": 0.2}), is_training({"images": ["a/"], "model": "unet"})
        (True, False)
    """
    return isinstance(data, Mapping) and not data.keys().isdisjoint(TrainConfig.model_fields.keys() - Config.model_fields.keys())
