// <label-round>: prompts one after another, two results of each side by side, and a key or a click
// that says which is better. The next pair is made while a person reads this one.

import { post } from "../api.js";
import { h, toast } from "../dom.js";
import { MAKERS, randomSeed } from "./makers.js";
import { shown } from "./work-card.js";

class LabelRound extends HTMLElement {
  // `ended` hears how many pairs the file has.
  setup({ medium, models, file, prompts, count, ended }) {
    Object.assign(this, { medium, models, file, count, ended, queue: prompts });
    this.stopping = new AbortController();
    this.keys = (event) => this.pressed(event);
    return this;
  }

  connectedCallback() {
    this.className = "stack";
    this.setAttribute("role", "group");
    this.setAttribute("aria-label", "Two results");
    document.addEventListener("keydown", this.keys);
    this.following = this.pair(this.queue[0]);
    this.next();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.keys);
    this.stopping.abort();
  }

  // Two results of a prompt, in an order of chance. Two that are the same are made again.
  async pair(prompt, tries = 4) {
    const found = await Promise.all(this.models.map((model) => this.one(model, prompt)));
    const same = found[0].text !== undefined && found[0].text === found[1].text;
    if (same && tries > 1) return this.pair(prompt, tries - 1);
    if (same) throw new Error(`"${prompt}" has one answer only; take it out.`);
    return Math.random() < 0.5 ? found : found.reverse();
  }

  async one(model, prompt) {
    const seed = randomSeed();
    const { signal } = this.stopping;
    if (this.medium === "text") {
      const asked = {
        model,
        messages: [{ role: "user", content: prompt }],
        seed,
        temperature: 1,
        max_tokens: 200,
      };
      const reply = await post("/v1/chat/completions", asked, signal);
      return { text: reply.choices[0].message.content.trim() };
    }
    for await (const { done } of MAKERS[this.medium].make(
      { model, prompt, settings: { seed } },
      signal,
    )) {
      if (done) return done;
    }
    throw new Error("no picture came.");
  }

  async next() {
    this.sides = null;
    if (!this.queue.length) {
      this.ended(this.count);
      return;
    }
    this.setAttribute("aria-busy", "true");
    try {
      this.sides = await this.following;
    } catch (error) {
      if (this.stopping.signal.aborted) return;
      toast(error.message, "error");
      this.ended(this.count);
      return;
    }
    this.removeAttribute("aria-busy");
    this.show();
    if (this.queue[1]) {
      this.following = this.pair(this.queue[1]);
      this.following.catch(() => {}); // told when it is waited for
    }
  }

  show() {
    const side = (item, i) =>
      h(
        "button",
        {
          type: "button",
          class: "side",
          onclick: () => this.take(i),
          "aria-label": `${["Left", "Right"][i]} is better${item.text ? `: ${item.text}` : ""}`,
        },
        item.text ?? shown(item),
      );
    const act = (name, key, work) =>
      h(
        "button",
        { type: "button", onclick: work },
        `${name} `,
        key && h("kbd", { "aria-hidden": "true" }, key),
      );
    this.replaceChildren(
      h("p", { class: "asked", "aria-live": "polite" }, this.queue[0]),
      h("div", { class: "sides" }, this.sides.map(side)),
      h(
        "div",
        { class: "row" },
        h(
          "span",
          { class: "soft grow" },
          h("kbd", {}, "←"),
          " or ",
          h("kbd", {}, "→"),
          " is better",
        ),
        act("Skip", "↓", () => this.advance()),
        act("Take back", "⌫", () => this.undo()),
        act("Done", null, () => this.ended(this.count)),
      ),
      h(
        "p",
        { class: "soft figures", role: "status" },
        `${this.count} pairs in ${this.file} · ${this.queue.length} prompts left`,
      ),
    );
  }

  pressed(event) {
    const writing = event.target.closest?.("input, textarea, select, dialog");
    if (!this.sides || writing || event.ctrlKey || event.metaKey || event.altKey) return;
    const work = {
      ArrowLeft: () => this.take(0),
      ArrowRight: () => this.take(1),
      ArrowDown: () => this.advance(),
      Backspace: () => this.undo(),
    }[event.key];
    if (!work) return;
    event.preventDefault();
    work();
  }

  async take(better) {
    const sides = this.sides;
    if (!sides) return;
    this.sides = null; // a second key does not count
    this.querySelectorAll(".side")[better].classList.add("taken");
    try {
      const [chosen, rejected] = await Promise.all([sides[better], sides[1 - better]].map(sent));
      this.count = (
        await post("/v1/preferences", { file: this.file, prompt: this.queue[0], chosen, rejected })
      ).pairs;
    } catch (error) {
      toast(error.message, "error");
    }
    this.advance();
  }

  advance() {
    this.queue.shift();
    this.next();
  }

  async undo() {
    if (!this.count) return;
    this.count = (await post(`/v1/preferences/${this.file}/undo`)).pairs;
    toast("The last pair is taken back.");
    if (this.sides) this.show();
  }
}

// Texts as they are, pictures as data URLs.
function sent({ text, blob }) {
  if (text !== undefined) return text;
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ image_url: reader.result });
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

customElements.define("label-round", LabelRound);
export const labelRound = (options) => document.createElement("label-round").setup(options);
