// What the book's own pages do: the map shows what a chapter rests on, the table of the zoo sorts and filters.

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".tm-map").forEach(followPointer);
  document.querySelectorAll(".tm-zootable").forEach(sortAndFind);
  reachable();
});

/** A chapter under the pointer, or with the focus, marks all that it rests on, however far down. */
function followPointer(map) {
  const cards = new Map(Array.from(map.querySelectorAll(".tm-chapter"), (card) => [card.dataset.number, card]));
  const below = (number, found = new Set()) => {
    for (const need of cards.get(number).dataset.needs.split(" ").filter(Boolean)) {
      if (!found.has(need)) below(need, found.add(need));
    }
    return found;
  };
  const point = (card) => {
    const needed = card ? below(card.dataset.number) : new Set();
    map.classList.toggle("tm-pointing", needed.size > 0);
    cards.forEach((other, number) => other.classList.toggle("tm-needed", needed.has(number)));
  };
  for (const name of ["pointerover", "focusin"]) map.addEventListener(name, (event) => point(event.target.closest(".tm-chapter")));
  for (const name of ["pointerleave", "focusout"]) map.addEventListener(name, () => point(null));
}

function sortAndFind(zoo) {
  const body = zoo.querySelector("tbody");
  const heads = [...zoo.querySelectorAll("th")];
  const rows = [...body.rows];
  const value = (row, i) => row.cells[i].dataset.value;
  heads.forEach((head, i) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const compare = head.dataset.kind === "number" ? (a, b) => value(a, i) - value(b, i) : (a, b) => value(a, i).localeCompare(value(b, i));
    body.append(...rows.sort((a, b) => (down ? -1 : 1) * compare(a, b)));
  }));
  zoo.querySelector("input").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  });
}

/** What scrolls sideways can be reached with the keyboard. */
function reachable() {
  const mark = () => {
    for (const box of document.querySelectorAll(".bd-article pre, .bd-article .cell_output, .bd-article .table-wrapper, .bd-article .pst-scrollable-table-container, .bd-article mjx-container")) {
      if (box.scrollWidth > box.clientWidth + 1 && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  mark();
  addEventListener("load", mark);
}
