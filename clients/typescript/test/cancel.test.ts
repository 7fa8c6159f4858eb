// Giving up: signals, deadlines, close; nothing of a dropped task stays.

import assert from "node:assert/strict";

import { CancelledError, DeadlineExceededError, FailedPreconditionError } from "mayfly";
import type { Client } from "mayfly";
import { ENDLESS, client, later, running, test } from "./support.js";

/** Waits until the daemon lists no task of this client's. */
async function gone(mayfly: Client): Promise<void> {
  while ((await mayfly.tasks()).some(({ yours }) => yours));
}

test("a signal ends run with its reason, and the task with it", async (t) => {
  const mayfly = await client(t);
  const reason = new Error("changed my mind");
  const controller = new AbortController();
  await assert.rejects(
    mayfly.run(
      { code: ENDLESS },
      { signal: controller.signal, onOutput: () => controller.abort(reason) },
    ),
    reason,
  );
  await gone(mayfly);
});

test("a signal that was aborted before sends nothing", async (t) => {
  const mayfly = await client(t);
  const signal = AbortSignal.abort();
  for (const call of [
    mayfly.run({ code: "" }, { signal }),
    mayfly.submit({ code: "" }, { signal }),
    mayfly.tasks({ signal }),
    mayfly.upload("x", { signal }),
  ])
    await assert.rejects(call, { name: "AbortError" });
  await gone(mayfly);
});

test("a deadline ends run with DeadlineExceededError, and the task with it", async (t) => {
  const mayfly = await client(t);
  await assert.rejects(mayfly.run({ code: ENDLESS }, { deadline: "100ms" }), (error) => {
    assert.ok(error instanceof DeadlineExceededError);
    assert.deepEqual(
      [error.code, error.message],
      ["deadlineExceeded", "run: no answer within 100 ms"],
    );
    return true;
  });
  await gone(mayfly);
  await assert.rejects(mayfly.run({ code: "" }, { deadline: "0s" }), DeadlineExceededError);
  await gone(mayfly);
});

test("a wait that gives up leaves the task alone", async (t) => {
  const mayfly = await client(t);
  const task = await running(mayfly);
  await assert.rejects(task.wait({ deadline: "20ms" }), DeadlineExceededError);
  await assert.rejects(task.wait({ signal: AbortSignal.timeout(20) }), { name: "TimeoutError" });
  assert.ok((await mayfly.tasks()).some(({ id, state }) => id === task.id && state === "running"));
  await task.cancel();
  const [one, two] = await Promise.all([task.wait(), task.wait({ deadline: "1m" })]);
  assert.equal(one, two);
  assert.equal(one.verdict, "cancelled");
});

test("a wait may be asked for any number of times", async (t) => {
  const mayfly = await client(t);
  const task = await running(mayfly);
  const waits = Array.from({ length: 100 }, () => task.wait());
  await task.cancel();
  assert.equal(new Set(await Promise.all(waits)).size, 1);
});

test("close cancels; a wait under way and later calls say so", async (t) => {
  const mayfly = await client(t);
  const task = await running(mayfly);
  const wait = assert.rejects(task.wait(), CancelledError);
  await Promise.all([task.close(), task.close()]);
  await wait;
  await task.cancel();
  await assert.rejects(task.info(), FailedPreconditionError);
  await assert.rejects(task.readFile(0), FailedPreconditionError);
  await gone(mayfly);
});

test("release closes, too", async (t) => {
  const mayfly = await client(t);
  const task = await running(mayfly);
  task.release();
  task.release();
  await gone(mayfly);
});

test("a reader learns that the task was closed", async (t) => {
  const mayfly = await client(t);
  const task = await mayfly.submit({ code: ENDLESS }, { stream: true });
  const up = later();
  const reader = assert.rejects(async () => {
    for await (const _ of task.output ?? []) up.resolve();
  }, CancelledError);
  await up.promise;
  await task.close();
  await reader;
});

test("one signal may end hundreds of calls without a warning", async (t) => {
  const mayfly = await client(t);
  const warnings: Error[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning);
  process.on("warning", onWarning);
  t.after(() => process.off("warning", onWarning));
  const controller = new AbortController();
  const task = await running(mayfly);
  const waits = Array.from({ length: 300 }, () =>
    assert.rejects(task.wait({ signal: controller.signal }), { name: "AbortError" }),
  );
  controller.abort();
  await Promise.all(waits);
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(warnings, []);
  await task.close();
});
