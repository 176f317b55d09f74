/* The layers of the picture: a switch and an opacity each; for stacks the plane that is shown. */
(function () {
  "use strict";

  const app = window.gigaseg;

  function key(layer) {
    const keys = (app.view.runs.a.keys || {})[layer.id] || (app.view.images.a.keys || {})[layer.id] || [];
    if (!keys.length) return null;
    return app.el("ul", { class: "key" }, ...keys.map((one) => app.el("li", {}, app.swatch(one.color), app.el("span", { text: one.name }))));
  }

  function row(layer) {
    const state = app.view.layers[layer.id];
    const box = app.el("input", { type: "checkbox", id: `layer-${layer.id}`, checked: state.on, "aria-describedby": `layer-${layer.id}-hint` });
    box.addEventListener("change", () => app.setLayer(layer.id, { on: box.checked }));
    const value = app.el("output", { class: "value", text: `${Math.round(100 * state.opacity)} %` });
    const slider = app.el("input", { type: "range", min: 0, max: 100, step: 5, value: Math.round(100 * state.opacity), "aria-label": `Opacity of ${layer.title}` });
    slider.addEventListener("input", () => {
      // Whoever moves the slider wants to see the layer.
      box.checked = true;
      value.textContent = `${slider.value} %`;
      app.setLayer(layer.id, { on: true, opacity: slider.value / 100 });
    });
    const label = app.el("label", { for: box.id }, layer.title);
    const hint = app.el("span", { class: "hint", id: `layer-${layer.id}-hint`, text: layer.hint });
    return app.el("li", { class: "layer", "data-layer": layer.id }, box, label, slider, value, hint, key(layer));
  }

  function draw() {
    app.byId("layers-list").replaceChildren(...app.LAYERS.filter((layer) => app.hasLayer(layer.id)).map(row));
    drawNote();
    drawPlanes();
  }

  function drawNote() {
    const image = app.view.images.a;
    const state = (app.view.runs.a.images.find((one) => one.name === app.view.name) || {}).state;
    const note = { waiting: "This image has not been segmented yet.", running: "This image is being segmented; what is done is shown.", failed: "Blocks of this image failed; they have no mask." }[state];
    const untrue = image && !image.layers.includes("truth") ? "There is no truth for this image, so errors are not shown." : "";
    const notes = [note, ...((image && image.notes) || [])].filter(Boolean);
    app.byId("layers-note").textContent = (notes.length ? notes : [untrue]).join(" ");
  }

  /* Planes are counted with the last axis fastest, as the page's address and the server count them. */
  function drawPlanes() {
    const image = app.view.images.a;
    const axes = Object.entries((image && image.planes) || {}).filter(([, length]) => length > 1);
    app.byId("planes").hidden = !axes.length;
    const names = { t: "Time", z: "Depth" };
    let step = axes.reduce((all, [, length]) => all * length, 1);
    const sliders = axes.map(([axis, length]) => {
      step /= length;
      const size = step;
      const at = Math.floor(app.view.plane / size) % length;
      const value = app.el("output", { class: "value", text: `${at + 1} of ${length}` });
      const title = names[axis] ? `${names[axis]} (${axis})` : axis;
      const slider = app.el("input", { type: "range", id: `plane-${axis}`, min: 1, max: length, value: at + 1, "data-size": size });
      const change = app.later((by) => app.setPlane(app.view.plane + by), 120);
      slider.addEventListener("input", () => {
        value.textContent = `${slider.value} of ${length}`;
        change((slider.value - 1) * size - (Math.floor(app.view.plane / size) % length) * size);
      });
      return app.el("div", { class: "plane" }, app.el("label", { for: slider.id, text: title }), slider, value);
    });
    app.byId("planes-list").replaceChildren(...sliders);
  }

  /* Puts the sliders where a key or a worst place has led. */
  function showPlane() {
    document.querySelectorAll("#planes-list input").forEach((slider) => {
      slider.value = (Math.floor(app.view.plane / slider.dataset.size) % slider.max) + 1;
      slider.nextElementSibling.textContent = `${slider.value} of ${slider.max}`;
    });
  }

  app.stepPlane = function (by) {
    const image = app.view.images.a;
    if (!image || image.num_planes < 2) return;
    app.setPlane(Math.min(image.num_planes - 1, Math.max(0, app.view.plane + by)));
    app.say(`Plane ${app.view.plane + 1} of ${image.num_planes}`);
  };

  app.on("image", draw);
  app.on("version", () => {
    // Only what is new makes a new list, so that nobody loses the slider in hand.
    const shown = [...document.querySelectorAll("#layers-list [data-layer]")].map((one) => one.dataset.layer);
    if (String(shown) !== String(app.LAYERS.filter((layer) => app.hasLayer(layer.id)).map((layer) => layer.id))) draw();
    else drawNote();
  });
  app.on("plane", showPlane);
  app.on("layers", () => {
    // A key may have changed what a switch shows.
    for (const layer of app.LAYERS) {
      const box = app.byId(`layer-${layer.id}`);
      if (box) box.checked = app.view.layers[layer.id].on;
    }
  });
})();
