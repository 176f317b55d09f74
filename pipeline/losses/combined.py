"""Several losses as one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, Strict, field_validator

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.losses import ClassAreas, Loss, Term
from pipeline.plugins import available, build
from pipeline.validation import problems_error, quote

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["Combined"]


class Combined(Loss):
    """The weighted sum of other losses.

    Pixel weights that a loss computes from instances apply to that loss alone.

    Example::

        loss: {name: combined, losses: [{name: cross_entropy, weight: 1.0}, {name: dice, weight: 0.5}]}
    """

    losses: Annotated[tuple[dict[str, Any], ...], Strict(strict=False)] = Field(
        min_length=1, description="losses, as under `loss`, each with its weight (default 1)"
    )

    @field_validator("losses")
    @classmethod
    def _filled(cls, specs: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        problems: list[Problem] = []
        parts: list[tuple[str, Loss, float]] = []
        for index, spec in enumerate(specs):
            weight = spec.get("weight", 1.0)
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
                problems.append(Problem(f"{index}.weight", quote(weight, with_type=True), "a number above 0"))
            if spec.get("name") is None:
                problems.append(_missing_name(spec, f"{index}.name"))
                continue
            try:
                parts.append((str(spec["name"]), _build(spec, str(index)), weight))
            except InputError as error:
                problems += [problem for problem in error.problems if isinstance(problem, Problem)]
        if problems:
            raise problems_error(problems)
        if sum(loss.needs_instances for _, loss, _ in parts) > 1:
            raise ValueError("at most one loss that computes pixel weights from instances")
        return tuple(_spec(*part) for part in parts)

    @cached_property
    def parts(self) -> list[tuple[str, Loss, float]]:
        """Name, loss and weight of each part."""
        return [(spec["name"], _build(spec, f"losses.{index}"), spec["weight"]) for index, spec in enumerate(self.losses)]

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Return the terms of all parts, in their order."""
        return [
            replace(term, factor=weight * term.factor)
            for _, loss, weight in self.parts
            for term in loss.terms(logits_BKYX, truth_BYX, weights_BYX if loss.needs_instances or not self.needs_instances else None)
        ]

    def with_class_weights(self, areas: ClassAreas) -> Self:
        """Return the loss with the class weights of every part as numbers."""
        parts = [(name, _with_class_weights(loss, areas, index), weight) for index, (name, loss, weight) in enumerate(self.parts)]
        if all(new is old for (_, new, _), (_, old, _) in zip(parts, self.parts, strict=True)):
            return self
        return type(self)(losses=tuple(_spec(*part) for part in parts))

    @property
    def needs_instances(self) -> bool:
        """Whether a part needs instance ids."""
        return any(loss.needs_instances for _, loss, _ in self.parts)

    def pixel_weights(self, instances_YX: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the pixel weights of the part that needs instance ids; None where none does."""
        return next((loss.pixel_weights(instances_YX) for _, loss, _ in self.parts if loss.needs_instances), None)


def _missing_name(spec: dict[str, Any], where: str) -> Problem:
    fix = next((f"Did you mean 'name' by {key!r}?" for key in spec if nearest(str(key), ["name"])), "")
    return Problem(where, None, one_of(available("losses")), fix)


def _build(spec: dict[str, Any], where: str) -> Loss:
    loss: Loss = build("losses", {key: value for key, value in spec.items() if key != "weight"}, where)
    return loss


def _with_class_weights(loss: Loss, areas: ClassAreas, index: int) -> Loss:
    try:
        return loss.with_class_weights(areas)
    except InputError as error:
        where = f"loss.losses.{index}."
        problems = [problem for problem in error.problems if isinstance(problem, Problem)]
        raise InputError(replace(problem, where=where + problem.where.removeprefix("loss.")) for problem in problems) from error


def _spec(name: str, loss: Loss, weight: float) -> dict[str, Any]:
    return {"name": name, **loss.model_dump(mode="json"), "weight": weight}
