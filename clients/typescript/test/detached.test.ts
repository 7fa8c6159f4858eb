// Tasks that outlive their connection, and are found again.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";

import {
  AlreadyExistsError,
  FailedPreconditionError,
  InvalidArgumentError,
  NotFoundError,
} from "mayfly";
import type { TaskSpec } from "mayfly";
import { proxy } from "./fake.js";
import { ENDLESS, client, folder, socket, test } from "./support.js";

const key = (): string => `typescript ${randomUUID()}`;

test("a task outlives its connection and is found by key and by id", async (t) => {
  const name = key();
  const first = await client(t);
  const made = await first.submit({
    code: "print(6*7); open('/task/out/x', 'w').write('left')",
    collect: true,
    detach: { lease: "1m", key: name },
  });
  assert.deepEqual([made.detached, made.existing], [true, false]);
  await first.close();
  const mayfly = await client(t);
  for (const by of [{ key: name }, { id: made.id }, { id: Number(made.id) }]) {
    await using task = await mayfly.find(by);
    assert.deepEqual([task.id, task.detached], [made.id, true]);
    const result = await task.wait();
    assert.deepEqual([result.stdout, result.outFiles[0]?.name], ["42\n", "x"]);
    assert.equal(Buffer.from(await task.readFile(0)).toString(), "left");
    const saved = await task.saveFiles(await folder(t));
    assert.ok(saved[0]?.saved?.endsWith("/x"));
    assert.equal((await task.info()).state, "done");
  }
  const last = await mayfly.find({ key: name });
  await last.close();
  await assert.rejects(mayfly.find({ key: name }), NotFoundError);
  await assert.rejects(mayfly.find({ id: made.id }), NotFoundError);
});

test("a lost connection does not end it, and a repeated submit gives it", async (t) => {
  const spec: TaskSpec = { code: ENDLESS, detach: { lease: "1m", key: key() } };
  const between = await proxy(t, socket());
  const first = await client(t, { socket: between.path });
  const task = await first.submit(spec);
  const wait = assert.rejects(task.wait(), { code: "unavailable" });
  between.sockets[0]?.destroy();
  await wait;
  const mayfly = await client(t);
  const again = await mayfly.submit(spec);
  assert.deepEqual([again.id, again.existing], [task.id, true]);
  while ((await again.info()).state !== "running");
  await again.cancel();
  assert.equal((await again.wait()).verdict, "cancelled");
  await again.close();
});

test("all are listed, with key and lease", async (t) => {
  const mayfly = await client(t);
  const name = key();
  const ended = await mayfly.submit({ code: "1", detach: { lease: "1m", key: name } });
  const runs = await mayfly.submit({ code: ENDLESS, detach: { lease: "2m" } });
  await ended.wait();
  const listed = new Map((await mayfly.detached()).map((each) => [each.task.id, each]));
  const [done, going] = [listed.get(ended.id), listed.get(runs.id)];
  assert.deepEqual([done?.key, done?.task.state], [name, "done"]);
  assert.ok(done !== undefined && done.leaseLeftMs > 0 && done.leaseLeftMs <= 60_000);
  assert.deepEqual([going?.key, going?.leaseLeftMs, going?.task.yours], ["", 120_000, true]);
  await ended.close();
  await runs.close();
  const left = (await mayfly.detached()).map((each) => each.task.id);
  assert.ok(!left.includes(ended.id) && !left.includes(runs.id));
});

test("one key is one run, and another spec with it is refused", async (t) => {
  const [one, two] = await Promise.all([client(t), client(t)]);
  const spec: TaskSpec = {
    code: "import uuid; print(uuid.uuid4())",
    detach: { lease: "1m", key: key() },
  };
  const tasks = await Promise.all([one, two, one, two, one].map((each) => each.submit(spec)));
  assert.deepEqual(tasks.map(({ existing }) => existing).sort(), [false, true, true, true, true]);
  const said = await Promise.all(tasks.map(async (task) => (await task.wait()).stdout));
  assert.equal(new Set(said).size, 1);
  await assert.rejects(one.submit({ ...spec, code: "print('other')" }), AlreadyExistsError);
  await tasks[0]?.close();
  const fresh = await one.submit({ ...spec, code: "print('other')" });
  assert.deepEqual([fresh.existing, (await fresh.wait()).stdout], [false, "other\n"]);
  await fresh.close();
});

test("leaving and letting go do not forget it", async (t) => {
  const mayfly = await client(t);
  const name = key();
  {
    await using task = await mayfly.submit({
      code: "print(1)",
      detach: { lease: "1m", key: name },
    });
    await task.wait();
  }
  const found = await mayfly.find({ key: name });
  found.release();
  await assert.rejects(found.info(), FailedPreconditionError);
  const run = await mayfly.run({ code: "print(1)", detach: { lease: "1m", key: name } });
  assert.equal(run.stdout, "1\n");
  await (await mayfly.find({ key: name })).close();
});

test("stdin of a detached task goes along, and live output is refused", async (t) => {
  const mayfly = await client(t);
  const detach = { lease: "1m" };
  const code = "import sys; print(len(sys.stdin.read()))";
  const task = await mayfly.submit({ code, stdin: "x".repeat(3 << 20), detach });
  assert.equal((await task.wait()).stdout, `${3 << 20}\n`);
  await task.close();
  await assert.rejects(mayfly.submit({ code, stdin: ["x"], detach }), InvalidArgumentError);
  await assert.rejects(mayfly.submit({ code, stdinOpen: true, detach }), InvalidArgumentError);
  await assert.rejects(mayfly.submit({ code, detach }, { stream: true }), InvalidArgumentError);
  await assert.rejects(mayfly.submit({ code, detach: { lease: "10000h" } }), InvalidArgumentError);
});

test("info tells where a task stands", async (t) => {
  const mayfly = await client(t);
  await using task = await mayfly.submit({ code: ENDLESS, collect: true });
  while ((await task.info()).state !== "running");
  const info = await task.info();
  assert.deepEqual([info.id, info.template, info.yours], [task.id, "python", true]);
  assert.ok(info.startedNs > 0n && info.nowNs > info.startedNs && info.pidHost > 0);
  await task.cancel();
  await task.wait();
  assert.equal((await task.info()).state, "done");
});
