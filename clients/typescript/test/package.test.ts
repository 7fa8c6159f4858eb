// The package as users get it: the README's first example, and its end.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { compile, project, readmeBlocks, run } from "./project.js";
import { PACKAGE, folder, test } from "./support.js";

test("the README's first example runs as a project's own", async (t) => {
  const top = await folder(t);
  await project(top);
  const [settings] = await readmeBlocks("json");
  const [first] = await readmeBlocks("ts");
  await writeFile(join(top, "tsconfig.json"), settings ?? "");
  await writeFile(join(top, "example.ts"), first ?? "");
  assert.equal(await compile(top, "typescript"), "");
  const { stdout } = await run(process.execPath, [join(top, "example.js")]);
  assert.equal(stdout, "succeeded 42\n\n");
});

test("a process ends by itself once its client is closed", async (t) => {
  const code = `
    import { connect } from ${JSON.stringify(join(PACKAGE, "dist/index.js"))};
    const mayfly = await connect();
    const task = await mayfly.submit({ code: "import time; time.sleep(600)" });
    const wait = task.wait({ deadline: "1000s" }).catch((error) => console.log(error.name));
    await mayfly.close();
    await wait;
  `;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill());
  let said = "";
  child.stdout.on("data", (data: Buffer) => (said += data));
  const [exitCode] = (await once(child, "close")) as [number | null];
  assert.deepEqual([exitCode, said], [0, "DisconnectedError\n"]);
});
