// Memory: what was said in chats that were to be remembered; read, corrected, forgotten, taken along.

import { get, post, remove } from "../api.js";
import { h, ago, dialog, download, empty, field, toast } from "../dom.js";

class MemoryPage extends HTMLElement {
  connectedCallback() {
    this.words = h("input", {
      type: "search",
      placeholder: "words of what you said",
      oninput: () => this.later(),
    });
    this.replaced = h("input", { type: "checkbox", onchange: () => this.show() });
    this.facts = h("ul", { class: "entries", "aria-label": "Facts" });
    this.turns = h("ul", { class: "entries", "aria-label": "What you said" });
    this.said = h("section", { hidden: true }, h("h2", {}, "What you said"), this.turns);
    this.key = h("input", { required: true, maxlength: 4000, placeholder: "favourite fruit" });
    this.value = h("input", { required: true, maxlength: 4000, placeholder: "pears" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Memory"),
          h(
            "p",
            {},
            "What you said in chats whose options say Remember, on this machine only. Nothing that a model, a file or a page says is kept.",
          ),
        ),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", onclick: () => this.take() }, "Export"),
          h(
            "button",
            { type: "button", class: "danger", onclick: () => this.clear() },
            "Forget everything",
          ),
        ),
      ),
      h(
        "form",
        { class: "row", onsubmit: (event) => this.enter(event) },
        h("div", { class: "grow" }, field("Fact", this.key)),
        h("div", { class: "grow" }, field("is", this.value)),
        h("button", {}, "Keep"),
      ),
      h(
        "div",
        { class: "row search" },
        h("div", { class: "grow" }, field("Search", this.words)),
        h("label", { class: "inline" }, this.replaced, "also what was replaced"),
      ),
      this.facts,
      this.said,
    );
    this.show();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.show(), 200);
  }

  async show() {
    const query = this.words.value.trim();
    const asked = (this.asked = new URLSearchParams({ query, replaced: this.replaced.checked }));
    const { data, turns } = await get(`/v1/memories?${asked}`);
    if (asked !== this.asked) return; // another search has begun
    const found = data.filter((fact) => !query || matches(fact, query));
    this.facts.replaceChildren(...found.map((fact) => this.row(fact)));
    if (!found.length)
      this.facts.append(
        h(
          "li",
          {},
          empty(
            query ? "No fact has these words" : "Nothing is remembered",
            "Chat with Remember switched on in its options, or enter a fact above.",
          ),
        ),
      );
    this.said.hidden = !turns.length;
    this.turns.replaceChildren(
      ...turns.map((turn) =>
        h(
          "li",
          { class: "entry" },
          h("p", { class: "lines" }, turn.text),
          h("p", { class: "soft figures" }, ago(turn.created_at)),
        ),
      ),
    );
  }

  row(fact) {
    const name = `${fact.key}: ${fact.value}`;
    const quoted = fact.quote ? `from “${fact.quote}”` : "entered by hand";
    const old = fact.replaced_at;
    return h(
      "li",
      { class: "entry" },
      h(
        "div",
        { class: "row" },
        h("strong", { class: "grow clip", title: name }, name),
        old ? h("span", { class: "tag" }, "replaced") : null,
        old
          ? null
          : h(
              "button",
              {
                type: "button",
                class: "small",
                "aria-label": `Change ${name}`,
                onclick: () => this.change(fact),
              },
              "Change",
            ),
        h(
          "button",
          {
            type: "button",
            class: "quiet small",
            "aria-label": `Forget ${name}`,
            onclick: () => this.forget(fact),
          },
          "Forget",
        ),
      ),
      h("p", { class: "soft figures" }, `${quoted} · ${ago(fact.created_at)}`),
    );
  }

  async enter(event) {
    event.preventDefault();
    await post("/v1/memories", { key: this.key.value.trim(), value: this.value.value.trim() });
    this.key.value = this.value.value = "";
    this.show();
  }

  async change(fact) {
    const value = await dialog("Change a fact", (close) => {
      const input = h("input", { value: fact.value, required: true, maxlength: 4000 });
      return h(
        "form",
        {
          class: "stack",
          onsubmit: (event) => {
            event.preventDefault();
            close(input.value.trim());
          },
        },
        field(fact.key, input, "What you said of it before is forgotten."),
        h("button", { class: "main" }, "Change"),
      );
    });
    if (!value) return;
    await post(`/v1/memories/${fact.id}`, { value });
    this.show();
  }

  async forget(fact) {
    await remove(`/v1/memories/${fact.id}`);
    toast(`Forgotten: ${fact.key}`);
    this.show();
  }

  async clear() {
    const sure = await dialog("Forget everything?", (close) => [
      h("p", {}, "All facts and all that you said are overwritten. There is no way back."),
      h(
        "button",
        { type: "button", class: "danger", onclick: () => close(true) },
        "Yes, forget everything",
      ),
    ]);
    if (!sure) return;
    const { deleted } = await remove("/v1/memories");
    toast(`Forgotten: ${deleted} facts`);
    this.show();
  }

  async take() {
    const { data } = await get("/v1/memories?replaced=true");
    const lines = data.map((fact) => JSON.stringify(fact)).join("\n");
    download(new Blob([`${lines}\n`], { type: "application/jsonl" }), "memory.jsonl");
  }
}

const matches = (fact, query) =>
  `${fact.key} ${fact.value} ${fact.quote ?? ""}`.toLowerCase().includes(query.toLowerCase());

customElements.define("page-memory", MemoryPage);
