/* The address of a view: image, place, layers and classes stand behind the # of the page's address, so that it can be sent and kept. */
(function () {
  "use strict";

  const app = window.gigaseg;
  let written = "";

  const number = (text) => (text === null || text === "" || !Number.isFinite(Number(text)) ? null : Number(text));

  function write() {
    const pane = app.stage.lead;
    const { view } = app;
    if (!pane || !pane.image) return;
    const [y, x] = pane.middle;
    const layers = app.LAYERS.filter((one) => view.layers[one.id].on).map((one) => `${one.id}.${Math.round(100 * view.layers[one.id].opacity)}`);
    const values = new URLSearchParams({ image: view.name, x: x.toFixed(1), y: y.toFixed(1), zoom: Number(pane.scale.toPrecision(4)), layers: layers.join("-") });
    if (view.images.a.num_planes > 1) values.set("plane", view.plane);
    values.set("off", [...view.off].join("."));
    if (view.compare !== "a") values.set("compare", view.compare);
    written = `#${values}`;
    history.replaceState(null, "", written);
  }

  /* Returns what an address says; what it says wrongly is left out. */
  function parse(hash) {
    const values = new URLSearchParams(hash.replace(/^#/, ""));
    return {
      image: values.get("image"),
      place: ["y", "x", "zoom"].map((key) => number(values.get(key))),
      plane: number(values.get("plane")),
      layers: values.has("layers") ? new Map(values.get("layers").split("-").map((one) => one.split("."))) : null,
      off: values.has("off") ? values.get("off").split(".").map(number).filter((one) => one !== null) : null,
      compare: ["a", "b", "both"].includes(values.get("compare")) ? values.get("compare") : "a",
    };
  }

  async function read() {
    const wanted = parse(location.hash);
    const has = app.view.runs.a.images.some((one) => one.name === wanted.image);
    if (wanted.layers) {
      for (const [id, layer] of Object.entries(app.view.layers)) {
        const opacity = number(wanted.layers.get(id) ?? null);
        Object.assign(layer, { on: wanted.layers.has(id), opacity: opacity === null ? layer.opacity : Math.min(100, Math.max(0, opacity)) / 100 });
      }
    }
    if (wanted.off) app.view.off = new Set(wanted.off);
    if (wanted.compare !== app.view.compare) app.stage.compare(wanted.compare);
    await app.open(has ? wanted.image : app.images.first(), () => {
      if (!has) return;
      if (wanted.plane !== null && app.view.images.a) app.setPlane(Math.min(app.view.images.a.num_planes - 1, Math.max(0, wanted.plane)));
      if (wanted.place.every((one) => one !== null) && wanted.place[2] > 0) app.stage.lookAt(...wanted.place, true);
    });
  }

  app.link = {
    read,
    start() {
      const save = app.later(write, 300);
      app.on("moved layers classes plane compared image", save);
      addEventListener("hashchange", () => location.hash !== written && read());
    },
  };
})();
