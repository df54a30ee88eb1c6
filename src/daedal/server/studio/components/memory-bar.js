// <memory-bar>: the memory that models share, one stretch for each that is loaded.

import { h, bytes } from "../dom.js";

class MemoryBar extends HTMLElement {
  show({ used, budget }, models) {
    const loaded = models.filter((model) => model.memory);
    const parts = loaded.map((model, i) =>
      h("span", {
        class: `part p${i % 4}`,
        title: `${model.id}: ${bytes(model.memory)}`,
        style: { width: `max(3px, ${(100 * model.memory) / budget}%)` },
      }),
    );
    const text = `${used ? bytes(used) : 0} of ${bytes(budget)} used`;
    this.replaceChildren(
      h(
        "div",
        { class: "row" },
        h("strong", { class: "grow" }, "Memory"),
        h("span", { class: "figures" }, text),
      ),
      h(
        "div",
        {
          class: "track",
          role: "meter",
          "aria-label": "Memory of models",
          "aria-valuemin": 0,
          "aria-valuemax": budget,
          "aria-valuenow": used,
          "aria-valuetext": text,
        },
        parts,
      ),
      h(
        "div",
        { class: "row legend" },
        loaded.map((model, i) =>
          h(
            "span",
            { class: "soft" },
            h("i", { class: `dot p${i % 4}` }),
            `${model.id} ${bytes(model.memory)}`,
          ),
        ),
        loaded.length
          ? null
          : h("span", { class: "soft" }, "No model is loaded; each loads when it is asked for."),
      ),
    );
    return this;
  }
}

customElements.define("memory-bar", MemoryBar);
