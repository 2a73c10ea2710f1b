/* Arrow keys, space, Home, End, a swipe or the two buttons; the address keeps the place. */
(() => {
  const slides = [...document.querySelectorAll(".slide")];
  const place = document.getElementById("place");
  let now = 0;

  function go(number, keep = true) {
    now = Math.max(0, Math.min(slides.length - 1, number));
    slides.forEach((slide, index) => slide.classList.toggle("here", index === now));
    place.textContent = `${now + 1} of ${slides.length}`;
    if (keep) history.replaceState(null, "", `#${now + 1}`);
    scrollTo(0, 0);
    for (const table of slides[now].querySelectorAll("table, pre")) {
      if (table.scrollWidth > table.clientWidth + 1) table.tabIndex = 0;
    }
  }

  const KEYS = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 };
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /BUTTON|A/.test(event.target.tagName)) return;
    if (event.key in KEYS) go(now + KEYS[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(slides.length - 1);
    else return;
    event.preventDefault();
  });
  let start = null;
  document.addEventListener("touchstart", (event) => { start = event.touches[0].clientX; });
  document.addEventListener("touchend", (event) => {
    const moved = event.changedTouches[0].clientX - start;
    if (Math.abs(moved) > 60) go(now - Math.sign(moved));
  });
  document.getElementById("on").addEventListener("click", () => go(now + 1));
  document.getElementById("back").addEventListener("click", () => go(now - 1));
  addEventListener("hashchange", () => go(parseInt(location.hash.slice(1), 10) - 1 || 0, false));
  go(parseInt(location.hash.slice(1), 10) - 1 || 0, false);
})();
