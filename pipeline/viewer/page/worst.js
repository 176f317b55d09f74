/* The worst places: blocks where most pixels are wrong, or where overlapping tiles disagree most. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const TITLES = { error: "wrong", overlap: "in disagreement" };
  let places = [];
  let at = -1;

  const by = () => app.byId("worst-by").value;
  const scope = () => (app.byId("worst-scope").value === "image" ? app.view.name : null);

  async function load() {
    if (!app.view.runs.a.worst_by.length) return;
    const [asked, name] = [by(), scope()];
    const note = app.byId("worst-note");
    let answer = [];
    try {
      answer = await app.source.worst(asked, name);
      note.textContent = answer.length ? "" : "Nothing to show: no block has a pixel that counts here.";
    } catch (error) {
      note.textContent = `The list cannot be shown: ${error.message}`;
    }
    if (asked !== by() || name !== scope()) return; // another list was chosen meanwhile
    const before = places[at];
    places = answer;
    at = before ? places.findIndex((one) => one.image === before.image && one.block === before.block) : -1;
    draw();
  }

  function row(one, place) {
    const where = `x ${app.number(one.box[1])}, y ${app.number(one.box[0])}`;
    const button = app.el(
      "button",
      { type: "button", class: "row", "data-block": one.block, on: { click: () => go(place) } },
      app.el("span", { class: "rank", text: String(place + 1) }),
      app.el("span", { class: "place" }, scope() ? app.el("span", { text: `Block ${one.block}` }) : app.name(one.image), app.el("span", { class: "hint", text: where, title: "x, y of its upper left corner" })),
      app.el("span", { class: "value amount" }, app.el("span", { text: `${app.percent(one.share)} ${TITLES[by()]}` }), app.el("span", { class: "hint", text: `${app.number(one.pixels)} px` })),
    );
    return app.el("li", {}, button);
  }

  function draw() {
    app.byId("worst-list").replaceChildren(...places.map(row));
    mark();
  }

  function mark() {
    document.querySelectorAll("#worst-list button").forEach((button, place) => {
      if (place === at) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  /* Shows a place: its image, its box with an outline, and the layer that says what is wrong there. */
  async function go(place) {
    at = place;
    const one = places[at];
    mark();
    document.querySelector("#worst-list [aria-current]").scrollIntoView({ block: "nearest" });
    const show = () => {
      if (app.hasLayer(by()) && !app.view.layers[by()].on) app.setLayer(by(), { on: true });
      app.setPlane(one.plane || 0);
      app.stage.unmark("object", "point");
      app.stage.mark(one.box, "block");
      app.stage.goTo(one.box, 0.12);
      app.say(`Place ${at + 1} of ${places.length}: ${one.image}, ${app.percent(one.share)} ${TITLES[by()]}`);
    };
    if (one.image === app.view.name) show();
    else await app.open(one.image, show);
  }

  app.worst = {
    step(step) {
      if (places.length) go((at + step + places.length) % places.length);
    },
    start() {
      const kinds = app.view.runs.a.worst_by;
      app.panel.offer("worst", kinds.length > 0);
      const words = { error: "Most pixels wrong", overlap: "Most disagreement of overlapping tiles" };
      app.byId("worst-by").replaceChildren(...kinds.map((one) => app.el("option", { value: one, text: words[one] })));
      app.byId("worst-by").addEventListener("change", load);
      app.byId("worst-scope").addEventListener("change", load);
      app.byId("worst-next").addEventListener("click", () => app.worst.step(1));
      app.byId("worst-previous").addEventListener("click", () => app.worst.step(-1));
      load();
    },
  };

  app.on("image", () => scope() && load());
  app.on("run", load);
})();
