"""The YAML as one frozen, strict tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

__all__ = ["ClassSpec", "Compute", "Config", "Tiling"]

Auto = Literal["auto"]
Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ClassSpec(_Tree):
    """One class: its id is its position in the list."""

    name: str
    color: str | None = Field(default=None, pattern=r"^#[0-9a-fA-F]{6}$", description="#rrggbb; null: from a palette")
    values: Integers | Literal["other"] | None = Field(default=None, description="what the truth holds for it")


class Tiling(_Tree):
    """How an image is cut."""

    core: int | Auto = "auto"
    halo: int | Auto = "auto"
    block: int | Auto = "auto"
    stitch: Literal["crop", "linear", "gaussian"] = "crop"


class Compute(_Tree):
    """Where and how it runs; nothing here may change a mask but through the recipe."""

    runner: str = "auto"
    address: str | None = None
    actors: int | Auto = "auto"
    gpus_per_actor: float | Auto = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | Auto = "auto"
    backend: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch: int | Auto = "auto"
    memory: str | int = "4GiB"
    deadline: float = Field(default=600.0, gt=0, description="seconds that one block may take before its actor is killed")
    attempts: int = Field(default=3, ge=1, description="tries of one block before it is quarantined")


class Config(_Tree):
    """A whole run. Paths are absolute once loaded."""

    images: tuple[str, ...] = Field(strict=False, min_length=1)
    truth: str | None = None
    classes: Annotated[tuple[ClassSpec, ...], Strict(strict=False)] | None = None
    ignore: int | str | None = None
    model: dict[str, Any]
    normalize: Literal["percentile", "zscore"] | dict[str, list[float]] | None = None
    reader: dict[str, Any] = {"name": "auto"}
    tiling: Tiling = Tiling()
    skip: None = None
    instances: None = None
    metrics: tuple[dict[str, Any], ...] = Field(default=({"name": "semantic"},), strict=False)
    writers: tuple[dict[str, Any], ...] = Field(default=({"name": "ome_zarr"},), strict=False)
    compute: Compute = Compute()
    output: Path = Field(strict=False)
