"""Pages of one file: what they need is written into them, and nothing else may run or load.

Texts of users go through the template's escaping, data through JSON in which no tag can end. Scripts are allowed by their hash.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.web.charts import Chart
from pipeline.web.tables import DataTable

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["VENDOR", "data_uri", "render_page"]

HERE = Path(__file__).parent
VENDOR = HERE / "vendor"  # libraries of others, as npm ships them, with their licences
SCRIPTS = {
    "charts": (VENDOR / "d3.min.js", VENDOR / "plot.umd.min.js", HERE / "charts.js"),
    "tables": (VENDOR / "dataTables.min.js", HERE / "tables.js"),
}


def render_page(
    template: Path,
    *,
    styles: Iterable[Path] = (),
    scripts: Iterable[Path] = (),
    charts: Iterable[Chart] = (),
    tables: Iterable[DataTable] = (),
    **values: Any,
) -> str:
    """Return a page as HTML.

    Args:
        template: extends ``base.html.j2`` and fills its block ``body``; has every function of :mod:`pipeline.web.words` as a filter.
            ``macros.html.j2`` holds the parts that pages share.
        styles: CSS files, behind the style that all pages share.
        scripts: JavaScript files, in the order in which they run, behind those that all pages, charts and tables need.
        charts: of the page; the template has them by id as ``charts``.
        tables: of the page that are shown page by page; the template has them by id as ``tables``.
        values: what the template shows; ``title`` is also that of the window. Strings are escaped.

    Raises:
        ValueError: a script holds a tag that would end it early.
    """
    from markupsafe import Markup

    charts, tables = list(charts), list(tables)
    islands = {"charts": {one.id: one.plain() for one in charts}, "tables": {one.id: one.plain() for one in tables}}
    used = [path for name, paths in SCRIPTS.items() if islands[name] for path in paths]
    texts = [_script_text(path) for path in (HERE / "page.js", *used, *scripts)]
    return (
        _environment(template.parent)
        .get_template(template.name)
        .render(
            policy=_policy(texts),
            styles=[Markup(path.read_text(encoding="utf-8")) for path in (HERE / "colors.css", HERE / "base.css", *styles)],  # noqa: S704 - files of this package
            scripts=[Markup(text) for text in texts],  # noqa: S704 - as above
            islands={name: Markup(_json(value)) for name, value in islands.items() if value},  # noqa: S704 - no tag can end in it
            charts={one.id: one for one in charts},
            tables={one.id: one for one in tables},
            **values,
        )
    )


def _script_text(path: Path) -> str:
    """Return a script as it can stand in a page.

    Raises:
        ValueError: it holds a tag that would end it early.
    """
    text = path.read_text(encoding="utf-8").strip()
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError(f"{path}: holds </script or <!--, which end a script inside a page")
    return text


@lru_cache(maxsize=8)
def _environment(folder: Path) -> Environment:
    """Return what compiles the templates of a folder, and keeps them: compiling takes ten times as long as filling them."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from pipeline.web import words

    loader = FileSystemLoader([folder, HERE])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {name: getattr(words, name) for name in words.__all__}
    return environment


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes, such as a picture of the MIME type ``kind``, as a URI that a page can hold."""
    return f"data:{kind};base64,{b64encode(data).decode()}"


def _json(value: Any) -> str:
    """Return JSON in which no ``<`` stands, so that no text of a user ends the element around it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(scripts: Iterable[str]) -> str:
    """Return the content security policy of a page with these scripts."""
    hashes = [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts]
    allowed = " ".join(hashes or ["'none'"])
    may = {"style-src": "'unsafe-inline'", "img-src": "data: blob:", "script-src": allowed, "base-uri": "'none'", "form-action": "'none'"}
    return "; ".join(f"{key} {value}" for key, value in {"default-src": "'none'", **may}.items())
