// The dashboard works without this. With it, the parts of a page that change are fetched anew every few seconds, and a
// command can be copied.
"use strict";
(() => {
  const period = 5000;
  const parts = () => document.querySelectorAll("[data-live][id]");

  for (const button of document.querySelectorAll("[data-copy]")) {
    const source = document.getElementById(button.dataset.copy);
    if (!source || !navigator.clipboard) continue;
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Could not copy";
      }
      setTimeout(() => { button.textContent = label; }, 2000);
    });
  }

  const slot = document.querySelector("[data-live-control]");
  if (!slot || parts().length === 0) return;

  // Who reads does not want the page to change under the eyes.
  let paused = sessionStorage.getItem("paused") === "yes";
  const toggle = document.createElement("button");
  toggle.type = "button";
  toggle.className = "live";
  const show = () => {
    toggle.setAttribute("aria-pressed", String(!paused));
    toggle.textContent = "Live";
    toggle.title = paused ? "The page stays as it is" : "The page is refreshed every 5 seconds";
  };
  toggle.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    show();
  });
  show();
  slot.append(toggle);

  const selecting = () => {
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed;
  };

  const replace = (part, fresh) => {
    if (part.contains(document.activeElement)) return; // the focus would be lost
    const open = new Set([...part.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key));
    for (const details of fresh.querySelectorAll("details[data-key]")) details.open = details.open || open.has(details.dataset.key);
    if (part.innerHTML !== fresh.innerHTML) part.replaceChildren(...fresh.childNodes);
  };

  const refresh = async () => {
    if (paused || document.hidden || selecting()) return;
    let response;
    try {
      response = await fetch(location.href, { headers: { Accept: "text/html" } });
    } catch {
      return; // the service is away: what there is stays
    }
    if (response.redirected) { // logged out
      location.reload();
      return;
    }
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of parts()) {
      const fresh = page.getElementById(part.id);
      if (fresh) replace(part, fresh);
    }
  };

  const loop = async () => {
    await refresh();
    setTimeout(loop, period);
  };
  setTimeout(loop, period);
})();
