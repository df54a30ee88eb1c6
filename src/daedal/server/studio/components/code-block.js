// Code with its colours and a button that copies it. One scanner for all languages: comments,
// strings, numbers and the words that most languages reserve.

import { h, toast } from "../dom.js";

const WORDS = new Set(
  (
    "and as assert async await break case catch class const continue def default del do elif else enum except export extends " +
    "False final finally fn for from func function if impl import in interface is lambda let loop match mod mut new nil None not null or package pass private " +
    "public pub raise return self static struct super switch then this throw trait True true false try type use var void where while with yield " +
    "SELECT FROM WHERE INSERT UPDATE DELETE CREATE TABLE JOIN GROUP ORDER BY"
  ).split(" "),
);
const HASHES = new Set(["python", "py", "sh", "bash", "yaml", "yml", "toml", "ruby", "r", ""]);
const SCAN =
  /(\/\/[^\n]*|\/\*[^]*?(?:\*\/|$))|(#[^\n]*)|("""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?)|(\b\d[\w.]*\b)|([A-Za-z_$][\w$]*)/g;

export function codeBlock(text, language = "") {
  const copy = h(
    "button",
    { type: "button", class: "quiet small", onclick: () => copied(text) },
    "Copy",
  );
  return h(
    "div",
    { class: "code-block" },
    h("div", {}, h("span", {}, language || "code"), copy),
    h("pre", { tabindex: 0 }, h("code", {}, coloured(text, language.toLowerCase()))),
  );
}

export async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not allow copying here.", "error");
  }
}

function coloured(text, language) {
  const made = [];
  let last = 0;
  for (const found of text.matchAll(SCAN)) {
    const [all, slashes, hash, string, number, word] = found;
    const comment = (slashes && !HASHES.has(language)) || (hash && HASHES.has(language));
    const kind = comment ? "c" : string ? "t" : number ? "n" : WORDS.has(word) ? "k" : "";
    if (!kind) continue;
    made.push(text.slice(last, found.index), h("span", { class: kind }, all));
    last = found.index + all.length;
  }
  return [...made, text.slice(last)];
}
