// Create: a prompt becomes content of any medium, with what it becomes in sight, and a gallery.

import { models } from "../api.js";
import { h, empty, segmented, toast } from "../dom.js";
import { gallery, read, write } from "../keep.js";
import { editDialog, extendDialog } from "../components/edit-dialogs.js";
import { MAKERS, randomSeed, repeated } from "../components/makers.js";
import { modelSelect } from "../components/model-select.js";
import { settingsForm } from "../components/settings-form.js";
import { kindOf, liveCard, workCard } from "../components/work-card.js";

class CreatePage extends HTMLElement {
  async connectedCallback() {
    this.stopping = new AbortController();
    this.switcher = h("div");
    this.composer = h("form", {
      class: "sheet composer",
      onsubmit: (event) => {
        event.preventDefault();
        this.create();
      },
    });
    this.more = h("button", { type: "button", class: "more", hidden: true }, "Show older ones");
    this.grid = h("section", { class: "gallery", "aria-label": "Gallery" });
    this.append(
      h(
        "header",
        { class: "head" },
        h(
          "div",
          {},
          h("h1", {}, "Create"),
          h("p", {}, "Say what is to be there. It is made on this machine."),
        ),
        this.switcher,
      ),
      this.composer,
      this.grid,
      this.more,
    );
    this.compose(read("medium", "image"));
    this.fill();
    const can = new Set((await models()).flatMap((model) => model.capabilities));
    const media = Object.keys(MAKERS).filter((name) => can.has(name)); // what the server's models say
    if (media.length > 1)
      this.switcher.replaceChildren(
        segmented(
          "Medium",
          media.map((name) => [name, MAKERS[name].name]),
          this.medium,
          (name) => this.compose(name),
        ),
      );
    else if (media.length && media[0] !== this.medium) this.compose(media[0]);
  }

  disconnectedCallback() {
    this.stopping.abort();
  }

  // The box of a medium. It stands at once; models and settings come when they are known.
  async compose(medium) {
    this.medium = medium in MAKERS ? medium : "image";
    write("medium", this.medium);
    const maker = MAKERS[this.medium];
    const written = this.prompt?.value ?? this.args?.[1] ?? "";
    this.prompt = h("textarea", {
      rows: 3,
      required: true,
      "aria-label": "Prompt",
      placeholder: maker.example,
      value: written,
      onkeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey))
          this.composer.requestSubmit();
      },
    });
    this.choices = h("div", { class: "row grow choices" });
    this.settings = null;
    const more = h(
      "details",
      { ontoggle: () => this.openSettings(more) },
      h("summary", {}, "Settings"),
    );
    const own =
      this.medium === "image" &&
      h(
        "label",
        { class: "button" },
        "Edit a picture of yours",
        h("input", {
          type: "file",
          accept: "image/*",
          class: "unseen",
          onchange: (event) => this.editOwn(event.target),
        }),
      );
    this.composer.replaceChildren(
      this.prompt,
      h(
        "div",
        { class: "row" },
        this.choices,
        own || "",
        h("button", { class: "main", title: "Ctrl+Enter" }, maker.verb),
      ),
      more,
    );
    const first = await modelSelect(this.medium);
    const second = await modelSelect(this.medium, {
      kept: `${this.medium}.second`,
      none: true,
    });
    if (maker !== MAKERS[this.medium]) return; // switched meanwhile
    [this.first, this.second] = [first, second];
    this.choices.replaceChildren(
      h("label", { class: "inline" }, "Model", first),
      h("label", { class: "inline" }, "Compare with", second),
    );
  }

  async openSettings(place) {
    if (!place.open || this.settings) return;
    const { schema, first, leave } = MAKERS[this.medium];
    this.settings = settingsForm({ schema: await schema(), first, leave });
    place.append(this.settings);
  }

  create() {
    if (this.settings && !this.settings.valid()) return;
    const settings = this.settings?.value ?? {};
    const asked = { prompt: this.prompt.value, model: this.first?.value, settings };
    if (!this.second?.value) {
      this.make(this.medium, asked);
      return;
    }
    const seed = settings.seed ?? randomSeed(); // of both, so that only the models differ
    const pair = h("div", {
      class: "pair",
      role: "group",
      "aria-label": "Two models side by side",
    });
    this.place(pair);
    for (const model of [this.first.value, this.second.value]) {
      this.make(this.medium, { ...asked, model, settings: { ...settings, seed } }, pair);
    }
  }

  place(card) {
    this.grid.querySelector(".empty")?.remove();
    this.grid.prepend(card);
  }

  async make(medium, asked, pair) {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.stopping.signal]);
    const live = liveCard({ ...asked, model: asked.model ?? "" }, () => stop.abort());
    if (pair) pair.append(live.card);
    else this.place(live.card);
    try {
      for await (const { preview, done } of MAKERS[medium].make(asked, signal)) {
        if (preview) live.preview(preview);
        if (done) live.card.before(await this.kept(done, pair));
      }
      live.card.remove();
    } catch (error) {
      if (stop.signal.aborted) live.card.remove();
      else if (!signal.aborted) live.failed(error.message);
    }
  }

  async kept(item, pair) {
    item.id = await gallery.add(item).catch(() => undefined);
    const card = this.card(item);
    if (pair) card.querySelector(".caption").prepend(h("span", { class: "tag on" }, item.model));
    return card;
  }

  card(item) {
    const make = (asked) => asked && this.make(item.medium, asked);
    const picture = kindOf(item) === "image" && {
      Edit: async () => make(await editDialog(item)),
      Extend: async () => make(await extendDialog(item)),
    };
    const card = workCard(item, {
      Again: () => make(repeated(item)),
      Vary: () => make(repeated(item, true)),
      ...picture,
      "Use the prompt": () => {
        this.prompt.value = item.prompt;
        this.prompt.focus();
      },
      Delete: async () => {
        await gallery.remove(item.id);
        card.remove();
        toast("Deleted");
      },
    });
    return card;
  }

  async editOwn(input) {
    const [file] = input.files;
    input.value = ""; // so that the same file can be taken again
    if (!file) return;
    const item = { prompt: this.prompt.value, model: this.first?.value, blob: file };
    try {
      const asked = await editDialog(item);
      if (asked) this.make("image", asked);
    } catch {
      toast(`${file.name} is no picture that this browser reads.`, "error");
    }
  }

  async fill(before) {
    const { items, more } = await gallery.older(before).catch(() => ({ items: [] }));
    this.grid.append(...items.map((item) => this.card(item)));
    this.more.hidden = !more;
    this.more.onclick = () => this.fill(items.at(-1).id);
    if (this.grid.children.length) return;
    const text =
      "What you make stays in this browser, with its recipe: the same seed makes it again, to the byte.";
    this.grid.append(empty("Nothing here yet", text));
  }
}

customElements.define("page-create", CreatePage);
