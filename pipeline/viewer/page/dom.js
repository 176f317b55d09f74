/* The document: elements, icons, words for numbers, and what is told to screen readers. */
(function () {
  "use strict";

  const app = (window.gigaseg = {});
  const SVG = "http://www.w3.org/2000/svg";

  /* Returns an element. Keys of `properties`: `class`, `text`, `on` (listeners by event), everything else is an attribute. */
  app.el = function (tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key === "class") element.className = value;
      else if (key === "text") element.textContent = value;
      else if (key === "on") Object.entries(value).forEach(([event, act]) => element.addEventListener(event, act));
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  app.byId = (id) => document.getElementById(id);

  /* Returns an icon of index.html. It is decoration: the button around it has the name. */
  app.icon = function (name) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(SVG, "use");
    use.setAttribute("href", `#icon-${name}`);
    svg.append(use);
    return svg;
  };

  /* Returns a text of a user. It is kept apart from the text around it, which may run in the other direction. */
  app.name = (text, className) => app.el("bdi", { class: `name ${className || ""}`.trim(), text, title: text });

  /* Returns a small field of a colour. */
  app.swatch = function (color) {
    const swatch = app.el("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = color;
    return swatch;
  };

  /* Tells a screen reader what has changed. */
  app.say = function (text) {
    app.byId("said").textContent = text;
  };

  /* Shows a message over the picture, or takes it away. */
  app.warn = function (text) {
    const box = app.byId("warning");
    box.textContent = text || "";
    box.hidden = !text;
  };

  app.number = (value, digits) =>
    value === null || value === undefined
      ? "–"
      : typeof value === "number"
        ? value.toLocaleString("en", { maximumFractionDigits: digits ?? (Number.isInteger(value) ? 0 : Math.abs(value) < 10 ? 3 : 1) })
        : String(value);

  /* Returns a score between 0 and 1. */
  app.score = (value) => (typeof value === "number" ? value.toFixed(3) : "–");

  app.percent = function (share) {
    if (share === null || share === undefined) return "–";
    if (share > 0 && share < 0.001) return "under 0.1 %";
    if (share < 1 && share > 0.999) return "over 99.9 %";
    return `${share === 0 || share === 1 ? 100 * share : (100 * share).toFixed(1)} %`;
  };

  /* Calls `act` once, `wait` milliseconds after the last call. */
  app.later = function (act, wait) {
    let timer = 0;
    return (...values) => {
      clearTimeout(timer);
      timer = setTimeout(() => act(...values), wait);
    };
  };
})();
