"""The YAML as one frozen, strict tree: every key, its type, its default and what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, ValidationInfo, field_validator

from pipeline.config.paths import is_remote
from pipeline.config.yaml_lines import Places
from pipeline.errors import Problem, nearest, one_of
from pipeline.plugins import available
from pipeline.validation import Expected, show, wrong

__all__ = ["DEFAULTS", "ClassList", "ClassSpec", "Compute", "Config", "Tiling", "parse_bytes", "settled"]

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list
Text = Annotated[str, Field(min_length=1)]

DEFAULTS: Mapping[str, Any] = {"reader": {"name": "auto"}, "metrics": [{"name": "semantic"}], "writers": [{"name": "ome_zarr"}]}
"""The plug-ins that a YAML need not name."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_UNITS = {"": 1, "b": 1} | {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def parse_bytes(text: str | int) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: the text is no size, or the size is not above 0; the message says what is expected.

    Example:
        >>> parse_bytes("4GiB"), parse_bytes("500 MB"), parse_bytes(4096)
        (4294967296, 500000000, 4096)
    """
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(size[2]) if size else None
    if size is None or unit is None or float(size[1]) * unit < 1:
        raise ValueError("a size above 0 such as 4GiB, 500MB or a number of bytes")
    return int(float(size[1]) * unit) if "." in size[1] else int(size[1]) * unit


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_SPEC = "{name: ..., option: ...}"


def _all_named(value: Any) -> Any:
    return [_named(item) for item in value] if isinstance(value, (list, tuple)) else value


Spec = Annotated[dict[str, Any], BeforeValidator(_named), Expected(f"a name, or {_SPEC}")]
Specs = Annotated[tuple[Spec, ...], BeforeValidator(_all_named), Strict(strict=False), Expected(f"a list of names or of {_SPEC}")]


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=False)


class ClassSpec(_Tree):
    """One class: its id is its position in the list."""

    name: Text = Field(description="shown in reports and in the masks' metadata")
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$"), Expected("'#rrggbb'")] | None = Field(
        default=None, description="#rrggbb, in quotes; RGB truth matches it; null: from a palette"
    )
    values: Integers | Literal["other"] | None = Field(default=None, description="what the truth holds for it: a list, or other")


class Tiling(_Tree):
    """How an image is cut."""

    core: Count | Auto = Field(default="auto", description="side of what a tile writes, pixels")
    halo: Annotated[int, Field(ge=0)] | Auto = Field(default="auto", description="context that is read on every side, pixels")
    block: Count | Auto = Field(default="auto", description="side of a block, the unit of scheduling, pixels; a multiple of core")
    stitch: Literal["crop", "linear", "gaussian"] = Field(default="crop", description="keep cores, or blend neighbouring tiles")

    @field_validator("block")
    @classmethod
    def _whole_cores(cls, block: int | str, info: ValidationInfo) -> int | str:
        core = info.data.get("core")
        if isinstance(core, int) and isinstance(block, int) and block % core:
            lower = block // core * core
            raise ValueError(f"a multiple of core ({core}), such as {f'{lower} or ' if lower else ''}{lower + core}")
        return block


class Compute(_Tree):
    """Where and how it runs; nothing here may change a mask but through the recipe."""

    runner: str = Field(default="auto", description="auto, serial or ray; auto: serial for small jobs")
    address: str | None = Field(default=None, description="address of a running Ray cluster; null: this machine")
    actors: Count | Auto = Field(default="auto", description="processes that segment")
    gpus_per_actor: Annotated[float, Expected("1, or 1/k with a whole k (0.5, 0.25, ...)")] | Auto = Field(
        default="auto", description="share of a GPU that an actor takes: 1, or 1/k with a whole k"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where tiles are predicted")
    threads: Count | Auto = Field(default="auto", description="compute threads an actor")
    backend: str = Field(default="auto", description="what runs the network: auto, torch, inductor, openvino, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        default="auto", description="of the network's arithmetic; int8: calibrated on tiles of the images, by OpenVINO"
    )
    batch: Count | Auto = Field(default="auto", description="tiles a forward pass")
    memory: Annotated[str | int, Expected("a size such as 4GiB, 500MB or a number of bytes")] = Field(
        default="4GiB", description="what an actor may use above its loaded model"
    )
    deadline: float = Field(default=600.0, gt=0, description="seconds that one block may take before its actor is killed")
    attempts: int = Field(default=3, ge=1, description="tries of one block before it is quarantined")

    @field_validator("runner", "backend")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        names = ["auto", *available(f"{info.field_name}s")]
        if name not in names and "." not in name:
            raise wrong([Problem("", show(name), one_of(names), nearest(name, names))])
        return name

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_share(cls, share: float | str) -> float | str:
        # 0.33 is meant as a third: a person writes two or three digits.
        if isinstance(share, float) and (not 0 < share <= 1 or abs(round(1 / share) - 1 / share) > 0.035):
            raise ValueError("1, or 1/k with a whole k (0.5, 0.25, ...)")
        return share

    @field_validator("memory")
    @classmethod
    def _size(cls, memory: str | int) -> str | int:
        parse_bytes(memory)
        return memory

    @property
    def memory_bytes(self) -> int:
        """``memory`` in bytes."""
        return parse_bytes(self.memory)


def _check_classes(classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
    """Refuse what no list of classes can mean: a name or a value twice, ``values`` on some only, two ``other``."""
    problems: list[Problem] = []
    names: dict[str, int] = {}
    owners: dict[int | str, str] = {}
    given = [one.name for one in classes if one.values is not None]
    for index, one in enumerate(classes):
        if names.setdefault(one.name, index) != index:
            problems.append(Problem(f"{index}.name", f"{one.name!r} a second time", "each name once"))
        if given and one.values is None:
            reason = f"{given[0]!r} has `values`, so every class needs it. Add values, or remove them from all."
            problems.append(Problem(f"{index}.values", None, "a list or other", reason))
        values: set[int | str] = {one.values} if isinstance(one.values, str) else set(one.values or ())
        for value in sorted(values, key=str):
            if value in owners:
                expected = "one class with `values: other`" if value == "other" else "each truth value in one class"
                problems.append(Problem(f"{index}.values", f"{value}, which {owners[value]!r} has already", expected))
            owners.setdefault(value, one.name)
    if problems:
        raise wrong(problems)
    return classes


Classes = Annotated[tuple[ClassSpec, ...], Strict(strict=False), Field(min_length=2), AfterValidator(_check_classes)]


class ClassList(_Tree):
    """Classes alone, as ``gigaseg evaluate --classes`` reads them."""

    classes: Classes = Field(description="in the order of their ids")


def _check_fixed(fixed: dict[str, list[float]]) -> list[Problem]:
    """Return what is wrong with ``{mean: [..], std: [..]}``."""
    keys = ["mean", "std"]
    expected = "a list of numbers, one for each channel"
    problems = [Problem(key, f"unknown key {key!r}", one_of(keys), nearest(key, keys)) for key in fixed if key not in keys]
    problems += [Problem(key, show(fixed[key]) if key in fixed else None, expected) for key in keys if not fixed.get(key)]
    problems += [Problem(f"std.{at}", show(value), "a number above 0") for at, value in enumerate(fixed.get("std", ())) if value <= 0]
    if not problems and len(fixed["mean"]) != len(fixed["std"]):
        problems.append(Problem("std", f"{len(fixed['std'])} numbers", f"as many as in mean ({len(fixed['mean'])})"))
    return problems


class Config(_Tree):
    """A whole run. Paths are absolute once loaded."""

    images: Annotated[tuple[Text, ...], Strict(strict=False), Expected("a list of files, folders, globs, URLs or CSV lists")] = Field(
        min_length=1, description="files, folders, globs, URLs, sample:NAME, or a CSV: image[,name,truth,pixel_size,channels,level]"
    )
    truth: Text | None = Field(
        default=None, description="reference masks, such as truth/{stem}.png; {stem}, {name}, {image}, {folder}; null: none"
    )
    classes: Classes | None = Field(default=None, description="in the order of their ids; null: as the model names them")
    ignore: int | Annotated[str, Expected("a colour '#rrggbb'")] | None = Field(
        default=None, description="a truth value, or #rrggbb in RGB truth, that is left out of every count"
    )
    model: Spec = Field(description="a model and its options")
    normalize: Literal["percentile", "zscore"] | Annotated[dict[str, list[float]], Expected("{mean: [..], std: [..]}")] | None = Field(
        default=None, description="{mean: [..], std: [..]} in raw units, percentile or zscore; null: the model's, else raw values"
    )
    reader: Spec = Field(default=DEFAULTS["reader"], description="how images are read: channels, axes, level, pixel_size, planes")
    tiling: Tiling = Field(default=Tiling(), description="how an image is cut")
    metrics: Specs = Field(default=tuple(DEFAULTS["metrics"]), description="what the report computes from the counts")
    writers: Specs = Field(default=tuple(DEFAULTS["writers"]), description="what masks are written as")
    compute: Compute = Field(default=Compute(), description="where and how it runs")
    output: Path = Field(strict=False, description="folder of masks, report and ledger")

    _places: Places = PrivateAttr(default_factory=Places)

    @field_validator("images", mode="before")
    @classmethod
    def _one_image(cls, images: Any) -> Any:
        return [images] if isinstance(images, str) else images

    @field_validator("truth")
    @classmethod
    def _placeholders(cls, truth: str | None) -> str | None:
        names = ["stem", "name", "image", "folder"]
        unknown = [word for word in re.findall(r"\{([^{}]*)\}", truth or "") if word not in names]
        if unknown:
            raise wrong([Problem("", f"{{{word}}}", "{stem}, {name}, {image} or {folder}", nearest(word, names)) for word in unknown])
        return truth

    @field_validator("ignore")
    @classmethod
    def _ignored(cls, ignore: int | str | None) -> int | str | None:
        if isinstance(ignore, str) and not _COLOR.fullmatch(ignore):
            raise ValueError("a whole number, a colour '#rrggbb' or null")
        return ignore

    @field_validator("normalize")
    @classmethod
    def _normalize(cls, normalize: Any) -> Any:
        problems = _check_fixed(normalize) if isinstance(normalize, dict) else []
        if problems:
            raise wrong(problems)
        return normalize

    @field_validator("output", mode="before")
    @classmethod
    def _folder(cls, output: Any) -> Any:
        if isinstance(output, str) and (not output or is_remote(output)):
            raise ValueError("a folder on this machine")
        return output

    def place(self, path: str) -> str:
        """Return what a message calls a key: ``run.yaml:4: tiling.core``."""
        return self._places.of(path)

    def placed(self, places: Places) -> Self:
        """Return this config, knowing where its keys were written."""
        self._places = places
        return self


def settled(parts: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Put what was chosen in place of each ``auto`` of ``tiling`` and ``compute``: whether it was asked for or chosen is all the same.

    Example:
        >>> settled({"model": "auto", "tiling": {"core": "auto", "halo": 64}}, {"core": 1024, "halo": 32})
        {'model': 'auto', 'tiling': {'core': 1024, 'halo': 64}}
    """
    return {
        name: {key: recipe.get(key, value) if value == "auto" else value for key, value in part.items()}
        if name in {"tiling", "compute"}
        else part
        for name, part in parts.items()
    }
