/* Tables that can be sorted, filtered and turned over, by DataTables.

   How a page uses it: the macro `data_table` of macros.html.j2 leaves
     <table data-rows="ID"><caption>..</caption><thead><tr><th>..</th></tr></thead><tbody>..the first rows..</tbody></table>
   and the element of id "tables" holds {ID: {columns: [kind], rows: [[cell]]}} as JSON; kinds are text, count, score, change and percent
   (pipeline/web/tables.py makes these). The rows of the island take the place of those in the page.
   Cells reach the page as text nodes, never as HTML. A missing number is a dash, and comes last in either order. */
"use strict";
(() => {
  const PAGE = 25;
  const NOTHING = "–";
  const FORMATS = [0, 1, 3].map((count) => new Intl.NumberFormat("en-US", { minimumFractionDigits: count, maximumFractionDigits: count }));
  const CHANGES = new Intl.NumberFormat("en-US", { minimumFractionDigits: 3, maximumFractionDigits: 3, signDisplay: "always" });
  const [whole, tenths, thousandths] = FORMATS.map((format) => format.format); // made once: 10,000 rows take as many numbers
  const percent = (share) =>
    share === 0 || share === 1 ? `${100 * share} %` : share < 0.001 ? "under 0.1 %" : share > 0.999 ? "over 99.9 %" : `${tenths(100 * share)} %`;
  const SHOW = {
    text: (value) => value,
    count: whole,
    score: thousandths,
    change: CHANGES.format,
    percent,
  };
  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

  /* What DataTables filters by is decoded as HTML once more, so that it must be encoded here. */
  const encoded = (text) => text.replace(/[&<>"]/g, (letter) => ENTITIES[letter]);

  function column(kind, index) {
    const text = (value) => (value === null || value === "" ? NOTHING : String(SHOW[kind](value)));
    return {
      data: index,
      type: kind === "text" ? "string-plain" : "number-last",
      className: kind === "text" ? "name" : "n",
      render: (value, use) => (use === "display" ? document.createTextNode(text(value)) : use === "filter" ? encoded(text(value)) : value),
    };
  }

  const last = (order) => (a, b) => (a === b ? 0 : a === null ? 1 : b === null ? -1 : order * (a - b));
  const collator = new Intl.Collator("en", { numeric: true });
  const byText = (order) => (a, b) => order * collator.compare(a ?? "", b ?? "");
  DataTable.type("number-last", { order: { asc: last(1), desc: last(-1) } });
  DataTable.type("string-plain", { order: { asc: byText(1), desc: byText(-1) } });

  const island = document.getElementById("tables");
  const tables = island ? JSON.parse(island.textContent) : {};
  for (const table of document.querySelectorAll("table[data-rows]")) {
    const { columns, rows } = tables[table.dataset.rows];
    if (rows.length < 2) continue;
    table.tBodies[0].replaceChildren();
    document.querySelector(`[data-without="${table.dataset.rows}"]`)?.remove(); // says that rows are left out
    const isLong = rows.length > 10;
    new DataTable(table, {
      data: rows,
      columns: columns.map(column),
      order: [],
      autoWidth: false,
      deferRender: true,
      pageLength: PAGE,
      paging: rows.length > PAGE,
      info: isLong,
      searching: isLong,
      lengthMenu: [10, PAGE, 100, 500],
      layout: { topStart: isLong ? "search" : null, topEnd: rows.length > PAGE ? "pageLength" : null, bottomStart: isLong ? "info" : null, bottomEnd: rows.length > PAGE ? "paging" : null },
      language: { search: "Filter", lengthMenu: "_MENU_ rows a page", info: "Rows _START_ to _END_ of _TOTAL_", infoFiltered: "(of _MAX_ in all)", infoEmpty: "No rows", zeroRecords: "No row matches the filter." },
    });
  }
})();
