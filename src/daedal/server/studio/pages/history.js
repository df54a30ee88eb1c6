// History: everything that was generated on this machine, searched, and made again.

import { get, pictureOf, post } from "../api.js";
import { h, ago, dialog, empty, field, select } from "../dom.js";
import { pictureElement } from "../components/work-card.js";

const PAGE = 40;

class HistoryPage extends HTMLElement {
  connectedCallback() {
    this.rows = new Map();
    this.words = h("input", {
      type: "search",
      placeholder: "words of a prompt, a text, a model",
      oninput: () => this.later(),
    });
    this.medium = select(
      [
        ["", "everything"],
        ["image", "pictures"],
        ["text", "texts"],
      ],
      "",
      { onchange: () => this.search() },
    );
    this.list = h("ul", { class: "entries" });
    this.more = h(
      "button",
      { type: "button", hidden: true, onclick: () => this.search(this.last) },
      "Show older ones",
    );
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "History"),
          h(
            "p",
            {},
            "What was generated on this machine, with all that is needed to make it again to the byte.",
          ),
        ),
      ),
      h(
        "form",
        {
          class: "row search",
          role: "search",
          onsubmit: (event) => {
            event.preventDefault();
            this.search();
          },
        },
        h("div", { class: "grow" }, field("Search", this.words)),
        field("Show", this.medium),
      ),
      this.list,
      this.more,
    );
    this.search();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.search(), 200);
  }

  async search(before) {
    const asked = (this.asked = new URLSearchParams({
      q: this.words.value,
      medium: this.medium.value,
      limit: PAGE,
      ...(before ? { before } : {}),
    }));
    const { data, has_more: more } = await get(`/v1/history?${asked}`);
    if (asked !== this.asked) return; // another search has begun
    if (!before) this.list.replaceChildren();
    this.list.append(...data.map((entry) => this.rowOf(entry)));
    this.last = data.at(-1)?.id;
    this.more.hidden = !more;
    if (!this.list.children.length)
      this.list.append(
        h(
          "li",
          {},
          empty(
            "Nothing found",
            this.words.value
              ? "No prompt, text or model has these words."
              : "Nothing has been generated here, or the log is off (DAEDAL_HISTORY=0).",
          ),
        ),
      );
  }

  // The row of an entry, with what was made in it: another search leaves it as it is.
  rowOf(entry) {
    if (!this.rows.has(entry.id)) this.rows.set(entry.id, this.row(entry));
    return this.rows.get(entry.id);
  }

  row(entry) {
    const result = h("div", { class: "result", "aria-live": "polite" });
    const text = entry.medium === "text" ? h("p", { class: "soft lines" }, entry.result) : null;
    const again = h(
      "button",
      {
        type: "button",
        class: "small",
        "aria-label": `Make generation ${entry.id} again`,
        onclick: () => this.again(entry, again, result),
      },
      "Again",
    );
    return h(
      "li",
      { class: "entry" },
      h(
        "div",
        { class: "row" },
        h("strong", { class: "grow clip", title: spoken(entry) }, spoken(entry)),
        h("span", { class: "tag" }, entry.medium),
        again,
        h(
          "button",
          {
            type: "button",
            class: "quiet small",
            "aria-label": `Recipe of generation ${entry.id}`,
            onclick: () => recipe(entry),
          },
          "Recipe",
        ),
      ),
      text,
      h(
        "p",
        { class: "soft figures" },
        `${entry.id} · ${entry.model} · seed ${entry.settings.seed ?? "–"} · ${ago(entry.created_at)}`,
      ),
      result,
    );
  }

  async again(entry, button, place) {
    button.disabled = true;
    place.replaceChildren(h("p", { class: "soft" }, "making it …"));
    try {
      const made = await post(`/v1/history/${entry.id}/again`);
      const content = made.b64_json
        ? pictureElement(pictureOf(made.b64_json, made.output_format), spoken(entry))
        : h("p", { class: "written" }, made.text);
      place.replaceChildren(
        content,
        h(
          "p",
          { class: made.same ? "good" : "error" },
          made.same
            ? "✓ the same, to the byte"
            : "It came out different: the weights or the machine have changed.",
        ),
      );
    } catch (error) {
      place.replaceChildren(h("p", { class: "error" }, error.message));
    }
    button.disabled = false;
  }
}

// A prompt in words: of a conversation what was said last.
function spoken({ prompt }) {
  if (typeof prompt === "string") return prompt || "(no prompt)";
  const last = prompt.at(-1);
  return typeof last?.content === "string" ? last.content : JSON.stringify(last ?? prompt);
}

function recipe(entry) {
  return dialog(
    `Generation ${entry.id}`,
    () => h("pre", { class: "sentence scroll", tabindex: 0 }, JSON.stringify(entry, null, 2)),
    "wide",
  );
}

customElements.define("page-history", HistoryPage);
