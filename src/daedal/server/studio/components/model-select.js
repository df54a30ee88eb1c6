// A choice among the models that can do a kind of work; the last one chosen is chosen again.

import { models } from "../api.js";
import { h } from "../dom.js";
import { read, write } from "../keep.js";

export async function modelSelect(
  capability,
  { label = null, kept = capability, none = false, change = () => {} } = {},
) {
  const found = await models(capability);
  // the first whose foremost work it is
  const names = found
    .sort((a, b) => (b.capabilities[0] === capability) - (a.capabilities[0] === capability))
    .map((model) => model.id);
  const last = read(`model.${kept}`, none ? "" : names[0]);
  const options = none ? ["", ...names] : names;
  return h(
    "select",
    {
      "aria-label": label,
      onchange: (event) => {
        write(`model.${kept}`, event.target.value);
        change(event.target.value);
      },
    },
    options.map((name) => h("option", { value: name, selected: name === last }, name || "none")),
  );
}
