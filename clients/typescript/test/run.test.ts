import assert from "node:assert/strict";
import { test } from "node:test";

import { client } from "./support.js";

test("run gives verdict, output and a receipt", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: "print(6*7)" });
  assert.equal(result.verdict, "succeeded");
  assert.equal(result.stdout, "42\n");
  assert.ok(result.receipt.complete);
});
