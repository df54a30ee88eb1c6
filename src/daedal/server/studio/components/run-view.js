// A training as it goes: curves, evaluations, samples, its log; stopped, resumed, used.

import { get, getBlob, post, remove } from "../api.js";
import { h, dialog, toast } from "../dom.js";
import { pictureElement } from "./work-card.js";
import "./line-plot.js";

const REFRESH = 1000; // ms
const STEP = ["loss", "reward", "kl", "entropy", "length", "ended", "clipped"]; // of a step's numbers what is drawn
const RUNS = ["queued", "in_progress"];

class RunView extends HTMLElement {
  setup(name) {
    this.name = name;
    this.steps = [];
    this.head = h("header", { class: "head" });
    this.plots = h("section", { class: "plots", "aria-label": "Curves of the steps" });
    this.measures = h("section", { class: "plots", "aria-label": "Curves of the evaluations" });
    this.samples = h("section", { class: "samples", "aria-label": "Samples" });
    this.log = h("pre", { class: "sentence scroll log", tabindex: 0 });
    this.append(
      this.head,
      this.plots,
      this.samples,
      this.measures,
      h("details", {}, h("summary", {}, "Log"), this.log),
    );
    return this;
  }

  connectedCallback() {
    this.poll();
  }

  // Look again after a while, as long as it trains; and where the server is away, until it is back.
  async poll() {
    clearTimeout(this.timer);
    let wait = 3 * REFRESH;
    try {
      const run = await this.refresh();
      wait = RUNS.includes(run.status) ? REFRESH : 0;
    } catch (error) {
      if (error.status) throw error; // an answer, which stays what it is
    }
    if (wait && !this.gone) this.timer = setTimeout(() => this.poll(), wait);
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
    this.gone = true;
  }

  async refresh() {
    const run = await get(`/v1/trainings/${this.name}`);
    const [numbers, samples] = await Promise.all([
      get(`/v1/trainings/${this.name}/metrics?points=400`),
      get(`/v1/trainings/${this.name}/samples`),
    ]);
    if (this.gone) return run;
    this.describe(run);
    this.draw(numbers);
    await this.show(samples);
    return run;
  }

  describe(run) {
    const shown = JSON.stringify([run.status, run.step, run.model]);
    if (shown === this.shown) return;
    this.shown = shown;
    const act = (text, work, kind = "") =>
      h("button", { type: "button", class: kind, onclick: work }, text);
    const does = (verb) => async () => {
      await post(`/v1/trainings/${this.name}/${verb}`);
      this.poll();
    };
    const on = RUNS.includes(run.status);
    const left = run.step && on ? ((run.steps - run.step) * run.seconds) / run.step : 0;
    const focused = this.head.contains(document.activeElement);
    this.head.replaceChildren(
      h(
        "div",
        {},
        h("p", {}, h("a", { href: "#/train" }, "‹ All trainings")),
        h("h1", {}, run.id),
        h(
          "p",
          {},
          `${run.recipe ?? "a run"} · ${words(run.status)} · step ${run.step} of ${run.steps || "?"}${left ? ` · ${minutes(left)} left` : ""}`,
        ),
        h("progress", { max: run.steps || 1, value: run.step, "aria-label": "Progress" }),
        run.error ? h("p", { class: "error", role: "alert" }, run.error.message) : null,
      ),
      h(
        "div",
        { class: "row" },
        on ? act("Stop", does("stop")) : null,
        !on && run.job && run.status !== "completed" ? act("Resume", does("resume"), "main") : null,
        run.model ? h("a", { class: "button", href: "#/create" }, "Use it") : null,
        on ? null : act("Delete", () => this.delete(), "danger"),
      ),
    );
    if (focused) this.head.querySelector("button, .row a")?.focus();
    if (run.model) this.use(run.model);
  }

  // What "Use it" opens: the page of what the model can do, with the model chosen there.
  async use(model) {
    const can = (
      await get(`/v1/models/${encodeURIComponent(model)}`).catch(() => ({ capabilities: [] }))
    ).capabilities;
    const link = this.head.querySelector("a.button");
    if (!link || !can.length) return link?.remove();
    const medium = can.includes("chat") ? "chat" : can[0];
    link.href = medium === "chat" ? "#/chat" : "#/create";
    link.addEventListener("click", () => {
      localStorage.setItem(`daedal.model.${medium}`, JSON.stringify(model));
      if (medium !== "chat") localStorage.setItem("daedal.medium", JSON.stringify(medium));
    });
  }

  draw({ steps, evaluations }) {
    const curves = STEP.map((name) => [
      name,
      steps.filter((row) => name in row).map((row) => [row.step, row[name]]),
    ]);
    const names = [...new Set(evaluations.flatMap(Object.keys))].filter(
      (name) => !["step", "standard_error"].includes(name),
    );
    const measured = names.map((name, i) => [
      name.replaceAll("_", " "),
      evaluations
        .filter((row) => name in row)
        .map((row) => {
          const error =
            i === 0 && row.standard_error
              ? [row[name] - 1.96 * row.standard_error, row[name] + 1.96 * row.standard_error]
              : [];
          return [row.step, row[name], ...error];
        }),
    ]);
    for (const [name, points] of [...curves, ...measured]) {
      if (!points.length) continue;
      const place = STEP.includes(name) ? this.plots : this.measures;
      let plot = [...place.children].find((each) => each.dataset.name === name);
      if (!plot) {
        plot = document.createElement("line-plot");
        plot.dataset.name = name;
        place.append(plot);
      }
      if (!plot.contains(document.activeElement)) plot.show(name, points);
    }
    if (!this.plots.children.length)
      this.plots.replaceChildren(h("p", { class: "soft" }, "Numbers come with the first step."));
    else this.plots.querySelector("p")?.remove();
  }

  async show({ pictures, log }) {
    const known = new Set(
      [...this.samples.querySelectorAll("figure")].map((each) => each.dataset.name),
    );
    for (const name of pictures.filter((each) => !known.has(each))) {
      const picture = pictureElement(
        await getBlob(`/v1/trainings/${this.name}/samples/${name}`),
        `Samples, ${name}`,
      );
      const figure = h(
        "figure",
        {},
        picture,
        h("figcaption", { class: "soft figures" }, name.replace(".png", "").replace("-", " ")),
      );
      figure.dataset.name = name;
      this.samples.prepend(figure);
    }
    const texts = log
      .filter((line) => line.startsWith("  | "))
      .slice(-6)
      .map((line) => line.slice(4));
    this.samples.querySelector(".texts")?.remove();
    if (texts.length)
      this.samples.prepend(
        h(
          "div",
          { class: "texts sheet" },
          h("h2", {}, "It writes"),
          texts.map((text) => h("p", {}, text)),
        ),
      );
    this.log.textContent = log.join("\n") || "nothing yet";
  }

  async delete() {
    const sure = await dialog(`Delete ${this.name}?`, (close) => [
      h("p", {}, "Its checkpoints, samples and model go."),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", onclick: () => close() }, "Keep it"),
        h("button", { type: "button", class: "danger", onclick: () => close(true) }, "Delete"),
      ),
    ]);
    if (!sure) return;
    await remove(`/v1/trainings/${this.name}`);
    toast("Deleted");
    location.hash = "#/train";
  }
}

export const words = (status) =>
  ({ in_progress: "trains", queued: "waits", cancelled: "stopped" })[status] ?? status;

function minutes(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

customElements.define("run-view", RunView);
export const runView = (name) => document.createElement("run-view").setup(name);
