// How a conversation is answered: the system prompt, JSON, functions, the settings of the route.

import { schemaOf } from "../api.js";
import { h, field, select } from "../dom.js";
import { settingsForm } from "./settings-form.js";

const EXAMPLE = `[{"name": "weather", "description": "The weather of a city.",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]`;
const FIRST = ["temperature", "top_p", "max_tokens", "seed", "documents"];

// A form in a `details`; `request()` gives the fields that it means, and throws what is no JSON.
export function chatOptions(talk, changed) {
  const system = h("textarea", {
    rows: 2,
    value: talk.system,
    placeholder: "none",
    onchange: () => changed({ system: system.value }),
  });
  const form = select(
    [
      ["text", "words"],
      ["json_object", "any JSON"],
      ["json_schema", "JSON of a schema"],
    ],
    talk.form ?? "text",
    { onchange: () => shown() },
  );
  const schema = h("textarea", {
    rows: 4,
    class: "code",
    value: talk.schema ?? "",
    placeholder: '{"type": "object", "properties": {"name": {"type": "string"}}}',
  });
  const tools = h("textarea", {
    rows: 4,
    class: "code",
    value: talk.tools ?? "",
    placeholder: EXAMPLE,
  });
  const memory = h("input", { type: "checkbox", checked: talk.memory ?? false });
  const schemaField = field("Schema", schema);
  const place = h("div");
  let settings = null;
  const shown = () => {
    schemaField.hidden = form.value !== "json_schema";
  };
  shown();
  const details = h(
    "details",
    {
      ontoggle: async () => {
        if (!details.open || settings) return;
        settings = settingsForm({
          schema: await schemaOf("/v1/chat/completions"),
          first: FIRST,
          hints: { documents: "no" },
          leave: ["n", "logprobs", "ignore_eos", "stop"],
          given: talk.settings,
        });
        place.append(settings);
      },
    },
    h("summary", {}, "Options"),
    h(
      "div",
      { class: "stack" },
      field("System prompt", system),
      field("Answers are", form),
      schemaField,
      field(
        "Functions",
        tools,
        "A JSON list of functions that the model may call. You answer its calls.",
      ),
      h("label", { class: "inline" }, memory, "Remember what I say, and use what I said before"),
      place,
    ),
  );

  return {
    details,
    request() {
      const fields = settings ? settings.value : (talk.settings ?? {});
      changed({
        system: system.value,
        form: form.value,
        schema: schema.value,
        tools: tools.value,
        memory: memory.checked,
        settings: fields,
      });
      const asked = { ...fields };
      if (memory.checked) asked.memory = true;
      if (form.value === "json_object") asked.response_format = { type: "json_object" };
      if (form.value === "json_schema")
        asked.response_format = {
          type: "json_schema",
          json_schema: { name: "answer", schema: parsed(schema.value, "schema") },
        };
      if (tools.value.trim())
        asked.tools = parsed(tools.value, "list of functions").map((each) => ({
          type: "function",
          function: each.function ?? each,
        }));
      return asked;
    },
  };
}

function parsed(text, what) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The ${what} is not JSON: ${error.message}`);
  }
}
