// All ways to request a task, and their results.

import assert from "node:assert/strict";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { connect, InvalidArgumentError, TaskFailedError, TaskResult } from "mayfly";
import type { LimitWishes, TaskSpec } from "mayfly";
import { MIB, client, folder, socket, test } from "./support.js";

test("three lines give a first result", async () => {
  const mayfly = await connect();
  const result = await mayfly.run({ code: "print(6*7)" });
  assert.equal(result.stdout, "42\n");
  await mayfly.close();
});

test("a result has verdict, exit code, usage, phases and receipt", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: "import sys; print('o'); print('e', file=sys.stderr)" });
  assert.ok(result instanceof TaskResult);
  assert.deepEqual(
    [result.verdict, result.ok, result.capped, result.exitCode, result.signal, result.capValue],
    ["succeeded", true, false, 0, null, null],
  );
  assert.equal(result.template, "python");
  assert.equal(result.stdout, "o\n");
  assert.equal(result.stderr, "e\n");
  assert.deepEqual(result.stdoutBytes, new Uint8Array([0x6f, 0x0a]));
  assert.ok(typeof result.id === "bigint" && result.id > 0n);
  assert.ok(result.usage.wallNs > 0 && result.usage.memoryPeakBytes > 0);
  assert.equal(result.usage.stdoutBytes, 2);
  const { phases, receipt } = result;
  const order = [
    phases.queuedNs,
    phases.boxNs,
    phases.boxReadyNs,
    phases.cloneNs,
    phases.claimedNs,
    phases.startedNs,
    phases.exitedNs,
    phases.reapedNs,
    phases.receiptNs,
  ];
  assert.ok(order.every((at) => typeof at === "bigint" && at > 0n));
  assert.equal(BigInt(result.usage.wallNs), phases.exitedNs - phases.startedNs);
  assert.ok(receipt.complete && receipt.missing === "" && receipt.box > 0n);
  assert.ok(receipt.uidFreeNs >= phases.exitedNs);
  assert.deepEqual([result.outFiles, result.outFilesNote], [[], ""]);
});

test("a result goes into JSON as the command line writes it", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: "print('ä')" });
  const json = JSON.parse(JSON.stringify(result)) as Record<string, any>;
  assert.equal(json["verdict"], "succeeded");
  assert.equal(json["stdout"], "ä\n");
  assert.equal(json["id"], Number(result.id));
  assert.equal(json["receipt"].box, Number(result.receipt.box));
  assert.ok(!("stdoutBytes" in json));
});

test("code comes as text, as bytes and through stdin", async (t) => {
  const mayfly = await client(t);
  const text = "import sys; print(sys.argv[1:])";
  for (const spec of [
    { code: text },
    { code: Buffer.from(text) },
    { code: text, via: "string" },
    { code: text, via: "stdin" },
  ] satisfies TaskSpec[]) {
    const result = await mayfly.run({ ...spec, args: ["a b", "", "ü"] });
    assert.equal(result.stdout, "['a b', '', 'ü']\n", result.stderr);
  }
});

test("a module, and a program among the files", async (t) => {
  const mayfly = await client(t);
  const files = { "app/__main__.py": "import sys; print(__spec__.name, sys.path[0], sys.argv[1:])" };
  const program = await mayfly.run({ program: "app", files, args: ["x"] });
  assert.equal(program.stdout, "__main__ /task/app ['x']\n");
  const module = await mayfly.run({ module: "app", files });
  assert.match(module.stdout, /^app.__main__ \/task /);
  await assert.rejects(
    mayfly.run({ template: "shell", module: "app", files }),
    /template 'shell' runs no modules/,
  );
});

