// <settings-form>: fields made from the schema of a request's body, with its names, ranges and help.
// `value` has those that were filled in; what is left empty is the model's own choice.

import { h, field, select } from "../dom.js";

// The one type of a field that may also be null.
function plain(schema) {
  const kinds = (schema.anyOf ?? [schema]).filter((kind) => kind.type !== "null");
  return (
    kinds.find((kind) => kind.enum) ??
    kinds.find((kind) => ["integer", "number", "boolean", "string"].includes(kind.type))
  );
}

const words = (name) =>
  name
    .replaceAll("_", " ")
    .replaceAll(".", ": ")
    .replace(/^./, (letter) => letter.toUpperCase());

class SettingsForm extends HTMLElement {
  // `first` are shown at once and in this order, the rest of what the schema describes (or `all` of
  // it) under "More".
  setup({ schema, first = [], leave = [], given = {}, hints = {}, all = false }) {
    this.fields = new Map();
    const known = Object.keys(schema.properties);
    const rest = known.filter(
      (name) =>
        (all || schema.properties[name].description) &&
        !first.includes(name) &&
        !leave.includes(name),
    );
    const made = (names) =>
      names
        .map((name) => this.made(name, schema.properties[name], given[name], hints[name]))
        .filter(Boolean);
    this.replaceChildren(
      h("div", { class: "settings" }, made(first.filter((name) => known.includes(name)))),
    );
    const more = made(rest);
    if (more.length)
      this.append(
        h(
          "details",
          {},
          h("summary", {}, `More (${more.length})`),
          h("div", { class: "settings" }, more),
        ),
      );
    return this;
  }

  made(name, schema, given, hint) {
    const kind = plain(schema);
    if (!kind) return null;
    const control = this.control(kind, given, hint);
    this.fields.set(name, [control, kind]);
    const low = kind.minimum ?? kind.exclusiveMinimum;
    const near = (value) => value !== undefined && Math.abs(value) < 1e6;
    const range = near(low) && near(kind.maximum) ? ` ${low} to ${kind.maximum}.` : "";
    return field(words(name), control, `${schema.description ?? ""}${range}`.trim());
  }

  control(kind, given, hint = "model's own") {
    if (kind.enum || kind.type === "boolean") {
      const options = kind.enum ?? [true, false];
      return select(
        [["", hint], ...options.map((each) => [String(each), String(each)])],
        given === undefined ? "" : String(given),
      );
    }
    const props = { placeholder: hint, value: given ?? "", autocomplete: "off" };
    if (kind.type === "string") return h("input", props);
    const step = kind.type === "integer" ? 1 : "any";
    const small = (value) => (Math.abs(value) < 1e15 ? value : null);
    return h("input", {
      ...props,
      type: "number",
      step,
      min: small(kind.minimum),
      max: small(kind.maximum),
    });
  }

  get value() {
    const found = {};
    for (const [name, [control, kind]] of this.fields) {
      const text = control.value.trim();
      if (text === "") continue;
      if (kind.type === "boolean") found[name] = text === "true";
      else found[name] = kind.type === "string" ? text : Number(text);
    }
    return found;
  }

  // What is wrong is said by the browser at its field.
  valid() {
    return [...this.fields.values()].every(([control]) => control.reportValidity());
  }
}

customElements.define("settings-form", SettingsForm);
export const settingsForm = (options) => document.createElement("settings-form").setup(options);
