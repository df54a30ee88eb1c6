// A form made from a recipe: what it sets, with its own values as hints; everything else that its
// task knows under "More". Sections are keys with dots, as on the command line.

import { get, post } from "../api.js";
import { h, dialog, field, select } from "../dom.js";
import { codeBlock } from "./code-block.js";
import { settingsForm } from "./settings-form.js";

const PAIRS = { preference: "text", reward: "text", rate: "image" }; // tasks that learn from pairs
const MODELS = /(^|\.)(start|teacher)$/; // keys of text that name a model

export async function recipeDialog(id) {
  const [recipe, { data: files }] = await Promise.all([
    get(`/v1/recipes/${id}`),
    get("/v1/preferences"),
  ]);
  return dialog(
    `Train: ${recipe.id}`,
    (close) => {
      const name = h("input", {
        pattern: "[a-z0-9][a-z0-9_\\-]{0,40}",
        placeholder: recipe.id.split("/").pop(),
        autocomplete: "off",
      });
      const usable = files.filter((file) => file.kind === PAIRS[recipe.task]);
      const pairs = select(
        [
          ["", "the recipe's own"],
          ...usable.map((file) => [file.id, `${file.id} (${file.pairs} pairs)`]),
        ],
        "",
      );
      const settings = formOf(recipe);
      const prompts = h("textarea", {
        rows: 3,
        placeholder: (recipe.values.prompts ?? []).join("\n"),
      });
      const said = h("p", { class: "error", role: "alert" });
      const submit = async (event) => {
        event.preventDefault();
        try {
          close(
            await post("/v1/trainings", {
              recipe: recipe.id,
              name: name.value || undefined,
              preferences: pairs.value || undefined,
              settings: { ...settings.value, ...lines(prompts.value) },
            }),
          );
        } catch (error) {
          said.textContent = error.message;
        }
      };
      return h(
        "form",
        { class: "stack", onsubmit: submit },
        h("p", { class: "soft" }, recipe.about),
        field("Name of the run", name, "Small letters, digits, - and _."),
        recipe.task in PAIRS
          ? field("Pairs", pairs, "What was labelled here, in place of the recipe's data.")
          : null,
        settings,
        recipe.schema.properties.prompts
          ? field("Prompts", prompts, "What it makes samples of, one a line.")
          : null,
        h("details", {}, h("summary", {}, "The recipe"), codeBlock(recipe.yaml, "yaml")),
        said,
        h("div", { class: "row end" }, h("button", { class: "main" }, "Start")),
      );
    },
    "wide",
  );
}

// Prompts, one a line, where there are any.
function lines(text) {
  const prompts = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return prompts.length ? { prompts } : {};
}

function formOf(recipe) {
  const properties = flat(recipe.schema, recipe.schema, "");
  const own = values(recipe.values, "");
  const known = Object.keys(properties).filter(
    (name) => name !== "out" && name !== "task" && allowed(name, properties[name]),
  );
  const first = [
    "steps",
    ...Object.keys(own).filter((name) => name !== "steps" && known.includes(name)),
  ];
  const hints = Object.fromEntries(
    known.map((name) => [name, hint(own[name] ?? properties[name].default)]),
  );
  return settingsForm({
    schema: { properties: Object.fromEntries(known.map((name) => [name, properties[name]])) },
    first,
    hints,
    all: true,
  });
}

const hint = (value) => (value === undefined || value === null ? "the task's own" : String(value));

// A text is given only where it is one of some, or a model's name: nothing here names files.
function allowed(name, schema) {
  const kinds = schema.anyOf ?? [schema];
  return (
    kinds.some((kind) => kind.enum || ["integer", "number", "boolean"].includes(kind.type)) ||
    MODELS.test(name)
  );
}

// The properties of a schema and of its sections, one level down. A section's own default says what
// its keys are where they are left out.
function flat(schema, whole, before, own = {}) {
  const found = {};
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const section = sectionOf(property, whole);
    if (section && !before)
      Object.assign(found, flat(section, whole, `${name}.`, property.default ?? {}));
    else if (!section)
      found[before + name] = { ...property, default: own[name] ?? property.default };
  }
  return found;
}

function sectionOf(property, whole) {
  const kinds = (property.anyOf ?? [property]).filter((kind) => kind.$ref);
  return kinds
    .map((kind) => whole.$defs[kind.$ref.split("/").pop()])
    .find((each) => each?.properties);
}

function values(section, before) {
  const found = {};
  for (const [name, value] of Object.entries(section)) {
    if (value && typeof value === "object" && !Array.isArray(value))
      Object.assign(found, values(value, `${before}${name}.`));
    else found[before + name] = value;
  }
  return found;
}
