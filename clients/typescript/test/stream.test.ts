// Live output, and stdin in pieces.

import assert from "node:assert/strict";
import { Readable } from "node:stream";

import { FailedPreconditionError, InvalidArgumentError } from "mayfly";
import type { OutputChunk } from "mayfly";
import { ENDLESS, MIB, client, later, running, test } from "./support.js";

test("output comes while the task runs", async (t) => {
  const mayfly = await client(t);
  const task = await mayfly.submit(
    { code: "print('ready', flush=True); print(input().upper())", stdinOpen: true },
    { stream: true },
  );
  const seen: string[] = [];
  for await (const { stream, text } of task.output ?? []) {
    seen.push(`${stream}: ${text}`);
    // The task continues only because its output arrived before its end.
    if (seen.length === 1) await task.writeStdin("go on\n");
  }
  assert.deepEqual(seen, ["stdout: ready\n", "stdout: GO ON\n"]);
  const result = await task.wait();
  assert.equal(result.verdict, "succeeded");
  assert.equal(result.stdout, "");
  assert.equal(result.usage.stdoutBytes, 12);
});

test("handlers hear of the start first, then of each piece in order", async (t) => {
  const mayfly = await client(t);
  const seen: string[] = [];
  const result = await mayfly.run(
    { code: "import sys; print('a', flush=True); print('b', file=sys.stderr)" },
    { onStarted: () => void seen.push("started"), onOutput: ({ text }) => void seen.push(text) },
  );
  assert.equal(result.verdict, "succeeded");
  assert.equal(seen[0], "started");
  assert.deepEqual(seen.slice(1).sort(), ["a\n", "b\n"]);
});

test("large output is whole and in order, one piece at a time", async (t) => {
  const mayfly = await client(t);
  let bytes = 0;
  let next = 0;
  let open = 0;
  let rest = "";
  const result = await mayfly.run(
    { code: "import sys\nfor i in range(800_000): sys.stdout.write(f'{i:07}\\n')" },
    {
      onOutput: async ({ data, text }) => {
        assert.equal(++open, 1);
        bytes += data.byteLength;
        const lines = (rest + text).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines)
          if (Number(line) !== next++) assert.fail(`${line} for ${next - 1}`);
        await Promise.resolve();
        --open;
      },
    },
  );
  assert.equal(result.verdict, "succeeded");
  assert.deepEqual([bytes, next, rest], [6_400_000, 800_000, ""]);
});

test("a character that pieces cut in two is whole in the text", async (t) => {
  const mayfly = await client(t);
  const code =
    "import os, sys\nfor b in 'aé€🦋'.encode():\n  os.write(1, bytes([b]))\n" +
    "  sys.stdin.readline()";
  const task = await mayfly.submit({ code, stdinOpen: true }, { stream: true });
  const pieces: OutputChunk[] = [];
  for await (const chunk of task.output ?? []) {
    pieces.push(chunk);
    await task.writeStdin("\n").catch(() => {}); // the last write finds no reader
  }
  assert.equal(pieces.length, 10);
  assert.equal(pieces.map(({ text }) => text).join(""), "aé€🦋");
  assert.equal(Buffer.concat(pieces.map(({ data }) => data)).toString(), "aé€🦋");
});

test("a slow reader holds its own task only", async (t) => {
  const mayfly = await client(t);
  const flood = await mayfly.submit(
    { code: "import sys\nfor _ in range(100): sys.stdout.write('x' * 65536)" },
    { stream: true },
  );
  const reader = flood.output?.[Symbol.asyncIterator]();
  assert.ok(reader !== undefined);
  const first = await reader.next();
  assert.equal(first.done, false);
  for (let i = 0; i < 5; ++i)
    assert.equal((await mayfly.run({ code: "print(6*7)" })).stdout, "42\n");
  assert.ok(
    (await mayfly.tasks()).some(({ id }) => id === flood.id),
    "the flood waits",
  );
  let bytes = first.value?.data.byteLength ?? 0;
  for await (const { data } of reader) bytes += data.byteLength;
  assert.equal(bytes, 100 * 65536);
  assert.equal((await flood.wait()).verdict, "succeeded");
});

test("leaving the loop cancels the task, also one that says nothing more", async (t) => {
  const mayfly = await client(t);
  for (const code of [ENDLESS, "while True: print('x' * 4096)"]) {
    const task = await mayfly.submit({ code }, { stream: true });
    for await (const _ of task.output ?? []) break;
    assert.equal((await task.wait()).verdict, "cancelled");
  }
});

test("wait discards what nobody began to read", async (t) => {
  const mayfly = await client(t);
  const task = await mayfly.submit(
    { code: "import sys; sys.stdout.write('x' * 4_000_000)" },
    { stream: true },
  );
  const result = await task.wait();
  assert.equal(result.verdict, "succeeded");
  assert.equal(result.usage.stdoutBytes, 4_000_000);
  assert.throws(() => task.output?.[Symbol.asyncIterator](), FailedPreconditionError);
});

