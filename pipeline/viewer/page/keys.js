/* Keys of the page, and the help that lists them. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const OFF = "gigaseg-keys-off";
  const isTyping = (target) => target.closest("input:not([type=checkbox]):not([type=range]), select, textarea, [contenteditable]");

  const ACTS = [
    ["n", "next image", () => app.images.step(1)],
    ["p", "previous image", () => app.images.step(-1)],
    ["w", "next worst place", () => app.worst.step(1)],
    ["W", "previous worst place", () => app.worst.step(-1)],
    ...app.LAYERS.map((layer) => [layer.key, `layer ${layer.title} on or off`, () => app.toggleLayer(layer.id)]),
    ["b", "this run or the other one", () => app.stage.compare(app.view.compare === "b" ? "a" : "b")],
    ["s", "both runs side by side, or one", () => app.stage.compare(app.view.compare === "both" ? "a" : "both")],
    [",", "previous plane of a stack", () => app.stepPlane(-1)],
    [".", "next plane of a stack", () => app.stepPlane(1)],
    ["+", "zoom in", () => app.stage.zoomBy(1.6)],
    ["-", "zoom out", () => app.stage.zoomBy(1 / 1.6)],
    ["0", "whole image", () => app.stage.goHome()],
    ["/", "search for an image", () => app.byId("image-name").click()],
    ["h", "show or hide the panel", () => app.panel.toggle()],
    ["?", "this help", () => help()],
  ];

  const help = () => app.byId("help").open || app.byId("help").showModal();

  function areOff() {
    try {
      return localStorage.getItem(OFF) === "1";
    } catch {
      return false; // a page from disk may have no storage
    }
  }

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || app.byId("help").open) return;
    if (event.key === "Escape") {
      app.here.close();
      app.stage.unmark("block", "object");
      app.choose(null);
      return;
    }
    if (isTyping(event.target) || app.byId("keys-off").checked) return;
    const inPicture = event.target.closest(".picture");
    if (event.key === "Enter" && inPicture) return app.here.ask(app.stage.lead.middle);
    if (inPicture && "+-=_0".includes(event.key)) return; // the picture has these keys itself
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
    const act = ACTS.find(([key]) => key === event.key);
    if (!act && !digit) return;
    event.preventDefault();
    if (digit) app.legend.toggleAt(digit - 1);
    else act[2]();
  }

  function list() {
    const other = [
      ["1 … 9", "class on or off, in the order of the legend"],
      ["arrows", "move the picture, when it has the focus"],
      ["Enter", "what lies in the middle of the picture, when it has the focus"],
      ["Esc", "take frames and answers away"],
    ];
    const has = ([key]) => !(["b", "s", "x"].includes(key) && !app.view.runs.b) && !(key === "Enter" && !app.source.canAsk);
    const rows = [...ACTS, ...other].filter(has).map(([key, text]) => [app.el("dt", {}, app.el("kbd", { text: key })), app.el("dd", { text })]);
    app.byId("keys-list").replaceChildren(...rows.map((pair) => app.el("div", {}, ...pair)));
  }

  app.keys = {
    start() {
      list();
      app.byId("help-ask").hidden = !app.source.canAsk;
      const off = app.byId("keys-off");
      off.checked = areOff();
      off.addEventListener("change", () => {
        try {
          localStorage.setItem(OFF, off.checked ? "1" : "0");
        } catch {
          // Then it holds for this visit alone.
        }
      });
      document.addEventListener("keydown", press);
      // OpenSeadragon gives the picture the focus at each click, and browsers take that for a focus by key.
      document.addEventListener("pointerdown", () => (document.documentElement.dataset.input = "pointer"));
      document.addEventListener("keydown", () => (document.documentElement.dataset.input = "keys"));
      app.byId("help-open").addEventListener("click", help);
      app.byId("help-close").addEventListener("click", () => app.byId("help").close());
    },
  };
})();
