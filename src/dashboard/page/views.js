// The sections of the page. Each takes the daemon's latest message (docs/dashboard.md has its format).

import { Table, el, find, pairs, setClass, setText, svg } from "./dom.js";
import { amount, bytes, clock, count, number, percent, rate, seconds, words } from "./format.js";

const FULL = 0.9; // of a budget: worth a word
const sum = (values) => values.reduce((all, each) => all + each, 0);
const left = "left";

// --- at a glance ------------------------------------------------------------------------------

export function tiles(m) {
  const minute = m.lastMinute;
  const start = minute.parts.find(({ part }) => part === "start");
  // The pool fills what it may park: that is no shortage.
  const tightest = m.headroom.filter(({ what, budget }) => budget > 0 && !what.startsWith("parked"))
    .map((h) => ({ ...h, share: h.committed / h.budget })).sort((a, b) => b.share - a.share)[0];
  const notes = {
    rate: `${rate(minute.acceptedHz)} accepted`,
    running: `${count(m.tasks.queued)} queued${m.tasks.queued > 0 ? `, the oldest for ${seconds(m.tasks.queueAgeS)}` : ""}`,
    start: `p50 ${seconds(start?.p50S)}`,
    miss: "found no parked clone",
    refused: minute.refusedHz > 0 ? `${rate(minute.refusedHz)} in the last minute` : "none in the last minute",
    quarantined: m.tasks.quarantined > 0 ? "boxes without a proof" : "every box is proven gone",
    tightest: tightest ? `of ${words(tightest.what)} committed` : "",
    lag: "of the core, last minute",
  };
  pairs(find("tiles"), [
    ["rate", "Tasks ended", rate(minute.endedHz)],
    ["running", "Running", count(m.tasks.running)],
    ["start", "Start, p99", seconds(start?.p99S)],
    ["miss", "Misses", percent(minute.missShare)],
    ["refused", "Refused", count(m.tasks.refused), minute.refusedHz > 0 ? "warn" : ""],
    ["quarantined", "Quarantined", count(m.tasks.quarantined), m.tasks.quarantined > 0 ? "bad" : ""],
    ["tightest", "Tightest", percent(tightest?.share), tightest?.share >= FULL ? "warn" : ""],
    ["lag", "Event-loop lag", seconds(minute.loopLagMaxS), minute.loopLagMaxS > 0.1 ? "warn" : ""],
  ], (key) => notes[key]);
}

// --- pools ------------------------------------------------------------------------------------

const STATES = { ready: "good", starting: "warn", unhealthy: "bad", missingImage: "bad" };
const poolParts = (t) => [["f1", t.parked], ["f2", t.making], ["f3", t.running], ["f4", t.dying], ["bad", t.quarantined]];
const KEY = [["f1", "parked"], ["f2", "making"], ["f3", "running"], ["f4", "dying"], ["bad", "quarantined"]];

const parkedText = (t) => `${count(t.parked)} / ${count(t.parkedTarget)}`;
const times = (h) => `${seconds(h.p50S)} / ${seconds(h.p99S)}`;
const unless0 = (value, name) => ({ text: count(value), class: value > 0 ? name : "" });

let poolWhole = 1; // the largest template's boxes: all bars have one scale
const POOLS = [
  { head: "Template", header: true, class: "name", cell: (t) => t.name },
  { head: "State", class: left, cell: (t) => ({ text: words(t.state), class: STATES[t.state] ?? "" }) },
  { head: "Boxes", class: "grow", cell: (t) => ({ parts: poolParts(t), whole: poolWhole }) },
  { head: "Parked / target", why: "clones that wait for a task, and how many the pool wants", cell: parkedText },
  { head: "Stocked / target", why: "boxes without a clone", cell: (t) => `${count(t.stocked)} / ${count(t.stockedTarget)}` },
  { head: "Making", cell: (t) => count(t.making) },
  { head: "Running", cell: (t) => count(t.running) },
  { head: "Dying", cell: (t) => count(t.dying) },
  { head: "Quarantined", cell: (t) => unless0(t.quarantined, "bad") },
  { head: "Waiting", why: "tasks without a clone", cell: (t) => unless0(t.waiting, "warn") },
  { head: "Zygotes", cell: (t) => count(t.zygotes) },
  { head: "Start p50 / p99", why: "accepted to first instruction, last minute", cell: (t) => times(t.start) },
];

