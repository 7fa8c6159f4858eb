// What a caller hands in: nothing unknown is ignored, at no level, and the error says where, which,
// what was probably meant, and what there is. No daemon is needed.

import assert from "node:assert/strict";

import { connect, DeadlineExceededError, InvalidArgumentError, Task } from "mayfly";
import type { Client, TaskSpec } from "mayfly";
import * as schema from "../dist/generated/mayfly.js";
import { fakeDaemon, fakeTask } from "./fake.js";
import type { Fake, FakeMethods } from "./fake.js";
import { client, test } from "./support.js";
import type { TestContext } from "node:test";

// As plain JavaScript sees the client: without types.
type Loose = Record<string, (...args: unknown[]) => Promise<unknown>>;
const loose = (object: Client | Task): Loose => object as unknown as Loose;

const waitsForEver = (): schema.Task$Client =>
  fakeTask({ wait: () => new Promise(() => {}), cancel: () => Promise.resolve() });

interface Seen {
  daemon: Fake;
  specs: { wallTimeMs: bigint; memoryBytes: bigint; collect: boolean }[];
}

async function fake(t: TestContext, methods: FakeMethods = {}): Promise<Seen> {
  const specs: Seen["specs"] = [];
  const daemon = await fakeDaemon(t, {
    submit: (params, results) => {
      const { limits, collectOutFiles } = params.spec;
      const { wallTimeMs, memoryBytes } = limits;
      specs.push({ wallTimeMs, memoryBytes, collect: collectOutFiles });
      results.id = 7n;
      results.task = waitsForEver();
      return Promise.resolve();
    },
    ...methods,
  });
  return { daemon, specs };
}

async function refused(call: () => Promise<unknown>, said: string, advice: RegExp): Promise<void> {
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof InvalidArgumentError, String(error));
    assert.equal(error.message, said);
    assert.match(error.advice, advice);
    return true;
  });
}

const CAPS = /There are cpu, cpuTime, wallTime, memory, .*queueTime, grace\.$/;
const KEYS = /There are code, via, script, module, program, command, template, .*detach\.$/;

