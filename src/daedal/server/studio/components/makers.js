// How each medium is made over the public API: a line for each, and nothing else names a medium.
// `make` yields {preview} while it works and {done: item} for each thing that has come.

import { followed, getBlob, pictureOf, post, postForBlob, schemaOf, stream } from "../api.js";

async function* picture({ model, prompt, settings, source }, signal) {
  const fields = { ...settings, model, prompt, stream: true, partial_images: 3 };
  const events = source
    ? stream("/v1/images/edits", form(fields, source), signal)
    : stream("/v1/images/generations", fields, signal);
  for await (const event of events) {
    const blob = pictureOf(event.b64_json, event.output_format);
    if (event.type.endsWith("partial_image")) {
      yield { preview: { blob } };
    } else {
      const {
        recipes: [recipe],
        size,
        remarks,
      } = event.daedal;
      yield {
        done: {
          medium: "image",
          prompt,
          model: event.daedal.model,
          settings,
          source,
          blob,
          size,
          recipe,
          remarks,
          at: Date.now() / 1000,
        },
      };
    }
  }
}

function form(fields, { image, mask }) {
  const body = new FormData();
  body.append("image", image, "picture.png");
  if (mask) body.append("mask", mask, "mask.png");
  for (const [name, value] of Object.entries(fields)) body.append(name, String(value));
  return body;
}

async function* text({ model, prompt, settings }, signal) {
  let whole = "";
  let recipe = null;
  for await (const event of stream(
    "/v1/completions",
    { ...settings, model, prompt, stream: true },
    signal,
  )) {
    whole += event.choices[0]?.text ?? "";
    recipe = event.choices[0]?.daedal?.recipe ?? recipe;
    yield { preview: { text: whole } };
  }
  yield {
    done: { medium: "text", prompt, model, settings, text: whole, recipe, at: Date.now() / 1000 },
  };
}

async function* speech({ model, prompt, settings }, signal) {
  const parts = [];
  let last = 0;
  let recipe = null;
  const fields = { ...settings, model, input: prompt, response_format: "mp3", stream_format: "sse" };
  for await (const event of stream("/v1/audio/speech", fields, signal)) {
    recipe = event.daedal?.recipe ?? recipe;
    if (event.type !== "speech.audio.delta") continue;
    parts.push(Uint8Array.from(atob(event.audio), (c) => c.charCodeAt(0)));
    if (parts.length > last + 20) yield { preview: { text: `${(last = parts.length)} pieces spoken` } };
  }
  const blob = new Blob(parts, { type: "audio/mpeg" });
  yield {
    done: { medium: "speech", prompt, model, settings, blob, recipe, at: Date.now() / 1000 },
  };
}

// of music and of sounds, each by its own route
const heard = (medium, route) =>
  async function* ({ model, prompt, settings }, signal) {
    const fields = { ...settings, model, prompt, response_format: "mp3" };
    const blob = await postForBlob(route, fields, signal);
    yield { done: { medium, prompt, model, settings, blob, at: Date.now() / 1000 } };
  };

async function* clip({ model, prompt, settings }, signal) {
  const job = await post("/v1/videos", { ...settings, model, prompt }, signal);
  const news = [];
  let wake = () => {};
  const end = followed(job.id, (state) => (news.push(state), wake()), signal).finally(() => wake());
  let over = false;
  end.then(() => (over = true), () => (over = true));
  for (;;) {
    while (news.length) yield { preview: { text: `${Math.round(news.shift().progress)} % made` } };
    if (over) break;
    await new Promise((resolve) => (wake = resolve));
  }
  const made = (await end).detail;
  const blob = new Blob([await getBlob(`/v1/videos/${job.id}/content`)], { type: "video/mp4" });
  const { recipe, remarks, size } = made;
  yield { done: { medium: "video", prompt, model, settings, blob, size, recipe, remarks, at: Date.now() / 1000 } };
}

export const MAKERS = {
  image: {
    name: "Picture",
    verb: "Paint",
    make: picture,
    schema: () => schemaOf("/v1/images/generations"),
    first: ["size", "n", "seed", "steps", "guidance_scale", "negative"],
    leave: ["width", "height", "extend", "strength"],
    example: "a red apple above a blue star",
  },
  video: {
    name: "Clip",
    verb: "Film",
    make: clip,
    schema: () => schemaOf("/v1/videos"),
    first: ["seconds", "size", "seed", "steps", "loop"],
    leave: ["input_reference", "model", "prompt"],
    example: "a red circle moves right and bounces off a blue square",
  },
  speech: {
    name: "Speech",
    verb: "Say",
    make: speech,
    schema: () => schemaOf("/v1/audio/speech"),
    first: ["speed", "pitch", "pauses", "seed"],
    leave: ["voice", "instructions", "response_format", "stream_format", "input"],
    example: "Good morning. It is *quite* a day. [pause 0.5s] Shall we begin?",
  },
  music: {
    name: "Music",
    verb: "Play",
    make: heard("music", "/v1/audio/generations"),
    schema: () => schemaOf("/v1/audio/generations"),
    first: ["key", "bpm", "seconds", "instrument", "seed"],
    leave: ["response_format"],
    example: "a lively jig in D major for fiddle, 120 bpm",
  },
  sound: {
    name: "Sound",
    verb: "Make",
    make: heard("sound", "/v1/audio/sounds"),
    schema: () => schemaOf("/v1/audio/sounds"),
    first: ["seconds", "seed", "steps", "guidance_scale", "negative"],
    leave: ["response_format"],
    example: "rain on a tin roof",
  },
  text: {
    name: "Text",
    verb: "Write",
    make: text,
    schema: () => schemaOf("/v1/completions"),
    first: ["max_tokens", "temperature", "top_p", "seed", "stop"],
    leave: ["n", "logprobs"],
    example: "Once upon a time, a lighthouse",
  },
};

export const seedOf = (item) => (item.recipe?.settings.seed ?? 0) + (item.recipe?.sample ?? 0);

// The same request again, with the seed that it had, or with `another` a new one.
export function repeated(item, another = false) {
  const { n: _, seed: __, ...settings } = item.settings ?? {};
  return {
    model: item.model,
    prompt: item.prompt,
    source: item.source,
    settings: another ? settings : { ...settings, seed: seedOf(item) },
  };
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
