// Dialogs that ask how a picture is to be changed; each resolves with a request to make, or nothing.

import { h, dialog, field } from "../dom.js";
import { brushMask } from "./brush-mask.js";

function asking(title, item, content, request) {
  return dialog(
    title,
    (close) => {
      const prompt = h("textarea", { rows: 2, required: true, value: item.prompt });
      const said = h("p", { class: "error", role: "alert" });
      const submit = async (event) => {
        event.preventDefault();
        const made = await request();
        if (typeof made === "string") said.textContent = made;
        else close({ model: item.model, prompt: prompt.value, ...made });
      };
      return h(
        "form",
        { class: "stack", onsubmit: submit },
        content,
        field("What is to be there", prompt),
        said,
        h("div", { class: "row end" }, h("button", { class: "main" }, "Paint")),
      );
    },
    "wide",
  );
}

// Paint anew where the brush has marked.
export async function editDialog(item) {
  const brush = await brushMask(item.blob);
  const settings = { size: `${brush.width}x${brush.height}` };
  return asking("Edit with a brush", item, brush, async () => {
    if (!brush.marked) return "Mark with the brush what is to be painted anew.";
    return { settings, source: { image: item.blob, mask: await brush.mask() } };
  });
}

// Paint so many pixels more on each side.
export function extendDialog(item) {
  const sides = ["Left", "Top", "Right", "Bottom"].map((name) => [
    name,
    h("input", { type: "number", min: 0, max: 2048, step: 1, value: 16, required: true }),
  ]);
  const content = h(
    "div",
    { class: "settings" },
    sides.map(([name, input]) => field(`${name}, pixels`, input)),
  );
  return asking("Extend the picture", item, content, () => {
    const extend = sides.map(([, input]) => Number(input.value) || 0);
    if (!extend.some(Boolean)) return "Give at least one side some pixels.";
    return { settings: { extend: extend.join(",") }, source: { image: item.blob } };
  });
}