// [spec, message, advice]
const SPECS: [unknown, string, RegExp][] = [
  [{ code: "", limit: {} }, "the spec: there is no key 'limit'", /^Did you mean 'limits'\? /],
  [{ code: "", limit: undefined }, "the spec: there is no key 'limit'", KEYS],
  [{ code: "", timeout: 3 }, "the spec: there is no key 'timeout'", /`limits.wallTime`.*`deadline`/],
  [{ code: "", timeoutMs: 3 }, "the spec: there is no key 'timeoutMs'", /`limits.wallTime`/],
  [{ code: "", memory: "1GiB" }, "the spec: there is no key 'memory'", /belongs into `limits`/],
  [{ code: "", lease: "1h" }, "the spec: there is no key 'lease'", /belongs into `detach`/],
  [{ code: "", deadline: "1s" }, "the spec: there is no key 'deadline'", /option of the call/],
  [{ code: "", stdin_open: true }, "the spec: there is no key 'stdin_open'", /'stdinOpen'/],
  [{ code: "", xyzzy: 1 }, "the spec: there is no key 'xyzzy'", /^There are code/],
  [Object.create({ code: "", limts: 1 }), "the spec: there is no key 'limts'", /'limits'/],
  ["print(1)", "the spec: String is no object with named fields", /^$/],
  [null, "the spec: Null is no object with named fields", /^$/],
  [Promise.resolve({}), "the spec: Promise is no object with named fields", /^$/],
  [{ code: "", limits: { memroy: 1 } }, "limits: there is no key 'memroy'", /^Did you mean 'memory'\?/],
  [{ code: "", limits: { wall_time: "1s" } }, "limits: there is no key 'wall_time'", /'wallTime'/],
  [{ code: "", limits: { timeout: "1s" } }, "limits: there is no key 'timeout'", /is 'wallTime'/],
  [{ code: "", limits: { cpuMilli: 5 } }, "limits: there is no key 'cpuMilli'", CAPS],
  [{ code: "", limits: { "": 5 } }, "limits: there is no key ''", CAPS],
  [{ code: "", limits: { hasOwnProperty: 5 } }, "limits: there is no key 'hasOwnProperty'", CAPS],
  [{ code: "", limits: null }, "limits: Null is no object with named fields", /^$/],
  [{ code: "", limits: "1GiB" }, "limits: String is no object with named fields", /^$/],
  [{ code: "", limits: [] }, "limits: Array is no object with named fields", /^$/],
  [{ code: "", limits: new Map() }, "limits: Map is no object with named fields", /^$/],
  [{ code: "", limits: { wallTime: 250 } }, "limits.wallTime: 250 is not a time: it has no unit", /"250ms", "30s"/],
  [{ code: "", limits: { wallTime: "250" } }, "limits.wallTime: '250' is not a time", /"250ms", "30s"/],
  [{ code: "", detach: { leaze: "1h" } }, "detach: there is no key 'leaze'", /^Did you mean 'lease'\? There are lease, key\.$/],
  [{ code: "", detach: "1h" }, "detach: String is no object with named fields", /^$/],
  [{ code: "", detach: null }, "detach: Null is no object with named fields", /^$/],
  [{ code: "", detach: { lease: 60 } }, "detach.lease: 60 is not a time: it has no unit", /./],
  [{ code: "", detach: { lease: "1h", key: null } }, "detach.key is not a string", /^$/],
  [{ script: { name: "a.py", txt: "" } }, "script: there is no key 'txt'", /^Did you mean 'text'\? There are name, text\.$/],
  [{ script: ["a.py", ""] }, "script: Array is no object with named fields", /^$/],
  [{ script: { name: "a.py", text: "" }, via: "stdin" }, "via goes with `code`", /./],
  [{ module: "a", program: "b" }, "the task names module and program", /one of code, script, module, program and command/],
  [{ modul: "a" }, "the spec: there is no key 'modul'", /^Did you mean 'module'\?/],
  [{ module: "a", via: "stdin" }, "via goes with `code`", /./],
  [{ program: 5 }, "program is not a string", /^$/],
  [{ code: "", limits: { grce: "1s" } }, "limits: there is no key 'grce'", /^Did you mean 'grace'\?/],
  [{ code: "", env: ["A=1"] }, "env: Array is no object with named fields", /^$/],
  [{ code: "", env: new Map([["A", "1"]]) }, "env: Map is no object with named fields", /^$/],
  [{ code: "", files: new Map() }, "files: Map is no object with named fields", /^$/],
  [{ code: "", files: [7] }, "the path 7 is neither a string nor a URL", /^$/],
  [{ code: "", files: { a: { data: "", mod: 1 } } }, "files['a']: there is no key 'mod'", /^Did you mean 'mode'\? There are data, path, blob, mode\.$/],
  [{ code: "", files: { a: { content: "" } } }, "files['a']: there is no key 'content'", /'data'/],
  [{ code: "", files: { a: { data: "", path: "b" } } }, "files['a'] has data and path", /Name one of/],
  [{ code: "", files: { a: { mode: 0o755 } } }, "files['a'] has no content", /Name one of/],
  [{ code: "", files: { a: null } }, "files['a'] is neither text, bytes, a path nor a blob", /^$/],
  [{ code: "", files: { a: { blob: { sha: "" } } } }, "files['a'].blob: there is no key 'sha'", /^Did you mean 'sha256'\?/],
  [{ code: "", template: null }, "template is not a string", /^$/],
  [{ code: "", tenant: null }, "tenant is not a string", /^$/],
  [{ code: "", traceparent: 7 }, "traceparent is not a string", /^$/],
  [{ code: "", args: null }, "args is not a list of strings", /^$/],
  [{ code: "", stdin: null }, "stdin is neither text, bytes nor a stream of them", /^$/],
  [{ code: "", stdinOpen: 1 }, "stdinOpen is neither true nor false", /^$/],
  [{ code: "", collect: "yes" }, "collect is neither true nor false", /^$/],
];

test("a spec with anything unknown is refused at every level", async (t) => {
  const { daemon, specs } = await fake(t);
  const mayfly = loose(await client(t, { socket: daemon.path }));
  for (const [spec, said, advice] of SPECS)
    for (const call of [mayfly["run"], mayfly["submit"]])
      await refused(() => call!.call(mayfly, spec), said, advice);
  assert.deepEqual(specs, [], "the daemon got none of them");
});

const OPTIONS = "There are signal, deadline\\.$";

