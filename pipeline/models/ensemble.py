"""Several models as one: the average of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.config import Recipe
from pipeline.models import Model, Predictor
from pipeline.models._orientations import average
from pipeline.plugins import build
from pipeline.statistics import NormalizationFitter

if TYPE_CHECKING:
    from pipeline.statistics import Fitter, ImageFit

__all__ = ["Ensemble"]


class Ensemble(Model):
    """Averages the class probabilities of its members, each with its own normalisation (Hansen and Salamon 1990).

    Members must agree in classes and channels. A per-image normalisation (``percentile``, ``zscore``) must be the same for all that ask
    for one; the others see raw values, unless the YAML asks.

    Example::

        model:
          name: ensemble
          members:
            - {name: unet, channels: 1, classes: 2, depth: 2, base: 8, seed: 1}
            - {name: unet, channels: 1, classes: 2, depth: 1, base: 8, seed: 2}
    """

    nested_kinds: ClassVar[Mapping[str, str]] = {"members": "models"}

    members: Annotated[tuple[dict[str, Any], ...], Strict(strict=False)] = Field(min_length=2, description="models, as under `model`")
    shares: Annotated[tuple[float, ...], Strict(strict=False)] | None = Field(
        default=None, description="how much each member counts; null: all alike"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Refuse members that cannot be averaged."""
        models = self.models
        if not all(model.gives_scores for model in models):
            raise ValueError("members that give scores; thresholds and the like decide themselves")
        if len({model.num_classes for model in models}) > 1:
            raise ValueError(f"members of one number of classes; these have {[model.num_classes for model in models]}")
        if len({model.num_channels for model in models} - {None}) > 1:
            raise ValueError(f"members of one number of channels; these have {[model.num_channels for model in models]}")
        if len({model.fixed_size for model in models} - {None}) > 1:
            raise ValueError(f"members of one input size; these have {[model.fixed_size for model in models]}")
        if any(part.fitter() for part in self.constituents):
            raise ValueError("members without statistics of their own; a package that normalises by image cannot be averaged")
        if len(self._wishes - {None}) > 1:
            raise ValueError("members of one per-image normalisation")
        if self.shares is not None and (len(self.shares) != len(models) or min(self.shares) <= 0):
            raise ValueError(f"shares: {len(models)} positive numbers")
        return self

    @cached_property
    def models(self) -> list[Model]:
        """The members."""
        return [build("models", spec, f"members.{index}") for index, spec in enumerate(self.members)]

    @property
    def constituents(self) -> Sequence[Model]:
        """All members'."""
        return [part for model in self.models for part in model.constituents]

    @property
    def num_classes(self) -> int:
        """As the members'."""
        return self.models[0].num_classes

    @property
    def num_channels(self) -> int | None:
        """As the members'."""
        return next((model.num_channels for model in self.models if model.num_channels is not None), None)

    @property
    def stride(self) -> int:
        """One that is a multiple of every member's."""
        return math.lcm(*(model.stride for model in self.models))

    @property
    def field(self) -> int | None:
        """The widest member's."""
        fields = [model.field for model in self.models]
        return None if None in fields else max(field for field in fields if field is not None)

    @property
    def margin(self) -> int:
        """The largest member's."""
        return max(model.margin for model in self.models)

    @property
    def fixed_size(self) -> int | None:
        """That of the members that have one."""
        return next((model.fixed_size for model in self.models if model.fixed_size is not None), None)

    @property
    def gives_scores(self) -> bool:
        """The logarithm of the averaged probabilities."""
        return True

    @property
    def takes_normalize(self) -> bool:
        """What the YAML says goes to every member."""
        return all(model.takes_normalize for model in self.models)

    @property
    def uses_gpu(self) -> bool:
        """Where any member does."""
        return any(model.uses_gpu for model in self.models)

    @property
    def takes_backend(self) -> bool:
        """Where all members do."""
        return all(model.takes_backend for model in self.models)

    @property
    def allows_bf16(self) -> bool:
        """Where all members do."""
        return all(model.allows_bf16 for model in self.models)

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """The first member's that has one."""
        return next((model.class_list for model in self.models if model.class_list), ())

    @property
    def normalize(self) -> Any:
        """The per-image normalisation that members ask for; None where others work on raw values. Fixed ones stay with their member."""
        return None if None in self._wishes else next(iter(self._wishes), None)

    @property
    def _wishes(self) -> set[Any]:
        """Per-image normalisations that members ask for; None: raw values."""
        return {part.normalize for part in self.constituents if part.takes_normalize and not isinstance(part.normalize, Mapping)}

    def fitter(self) -> Fitter | None:
        """What some members ask for, where others work on raw values and must not be given it."""
        asked = self._wishes - {None}
        return NormalizationFitter(asked.pop()) if asked and None in self._wishes else None

    def files(self) -> Sequence[Path]:
        """All members' files."""
        return [path for model in self.models for path in model.files()]

    def check(self) -> None:
        """Every member's."""
        for model in self.models:
            model.check()

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """The largest member, and the probabilities of all of them."""
        height, width = tile
        return (
            max(model.projected_bytes(tile, channels) for model in self.models) + len(self.models) * height * width * self.num_classes * 4
        )

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load every member."""
        counts = self.shares or [1] * len(self.members)
        shares = [share / sum(counts) for share in counts]
        with ExitStack() as stack:
            opened = [stack.enter_context(model.predictor(recipe, normalize or _fixed(model))) for model in self.models]
            yield _Members(self.models, opened, shares)


class _Members(Predictor):
    """A predictor that asks several others, and gathers their notes call by call.

    Args:
        models: the members.
        opened: a predictor of each.
        shares: weight of each, adding up to 1.
    """

    def __init__(self, models: Sequence[Model], opened: Sequence[Predictor], shares: Sequence[float]) -> None:
        super().__init__()
        self.models, self.opened, self.shares = models, opened, shares

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        """Return logits (B, K, Y, X) of the averaged probabilities."""
        pairs = zip(self.models, self.opened, strict=True)
        answers = [_host(predict(pixels_BCYX, _fits_of(model, fits))) for model, predict in pairs]
        for at, predict in enumerate(self.opened):
            self.notes += [f"members.{at}: {note}" for note in predict.notes]
            predict.notes.clear()
        return average(_same_size(answers), self.shares)


def _fixed(model: Model) -> Mapping[str, Any] | None:
    return model.normalize if isinstance(model.normalize, Mapping) else None


def _fits_of(model: Model, fits: Sequence[ImageFit]) -> Sequence[ImageFit]:
    """Give a member the normalisation that it asks for, where it is not everybody's and the YAML asks for none."""
    return [{"normalize": fit["model"], **fit} if isinstance(model.normalize, str) and "model" in fit else fit for fit in fits]


def _host(logits: Any) -> NDArray[Any]:
    return np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits)


def _same_size(answers: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Cut all to the middle that the smallest has: members with valid padding give less."""
    height, width = (min(answer.shape[axis] for answer in answers) for axis in (-2, -1))
    cut = []
    for answer in answers:
        top, left = (answer.shape[-2] - height) // 2, (answer.shape[-1] - width) // 2
        cut.append(answer[..., top : top + height, left : left + width])
    return cut
