// A report of `daedal eval`: every number that has an interval as a point on its line, and in a
// table; what has none beside it.

import { h, svg } from "../dom.js";
import { short } from "./line-plot.js";

const ROW = 26;
const LEFT = 190;
const WIDTH = 640;

// A number and its interval, however the report has it: {value, low, high}, or with its bounds or
// its half width beside it. Null where it has none.
function interval(name, value, beside) {
  if (typeof value === "object") return "low" in value && "high" in value ? value : null;
  const half = beside[`${name}_ci95`];
  const [low, high] =
    half === undefined
      ? [beside[`${name}_low`], beside[`${name}_high`]]
      : [value - half, value + half];
  return low === undefined ? null : { value, low, high, n: beside.documents ?? beside.n ?? "" };
}

// [name, {value, low, high, n}] of all measured numbers, and [name, value] of the others.
function parted(report, before = "") {
  const found = { measured: [], plain: [] };
  for (const [name, value] of Object.entries(report)) {
    if (value === null || Array.isArray(value) || /_(ci95|low|high)$/.test(name)) continue;
    const full = before + name.replaceAll("_", " ");
    const measured = interval(name, value, report);
    if (measured) {
      found.measured.push([full, measured]);
    } else if (typeof value === "object") {
      const inner = parted(value, `${full}, `);
      found.measured.push(...inner.measured);
      found.plain.push(...inner.plain);
    } else {
      found.plain.push([full, value]);
    }
  }
  return found;
}

// Whether it is a share of something: those stand on one scale.
const isShare = ({ low, high, value }) => low >= 0 && high <= 1 && value <= 1;

export function reportView(report) {
  const { measured, plain } = parted(report);
  const shares = measured.filter(([name, each]) => isShare(each) && !/bits/.test(name));
  const others = measured.filter((each) => !shares.includes(each));
  return h(
    "div",
    { class: "report" },
    shares.length ? intervals("Shares, with 95 % intervals", shares, 0, 1) : null,
    others.map(([name, each]) =>
      intervals(
        name,
        [[name, each]],
        each.low - (each.high - each.low),
        each.high + (each.high - each.low),
      ),
    ),
    measured.length ? table(measured) : null,
    h(
      "dl",
      { class: "facts" },
      plain
        .filter(([name]) => name !== "model")
        .map(([name, value]) => [
          h("dt", {}, name),
          h("dd", { class: "figures" }, typeof value === "number" ? short(value) : value),
        ]),
    ),
  );
}

function intervals(title, rows, low, high) {
  const x = (value) => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - 16);
  const height = rows.length * ROW + 24;
  const line = ([name, { value, low: from, high: to }], i) => {
    const y = i * ROW + 14;
    return [
      svg("text", { x: LEFT - 12, y: y + 4, "text-anchor": "end" }, name),
      svg("line", { x1: LEFT, x2: WIDTH - 16, y1: y, y2: y }),
      svg("line", { class: "range", x1: x(from), x2: x(to), y1: y, y2: y }),
      svg("circle", { cx: x(value), cy: y, r: 5 }),
    ];
  };
  const drawn = svg(
    "svg",
    {
      class: "intervals",
      viewBox: `0 0 ${WIDTH} ${height}`,
      role: "img",
      "aria-label": `${title}; the table has the numbers`,
    },
    rows.map(line),
    [low, (low + high) / 2, high].map((value, i) =>
      svg(
        "text",
        { x: x(value), y: height - 4, "text-anchor": ["start", "middle", "end"][i] },
        short(value),
      ),
    ),
  );
  return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": title }, drawn);
}

function table(rows) {
  const head = ["Measure", "Value", "95 % interval", "n"].map((name, i) =>
    h("th", { scope: "col", class: i ? "figures" : null }, name),
  );
  return h(
    "details",
    {},
    h("summary", {}, "As a table"),
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, head)),
        h(
          "tbody",
          {},
          rows.map(([name, { value, low, high, n }]) =>
            h(
              "tr",
              {},
              h("td", {}, name),
              h("td", { class: "figures" }, short(value)),
              h("td", { class: "figures" }, `${short(low)} to ${short(high)}`),
              h("td", { class: "figures" }, n),
            ),
          ),
        ),
      ),
    ),
  );
}
