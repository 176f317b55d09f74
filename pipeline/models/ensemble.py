"""The average of several models' probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.config import Recipe
from pipeline.errors import Problem
from pipeline.models import Expectation, Model, Predictor
from pipeline.models._predictors import average_probs
from pipeline.plugins import build
from pipeline.statistics import NormalizationFitter

if TYPE_CHECKING:
    from pipeline.statistics import Fitter, ImageFit

__all__ = ["Ensemble"]


class Ensemble(Model):
    """Averages the class probabilities of its members, each with its own normalisation (Hansen and Salamon 1990).

    Members must agree in classes and channels. All members with a per-image normalisation (``percentile``, ``zscore``) must have the
    same one; the other members see raw values, unless the YAML sets ``normalize``.

    Example::

        model:
          name: ensemble
          members:
            - {name: unet, channels: 1, classes: 2, depth: 2, base: 8, seed: 1}
            - {name: unet, channels: 1, classes: 2, depth: 1, base: 8, seed: 2}
    """

    nested_kinds: ClassVar[Mapping[str, str]] = {"members": "models"}
    gives_scores: ClassVar[bool] = True

    members: Annotated[tuple[dict[str, Any], ...], Strict(strict=False)] = Field(min_length=2, description="models, as under `model`")
    shares: Annotated[tuple[float, ...], Strict(strict=False)] | None = Field(
        default=None, description="weight of each member; null: equal weights"
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        models = self.models
        if not all(model.gives_scores for model in models):
            raise ValueError("members that give scores; thresholds and the like decide themselves")
        for fact, words in (("num_classes", "number of classes"), ("num_channels", "number of channels"), ("fixed_size", "input size")):
            values = [getattr(model, fact) for model in models]
            if len(set(values) - {None}) > 1:
                raise ValueError(f"members of one {words}; these have {values}")
        if any(model.fitter() for model in self.constituents):
            raise ValueError("members without statistics of their own; a package that normalises by image cannot be averaged")
        if len(self._per_image - {None}) > 1:
            raise ValueError("members of one per-image normalisation")
        sizes = {(model.expects.pixel_size, model.expects.unit) for model in models if model.expects.pixel_size is not None}
        if len(sizes) > 1:
            raise ValueError(f"members that were trained at one pixel size; these have {', '.join(f'{size:g}' for size, _ in sizes)}")
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
        return [constituent for model in self.models for constituent in model.constituents]

    @property
    def num_classes(self) -> int:
        """As the members'."""
        return self.models[0].num_classes

    @property
    def num_channels(self) -> int | None:
        """As the members'."""
        return next((model.num_channels for model in self.models if model.num_channels is not None), None)

    @property
    def expects(self) -> Expectation:
        """Each fact from the first member that declares it; channels are merged only if every member merges."""
        members = [model.expects for model in self.models]
        sized = next((one for one in members if one.pixel_size is not None), members[0])
        facts: dict[str, Any] = {}
        for fact in fields(Expectation):
            facts[fact.name] = next(filter(None, (getattr(one, fact.name) for one in members)), fact.default)
        return Expectation(**{**facts, "unit": sized.unit})

    @property
    def stride(self) -> int:
        """The least common multiple of the members'."""
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
        """The one that members have, if any."""
        return next((model.fixed_size for model in self.models if model.fixed_size is not None), None)

    @property
    def takes_normalize(self) -> bool:
        """Where all members do; each then gets what the YAML says."""
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
    def tries_bf16(self) -> bool:
        """Where each member does, or allows bf16 anywhere."""
        return all(model.tries_bf16 or model.allows_bf16 for model in self.models)

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """The first list that a member has."""
        return next((model.class_list for model in self.models if model.class_list), ())

    @property
    def maps(self) -> Mapping[str, int]:
        """The maps that every member gives; they are averaged."""
        first, *rest = (model.maps for model in self.models)
        return {name: size for name, size in first.items() if all(maps.get(name) == size for maps in rest)}

    @property
    def instances(self) -> Mapping[str, Any] | None:
        """The method that all members declare."""
        first, *rest = (model.instances for model in self.models)
        return first if all(one == first for one in rest) else None

    def map_problems(self, maps: Sequence[str]) -> list[Problem]:
        """Return the problems of the ensemble, else those of its members."""
        return super().map_problems(maps) or [problem for model in self.models for problem in model.map_problems(maps)]

    @property
    def normalize(self) -> Any:
        """The per-image normalisation of all members; None where some work on raw values. A fixed one stays with its member."""
        return None if None in self._per_image else next(iter(self._per_image), None)

    @property
    def _per_image(self) -> set[Any]:
        """The members' per-image normalisations; None stands for raw values."""
        return {model.normalize for model in self.constituents if model.takes_normalize and not isinstance(model.normalize, Mapping)}

    def fitter(self) -> Fitter | None:
        """Gather the per-image normalisation of some members, where others work on raw values."""
        asked = self._per_image - {None}
        return NormalizationFitter(asked.pop()) if asked and None in self._per_image else None

    def files(self) -> Sequence[Path]:
        """Return all members' files."""
        return [path for model in self.models for path in model.files()]

    def file_hashes(self) -> Sequence[str]:
        """Return those of all members."""
        return [found for model in self.models for found in model.file_hashes()]

    def check(self) -> None:
        """Check every member."""
        for model in self.models:
            model.check()

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Add the largest member's bytes and the predictions of all members."""
        probs = len(self.models) * math.prod(tile) * (self.num_classes + self.num_map_channels) * 4
        return max(model.projected_bytes(tile, channels) for model in self.models) + probs

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load every member."""
        counts = self.shares or [1] * len(self.members)
        shares = [share / sum(counts) for share in counts]
        with ExitStack() as stack:
            wanted = [normalize or (model.normalize if isinstance(model.normalize, Mapping) else None) for model in self.models]
            pairs = zip(self.models, wanted, strict=True)
            opened = [stack.enter_context(model.predictor(recipe, one, self._asked_maps)) for model, one in pairs]
            yield _Members(self.models, opened, shares)


class _Members(Predictor):
    """Averages the predictions of the opened members by shares that add up to 1, and collects their notes after each call."""

    def __init__(self, models: Sequence[Model], opened: Sequence[Predictor], shares: Sequence[float]) -> None:
        super().__init__()
        self.models, self.opened, self.shares = models, opened, shares

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        pairs = zip(self.models, self.opened, strict=True)
        answers = [self.ops.as_array(predict(pixels_BCYX, _fits_of(model, fits))) for model, predict in pairs]
        for at, predict in enumerate(self.opened):
            self.notes += [f"members.{at}: {note}" for note in predict.notes]
            predict.notes.clear()
        return average_probs(_same_size(answers), self.shares, self.models[0].num_classes)


def _fits_of(model: Model, fits: Sequence[ImageFit]) -> Sequence[ImageFit]:
    """Return the fits with the member's own per-image normalisation, where not all members have it and the YAML sets none."""
    return [{"normalize": fit["model"], **fit} if isinstance(model.normalize, str) and "model" in fit else fit for fit in fits]


def _same_size(answers: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Crop all answers around their centre to the size of the smallest; members with valid padding return smaller ones."""
    height, width = (min(answer.shape[axis] for answer in answers) for axis in (-2, -1))
    cut = []
    for answer in answers:
        top, left = (answer.shape[-2] - height) // 2, (answer.shape[-1] - width) // 2
        cut.append(answer[..., top : top + height, left : left + width])
    return cut
