// The daemon's errors, each with its class, message and hints.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

import * as mayflyPackage from "mayfly";
import {
  connect,
  InvalidArgumentError,
  MayflyError,
  NotFoundError,
  UnavailableError,
} from "mayfly";
import type { TaskSpec } from "mayfly";
import { PACKAGE, client, folder, running, socket, test } from "./support.js";

test("what the daemon refuses is an error of its code's class", async (t) => {
  const mayfly = await client(t);
  const bad: [TaskSpec, Function, RegExp][] = [
    [{ template: "no-such", code: "" }, NotFoundError, /no-such/],
    [{ template: "", code: "" }, NotFoundError, /template/],
    [{ code: "", limits: { memory: "100TiB" } }, InvalidArgumentError, /maximum/],
    [{ code: "", limits: { memory: 0 } }, InvalidArgumentError, /memory/],
    [{ code: "", limits: { processes: 0 } }, InvalidArgumentError, /processes/],
    [{ code: "", files: { "../x": "" } }, InvalidArgumentError, /\.\./],
    [{ code: "", files: { "/x": "" } }, InvalidArgumentError, /x/],
    [{ code: "", files: { "a\0b": "" } }, InvalidArgumentError, /NUL|name|path/],
    [{ code: "", env: { "A=B": "" } }, InvalidArgumentError, /A=B|env/],
    [{ code: "", args: ["a\0b"] }, InvalidArgumentError, /NUL|arg/],
    [{ template: "python", command: ["true"] }, InvalidArgumentError, /command|python/],
    [{ code: "", files: { x: { blob: "0".repeat(64) } } }, NotFoundError, /blob|0000/],
  ];
  for (const [spec, kind, words] of bad)
    await assert.rejects(mayfly.run(spec), (error) => {
      assert.ok(error instanceof MayflyError && error instanceof kind, String(error));
      assert.match(error.message, words);
      assert.equal(error.name, kind.name);
      assert.equal(typeof error.advice, "string");
      assert.deepEqual([error.retryable, error.retryAfterMs], [false, 0]);
      return true;
    });
  await assert.rejects(mayfly.kill(1n << 63n), NotFoundError);
  await assert.rejects(mayfly.kill(0), NotFoundError);
});

test("a bound that was met is retryable", async (t) => {
  const mayfly = await client(t);
  const { tasksPerConnectionMax } = mayfly.server.bounds;
  // Ended tasks that are unclosed count; none of them runs.
  const first = await mayfly.submit({ code: "", collect: true });
  await first.wait();
  const rest = await Promise.allSettled(
    Array.from({ length: tasksPerConnectionMax }, () => mayfly.submit({ code: "", collect: true })),
  );
  const refused = rest
    .filter((each) => each.status === "rejected")
    .map(({ reason }) => reason as unknown);
  assert.ok(refused.length > 0);
  for (const error of refused) {
    assert.ok(error instanceof mayflyPackage.ResourceExhaustedError, String(error));
    assert.ok(error.retryable && error.message !== "");
  }
  await Promise.all(
    rest.map((each) => (each.status === "fulfilled" ? each.value.close() : undefined)),
  );
  await first.close();
  assert.equal((await mayfly.run({ code: "print(6*7)" })).stdout, "42\n");
});

test("a call at the wrong time is a failed precondition", async (t) => {
  const mayfly = await client(t);
  await using task = await running(mayfly);
  await assert.rejects(task.readFile(0), mayflyPackage.FailedPreconditionError);
});

test("no daemon, and what is no daemon, is unavailable, and says what to do", async (t) => {
  const dir = await folder(t);
  for (const path of [join(dir, "nobody.sock"), "/dev/null"])
    await assert.rejects(connect({ socket: path }), (error) => {
      assert.ok(error instanceof UnavailableError);
      assert.match(error.message, new RegExp(`no daemon answers at '${path}'`));
      assert.match(String(error), /Start mayflyd/);
      return true;
    });
});

test("a user whom the daemon does not know is refused", async (t) => {
  const code = `
    import { connect } from ${JSON.stringify(join(PACKAGE, "dist/index.js"))};
    process.setgroups([]); process.setgid(65534); process.setuid(65534);
    const socket = ${JSON.stringify(socket())};
    await connect({ socket }).catch((error) => console.log(error.name, error.code));
  `;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill());
  let said = "";
  child.stdout.on("data", (data: Buffer) => (said += data));
  await once(child, "close");
  assert.equal(said, "PermissionDeniedError permissionDenied\n");
});

test("toString has the advice, and the stack the message", () => {
  const error = new InvalidArgumentError("'x' is no size", { advice: "Write it like 64KiB." });
  assert.equal(String(error), "InvalidArgumentError: 'x' is no size. Write it like 64KiB.");
  assert.equal(String(new NotFoundError("gone.")), "NotFoundError: gone.");
  assert.match(error.stack ?? "", /'x' is no size/);
  assert.ok(error instanceof MayflyError && error instanceof Error);
});
