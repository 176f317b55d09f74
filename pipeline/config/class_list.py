"""The classes as the YAML lists them: names, colours, and the truth values that each stands for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from pipeline.config.strict_model import Integers, NonEmptyText, StrictModel
from pipeline.errors import Problem
from pipeline.validation import Expected, problems_error

__all__ = ["ClassList", "ClassSpec", "Classes"]


class ClassSpec(StrictModel):
    """One class: its id is its position in the list."""

    name: NonEmptyText = Field(description="shown in reports and in the masks' metadata")
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$"), Expected("'#rrggbb'")] | None = Field(
        default=None, description="#rrggbb, in quotes; RGB truth matches it; null: from a palette"
    )
    values: Integers | Literal["other"] | None = Field(default=None, description="what the truth holds for it: a list, or other")


def _check_classes(classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
    """Refuse a name or a value in two classes, ``values`` for some classes only, and two classes with ``other``."""
    problems: list[Problem] = []
    names: dict[str, int] = {}
    owners: dict[int | str, str] = {}
    with_values = [spec.name for spec in classes if spec.values is not None]
    for index, spec in enumerate(classes):
        if names.setdefault(spec.name, index) != index:
            problems.append(Problem(f"{index}.name", f"{spec.name!r} a second time", "each name once"))
        if with_values and spec.values is None:
            reason = f"{with_values[0]!r} has `values`, so every class needs it. Add values, or remove them from all."
            problems.append(Problem(f"{index}.values", None, "a list or other", reason))
        values: set[int | str] = {spec.values} if isinstance(spec.values, str) else set(spec.values or ())
        for value in sorted(values, key=str):
            if value in owners:
                expected = "one class with `values: other`" if value == "other" else "each truth value in one class"
                problems.append(Problem(f"{index}.values", f"{value}, which {owners[value]!r} has already", expected))
            owners.setdefault(value, spec.name)
    if problems:
        raise problems_error(problems)
    return classes


Classes = Annotated[tuple[ClassSpec, ...], Strict(strict=False), Field(min_length=2), AfterValidator(_check_classes)]


class ClassList(StrictModel):
    """A YAML that holds the classes alone, as ``gigaseg evaluate --classes`` reads it."""

    classes: Classes = Field(description="in the order of their ids")
