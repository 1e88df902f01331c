// Keeps the parts of a page that are marked data-live up to date, until a person pauses it. Without it, pages are reloaded.
"use strict";
(() => {
  const toggle = document.querySelector("[data-live-toggle]");
  const part = document.querySelector("[data-live]");
  if (!toggle || !part) return;
  const EVERY_MS = 5000;
  let paused = false, waits = EVERY_MS, timer = 0;
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    paused = !paused;
    toggle.textContent = paused ? "Resume updates" : "Pause updates";
    toggle.setAttribute("aria-pressed", String(paused));
    if (!paused) look();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

  // What a person is about to do with the part must not be swept away.
  const inUse = (here) => here.contains(document.activeElement) || String(getSelection()).length > 0;

  async function look() {
    clearTimeout(timer);
    const here = document.querySelector("[data-live]");
    if (!paused && !document.hidden && here && !inUse(here)) {
      try {
        const answer = await fetch(location.pathname + location.search, { headers: { "x-live": "1" }, cache: "no-store" });
        if (answer.status === 401) { location.reload(); return; }
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const fresh = page.querySelector("[data-live]");
          if (fresh && !paused && !inUse(here) && fresh.innerHTML !== here.innerHTML) {
            here.replaceWith(document.adoptNode(fresh));
            if (document.title !== page.title) document.title = page.title;
          }
          waits = EVERY_MS;
        }
      } catch {
        waits = Math.min(60000, 2 * waits);
      }
    }
    timer = setTimeout(look, waits);
  }
  timer = setTimeout(look, waits);
})();
