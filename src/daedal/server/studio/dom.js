// Elements from code. Text is always a text node: nothing that a model or a server says is read as
// HTML anywhere in the studio.

const SVG = "http://www.w3.org/2000/svg";

// h("button", {class: "main", onclick: go, disabled: true}, "Go", icon)
export function h(tag, props = {}, ...children) {
  return filled(document.createElement(tag), props, children);
}

export function svg(tag, props = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (["value", "checked", "selected", "muted"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

let numbers = 0;

// A control under its label, with a line of help that screen readers read too.
export function field(label, control, help) {
  const id = `f${++numbers}`;
  control.id ||= id;
  const hint = help ? h("small", { id: `${id}-help` }, help) : null;
  if (hint) control.setAttribute("aria-describedby", hint.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint);
}

// One of several, as radio buttons that look like a switch.
export function segmented(label, options, chosen, change) {
  const name = `s${++numbers}`;
  return h(
    "fieldset",
    { class: "segments" },
    h("legend", { class: "unseen" }, label),
    options.map(([value, text]) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name,
          value,
          checked: value === chosen,
          onchange: () => change(value),
        }),
        h("span", {}, text),
      ),
    ),
  );
}

export function select(options, chosen, props = {}) {
  return h(
    "select",
    props,
    options.map(([value, text]) =>
      h("option", { value, selected: value === chosen }, text ?? value),
    ),
  );
}

// A message that goes away. Errors stay longer.
export function toast(text, kind = "note") {
  const note = h("p", { class: `toast ${kind}`, role: kind === "error" ? "alert" : null }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "error" ? 9000 : 4000);
}

// A dialog over the page, closed by Escape or its button; resolves with what `close` was given.
export function dialog(title, build, kind = "") {
  return new Promise((resolve) => {
    let result;
    const close = (value) => {
      result = value;
      box.close();
    };
    const id = `d${++numbers}`;
    const box = h(
      "dialog",
      {
        class: kind,
        "aria-labelledby": id,
        onclose: () => {
          box.remove();
          resolve(result);
        },
      },
      h(
        "header",
        {},
        h("h2", { id }, title),
        h(
          "button",
          { type: "button", class: "quiet", "aria-label": "Close", onclick: () => close() },
          "✕",
        ),
      ),
    );
    document.body.append(box);
    box.append(...[build(close)].flat());
    box.showModal();
  });
}

export function bytes(count) {
  if (!count) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(count) / 3), 4);
  const value = count / 1000 ** power;
  return `${value >= 100 || !power ? value.toFixed(0) : value.toFixed(1)} ${units[power]}`;
}

export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  if (past < 60) return "just now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  return new Date(seconds * 1000).toLocaleDateString();
}

export const empty = (title, text, ...more) =>
  h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), ...more);

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