test("a folder is a script: it comes whole, without hidden files, or not at all", async (t) => {
  const mayfly = await client(t);
  const app = join(await folder(t), "app");
  await mkdir(join(app, "deep"), { recursive: true });
  await writeFile(
    join(app, "__main__.py"),
    "import os, sys; print(sys.path[0], sorted(os.listdir('/task/app')), sys.argv[1:])",
  );
  await writeFile(join(app, "deep/beside.py"), "1");
  await writeFile(join(app, ".env"), "SECRET=1");
  const result = await mayfly.run({ script: `${app}/`, args: ["x"] });
  assert.match(result.stdout, /^\/task\/app \['__main__.py', .*'deep'\] \['x'\]\n$/, result.stderr);
  assert.ok(!result.stdout.includes(".env"));
  await symlink("/etc/passwd", join(app, "deep/link"));
  await assert.rejects(mayfly.run({ script: app }), /link, which may lead out/);
  await assert.rejects(mayfly.run({ script: join(app, "deep") }), InvalidArgumentError);
});

test("a script comes as a path, a URL, or a name and text", async (t) => {
  const mayfly = await client(t);
  const path = join(await folder(t), "say.py");
  await writeFile(path, "import sys; print(__file__, sys.argv[1])");
  for (const script of [
    path,
    pathToFileURL(path),
    { name: "say.py", text: "import sys; print(__file__, sys.argv[1])" },
  ]) {
    const result = await mayfly.run({ script, args: ["x"] });
    assert.equal(result.stdout, "/task/say.py x\n", result.stderr);
  }
});

test("a command line is for templates that take one", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({
    template: "shell",
    command: ["sh", "-c", 'echo "$0 $1"', "zero", "one"],
  });
  assert.equal(result.stdout, "zero one\n");
});

test("env reaches the task", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({
    code: "import os; print(os.environ['A'], repr(os.environ['B']), os.environ['HOME'])",
    env: { A: "1=2", B: "", HOME: "/task/x" },
  });
  assert.equal(result.stdout, "1=2 '' /task/x\n", result.stderr);
});

test("a trace context goes with a task, and a wrong one is refused", async (t) => {
  const mayfly = await client(t);
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-01";
  const result = await mayfly.run({ code: "print(1)", traceparent });
  assert.equal(result.stdout, "1\n");
  const log = process.env["MAYFLY_DAEMON_LOG"]; // the task's line is written before its result is sent
  if (log !== undefined) assert.ok((await readFile(log, "utf8")).includes(`trace=${traceparent}`));
  await assert.rejects(mayfly.run({ code: "print(1)", traceparent: "x" }), (error) => {
    assert.ok(error instanceof InvalidArgumentError);
    assert.match(error.message, /traceparent: 'x' is no W3C trace context/);
    return true;
  });
});

test("the same seed gives the same numbers", async (t) => {
  const mayfly = await client(t);
  const draw = async (seed?: number | bigint): Promise<string> =>
    (await mayfly.run({ code: "import random; print(random.random())", seed })).stdout;
  const seed = (1n << 64n) - 1n;
  assert.equal(await draw(seed), await draw(seed));
  assert.equal(await draw(0), await draw(0n));
  assert.notEqual(await draw(), await draw());
});

test("caps have friendly units and are in force", async (t) => {
  const mayfly = await client(t);
  const limits: LimitWishes = {
    cpu: 0.5,
    cpuTime: "2s",
    wallTime: "0.5m",
    memory: "64MiB",
    processes: 12,
    openFiles: 50,
    fileSize: 65_536,
    disk: "1.5MiB",
    diskInodes: 100,
    output: "64KiB",
    input: 1_000_000n,
    outFilesSize: "1MB",
    outFiles: 3,
    queueTime: "5m",
    grace: "1.5s",
  };
  const result = await mayfly.run({ code: "", limits });
  assert.deepEqual(result.limits, {
    cpuMilli: 500,
    cpuTimeMs: 2000,
    wallTimeMs: 30_000,
    memoryBytes: 64 * MIB,
    processes: 12,
    openFiles: 50,
    fileSizeBytes: 65_536,
    diskBytes: 1.5 * MIB,
    diskInodes: 100,
    outputBytes: 65_536,
    inputBytes: 1_000_000,
    outFilesBytes: 1_000_000,
    outFiles: 3,
    queueTimeMs: 300_000,
    graceMs: 1_500,
  });
});