// Why a pool wants its size, as base::SizeReason has it.
const REASONS = {
  unused: "no task for a long time",
  minimum: "its minimum",
  forecast: "the forecast of arrivals",
  bursts: "recent bursts",
  maximum: "its own maximum bounds a larger wish",
  budget: "the daemon's budget bounds a larger wish",
};
const targetWhy = (t) => {
  const reasons = Object.entries(t.targetWhy);
  const text = (name) => REASONS[name] ?? words(name);
  return reasons.length === 1 ? text(reasons[0][0]) : reasons.map(([name, n]) => `${count(n)} by ${text(name)}`).join(", ");
};

export class Pools {
  constructor() {
    this.table = new Table(find("pools-table"), POOLS, "No template is served.");
    const key = el("ul", { class: "key", "aria-hidden": "true" }, ...KEY.map(([name, text]) =>
      el("li", {}, svg("svg", { class: "share", viewBox: "0 0 10 10" }, svg("rect", { class: name, width: 10, height: 10 })), text)));
    find("pools-h").after(key);
  }

  update(m) {
    poolWhole = Math.max(1, ...m.templates.map((t) => sum(poolParts(t).map(([, value]) => value))));
    this.table.update(m.templates.map((t) => [t.name, t]));
    const why = m.templates.flatMap((t) => [
      ...(Object.keys(t.targetWhy).length > 0 ? [`${t.name} wants ${count(t.parkedTarget)} parked: ${targetWhy(t)}`] : []),
      ...(t.why ? [`${t.name} is ${words(t.state)}: ${t.why}`] : []),
    ]);
    lines(find("pools-why"), why);
  }
}

function lines(list, texts) {
  while (list.children.length > texts.length) list.lastChild.remove();
  while (list.children.length < texts.length) list.append(el("li"));
  texts.forEach((text, i) => setText(list.children[i], text));
}

// --- latency ----------------------------------------------------------------------------------

export const PARTS = {
  queue: "accepted, until it may have a box",
  claim: "then, until its first instruction",
  start: "accepted, until its first instruction",
  first_byte: "first instruction to first output",
  run: "first instruction to its end",
  kill: "to be killed, until it is reaped",
  reap: "its end, until it is reaped",
  receipt: "reaped, until its box is gone",
  whole: "accepted, until the receipt",
};
export const partName = words;

export class Phases {
  constructor() {
    this.table = new Table(find("phases-table"), [
      { head: "Phase", header: true, class: left, cell: ({ part }) => partName(part) },
      { head: "p50", cell: (p) => seconds(p.p50S) },
      { head: "p90", cell: (p) => seconds(p.p90S) },
      { head: "p99", cell: (p) => seconds(p.p99S) },
      { head: "Tasks", cell: (p) => count(p.count) },
      { head: "From, to", class: "wrap", cell: ({ part }) => PARTS[part] ?? "" },
    ], "No task has ended.");
  }

  update(m) {
    this.table.update(m.lastMinute.parts.map((part) => [part.part, part]));
  }
}

// --- verdicts, tenants ------------------------------------------------------------------------

const VERDICTS = { succeeded: "good", internal: "bad" };

