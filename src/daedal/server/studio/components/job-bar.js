// A job's progress: a bar, what it says of itself, and a button that stops it.

import { followed, post } from "../api.js";
import { h, bytes } from "../dom.js";

export function jobBar(job, title, { done = () => {}, signal } = {}) {
  const bar = h("progress", { max: 100, value: job.progress, "aria-label": title });
  const state = h("span", { class: "soft figures", role: "status" }, job.status);
  const stop = h(
    "button",
    { type: "button", class: "small", onclick: () => post(`/v1/jobs/${job.id}/cancel`) },
    "Stop",
  );
  const element = h(
    "div",
    { class: "job" },
    h("div", { class: "row" }, h("strong", { class: "grow" }, title), state, stop),
    bar,
  );
  const update = (now) => {
    bar.value = now.progress;
    state.textContent = words(now);
  };
  followed(job.id, update, signal)
    .then(done)
    .catch((error) => {
      if (signal?.aborted) return;
      state.classList.add("error");
      state.textContent = error.message;
      stop.remove();
    })
    .finally(() => {
      if (!state.classList.contains("error")) stop.remove();
    });
  return element;
}

function words({ status, progress, detail }) {
  if (status !== "in_progress") return status === "queued" ? "waits" : status;
  const amount = detail.total ? `${bytes(detail.bytes)} of ${bytes(detail.total)}` : "";
  return [amount, progress ? `${progress.toFixed(0)} %` : "under way"].filter(Boolean).join(" · ");
}
