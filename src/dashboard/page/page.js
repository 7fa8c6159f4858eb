// The built-in page: takes the daemon's messages and keeps the sections up to date.
//
// It only reads. Nothing is stored but the theme (localStorage) and the token (sessionStorage).

import { TimeChart, repaintAll } from "./charts.js";
import { el, find, setClass, setText } from "./dom.js";
import { count, rate, seconds } from "./format.js";
import { Live, token } from "./stream.js";
import * as views from "./views.js";

const ROWS_MAX = 450;
const FORMAT = 1;
const THEME_KEY = "mayfly-theme";

const rows = new Map(); // by their time, oldest first
let latest = null;
let paused = false;

// --- the rows' columns ------------------------------------------------------------------------

let all = {};      // place of each column of all templates together
let template = {}; // place of each column of one template
const inAll = (name) => (row) => row[1][all[name]] ?? null;
const inTemplate = (index, name) => (row) => row[2][index]?.[template[name]] ?? null;

function takeRows(m) {
  all = Object.fromEntries(m.columns.all.map((name, i) => [name, i]));
  template = Object.fromEntries(m.columns.template.map((name, i) => [name, i]));
  for (const row of m.rows) {
    rows.delete(row[0]);
    rows.set(row[0], row);
  }
  for (const at of rows.keys()) {
    if (rows.size <= ROWS_MAX) break;
    rows.delete(at);
  }
}

// --- charts -----------------------------------------------------------------------------------

const latencyLines = (part) => ({
  title: `Latency of ${views.partName(part)}`,
  series: ["p50", "p90", "p99"].map((q) => ({ label: q, value: inAll(`${part}.${q}S`) })),
});
const parkedLines = (index) => [
  { label: "parked", value: inTemplate(index, "parked") },
  { label: "target", value: inTemplate(index, "parkedTarget") },
  { label: "running", value: inTemplate(index, "running") },
];
const arrivalLines = (index) => [
  { label: "arrivals", value: inTemplate(index, "acceptedHz") },
  { label: "forecast", value: inTemplate(index, "forecastHz") },
];

const charts = {
  latency: new TimeChart(find("latency-chart"), { ...latencyLines("start"), text: seconds, log: true, height: 330 }),
  rate: new TimeChart(find("rate-chart"), {
    title: "Tasks a second", text: rate,
    series: [["accepted", "acceptedHz"], ["ended", "endedHz"], ["refused", "refusedHz"]]
      .map(([label, name]) => ({ label, value: inAll(name) })),
  }),
  queue: new TimeChart(find("queue-chart"), {
    title: "Queued and running", text: count, whole: true,
    series: [["running", "running"], ["queued", "queued"], ["boxes", "boxes"]]
      .map(([label, name]) => ({ label, value: inAll(name) })),
  }),
  parked: new TimeChart(find("parked-chart"), { title: "Parked clones", text: count, whole: true, series: parkedLines(0) }),
  arrivals: new TimeChart(find("arrivals-chart"), { title: "Arrivals", text: rate, series: arrivalLines(0) }),
};

function choosePhase() {
  charts.latency.choose(latencyLines(find("latency-phase").value));
}
function chooseTemplate() {
  const index = find("forecast-template").value;
  charts.parked.choose({ series: parkedLines(index) });
  charts.arrivals.choose({ series: arrivalLines(index) });
}
for (const part of Object.keys(views.PARTS))
  find("latency-phase").append(el("option", { value: part, ...(part === "start" && { selected: "" }) }, views.partName(part)));
find("latency-phase").addEventListener("change", choosePhase);
find("forecast-template").addEventListener("change", chooseTemplate);

// The busiest template is the first choice; another choice stays.
function offerTemplates(m) {
  const select = find("forecast-template");
  const names = m.templates.map(({ name }) => name);
  if (select.shown === names.join("\n")) return;
  select.shown = names.join("\n");
  const chosen = select.options[select.selectedIndex]?.text;
  select.replaceChildren(...names.map((name, index) => el("option", { value: index }, name)));
  const most = Math.max(...m.templates.map(({ accepted }) => accepted));
  select.selectedIndex = names.includes(chosen) ? names.indexOf(chosen) : m.templates.findIndex(({ accepted }) => accepted === most);
  chooseTemplate();
}

// --- all of it --------------------------------------------------------------------------------

const sections = [new views.Pools(), new views.Phases(), new views.Verdicts(), new views.Tenants(), new views.Host(),
  new views.Forecast(), new views.Broker(), new views.Receipts(), new views.Slow()];

function show() {
  if (latest === null || paused || document.hidden) return;
  views.head(latest);
  views.tiles(latest);
  for (const section of sections) section.update(latest);
  offerTemplates(latest);
  const shown = [...rows.values()];
  for (const chart of Object.values(charts)) chart.update(shown);
  document.documentElement.dataset.serial = latest.serial;
}

function message(name, m) {
  if (m.format !== FORMAT) throw new Error(`the daemon speaks format ${m.format}, this page ${FORMAT}: load the page again`);
  if (latest !== null && m.daemon.startedMs !== latest.daemon.startedMs) rows.clear();
  latest = m;
  document.documentElement.dataset.received = m.serial;
  takeRows(m);
  find("login").hidden = true;
  show();
}

function link(state, why) {
  const badge = find("link");
  document.body.classList.toggle("stale", state !== "live");
  setText(badge, state === "live" ? (paused ? "paused" : "live") : `waiting: ${why}`);
  setClass(badge, `badge ${state === "live" ? "good" : "bad"}`);
}

function login(why) {
  link("login", "a token is needed");
  const form = find("login");
  form.hidden = false;
  if (why !== "") setText(find("login-why"), why);
  find("token").focus();
}

const live = new Live("api/v1/live", { message, link, login });

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(find("token").value.trim());
  find("token").value = "";
  live.start();
});

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  setText(find("link"), paused ? "paused" : "live");
  show();
});

document.addEventListener("visibilitychange", show);

// --- theme ------------------------------------------------------------------------------------

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  repaintAll();
}
const chosen = localStorage.getItem(THEME_KEY);
find("theme").value = ["light", "dark"].includes(chosen) ? chosen : "auto";
theme(find("theme").value);
find("theme").addEventListener("change", ({ target }) => {
  localStorage.setItem(THEME_KEY, target.value);
  theme(target.value);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaintAll);

live.start();
