/* The list of images: worst first, with a search, and the way to the next one. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const MOST = 300; // rows in the list at once: a run may have 10,000 images
  const STATES = { waiting: "waiting", running: "running", failed: "failed" };

  /* Images with a score come first, the worst one at the top; those without keep their order. */
  function ordered() {
    const last = (one) => (typeof one.mean_iou === "number" ? one.mean_iou : Infinity);
    return app.view.runs.a.images
      .map((one, place) => [one, place])
      .sort(([a, i], [b, j]) => (last(a) === last(b) ? i - j : last(a) - last(b)))
      .map(([one]) => one);
  }

  function found() {
    const words = app.byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return ordered().filter((one) => words.every((word) => one.name.toLowerCase().includes(word)));
  }

  function row(one) {
    const score = typeof one.mean_iou === "number" ? `IoU ${app.score(one.mean_iou)}` : STATES[one.state] || "";
    const button = app.el("button", { type: "button", class: "row", on: { click: () => app.open(one.name) } }, app.name(one.name), app.el("span", { class: "value", text: score }));
    if (one.name === app.view.name) button.setAttribute("aria-current", "true");
    if (one.state === "failed") button.classList.add("failed");
    return app.el("li", {}, button);
  }

  function draw() {
    const all = found();
    app.byId("images-list").replaceChildren(...all.slice(0, MOST).map(row));
    const more = all.length - MOST;
    app.byId("images-note").textContent = !all.length
      ? "No image has this in its name."
      : more > 0
        ? `${app.number(more)} more: search to find them.`
        : `${app.number(all.length)} ${all.length === 1 ? "image" : "images"}${all.some((one) => typeof one.mean_iou === "number") ? ", lowest mean IoU first" : ""}`;
  }

  function drawName() {
    const all = ordered();
    const place = all.findIndex((one) => one.name === app.view.name);
    const one = all[place];
    app.byId("image-name").replaceChildren(app.name(app.view.name || ""));
    const score = one && typeof one.mean_iou === "number" ? `, mean IoU ${app.score(one.mean_iou)}` : one && STATES[one.state] ? `, ${STATES[one.state]}` : "";
    app.byId("image-place").textContent = place < 0 ? "" : `${app.number(place + 1)} of ${app.number(all.length)}${score}`;
    document.title = `${app.view.name} – ${app.view.runs.a.title} – gigaseg`;
  }

  app.images = {
    /* Goes to the image that many places further down the list. */
    step(by) {
      const all = ordered();
      const place = all.findIndex((one) => one.name === app.view.name);
      const next = all[(place + by + all.length) % all.length];
      if (next && next.name !== app.view.name) app.open(next.name).then(() => app.say(`Image ${next.name}`));
    },
    first: () => (ordered()[0] || {}).name,
    start() {
      app.byId("search").addEventListener("input", app.later(draw, 80));
      app.byId("previous").addEventListener("click", () => app.images.step(-1));
      app.byId("next").addEventListener("click", () => app.images.step(1));
      app.byId("image-name").addEventListener("click", () => {
        app.panel.show("images");
        app.byId("search").focus();
      });
      draw();
    },
  };

  app.on("opening run", () => {
    draw();
    drawName();
  });
})();
