"use strict";
// A gallery of pairs: one slider for all tiles, pages, and an order.
for (const gallery of document.querySelectorAll(".compare")) {
  const tiles = gallery.querySelector(".tiles");
  const all = [...tiles.children];
  const slider = gallery.querySelector("input");
  const order = gallery.querySelector("select");
  const [back, next] = gallery.querySelectorAll("button");
  const place = gallery.querySelector("output");
  let shown = all;
  let first = 0;

  // As many rows as fit a screen, whatever the number of columns.
  const size = () => 8 * getComputedStyle(tiles).gridTemplateColumns.split(" ").length;

  function show() {
    const many = size();
    const pages = Math.ceil(shown.length / many);
    const page = Math.floor(first / many);
    first = page * many;
    tiles.replaceChildren(...shown.slice(first, first + many));
    place.value = `page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
  }
  function turn(pages) {
    const to = first + pages * size();
    if (0 > to || to >= shown.length) return;
    first = to;
    show();
  }
  function cut(percent) {
    slider.value = percent;
    gallery.style.setProperty("--cut", `${slider.value}%`);
  }
  function sort() {
    const sign = { surest: -1, "least sure": 1 }[order.value] || 0;
    shown = sign === 0 ? all : [...all].sort((a, b) => sign * (a.dataset.share - b.dataset.share));
    first = 0;
    show();
  }
  function follow(event) {
    const tile = event.target.closest(".pair");
    if (tile === null || event.buttons === 0) return;
    const box = tile.getBoundingClientRect();
    cut((100 * (event.clientX - box.left)) / box.width);
  }

  slider.addEventListener("input", () => cut(slider.value));
  tiles.addEventListener("pointerdown", follow);
  tiles.addEventListener("pointermove", follow);
  back.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  if (order !== null) order.addEventListener("change", sort);
  tiles.addEventListener("keydown", (event) => {
    const pages = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (pages === undefined) return;
    event.preventDefault();
    turn(pages);
  });
  addEventListener("resize", show);
  gallery.querySelector(".controls").hidden = false;
  cut(slider.value);
  show();
}
