// Values of figures, where the pointer or the keyboard is.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.querySelector("main").append(tip);
function showTip(place) {
  tip.textContent = place.getAttribute("aria-label");
  tip.hidden = false;
  const at = place.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const left = at.left + at.width / 2 - size.width / 2;
  tip.style.left = Math.max(8, Math.min(left, document.documentElement.clientWidth - size.width - 8)) + "px";
  tip.style.top = (at.top - size.height - 6 < 8 ? at.bottom + 6 : at.top - size.height - 6) + "px";
}
function hideTip() { tip.hidden = true; }
document.querySelectorAll(".values").forEach((layer) => {
  const places = [...layer.querySelectorAll("[tabindex]")];
  places.forEach((place) => {
    // The browser's own label would stand over ours.
    const title = place.querySelector("title");
    place.setAttribute("aria-label", title.textContent);
    title.remove();
  });
  const placeOf = (event) => places.includes(event.target) ? event.target : null;
  layer.addEventListener("pointerover", (event) => { if (placeOf(event)) showTip(event.target); });
  layer.addEventListener("pointerout", hideTip);
  layer.addEventListener("focusin", (event) => {
    if (!placeOf(event)) return;
    event.target.scrollIntoView({ block: "nearest", inline: "nearest" });
    showTip(event.target);
  });
  layer.addEventListener("focusout", hideTip);
  layer.addEventListener("keydown", (event) => {
    const at = places.indexOf(event.target), step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hideTip();
    if (at < 0 || !step) return;
    event.preventDefault();
    places[(at + step + places.length) % places.length].focus();
  });
});
window.addEventListener("scroll", hideTip, { passive: true });

// The contents: closed on a narrow screen, and the section that is read is marked.
const contents = document.querySelector(".contents details");
if (contents) {
  const narrow = window.matchMedia("(max-width: 75rem)");
  const fold = () => { contents.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const read = sections.filter((section) => section.getBoundingClientRect().top < window.innerHeight / 3).pop();
    links.forEach((link, id) => {
      if (read && read.id === id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  window.addEventListener("scroll", mark, { passive: true });
  mark();
}
