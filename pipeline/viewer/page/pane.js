/* One picture with deep zoom: the layers of an image of one run, over each other. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const SHARP_FROM = 2; // screen pixels an image pixel: from here pixels are drawn as squares

  // OpenSeadragon adds an inline style, which the policy of the page forbids, unless it finds one of its own. This one styles nothing; viewer.css has the rule.
  const marker = document.createElementNS("urn:gigaseg:nothing", "style");
  marker.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(marker);

  // A tile that comes when its layer has changed is nothing to warn of.
  const warn = (...words) => String(words[0]).startsWith("Ignoring tile") || console.warn(...words);
  window.OpenSeadragon.console = Object.assign(Object.create(console), { warn });

  const options = (element, withNavigator) => ({
    element,
    drawer: "canvas", // layers are see-through, and tiles of a copy on disk may not be read back by WebGL
    prefixUrl: "",
    showNavigationControl: false,
    showNavigator: withNavigator,
    navigatorPosition: "TOP_RIGHT",
    navigatorAutoFade: false,
    navigatorDrawer: "canvas",
    navigatorOpacity: 1,
    navigatorBorderColor: "transparent",
    navigatorDisplayRegionColor: "#ffd400",
    preserveViewport: true,
    preserveOverlays: true,
    visibilityRatio: 0.3,
    minZoomImageRatio: 0.5,
    maxZoomPixelRatio: 24,
    animationTime: calm.matches ? 0 : 0.5,
    blendTime: 0,
    maxTilesPerFrame: 8,
    maxImageCacheCount: 500,
    imageLoaderLimit: 6,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
  });

  app.Pane = class {
    constructor(element, run, withNavigator) {
      this.run = run;
      this.image = null;
      this.items = new Map(); // by id of the part: {part, layer, rank, opacity, item or null}
      this.queue = []; // ids that are to be added
      this.bin = []; // items that are to be taken out
      this.marks = {}; // frames over the picture, by their kind
      this.viewer = window.OpenSeadragon(options(element, withNavigator));
      this.viewer.addHandler("zoom", () => this.sharpen());
      this.viewer.addHandler("resize", () => {
        this.sharpen();
        this.fitNavigator();
      });
      // Letters are keys of the page; arrows, plus and minus move the picture.
      this.viewer.addHandler("canvas-key", (event) => {
        if (/^[a-z]$/i.test(event.originalEvent.key)) event.preventDefaultAction = true;
      });
      const canvas = this.viewer.canvas;
      canvas.setAttribute("role", "application");
      canvas.setAttribute("aria-label", `Picture of ${run === "a" ? "this run" : "the other run"}. Arrows move, plus and minus zoom, Enter tells what lies in the middle.`);
    }

    /* Gives the small picture the shape of the image, so that it has no empty edges. */
    fitNavigator() {
      const { navigator } = this.viewer;
      if (!navigator || !this.image) return;
      const [height, width] = this.image.shape;
      const longest = Math.min(150, 0.22 * this.viewer.viewport.getContainerSize().x);
      const side = longest / Math.max(height, width);
      navigator.setWidth(`${Math.max(12, Math.round(side * width))}px`);
      navigator.setHeight(`${Math.max(12, Math.round(side * height))}px`);
    }

    /* Shows another image, or none; nothing of the one before stays. */
    show(image) {
      [...this.items.keys()].forEach((id) => this.remove(id));
      Object.keys(this.marks).forEach((kind) => this.unmark(kind));
      this.image = image;
      this.version = image && image.version;
      this.fitNavigator();
      this.draw();
    }

    /* Makes the layers what the page says. A layer that changes stays until its successor is there, so that nothing blinks. */
    draw() {
      if (!this.image) return;
      const wanted = this.wanted();
      for (const [id, one] of wanted) {
        const had = this.items.get(id);
        if (had) Object.assign(had, { opacity: one.opacity });
        else if (one.opacity > 0) this.add(id, one);
      }
      this.settle();
    }

    /* Asks for the tiles of an image that has changed. What is under way comes first: a run may change faster than tiles come. */
    refresh() {
      this.isStale = this.isBusy;
      if (this.isStale || !this.image) return;
      this.version = this.image.version;
      this.draw();
    }

    wanted() {
      const wanted = new Map();
      const image = { ...this.image, version: this.version };
      app.LAYERS.forEach((layer, place) => {
        if (!this.image.layers.includes(layer.id)) return;
        const { on, opacity } = app.view.layers[layer.id];
        app.source.parts(this.run, image, layer, app.view).forEach((part, at) => {
          wanted.set(part.id, { part, layer: layer.id, rank: 1000 * place + at, opacity: on ? opacity : 0 });
        });
      });
      return wanted;
    }

    add(id, one) {
      this.items.set(id, { ...one, item: null });
      this.queue.push(id);
      this.addNext();
    }

    /* Adds one item after the other, each at its place: the small picture follows by index, and loses track when several move at once. */
    addNext() {
      if (this.isAdding || !this.queue.length) return;
      const { viewer } = this;
      const id = this.queue.shift();
      const entry = this.items.get(id);
      if (!entry || entry.item) return this.addNext();
      this.isAdding = true;
      const done = (item) => {
        this.isAdding = false;
        item.rank = entry.rank;
        if (this.items.get(id) === entry) {
          entry.item = item;
          item.addHandler("fully-loaded-change", () => this.settle());
        } else this.bin.push(item); // no longer wanted
        this.empty();
        this.addNext();
        this.settle();
      };
      const items = Array.from({ length: viewer.world.getItemCount() }, (_, at) => viewer.world.getItemAt(at));
      const index = items.filter((one) => one.rank < entry.rank).length;
      viewer.addTiledImage({ ...this.source(entry.part), index, opacity: 0, preload: true, success: ({ item }) => this.whenShared(() => done(item)) });
    }

    /* Returns a part as OpenSeadragon takes it. A copy may stop at a coarser level, whose last column may reach beyond the image. */
    source(part) {
      const { tile, levels, step = 1 } = this.image;
      const [height, width] = this.image.shape.map((side) => Math.ceil(side / step));
      const tileSource = { width, height, tileSize: tile, tileOverlap: 0, minLevel: 0, maxLevel: levels - 1, getTileUrl: part.url };
      if (part.exists) tileSource.tileExists = part.exists;
      return { tileSource, width: (width * step) / this.image.shape[1] };
    }

    /* Calls `act` when the small picture has as many layers: it gets them a little later. */
    whenShared(act) {
      const { navigator, world } = this.viewer;
      if (!navigator || navigator.world.getItemCount() === world.getItemCount()) act();
      else setTimeout(() => this.whenShared(act), 5);
    }

    settle() {
      const wanted = this.image ? this.wanted() : new Map();
      const entries = [...this.items];
      for (const { id: layer } of app.LAYERS) {
        const mine = entries.filter(([, one]) => one.layer === layer);
        const [fresh, old] = [mine.filter(([id]) => wanted.has(id)), mine.filter(([id]) => !wanted.has(id))];
        const visible = old.some(([, one]) => one.item && one.item.getOpacity() > 0);
        const ready = fresh.every(([, one]) => one.opacity === 0 || (one.item && one.item.getFullyLoaded()));
        if (visible && !ready) {
          // Those that nobody has seen yet go at once.
          old.filter(([, one]) => !one.item || one.item.getOpacity() === 0).forEach(([id]) => this.remove(id));
          continue;
        }
        fresh.forEach(([, one]) => this.reveal(one));
        old.forEach(([id]) => this.remove(id));
      }
      app.emit("settled");
      if (this.isStale) this.refresh();
    }

    reveal(one) {
      if (!one.item) return;
      one.item.setPreload(false);
      if (one.item.getOpacity() !== one.opacity) one.item.setOpacity(one.opacity);
    }

    remove(id) {
      const { item } = this.items.get(id);
      this.items.delete(id);
      if (item) {
        item.setOpacity(0);
        this.bin.push(item);
      }
      if (!this.isAdding) this.empty();
    }

    /* Takes out what is not wanted any more; never while an item is being added. */
    empty() {
      this.bin.splice(0).forEach((item) => this.viewer.world.removeItem(item));
    }

    /* True while tiles of what is shown are on their way. */
    get isBusy() {
      return [...this.items.values()].some((one) => one.opacity > 0 && !(one.item && one.item.getFullyLoaded()));
    }

    /* Screen pixels an image pixel. */
    get scale() {
      const viewport = this.viewer.viewport;
      return this.image ? (viewport.getZoom(true) * viewport.getContainerSize().x) / this.image.shape[1] : 1;
    }

    sharpen() {
      const smooth = this.scale < SHARP_FROM;
      if (smooth === this.isSmooth) return;
      this.isSmooth = smooth;
      this.viewer.drawer.setImageSmoothingEnabled(smooth);
    }

    /* Returns a box [y0, x0, y1, x1] of image pixels as the viewer measures it: the width of an image is 1. */
    rect([y0, x0, y1, x1]) {
      const width = this.image.shape[1];
      return new window.OpenSeadragon.Rect(x0 / width, y0 / width, (x1 - x0) / width, (y1 - y0) / width);
    }

    /* Moves to a box, with some of its surroundings. */
    goTo(box, margin, immediately) {
      const [y0, x0, y1, x1] = box;
      const more = margin * Math.max(y1 - y0, x1 - x0);
      this.viewer.viewport.fitBounds(this.rect([y0 - more, x0 - more, y1 + more, x1 + more]), immediately || calm.matches);
    }

    goHome(immediately) {
      if (this.image) this.goTo([0, 0, ...this.image.shape], 0.02, immediately);
    }

    /* Moves to (y, x) in image pixels, at so many screen pixels an image pixel. */
    lookAt(y, x, scale, immediately) {
      const width = this.image.shape[1];
      const viewport = this.viewer.viewport;
      viewport.zoomTo((scale * width) / viewport.getContainerSize().x, null, immediately);
      viewport.panTo(new window.OpenSeadragon.Point(x / width, y / width), immediately);
    }

    /* Returns (y, x) of the middle, in image pixels. */
    get middle() {
      const center = this.viewer.viewport.getCenter(false);
      return [center.y * this.image.shape[1], center.x * this.image.shape[1]];
    }

    /* Frames a box; `kind` is the class of the frame. A new frame takes the place of an old one of its kind. */
    mark(box, kind) {
      this.unmark(kind);
      if (!this.image) return;
      const element = app.el("div", { class: `mark ${kind}` });
      this.viewer.addOverlay({ element, location: this.rect(box) });
      this.marks[kind] = element;
    }

    unmark(kind) {
      if (this.marks[kind]) this.viewer.removeOverlay(this.marks[kind]);
      delete this.marks[kind];
    }
  };
})();