test("so are the options of every call", async (t) => {
  const { daemon, specs } = await fake(t);
  const typed = await client(t, { socket: daemon.path });
  const mayfly = loose(typed);
  const task = loose(await typed.submit({ code: "" }));
  specs.length = 0;
  const blob = "0".repeat(64);
  const calls: [Loose, string, unknown[]][] = [
    [mayfly, "find", [{ key: "k" }]],
    [mayfly, "templates", []],
    [mayfly, "tasks", []],
    [mayfly, "detached", []],
    [mayfly, "kill", [1]],
    [mayfly, "upload", [""]],
    [mayfly, "blobs", []],
    [mayfly, "removeBlob", [blob]],
    [mayfly, "run", [{ code: "" }]],
    [mayfly, "submit", [{ code: "" }]],
    [task, "wait", []],
    [task, "cancel", []],
    [task, "info", []],
    [task, "writeStdin", [""]],
    [task, "closeStdin", []],
    [task, "readFile", [0]],
    [task, "saveFiles", ["/nowhere"]],
  ];
  for (const [object, name, args] of calls) {
    const where = `the options of ${name === "saveFiles" ? "wait" : name}`;
    const call = (options: unknown) => (): Promise<unknown> => object[name]!(...args, options);
    await refused(call({ dedline: "1s" }), `${where}: there is no key 'dedline'`, /Did you mean 'deadline'\?/);
    for (const old of ["timeout", "timeoutMs"])
      await refused(call({ [old]: 5 }), `${where}: there is no key '${old}'`, /is `deadline`, like "250ms".*`limits.wallTime`/);
    if (!["run", "submit"].includes(name))
      await refused(call({ check: true }), `${where}: there is no key 'check'`, new RegExp(OPTIONS));
    await refused(call(5), `${where}: Number is no object with named fields`, /^$/);
    await refused(call(null), `${where}: Null is no object with named fields`, /^$/);
    await refused(call(new AbortController().signal), `${where}: AbortSignal is no object with named fields`, /^$/);
    await refused(call({ deadline: 250 }), "deadline: 250 is not a time: it has no unit", /"250ms"/);
    await refused(call({ signal: new AbortController() }), "signal is no AbortSignal", /its `signal`/);
  }
  assert.deepEqual(specs, []);
});

test("an option of another call, or a value of another type, is refused", async (t) => {
  const { daemon, specs } = await fake(t);
  const typed = await client(t, { socket: daemon.path });
  const mayfly = loose(typed);
  const spec = { code: "" };
  const bad: [string, unknown[], string, RegExp][] = [
    ["run", [spec, { stream: true }], "the options of run: there is no key 'stream'", /option of submit/],
    ["run", [spec, { collect: true }], "the options of run: there is no key 'collect'", /key of the spec/],
    ["run", [spec, { limits: {} }], "the options of run: there is no key 'limits'", /key of the spec/],
    ["run", [spec, { onoutput: 1 }], "the options of run: there is no key 'onoutput'", /'onOutput'/],
    ["run", [spec, { check: "yes" }], "check is neither true nor false", /^$/],
    ["run", [spec, { out: 5 }], "out is not a string", /^$/],
    ["run", [spec, { onOutput: "x" }], "onOutput is not a function", /^$/],
    ["submit", [spec, { check: true }], "the options of submit: there is no key 'check'", /option of run/],
    ["submit", [spec, { stream: 1 }], "stream is neither true nor false", /^$/],
    ["upload", [{ pth: "x" }], "upload's source: there is no key 'pth'", /Did you mean 'path'\? There are path\./],
    ["upload", [7], "upload's source: Number is no object with named fields", /^$/],
    ["find", [{ keys: "k" }], "find: there is no key 'keys'", /Did you mean 'key'\?/],
    ["find", [{ key: "k", id: 1 }], "find: one of key and id is needed", /^$/],
    ["find", [{}], "find: one of key and id is needed", /^$/],
    ["find", [{ id: "x" }], "find: x is no task's id", /^$/],
    ["kill", [1.5], "kill: 1.5 is no task's id", /^$/],
    ["kill", [-1], "kill: -1 is no task's id", /^$/],
    ["removeBlob", [{ sha256: "0".repeat(64), size: 1 }], "removeBlob: there is no key 'size'", /'sizeBytes'/],
  ];
  for (const [name, args, said, advice] of bad)
    await refused(() => mayfly[name]!(...args), said, advice);
  const task = loose(await typed.submit(spec));
  for (const file of ["a.txt", undefined, {}, -1, 0.5])
    await refused(() => task["readFile"]!(file), "readFile: neither a file of the result nor its index", /^$/);
  assert.equal(specs.length, 1);
});

