// A thing made, or being made: its card in the gallery, and the dialog with its recipe.

import { h, ago, dialog, download } from "../dom.js";
import { seedOf } from "./makers.js";

export function pictureElement(blob, alt) {
  const url = URL.createObjectURL(blob);
  const picture = h("img", {
    src: url,
    alt,
    onload: () => {
      picture.classList.toggle("tiny", picture.naturalWidth <= 160); // its pixels are what there is to see
      URL.revokeObjectURL(url);
    },
  });
  return picture;
}

// "image", "audio" or "video", of what is no text.
export const kindOf = (item) => item.blob?.type.split("/")[0];

const SUFFIX = { "image/png": "png", "audio/mpeg": "mp3", "video/mp4": "mp4" };

export function shown(item) {
  if (kindOf(item) === "image") return pictureElement(item.blob, item.prompt);
  if (kindOf(item) === "video") return clipElement(item);
  return h("p", { class: "written" }, item.prompt, h("mark", {}, item.text));
}

// A clip that plays by itself, without a sound, where nobody asked for less motion.
function clipElement(item) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  return h("video", {
    src: URL.createObjectURL(item.blob),
    "aria-label": item.prompt,
    autoplay: !still,
    loop: true,
    muted: true,
    playsinline: true,
    preload: "auto",
  });
}

// A player, of what can be heard.
const player = (item) =>
  kindOf(item) === "audio" &&
  h("audio", {
    controls: true,
    preload: "metadata",
    class: "player",
    "aria-label": item.prompt,
    src: URL.createObjectURL(item.blob),
  });

// A card whose content changes while it becomes.
export function liveCard(asked, stop) {
  const stage = h(
    "div",
    { class: "picture waiting" },
    h("span", { class: "soft" }, "waiting for the model …"),
  );
  const state = h("span", { class: "soft grow", role: "status" }, asked.model);
  const card = h(
    "article",
    { class: "work live", "aria-label": `Being made: ${asked.prompt}` },
    stage,
    h(
      "div",
      { class: "row caption" },
      state,
      h("button", { type: "button", class: "small", onclick: stop }, "Stop"),
    ),
  );
  return {
    card,
    preview(part) {
      stage.classList.remove("waiting");
      stage.replaceChildren(shown({ prompt: asked.prompt, ...part }));
    },
    failed(message) {
      card.replaceChildren(
        h("div", { class: "picture" }, h("p", { class: "error written" }, message)),
        h(
          "div",
          { class: "row caption" },
          h("span", { class: "grow" }),
          h("button", { type: "button", class: "small", onclick: () => card.remove() }, "Dismiss"),
        ),
      );
    },
  };
}

// `actions` are {name: work(item)}.
export function workCard(item, actions) {
  const open = () => details(item, actions);
  return h(
    "article",
    { class: "work" },
    h(
      "button",
      { type: "button", class: "picture", onclick: open, "aria-label": `Open: ${item.prompt}` },
      shown(item),
    ),
    player(item) || "",
    h(
      "div",
      { class: "row caption" },
      h("span", { class: "grow clip", title: item.prompt }, item.prompt),
      ["Again", "Vary"].map(
        (name) =>
          actions[name] &&
          h(
            "button",
            {
              type: "button",
              class: "quiet small",
              title: name === "Again" ? "The same seed: the same result" : "Another seed",
              onclick: () => actions[name](item),
            },
            name,
          ),
      ),
    ),
  );
}

function details(item, actions) {
  return dialog(
    item.prompt,
    (close) => {
      const does = (name) => () => {
        close();
        actions[name](item);
      };
      const facts = [
        ["Model", item.model],
        ["Seed", seedOf(item)],
        ["Size", item.size],
        ["Made", ago(item.at)],
        ["Digest", item.recipe?.digest?.slice(0, 12)],
      ];
      return [
        h("div", { class: "viewer" }, shown(item), player(item) || ""),
        item.remarks?.length ? h("p", { class: "sentence" }, item.remarks.join(" ")) : null,
        h(
          "div",
          { class: "row actions" },
          Object.keys(actions).map((name) =>
            h(
              "button",
              { type: "button", class: name === "Delete" ? "danger" : "", onclick: does(name) },
              name,
            ),
          ),
          item.blob
            ? h(
                "button",
                {
                  type: "button",
                  onclick: () => download(item.blob, `${item.prompt.slice(0, 40)}.${SUFFIX[item.blob.type] ?? "png"}`),
                },
                "Save",
              )
            : null,
        ),
        h(
          "dl",
          { class: "facts" },
          facts
            .filter(([, value]) => value)
            .map(([name, value]) => [
              h("dt", {}, name),
              h("dd", { class: "figures" }, String(value)),
            ]),
        ),
        h(
          "details",
          {},
          h("summary", {}, "Recipe"),
          h("pre", { class: "sentence scroll", tabindex: 0 }, JSON.stringify(item.recipe, null, 2)),
        ),
      ].filter(Boolean);
    },
    "wide",
  );
}
