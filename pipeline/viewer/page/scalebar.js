/* The scale bar: a round length in a physical unit, or in pixels where the size of a pixel is unknown. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const WIDEST = 140; // screen pixels
  // Units by what pixel sizes are given in, with their length in it, from short to long.
  const UNITS = {
    micrometer: [["nm", 0.001], ["µm", 1], ["mm", 1000], ["m", 1e6]],
    meter: [["cm", 0.01], ["m", 1], ["km", 1000]],
    pixel: [["px", 1]],
  };

  /* Returns the longest of 1, 2, 5, 10, ... that is not above `length`. */
  function round(length) {
    const power = 10 ** Math.floor(Math.log10(length));
    return [5, 2, 1].map((digit) => digit * power).find((one) => one <= length * (1 + 1e-9)) || power;
  }

  function describe(length, unit) {
    const units = UNITS[unit];
    const [name, size] = [...units].reverse().find(([, one]) => length >= one) || units[0];
    return `${app.number(length / size, 6)} ${name}`;
  }

  function draw() {
    const pane = app.stage.lead;
    const bar = app.byId("scalebar");
    bar.hidden = !pane || !pane.image;
    if (bar.hidden) return;
    const { pixel_size: size, unit } = pane.image;
    const known = size && UNITS[unit];
    const perPixel = known ? size[1] : 1;
    const length = round((WIDEST / pane.scale) * perPixel);
    const text = describe(length, known ? unit : "pixel");
    app.byId("scalebar-line").style.width = `${(length / perPixel) * pane.scale}px`;
    if (app.byId("scalebar-text").textContent !== text) app.byId("scalebar-text").textContent = text;
  }

  app.scale = { round, describe };
  app.on("moved image compared", draw);
})();
