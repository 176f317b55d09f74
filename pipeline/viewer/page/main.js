/* The start of the page. */
(function () {
  "use strict";

  const app = window.gigaseg;

  async function start() {
    const run = await app.source.run("a");
    app.view.runs.a = run;
    if (run.other) app.view.runs.b = await app.source.run("b");
    app.byId("run-title").replaceChildren(app.name(run.title));
    app.byId("run-title").title = run.output;
    app.hideBackground();
    for (const [key, one] of Object.entries(app.view.runs)) app.byId(`tag-${key}`).append(": ", app.name(one.title));
    if (!run.images.length) return app.warn("This run has no images yet. Load the page again when it has begun.");
    for (const part of [app.panel, app.stage, app.legend, app.channels, app.images, app.worst, app.objects, app.here, app.keys, app.link, app.live]) part.start();
    await app.link.read();
    document.documentElement.dataset.ready = "";
  }

  start().catch((error) => app.warn(`The run cannot be shown: ${error.message}`));
})();
