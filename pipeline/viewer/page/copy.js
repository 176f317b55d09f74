/* Where a copy on disk gets its data: scripts beside the page, since pages from disk may not fetch. It stands for server.js. */
(function () {
  "use strict";

  const app = window.gigaseg;
  const copy = window.gigasegCopy;
  const waiting = {};

  /* Loads what is known of an image, once. */
  function load(name) {
    const folder = copy.folders[name];
    if (folder === undefined) return Promise.reject(new Error("it is not in this copy"));
    waiting[folder] =
      waiting[folder] ||
      new Promise((resolve, reject) => {
        const script = app.el("script", { src: `images/${folder}/data.js` });
        script.addEventListener("load", () => resolve(copy.loaded[folder]));
        script.addEventListener("error", () => reject(new Error(`a file of this copy is missing: images/${folder}/data.js`)));
        document.head.append(script);
      });
    return waiting[folder];
  }

  /* Returns a function that says whether a tile was written: empty ones are not. Bits stand row by row, the first one highest. */
  function written(pyramid, [height, width], levels, tile) {
    const bits = pyramid.tiles.map((text) => (text === null ? null : Uint8Array.from(atob(text), (char) => char.charCodeAt(0))));
    return function (level, x, y) {
      const step = 2 ** (levels - 1 - level);
      const [rows, cols] = [height, width].map((side) => Math.ceil(Math.ceil(side / step) / tile));
      if (!(level in bits) || x < 0 || y < 0 || x >= cols || y >= rows) return false;
      const place = y * cols + x;
      return bits[level] === null || Boolean(bits[level][place >> 3] & (0x80 >> (place & 7)));
    };
  }

  function sorted(rows, { sort, descending, offset, limit, class: chosen }) {
    const value = (row) => (row[sort] === null || row[sort] === undefined ? -Infinity : row[sort]);
    const found = rows.filter((row) => chosen === null || String(row.class) === String(chosen));
    found.sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (descending ? -1 : 1));
    return { total: found.length, rows: found.slice(offset, offset + limit) };
  }

  app.source = {
    canAsk: false,
    canFollow: false,
    run: async (run) => copy.runs[run],
    async image(run, name) {
      const image = (await load(name))[run];
      if (!image) throw new Error("this run does not have it");
      return image;
    },
    worst: async (by, name) => (name === null ? copy.worst[by] : (await load(name)).worst[by]),
    async objects(name, options) {
      const { columns, rows } = (await load(name)).objects;
      return { columns, ...sorted([...rows], options) };
    },

    parts(run, image, layer, view) {
      return (image.pyramids[layer.id] || [])
        .filter((one) => one.class === null || !view.off.has(one.class))
        .map((one) => ({
          id: one.stem,
          url: (level, x, y) => `${one.stem}_files/${level}/${x}_${y}.${one.kind}`,
          exists: written(one, image.shape.map((side) => Math.ceil(side / image.step)), image.levels, image.tile),
        }));
    },
  };
})();
