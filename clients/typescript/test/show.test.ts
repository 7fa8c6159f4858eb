// A result as a person sees it. No daemon is needed.

import assert from "node:assert/strict";
import { inspect } from "node:util";

import type { TaskResult } from "mayfly";
import * as schema from "../dist/generated/mayfly.js";
import { fakeDaemon, fakeTask } from "./fake.js";
import { client, test } from "./support.js";
import type { TestContext } from "node:test";

interface Said {
  verdict?: schema.Verdict;
  reason?: string;
  stdout?: string;
  stderr?: string;
  truncated?: boolean;
}

/** The results of tasks that ended so. */
async function results(t: TestContext, all: Said[]): Promise<TaskResult[]> {
  const left = [...all];
  const daemon = await fakeDaemon(t, {
    submit: (_params, answer) => {
      const said = left.shift() ?? {};
      answer.task = fakeTask({
        wait: (_params, ended) => {
          const result = ended._initResult();
          result.id = 7n;
          result.template = "python";
          result.verdict = said.verdict ?? schema.Verdict.SUCCEEDED;
          result.reason = said.reason ?? "";
          const [out, err] = [Buffer.from(said.stdout ?? ""), Buffer.from(said.stderr ?? "")];
          result._initStdout(out.byteLength).copyBuffer(out);
          result._initStderr(err.byteLength).copyBuffer(err);
          result.stdoutTruncated = said.truncated ?? false;
          return Promise.resolve();
        },
      });
      return Promise.resolve();
    },
  });
  const mayfly = await client(t, { socket: daemon.path });
  const got: TaskResult[] = [];
  for (const _ of all) got.push(await mayfly.run({ code: "" }));
  return got;
}

test("a result as text has what a person wants", async (t) => {
  const { FAILED, WALL_TIME, CANCELLED, INTERNAL } = schema.Verdict;
  const wanted: [Said, string][] = [
    [{ stdout: "42\n", reason: "exited with code 0" }, "42"],
    [{ stdout: "a\n\n" }, "a\n"],
    [{}, ""],
    [{ stdout: "out\n", stderr: "err\n" }, "out\nerr"],
    [
      { verdict: FAILED, reason: "exited with code 1", stdout: "half", stderr: "KeyError: 1\n" },
      "failed: exited with code 1\nhalf\nKeyError: 1",
    ],
    [{ verdict: WALL_TIME, reason: "killed at 1 s" }, "wallTime: killed at 1 s"],
    [{ verdict: CANCELLED }, "cancelled"],
    [{ stdout: "x", truncated: true }, "x\n[stdout goes on: only its beginning was captured]"],
    [{ stdout: "\x1b]0;owned\x07\u202e\té\r\n" }, "\\x1b]0;owned\\x07\\u{202e}\té\\x0d"],
    [{ verdict: INTERNAL, reason: "odd \x1b[2J" }, "internal: odd \\x1b[2J"],
  ];
  const all = await results(
    t,
    wanted.map(([said]) => said),
  );
  for (const [i, [, text]] of wanted.entries()) assert.equal(`${all[i]}`, text);
});

test("console.log shows the verdict and the output, not bytes", async (t) => {
  const [good, bad] = await results(t, [
    { stdout: "42\n" },
    { verdict: schema.Verdict.FAILED, reason: "exited with code 1", stderr: "KeyError: 1\n" },
  ]);
  assert.equal(inspect(good), "TaskResult 7 (python): succeeded\n42");
  const said = "TaskResult 7 (python): failed: exited with code 1";
  assert.equal(inspect(bad), `${said}\nKeyError: 1`);
  assert.equal(inspect({ deep: { deeper: bad } }, { depth: 1, breakLength: Infinity }), `{ deep: { deeper: [${said}] } }`);
});
