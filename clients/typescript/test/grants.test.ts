// Grants and tools, against a fake daemon: what is sent, what is refused, and what a hostile task
// may see.

import assert from "node:assert/strict";

import {
  connect,
  FailedPreconditionError,
  InvalidArgumentError,
  NotFoundError,
  ToolError,
  UnavailableError,
  UnsupportedError,
} from "mayfly";
import type { TaskSpec } from "mayfly";
import { utils } from "capnp-es";

import * as schema from "../dist/generated/mayfly.js";
import { fakeDaemon } from "./fake.js";
import { client, test } from "./support.js";
import type { TestContext } from "node:test";

interface Seen {
  grants: [string, string][];
  tools: { name: string; description: string; schemaJson: string }[];
  answers: [number, string][];
  revoked: string[];
  closed: boolean;
}

// A daemon whose submit calls the client's tools as a task would, and revokes grants.
async function brokered(
  t: TestContext,
  calls: [string, string][] = [],
): Promise<{ path: string; seen: Seen }> {
  const seen: Seen = { grants: [], tools: [], answers: [], revoked: [], closed: false };
  const missing = (): Promise<void> => Promise.reject(new Error("not faked"));
  const { path } = await fakeDaemon(t, {
    submit: async (params, results) => {
      const { spec } = params;
      seen.grants = spec.grants.toArray().map(({ name, narrowing }) => [name, narrowing]);
      seen.tools = spec.tools
        .toArray()
        .map(({ name, description, schemaJson }) => ({ name, description, schemaJson }));
      for (const [name, json] of calls) {
        const answer = await params.toolBox
          .call((call) => {
            call.name = name;
            call.json = json;
          })
          .promise();
        const { code, message } = answer.error;
        seen.answers.push([code, code === 0 ? answer.json : message]);
      }
      results.id = 7n;
      results.task = new schema.Task$Server({
        wait: () => new Promise(() => {}),
        cancel: () => Promise.resolve(),
        writeStdin: missing,
        closeStdin: missing,
        readFile: missing,
        close: () => ((seen.closed = true), Promise.resolve()),
        info: missing,
      }).client();
      const grants = results._initGrants(seen.grants.length);
      seen.grants.forEach(([name], i) => {
        const grant = new schema.Grant$Server({
          revoke: (_params, answer) => {
            if (name !== "slow") seen.revoked.push(name);
            else {
              const error = answer._initError();
              error.code = schema.ErrorCode.UNAVAILABLE;
              error.message = "not in time";
            }
            return Promise.resolve();
          },
        }).client();
        const place = grants.get(i);
        utils.setInterfacePointer(results.segment.message.addCap(grant.client), place);
      });
    },
  });
  return { path, seen };
}

test("functions are tools, and a task's calls reach them", async (t) => {
  const { path, seen } = await brokered(t, [
    ["lookup", '{"word": "x"}'],
    ["sum", "[1, 2]"],
    ["nothing", ""],
  ]);
  const mayfly = await client(t, { socket: path });
  const task = await mayfly.submit({
    code: "1",
    tools: {
      lookup: {
        description: "Finds a word.",
        parameters: { type: "object", properties: { word: { type: "string" } } },
        call: async ({ word }: { word: string }) => ({ found: word + "\u00e9" }),
      },
      sum: (list: number[]) => list.reduce((a, b) => a + b),
      nothing: () => undefined,
    },
  });
  assert.deepEqual(seen.tools, [
    {
      name: "lookup",
      description: "Finds a word.",
      schemaJson: '{"type":"object","properties":{"word":{"type":"string"}}}',
    },
    { name: "sum", description: "", schemaJson: "" },
    { name: "nothing", description: "", schemaJson: "" },
  ]);
  assert.deepEqual(seen.answers, [
    [0, '{"found":"x\u00e9"}'],
    [0, "3"],
    [0, "null"],
  ]);
  await task.close();
});

