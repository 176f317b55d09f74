/* The objects of an image: a table that the server sorts and pages; a click leads to the object. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const PAGE = 50;
  const asked = { sort: "area", descending: 1, offset: 0, class: null };
  let stale = true;

  async function load() {
    const { name } = app.view;
    stale = false;
    let answer;
    try {
      answer = await app.source.objects(name, { ...asked, limit: PAGE });
    } catch (error) {
      app.byId("objects-note").textContent = `The table cannot be shown: ${error.message}`;
      return;
    }
    if (name === app.view.name) draw(answer);
  }

  function head(column) {
    const sorted = asked.sort === column.key ? (asked.descending ? "descending" : "ascending") : "none";
    const title = column.title.charAt(0).toUpperCase() + column.title.slice(1);
    const text = column.unit ? `${title} (${column.unit})` : title;
    const button = app.el("button", { type: "button", text, title: column.description || null, on: { click: () => sort(column.key) } });
    return app.el("th", { scope: "col", "aria-sort": sorted }, button);
  }

  function sort(key) {
    asked.descending = asked.sort === key ? 1 - asked.descending : 1;
    Object.assign(asked, { sort: key, offset: 0 });
    load();
  }

  function cell(column, object) {
    const value = object[column.key];
    if (column.key === "class") {
      const one = app.classOf(value);
      return app.el("td", {}, app.swatch(one ? one.color : "transparent"), app.name(one ? one.name : String(value)));
    }
    if (column.key === "id") {
      const title = `Go to object ${value}`;
      return app.el("td", {}, app.el("button", { type: "button", class: "link", text: app.number(value), "aria-label": title, on: { click: () => app.objects.go(object) } }));
    }
    if (typeof value === "boolean") return app.el("td", { text: value ? "yes" : "no" });
    return app.el("td", { text: app.number(value), class: "number" });
  }

  function draw({ total, columns, rows }) {
    // The table begins with the largest objects, whatever the column of their area is called.
    if (!columns.some((one) => one.key === asked.sort)) asked.sort = (columns.find((one) => one.title === asked.sort) || { key: "id" }).key;
    app.byId("objects-head").replaceChildren(app.el("tr", {}, ...columns.map(head)));
    app.byId("objects-body").replaceChildren(
      ...rows.map((object) => {
        const row = app.el("tr", { "data-object": object.id }, ...columns.map((column) => cell(column, object)));
        row.addEventListener("click", (event) => event.target.closest("button") || app.objects.go(object));
        return row;
      }),
    );
    const last = Math.min(asked.offset + PAGE, total);
    app.byId("objects-note").textContent = total ? `${app.number(asked.offset + 1)} to ${app.number(last)} of ${app.number(total)} objects` : "No objects here.";
    app.byId("objects-previous").disabled = asked.offset === 0;
    app.byId("objects-next").disabled = last >= total;
    mark();
  }

  function mark() {
    document.querySelectorAll("#objects-body tr").forEach((row) => row.toggleAttribute("data-chosen", row.dataset.object === String(app.view.chosen)));
  }

  function page(by) {
    asked.offset = Math.max(0, asked.offset + by * PAGE);
    load();
  }

  function drawClasses() {
    const all = app.el("option", { value: "", text: "All classes" });
    app.byId("objects-class").replaceChildren(all, ...app.view.runs.a.classes.map((one) => app.el("option", { value: one.id, text: one.name })));
  }

  app.objects = {
    /* Shows an object: the view goes to it, and a frame and its outline set it off. */
    go(object) {
      app.setPlane(object.plane || 0);
      app.choose(object.id);
      mark();
      if (app.hasLayer("outlines") && !app.view.layers.outlines.on) app.setLayer("outlines", { on: true });
      app.stage.unmark("block", "point");
      app.stage.mark(object.box, "object");
      app.stage.goTo(object.box, 1);
      app.say(`Object ${object.id}`);
    },
    start() {
      drawClasses();
      app.byId("objects-previous").addEventListener("click", () => page(-1));
      app.byId("objects-next").addEventListener("click", () => page(1));
      app.byId("objects-class").addEventListener("change", (event) => {
        Object.assign(asked, { class: event.target.value === "" ? null : event.target.value, offset: 0 });
        load();
      });
    },
  };

  app.on("image", () => (asked.offset = 0));
  app.on("image version", () => {
    const image = app.view.images.a;
    app.panel.offer("objects", Boolean(image && image.objects !== null && image.objects !== undefined));
    stale = true;
    if (app.panel.current === "objects") load();
  });
  app.on("tab", (id) => id === "objects" && stale && load());
})();
