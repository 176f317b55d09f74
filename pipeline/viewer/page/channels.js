/* Channels of microscopy: which are shown, in which colour, between which values. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const FIRST = 4; // channels that the server draws unless it is told otherwise
  const change = app.later(() => app.emit("channels"), 150);

  const initial = (channels) => channels.map(({ color, low, high }, place) => ({ on: place < FIRST, color, low, high }));

  /* Changes one channel; from the first change on, the address of a tile names all of them. */
  function set(place, values) {
    app.view.channels = app.view.channels || initial(app.view.images.a.channels);
    const now = Object.assign(app.view.channels[place], values);
    // Black stays below white: the end that was moved pushes the other one.
    if (now.low >= now.high) now["low" in values ? "high" : "low"] = "low" in values ? now.low + 1 : now.high - 1;
    change();
  }

  /* Writes the numbers of a channel into its fields. */
  function show(place) {
    for (const which of ["low", "high"]) {
      for (const field of document.querySelectorAll(`[data-channel="${place}"][data-end="${which}"]`)) field.value = app.view.channels[place][which];
    }
  }

  /* A slider and a field of numbers for one end of the range. */
  function end(place, channel, which, value) {
    const title = { low: "Black at", high: "White at" }[which];
    const common = { step: "any", value: Number(value.toPrecision(6)), "data-channel": place, "data-end": which };
    const slider = app.el("input", { type: "range", min: channel.least, max: channel.most, ...common, "aria-label": `${title}: ${channel.name}` });
    const field = app.el("input", { ...common, type: "number", id: `channel-${place}-${which}` });
    const digits = channel.most - channel.least > 50 ? 0 : 3;
    slider.addEventListener("input", () => {
      set(place, { [which]: Number(Number(slider.value).toFixed(digits)) });
      show(place);
    });
    field.addEventListener("change", () => {
      if (field.value !== "") set(place, { [which]: Number(field.value) });
      if (app.view.channels) show(place);
    });
    return app.el("div", { class: "end" }, app.el("label", { for: field.id, text: title }), slider, field);
  }

  function row(channel, place) {
    const now = (app.view.channels || initial(app.view.images.a.channels))[place];
    const box = app.el("input", { type: "checkbox", checked: now.on, id: `channel-${place}` });
    box.addEventListener("change", () => set(place, { on: box.checked }));
    const color = app.el("input", { type: "color", value: now.color, "aria-label": `Colour of ${channel.name}` });
    color.addEventListener("input", () => set(place, { color: color.value }));
    const head = app.el("div", { class: "channel-head" }, box, app.el("label", { for: box.id }, app.name(channel.name)), color);
    return app.el("li", { class: "channel" }, head, end(place, channel, "low", now.low), end(place, channel, "high", now.high));
  }

  function draw() {
    const image = app.view.images.a;
    const channels = image && !image.is_color && app.source.canAsk ? image.channels : [];
    app.byId("channels").hidden = !channels.length;
    app.byId("channels-list").replaceChildren(...channels.map(row));
  }

  app.channels = {
    start() {
      app.byId("channels-reset").addEventListener("click", () => {
        app.view.channels = null;
        draw();
        app.emit("channels");
        app.say("Channels are as they were at first.");
      });
    },
  };

  app.on("image", draw);
})();
