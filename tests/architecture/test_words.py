"""The project speaks of itself, and documents what a user can set."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.inputs.samples import SAMPLES as SAMPLE_IMAGES
from workflows.doctor import EXTRAS, SAMPLES

ROOT = Path(__file__).parents[2]
# Words are cut in two so that this file may be searched as well.
FORBIDDEN = re.compile(
    "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "/wo" + "rk/", "/ro" + "ot/", "[.]/sha" + "red/", "raise NotImpl" + "ementedError"])
)
# An undocumented switch-off hides a fault: the rule is named, and the reason stands beside it.
BARE = re.compile(r"# no" + r"qa(?!: [A-Z]+\d)|# type: " + r"ignore(?!\[)")


def tracked() -> list[Path]:
    """Text files of the project; without git, those of its folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    paths = [ROOT / name for name in listed if name] or [
        path for folder in ("pipeline", "workflows", "tests") for path in (ROOT / folder).rglob("*")
    ]
    return [path for path in paths if path.suffix in {".py", ".md", ".yaml", ".toml", ".j2", ".html", ".yml", ""} and path.is_file()]


def test_no_loose_ends() -> None:
    """No file holds a note to self, a stub or a path of somebody's machine."""
    found = {
        f"{path.relative_to(ROOT)}:{number}": line
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    }
    found = {place: line for place, line in found.items() if not place.startswith(".ci/run")}  # it may look beside the checkout
    found.pop(next((place for place in found if place.startswith("pyproject.toml") and "exclude_also" in found[place]), ""), None)
    assert not found


def test_no_bare_switch_off() -> None:
    """Every rule that is switched off on a line is named there."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BARE.search(line)
    ]
    assert not found


def test_every_test_says_its_promise() -> None:
    """Every test has one sentence that says what is promised."""
    silent = [
        f"{path.relative_to(ROOT)}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test") and not ast.get_docstring(node)
    ]
    assert not silent


def keys(schema: dict[str, Any], node: dict[str, Any], where: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the YAML with its description."""
    for name, field in node.get("properties", {}).items():
        place = f"{where}.{name}".strip(".")
        yield place, field.get("description", "")
        for part in [field, field.get("items", {}), *field.get("anyOf", []), *field.get("allOf", [])]:
            reference = part.get("$ref") or part.get("items", {}).get("$ref")
            if reference:
                yield from keys(schema, schema["$defs"][reference.rpartition("/")[2]], place)


def test_every_config_key_is_documented() -> None:
    """Each key that the YAML knows says what it means in the schema."""
    from pipeline.config import Config

    schema = Config.model_json_schema()
    documented = dict(keys(schema, schema))
    assert {"images", "tiling.core", "compute.memory"} <= set(documented)
    assert not [key for key, description in documented.items() if not description]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_doctor_knows_every_extra(extra: str) -> None:
    """`gigaseg doctor` names the packages that pyproject.toml asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev"}
    assert [re.split(r"[><=\[]", one)[0] for one in extras[extra]] == list(EXTRAS[extra])


def test_doctor_knows_every_sample() -> None:
    """`gigaseg doctor` says of each sample image whether it is there."""
    assert set(SAMPLES) == {f"sample:{name}" for name in SAMPLE_IMAGES}
