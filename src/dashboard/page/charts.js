// Lines over time: a uPlot canvas with a legend that has the numbers, and a table for those who do not see the canvas.

/* global uPlot */
import { el, setText, svg } from "./dom.js";
import { NONE, clock } from "./format.js";

const HEIGHT = 210;
const TABLE_ROWS = 15;
// Steps of an axis of things that are counted.
const WHOLE = [1, 2, 5].flatMap((n) => Array.from({ length: 8 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b);
const LINES = [
  { color: "--c1", dash: [] },
  { color: "--c2", dash: [7, 4] },
  { color: "--c3", dash: [2, 3] },
  { color: "--c4", dash: [9, 3, 2, 3] },
];

// A canvas needs colours, not names of colours: an element of that colour tells them.
const probe = el("span", { hidden: "" });
document.body.append(probe);
function colorOf(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

const all = new Set();
// After a change of the theme.
export const repaintAll = () => all.forEach((chart) => chart.build());

// Seconds only where minutes would repeat.
function times(at) {
  const fine = at.length > 1 && at[1] - at[0] < 60;
  return at.map((s) => clock(s * 1000).slice(0, fine ? 8 : 5));
}

// A line's break: more time than this between two rows.
const GAP_S = 7;

// options: {title, series: [{label, value(row)}], text(value), log, whole, height}. value() gives a number or null.
export class TimeChart {
  constructor(place, options) {
    this.place = place;
    this.options = options;
    this.rows = [];
    this.plot = null;
    this.width = 0;
    this.make();
    all.add(this);
    new ResizeObserver(() => this.fit()).observe(this.canvas);
  }

  make() {
    const { title, series } = this.options;
    this.values = series.map(() => el("b", {}, NONE));
    const legend = series.map(({ label }, i) =>
      el("li", { class: `s${i + 1}` },
        svg("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" }, svg("line", { x1: 0, y1: 5, x2: 28, y2: 5 })),
        `${label} `, this.values[i]));
    this.at = el("li", {}, "");
    this.canvas = el("div", { class: "plot", role: "img", "aria-label": title });
    this.body = el("tbody");
    this.table = el("details", {}, el("summary", {}, `${title}: the numbers`),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}: the numbers` },
        el("table", {},
          el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "left" }, "Time"),
            ...series.map(({ label }) => el("th", { scope: "col" }, label)))),
          this.body)));
    this.table.addEventListener("toggle", () => this.fillTable());
    this.place.replaceChildren(el("figure", {}, el("ul", { class: "legend" }, ...legend, this.at), this.canvas, this.table));
  }

  // Another meaning for the same lines, e.g. another template.
  choose(options) {
    Object.assign(this.options, options);
    this.update(this.rows);
  }

  fit() {
    const width = Math.floor(this.canvas.clientWidth);
    if (width < 50 || width === this.width) return;
    this.width = width;
    if (this.plot === null) this.build();
    else this.plot.setSize({ width, height: this.options.height ?? HEIGHT });
  }

  axis(more) {
    const line = { stroke: colorOf("--grid"), width: 1 };
    return { stroke: colorOf("--soft"), grid: line, ticks: line, font: "12px system-ui, sans-serif", ...more };
  }

  build() {
    if (this.width === 0) return;
    this.plot?.destroy();
    const { series, text, log, whole } = this.options;
    const range = log
      ? (_, min, max) => (min === null || min <= 0 ? [0.001, 1] : uPlot.rangeLog(min, max, 10, false))
      : (_, min, max) => (max === null ? [0, 1] : [0, Math.max(max * 1.1, this.options.least ?? 1)]);
    this.plot = new uPlot({
      width: this.width,
      height: this.options.height ?? HEIGHT,
      padding: [8, 26, 0, 0], // room for half of the last time
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range, ...(log && { distr: 3, log: 10 }) } },
      axes: [
        this.axis({ values: (_, at) => times(at), space: 70, size: 30 }),
        this.axis({
          values: (_, at) => at.map((v) => (v === null ? "" : text(v))), size: 66, space: 32, ...(whole && { incrs: WHOLE }),
        }),
      ],
      series: [{}, ...series.map(({ label }, i) => ({
        label, stroke: colorOf(LINES[i].color), width: 2, dash: LINES[i].dash, points: { show: false }, spanGaps: false,
      }))],
      hooks: { setCursor: [(plot) => this.fillLegend(plot.cursor.idx)] },
    }, this.columns(), this.canvas);
  }

  // [times, values of the first line, ...]; a row without a number ends a line where time is missing.
  columns() {
    const out = [[], ...this.options.series.map(() => [])];
    let last = null;
    for (const row of this.rows) {
      const at = row[0] / 1000;
      if (last !== null && at - last > GAP_S) {
        out[0].push(last + 1);
        for (const column of out.slice(1)) column.push(null);
      }
      out[0].push(at);
      this.options.series.forEach(({ value }, i) => {
        const number = value(row);
        out[i + 1].push(this.options.log && number !== null && number <= 0 ? null : number);
      });
      last = at;
    }
    return out;
  }

  update(rows) {
    this.rows = rows;
    const data = this.columns();
    this.data = data;
    this.plot?.setData(data);
    this.fillLegend(this.plot?.cursor.idx);
    this.fillTable();
  }

  // The numbers at the cursor; without one, the latest.
  fillLegend(index) {
    if (this.data === undefined) return;
    const hovered = index !== null && index !== undefined && this.plot.cursor.left >= 0;
    const at = hovered ? index : this.data[0].length - 1;
    const { title, series, text } = this.options;
    const texts = series.map((_, i) => {
      const value = at < 0 ? null : this.data[i + 1][at];
      return value === null || value === undefined ? NONE : text(value);
    });
    texts.forEach((each, i) => setText(this.values[i], each));
    setText(this.at, hovered ? `at ${clock(this.data[0][at] * 1000)}` : "");
    const said = series.map(({ label }, i) => `${label} ${texts[i]}`).join(", ");
    if (!hovered) this.canvas.setAttribute("aria-label", `${title}; now ${said}`);
  }

  fillTable() {
    if (!this.table.open) return;
    const rows = this.rows.slice(-TABLE_ROWS).reverse();
    const { series, text } = this.options;
    this.body.replaceChildren(...rows.map((row) =>
      el("tr", {}, el("th", { scope: "row", class: "left" }, clock(row[0])),
        ...series.map(({ value }) => {
          const number = value(row);
          return el("td", {}, number === null ? NONE : text(number));
        }))));
  }
}
