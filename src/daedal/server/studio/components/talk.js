// A conversation as a tree: a message that is edited, or asked for again, is a branch beside the one
// that was there. `leaf` is the message whose path is shown.

import { read, write } from "../keep.js";

const newId = () => Math.random().toString(36).slice(2, 11);

export const talks = () => Object.values(read("talks", {})).sort((a, b) => b.at - a.at);

export function newTalk(settings = {}) {
  return {
    id: newId(),
    title: "New conversation",
    at: Date.now() / 1000,
    system: "",
    nodes: {},
    leaf: null,
    ...settings,
  };
}

export function kept(talk) {
  const all = read("talks", {});
  talk.at = Date.now() / 1000;
  if (!Object.keys(talk.nodes).length) return true;
  return write("talks", { ...all, [talk.id]: talk });
}

export function forgotten(talk) {
  const { [talk.id]: _, ...rest } = read("talks", {});
  write("talks", rest);
}

export function add(talk, node, parent = talk.leaf) {
  const id = newId();
  talk.nodes[id] = { ...node, id, parent };
  talk.leaf = id;
  if (!parent && node.role === "user")
    talk.title = node.content.trim().slice(0, 60) || "Conversation";
  return talk.nodes[id];
}

// Messages from the first to the leaf.
export function path(talk, leaf = talk.leaf) {
  const found = [];
  for (let node = talk.nodes[leaf]; node; node = talk.nodes[node.parent]) found.unshift(node);
  return found;
}

// The branches that a message is one of, the oldest first.
export const branches = (talk, node) =>
  Object.values(talk.nodes).filter((each) => each.parent === node.parent);

// Show another branch, to its newest end.
export function turnTo(talk, node) {
  let last = node;
  for (;;) {
    const next = Object.values(talk.nodes)
      .filter((each) => each.parent === last.id)
      .at(-1);
    if (!next) break;
    last = next;
  }
  talk.leaf = last.id;
}

// The messages of a request: attached files stand before the words, each under its name.
export function messagesOf(talk, leaf) {
  const said = path(talk, leaf).map(
    ({ role, content, files, tool_calls: calls, tool_call_id: call }) => {
      const attached = (files ?? [])
        .map((file) => `File ${file.name}:\n\`\`\`\n${file.text}\n\`\`\`\n\n`)
        .join("");
      const message = { role, content: attached + content };
      if (calls?.length) message.tool_calls = calls;
      if (call) message.tool_call_id = call;
      return message;
    },
  );
  return talk.system.trim() ? [{ role: "system", content: talk.system.trim() }, ...said] : said;
}

// The pieces of a streamed answer, put together into a node.
export function grow(node, delta) {
  node.content += delta.content ?? "";
  node.reasoning = (node.reasoning ?? "") + (delta.reasoning_content ?? "");
  for (const piece of delta.tool_calls ?? []) {
    node.tool_calls ??= [];
    node.tool_calls[piece.index] ??= {
      id: piece.id,
      type: "function",
      function: { name: "", arguments: "" },
    };
    const call = node.tool_calls[piece.index].function;
    call.name += piece.function?.name ?? "";
    call.arguments += piece.function?.arguments ?? "";
  }
}
