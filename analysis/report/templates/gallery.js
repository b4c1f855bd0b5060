// The reports of a gallery: of one kind, with certain words, in an order.
const filters = document.querySelector(".filters"), shelf = document.querySelector(".runs");
const cards = [...shelf.children];
function cardKey(card, order) {
  const words = card.querySelector({ name: "h2", kind: ".kind", title: ".title" }[order]);
  return words.textContent.toLowerCase();
}
function arrange() {
  const kind = filters.elements.kind.value, order = filters.elements.order.value;
  const words = filters.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = (kind !== "" && card.dataset.kind !== kind) || !words.every((word) => text.includes(word));
    shown += card.hidden ? 0 : 1;
  }
  const compare = (a, b) => cardKey(a, order).localeCompare(cardKey(b, order), "en", { numeric: true });
  shelf.append(...(order === "" ? cards : [...cards].sort(compare)));
  filters.querySelector("output").textContent = shown + " of " + cards.length;
}
filters.addEventListener("input", arrange);
filters.addEventListener("submit", (event) => event.preventDefault());
filters.hidden = false;
arrange();