export class Verdicts {
  constructor() {
    let all = 1;
    this.whole = (value) => { all = value; };
    this.table = new Table(find("verdicts-table"), [
      { head: "Verdict", header: true, class: left, cell: (v) => words(v.name) },
      { head: "", class: "grow", cell: (v) => ({ parts: [[v.cap ? "warn" : VERDICTS[v.name] ?? "f5", v.count]], whole: all }) },
      { head: "Tasks", cell: (v) => count(v.count) },
      { head: "Last minute", cell: (v) => count(v.lastMinute) },
      { head: "A cap", class: left, cell: (v) => (v.cap ? "yes" : "") },
    ], "No task has ended.");
    this.refusals = el("table");
    find("refusals").append(el("div", { class: "scroll" }, this.refusals));
    this.refused = new Table(this.refusals, [
      { head: "Refused", header: true, class: left, cell: (r) => words(r.code) },
      { head: "By", class: left, cell: (r) => words(r.reason) },
      { head: "Submissions", cell: (r) => count(r.count) },
    ], "None so far.");
  }

  update(m) {
    this.whole(Math.max(1, sum(m.verdicts.map((v) => v.count))));
    this.table.update(m.verdicts.filter((v) => v.count > 0).map((v) => [v.name, v]));
    this.refused.update(m.refusals.map((r) => [`${r.code} ${r.reason}`, r]));
  }
}

const SINCE_START = "since the daemon's start, not of the last minute";

const tenantName = (t) => (t.others ? "all others" : t.tenant === "" ? t.user : `${t.tenant} (${t.user})`);

export class Tenants {
  constructor() {
    this.table = new Table(find("tenants-table"), [
      { head: "Tenant", header: true, class: "name", cell: tenantName },
      { head: "Queued", cell: (t) => count(t.queued) },
      { head: "Running", cell: (t) => count(t.running) },
      { head: "Tasks", cell: (t) => count(t.accepted) },
      { head: "Refused", cell: (t) => unless0(t.refused, "warn") },
      { head: "Failed, capped", cell: (t) => `${count(t.ended.failed ?? 0)}, ${count(t.ended.capped ?? 0)}` },
      { head: "CPU time", cell: (t) => seconds(t.cpuS) },
      { head: "Start p99, all tasks", why: SINCE_START, cell: (t) => seconds(t.startP99S) },
      { head: "Whole p99, all tasks", why: SINCE_START, cell: (t) => seconds(t.wholeP99S) },
    ], "Nobody has submitted a task.");
  }

  update(m) {
    this.table.update(m.tenants.filter((t) => !t.others || t.accepted + t.refused > 0)
      .map((t) => [JSON.stringify([t.others, t.user, t.tenant]), t]));
  }
}

// --- the host and the daemon ------------------------------------------------------------------

const isFull = (h) => h.committed > 0 && h.committed >= FULL * h.budget;

export class Host {
  constructor() {
    this.table = new Table(find("host-table"), [
      { head: "Budget", header: true, class: left, cell: (h) => words(h.what) },
      { head: "", class: "grow", cell: (h) => ({ parts: [[isFull(h) ? "warn" : "f1", h.committed]], whole: h.budget }) },
      { head: "Committed", cell: (h) => amount(h.committed, h.unit) },
      { head: "Of", cell: (h) => amount(h.budget, h.unit) },
      { head: "Share", cell: (h) => ({ text: percent(h.budget > 0 ? h.committed / h.budget : null), class: isFull(h) ? "warn" : "" }) },
    ], "Nothing is known of the host.");
    this.calls = new Table(find("calls-table"), [
      { head: "Method", header: true, class: "name", cell: (call) => call.name },
      { head: "Calls", cell: (call) => count(call.count) },
      { head: "p50 / p99", cell: times },
    ], "None so far.");
  }

