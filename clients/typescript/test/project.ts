// A project of a user: the packed package, its dependencies, and the README's settings.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { PACKAGE } from "./support.js";

export const run = promisify(execFile);

/** Makes a project with the packed package and its dependencies only. */
export async function project(top: string): Promise<void> {
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

/** The README's blocks of a language. */
export async function readmeBlocks(language: string): Promise<string[]> {
  const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
  const blocks = readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"));
  return [...blocks].map(([, code]) => code ?? "");
}

/** What the compiler of node_modules says of the project; empty: nothing. */
export async function compile(top: string, compiler: string, ...args: string[]): Promise<string> {
  const tsc = join(PACKAGE, "node_modules", compiler, "bin/tsc");
  try {
    return (await run(process.execPath, [tsc, "-p", top, ...args])).stdout;
  } catch (error) {
    return (error as { stdout: string }).stdout || String(error);
  }
}