test("what a handler throws cancels the task and comes out of run and wait", async (t) => {
  const mayfly = await client(t);
  const thrown = new Error("enough");
  const fail = (): never => {
    throw thrown;
  };
  await assert.rejects(mayfly.run({ code: ENDLESS }, { onOutput: fail }), thrown);
  await assert.rejects(
    mayfly.run({ code: ENDLESS }, { onOutput: () => {}, onStarted: fail }),
    thrown,
  );
  await assert.rejects(
    mayfly.run({ code: ENDLESS }, { onOutput: () => Promise.reject(thrown) }),
    thrown,
  );
  await assert.rejects((await mayfly.submit({ code: ENDLESS }, { onOutput: fail })).wait(), thrown);
});

// --- stdin -----------------------------------------------------------------------------------

const COUNT = "import sys; print(len(sys.stdin.buffer.read()))";

test("stdin is text, bytes, or a source of them, short or long", async (t) => {
  const mayfly = await client(t);
  async function* pieces(): AsyncGenerator<string | Uint8Array> {
    yield "four";
    yield new Uint8Array(3 * MIB);
    yield "";
    yield "ü";
  }
  for (const [stdin, bytes] of [
    [undefined, 0],
    ["", 0],
    ["ünf", 4],
    [new Uint8Array(MIB), MIB],
    ["x".repeat(5 * MIB), 5 * MIB],
    [new Uint8Array(MIB + 1), MIB + 1],
    [["a", Buffer.from("b")], 2],
    [pieces(), 3 * MIB + 6],
    [Readable.from(["ab", "cd"]), 4],
  ] as const) {
    const result = await mayfly.run({ code: COUNT, stdin });
    assert.equal(result.stdout, `${bytes}\n`, result.reason);
  }
});

test("stdin bytes arrive as they were", async (t) => {
  const mayfly = await client(t);
  const bytes = Uint8Array.from({ length: 700_001 }, (_, i) => (i * 7) & 0xff);
  const got: Uint8Array[] = [];
  const code = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)";
  await mayfly.run({ code, stdin: [bytes] }, { onOutput: ({ data }) => void got.push(data) });
  assert.ok(Buffer.concat(got).equals(bytes));
});

test("writes keep their order and return when the task has taken them", async (t) => {
  const mayfly = await client(t);
  const task = await mayfly.submit({
    code: "import sys\nfor line in sys.stdin: print(line.strip(), end=' ')",
    stdin: "0\n",
    stdinOpen: true,
  });
  const writes = Array.from({ length: 20 }, (_, i) => task.writeStdin(`${i + 1}\n`));
  await Promise.all([...writes, task.closeStdin()]);
  await assert.rejects(task.writeStdin("late"), FailedPreconditionError);
  const result = await task.wait();
  assert.equal(result.stdout, `${Array.from({ length: 21 }, (_, i) => i).join(" ")} `);
});

test("a source is fed no faster than the task reads, and is told when it is over", async (t) => {
  const mayfly = await client(t);
  let given = 0;
  const ended = later();
  async function* endless(): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        ++given;
        yield new Uint8Array(65536);
      }
    } finally {
      ended.resolve();
    }
  }
  const up = later();
  const task = await mayfly.submit(
    { code: `import sys; sys.stdin.buffer.read(100)\n${ENDLESS}`, stdin: endless() },
    { onOutput: () => up.resolve() },
  );
  await up.promise;
  for (let i = 0; i < 5; ++i) await mayfly.run({ code: "" });
  assert.ok(given < 10, `${given} pieces of 64 KiB, and the task has read 100 bytes`);
  await task.cancel();
  assert.equal((await task.wait()).verdict, "cancelled");
  await ended.promise;
});

test("a source that never gives anything does not hold the result", async (t) => {
  const mayfly = await client(t);
  const destroyed = later();
  const silent = new Readable({
    read: () => {},
    destroy: (_error, done) => {
      destroyed.resolve();
      done(null);
    },
  });
  const result = await mayfly.run({ code: "print(6*7)", stdin: silent });
  assert.equal(result.stdout, "42\n");
  await destroyed.promise;
});

test("what a source throws cancels the task and comes out of run", async (t) => {
  const mayfly = await client(t);
  const thrown = new Error("no more");
  function* broken(): Generator<string> {
    yield "x";
    throw thrown;
  }
  await assert.rejects(mayfly.run({ code: COUNT, stdin: broken() }), thrown);
  await assert.rejects(
    mayfly.run({ code: COUNT, stdin: [7] as unknown as string[] }),
    /neither a string nor/,
  );
});

test("more stdin than the task's input cap is a typed error", async (t) => {
  const mayfly = await client(t);
  await assert.rejects(
    mayfly.run({
      code: "import sys\nwhile sys.stdin.buffer.read(65536): pass",
      stdin: Readable.from(Array.from({ length: 40 }, () => Buffer.alloc(65536))),
      limits: { input: "1MiB" },
    }),
    (error) => error instanceof InvalidArgumentError && !error.retryable && /input|stdin/i.test(error.message),
  );
});

test("stdin that was not asked for is refused", async (t) => {
  const mayfly = await client(t);
  const task = await running(mayfly);
  await assert.rejects(task.writeStdin("x"), FailedPreconditionError);
  await task.close();
});
