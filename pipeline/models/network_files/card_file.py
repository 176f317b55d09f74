"""The YAML beside the file of a network, ``cells.pt.yaml`` beside ``cells.pt``: options of the model, and its card."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, ValidationError, field_validator

from pipeline.config import is_url, read_yaml
from pipeline.errors import InputError, Problem
from pipeline.models.bundle_files import BundleClass, ModelCard, TileSize
from pipeline.models.network_files.file_facts import Axes
from pipeline.models.network_files.named_outputs import NamedOutputs, check_outputs
from pipeline.storage import entry_of, fetch, open_storage
from pipeline.validation import problems_of, quote

__all__ = ["NetworkCard", "card_file", "misnamed_card", "read_card"]

SUFFIX = ".yaml"  # after the whole name of the file, so that the YAML of a run named after the model is not taken for it


class NetworkCard(ModelCard):
    """The keys of the YAML beside a file: those of a bundle's ``model.yaml`` and the model's options, none of them required."""

    classes: Annotated[tuple[BundleClass, ...], Strict(strict=False)] = Field(
        default=(), description="classes that the model predicts, in order"
    )
    outputs: NamedOutputs | None = Field(default=None, description="as the model's option")
    grid: int | None = Field(default=None, ge=1, le=16, description="as the model's option")
    axes: Axes | None = Field(default=None, description="as the model's option")
    channels: int | None = Field(default=None, ge=1, description="as the model's option")
    stride: int | None = Field(default=None, ge=1, description="as the model's option")
    field: int | None = Field(default=None, ge=0, description="as the model's option")
    size: int | None = Field(default=None, ge=1, description="as the model's option")
    margin: int | None = Field(default=None, ge=0, description="as the model's option")
    tile: TileSize = TileSize()
    bf16: bool = Field(default=True, description="false: bfloat16 harms its masks, so that no trial chooses it")

    @field_validator("outputs")
    @classmethod
    def _named(cls, outputs: NamedOutputs | None) -> NamedOutputs | None:
        return None if outputs is None else check_outputs(outputs)

    @field_validator("classes")
    @classmethod
    def _several(cls, classes: tuple[BundleClass, ...]) -> tuple[BundleClass, ...]:
        if len(classes) == 1:
            raise ValueError("at least two classes, such as background and cell")
        if len({named.name for named in classes}) < len(classes):
            raise ValueError("each name once")
        return classes


def card_file(path: Path | str) -> Path | None:
    """Return the local path of the YAML beside a file; None: there is none. Of a file at a URL it is fetched.

    Raises:
        StoreError: the server failed.
    """
    text = str(path)
    if isinstance(path, str) and is_url(text) and not text.startswith("file://"):
        return _fetched(f"{text}{SUFFIX}")
    beside = Path(text.removeprefix("file://") + SUFFIX)
    return beside if beside.is_file() else None


def misnamed_card(path: Path | str) -> Path | None:
    """Return the YAML of a network that lies beside its file under a name that is not read; None: there is none.

    ``cells.pt.yml`` is one. ``cells.yaml`` and ``cells.yml`` are too, unless they hold other keys, as the YAML of a run does.
    """
    file = Path(str(path).removeprefix("file://"))
    if is_url(str(path)) and not str(path).startswith("file://"):
        return None
    for beside in (Path(f"{file}.yml"), file.with_suffix(".yaml"), file.with_suffix(".yml")):
        with suppress(InputError):
            if beside.is_file() and (beside.stem == file.name or _is_card(read_yaml(beside).data)):
                return beside
    return None


def _is_card(data: Any) -> bool:
    return isinstance(data, dict) and bool(data) and data.keys() <= NetworkCard.model_fields.keys()


@cache
def _fetched(url: str) -> Path | None:
    folder, _, name = url.rpartition("/")
    try:
        is_there = entry_of(open_storage(folder), name) is not None
    except InputError:  # a bucket that nobody may list refuses access to what it has not
        is_there = False
    return fetch(url) if is_there else None


def read_card(path: Path | str) -> NetworkCard:
    """Return the content of the YAML beside a file; an empty card where there is none.

    Raises:
        InputError: it is no YAML, or keys are wrong; every problem at once, each with file and key.
    """
    file = card_file(path)
    if file is None:
        return NetworkCard()
    stat = file.stat()
    return _read(file, f"{path}{SUFFIX}", stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _read(file: Path, where: str, _size: int, _mtime_ns: int) -> NetworkCard:
    document = read_yaml(file, where)
    if not isinstance(document.data, dict):
        found = "no keys" if document.data is None else quote(document.data, with_type=True)
        raise InputError(Problem(where, found, "a mapping of keys, such as `classes`"))
    try:
        card = NetworkCard(**document.data)
    except ValidationError as error:
        wrong = [_told(problem, where) for problem in problems_of(error, NetworkCard, "")]
        raise InputError([*document.problems, *wrong]) from error
    if document.problems:
        raise InputError(document.problems)
    return card


def _told(problem: Problem, where: str) -> Problem:
    """Return a problem of a key with the file; a file cannot vouch for itself."""
    told: dict[str, Any] = {"where": f"{where}: {problem.where}"}
    if problem.where == "trust":
        told["fix"] = "Only the YAML of a run can say trust: true, or the command line: --set model.trust=true."
    return replace(problem, **told)
