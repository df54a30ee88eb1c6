// Models: what is here and what it can do, the memory they share, the catalogue, packing.

import { get, getText, post, remove } from "../api.js";
import { h, bytes, dialog, field, select, toast } from "../dom.js";
import { jobBar } from "../components/job-bar.js";
import { markdown } from "../components/markdown.js";
import "../components/memory-bar.js";

const REFRESH = 3000; // ms

class ModelsPage extends HTMLElement {
  connectedCallback() {
    this.stopping = new AbortController();
    this.memory = document.createElement("memory-bar");
    this.work = h("div", { class: "stack" });
    this.here = h("section", { class: "cards", "aria-label": "Models on this machine" });
    this.catalogue = h("div", { class: "scroll" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Models"),
          h(
            "p",
            {},
            "They load when they are asked for; the one idle longest goes when room is short.",
          ),
        ),
      ),
      h(
        "div",
        { class: "stack" },
        h("div", { class: "sheet" }, this.memory),
        this.work,
        h("h2", {}, "On this machine"),
        this.here,
        h("h2", {}, "Catalogue"),
        this.catalogue,
      ),
    );
    this.refresh();
    this.offer();
    this.underWay();
    this.timer = setInterval(() => document.hidden || this.refresh().catch(() => {}), REFRESH);
  }

  disconnectedCallback() {
    clearInterval(this.timer);
    this.stopping.abort();
  }

  async refresh() {
    const { data, memory } = await get("/v1/models");
    this.memory.show(memory, data);
    const shown = JSON.stringify(data.map(({ expires_in: _, ...rest }) => rest));
    if (shown === this.shown) return; // a button that has the focus keeps it
    this.shown = shown;
    this.here.replaceChildren(...data.map((model) => this.card(model)));
  }

  card(model) {
    const act = (text, work, more = {}) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `${text} ${model.id}`,
          onclick: (event) => this.doing(event.target, work),
          ...more,
        },
        text,
      );
    const loaded = model.state === "loaded";
    return h(
      "article",
      { class: "sheet model", "aria-label": model.id },
      h(
        "div",
        { class: "row" },
        h("h3", { class: "grow clip", title: model.id }, model.id),
        h("span", { class: `tag ${loaded ? "on" : ""}` }, model.state),
      ),
      h(
        "div",
        { class: "row" },
        model.capabilities.map((each) => h("span", { class: "tag" }, each)),
      ),
      h(
        "p",
        { class: "soft figures" },
        `${bytes(model.size)} on disk${model.memory ? ` · ${bytes(model.memory)} in memory` : ""}${model.busy ? ` · ${model.busy} in use` : ""}`,
      ),
      model.error ? h("p", { class: "error" }, model.error) : null,
      h(
        "div",
        { class: "row" },
        loaded
          ? act("Unload", () => post("/v1/models/unload", { model: model.id }))
          : act("Load", () => post("/v1/models/load", { model: model.id })),
        act("Card", () => this.readCard(model.id)),
        model.capabilities.includes("text") && !/^(house|packed)\//.test(model.id)
          ? act("Pack", () => this.pack(model))
          : null,
        model.id.startsWith("packed/")
          ? act("Delete", () => remove(`/v1/models/${encodeURIComponent(model.id)}`))
          : null,
      ),
    );
  }

  async doing(button, work) {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      toast(error.message, "error");
    }
    button.disabled = false;
    await this.refresh();
  }

  async readCard(name) {
    const text = await getText(`/v1/models/${encodeURIComponent(name)}/card`).catch(
      (error) => error.message,
    );
    // without the YAML before it, and the title that the dialog has
    dialog(
      name,
      () => markdown(text.replace(/^---\n[^]*?\n---\n/, "").replace(`# ${name}\n`, "")),
      "wide",
    );
  }

  async pack(model) {
    const asked = await dialog(`Pack ${model.id}`, (close) => {
      const bits = select(
        [
          ["8", "8 bits: half the size of 16, hardly a loss"],
          ["4", "4 bits: a quarter, a small loss"],
        ],
        "8",
      );
      const name = h("input", {
        pattern: "[a-z0-9][a-z0-9_\\-]{0,40}",
        placeholder: "made from the model's",
        autocomplete: "off",
      });
      return h(
        "form",
        {
          class: "stack",
          onsubmit: (event) => {
            event.preventDefault();
            close({ bits: Number(bits.value), name: name.value || undefined });
          },
        },
        h("p", { class: "soft" }, "The packed copy is offered beside the model, as packed/NAME."),
        field("Weights", bits),
        field("Name", name, "Small letters, digits, - and _."),
        h("div", { class: "row end" }, h("button", { class: "main" }, "Pack")),
      );
    });
    if (asked)
      this.follow(
        await post("/v1/models/quantize", { model: model.id, ...asked }),
        `Packing ${model.id}`,
      );
  }

  follow(job, title) {
    const done = () => {
      bar.remove();
      this.refresh();
      this.offer();
      toast(`${title}: done`);
    };
    const bar = jobBar(job, title, { done, signal: this.stopping.signal });
    this.work.append(bar);
  }

  // Downloads that were under way before the page was opened.
  async underWay() {
    const { data } = await get("/v1/jobs?limit=50");
    for (const job of data.filter((each) => ["queued", "in_progress"].includes(each.status))) {
      if (job.kind === "pull") this.follow(job, `Pulling ${job.request.model}`);
      if (job.kind === "quantize") this.follow(job, `Packing ${job.request.model}`);
    }
  }

  async offer() {
    const { data } = await get("/v1/catalogue");
    const pull = (entry) =>
      h(
        "button",
        {
          type: "button",
          class: "small",
          "aria-label": `Pull ${entry.id}`,
          onclick: async (event) => {
            event.target.disabled = true;
            this.follow(await post("/v1/models/pull", { model: entry.id }), `Pulling ${entry.id}`);
          },
        },
        "Pull",
      );
    this.catalogue.replaceChildren(
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["Model", "Good for", "Licence"].map((name) => h("th", { scope: "col" }, name)),
            h("th", { class: "figures", scope: "col" }, "Size"),
            h("th", { scope: "col" }, h("span", { class: "unseen" }, "Here")),
          ),
        ),
        h(
          "tbody",
          {},
          data.map((entry) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, entry.id),
              h("td", {}, entry.good_for),
              h("td", { class: "soft" }, entry.licence),
              h("td", { class: "figures" }, bytes(entry.size)),
              h("td", {}, entry.here ? h("span", { class: "tag on" }, "here") : pull(entry)),
            ),
          ),
        ),
      ),
    );
  }
}

customElements.define("page-models", ModelsPage);
