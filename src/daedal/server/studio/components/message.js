// One message of a conversation, and what can be done with it.

import { h } from "../dom.js";
import { copied } from "./code-block.js";
import { markdown } from "./markdown.js";
import { cited } from "./sources.js";

const NAMES = { user: "You", assistant: "Model", tool: "Function" };

export function bodyOf(node) {
  return h(
    "div",
    { class: "body" },
    node.reasoning?.trim()
      ? h("details", {}, h("summary", {}, "Thoughts"), markdown(node.reasoning))
      : null,
    (node.files ?? []).map((file) => h("span", { class: "tag" }, file.name)),
    node.role === "user"
      ? h("p", { class: "said" }, node.content)
      : cited(markdown(node.content), node.sources),
    (node.tool_calls ?? [])
      .filter(Boolean)
      .map((call) =>
        h(
          "p",
          { class: "call" },
          "calls ",
          h("code", {}, `${call.function.name}(${call.function.arguments})`),
        ),
      ),
    node.error ? h("p", { class: "error", role: "alert" }, node.error) : null,
  );
}

function pager(node, among, turn) {
  if (among.length < 2) return null;
  const at = among.findIndex((each) => each.id === node.id);
  const step = (by, text, label) =>
    h(
      "button",
      {
        type: "button",
        class: "quiet small",
        "aria-label": label,
        disabled: !among[at + by],
        onclick: () => turn(among[at + by]),
      },
      text,
    );
  return h(
    "span",
    { class: "row pager" },
    step(-1, "‹", "Branch before"),
    h("span", { class: "figures soft" }, `${at + 1}/${among.length}`),
    step(1, "›", "Next branch"),
  );
}

// `acts` are {edit, retry, turn, answer}; the last answers a call of a function.
export function messageElement(node, among, acts) {
  const action = (text, work) =>
    h("button", { type: "button", class: "quiet small", onclick: work }, text);
  const stats = node.rate
    ? h(
        "span",
        {
          class: "figures soft",
          title: "Tokens of the answer, and how fast they came, reading the question included",
        },
        `${node.tokens} tok · ${node.rate.toFixed(0)} tok/s`,
      )
    : null;
  const element = h(
    "article",
    { class: `message ${node.role}`, "aria-label": `${NAMES[node.role]} said` },
    h(
      "header",
      { class: "row" },
      h("h2", {}, node.role === "assistant" ? (node.model ?? "Model") : NAMES[node.role]),
      stats,
    ),
    bodyOf(node),
    h(
      "footer",
      { class: "row" },
      pager(node, among, acts.turn),
      action("Copy", () => copied(node.content)),
      node.role === "user"
        ? action("Edit", () =>
            element.querySelector(".body").replaceWith(editor(node.content, acts.edit)),
          )
        : null,
      node.role === "assistant" ? action("Retry", acts.retry) : null,
      acts.answer
        ? action("Answer the call", () =>
            element.append(editor("", acts.answer, "What the function gives back")),
          )
        : null,
    ),
  );
  return element;
}

function editor(text, done, label = "Edit the message") {
  const box = h("textarea", { rows: 3, value: text, "aria-label": label, required: true });
  const form = h(
    "form",
    {
      class: "stack body",
      onsubmit: (event) => {
        event.preventDefault();
        done(box.value);
      },
    },
    box,
    h(
      "div",
      { class: "row" },
      h("button", { class: "main small" }, "Send"),
      h("small", {}, "The old branch stays."),
    ),
  );
  setTimeout(() => box.focus());
  return form;
}
