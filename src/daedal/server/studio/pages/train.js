// Train: runs and how they stand, recipes to start from, and one run as it goes.

import { get } from "../api.js";
import { h, ago, empty } from "../dom.js";
import { short } from "../components/line-plot.js";
import { recipeDialog } from "../components/recipe-form.js";
import { runView, words } from "../components/run-view.js";

const REFRESH = 2000; // ms

class TrainPage extends HTMLElement {
  connectedCallback() {
    if (this.args?.[0]) {
      this.append(runView(this.args[0]));
      return;
    }
    this.runs = h("section", { class: "cards", "aria-label": "Trainings" });
    this.recipes = h("div", { class: "stack" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Train"),
          h(
            "p",
            {},
            "A recipe becomes a model, on this machine. A run that was stopped goes on where it was.",
          ),
        ),
      ),
      h("div", { class: "stack" }, this.runs, h("h2", {}, "Recipes"), this.recipes),
    );
    this.refresh();
    this.list();
    this.timer = setInterval(() => document.hidden || this.refresh().catch(() => {}), REFRESH);
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  async refresh() {
    const { data } = await get("/v1/trainings");
    const shown = JSON.stringify(data);
    if (shown === this.shown || this.runs.contains(document.activeElement)) return;
    this.shown = shown;
    this.runs.replaceChildren(...data.map(runCard));
    if (!data.length)
      this.runs.append(
        empty(
          "No runs yet",
          "Start one from a recipe below: text/tiny and image/tiny take a minute.",
        ),
      );
  }

  async list() {
    const { data } = await get("/v1/recipes");
    const groups = grouped(data);
    this.recipes.replaceChildren(
      ...[...groups].map(([name, recipes]) =>
        h(
          "details",
          { open: true },
          h("summary", {}, name),
          h("ul", { class: "recipes" }, recipes.map(recipeRow)),
        ),
      ),
    );
    if (!data.length)
      this.recipes.append(
        h(
          "p",
          { class: "soft" },
          "The server has no recipes: start it in a folder that has some in recipes/.",
        ),
      );
  }
}

const folder = (recipe) => recipe.id.split("/").slice(0, -1).join("/") || "recipes";

function grouped(recipes) {
  const found = new Map();
  for (const recipe of recipes)
    found.set(folder(recipe), [...(found.get(folder(recipe)) ?? []), recipe]);
  return found;
}

function recipeRow(recipe) {
  const start = async () => {
    const run = await recipeDialog(recipe.id);
    if (run) location.hash = `#/train/${run.id}`;
  };
  return h(
    "li",
    { class: "row" },
    h(
      "div",
      { class: "grow" },
      h("strong", {}, recipe.id.split("/").pop()),
      h("p", { class: "soft about" }, recipe.about),
    ),
    h("span", { class: "tag" }, recipe.task),
    h(
      "button",
      { type: "button", class: "small", "aria-label": `Start ${recipe.id}`, onclick: start },
      "Start",
    ),
  );
}

function runCard(run) {
  return h(
    "a",
    { class: "sheet model run", href: `#/train/${run.id}` },
    h(
      "span",
      { class: "row" },
      h("strong", { class: "grow clip" }, run.id),
      h(
        "span",
        {
          class: `tag ${run.status === "in_progress" ? "on" : run.status === "failed" ? "bad" : ""}`,
        },
        words(run.status),
      ),
    ),
    h("progress", { max: run.steps || 1, value: run.step, "aria-label": `Progress of ${run.id}` }),
    h(
      "span",
      { class: "soft figures" },
      `${run.recipe ?? ""} · ${run.step}/${run.steps || "?"}${run.loss === null ? "" : ` · loss ${short(run.loss)}`} · ${ago(run.created_at)}`,
    ),
  );
}

customElements.define("page-train", TrainPage);
