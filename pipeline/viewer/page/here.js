/* What is here: the answer to a click in the picture, or to Enter for its middle. */
(function () {
  "use strict";

  const app = window.gigaseg;
  let turn = 0;

  function ofClass(id, run = "a") {
    if (id === null || id === undefined) return null;
    const one = app.view.runs[run].classes.find((other) => other.id === id);
    return one ? app.el("span", {}, app.swatch(one.color), app.name(one.name)) : null;
  }

  function lines(answer, other) {
    const image = app.view.images.a;
    const known = answer.truth !== null && answer.truth !== undefined;
    const truth = known ? ofClass(answer.truth) : null;
    if (known && app.classOf(answer.class) && app.classOf(answer.truth)) {
      const verdict = answer.class === answer.truth ? "right" : "wrong";
      truth.append(app.el("strong", { class: verdict, text: verdict }));
    }
    const object = answer.object && (answer.object.id ?? answer.object);
    const values = (answer.values || []).map((value, place) => `${(image.channels[place] || {}).name || place + 1}: ${app.number(value)}`);
    return [
      ["Class", ofClass(answer.class) || app.el("span", { text: "no prediction" })],
      ["Truth", known ? truth || app.el("span", { text: "not counted" }) : null],
      ["Other run", other ? ofClass(other.class, "b") || app.el("span", { text: "no prediction" }) : null],
      ["Object", object ? app.el("button", { type: "button", class: "link", text: app.number(object), on: { click: () => find(object) } }) : null],
      ["Pixel values", values.length ? app.el("span", {}, ...values.map((text) => app.name(text, "pixel"))) : null],
    ].filter(([, value]) => value);
  }

  async function find(id) {
    try {
      app.objects.go(await app.source.object(app.view.name, id));
    } catch (error) {
      app.say(error.message);
    }
  }

  async function ask([y, x]) {
    const image = app.view.images.a;
    [y, x] = [Math.floor(y), Math.floor(x)];
    if (!app.source.canAsk || !image || y < 0 || x < 0 || y >= image.shape[0] || x >= image.shape[1]) return close();
    const mine = ++turn;
    const { name, plane } = app.view;
    const runs = app.view.runs.b && app.view.images.b && app.view.compare !== "a" ? ["a", "b"] : ["a"];
    const answers = await Promise.allSettled(runs.map((run) => app.source.at(run, name, plane, y, x)));
    if (mine !== turn) return;
    const place = `x ${app.number(x)}, y ${app.number(y)}`;
    if (answers[0].status === "rejected") return app.say(`${place}: ${answers[0].reason.message}`);
    const rows = lines(answers[0].value, answers[1] && answers[1].value);
    app.byId("here-place").textContent = place;
    app.byId("here-list").replaceChildren(...rows.flatMap(([key, value]) => [app.el("dt", { text: key }), app.el("dd", {}, value)]));
    app.byId("here").hidden = false;
    app.say(`${place}. ${rows.map(([key, value]) => `${key}: ${value.textContent}`).join(", ")}`);
    app.stage.mark([y, x, y + 1, x + 1], "point");
  }

  function close() {
    turn += 1;
    app.byId("here").hidden = true;
    app.stage.unmark("point");
  }

  app.here = {
    ask,
    close,
    start: () => app.byId("here-close").addEventListener("click", close),
  };

  app.on("asked", ask);
  app.on("opening", () => app.byId("here").hidden || close());
})();
