"use strict";
// Tables whose columns can be sorted: numbers as numbers, what has no number last, equal rows in their first order.
function sortKey(cell) {
  const words = cell.textContent.replace(/\u00a0/g, " ").trim();
  if (words === "" || words === "n/a" || words === "\u2013" || words === "\u2014") return null;
  const number = words.replace(/,/g, "").match(/^[-\u2212+]?\d+(\.\d+)?(e[-+]?\d+)?/i);
  return number ? parseFloat(number[0].replace("\u2212", "-")) : words.toLowerCase();
}
function compareKeys(one, other, down) {
  if (one === null || other === null) return (one === null) - (other === null);
  if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
  const order = typeof one === "number" ? one - other : one.localeCompare(other, "en");
  return down ? -order : order;
}
function makeSortable(table) {
  const body = table.tBodies[0], first = [...body.rows], headings = [...table.tHead.rows[0].cells];
  if (first.length < 2) return;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      const next = now === null ? "ascending" : now === "ascending" ? "descending" : null;
      headings.forEach((one) => one.removeAttribute("aria-sort"));
      table.classList.toggle("sorted", next !== null);
      let rows = first;
      if (next !== null) {
        heading.setAttribute("aria-sort", next);
        const keyed = first.map((row) => [sortKey(row.cells[column]), row]);
        rows = keyed.sort((a, b) => compareKeys(a[0], b[0], next === "descending")).map((pair) => pair[1]);
      }
      body.append(...rows);
    });
  });
}
document.querySelectorAll("table").forEach(makeSortable);
