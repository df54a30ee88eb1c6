// Code: a file to work on, what is wanted, and an answer with what was run and what passed.

import { post, stream } from "../api.js";
import { h, empty, field, segmented, select, toast } from "../dom.js";
import { read, write } from "../keep.js";
import { codeBlock } from "../components/code-block.js";
import { modelSelect } from "../components/model-select.js";

// verb: what the button says, which of the fields it has, what it does
const VERBS = {
  write: ["Write", ["task"], "A function from words, drawn several times, run and compared."],
  solve: ["Solve", ["task", "n"], "Many samples, run on inputs that nobody gave; the largest group that agrees."],
  complete: ["Complete", [], "What belongs at the cursor. Control and the space bar do the same."],
  explain: ["Explain", [], "The code in plain words."],
  test: ["Test", [], "Asserts that hold, and that small faults in the code fail."],
  fix: ["Fix", ["failing"], "Mended until what fails passes."],
  review: ["Review", [], "Real faults, one a line."],
  translate: ["Translate", ["to"], "Run beside the original where both can run."],
};
const START = 'def longest(words):\n    """The longest of some words; the first of several."""\n    ';

class CodePage extends HTMLElement {
  async connectedCallback() {
    this.stopping = new AbortController();
    this.text = h("textarea", {
      class: "editor",
      rows: 16,
      spellcheck: "false",
      autocomplete: "off",
      autocapitalize: "off",
      value: read("code", START),
      oninput: () => write("code", this.text.value),
      onkeydown: (event) => {
        if (!event.ctrlKey || event.key !== " ") return;
        event.preventDefault();
        this.ask("complete");
      },
    });
    this.task = h("textarea", { rows: 3, value: read("code.task", "") });
    this.failing = h("textarea", { rows: 3, value: "assert longest(['a', 'bcd', 'ef']) == 'bcd'" });
    this.to = select(["javascript", "c", "bash", "go", "rust"].map((name) => [name]), "javascript");
    this.n = h("input", { type: "number", min: 1, max: 256, value: 16 });
    this.extra = h("div", { class: "stack" });
    this.help = h("p", { class: "soft" });
    this.go = h("button", { class: "main" });
    this.found = h("section", { class: "stack", "aria-label": "Answer", "aria-live": "polite" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Code"),
          h("p", {}, "What is written is run in a sandbox, and only what passed is claimed."),
        ),
      ),
      h(
        "div",
        { class: "bench" },
        h(
          "form",
          {
            class: "sheet stack",
            onsubmit: (event) => {
              event.preventDefault();
              this.ask(this.verb);
            },
          },
          field("Code", this.text),
          segmented(
            "What to do",
            Object.entries(VERBS).map(([verb, [name]]) => [verb, name]),
            "write",
            (verb) => this.shape(verb),
          ),
          this.help,
          this.extra,
          (this.row = h("div", { class: "row end" }, this.go)),
        ),
        this.found,
      ),
    );
    this.shape("write");
    this.found.append(empty("Nothing asked yet", "Say what a function should do and press Write."));
    const choice = await modelSelect("text", { label: "Model", kept: "code" });
    this.model = choice;
    this.row.prepend(choice);
  }

  disconnectedCallback() {
    this.stopping.abort();
  }

  shape(verb) {
    this.verb = verb;
    const [name, fields, help] = VERBS[verb];
    const known = {
      task: () => field("What it should do", this.task, "With examples, such as f(2) == 4, more can be checked."),
      failing: () => field("What fails", this.failing, "Asserts, or a traceback."),
      to: () => field("Into", this.to),
      n: () => field("Samples", this.n),
    };
    this.go.textContent = name;
    this.help.textContent = help;
    this.extra.replaceChildren(...fields.map((each) => known[each]()));
  }

  async ask(verb) {
    write("code.task", this.task.value);
    const asked = {
      model: this.model.value,
      code: this.text.value,
      task: this.task.value,
      failing: this.failing.value,
      to: this.to.value,
      n: Number(this.n.value),
    };
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.stopping.signal.addEventListener("abort", () => this.asking.abort());
    this.go.disabled = true;
    const stages = h("ul", { class: "stages" });
    this.found.replaceChildren(h("p", { class: "soft waiting" }, "At work…"), stages);
    try {
      if (verb === "complete") await this.complete(asked, signal);
      else if (verb === "solve") this.show(await solved(asked, stages, signal), verb);
      else this.show(await post(`/v1/code/${verb}`, asked, signal), verb);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.found.replaceChildren(h("p", { class: "sentence error" }, error.message));
    } finally {
      this.go.disabled = false;
    }
  }

  // What comes is put in at the cursor and selected: typing replaces it, an arrow keeps it.
  async complete(asked, signal) {
    const at = this.text.selectionStart;
    const before = this.text.value.slice(0, at);
    const line = before.split("\n").length;
    const column = at - before.lastIndexOf("\n") - 1;
    const made = await post("/v1/code/complete", { ...asked, line, column }, signal);
    this.found.replaceChildren(
      h("p", { class: "soft" }, made.remark || (made.text ? "Put in at the cursor." : "Nothing belongs there.")),
    );
    this.text.setRangeText(made.text, at, this.text.selectionEnd, "select");
    this.text.focus();
    write("code", this.text.value);
  }

  show(made, verb) {
    if (made.text !== undefined) {
      this.found.replaceChildren(h("p", { class: "prose" }, made.text));
      return;
    }
    const language = verb === "translate" ? this.to.value : "python";
    const sure = made.sure ?? (made.code && made.passed === made.examples && made.examples > 0);
    const use = h(
      "button",
      {
        type: "button",
        onclick: () => {
          this.text.value = verb === "test" ? `${this.text.value.trimEnd()}\n\n\n${made.code}` : made.code;
          write("code", this.text.value);
          toast("In the editor");
        },
      },
      verb === "test" ? "Add to the code" : "Use it",
    );
    this.found.replaceChildren(
      h("p", { class: sure ? "verdict good" : "verdict" }, made.verdict),
      made.code ? codeBlock(made.code, language) : "",
      made.diff ? h("details", {}, h("summary", {}, "What changed"), codeBlock(made.diff, "diff")) : "",
      made.code && verb !== "translate" ? h("div", { class: "row end" }, use) : "",
    );
  }
}

// The end of a search, whose stages are listed as they come.
async function solved(asked, list, signal) {
  let last;
  for await (const stage of stream("/v1/code/solve", asked, signal)) {
    last = stage;
    const { stage: name, ...facts } = stage;
    if (name === "solved") continue;
    const said = Object.entries(facts).map(([key, value]) => `${key} ${value}`);
    list.append(h("li", {}, h("strong", {}, name), " ", said.join(", ")));
  }
  return last;
}

customElements.define("page-code", CodePage);