test("so are the options of connect, before the socket is opened", async () => {
  const loosely = connect as (options: unknown) => Promise<Client>;
  const bad: [unknown, string, RegExp][] = [
    [{ path: "/x" }, "the options of connect: there is no key 'path'", /There are socket, clientName, callDeadline, signal, deadline\.$/],
    [{ sockt: "/x" }, "the options of connect: there is no key 'sockt'", /Did you mean 'socket'\?/],
    [{ timeoutMs: 1 }, "the options of connect: there is no key 'timeoutMs'", /`deadline`/],
    [{ callTimeoutMs: 1 }, "the options of connect: there is no key 'callTimeoutMs'", /It is `callDeadline`, like "30s"/],
    [{ callDeadline: 30_000 }, "callDeadline: 30000 is not a time: it has no unit", /./],
    [{ socket: 5 }, "socket is not a string", /^$/],
    [{ clientName: null }, "clientName is not a string", /^$/],
    [null, "the options of connect: Null is no object with named fields", /^$/],
    [5, "the options of connect: Number is no object with named fields", /^$/],
  ];
  for (const [options, said, advice] of bad) await refused(() => loosely(options), said, advice);
});

test("what is known arrives: plain, inherited, of a class, and as one notation of time", async (t) => {
  const { daemon, specs } = await fake(t);
  const mayfly = await client(t, { socket: daemon.path });
  class Limits {
    get memory(): string {
      return "1MiB";
    }
    wallTime = "0.25s";
  }
  const same: TaskSpec[] = [
    { code: "", collect: true, limits: { wallTime: "250ms", memory: 1 << 20 } },
    Object.create({ code: "", collect: true, limits: { wallTime: "0.25s", memory: "1024 KiB" } }),
    { code: "", collect: true, limits: new Limits() },
  ];
  for (const spec of same) await mayfly.submit(spec);
  assert.deepEqual(specs, Array(3).fill({ wallTimeMs: 250n, memoryBytes: 1n << 20n, collect: true }));
});

test("a module, a program among the files, and a grace arrive", async (t) => {
  const seen: [string, bigint][] = [];
  const { daemon } = await fake(t, {
    submit: (params, results) => {
      const { code, limits } = params.spec;
      const kind = code._isModule ? `-m ${code.module}` : code._isPath ? code.path : "another kind";
      seen.push([kind, limits.graceMs]);
      results.task = waitsForEver();
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  await mayfly.submit({ module: "json.tool", limits: { grace: "1.5s" } });
  await mayfly.submit({ program: "app", files: { "app/__main__.py": "" }, limits: { grace: "0s" } });
  assert.deepEqual(seen, [["-m json.tool", 1500n], ["app", 0n]]);
});

test("a call's own deadline stands above the connection's, and null is none", async (t) => {
  const { daemon } = await fake(t, { tasks: () => new Promise(() => {}), submit: () => new Promise(() => {}) });
  const mayfly = await client(t, { socket: daemon.path, deadline: "20s", callDeadline: "20ms" });
  await assert.rejects(mayfly.tasks(), /tasks: no answer within 20 ms/);
  await assert.rejects(mayfly.submit({ code: "" }), /submit: no answer within 20 ms/);
  await assert.rejects(mayfly.submit({ code: "" }, { deadline: "40ms" }), /submit: no answer within 40 ms/);
  await assert.rejects(mayfly.tasks({ deadline: "0s" }), DeadlineExceededError);
  const patient = await client(t, { socket: daemon.path, callDeadline: null });
  const waits = [mayfly.tasks({ deadline: null }), patient.tasks(), patient.submit({ code: "" })];
  const ends = waits.map((each) => assert.rejects(each, /this client was closed/));
  await assert.rejects(mayfly.tasks({ deadline: "60ms" }), DeadlineExceededError);
  await Promise.all([mayfly.close(), patient.close()]);
  await Promise.all(ends);
});
