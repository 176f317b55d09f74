/* What is shown: the image, its plane, layers, classes and channels. Parts of the page listen for what changes. */
(function () {
  "use strict";

  const app = window.gigaseg;

  /* From bottom to top. `byClass`: the layer follows the classes that are chosen. */
  app.LAYERS = [
    { id: "image", title: "Image", hint: "what was segmented", key: "i", on: true, opacity: 1 },
    { id: "mask", title: "Mask", hint: "what the model predicts", key: "m", on: true, opacity: 0.5, byClass: true },
    { id: "truth", title: "Truth", hint: "what people drew", key: "t", on: false, opacity: 0.5, byClass: true },
    { id: "error", title: "Errors", hint: "where mask and truth differ", key: "e", on: false, opacity: 0.8, byClass: true },
    { id: "overlap", title: "Disagreement", hint: "where neighbouring tiles predict different classes", key: "d", on: false, opacity: 0.8 },
    { id: "difference", title: "Difference", hint: "where the two runs differ", key: "x", on: false, opacity: 0.8 },
    { id: "outlines", title: "Outlines", hint: "borders of single objects", key: "o", on: false, opacity: 1, byClass: true },
  ];

  const listeners = {};

  const view = (app.view = {
    runs: {}, // "a", "b": answers of source.run
    images: {}, // "a", "b": answers of source.image for the image that is shown; null: the run does not have it
    name: null,
    plane: 0,
    layers: Object.fromEntries(app.LAYERS.map((one) => [one.id, { on: one.on, opacity: one.opacity }])),
    off: new Set(), // ids of classes that are hidden
    chosen: null, // id of the object that is set off among the outlines
    channels: null, // null: as the server chooses; else a list of {on, color, low, high}
    compare: "a", // "a", "b" or "both"
  });

  /* Hides what would only darken the image: a first class that is nearly black, which as a rule is the background. */
  app.hideBackground = function () {
    const { classes, can_switch_classes: canSwitch } = view.runs.a;
    const isDark = (color) => [1, 3, 5].every((at) => parseInt(color.slice(at, at + 2), 16) < 64);
    if (classes.length > 1 && isDark(classes[0].color) && canSwitch !== false) view.off.add(classes[0].id);
  };

  app.on = (topics, act) => topics.split(" ").forEach((topic) => (listeners[topic] = listeners[topic] || []).push(act));
  app.emit = (topic, value) => (listeners[topic] || []).forEach((act) => act(value));

  app.hasLayer = (id) => ["a", "b"].some((run) => view.images[run] && view.images[run].layers.includes(id));

  app.setLayer = function (id, change) {
    Object.assign(view.layers[id], change);
    app.emit("layers");
  };

  app.toggleLayer = function (id) {
    const layer = app.LAYERS.find((one) => one.id === id);
    if (!app.hasLayer(id)) return app.say(`This image has no layer ${layer.title}.`);
    app.setLayer(id, { on: !view.layers[id].on });
    app.say(`${layer.title} ${view.layers[id].on ? "on" : "off"}`);
  };

  app.setClasses = function (off) {
    view.off = new Set(off);
    app.emit("classes");
  };

  app.setPlane = function (plane) {
    if (plane === view.plane) return;
    view.plane = plane;
    app.emit("plane");
  };

  app.choose = function (id) {
    view.chosen = id;
    app.emit("chosen");
  };

  /* Returns the class of run a that a class of a run is: the one of its name, or of its id where the runs name their classes otherwise. */
  app.ownClass = function (run, one) {
    const [own, others] = [view.runs.a.classes, view.runs[run].classes];
    const byName = own.length === others.length && own.every(({ name }) => others.some((other) => other.name === name));
    return own.find((other) => (byName ? other.name === one.name : other.id === one.id));
  };

  app.classOf = (id) => (view.runs.a.classes || []).find((one) => one.id === id);

  /* Shows another image. An image that cannot be opened is told, and the list stays usable. */
  app.open = async function (name, then) {
    view.name = name;
    view.channels = null;
    view.chosen = null;
    app.emit("opening");
    const runs = Object.keys(view.runs);
    const has = (run) => run === "a" || view.runs[run].images.some((one) => one.name === name);
    const answers = await Promise.allSettled(runs.map((run) => (has(run) ? app.source.image(run, name) : null)));
    if (view.name !== name) return; // another one was chosen meanwhile
    const found = answers[0].status === "fulfilled" ? answers[0].value : null;
    view.plane = found ? Math.floor(found.num_planes / 2) : 0; // the middle of a stack is rarely empty
    view.images = Object.fromEntries(runs.map((run, place) => [run, answers[place].status === "fulfilled" ? answers[place].value : null]));
    app.warn(view.images.a ? "" : `This image cannot be shown: ${answers[0].reason.message}`);
    app.emit("image", then);
  };
})();
