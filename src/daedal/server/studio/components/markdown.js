// Markdown as elements: headings, lists, quotes, tables, code, emphasis, links. Every word ends in a
// text node, and a link goes to http, https or mailto or is no link.

import { h } from "../dom.js";
import { codeBlock } from "./code-block.js";

export function markdown(text) {
  return h("div", { class: "prose" }, blocks(text.replaceAll("\r\n", "\n").split("\n")));
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const BORDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function blocks(lines) {
  const made = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = line.match(/^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/);
    const heading = line.match(/^ {0,3}(#{1,6})\s+(.*?)\s*#*$/);
    if (!line.trim()) {
      i += 1;
    } else if (fence) {
      const end = lines.findIndex((each, k) => k > i && each.trim().startsWith(fence[1]));
      const stop = end < 0 ? lines.length : end; // a fence still being written is code already
      made.push(codeBlock(lines.slice(i + 1, stop).join("\n"), fence[2]));
      i = stop + 1;
    } else if (heading) {
      made.push(h(`h${Math.min(heading[1].length + 1, 6)}`, {}, inline(heading[2])));
      i += 1;
    } else if (RULE.test(line)) {
      made.push(h("hr"));
      i += 1;
    } else {
      const taken = taker(lines, i)(lines, i);
      made.push(taken.element);
      i = taken.next;
    }
  }
  return made;
}

function taker(lines, i) {
  if (/^ {0,3}>/.test(lines[i])) return quote;
  if (ITEM.test(lines[i])) return list;
  if (lines[i].includes("|") && BORDER.test(lines[i + 1] ?? "")) return table;
  return paragraph;
}

function until(lines, start, ends) {
  let next = start + 1;
  while (next < lines.length && !ends(lines[next])) next += 1;
  return next;
}

function quote(lines, start) {
  const next = until(lines, start, (line) => !/^ {0,3}>/.test(line));
  const inner = lines.slice(start, next).map((line) => line.replace(/^ {0,3}> ?/, ""));
  return { element: h("blockquote", {}, blocks(inner)), next };
}

function list(lines, start) {
  const [, indent, mark] = lines[start].match(ITEM);
  const ordered = /\d/.test(mark);
  const items = [];
  let next = start;
  while (next < lines.length) {
    const found = lines[next].match(ITEM);
    if (found && found[1].length <= indent.length) {
      if (/\d/.test(found[2]) !== ordered || found[1].length < indent.length) break;
      items.push([found[3]]);
    } else if (lines[next].trim() && !/^\s/.test(lines[next])) {
      break;
    } else if (!lines[next].trim() && !/^\s|^([-*+]|\d+[.)])\s/.test(lines[next + 1] ?? "")) {
      break;
    } else {
      items.at(-1).push(lines[next].slice(Math.min(indent.length + 2, lines[next].search(/\S|$/))));
    }
    next += 1;
  }
  const first = ordered ? { start: parseInt(mark, 10) } : {};
  return { element: h(ordered ? "ol" : "ul", first, items.map(item)), next };
}

function item(lines) {
  const made = blocks(lines);
  return h(
    "li",
    {},
    made.length && made[0].tagName === "P" ? [[...made[0].childNodes], made.slice(1)] : made,
  );
}

function table(lines, start) {
  const next = until(lines, start + 1, (line) => !line.includes("|"));
  const cells = (line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split("|")
      .map((cell) => inline(cell.trim()));
  const row = (tag) => (line) =>
    h(
      "tr",
      {},
      cells(line).map((cell) => h(tag, {}, cell)),
    );
  const element = h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Table" },
    h(
      "table",
      {},
      h("thead", {}, row("th")(lines[start])),
      h("tbody", {}, lines.slice(start + 2, next).map(row("td"))),
    ),
  );
  return { element, next };
}

function paragraph(lines, start) {
  const ends = (line) =>
    !line.trim() || /^ {0,3}(#{1,6}\s|```|~~~|>)/.test(line) || ITEM.test(line);
  const next = until(lines, start, ends);
  return { element: h("p", {}, inline(lines.slice(start, next).join("\n"))), next };
}

const SPANS = [
  [/`+([^`]|[^`][^]*?[^`])`+/, (m) => h("code", {}, m[1])],
  [
    /\*\*(?=\S)([^]*?\S)\*\*|(?<!\w)__(?=\S)([^]*?\S)__(?!\w)/,
    (m) => h("strong", {}, inline(m[1] ?? m[2])),
  ],
  [
    /\*(?=[^\s*])([^*]*?[^\s*])\*|(?<!\w)_(?=\S)([^_]*?\S)_(?!\w)/,
    (m) => h("em", {}, inline(m[1] ?? m[2])),
  ],
  [/~~(?=\S)([^]*?\S)~~/, (m) => h("del", {}, inline(m[1]))],
  [/!?\[([^\]]*)\]\(([^()\s]*)(?:\s+"[^"]*")?\)/, (m) => link(m[1], m[2])],
  [/https?:\/\/[^\s<>()]+[^\s<>().,;:!?'"]/, (m) => link(m[0], m[0])],
  [/ {2,}\n|\\\n/, () => h("br")],
];

function link(text, address) {
  if (!/^(https?:|mailto:)/i.test(address)) return text;
  return h("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, text);
}

// The spans of a line, the leftmost first.
function inline(text) {
  const made = [];
  while (text) {
    let best = null;
    for (const [pattern, build] of SPANS) {
      const found = pattern.exec(text);
      if (found && (!best || found.index < best.found.index)) best = { found, build };
    }
    if (!best) return [...made, text];
    made.push(text.slice(0, best.found.index), best.build(best.found));
    text = text.slice(best.found.index + best.found[0].length);
  }
  return made;
}
