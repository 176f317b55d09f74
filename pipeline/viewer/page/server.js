/* Where the page gets its data: the server of `gigaseg view`. */
(function () {
  "use strict";

  const app = window.gigaseg;

  async function get(path, values) {
    const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
    let answer;
    try {
      answer = await fetch(`api/${path}?${query}`, { credentials: "same-origin" });
    } catch {
      app.emit("lost");
      throw new Error("the viewer on this computer does not answer");
    }
    const data = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(data.error || `the server answers ${answer.status}`);
    return data;
  }

  const hex = (color) => color.replace("#", "");

  /* Returns the channels as a tile's address names them; "" when all of them are off. */
  const channelText = (channels) =>
    channels
      .map((one, place) => (one.on ? `${place}:${hex(one.color)}:${one.low}:${one.high}` : null))
      .filter(Boolean)
      .join(";");

  app.source = {
    canAsk: true, // clicks in the picture are answered
    canFollow: true, // a run that goes on is followed
    run: (run) => get("run", { run }),
    image: (run, name) => get("image", { run, name }),
    worst: (by, name) => get("worst", { run: "a", by, name, count: 50 }),
    objects: (name, options) => get("objects", { run: "a", name, ...options }),
    object: (name, id) => get("object", { run: "a", name, id }),
    at: (run, name, plane, y, x) => get("at", { run, name, plane, y, x }),
    state: (run, since) => get("state", { run, since }),

    /* Returns the pictures that make up a layer: an address for each tile, and an id that changes with what is shown. */
    parts(run, image, layer, view) {
      const query = new URLSearchParams({ name: image.name, plane: view.plane, v: image.version });
      if (layer.byClass && view.off.size) {
        const shown = view.runs[run].classes.filter((one) => !view.off.has((app.ownClass(run, one) || one).id));
        if (!shown.length) return [];
        query.set("classes", shown.map((one) => one.id).join(","));
      }
      if (layer.id === "image" && view.channels) {
        const text = channelText(view.channels);
        if (!text) return [];
        query.set("channels", text);
      }
      if (layer.id === "outlines" && view.chosen !== null) query.set("object", view.chosen);
      return [{ id: `${layer.id}?${query}`, url: (level, x, y) => `tile/${run}/${layer.id}/${level}/${x}_${y}.png?${query}` }];
    },
  };
})();
