"""What the tables of a page say (``pipeline/web/tables.js``)."""

from __future__ import annotations

__all__ = ["number_of", "rows_of", "shown_rows", "table_of"]

READ = """(table, whole) => {
  const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const read = (row) => Object.fromEntries([...row.cells].map((cell, index) => [titles[index], cell.textContent]));
  const next = () => table.closest(".dt-container")?.querySelector(".next:not(.disabled)");
  const rows = [...table.tBodies[0].rows].map(read);
  while (whole && next()) {
    next().click();
    rows.push(...[...table.tBodies[0].rows].map(read));
  }
  return rows;
}"""


def table_of(page, name):
    """Return a table with its filter and its buttons."""
    return page.locator(f".dt-container:has(table[data-rows='{name}'])")


def shown_rows(page, name):
    """Return the rows of a table that are shown now: their cells by the title of the column."""
    return page.locator(f"table[data-rows='{name}']").evaluate(READ)


def rows_of(page, name):
    """Return every row of a table, in its order: it is turned over to its end."""
    if (length := table_of(page, name).locator("select")).count():
        length.select_option("500")
    return page.locator(f"table[data-rows='{name}']").evaluate(READ, True)


def number_of(text):
    """Return a number from the text of a cell: ``–`` is None, ``92.3 %`` a share; "over 99.9 %" is all, "under 0.1 %" nothing."""
    text = text.strip().replace(",", "").replace("over 99.9 %", "100 %").replace("under 0.1 %", "0 %")
    if text == "–":
        return None
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
