// Every verdict that a client can see, from the real daemon.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";

import type { LimitWishes, TaskSpec, Verdict } from "mayfly";
import { MIB, PACKAGE, client, running, test } from "./support.js";

const shell = (script: string): TaskSpec => ({ template: "shell", command: ["sh", "-c", script] });

test("succeeded, failed and signaled are the task's own", async (t) => {
  const mayfly = await client(t);
  for (const [script, verdict, exitCode, signal] of [
    ["exit 0", "succeeded", 0, null],
    ["exit 3", "failed", 3, null],
    ["exit 137", "failed", 137, null],
    ["kill -SEGV $$", "signaled", null, 11],
    ["kill -KILL $$", "signaled", null, 9],
  ] as const) {
    const result = await mayfly.run(shell(script));
    assert.deepEqual(
      [result.verdict, result.exitCode, result.signal, result.capValue, result.capped],
      [verdict, exitCode, signal, null, false],
      script,
    );
    assert.ok(result.reason !== "" && result.receipt.complete);
  }
});

const CAPS: [Verdict, TaskSpec, LimitWishes, number][] = [
  ["wallTime", { code: "import time; time.sleep(600)" }, { wallTime: "200ms" }, 200],
  ["cpuTime", { code: "while True: pass" }, { cpuTime: "200ms" }, 200],
  ["memory", { code: "b = b'x' * (1 << 30)" }, { memory: "48MiB" }, 48 * MIB],
  [
    "processes",
    { code: "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(600)" },
    { processes: 12 },
    12,
  ],
  ["output", { code: "while True: print('x' * 4096)" }, { output: "64KiB" }, 64 << 10],
  [
    "disk",
    {
      code:
        "f = open('/tmp/f', 'wb', 0)\nwhile True:\n  try: f.write(b'x' * 65536)\n" +
        "  except OSError: pass",
    },
    { disk: "4MiB" },
    4 * MIB,
  ],
];

for (const [verdict, spec, limits, value] of CAPS)
  test(`${verdict}: the cap and its value are named`, async (t) => {
    const mayfly = await client(t);
    const result = await mayfly.run({ ...spec, limits });
    assert.deepEqual([result.verdict, result.capValue, result.capped], [verdict, value, true]);
    assert.deepEqual([result.exitCode, result.signal, result.ok], [null, null, false]);
    assert.ok(result.reason !== "" && result.receipt.complete);
  });

test("cancelled: by cancel, by kill, by another client's kill", async (t) => {
  const [mayfly, other] = await Promise.all([client(t), client(t)]);
  const first = await running(mayfly);
  await first.cancel();
  const second = await running(mayfly);
  await mayfly.kill(second.id);
  const third = await running(mayfly);
  await other.kill(Number(third.id));
  for (const task of [first, second, third]) {
    const result = await task.wait();
    assert.equal(result.verdict, "cancelled");
    assert.ok(result.receipt.complete);
    await task.cancel();
  }
});

test("daemonStopping, and then the end of the connection", async (t) => {
  const dev = join(PACKAGE, "../../dev");
  const child = spawn(
    dev,
    ["with-daemon", process.execPath, join(PACKAGE, "dist-test/stopping.js")],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  t.after(() => child.kill());
  const lines: string[] = [];
  let said = "";
  child.stderr.on("data", (data: Buffer) => (said += data));
  for await (const line of createInterface({ input: child.stdout })) lines.push(line);
  if (child.exitCode === null) await once(child, "exit");
  assert.deepEqual(lines, ["daemonStopping true", "DisconnectedError unavailable"], said);
});
