// The package as users get it: its contents, its types, the README's examples.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { PACKAGE, folder, test } from "./support.js";

const run = promisify(execFile);

/** A project with the packed package and its dependencies only. */
async function project(top: string): Promise<void> {
  const { stdout } = await run(
    "npm",
    ["pack", "--json", "--ignore-scripts", "--pack-destination", top],
    { cwd: PACKAGE },
  );
  const [{ filename, files }] = JSON.parse(stdout) as [
    { filename: string; files: { path: string }[] },
  ];
  const names = files.map(({ path }) => path);
  assert.ok(
    ["package.json", "README.md", "dist/index.js", "dist/index.d.ts"].every((name) =>
      names.includes(name),
    ),
  );
  assert.ok(
    names.every((name) => /^(package\.json|README\.md|dist\/.*\.(js|d\.ts))$/.test(name)),
    `${names}`,
  );
  const modules = join(top, "node_modules");
  await mkdir(join(modules, "mayfly"), { recursive: true });
  await run("tar", [
    "-xzf",
    join(top, filename),
    "-C",
    join(modules, "mayfly"),
    "--strip-components=1",
  ]);
  for (const name of ["capnp-es", "@types", "undici-types"])
    await symlink(join(PACKAGE, "node_modules", name), join(modules, name));
  await writeFile(join(top, "package.json"), '{ "type": "module" }');
}

test("the README's examples compile as a project's own, and the first one runs", async (t) => {
  const top = await folder(t);
  await project(top);
  const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
  const blocks = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code ?? "");
  assert.ok(blocks.length >= 5);
  for (const [i, code] of blocks.entries()) await writeFile(join(top, `example${i}.ts`), code);
  const options = {
    target: "es2022",
    module: "nodenext",
    strict: true,
    exactOptionalPropertyTypes: true,
    lib: ["es2022", "esnext.disposable"],
    types: ["node"],
    outDir: "out",
  };
  await writeFile(join(top, "tsconfig.json"), JSON.stringify({ compilerOptions: options }));
  const tsc = join(PACKAGE, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [tsc, "-p", top]).catch((error: { stdout: string }) =>
    assert.fail(error.stdout),
  );
  const { stdout } = await run(process.execPath, [join(top, "out/example0.js")]);
  assert.equal(stdout, "succeeded 42\n\n");
});

test("a process ends by itself once its client is closed", async (t) => {
  const code = `
    import { connect } from ${JSON.stringify(join(PACKAGE, "dist/index.js"))};
    const mayfly = await connect();
    const task = await mayfly.submit({ code: "import time; time.sleep(600)" });
    const wait = task.wait({ timeoutMs: 1_000_000 }).catch((error) => console.log(error.name));
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
