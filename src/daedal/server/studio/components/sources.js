// An answer from documents: the numbers of its sources can be clicked and show the passage.

import { h } from "../dom.js";

// `prose` with its marks [1], [2] as buttons, and a place for the passage below it.
export function cited(prose, sources) {
  if (!sources?.length) return prose;
  const place = h("div", { "aria-live": "polite" });
  let open = null;
  const show = (source) => {
    open = open === source ? null : source;
    place.replaceChildren(...(open ? [passage(source)] : []));
  };
  const walker = document.createTreeWalker(prose, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(walker.currentNode);
  for (const text of texts) {
    const parts = text.data.split(/\[(\d+)\]/);
    if (parts.length > 1)
      text.replaceWith(
        ...parts.map((part, i) => {
          const source = i % 2 ? sources[Number(part) - 1] : null;
          return source ? mark(source, () => show(source)) : i % 2 ? `[${part}]` : part;
        }),
      );
  }
  return h("div", { class: "stack" }, prose, place);
}

function mark(source, work) {
  return h(
    "button",
    {
      type: "button",
      class: "quiet small cite",
      title: `${source.file}, ${source.place}`,
      "aria-label": `Source ${source.number}`,
      onclick: work,
    },
    `[${source.number}]`,
  );
}

function passage(source) {
  const where = [source.file, source.heading, source.place].filter(Boolean).join(", ");
  return h(
    "figure",
    { class: "source" },
    h("figcaption", { class: "soft" }, where),
    h("blockquote", {}, source.text),
  );
}
