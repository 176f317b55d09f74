"""The base of every mapping of the YAML."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["NonEmptyText", "StrictModel"]

NonEmptyText = Annotated[str, Field(min_length=1)]


class StrictModel(BaseModel):
    """A frozen mapping of the YAML that refuses unknown keys, values of another type, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False, defer_build=True)