  update(m) {
    this.table.update(m.headroom.map((h) => [h.what, h]));
    this.calls.update(m.rpc.methods.map((call) => [call.name, call]));
    const d = m.daemon;
    pairs(find("daemon-use"), [
      ["up", "Up for", seconds(d.uptimeS)],
      ["cpu", "CPU, of one core", percent(m.lastMinute.cpuShare)],
      ["spawner-cpu", "CPU of the spawner, of one core", percent(m.lastMinute.spawnerCpuShare)],
      ["memory", "Memory", bytes(d.residentBytes)],
      ["fds", "Descriptors", `${count(d.openFds)} of ${count(d.fdsMax)}`],
      ["connections", "Connections", count(m.rpc.connections)],
      ["calls", "Calls, refused", `${count(m.rpc.calls)}, ${count(sum(Object.values(m.rpc.refused)))}`],
      ["malformed", "Malformed messages", count(m.rpc.malformed), m.rpc.malformed > 0 ? "warn" : ""],
      ["bytes", "Bytes in, out", `${bytes(m.rpc.bytesIn)}, ${bytes(m.rpc.bytesOut)}`],
      ["lag", "Event-loop lag, p99 since its start", seconds(d.loopLagP99S)],
      ["lag-max", "Event-loop lag, worst since its start", seconds(d.loopLagMaxS)],
    ]);
  }
}

// --- the planner's view -----------------------------------------------------------------------

export class Forecast {
  constructor() {
    this.table = new Table(find("forecast-table"), [
      { head: "Template", header: true, class: "name", cell: (t) => t.name },
      { head: "Arrivals forecast", cell: (t) => rate(t.forecastHz) },
      { head: "Arrivals, last minute", cell: (t) => rate(t.acceptedHz) },
      { head: "Misses predicted", cell: (t) => percent(t.missPredicted) },
      { head: "Misses, last minute", cell: (t) => percent(t.missMeasured) },
      { head: "Parked / target", cell: parkedText },
      { head: "A clone takes", cell: (t) => seconds(t.makeS) },
      { head: "A clone's memory", cell: (t) => (t.cloneBytes > 0 ? bytes(t.cloneBytes) : "–") },
      { head: "Made, discarded, lost", cell: (t) => `${count(t.clonesMade)}, ${count(t.clonesDiscarded)}, ${count(t.clonesLost)}` },
    ], "No template is served.");
  }

  update(m) {
    this.table.update(m.templates.map((t) => [t.name, t]));
  }
}

// --- broker -----------------------------------------------------------------------------------

export class Broker {
  constructor() {
    this.none = el("p", { class: "none" }, "No policy is set: tasks have no grants.");
    this.facts = el("dl", { class: "pairs" });
    const decisions = el("table");
    this.there = el("div", {}, this.facts, el("h3", {}, "Decisions"), el("div", { class: "scroll" }, decisions));
    this.table = new Table(decisions, [
      { head: "Calls by", header: true, class: left, cell: (d) => d.kind },
      { head: "Allowed", cell: (d) => count(d.allowed) },
      { head: "Refused", cell: (d) => unless0(d.refused, "warn") },
      { head: "Failed", cell: (d) => unless0(d.failed, "bad") },
      { head: "p50 / p99", why: SINCE_START, cell: times },
    ], "No call has come.");
    find("broker-body").replaceChildren(this.none, this.there);
  }

  update(m) {
    const b = m.broker;
    this.none.hidden = b.configured;
    this.there.hidden = !b.configured;
    if (!b.configured) return;
    const up = (is, starts) => `${is ? "up" : "down"}, started ${count(starts)} ${starts === 1 ? "time" : "times"}`;
    pairs(this.facts, [
      ["front", "Front", up(b.frontUp, b.frontStarts), b.frontUp ? "good" : "bad"],
      ["vault", "Vault", up(b.vaultUp, b.vaultStarts), b.vaultUp ? "good" : "bad"],
      ["sessions", "Sessions", count(b.sessions)],
      ["opened", "Opened, refused", `${count(b.openedOk)}, ${count(b.openedRefused)}`],
      ["call", "A call since mayflyd's start, p50 / p99", times(b.call)],
      ["open", "To open a session, p50 / p99", times(b.opened)],
      ["revoke", "To revoke one, p50 / p99", times(b.revoked)],
    ]);
    this.table.update(b.decisions.map((d) => [d.kind, d]));
  }
}

// --- receipts ---------------------------------------------------------------------------------