test("a task may save its state within its grace", async (t) => {
  const mayfly = await client(t);
  const code = [
    "import signal, sys, time",
    "def save(*_):",
    "    print('saved', flush=True)",
    "    sys.exit(3)",
    "signal.signal(signal.SIGTERM, save)",
    "while True: time.sleep(600)",
  ].join("\n");
  const saved = await mayfly.run({ code, limits: { wallTime: "1s", grace: "30s" } });
  assert.deepEqual(
    [saved.verdict, saved.inGrace, saved.exitCode, saved.signal, saved.stdout],
    ["wallTime", true, 3, null, "saved\n"],
  );
  const plain = await mayfly.run({
    code: "import time; time.sleep(600)",
    limits: { wallTime: "300ms", grace: "30s" },
  });
  assert.deepEqual([plain.inGrace, plain.exitCode, plain.signal], [true, null, 15]);
  const none = await mayfly.run({ code, limits: { wallTime: "300ms", grace: "0ms" } });
  assert.deepEqual([none.inGrace, none.exitCode, none.stdout], [false, null, ""]);
});

test("caps that are not named take the template's defaults", async (t) => {
  const mayfly = await client(t);
  const [result, templates] = await Promise.all([
    mayfly.run({ code: "", limits: { memory: undefined } }),
    mayfly.templates(),
  ]);
  assert.deepEqual(result.limits, templates.find(({ name }) => name === "python")?.defaults);
});

test("what was captured is the first MiB, whole or marked", async (t) => {
  const mayfly = await client(t);
  const code = `import sys; sys.stdout.write('o' * ${3 * MIB}); sys.stderr.write('e' * ${MIB})`;
  const result = await mayfly.run({ code });
  assert.equal(result.stdout, "o".repeat(MIB));
  assert.equal(result.stderr, "e".repeat(MIB));
  assert.deepEqual([result.stdoutTruncated, result.stderrTruncated], [true, false]);
  assert.equal(result.usage.stdoutBytes, 3 * MIB);
});

test("output that is no UTF-8 is there as bytes", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: "import os; os.write(1, b'a\\xff\\x00')" });
  assert.deepEqual(result.stdoutBytes, new Uint8Array([0x61, 0xff, 0]));
  assert.equal(result.stdout, "a\ufffd\0");
});

test("code of 4 MiB fits", async (t) => {
  const mayfly = await client(t);
  const code = `#${"x".repeat(4 * MIB - 100)}\nprint(6*7)`;
  assert.equal((await mayfly.run({ code })).stdout, "42\n");
});

test("check makes an error of another verdict than succeeded", async (t) => {
  const mayfly = await client(t);
  const spec: TaskSpec = { code: "import sys; print('why', file=sys.stderr); sys.exit(3)" };
  await assert.rejects(mayfly.run(spec, { check: true }), (error) => {
    assert.ok(error instanceof TaskFailedError);
    assert.equal(error.result.exitCode, 3);
    assert.match(error.message, /^task \d+ \(python\) ended as failed: .*3.*\(why\)$/);
    return true;
  });
  const result = await mayfly.run(spec);
  assert.throws(() => result.check(), TaskFailedError);
  const good = await mayfly.run({ code: "" }, { check: true });
  assert.equal(good.check(), good);
});

test("templates and server tell what there is", async (t) => {
  const mayfly = await client(t);
  const { server } = mayfly;
  assert.match(server.version, /^\d+\.\d+\.\d+/);
  assert.ok(server.protocol >= 2 && server.instance !== "");
  assert.equal(server.bounds.messageBytesMax, 8 * MIB);
  const templates = await mayfly.templates();
  const python = templates.find(({ name }) => name === "python");
  assert.ok(python !== undefined && python.state === "ready" && python.mechanism === "fork");
  assert.ok(python.maximum.memoryBytes >= python.defaults.memoryBytes);
  assert.ok(python.imageDigest !== "" && python.description !== "");
});

