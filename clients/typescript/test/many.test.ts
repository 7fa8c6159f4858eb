// Many at once, and nothing left behind.

import assert from "node:assert/strict";

import type { Client } from "mayfly";
import { client, test } from "./support.js";

interface Tables {
  questions: unknown[];
  answers: Record<number, unknown>;
  exports: unknown[];
  imports: Record<number, unknown>;
}

/** The connection's table sizes, by kind. */
function held(mayfly: Client): Record<string, number> {
  const rpc = (mayfly as unknown as { rpc: Tables }).rpc;
  return {
    questions: rpc.questions.filter((each) => each != null).length,
    answers: Object.keys(rpc.answers).length,
    exports: rpc.exports.filter((each) => each != null).length,
    imports: Object.keys(rpc.imports).length,
  };
}

test("500 tasks in flight, each with its own output", async (t) => {
  const mayfly = await client(t);
  const all = await Promise.all(
    Array.from({ length: 500 }, async (_, i) => {
      let live = "";
      const result = await mayfly.run(
        { code: "import sys; print(sys.argv[1] * 3)", args: [`<${i}>`] },
        { onOutput: ({ text }) => void (live += text) },
      );
      assert.equal(live, `<${i}><${i}><${i}>\n`);
      return result;
    }),
  );
  for (const result of all) assert.ok(result.ok && result.receipt.complete, result.reason);
  assert.equal(new Set(all.map(({ id }) => id)).size, 500);
  assert.equal(new Set(all.map(({ receipt }) => receipt.box)).size, 500);
});

test("what tasks took on the connection is given back", async (t) => {
  const mayfly = await client(t);
  await mayfly.tasks();
  const before = held(mayfly);
  for (let round = 0; round < 3; ++round) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        if (i % 4 === 0) return mayfly.run({ code: "" });
        if (i % 4 === 1) return mayfly.run({ code: "print(1)" }, { onOutput: () => {} });
        if (i % 4 === 2)
          return mayfly.run({ code: "open('/task/out/x', 'w').write('x')", collect: true });
        return mayfly
          .run({ template: "no-such", code: "" }, { onOutput: () => {} })
          .catch(() => {});
      }),
    );
    await mayfly.upload(`bytes of round ${round}`);
  }
  // One round trip: the daemon's releases come before its answer.
  while (JSON.stringify(held(mayfly)) !== JSON.stringify(before)) await mayfly.tasks();
});
