"""The base of every part of the YAML's tree, and the types of values that several parts share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

__all__ = ["Auto", "Integers", "NonEmptyText", "PositiveInteger", "StrictModel"]

Auto = Literal["auto"]
PositiveInteger = Annotated[int, Field(ge=1)]
Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list
NonEmptyText = Annotated[str, Field(min_length=1)]


class StrictModel(BaseModel):
    """A frozen mapping of the YAML that refuses unknown keys, values of another type, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False)
