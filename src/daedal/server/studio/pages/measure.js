// Measure: models evaluated, with intervals.

import { get, models, post, remove } from "../api.js";
import { h, ago, empty, field, toast } from "../dom.js";
import { jobBar } from "../components/job-bar.js";
import { reportView } from "../components/report-view.js";

class MeasurePage extends HTMLElement {
  connectedCallback() {
    this.stopping = new AbortController();
    this.form = h("form", {
      class: "sheet stack",
      onsubmit: (event) => {
        event.preventDefault();
        this.measure();
      },
    });
    this.work = h("div", { class: "stack" });
    this.results = h("section", { class: "stack", "aria-label": "Results" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Measure"),
          h(
            "p",
            {},
            "Numbers with their 95 % intervals: on held-out texts, and on generated scenes whose truth is known.",
          ),
        ),
      ),
      h("div", { class: "stack" }, this.form, this.work, this.results),
    );
    this.compose();
    this.list();
  }

  disconnectedCallback() {
    this.stopping.abort();
  }

  async compose() {
    this.all = (await models()).filter((model) =>
      model.capabilities.some((each) => each !== "embeddings"),
    );
    this.model = h(
      "select",
      { onchange: () => this.shape() },
      this.all.map((model) => h("option", { value: model.id }, model.id)),
    );
    this.data = h("input", {
      value: "tales:200:1",
      pattern: "(tales|scenes)(:[\\w:]{0,40})?",
      autocomplete: "off",
    });
    this.upload = h("input", { type: "file", accept: ".txt,.jsonl,.parquet" });
    this.count = h("input", { type: "number", min: 1, max: 10000, step: 1, value: 50 });
    this.fields = h("div", { class: "settings" });
    this.form.replaceChildren(
      this.fields,
      h("div", { class: "row end" }, h("button", { class: "main" }, "Measure")),
    );
    this.shape();
  }

  get reads() {
    return this.all.find((model) => model.id === this.model.value).capabilities.includes("text");
  }

  shape() {
    const text = [
      field("Generated texts", this.data, "tales:HOW MANY:SEED"),
      field("Or a file of yours", this.upload, "txt, jsonl or parquet"),
    ];
    const rest = this.reads
      ? text
      : [field("Pictures of each kind", this.count, "More of them, narrower intervals.")];
    this.fields.replaceChildren(field("Model", this.model), ...rest);
  }

  async measure() {
    const asked = { model: this.model.value, settings: {} };
    try {
      if (!this.reads) asked.settings.n = Number(this.count.value);
      else
        asked.data = this.upload.files[0] ? await uploaded(this.upload.files[0]) : this.data.value;
      this.follow(await post("/v1/evaluations", asked));
    } catch (error) {
      toast(error.message, "error");
    }
  }

  follow(job) {
    const done = () => {
      bar.remove();
      this.list();
    };
    const signal = this.stopping.signal;
    const bar = jobBar(job, `Measuring ${job.request.model}`, { signal, done });
    this.work.append(bar);
  }

  async list() {
    const { data } = await get("/v1/evaluations");
    const done = data.filter((job) => job.status === "completed");
    this.results.replaceChildren(...done.map((job) => this.result(job)));
    if (!done.length)
      this.results.append(
        empty("Nothing measured yet", "house/image on 50 pictures takes under a minute."),
      );
    if (!this.work.children.length)
      data
        .filter((job) => ["queued", "in_progress"].includes(job.status))
        .forEach((job) => this.follow(job));
  }

  result(job) {
    const on =
      job.request.data ??
      Object.entries(job.request.settings)
        .map(([name, value]) => `${name} ${value}`)
        .join(", ");
    const element = h(
      "article",
      { class: "sheet stack", "aria-label": `Result of ${job.request.model}` },
      h(
        "div",
        { class: "row" },
        h("h2", { class: "grow" }, job.request.model),
        h("span", { class: "soft figures" }, `${on} · ${ago(job.completed_at)}`),
        h(
          "button",
          {
            type: "button",
            class: "quiet small",
            "aria-label": `Forget the result of ${job.request.model}`,
            onclick: async () => {
              await remove(`/v1/jobs/${job.id}`);
              element.remove();
            },
          },
          "✕",
        ),
      ),
      reportView(job.detail.report),
    );
    return element;
  }
}

async function uploaded(file) {
  const body = new FormData();
  body.append("file", file, file.name);
  body.append("purpose", "evals");
  return (await post("/v1/files", body)).id;
}

customElements.define("page-measure", MeasurePage);
