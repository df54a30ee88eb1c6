// The shell: which page is shown, and in which light.

import { h, toast } from "./dom.js";
import { read, write } from "./keep.js";

const PAGES = [
  "create",
  "chat",
  "code",
  "models",
  "train",
  "label",
  "history",
  "memory",
  "check",
  "measure",
];
const main = document.getElementById("main");
let first = true;

async function show() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (name === "main") return; // the link that skips to the page
  const page = PAGES.includes(name) ? name : "create";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    await import(`./pages/${page}.js`);
  } catch (error) {
    main.replaceChildren(
      h(
        "p",
        { class: "sentence error" },
        `This page did not load (${error.message}); is the server still there?`,
      ),
    );
    return;
  }
  const shown = document.createElement(`page-${page}`);
  shown.args = rest;
  document.title = `${page[0].toUpperCase()}${page.slice(1)} · Daedal`;
  main.dataset.page = page;
  main.replaceChildren(shown);
  if (!first) main.focus({ preventScroll: true }); // a screen reader hears that the page has changed
  first = false;
  main.scrollTo?.(0, 0);
}

const THEMES = ["auto", "light", "dark"];

function light(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.getElementById("theme").setAttribute("aria-label", `Theme: ${theme}. Change it`);
}

document.getElementById("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(read("theme", "auto")) + 1) % THEMES.length];
  write("theme", theme);
  light(theme);
  toast(`Theme: ${theme === "auto" ? "as the system's" : theme}`);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") return;
  toast(event.reason?.message ?? String(event.reason), "error");
});
light(read("theme", "auto"));
show();
