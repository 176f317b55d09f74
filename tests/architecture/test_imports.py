"""Commands that only talk load nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "ray",
    "zarr",
    "dask",
    "pandas",
    "tifffile",
    "imagecodecs",
    "skimage",
    "sklearn",
    "scipy",
    "timm",
    "segmentation_models_pytorch",
)
PRINTS_MODULES = """
import sys
from pipeline.cli import main
code = main({arguments!r})
print("modules:", *sorted({{name.partition(".")[0] for name in sys.modules}}))
sys.exit(code)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that a command has imported when it ends."""
    script = PRINTS_MODULES.format(arguments=list(arguments))
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(ran.stdout.rpartition("modules:")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]], ids=" ".join)
def test_help_loads_almost_nothing(arguments: list[str]) -> None:
    """Help answers at once: neither numpy nor a workflow is imported."""
    assert not loaded_by(*arguments) & {*HEAVY, "numpy", "yaml", "rich", "workflows"}


@pytest.mark.parametrize("arguments", [["schema"], ["models"], ["readers"], ["writers"]], ids=" ".join)
def test_listing_loads_nothing_heavy(arguments: list[str]) -> None:
    """What can be named is listed without loading what would run it."""
    assert not loaded_by(*arguments) & set(HEAVY)