test("a task sees of an exception that there was one, and of a ToolError its text", async (t) => {
  const names = ["leak", "tell", "thrown", "odd", "cyclic", "large", "missing", "json"];
  const { path, seen } = await brokered(
    t,
    names.map((name) => [name, name === "json" ? "{" : "{}"]),
  );
  const mayfly = await client(t, { socket: path });
  const cyclic: Record<string, unknown> = {};
  cyclic["self"] = cyclic;
  await mayfly.submit({
    code: "1",
    tools: {
      leak: () => {
        throw new RangeError("password=hunter2");
      },
      tell: () => Promise.reject(new ToolError("no such customer \ud800")),
      thrown: () => Promise.reject("hunter2"),
      odd: () => () => {},
      cyclic: () => cyclic,
      large: () => "x".repeat(1 << 20),
      json: () => 1,
    },
  });
  const { ErrorCode } = schema;
  assert.deepEqual(seen.answers, [
    [ErrorCode.INTERNAL, "the tool failed: RangeError"],
    [ErrorCode.FAILED_PRECONDITION, "no such customer \ufffd"],
    [ErrorCode.INTERNAL, "the tool failed: string"],
    [ErrorCode.FAILED_PRECONDITION, "the tool's answer is not JSON"],
    [ErrorCode.FAILED_PRECONDITION, "the tool's answer is not JSON"],
    [ErrorCode.FAILED_PRECONDITION, "the tool's answer has 1048578 bytes; at most 1048576"],
    [ErrorCode.NOT_FOUND, "there is no such tool"],
    [ErrorCode.INVALID_ARGUMENT, "the arguments are not JSON"],
  ]);
});

test("grants are named, narrowed and revoked", async (t) => {
  const { path, seen } = await brokered(t);
  const mayfly = await client(t, { socket: path });
  const task = await mayfly.submit({ code: "1", grants: ["openai:calls=10,paths=/a:b", "slow"] });
  assert.deepEqual(seen.grants, [
    ["openai", "calls=10,paths=/a:b"],
    ["slow", ""],
  ]);
  await task.revoke("openai");
  assert.deepEqual(seen.revoked, ["openai"]);
  await assert.rejects(task.revoke("slow"), UnavailableError);
  await assert.rejects(task.revoke("other"), NotFoundError);
  await task.close();
  await assert.rejects(task.revoke("openai"), FailedPreconditionError);
});

test("a daemon that knows no grants gets no task", async (t) => {
  const { path } = await fakeDaemon(t, {
    hello: (_params, results) => {
      results._initInfo().protocol = 3;
      return Promise.resolve();
    },
    submit: () => assert.fail("submitted"),
  });
  const mayfly = await connect(path);
  t.after(() => mayfly.close());
  for (const spec of [{ code: "1", grants: ["a"] }, { code: "1", tools: { a: () => 1 } }])
    await assert.rejects(mayfly.submit(spec), UnsupportedError);
});

// [spec, message]
const SPECS: [unknown, RegExp][] = [
  [{ code: "1", grants: "openai" }, /^grants is not a list/],
  [{ code: "1", grants: { openai: "" } }, /^grants is not a list/],
  [{ code: "1", grants: [1] }, /^grants\[0\] is not a string/],
  [{ code: "1", grants: [":calls=1"] }, /^grants\[0\]: ':calls=1' names no action/],
  [{ code: "1", tools: [() => 1] }, /^tools: Array is no object/],
  [{ code: "1", tools: { a: 1 } }, /^tools\.a: Number is no object/],
  [{ code: "1", tools: { a: {} } }, /^tools\.a has no `call`/],
  [{ code: "1", tools: { a: { call: 1 } } }, /^tools\.a\.call is not a function/],
  [{ code: "1", tools: { a: { run: () => 1 } } }, /^tools\.a: there is no key 'run'/],
  [{ code: "1", tools: { a: { call: () => 1, description: 1 } } }, /description is not a string/],
  [{ code: "1", tools: { a: { call: () => 1, parameters: "{}" } } }, /parameters: String is no object/],
  [{ code: "1", tools: { a: () => 1 }, detach: { lease: "1m" } }, /detached task has no tools/],
];

test("what cannot be sent is refused", async (t) => {
  const { path } = await brokered(t);
  const mayfly = await client(t, { socket: path });
  for (const [spec, message] of SPECS)
    await assert.rejects(mayfly.submit(spec as TaskSpec), (error) => {
      assert.ok(error instanceof InvalidArgumentError, String(error));
      assert.match(error.message, message);
      return true;
    });
});
