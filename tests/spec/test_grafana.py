"""The Grafana dashboard: it asks only for what runs write, in expressions that Prometheus understands, and says what is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pipeline.scheduling.monitoring import Monitor

BOARD = json.loads((Path(__file__).parents[2] / "workflows" / "cluster" / "grafana.json").read_text(encoding="utf-8"))
PANELS = BOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {"$run": "out", "$__rate_interval": "1m"}


def plain(expression):
    """An expression with Grafana's variables filled in."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def written():
    """Names of samples that a run writes: of a counter with `_total` behind."""
    families = text_string_to_metric_families(Monitor("out").text().decode())
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_every_metric_is_one_that_runs_write():
    """No panel and no variable asks for a metric that is not there."""
    variables = [one["query"] for one in BOARD["templating"]["list"]]
    asked = set(re.findall(r"gigaseg_\w+", " ".join([*EXPRESSIONS, *variables])))
    assert asked <= written()
    assert len(asked) >= 10


def test_every_expression_can_be_filtered_by_run():
    """Each metric in each panel has the filter of the variable, so that one run can be looked at alone."""
    for expression in EXPRESSIONS:
        assert len(re.findall(r"gigaseg_\w+", expression)) == expression.count('{run=~"$run"}')


def test_prometheus_understands_every_expression(tmp_path):
    """Prometheus' own parser takes each expression of the dashboard."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    rules = [{"record": f"panel:{number}", "expr": plain(expression)} for number, expression in enumerate(EXPRESSIONS)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([tool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(EXPRESSIONS)} rules found" in checked.stdout


def test_panels_say_what_they_show():
    """A title and a sentence in plain words, a unit, a place of its own on the page, and the chosen data source."""
    places = set()
    for panel in PANELS:
        assert re.fullmatch(r"[A-Z][a-z ]+", panel["title"])
        assert panel["description"].endswith((".", "tells."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places
        assert at["x"] + at["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
