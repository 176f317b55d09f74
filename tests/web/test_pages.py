"""Pages of one file: nothing that a user wrote runs, and nothing is loaded."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.web import VENDOR, Column, data_table, data_uri, render_page

HOSTILE = "</script><script>alert(1)</script><!-- \"'&\u202e"
TEMPLATE = """{% extends "base.html.j2" %}
{% block body %}<h1>{{ title }}</h1><p>{{ size | in_bytes }}</p>{% endblock %}"""


@pytest.fixture
def page(tmp_path: Path) -> str:
    (tmp_path / "page.html.j2").write_text(TEMPLATE)
    (tmp_path / "own.js").write_text("document.title += ' ready';\n")
    scripts = [VENDOR / "d3.min.js", tmp_path / "own.js"]
    tables = [data_table("names", "Names", [Column("name")], [[HOSTILE]], 1)]
    return render_page(tmp_path / "page.html.j2", scripts=scripts, tables=tables, title=HOSTILE, size=2048)


def test_texts_cannot_become_tags(page: str) -> None:
    """The page has its own scripts alone, whatever a name holds, and the data come back unchanged."""
    assert page.count("</script>") == 6
    assert "<script>alert" not in page
    island = re.search(r'<script type="application/json" id="tables">(.*?)</script>', page)
    assert island is not None
    assert json.loads(island[1]) == {"names": {"columns": ["text"], "rows": [[HOSTILE]]}}
    assert "2 KiB" in page


def test_only_its_own_scripts_may_run(page: str) -> None:
    """The policy names the hash of each script, and allows no other source."""
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]
    assert len(hashes) == 5
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert all(f"&#39;sha256-{one}&#39;" in policy[1] for one in hashes)
    assert "default-src &#39;none&#39;" in policy[1]


def test_a_script_that_would_end_early_is_refused(tmp_path: Path) -> None:
    """A script that holds its own closing tag cannot stand in a page."""
    (tmp_path / "page.html.j2").write_text(TEMPLATE)
    (tmp_path / "bad.js").write_text("x = '</script>'")
    with pytest.raises(ValueError, match="bad.js"):
        render_page(tmp_path / "page.html.j2", scripts=[tmp_path / "bad.js"], title="", size=0)


def test_bytes_become_a_uri() -> None:
    """A picture is written into the page."""
    assert data_uri(b"\x00\x01", "image/png") == "data:image/png;base64,AAE="
