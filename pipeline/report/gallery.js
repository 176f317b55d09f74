/* The gallery: each picture opens large, with the keys Left and Right for the previous and next image, Up and Down for what is shown.
   The pictures are those of the page: a large one is a copy of the drawing, which refers to the same image. */
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const cards = [...document.querySelectorAll(".card")].filter((card) => card.querySelector(".panel"));
  if (!viewer || !cards.length) return;
  const place = viewer.querySelector(".viewer-picture");
  const buttons = viewer.querySelector(".viewer-panels");
  let card = 0;
  let panel = 0;
  let opener = null;

  const panels = () => [...cards[card].querySelectorAll(".panel")];

  function show() {
    const shown = panels();
    panel = Math.min(panel, shown.length - 1);
    viewer.querySelector("h2").textContent = cards[card].querySelector(".card-name").textContent;
    viewer.querySelector(".viewer-note").textContent = `Image ${card + 1} of ${cards.length}. ${cards[card].querySelector(".card-note").textContent.trim()}`;
    const copy = shown[panel].querySelector("svg").cloneNode(true);
    place.replaceChildren(copy);
    inline(copy);
    buttons.replaceChildren(
      ...shown.map((figure, index) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = figure.dataset.title;
        button.setAttribute("aria-pressed", String(index === panel));
        button.addEventListener("click", () => turn(0, index - panel));
        return button;
      })
    );
    viewer.querySelector("[data-do=previous]").disabled = card === 0;
    viewer.querySelector("[data-do=next]").disabled = card === cards.length - 1;
  }

  /* An id may stand once in a page: the copy of an image loses its own. */
  function inline(copy) {
    for (const image of copy.querySelectorAll("[id]")) image.removeAttribute("id");
    copy.classList.toggle("coarse", copy.viewBox.baseVal.width * 2 < place.clientWidth);
  }

  function turn(images, kinds) {
    const focused = document.activeElement?.getAttribute("data-do");
    card = Math.max(0, Math.min(cards.length - 1, card + images));
    panel = Math.max(0, Math.min(panels().length - 1, panel + kinds));
    show();
    if (kinds) buttons.children[panel].focus();
    else if (focused && !document.activeElement?.matches("#viewer :enabled")) viewer.querySelector("[data-do=close]").focus(); // its button is disabled now
  }

  function open(cardIndex, panelIndex, from) {
    [card, panel, opener] = [cardIndex, panelIndex, from];
    viewer.showModal();
    show();
  }

  cards.forEach((one, cardIndex) =>
    one.querySelectorAll(".panel").forEach((figure, panelIndex) => {
      const button = document.createElement("button");
      button.type = "button";
      const drawing = figure.querySelector("svg");
      button.setAttribute("aria-label", `Open large: ${drawing.getAttribute("aria-label")}`);
      drawing.replaceWith(button);
      button.append(drawing);
      button.addEventListener("click", () => open(cardIndex, panelIndex, button));
    })
  );

  const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  viewer.addEventListener("keydown", (event) => {
    if (!MOVES[event.key]) return;
    event.preventDefault();
    turn(...MOVES[event.key]);
  });
  viewer.addEventListener("click", (event) => {
    const action = event.target.dataset?.do;
    if (action === "close" || event.target === viewer) viewer.close();
    if (action === "previous") turn(-1, 0);
    if (action === "next") turn(1, 0);
  });
  viewer.addEventListener("close", () => {
    place.replaceChildren();
    opener?.focus();
  });
})();
