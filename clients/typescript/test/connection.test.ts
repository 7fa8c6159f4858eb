// The connection: how it ends, and how daemons appear that are older, newer, slow or broken.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection } from "node:net";

import { ObjectSize, utils } from "capnp-es";
import * as errors from "mayfly";
import { connect, DeadlineExceededError, DisconnectedError, MayflyError, Task } from "mayfly";
import type { Client, ErrorCode, Verdict } from "mayfly";
import * as schema from "../dist/generated/mayfly.js";
import { fakeDaemon, fakeTask, listen, proxy } from "./fake.js";
import { ENDLESS, MIB, client, later, socket, test } from "./support.js";

// --- the end -------------------------------------------------------------------------------

function isDisconnected(error: unknown): boolean {
  assert.ok(error instanceof DisconnectedError && error instanceof errors.UnavailableError);
  assert.deepEqual(
    [error.code, error.retryable, error.advice],
    ["unavailable", true, "Connect again."],
  );
  return true;
}

test("a dropped connection rejects all that waits, and ends its tasks", async (t) => {
  const observer = await client(t);
  const between = await proxy(t, socket());
  const mayfly = await client(t, { socket: between.path });
  const up = [later(), later(), later()];
  const task = await mayfly.submit(
    { code: ENDLESS, stdinOpen: true },
    { onOutput: () => up[0]?.resolve() },
  );
  const stream = await mayfly.submit({ code: ENDLESS }, { stream: true });
  const waits = [
    task.wait(),
    mayfly.run({ code: ENDLESS }, { onOutput: () => up[1]?.resolve() }),
    (async () => {
      for await (const _ of stream.output ?? []) up[2]?.resolve();
    })(),
    task.writeStdin(new Uint8Array(MIB)),
  ].map((each) => assert.rejects(each, isDisconnected));
  await Promise.all(up.map(({ promise }) => promise));
  between.sockets[0]?.destroy();
  await Promise.all(waits);
  await mayfly.closed;
  assert.equal(mayfly.connected, false);
  await assert.rejects(mayfly.run({ code: "" }), isDisconnected);
  await assert.rejects(mayfly.tasks(), isDisconnected);
  await assert.rejects(task.cancel(), isDisconnected);
  await task.close();
  await stream[Symbol.asyncDispose]();
  await mayfly.close();
  while ((await observer.tasks()).some(({ id }) => id === task.id || id === stream.id));
});

test("close ends what waits, and the connection's tasks", async (t) => {
  const observer = await client(t);
  const mayfly = await client(t);
  const up = later();
  const task = await mayfly.submit({ code: ENDLESS }, { onOutput: () => up.resolve() });
  await up.promise;
  const wait = assert.rejects(task.wait(), (error) => {
    assert.match(String(error), /this client was closed/);
    return isDisconnected(error);
  });
  await Promise.all([mayfly.close(), mayfly.close()]);
  await wait;
  while ((await observer.tasks()).some(({ id }) => id === task.id));
});

// --- daemons of another kind ---------------------------------------------------------------

test("a daemon that never answers is a deadline", async (t) => {
  const silent = await listen(t, () => {});
  await assert.rejects(connect({ socket: silent.path, deadline: "50ms" }), DeadlineExceededError);
  const reason = new Error("no patience");
  const controller = new AbortController();
  const connecting = assert.rejects(
    connect({ socket: silent.path, signal: controller.signal }),
    reason,
  );
  while (silent.sockets.length < 2) await new Promise((resolve) => setImmediate(resolve));
  controller.abort(reason);
  await connecting;
  for (const socket of silent.sockets) {
    socket.resume();
    if (!socket.closed) await once(socket, "close");
  }

  const slow = await fakeDaemon(t, { tasks: () => new Promise(() => {}) });
  const mayfly = await client(t, { socket: slow.path, deadline: "20s", callDeadline: "50ms" });
  await assert.rejects(mayfly.tasks(), (error) => {
    assert.match(String(error), /tasks: no answer within 50 ms/);
    return error instanceof DeadlineExceededError;
  });
});

