/* Charts by Observable Plot.

   How a page uses it: the macro `chart` of macros.html.j2 leaves
     <figure class="chart" data-chart="ID"><figcaption>..</figcaption><div class="plot"></div> ..table of the numbers.. </figure>
   and the element of id "charts" holds {ID: chart} as JSON. A chart has a `kind` and, by kind, these fields:
     histogram  x {label, scale: linear|log2, domain}, y {label}, series [{name, color}], bins [{from, to, counts: one a series}]
     stacked    x {label}, series [{name, color}], rows [{name, values: one a series}]
     lines      x and y {label, scale: linear|log|whole, domain}, series, lines: points [x, y] or [x, y, low, high] of each series;
                diagonal, square, dots: true or absent
     intervals  x {label, domain}, rows [{name, color, value, low, high}], zero: true or absent
   every kind   title, summary. `color` null: the next of the page's palette, which follows light and dark.
   pipeline/web/charts.py makes these. A chart is drawn when it has a width, and again when the width changes.
   Texts reach the page as text nodes only: Plot writes them by textContent. */
"use strict";
(() => {
  const PALETTE = 7;
  const color = (series, index) => series.color || `var(--series-${(index % PALETTE) + 1})`;
  /* A label is one line, and so short; what is left out is in its middle, as names often differ at their ends. */
  function short(text, most) {
    const line = text.replace(/\s+/g, " ");
    const half = (most - 1) >> 1;
    return line.length > most ? line.slice(0, most - 1 - half) + "…" + line.slice(line.length - half) : line;
  }
  const number = (value) => (Number.isInteger(value) ? value.toLocaleString("en-US") : String(Number(value.toPrecision(4))));
  const TYPES = { log: { type: "log" }, whole: { tickFormat: ",d" } };

  /* Options of Plot for an axis. Of whole numbers there are no more ticks than numbers, so that none lies between two. */
  function axis(one) {
    const ticks = one.scale === "whole" ? { ticks: Math.min(8, one.domain[1] - one.domain[0]) } : {};
    return { label: one.label, domain: one.domain || undefined, ...TYPES[one.scale], ...ticks };
  }

  /* Part `index` of `count` of a bin: on a scale of logarithms the parts are equal on paper, too. */
  function slice(bin, index, count, isLog) {
    const at = (share) => (isLog ? bin.from * (bin.to / bin.from) ** share : bin.from + (bin.to - bin.from) * share);
    return [at(index / count), at((index + 1) / count)];
  }

  function histogram(chart) {
    const isLog = chart.x.scale === "log2";
    const bars = chart.bins.flatMap((bin) =>
      bin.counts.map((count, index) => {
        const [x1, x2] = slice(bin, index, bin.counts.length, isLog);
        const name = chart.series.length > 1 ? `${chart.series[index].name}: ` : "";
        return { x1, x2, count, fill: color(chart.series[index], index), title: `${number(bin.from)} to ${number(bin.to)}\n${name}${number(count)}` };
      })
    );
    const top = Math.max(1, ...bars.map((bar) => bar.count));
    return {
      x: { label: chart.x.label, domain: chart.x.domain || undefined, type: isLog ? "log" : "linear", base: isLog ? 2 : undefined, ticks: isLog ? 6 : undefined, tickFormat: isLog ? "," : undefined },
      y: { label: chart.y.label, grid: true, ticks: Math.min(6, top), tickFormat: top < 7 ? "d" : "~s", domain: [0, top] },
      marks: [
        Plot.rectY(bars, { x1: "x1", x2: "x2", y: "count", fill: "fill", title: "title", insetLeft: 0.5, insetRight: 0.5, tip: true }),
        Plot.ruleY([0], { stroke: "var(--ink)" }),
      ],
    };
  }

  function stacked(chart) {
    const parts = chart.rows.flatMap((row, place) =>
      row.values.map((value, index) => ({ place, value, fill: color(chart.series[index], index), title: `${row.name}\n${chart.series[index].name}: ${number(value)}` }))
    );
    const longest = Math.min(22, Math.max(...chart.rows.map((row) => row.name.length)));
    return {
      marginLeft: 18 + 7 * longest,
      height: 50 + Math.max(22, Math.min(34, 420 / chart.rows.length)) * chart.rows.length,
      x: { label: chart.x.label, grid: true },
      y: { label: null, domain: chart.rows.map((_, place) => place), tickFormat: (place) => short(chart.rows[place].name, 22), tickSize: 0 },
      marks: [
        Plot.barX(parts, { x: "value", y: "place", fill: "fill", title: "title", tip: true }),
        Plot.ruleX([0], { stroke: "var(--ink)" }),
      ],
    };
  }

  function lines(chart) {
    const points = chart.lines.flatMap((line, index) =>
      line.map(([x, y, low, high]) => ({ x, y, low, high, index, stroke: color(chart.series[index], index), title: `${chart.series[index].name}\n${chart.x.label}: ${number(x)}\n${chart.y.label}: ${number(y)}` }))
    );
    const banded = points.filter((point) => point.low !== undefined);
    const isDashed = (point) => chart.series[point.index].dashed;
    const own = points.filter((point) => chart.series[point.index].color && !isDashed(point)); // such a colour may be that of the paper: it gets an edge
    return {
      x: axis(chart.x),
      y: { ...axis(chart.y), grid: true },
      marks: [
        chart.diagonal ? Plot.line([[0, 0], [1, 1]], { stroke: "var(--quiet)", strokeDasharray: "4 4" }) : null,
        Plot.areaY(banded, { x: "x", y1: "low", y2: "high", z: "index", fill: "stroke", fillOpacity: 0.18 }),
        Plot.line(own, { x: "x", y: "y", z: "index", stroke: "var(--ink)", strokeOpacity: 0.5, strokeWidth: 3.5 }),
        Plot.line(points.filter((point) => !isDashed(point)), { x: "x", y: "y", z: "index", stroke: "stroke", strokeWidth: 2 }),
        Plot.line(points.filter(isDashed), { x: "x", y: "y", z: "index", stroke: "stroke", strokeWidth: 3, strokeDasharray: "2 6", strokeLinecap: "round" }),
        chart.dots ? Plot.dot(points, { x: "x", y: "y", fill: "stroke", stroke: "var(--ink)", strokeOpacity: 0.5, r: 3.5 }) : null,
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: "title" })),
      ],
    };
  }

  function intervals(chart) {
    const rows = chart.rows.map((row, place) => ({ ...row, place, stroke: color(row, 0), title: `${row.name}: ${number(row.value)}` + (row.low === null ? "" : `\nfrom ${number(row.low)} to ${number(row.high)}`) }));
    const longest = Math.min(22, Math.max(...rows.map((row) => row.name.length)));
    return {
      marginLeft: 18 + 7 * longest,
      height: 50 + 26 * rows.length,
      x: { label: chart.x.label, domain: chart.x.domain || undefined, grid: true },
      y: { label: null, domain: rows.map((row) => row.place), type: "band", tickFormat: (place) => short(rows[place].name, 22), tickSize: 0 },
      marks: [
        chart.zero ? Plot.ruleX([0], { stroke: "var(--ink)" }) : null,
        Plot.ruleY(rows.filter((row) => row.low !== null), { x1: "low", x2: "high", y: "place", stroke: "stroke", strokeWidth: 2.5 }),
        Plot.dot(rows, { x: "value", y: "place", fill: "stroke", stroke: "var(--paper)", r: 5, title: "title", tip: true }),
      ],
    };
  }

  const KINDS = { histogram, stacked, lines, intervals };

  function legend(series) {
    const list = document.createElement("ul");
    list.className = "legend";
    series.forEach((one, index) => {
      const swatch = document.createElement("span");
      swatch.className = one.dashed ? "swatch dashed" : "swatch";
      swatch.style.background = one.dashed ? "none" : color(one, index);
      swatch.style.borderColor = one.dashed ? color(one, index) : "";
      const item = document.createElement("li");
      item.append(swatch, one.name);
      list.append(item);
    });
    return list;
  }

  function draw(place, chart, width) {
    const drawn = Plot.plot({
      width,
      height: chart.square ? Math.min(width, 380) : 260,
      marginBottom: 40,
      color: { type: "identity" },
      style: { background: "none", color: "var(--ink)" },
      ...KINDS[chart.kind](chart),
    });
    drawn.querySelectorAll("[aria-label]").forEach((mark) => mark.removeAttribute("aria-label")); // a picture has one name
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", `${chart.title}. ${chart.summary}`);
    place.replaceChildren(...(chart.series && chart.series.length > 1 ? [legend(chart.series)] : []), drawn);
  }

  /* Draws a chart into an element, now and whenever its width changes. */
  function show(place, chart) {
    let drawn = 0;
    new ResizeObserver(() => {
      const width = Math.min(place.clientWidth, chart.square ? 420 : 1200);
      if (width && width !== drawn) {
        drawn = width;
        draw(place, chart, width);
      }
    }).observe(place);
  }

  const island = document.getElementById("charts");
  const charts = island ? JSON.parse(island.textContent) : {};
  for (const figure of document.querySelectorAll("figure[data-chart]")) show(figure.querySelector(".plot"), charts[figure.dataset.chart]);
})();
