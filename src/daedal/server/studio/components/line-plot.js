// <line-plot>: numbers over steps as lines, drawn again as they come. The pointer, or the arrow keys
// on the focused plot, read single values.

import { h, svg } from "../dom.js";

const HEIGHT = 170;
const EDGE = { left: 54, right: 14, top: 12, bottom: 26 };

class LinePlot extends HTMLElement {
  connectedCallback() {
    this.watch = new ResizeObserver(() => {
      if (this.points && this.clientWidth !== this.drawnAt) this.show(this.name, this.points);
    });
    this.watch.observe(this);
  }

  disconnectedCallback() {
    this.watch.disconnect();
  }

  // `points` are [step, value] or [step, value, low, high].
  show(title, points) {
    this.points = points;
    this.name = title;
    this.drawnAt = this.clientWidth;
    this.width = Math.max(this.clientWidth - 34, 260); // less its edges: text keeps its size
    const [first, last] = [points[0][0], points.at(-1)[0]];
    const values = points.flatMap(([, value, low = value, high = value]) => [value, low, high]);
    const [low, high] = padded(Math.min(...values), Math.max(...values));
    this.x = (step) =>
      EDGE.left +
      ((step - first) / Math.max(last - first, 1)) * (this.width - EDGE.left - EDGE.right);
    this.y = (value) =>
      HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
    this.mark = svg("g", { class: "mark" });
    const plot = svg(
      "svg",
      {
        viewBox: `0 0 ${this.width} ${HEIGHT}`,
        role: "img",
        tabindex: 0,
        "aria-label": `${title}: ${short(points[0][1])} at step ${first}, ${short(points.at(-1)[1])} at step ${last}`,
      },
      this.axes(first, last, low, high),
      this.band(),
      svg("path", { class: "line", d: this.path() }),
      this.mark,
    );
    plot.addEventListener("pointermove", (event) => this.read(this.nearest(event, plot)));
    plot.addEventListener("pointerleave", () => this.read(points.length - 1));
    plot.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.read(Math.min(Math.max(this.at + by, 0), points.length - 1));
    });
    this.output = h("output", {});
    this.replaceChildren(
      h("div", { class: "row" }, h("h2", { class: "grow" }, title), this.output),
      plot,
    );
    this.read(points.length - 1);
    return this;
  }

  axes(first, last, low, high) {
    const text = (x, y, content, anchor) => svg("text", { x, y, "text-anchor": anchor }, content);
    const levels = [0, 1, 2, 3].map((i) => low + ((high - low) * i) / 3);
    return svg(
      "g",
      { class: "axes" },
      levels.map((level) => [
        svg("line", {
          x1: EDGE.left,
          x2: this.width - EDGE.right,
          y1: this.y(level),
          y2: this.y(level),
        }),
        text(EDGE.left - 8, this.y(level) + 4, short(level), "end"),
      ]),
      text(EDGE.left, HEIGHT - 6, first, "start"),
      text(this.width - EDGE.right, HEIGHT - 6, `step ${last}`, "end"),
    );
  }

  band() {
    if (this.points[0].length < 4) return null;
    const edge = (place) =>
      this.points.map((point) => `${this.x(point[0])},${this.y(point[place])}`);
    return svg("polygon", { class: "band", points: [...edge(3), ...edge(2).reverse()].join(" ") });
  }

  path() {
    return this.points
      .map(
        ([step, value], i) =>
          `${i ? "L" : "M"}${this.x(step).toFixed(1)} ${this.y(value).toFixed(1)}`,
      )
      .join("");
  }

  nearest(event, plot) {
    const box = plot.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width;
    let best = 0;
    this.points.forEach(([step], i) => {
      if (Math.abs(this.x(step) - x) < Math.abs(this.x(this.points[best][0]) - x)) best = i;
    });
    return best;
  }

  read(i) {
    this.at = i;
    const [step, value, low, high] = this.points[i];
    this.mark.replaceChildren(svg("circle", { cx: this.x(step), cy: this.y(value), r: 4 }));
    this.output.textContent = `${short(value)}${low === undefined ? "" : ` [${short(low)}, ${short(high)}]`} at step ${step}`;
  }
}

function padded(low, high) {
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  if (low === high) return low >= 0 ? [0, high * 2 || 1] : [low * 2, 0];
  return [low >= 0 ? Math.max(low - room, 0) : low - room, high + room];
}

export function short(value) {
  if (Number.isInteger(value)) return value.toLocaleString();
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e5)) return value.toExponential(2);
  return size >= 100 ? value.toFixed(0) : value.toFixed(3);
}

customElements.define("line-plot", LinePlot);