test("the socket is found by option, by environment, by string", async () => {
  for (const options of [undefined, {}, { socket: socket() }, socket()]) {
    const mayfly = await connect(options);
    assert.ok(mayfly.connected);
    await mayfly.close();
    assert.ok(!mayfly.connected);
  }
});

test("await using ends a connection and a task", async () => {
  let outer;
  {
    await using mayfly = await connect();
    outer = mayfly;
    await using task = await mayfly.submit({ code: "import time; time.sleep(600)" });
    assert.ok((await mayfly.tasks()).some(({ id, yours }) => id === task.id && yours));
  }
  assert.ok(!outer.connected);
});

test("what cannot be sent is refused before it is sent", async (t) => {
  const mayfly = await client(t);
  const bad: [unknown, RegExp][] = [
    [{}, /names nothing to run/],
    [{ code: "", script: "x" }, /code and script/],
    [{ code: 7 }, /code is neither/],
    [{ code: "", via: "telepathy" }, /telepathy/],
    [{ code: "", args: "x" }, /args is not a list/],
    [{ code: "", args: ["\ud800"] }, /args\[0\] is not valid Unicode/],
    [{ code: "", env: { A: 1 } }, /env: the value of 'A'/],
    [{ template: "shell", command: ["true"], args: ["x"] }, /of a `command` are part of it/],
    [{ code: "", files: { x: 7 } }, /files\['x'\] is neither/],
    [{ code: "", files: { x: { data: "", mode: -1 } } }, /the mode -1 of 'x'/],
    [{ code: "", files: { x: { blob: "abc" } } }, /not a sha256/],
    [{ code: "", files: ["/"] }, /not a plain file/],
    [{ code: "", stdin: 7 }, /stdin/],
    [{ code: "", seed: -1 }, /seed/],
    [{ code: "", seed: 1.5 }, /seed/],
    [{ code: "", seed: 1n << 64n }, /seed/],
    [{ code: "", limits: { ram: 1 } }, /limits: there is no key 'ram'/],
    [{ code: "", detach: { lease: "0s" } }, /detach.lease/],
    [{ code: "x".repeat(9 * MIB) }, /a request holds at most/],
  ];
  for (const [spec, message] of bad)
    await assert.rejects(mayfly.run(spec as TaskSpec), (error) => {
      assert.ok(error instanceof InvalidArgumentError, String(error));
      assert.match(error.message, message);
      return true;
    });
  const caps: [keyof LimitWishes, (string | number | bigint)[]][] = [
    ["memory", ["", "nonsense", "1e3", "64 Mib", "64Mb", "-1", -1, -1n, 1.5, NaN, Infinity, "0x10", "1 2"]],
    ["wallTime", ["", "5 parsecs", "0.5ms", "5M", "30", 30, 250n, -1, NaN, "99999999999999999999999"]],
    ["cpu", ["", "one", "0.0001", -1, 1e300, 5_000_000]],
    ["processes", ["12", 1.5, -1, 2 ** 32, NaN]],
  ];
  for (const [name, values] of caps)
    for (const value of values)
      await assert.rejects(
        mayfly.run({ code: "", limits: { [name]: value } }),
        (error) =>
          error instanceof InvalidArgumentError && error.message.includes(`limits.${name}`),
        `${name}: ${String(value)}`,
      );
  assert.deepEqual(await mayfly.tasks().then((all) => all.filter(({ yours }) => yours)), []);
});

test("specs that make no sense are type errors", () => {
  // Never run: the compiler is the test.
  const never = (_spec: TaskSpec): void => {};
  // @ts-expect-error nothing to run
  never({});
  // @ts-expect-error two things to run
  never({ code: "", command: ["true"] });
  // @ts-expect-error no such cap
  never({ code: "", limits: { ram: 1 } });
  // @ts-expect-error a time has a unit
  never({ code: "", limits: { wallTime: 250 } });
  // @ts-expect-error a count has no unit
  never({ code: "", limits: { processes: "12" } });
  never({ code: "", limits: { memory: "1GiB" } });
});
