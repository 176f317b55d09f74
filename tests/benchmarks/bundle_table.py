"""Print the README's table of the shipped bundles from their cards; ``--write`` puts it into the README.

Run it when a card has changed::

    python -m tests.benchmarks.bundle_table --write
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from pipeline.models.bundle_files import card_of, list_scores, read_spec
from tests.shipped import DATASETS

__all__ = ["README", "bundle_table"]

README = Path(__file__).parents[2] / "README.md"
BUNDLES = Path(__file__).parents[2] / "pipeline" / "bundles"
HEAD = ("bundle", "finds", "for", "not for", "validation", "MB", "licence of the weights")
TABLE = re.compile(r"^\| bundle \|.*?\n\n", re.MULTILINE | re.DOTALL)
FEW = 3  # classes whose IoU is given one by one


def bundle_table() -> str:
    """Return the table as Markdown, with its last line break."""
    names = sorted(name for name in DATASETS if (BUNDLES / name / "model.yaml").is_file())
    rows = [HEAD, ["---"] * len(HEAD), *(_row(name) for name in names)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _row(name: str) -> list[str]:
    folder = BUNDLES / name
    spec = read_spec(folder)
    card = card_of(spec)
    classes = [one.name for one in spec.classes if one.name != "background"]
    apart = f", each {' and '.join(spec.instances['of'])} as an object" if spec.instances else ""
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    not_for = "; ".join(spec.not_for).replace("|", "/")
    return [f"`{name}`", ", ".join(classes) + apart, ", ".join(spec.kinds), not_for, _scores(card), f"{size:.1f}", spec.licence]


def _scores(card: dict[str, Any]) -> str:
    """Return the scores that say most, with their intervals, and how many images they are of."""
    names = [one["name"] for one in card["classes"] if one["name"] != "background"]
    wanted = [f"IoU of {name}" for name in names] if len(names) <= FEW else ["mean IoU"]
    found = [one for one in list_scores(card["scores"]) if one.data == "validation"]
    shown = [one for one in found if one.what in wanted or one.what.endswith("AP at IoU 0.5")]
    texts = [f"{one.what} {one.value:.3f}{' ({:.3f} to {:.3f})'.format(*one.interval) if one.interval else ''}" for one in shown]
    images = card["scores"]["validation"]["images"]
    return f"{', '.join(texts)}; {images} image{'s' * (images > 1)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the table in the README")
    if parser.parse_args().write:
        text = README.read_text(encoding="utf-8")
        README.write_text(TABLE.sub(lambda _: f"{bundle_table()}\n", text, count=1), encoding="utf-8")
    print(bundle_table(), end="")


if __name__ == "__main__":
    main()
