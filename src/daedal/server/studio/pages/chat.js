// Chat: conversations kept in this browser, with branches, files, JSON, functions.

import { stream } from "../api.js";
import { h, ago, empty, toast } from "../dom.js";
import { chatOptions } from "../components/chat-options.js";
import { bodyOf, messageElement } from "../components/message.js";
import { modelSelect } from "../components/model-select.js";
import * as talk from "../components/talk.js";

const FILE_LIMIT = 200_000; // characters of an attached file

class ChatPage extends HTMLElement {
  async connectedCallback() {
    this.list = h("nav", { class: "talks", "aria-label": "Conversations" });
    this.thread = h("section", { class: "thread", "aria-label": "Messages" });
    this.box = h("textarea", {
      rows: 2,
      "aria-label": "Message",
      placeholder: "Write a message",
      required: true,
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          this.form.requestSubmit();
        }
      },
    });
    this.attached = h("div", { class: "row" });
    this.files = [];
    const attach = h(
      "label",
      { class: "button small" },
      "Attach text",
      h("input", {
        type: "file",
        multiple: true,
        class: "unseen",
        onchange: (event) => this.attach(event.target),
      }),
    );
    this.send = h("button", { class: "main" }, "Send");
    this.place = h("span", { class: "grow" });
    this.optionsPlace = h("div");
    this.form = h(
      "form",
      {
        class: "sheet stack",
        onsubmit: (event) => {
          event.preventDefault();
          this.submit();
        },
      },
      this.box,
      this.attached,
      h("div", { class: "row" }, this.place, attach, this.send),
      this.optionsPlace,
    );
    const fresh = h(
      "button",
      { type: "button", onclick: () => this.open(talk.newTalk()) },
      "New conversation",
    );
    this.append(
      h("header", { class: "head" }, h("div", {}, h("h1", {}, "Chat")), fresh),
      h(
        "div",
        { class: "chat" },
        h("aside", {}, this.list),
        h("div", { class: "column" }, this.thread, this.form),
      ),
    );
    this.open(talk.talks().find((each) => each.id === this.args?.[0]) ?? talk.newTalk());
    this.model = await modelSelect("chat", { label: "Model" });
    this.place.replaceChildren(this.model);
  }

  disconnectedCallback() {
    this.stopping?.abort();
  }

  open(found) {
    this.stopping?.abort();
    this.talk = found;
    this.options = chatOptions(found, (changed) => Object.assign(this.talk, changed));
    this.optionsPlace.replaceChildren(this.options.details);
    this.show();
    this.box.focus({ preventScroll: true });
  }

  show() {
    const nodes = talk.path(this.talk);
    this.thread.replaceChildren(...nodes.map((node) => this.element(node)));
    if (!nodes.length)
      this.thread.append(
        empty(
          "Say something",
          "Conversations stay in this browser. Enter sends, Shift+Enter begins a line.",
        ),
      );
    this.list.replaceChildren(
      h(
        "ul",
        {},
        talk.talks().map((each) =>
          h(
            "li",
            {},
            h(
              "button",
              {
                type: "button",
                class: "quiet clip",
                "aria-current": each.id === this.talk.id ? "true" : null,
                title: `${each.title}, ${ago(each.at)}`,
                onclick: () => this.open(each),
              },
              each.title,
            ),
            h(
              "button",
              {
                type: "button",
                class: "quiet",
                "aria-label": `Delete ${each.title}`,
                onclick: () => this.forget(each),
              },
              "✕",
            ),
          ),
        ),
      ),
    );
  }

  forget(each) {
    talk.forgotten(each);
    if (each.id === this.talk.id) this.open(talk.newTalk());
    else this.show();
  }

  element(node) {
    const last = node.id === this.talk.leaf;
    const call = last && node.tool_calls?.[0];
    return messageElement(node, talk.branches(this.talk, node), {
      edit: (content) => this.say({ role: "user", content, files: node.files }, node.parent),
      retry: () => this.answer(node.parent),
      turn: (other) => {
        talk.turnTo(this.talk, other);
        talk.kept(this.talk);
        this.show();
      },
      answer: call
        ? (content) => this.say({ role: "tool", content, tool_call_id: call.id }, node.id)
        : null,
    });
  }

  async attach(input) {
    for (const file of input.files) {
      const text = await file.text();
      if (text.includes("\0")) toast(`${file.name} is no text; no model here reads it.`, "error");
      else if (text.length > FILE_LIMIT)
        toast(`${file.name} is longer than ${FILE_LIMIT.toLocaleString()} characters.`, "error");
      else this.files.push({ name: file.name, text });
    }
    input.value = "";
    this.attached.replaceChildren(
      ...this.files.map((file, i) =>
        h(
          "button",
          {
            type: "button",
            class: "small",
            "aria-label": `Remove ${file.name}`,
            onclick: () => {
              this.files.splice(i, 1);
              this.attach({ files: [] });
            },
          },
          `${file.name} ✕`,
        ),
      ),
    );
  }

  submit() {
    if (this.stopping) {
      this.stopping.abort(); // the button says Stop while it is answered
      return;
    }
    const files = this.files.splice(0);
    this.attached.replaceChildren();
    const content = this.box.value;
    this.box.value = "";
    this.say({ role: "user", content, files }, this.talk.leaf);
  }

  say(node, parent) {
    const added = talk.add(this.talk, node, parent);
    return this.answer(added.id);
  }

  async answer(parent) {
    let asked;
    try {
      asked = {
        ...this.options.request(),
        model: this.model?.value,
        messages: talk.messagesOf(this.talk, parent),
      };
    } catch (error) {
      toast(error.message, "error");
      this.show();
      return;
    }
    const node = talk.add(
      this.talk,
      { role: "assistant", content: "", model: asked.model },
      parent,
    );
    const stop = this.begin();
    this.show();
    try {
      await this.listen(node, asked, stop.signal);
    } catch (error) {
      if (!stop.signal.aborted) node.error = error.message;
    }
    if (!talk.kept(this.talk)) toast("This browser has no room to keep the conversation.", "error");
    this.end(stop);
  }

  begin() {
    this.stopping?.abort();
    this.stopping = new AbortController();
    this.send.textContent = "Stop";
    this.send.classList.remove("main");
    this.box.required = false;
    return this.stopping;
  }

  end(stop) {
    if (this.stopping !== stop) return;
    this.stopping = null;
    this.send.textContent = "Send";
    this.send.classList.add("main");
    this.box.required = true;
    this.show();
  }

  async listen(node, asked, signal) {
    const asking = performance.now();
    let due = false;
    const body = () => this.thread.lastElementChild?.querySelector(".body");
    for await (const event of stream(
      "/v1/chat/completions",
      { ...asked, stream: true, stream_options: { include_usage: true } },
      signal,
    )) {
      const delta = event.choices[0]?.delta;
      if (delta) talk.grow(node, delta);
      if (event.daedal?.documents) node.sources = event.daedal.documents.sources;
      if (event.usage) {
        node.tokens = event.usage.completion_tokens;
        node.rate = node.tokens / Math.max((performance.now() - asking) / 1000, 0.001);
      }
      if (due) continue;
      due = true; // draw once a frame, whatever comes within it
      requestAnimationFrame(() => {
        due = false;
        body()?.replaceWith(bodyOf(node));
        this.follow();
      });
    }
  }

  // Keep the end in sight, unless the reader has scrolled away from it.
  follow() {
    const page = document.scrollingElement;
    if (page.scrollHeight - page.scrollTop - page.clientHeight < 260)
      page.scrollTop = page.scrollHeight;
  }
}

customElements.define("page-chat", ChatPage);
