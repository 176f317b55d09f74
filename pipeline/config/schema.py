"""The YAML of a run as one frozen, strict tree: every key, its type, its default and what it means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike, fspath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    Strict,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from pipeline.config.colors import COLOR
from pipeline.config.sources import Sources, Truth, ZonesKey
from pipeline.config.strict_model import NonEmptyText, StrictModel
from pipeline.config.yaml_document import KeyLocations
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.plugins import available, find
from pipeline.storage import open_storage
from pipeline.validation import Expected, problems_error, quote

__all__ = [
    "DEFAULT_PLUGINS",
    "RUN_YAML",
    "Auto",
    "ByteSize",
    "ClassList",
    "ClassSpec",
    "Classes",
    "Compute",
    "Config",
    "Integers",
    "NonEmptyText",
    "PixelSize",
    "PluginSpec",
    "PositiveInteger",
    "Resolution",
    "ResolutionKey",
    "StrictModel",
    "Tiling",
    "YamlKind",
    "json_schema",
    "parse_bytes",
]

DEFAULT_PLUGINS: Mapping[str, Any] = {"reader": {"name": "auto"}, "metrics": [{"name": "semantic"}], "writers": [{"name": "ome_zarr"}]}
"""The plug-ins that a YAML need not name."""

Auto = Literal["auto"]
PositiveInteger = Annotated[int, Field(ge=1)]
Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list
PixelSize = Annotated[float, Field(gt=1e-4, lt=1e6)]  # micrometres, metres for maps; sizes outside are mistakes
_SPEC = "{name: ..., option: ...}"
_RESOLUTIONS = "{pixel_size: 0.5}, {diameter: 30}, {scale: 0.5}, {level: 2}"
PluginSpec = Annotated[dict[str, Any], Expected(f"a name, or {_SPEC}")]
PluginSpecs = Annotated[tuple[PluginSpec, ...], Strict(strict=False), Expected(f"a list of names or of {_SPEC}")]

_UNITS = {"": 1, "b": 1} | {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}


def parse_bytes(text: str | int) -> int:
    """Return a size in bytes; a text that is none, or a size below 1, is a ValueError that says what is expected."""
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text).lower())
    unit = _UNITS.get(size[2]) if size else None
    if size is None or unit is None or float(size[1]) * unit < 1:
        raise ValueError("a size above 0 such as 4GiB, 500MB or a number of bytes")
    return int(float(size[1]) * unit) if "." in size[1] else int(size[1]) * unit


def _check_bytes(size: str | int) -> str | int:
    parse_bytes(size)
    return size


ByteSize = Annotated[str | int, Expected("a size such as 4GiB, 500MB or a number of bytes"), AfterValidator(_check_bytes)]


class ClassSpec(StrictModel):
    """One class: its id is its position in the list."""

    name: NonEmptyText = Field(description="shown in reports and in the masks' metadata")
    color: Annotated[str, Field(pattern=f"^{COLOR}$"), Expected("'#rrggbb'")] | None = Field(
        default=None, description="#rrggbb, in quotes; RGB truth matches it; null: from a palette"
    )
    values: Integers | Literal["other"] | None = Field(default=None, description="what the truth holds for it: a list, or other")


def _check_classes(classes: tuple[ClassSpec, ...]) -> tuple[ClassSpec, ...]:
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


class Tiling(StrictModel):
    """How an image is cut."""

    core: PositiveInteger | Auto = Field(
        default="auto", description="side of the square that a tile writes, pixels of the level that is read"
    )
    halo: Annotated[int, Field(ge=0)] | Auto = Field(default="auto", description="context that is read on every side, pixels")
    block: PositiveInteger | Auto = Field(default="auto", description="side of a block, the unit of scheduling, pixels; a multiple of core")
    stitch: Literal["crop", "linear", "gaussian"] = Field(default="crop", description="keep cores, or blend neighbouring tiles")

    @field_validator("block")
    @classmethod
    def _whole_cores(cls, block: int | str, info: ValidationInfo) -> int | str:
        core = info.data.get("core")
        if isinstance(core, int) and isinstance(block, int) and block % core:
            lower = block // core * core
            raise ValueError(f"a multiple of core ({core}), such as {f'{lower} or ' if lower else ''}{lower + core}")
        return block


class Resolution(StrictModel):
    """The working grid, by exactly one key."""

    pixel_size: PixelSize | None = Field(default=None, description="of the working grid: micrometres, metres for maps")
    diameter: Annotated[float, Field(gt=0, le=1e5)] | None = Field(
        default=None, description="diameter of the objects in the images, pixels: resampled to the diameter that the model was trained on"
    )
    scale: Annotated[float, Field(ge=1e-3, le=64)] | None = Field(
        default=None, description="pixels of the working grid for one pixel of the image, along each axis"
    )
    level: Annotated[int, Field(ge=0)] | None = Field(default=None, description="pyramid level, read as it is; 0 is the largest")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(getattr(self, key) is not None for key in type(self).model_fields) != 1:
            raise ValueError(f"one of {', '.join(type(self).model_fields)}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        """Write only the key that was given."""
        return {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}


ResolutionKey = Annotated[Resolution | Auto, Expected(f"auto or one of {_RESOLUTIONS}")]


class Compute(StrictModel):
    """Where and how the run computes; only the recipe that follows from it may change a mask."""

    runner: str = Field(default="auto", description="auto, serial or ray; auto: serial for small jobs")
    address: str | None = Field(default=None, description="address of a running Ray cluster; null: this machine")
    actors: PositiveInteger | Auto = Field(default="auto", description="processes that segment")
    gpus_per_actor: Annotated[float, Expected("1, or 1/k with a whole k (0.5, 0.25, ...)")] | Auto = Field(
        default="auto", description="share of a GPU that an actor takes: 1, or 1/k with a whole k"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where tiles are predicted")
    threads: PositiveInteger | Auto = Field(default="auto", description="compute threads an actor")
    backend: str = Field(default="auto", description="what runs the network: auto, torch, inductor, openvino, ...")
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        default="auto", description="of the network's arithmetic; int8: calibrated on tiles of the images, by OpenVINO"
    )
    batch: PositiveInteger | Auto = Field(default="auto", description="tiles a forward pass")
    memory: ByteSize = Field(default="4GiB", description="what an actor may use above its loaded model")
    deadline: float = Field(default=600.0, gt=0, description="seconds that one block may take before its actor is killed")
    attempts: int = Field(default=3, ge=1, description="tries of one block before it is quarantined")

    @field_validator("runner", "backend")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        names = ["auto", *available(f"{info.field_name}s")]
        if name not in names and "." not in name:
            raise problems_error([Problem("", quote(name), one_of(names), nearest(name, names))])
        return name

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_share(cls, share: float | str) -> float | str:
        # 0.33 means a third: a person writes two or three digits.
        if isinstance(share, float) and (not 0 < share <= 1 or abs(round(1 / share) - 1 / share) > 0.035):
            raise ValueError("1, or 1/k with a whole k (0.5, 0.25, ...)")
        return share

    @property
    def memory_bytes(self) -> int:
        """Return ``memory`` in bytes."""
        return parse_bytes(self.memory)


def _check_mean_std(numbers: dict[str, list[float]]) -> list[Problem]:
    keys, expected = ["mean", "std"], "a list of numbers, one for each channel"
    problems = [Problem(key, f"unknown key {key!r}", one_of(keys), nearest(key, keys)) for key in numbers if key not in keys]
    problems += [Problem(key, quote(numbers[key]) if key in numbers else None, expected) for key in keys if not numbers.get(key)]
    wrong = [(index, value) for index, value in enumerate(numbers.get("std", ())) if value <= 0]
    problems += [Problem(f"std.{index}", quote(value), "a number above 0") for index, value in wrong]
    if not problems and len(numbers["mean"]) != len(numbers["std"]):
        problems.append(Problem("std", f"{len(numbers['std'])} numbers", f"as many as in mean ({len(numbers['mean'])})"))
    return problems


class Config(StrictModel):
    """All keys of a run. Paths are absolute once the config is loaded."""

    images: Annotated[Sources, Field(min_length=1)] = Field(
        description="files, folders, globs, URLs, sample:NAME, {mosaic: tiles/*.tif}, CSV: image[,name,truth,pixel_size,channels,level]"
    )
    truth: Truth | None = Field(
        default=None, description="reference masks or polygons, such as truth/{stem}.png; {stem}, {name}, {image}, {folder}; null: none"
    )
    classes: Classes | None = Field(default=None, description="in the order of their ids; null: as the model names them")
    ignore: int | Annotated[str, Expected("a colour '#rrggbb'")] | None = Field(
        default=None, description="a truth value, or #rrggbb in RGB truth, that is left out of every count"
    )
    model: PluginSpec = Field(description="a model and its options")
    normalize: (
        Literal["percentile", "zscore", "contrast"] | Annotated[dict[str, list[float]], Expected("{mean: [..], std: [..]}")] | None
    ) = Field(
        default=None,
        description="{mean: [..], std: [..]} in raw units, or of each image percentile, zscore, or contrast, which is that of its edges; "
        "null: the model's, else raw values",
    )
    stain: Literal["macenko", "reinhard"] | None = Field(
        default=None, description="stain normalisation of H&E slides to a reference, fitted once a slide: macenko or reinhard"
    )
    reader: PluginSpec = Field(
        default=DEFAULT_PLUGINS["reader"], description="how images are read: channels, axes, level, pixel_size, planes"
    )
    tiling: Tiling = Field(default=Tiling(), description="how an image is cut")
    resolution: ResolutionKey = Field(
        default="auto", description=f"the grid to work on, one of {_RESOLUTIONS}; auto: the model's, else the image's own"
    )
    masks: Literal["working", "native"] = Field(
        default="working",
        description="grid of the masks: working, where pixels are counted, or native, the image's own, by nearest pixels",
    )
    skip: PluginSpec | None = Field(default=None, description="what is not computed: tissue, nodata or regions; null: nothing")
    instances: Annotated[dict[str, Any], Expected(f"auto, the name of a method, {_SPEC}")] | None = Field(
        default=None,
        description="how objects are told apart: components, border, watershed, radial, flows, or auto, as the model declares; null: not",
    )
    zones: ZonesKey | None = Field(default=None, description="polygons whose areas of each class are reported apart; null: none")
    metrics: PluginSpecs = Field(default=tuple(DEFAULT_PLUGINS["metrics"]), description="what the report computes from the counts")
    writers: PluginSpecs = Field(
        default=tuple(DEFAULT_PLUGINS["writers"]), description="what masks are written as; left out: ome_zarr, and cog for maps"
    )
    compute: Compute = Field(default=Compute(), description="where and how it runs")
    output: Annotated[str, Expected("a path, or the URL of a storage")] = Field(
        description="folder of masks, report and ledger, or the URL of a storage, such as memory://NAME"
    )

    _locations: KeyLocations = PrivateAttr(default_factory=KeyLocations)

    @field_validator("ignore")
    @classmethod
    def _ignored(cls, ignore: int | str | None) -> int | str | None:
        if isinstance(ignore, str) and not re.fullmatch(COLOR, ignore):
            raise ValueError("a whole number, a colour '#rrggbb' or null")
        return ignore

    @field_validator("normalize")
    @classmethod
    def _normalize(cls, normalize: Any) -> Any:
        if isinstance(normalize, dict) and (problems := _check_mean_std(normalize)):
            raise problems_error(problems)
        return normalize

    @field_validator("output", mode="before")
    @classmethod
    def _storage(cls, output: Any) -> Any:
        if not isinstance(output, str | PathLike) or not fspath(output):
            raise ValueError("a path, or the URL of a storage")
        try:
            return open_storage(output, to_write=True).url
        except InputError as error:
            raise problems_error([replace(problem, where="") for problem in error.problems if isinstance(problem, Problem)]) from error

    def where(self, key: str) -> str:
        """Return what a message calls a key: ``run.yaml:4: tiling.core``."""
        return self._locations.where(key)

    def with_locations(self, locations: KeyLocations) -> Self:
        """Remember where the keys were written, for :meth:`where`, and return this config."""
        self._locations = locations
        return self

    @property
    def has_default_writers(self) -> bool:
        """Whether nobody chose the writers, so that those that fit the images are added."""
        return "writers" in self._locations.left_out

    def with_writers(self, writers: Iterable[Mapping[str, Any]]) -> Self:
        """Return a config with these writers, as if they had been chosen."""
        chosen = replace(self._locations, left_out=self._locations.left_out - {"writers"})
        return self.model_copy(update={"writers": tuple(writers)}).with_locations(chosen)


@dataclass(frozen=True)
class YamlKind:
    """What one kind of YAML file holds."""

    schema: type[Any]  # the pydantic model of its keys
    plugin_kinds: Mapping[str, str]  # for each key that names plug-ins, their kind, such as `models`
    default_plugins: Mapping[str, Any]  # for each key that need not be written, the plug-ins that it then names
    path_keys: frozenset[str] = frozenset({"images", "truth", "zones", "output"})
    list_keys: frozenset[str] = frozenset({"images", "metrics", "writers"})  # one value may stand for a list of one
    sparse_keys: frozenset[str] = frozenset()  # their plug-ins keep only options that were written; the images decide the others


RUN_YAML = YamlKind(
    Config,
    {"model": "models", "reader": "readers", "skip": "skips", "instances": "instances", "metrics": "metrics", "writers": "writers"},
    DEFAULT_PLUGINS,
)


def json_schema(kind: YamlKind = RUN_YAML) -> dict[str, Any]:
    """Return the JSON schema of a YAML, for editors: with descriptions, and with the options of every plug-in that imports."""
    schema: dict[str, Any] = kind.schema.model_json_schema()
    definitions = schema["$defs"]
    keys = schema["properties"]
    for key, plugin_kind in kind.plugin_kinds.items():
        spec = _plugin_schema(plugin_kind, definitions)
        many = {"anyOf": [{"type": "array", "items": spec}, {"type": "string"}]}
        keys[key] = {name: keys[key][name] for name in ("default", "description") if name in keys[key]}
        keys[key] |= many if key in kind.list_keys else spec
        if keys[key].get("default", 0) is None:
            keys[key]["anyOf"] = [*keys[key]["anyOf"], {"type": "null"}]
    listed = {name: value for name, value in keys["images"].items() if name not in ("description", "title")}
    keys["images"] = {"description": keys["images"]["description"], "anyOf": [{"type": "string"}, listed]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "gigaseg"}


def _plugin_schema(plugin_kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key that names a plug-in: a name, a mapping with the options of a known one, or a dotted name."""
    shapes: list[dict[str, Any]] = [{"type": "string"}]
    for name in available(plugin_kind):
        try:
            options = find(plugin_kind, name).model_json_schema()
        except (InputError, ImportError):
            continue  # its package is not installed, so nobody can use it here
        definitions |= options.pop("$defs", {})
        known = {"name": {"const": name}, **options.get("properties", {})}
        required = [word for word in ("name", *options.get("required", ())) if word != "name" or plugin_kind != "readers"]
        options |= {"properties": known, "required": required}
        shapes.append(options)
    dotted = {"type": "object", "properties": {"name": {"type": "string", "pattern": "\\."}}, "required": ["name"]}
    return {"anyOf": [*shapes, dotted]}
