/* A run that goes on: how far it is, and which images have changed. Their tiles are asked for again.

   A run that has ended is asked as well: the server makes coarse pictures of files that have none, and tells when they are ready. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const EVERY = 2000; // milliseconds
  const WORDS = { running: "running", done: "done", partial: "done but for failed blocks", failed: "failed", interrupted: "interrupted" };
  let since = null;
  let isLost = false;

  function drawState(state) {
    const isFinishing = state.state === "running" && state.blocks_total && state.blocks_done === state.blocks_total;
    const share = isFinishing ? ", finishing" : state.blocks_total ? `, ${app.number(state.blocks_done)} of ${app.number(state.blocks_total)} blocks` : "";
    const text = `${WORDS[state.state] || state.state}${state.state === "done" ? "" : share}`;
    const badge = app.byId("state");
    badge.dataset.state = state.state;
    if (badge.textContent !== text) badge.textContent = text;
    app.byId("drawing").hidden = !state.drawing;
  }

  async function refresh(changed) {
    app.view.runs.a = await app.source.run("a");
    if (changed.includes(app.view.name)) {
      const image = await app.source.image("a", app.view.name);
      if (image.name === app.view.name && app.view.images.a) {
        Object.assign(app.view.images.a, image);
        app.emit("version");
      }
    }
    app.emit("run");
  }

  async function poll() {
    if (document.hidden) return void setTimeout(poll, EVERY);
    try {
      const state = await app.source.state("a", since);
      if (isLost) app.warn("");
      isLost = false;
      drawState(state);
      const changed = Object.keys(state.images);
      const isFirst = since === null;
      since = Math.max(since ?? 0, ...Object.values(state.images));
      if (!isFirst && changed.length) await refresh(changed);
    } catch {
      // Told by the event "lost"; asked again, since a laptop that wakes up may answer soon.
    }
    setTimeout(poll, EVERY);
  }

  app.live = {
    start() {
      drawState({ state: app.view.runs.a.state });
      if (app.source.canFollow) poll();
    },
  };

  app.on("lost", () => {
    if (!isLost && app.view.runs.a) app.warn("The viewer on this computer does not answer any more. Start it again with: gigaseg view");
    isLost = true;
  });

  // A tile that does not come may mean that the server is gone, which asking it once tells; else its file cannot be read.
  app.on(
    "tile-failed",
    app.later(async () => {
      if (!app.source.canFollow) return;
      try {
        await app.source.state("a", since);
        app.warn("A part of the picture cannot be drawn. The terminal of gigaseg view says why.");
      } catch {
        // Told by the event "lost".
      }
    }, 500),
  );
})();
