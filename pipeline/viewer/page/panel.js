/* The panel: tabs beside the picture; on a narrow screen a sheet below it that opens and closes. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const narrow = matchMedia("(max-width: 760px)");
  const tabs = () => [...document.querySelectorAll('#tabs [role="tab"]')];
  const shown = () => tabs().filter((tab) => !tab.hidden);

  function show(id, focus) {
    for (const tab of tabs()) {
      const chosen = tab.id === `tab-${id}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      app.byId(tab.getAttribute("aria-controls")).hidden = !chosen;
      if (chosen && focus) tab.focus();
    }
    app.emit("tab", id);
  }

  function open(isOpen) {
    document.documentElement.dataset.panel = isOpen ? "open" : "closed";
    app.byId("panel-toggle").setAttribute("aria-expanded", String(isOpen));
  }

  const isOpen = () => document.documentElement.dataset.panel === "open";
  const current = () => tabs().find((tab) => tab.getAttribute("aria-selected") === "true").id.slice(4);

  app.panel = {
    /* Opens a tab, and the panel around it. */
    show(id) {
      if (app.byId(`tab-${id}`).hidden) return;
      show(id);
      open(true);
    },
    toggle: () => open(!isOpen()),
    get current() {
      return current();
    },
    /* Takes away a tab that has nothing to show. */
    offer(id, isThere) {
      app.byId(`tab-${id}`).hidden = !isThere;
      if (!isThere && current() === id) show("layers");
    },
    start() {
      open(!narrow.matches);
      app.byId("panel-toggle").addEventListener("click", () => open(!isOpen()));
      app.byId("tabs").addEventListener("click", (event) => {
        const tab = event.target.closest('[role="tab"]');
        if (!tab) return;
        const id = tab.id.slice(4);
        if (narrow.matches && isOpen() && current() === id) return open(false);
        show(id);
        open(true);
      });
      app.byId("tabs").addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const all = shown();
        show(all[(all.findIndex((tab) => tab.tabIndex === 0) + step + all.length) % all.length].id.slice(4), true);
        event.preventDefault();
      });
    },
  };
})();
