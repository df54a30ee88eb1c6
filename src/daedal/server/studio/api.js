// The public API, as any other client has it: requests, streams of events, errors in one sentence.

import { h, dialog, field } from "./dom.js";
import { read, write } from "./keep.js";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function headers(more) {
  const key = read("key", "");
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

// A response that is no error. Where a key is missing it is asked for, once for all that wait.
async function answered(path, options = {}) {
  const ask = () => fetch(path, { ...options, headers: headers(options.headers ?? {}) });
  let response = await ask();
  if (response.status === 401 && (await keyGiven())) response = await ask();
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new ApiError(
    response.status,
    said.error?.message ?? `the server answered ${response.status}.`,
  );
}

let asking;

function keyGiven() {
  asking ??= dialog("API key", (close) => {
    const input = h("input", { type: "password", autocomplete: "off", required: true });
    return h(
      "form",
      {
        class: "stack",
        onsubmit: (event) => {
          event.preventDefault();
          close(input.value.trim());
        },
      },
      h("p", {}, "This server asks for a key. It stays in this browser."),
      field("Key", input),
      h("button", { class: "main" }, "Use it"),
    );
  }).then((key) => {
    asking = undefined;
    if (key) write("key", key);
    return Boolean(key);
  });
  return asking;
}

function sending(body, signal, method = "POST") {
  if (body instanceof FormData) return { method, body, signal };
  return {
    method,
    body: JSON.stringify(body),
    signal,
    headers: { "content-type": "application/json" },
  };
}

export const get = async (path, signal) => (await answered(path, { signal })).json();
export const getText = async (path) => (await answered(path)).text();
export const getBlob = async (path) => (await answered(path)).blob();
export const post = async (path, body = {}, signal = undefined) =>
  (await answered(path, sending(body, signal))).json();
export const postForBlob = async (path, body, signal) =>
  (await answered(path, sending(body, signal))).blob();
export const remove = async (path) => (await answered(path, { method: "DELETE" })).json();

// The events of a stream as objects. An error inside the stream is thrown as one before it is.
export async function* stream(path, body, signal) {
  const options = body === undefined ? { signal } : sending(body, signal);
  const response = await answered(path, options);
  for await (const data of dataOf(response.body)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error?.message && !event.object) throw new ApiError(200, event.error.message);
    yield event;
  }
}

async function* dataOf(source) {
  const reader = source.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const models = async (capability) => {
  const { data } = await get("/v1/models");
  return capability ? data.filter((model) => model.capabilities.includes(capability)) : data;
};

let description;

// The schema of the JSON body of a route, as the server describes itself.
export async function schemaOf(path) {
  description ??= get("/openapi.json");
  const { paths, components } = await description;
  const { schema } = paths[path].post.requestBody.content["application/json"];
  return schema.$ref ? components.schemas[schema.$ref.split("/").pop()] : schema;
}

// A job until it has ended; `update` hears each change. Failed and cancelled jobs are thrown.
export async function followed(id, update, signal) {
  let last;
  for await (const job of stream(`/v1/jobs/${id}/events`, undefined, signal)) {
    last = job;
    update(job);
  }
  if (last?.status !== "completed")
    throw new ApiError(200, last?.error?.message ?? `the job is ${last?.status}.`);
  return last;
}

export function pictureOf(base64, kind = "png") {
  const raw = atob(base64);
  const data = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) data[i] = raw.charCodeAt(i);
  return new Blob([data], { type: `image/${kind}` });
}
