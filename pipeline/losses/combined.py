"""Several losses as one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, Strict, field_validator

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.losses import Areas, Loss, Term
from pipeline.plugins import available, build
from pipeline.validation import join_keys, problems_error, quote

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["Combined"]


class Combined(Loss):
    """The weighted sum of other losses.

    Pixel weights that one of them makes of instances are its own; the others count all pixels alike.

    Example::

        loss: {name: combined, losses: [{name: cross_entropy, weight: 1.0}, {name: dice, weight: 0.5}]}
    """

    losses: Annotated[tuple[dict[str, Any], ...], Strict(strict=False)] = Field(
        min_length=1, description="losses, as under `loss`, each with its weight (default 1)"
    )

    @field_validator("losses")
    @classmethod
    def _filled(cls, specs: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """Fill in every default; refuse what is no loss or no weight, every problem at once."""
        problems: list[Problem] = []
        parts: list[tuple[str, Loss, float]] = []
        for index, spec in enumerate(specs):
            weight = spec.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                problems.append(Problem(f"{index}.weight", quote(weight, kind=True), "a number above 0"))
            if spec.get("name") is None:
                problems.append(_nameless(spec, f"{index}.name"))
                continue
            try:
                parts.append((str(spec["name"]), _built(spec, str(index)), weight))
            except InputError as error:
                problems += [problem for problem in error.problems if isinstance(problem, Problem)]
        if problems:
            raise problems_error(problems)
        if sum(loss.needs_instances for _, loss, _ in parts) > 1:
            raise ValueError("at most one loss that makes pixel weights of instances")
        return tuple(_spec(*part) for part in parts)

    @cached_property
    def parts(self) -> list[tuple[str, Loss, float]]:
        """Name, loss and weight of each part."""
        return [(spec["name"], _built(spec, f"losses.{index}"), spec["weight"]) for index, spec in enumerate(self.losses)]

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Those of the parts, in their order."""
        return [
            replace(term, factor=weight * term.factor)
            for _, loss, weight in self.parts
            for term in loss.terms(logits_BKYX, truth_BYX, weights_BYX if loss.needs_instances or not self.needs_instances else None)
        ]

    def fitted(self, areas: Areas) -> Self:
        """Fit every part."""
        fitted = [(name, _fitted(loss, areas, index), weight) for index, (name, loss, weight) in enumerate(self.parts)]
        if all(new is old for (_, new, _), (_, old, _) in zip(fitted, self.parts, strict=True)):
            return self
        return type(self)(losses=tuple(_spec(*part) for part in fitted))

    @property
    def needs_instances(self) -> bool:
        """Where a part does."""
        return any(loss.needs_instances for _, loss, _ in self.parts)

    def pixel_weights(self, instances_YX: NDArray[Any]) -> NDArray[np.float32] | None:
        """Those of the part that makes them of instances."""
        return next((loss.pixel_weights(instances_YX) for _, loss, _ in self.parts if loss.needs_instances), None)


def _nameless(spec: dict[str, Any], where: str) -> Problem:
    meant = next((f"Is {key!r} meant to be 'name'?" for key in spec if nearest(str(key), ["name"])), "")
    return Problem(where, None, one_of(available("losses")), meant)


def _built(spec: dict[str, Any], where: str) -> Loss:
    loss: Loss = build("losses", {key: value for key, value in spec.items() if key != "weight"}, where)
    return loss


def _fitted(loss: Loss, areas: Areas, index: int) -> Loss:
    try:
        return loss.fitted(areas)
    except InputError as error:
        found = [problem for problem in error.problems if isinstance(problem, Problem)]
        raise InputError([replace(one, where=join_keys("loss.losses", index, one.where.removeprefix("loss."))) for one in found]) from error


def _spec(name: str, loss: Loss, weight: float) -> dict[str, Any]:
    return {"name": name, **loss.model_dump(mode="json"), "weight": weight}
