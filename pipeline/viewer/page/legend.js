/* The legend: the colour, the name and the IoU of each class, with a switch. */
(function () {
  "use strict";

  const app = window.gigaseg;

  const canSwitch = () => app.view.runs.a.can_switch_classes !== false;

  function row(one, score) {
    const box = app.el("input", { hidden: !canSwitch(), type: "checkbox", checked: !app.view.off.has(one.id), "data-class": one.id });
    box.addEventListener("change", () => app.legend.toggle(one.id));
    const text = score === undefined ? "" : app.score(score);
    const line = app.el("label", { class: "class" }, box, app.swatch(one.color), app.name(one.name), app.el("span", { class: "value", text }));
    return app.el("li", {}, line);
  }

  function draw() {
    const classes = app.view.runs.a.classes;
    const found = (app.view.images.a || {}).scores || [];
    const scores = new Map(found.some((one) => one.iou !== null) ? found.map((one) => [one.class, one.iou]) : []); // without truth there are none
    app.byId("classes-list").replaceChildren(...classes.map((one) => row(one, scores.get(one.name))));
    app.byId("classes-score").hidden = !scores.size;
  }

  app.legend = {
    toggle(id) {
      if (!canSwitch()) return;
      const off = new Set(app.view.off);
      if (!off.delete(id)) off.add(id);
      app.setClasses(off);
    },
    /* Switches the class at a place of the legend. */
    toggleAt(place) {
      const one = app.view.runs.a.classes[place];
      if (!one) return;
      app.legend.toggle(one.id);
      app.say(`${one.name} ${app.view.off.has(one.id) ? "off" : "on"}`);
    },
    start() {
      document.querySelector("#classes .choices").hidden = !canSwitch();
      app.byId("classes-all").addEventListener("click", () => app.setClasses([]));
      app.byId("classes-none").addEventListener("click", () => app.setClasses(app.view.runs.a.classes.map((one) => one.id)));
    },
  };

  app.on("image", draw);
  app.on("classes", () => {
    document.querySelectorAll("#classes-list input").forEach((box) => (box.checked = !app.view.off.has(Number(box.dataset.class))));
  });
})();
