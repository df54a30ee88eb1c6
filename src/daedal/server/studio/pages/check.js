// Check: where a file comes from, what a result repeats of its model's training, and whether a text
// is safe to show.

import { models, post } from "../api.js";
import { h, field, select } from "../dom.js";

const PLACES = [
  ["Where it comes from", "known"],
  ["What it repeats", "traced"],
  ["What it is about", "judged"],
];

class CheckPage extends HTMLElement {
  async connectedCallback() {
    this.file = h("input", { type: "file", onchange: () => this.text.setCustomValidity("") });
    this.text = h("textarea", { rows: 5, placeholder: "or a text" });
    this.model = select([["", "the one it names"]], "");
    this.button = h("button", { class: "main" }, "Check");
    for (const [, name] of PLACES) this[name] = h("div", { "aria-live": "polite" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Check"),
          h(
            "p",
            {},
            "Signed manifests, this machine's registry, recipes and watermarks; the nearest training examples with their licences; and of texts what the moderation says. What carries no mark may still be made by a model.",
          ),
        ),
      ),
      h(
        "form",
        { class: "stack", onsubmit: (event) => this.check(event) },
        field("A picture, sound, clip or text file", this.file),
        field("Text", this.text),
        field("Made by", this.model, "The model whose watermark and training data are looked for."),
        h("div", { class: "row" }, this.button),
      ),
      ...PLACES.map(([title, name]) => {
        const section = h("section", { hidden: true }, h("h2", {}, title), this[name]);
        this[name].section = section;
        return section;
      }),
    );
    const names = (await models()).map((model) => [model.id, model.id]);
    this.model.append(...names.map(([value, text]) => h("option", { value }, text)));
  }

  async check(event) {
    event.preventDefault();
    const [file] = this.file.files;
    const text = file ? "" : this.text.value;
    this.text.setCustomValidity(file || text.trim() ? "" : "Choose a file or write a text.");
    if (!this.text.reportValidity()) return;
    this.button.disabled = true;
    const sent = file ?? new File([text], "text.txt", { type: "text/plain" });
    await Promise.all([
      this.filled(this.known, this.knows(sent)),
      this.filled(this.judged, text ? judgement(text) : null),
    ]);
    this.button.disabled = false;
  }

  // The elements of an answer, or its error, under their heading; nothing for no question.
  async filled(place, answer) {
    place.section.hidden = answer === null;
    if (answer === null) return;
    place.replaceChildren(h("p", { class: "soft" }, "looking …"));
    try {
      place.replaceChildren(...(await answer));
    } catch (error) {
      place.replaceChildren(h("p", { class: "soft" }, error.message));
    }
  }

  async knows(file) {
    const form = new FormData();
    form.append("file", file);
    if (this.model.value && file.type.startsWith("text/")) form.append("model", this.model.value);
    const { sentences, recipe } = await post("/v1/content_provenance_checks", form);
    const made = this.model.value || recipe?.model;
    this.filled(this.traced, made ? this.traces(file, made) : null);
    return [listed(sentences)];
  }

  async traces(file, model) {
    const form = new FormData();
    form.append("file", file);
    form.append("model", model);
    const { kind, sentences } = await post("/v1/traces", form);
    return sentences.length
      ? [listed(sentences)]
      : [h("p", {}, `No ${kind} that it was trained on is near.`)];
  }
}

async function judgement(text) {
  const { results } = await post("/v1/moderations", { input: text });
  const [{ flagged, categories, category_scores: scores }] = results;
  const rows = Object.entries(scores).sort((a, b) => b[1] - a[1]);
  return [
    h("p", { class: flagged ? "error" : "good" }, flagged ? "Flagged" : "✓ Nothing is flagged"),
    h(
      "table",
      {},
      h("tr", {}, h("th", { scope: "col" }, "Category"), h("th", { scope: "col" }, "Score")),
      rows.map(([name, score]) =>
        h(
          "tr",
          {},
          h("td", {}, categories[name] ? h("strong", {}, name) : name),
          h("td", { class: "figures" }, score.toFixed(3)),
        ),
      ),
    ),
  ];
}

const listed = (sentences) => h("ul", { class: "prose" }, ...sentences.map((each) => h("li", {}, each)));

customElements.define("page-check", CheckPage);