test("an idle client tells the daemon that it is there", async (t) => {
  let hellos = 0;
  const three = later();
  const daemon = await fakeDaemon(t, {
    hello: (_params, results) => {
      results._initInfo()._initBounds().connectionIdleMs = 30;
      if (++hellos === 3) three.resolve();
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  await three.promise;
  assert.ok(mayfly.connected);
});

test("an older daemon says so in words", async (t) => {
  const older = await fakeDaemon(t, {
    hello: (params, results) => {
      assert.equal(params.protocol, 4);
      const error = results._initError();
      error.code = schema.ErrorCode.FAILED_PRECONDITION;
      error.message = "client 'x' speaks protocol 2; this daemon (0.0.1) speaks 1 to 1";
      error.advice = "Update the older of daemon and client.";
      return Promise.resolve();
    },
  });
  await assert.rejects(connect({ socket: older.path }), (error) => {
    assert.ok(error instanceof errors.FailedPreconditionError);
    assert.match(String(error), /speaks 1 to 1. Update the older/);
    return true;
  });
});

test("a call that the daemon does not know is unsupported", async (t) => {
  const mayfly = await client(t);
  // The real daemon, asked for a method that no version has.
  const remote = (mayfly as unknown as { mayfly: schema.Mayfly$Client }).mayfly;
  const method = { ...schema.Mayfly$Client.methods[3], methodId: 999 };
  await assert.rejects(
    remote.client.call({ method }).struct(),
    (error: { kind?: string }) => error.kind === "unimplemented",
  );
  assert.ok(Array.isArray(await mayfly.tasks()));
});

const CODES: [ErrorCode, string][] = [
  ["invalidArgument", "InvalidArgumentError"],
  ["notFound", "NotFoundError"],
  ["alreadyExists", "AlreadyExistsError"],
  ["resourceExhausted", "ResourceExhaustedError"],
  ["unavailable", "UnavailableError"],
  ["failedPrecondition", "FailedPreconditionError"],
  ["permissionDenied", "PermissionDeniedError"],
  ["cancelled", "CancelledError"],
  ["deadlineExceeded", "DeadlineExceededError"],
  ["hostUnfit", "HostUnfitError"],
  ["internal", "InternalError"],
  ["internal", "InternalError"], // a newer daemon's
];

test("each code has its class, with message, advice and retry hint", async (t) => {
  const daemon = await fakeDaemon(t, {
    kill: (params, results) => {
      const error = results._initError();
      error.code = Number(params.id) as schema.ErrorCode;
      error.message = `message ${params.id}`;
      error.advice = `advice ${params.id}`;
      error.retryable = true;
      error.retryAfterMs = 1234;
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  assert.equal(Object.keys(schema.ErrorCode).length, CODES.length, "all but ok, and one more");
  for (const [i, [code, name]] of CODES.entries())
    await assert.rejects(mayfly.kill(i + 1), (error) => {
      assert.ok(error instanceof MayflyError);
      assert.deepEqual(
        [error.code, error.name, error.message, error.advice, error.retryable, error.retryAfterMs],
        [code, name, `message ${i + 1}`, `advice ${i + 1}`, true, 1234],
      );
      assert.ok(error instanceof (errors as unknown as Record<string, Function>)[name]!);
      return true;
    });
  await mayfly.kill(0);
});

// A task object of the fake: the id of its submit says how it ends.
function endedTask(fill: (result: schema.TaskResult) => void): schema.Task$Client {
  return fakeTask({
    wait: (_params, results) => {
      fill(results._initResult());
      return Promise.resolve();
    },
  });
}

test("every verdict has its word, one of a newer daemon too", async (t) => {
  const words: Verdict[] = [
    "succeeded",
    "failed",
    "signaled",
    "wallTime",
    "cpuTime",
    "memory",
    "processes",
    "output",
    "disk",
    "cancelled",
    "clientGone",
    "daemonStopping",
    "internal",
    "queueTime",
    "unknown",
  ];
  let next = 0;
  const daemon = await fakeDaemon(t, {
    submit: (_params, results) => {
      const verdict = next++;
      results.task = endedTask((result) => {
        result.verdict = verdict as schema.Verdict;
        result.exitCode = -7;
        result.signal = 11;
        result.capValue = 1n << 60n;
      });
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  assert.equal(Object.keys(schema.Verdict).length, words.length - 1);
  for (const word of words) {
    const result = await mayfly.run({ code: "" });
    assert.equal(result.verdict, word);
    assert.equal(result.exitCode, ["succeeded", "failed"].includes(word) ? -7 : null);
    assert.equal(result.signal, word === "signaled" ? 11 : null);
    assert.equal(result.capValue, 2 ** 60);
  }
});

test("an older daemon's answers lack what is newer", async (t) => {
  const daemon = await fakeDaemon(t, {
    submit: (_params, results) => {
      results.id = 7n;
      results.task = endedTask((result) => (result.exitCode = 5));
      utils.resize(new ObjectSize(8, 1), results); // before there were `error` and `existing`
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  const task = await mayfly.submit({ code: "" });
  assert.deepEqual([task.id, task.existing], [7n, false]);
  assert.equal((await task.wait()).exitCode, 5);
});

test("the daemon's objects are released, and the client's are", async (t) => {
  let released: () => number = () => 0;
  const daemon = await fakeDaemon(t, {
    submit: (_params, results) => {
      results.task = endedTask(() => {});
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  const [far] = daemon.connections;
  assert.ok(far !== undefined);
  released = () => far.exports.filter((each) => each != null).length;
  for (let i = 0; i < 10; ++i) await mayfly.run({ code: "" });
  await mayfly.kill(1).catch(() => {}); // a round trip
  assert.equal(released(), 1, "the main interface only");
});

test("calls that the client does not know are refused, and the connection stands", async (t) => {
  const answered = later<string>();
  const daemon = await fakeDaemon(t, {
    submit: (params, results) => {
      const sink = params.output;
      const method = { ...schema.OutputSink$Client.methods[0], methodId: 999 };
      sink.client
        .call({ method })
        .struct()
        .catch((error: { kind: string }) => answered.resolve(error.kind));
      results.task = endedTask(() => {});
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  const task = await mayfly.submit({ code: "" }, { onOutput: () => {} });
  assert.ok(task instanceof Task);
  assert.equal(await answered.promise, "unimplemented");
  assert.ok(mayfly.connected);
});

test("bytes that are no messages end the connection, not the process", async (t) => {
  const frame = (...words: number[]): Buffer => Buffer.from(new Uint32Array(words).buffer);
  const rubbish: [string, Buffer][] = [
    ["text", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")],
    ["too many segments", frame(0xffffffff, 0)],
    ["a message of gigabytes", frame(0, 0x10000000)],
    ["nothing in it", frame(0, 0)],
    ["a far pointer to nowhere", frame(0, 1, 0xfffffffa, 7)],
    ["a struct beyond its end", frame(0, 1, 0x7ffffffc, 0xffffffff)],
    ["an answer to what was not asked", frame(0, 5, 0, 0x10001, 3, 0, 0, 2, 4711, 0, 0, 0)],
  ];
  for (const [name, bytes] of rubbish) {
    const peer = await listen(t, (socket) => socket.write(bytes));
    await assert.rejects(
      connect({ socket: peer.path, deadline: "20s" }),
      (error) => error instanceof MayflyError && !(error instanceof DeadlineExceededError),
      name,
    );
  }
});

test("half a message and then the end is a lost connection", async (t) => {
  const peer = await listen(t, (socket) => {
    socket.end(Buffer.from(new Uint32Array([0, 100, 1, 2, 3]).buffer));
  });
  await assert.rejects(connect({ socket: peer.path }), isDisconnected);
});

test("messages are cut out of the stream wherever it is cut", async (t) => {
  // Each byte of the real daemon's answers arrives alone.
  const between = await proxy(t, socket());
  const slow = await listen(t, (near) => {
    const far = createConnection({ path: between.path });
    near.pipe(far);
    far.on("data", (data: Buffer) => {
      for (const byte of data) near.write(Buffer.of(byte));
    });
    near.on("close", () => far.destroy());
  });
  const mayfly: Client = await client(t, { socket: slow.path });
  const result = await mayfly.run({ code: "print('x' * 5000)" }, { onOutput: () => {} });
  assert.equal(result.verdict, "succeeded");
  assert.ok((await mayfly.templates()).length > 0);
});
