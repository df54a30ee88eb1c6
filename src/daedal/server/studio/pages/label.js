// Label: what is compared, by which models, into which file; and the files of pairs there are.

import { get, getBlob, remove } from "../api.js";
import { h, download, empty, field, segmented, toast } from "../dom.js";
import { read, write } from "../keep.js";
import { labelRound } from "../components/label-round.js";
import { modelSelect } from "../components/model-select.js";

const EXAMPLES = {
  text: "Tell me a story about a dog.\nTell me a story about the sea.\nTell me a story about a red hat.",
  image: "a red apple, noto\ngrinning face, twemoji flat\ntwo blue stars on a black background",
};

class LabelPage extends HTMLElement {
  connectedCallback() {
    this.setup = h("form", {
      class: "sheet stack",
      onsubmit: (event) => {
        event.preventDefault();
        this.begin();
      },
    });
    this.stage = h("div");
    this.files = h("div", { class: "scroll" });
    this.switcher = h("div");
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Label"),
          h(
            "p",
            {},
            "Say which of two is better. The pairs teach models: DPO, reward models, raters of pictures.",
          ),
        ),
        this.switcher,
      ),
      h(
        "div",
        { class: "stack" },
        this.setup,
        this.stage,
        h("h2", {}, "Files of pairs"),
        this.files,
      ),
    );
    this.compose(read("label.medium", "text"));
    this.list();
  }

  async compose(medium) {
    this.medium = medium;
    write("label.medium", medium);
    this.stage.replaceChildren();
    this.setup.hidden = false;
    this.switcher.replaceChildren(
      segmented(
        "What is compared",
        [
          ["text", "Texts"],
          ["image", "Pictures"],
        ],
        medium,
        (name) => this.compose(name),
      ),
    );
    this.prompts = h("textarea", {
      rows: 4,
      required: true,
      value: read(`label.prompts.${medium}`, EXAMPLES[medium]),
    });
    this.file = h("input", {
      required: true,
      pattern: "[a-z0-9][a-z0-9_\\-]{0,40}",
      value: read(`label.file.${medium}`, medium === "text" ? "answers" : "pictures"),
      autocomplete: "off",
    });
    const kind = medium === "text" ? "chat" : medium;
    const first = await modelSelect(kind, { kept: `label.${kind}` });
    const second = await modelSelect(kind, { kept: `label.second.${kind}`, none: true });
    if (medium !== this.medium) return;
    [this.first, this.second] = [first, second];
    second.options[0].textContent = "itself, another seed";
    this.setup.replaceChildren(
      field("Prompts, one a line", this.prompts),
      h(
        "div",
        { class: "settings" },
        field("Model", first),
        field("Against", second),
        field("File", this.file, "What is there stays; its prompts are not asked again."),
      ),
      h("div", { class: "row end" }, h("button", { class: "main" }, "Begin")),
    );
  }

  async begin() {
    const file = this.file.value;
    write(`label.prompts.${this.medium}`, this.prompts.value);
    write(`label.file.${this.medium}`, file);
    const { data } = await get("/v1/preferences");
    const there = data.some((each) => each.id === file);
    const done = there ? (await get(`/v1/preferences/${file}`)).prompts : [];
    const prompts = this.prompts.value
      .split("\n")
      .map((line) => line.trim())
      .filter((line) => line && !done.includes(line));
    if (!prompts.length) {
      toast("The file has all of these prompts; write others.", "error");
      return;
    }
    this.setup.hidden = true;
    const models = [this.first.value, this.second.value || this.first.value];
    this.stage.replaceChildren(
      labelRound({
        medium: this.medium,
        models,
        file,
        prompts,
        count: done.length,
        ended: (count) => this.finish(file, count),
      }),
    );
  }

  finish(file, count) {
    this.setup.hidden = false;
    this.stage.replaceChildren(
      h(
        "p",
        { class: "sentence", role: "status" },
        `${count} pairs in ${file}. `,
        h("a", { href: "#/train" }, "Train on them"),
      ),
    );
    this.list();
  }

  async list() {
    const { data } = await get("/v1/preferences");
    const act = (file, name, work, kind = "") =>
      h(
        "button",
        {
          type: "button",
          class: `small ${kind}`,
          "aria-label": `${name} ${file.id}`,
          onclick: work,
        },
        name,
      );
    const row = (file) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, file.id),
        h("td", {}, { text: "texts", image: "pictures" }[file.kind] ?? "empty"),
        h("td", { class: "figures" }, file.pairs),
        h(
          "td",
          {},
          h(
            "div",
            { class: "row end" },
            act(file, "Save", async () =>
              download(await getBlob(`/v1/preferences/${file.id}/content`), `${file.id}.jsonl`),
            ),
            act(
              file,
              "Delete",
              async () => {
                await remove(`/v1/preferences/${file.id}`);
                this.list();
              },
              "danger",
            ),
          ),
        ),
      );
    const head = [["File"], ["Of"], ["Pairs", "figures"]].map(([name, kind]) =>
      h("th", { scope: "col", class: kind }, name),
    );
    this.files.replaceChildren(
      data.length
        ? h(
            "table",
            {},
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                head,
                h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")),
              ),
            ),
            h("tbody", {}, data.map(row)),
          )
        : empty("None yet", "The first pair makes the file."),
    );
  }
}

customElements.define("page-label", LabelPage);
