/* The stage: one picture, or two that move together, with the buttons over it. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const panes = {};
  let marks = {};
  let leader = "a"; // the pane that a person moves; the other one follows
  let isWhole = true; // the whole image is shown, and is to stay so when the window changes

  const stage = (app.stage = { panes });

  Object.defineProperty(stage, "lead", { get: () => (app.view.compare === "b" ? panes.b : app.view.compare === "a" ? panes.a : panes[leader]) || panes.a });

  function follow(run) {
    const [from, to] = [panes[run], panes[run === "a" ? "b" : "a"]];
    if (run !== leader || !to || !from.image || !to.image) return;
    to.viewer.viewport.zoomTo(from.viewer.viewport.getZoom(true), null, true);
    to.viewer.viewport.panTo(from.viewer.viewport.getCenter(true), true);
  }

  function addPane(run) {
    const pane = (panes[run] = new app.Pane(app.byId(`picture-${run}`), run, run === "a"));
    const lead = () => (leader = run);
    const leave = () => {
      lead();
      isWhole = false;
    };
    pane.viewer.addHandler("canvas-press", lead);
    for (const event of ["drag", "scroll", "pinch", "double-click", "key"]) pane.viewer.addHandler(`canvas-${event}`, leave);
    for (const event of ["drag", "scroll", "click"]) pane.viewer.addHandler(`navigator-${event}`, leave);
    pane.viewer.addHandler("viewport-change", () => {
      follow(run);
      if (pane === stage.lead) app.emit("moved");
    });
    pane.viewer.addHandler("resize", () => requestAnimationFrame(settle));
    pane.viewer.addHandler("canvas-click", (event) => {
      if (!event.quick || !pane.image) return;
      const point = pane.viewer.viewport.pointFromPixel(event.position);
      app.emit("asked", [point.y * pane.image.shape[1], point.x * pane.image.shape[1]]);
    });
    pane.viewer.addHandler("tile-load-failed", (event) => event.message !== "Image load aborted." && app.emit("tile-failed"));
    return pane;
  }

  /* The pane of the other run is made when it is first wanted: it doubles the work. */
  function ensurePanes() {
    for (const run of Object.keys(app.view.runs)) {
      if (panes[run] || (run === "b" && app.view.compare === "a")) continue;
      addPane(run);
      if (app.view.images[run]) panes[run].show(app.view.images[run]);
      Object.entries(marks).forEach(([kind, box]) => panes[run].mark(box, kind));
    }
    follow(leader);
  }

  /* Puts the pictures right after their size has changed. */
  function settle() {
    if (isWhole) stage.goHome(true);
    else follow(leader);
  }

  /* Leads from the pane that can be seen, so that both end at one place. */
  function move(act, toWhole) {
    leader = stage.lead.run;
    isWhole = Boolean(toWhole);
    if (stage.lead.image) act(stage.lead);
  }

  stage.goTo = (box, margin, immediately) => move((pane) => pane.goTo(box, margin, immediately));
  stage.goHome = (immediately) => move((pane) => pane.goHome(immediately), true);
  stage.lookAt = (y, x, scale, immediately) => move((pane) => pane.lookAt(y, x, scale, immediately));
  stage.zoomBy = (factor) => move((pane) => pane.viewer.viewport.zoomBy(factor).applyConstraints());

  /* Frames a box in every picture: kind is "block", "object" or "point". */
  stage.mark = function (box, kind) {
    marks[kind] = box;
    Object.values(panes).forEach((pane) => pane.mark(box, kind));
  };

  stage.unmark = function (...kinds) {
    for (const kind of kinds) {
      delete marks[kind];
      Object.values(panes).forEach((pane) => pane.unmark(kind));
    }
  };

  /* Shows one run, the other, or both beside each other. */
  stage.compare = function (mode) {
    if (!app.view.runs.b) return;
    leader = stage.lead.run;
    app.view.compare = mode;
    ensurePanes();
    document.documentElement.dataset.compare = mode;
    document.querySelectorAll("#compare button").forEach((button) => button.setAttribute("aria-pressed", String(button.value === mode)));
    tell();
    requestAnimationFrame(settle);
    app.emit("compared");
  };

  /* Says what a pane shows when it is not plain. */
  function tell() {
    for (const run of Object.keys(app.view.runs)) {
      const note = app.byId(`note-${run}`);
      const missing = app.view.name && app.view.images.a && !app.view.images[run];
      note.textContent = missing ? "This run has no such image." : "";
      note.hidden = !missing;
    }
  }

  const draw = () => Object.values(panes).forEach((pane) => pane.draw());

  app.on("layers classes channels plane chosen", draw);
  app.on("version", () => Object.values(panes).forEach((pane) => pane.refresh()));

  app.on("image", (then) => {
    marks = {};
    ensurePanes();
    for (const [run, pane] of Object.entries(panes)) {
      pane.show(app.view.images[run]);
      pane.goHome(true);
    }
    isWhole = true;
    tell();
    if (then) then();
  });

  app.on("settled", () => {
    app.byId("stage").setAttribute("aria-busy", String(Object.values(panes).some((pane) => pane.isBusy)));
  });

  stage.start = function () {
    document.documentElement.dataset.compare = "a";
    app.byId("compare").hidden = !app.view.runs.b;
    app.byId("compare").addEventListener("click", (event) => event.target.closest("button") && stage.compare(event.target.closest("button").value));
    const acts = {
      "zoom-in": () => stage.zoomBy(1.6),
      "zoom-out": () => stage.zoomBy(1 / 1.6),
      "zoom-all": () => stage.goHome(),
      "zoom-full": () => move((pane) => pane.lookAt(...pane.middle, 1)),
      "full-screen": () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
    };
    for (const [id, act] of Object.entries(acts)) app.byId(id).addEventListener("click", act);
    ensurePanes();
  };
})();