const seen = (walk) => `${count(walk.cgroups)} cgroups, ${count(walk.processes)} processes, ${count(walk.mounts)} mounts`;

export class Receipts {
  constructor() {
    this.facts = el("dl", { class: "pairs" });
    this.notices = el("ul", { class: "why" });
    this.none = el("p", { class: "none" }, "None.");
    find("receipts-body").replaceChildren(this.facts, el("h3", {}, "Notices"), this.notices, this.none);
  }

  update(m) {
    const r = m.receipts;
    const bad = (value) => (value > 0 ? "bad" : "");
    pairs(this.facts, [
      ["complete", "Complete", count(r.complete)],
      ["incomplete", "Incomplete at their bound", count(r.incomplete), bad(r.incomplete)],
      ["late", "Of those, complete later", count(r.late)],
      ["quarantined", "In quarantine now", count(m.tasks.quarantined), bad(m.tasks.quarantined)],
      ["trials", "Failed trials of zygotes", count(r.trialsFailed), bad(r.trialsFailed)],
      ["walks", "Walks of the audit", count(r.auditWalks)],
      ["last", "The last one saw", seen(r.lastWalk)],
      ...r.findings.map(({ kind, count: found }) => [kind, `Audit: ${words(kind)}`, count(found), bad(found)]),
    ]);
    lines(this.notices, m.notices.map((n) => `${clock(n.atMs)} ${n.kind}: ${n.text}`));
    this.none.hidden = m.notices.length > 0;
  }
}

// --- slow tasks -------------------------------------------------------------------------------

const SLOW_PARTS = [["queue", "f2"], ["claim", "f4"], ["run", "f1"], ["kill", "bad"], ["reap", "f3"], ["receipt", "f5"]];

const slowParts = (t) => SLOW_PARTS.map(([part, name]) => [name, t.partsS[part] ?? 0]);

export class Slow {
  constructor() {
    this.table = new Table(find("slow-table"), [
      { head: "Task", header: true, class: left, cell: (t) => String(t.task) },
      { head: "Ended", cell: (t) => clock(t.atMs) },
      { head: "Template", class: "name", cell: (t) => t.template },
      { head: "Tenant", class: "name", cell: tenantName },
      { head: "Verdict", class: left, cell: (t) => words(t.verdict) },
      { head: "Launch", class: left, cell: (t) => t.launch },
      { head: "", class: "grow", cell: (t) => ({ parts: slowParts(t), whole: t.partsS.whole }) },
      ...SLOW_PARTS.map(([part]) => ({ head: partName(part), why: PARTS[part], cell: (t) => seconds(t.partsS[part]) })),
      { head: "whole", cell: (t) => seconds(t.partsS.whole) },
    ], "None.");
    this.hint = el("p", { class: "hint" });
    find("slow").append(this.hint);
  }

  update(m) {
    this.table.update(m.slow.map((t) => [String(t.task), t]));
    setText(this.hint, m.tasks.slowTaskS > 0
      ? `${count(m.tasks.slow)} so far took longer than ${seconds(m.tasks.slowTaskS)} (the setting slow_task); the latest are here.`
      : "The setting slow_task is off.");
  }
}

// --- the head ---------------------------------------------------------------------------------

const DAEMON = { ready: "good", starting: "warn", stopping: "warn" };

// Whole minutes from the second one on: a text that changes each second draws the eye.
const steady = (s) => (s < 120 ? Math.floor(s / 10) * 10 : Math.floor(s / 60) * 60);

export function head(m) {
  setText(find("instance"), m.daemon.instance);
  setText(find("state"), m.daemon.state);
  setClass(find("state"), `badge ${DAEMON[m.daemon.state] ?? ""}`);
  setText(find("version"), `mayflyd ${m.daemon.version}, up for ${seconds(steady(m.daemon.uptimeS))}`);
  const title = `${m.daemon.instance}: ${number(m.tasks.running)} running – Mayfly`;
  if (document.title !== title) document.title = title;
}
