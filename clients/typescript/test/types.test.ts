// The types as users get them: each compiler that the README names checks a project whose settings
// are the README's. No daemon is needed.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { compile, project, readmeBlocks } from "./project.js";
import { PACKAGE, folder, test } from "./support.js";

/** By their names in package.json, with the versions that they must have. */
const COMPILERS = [
  ["typescript", /^5\.9\./],
  ["typescript-6", /^6\./],
] as const;

// Uses every kind of thing that the package exports.
const USER = `
import { connect, DEFAULT_SOCKET, MayflyError, OutputStream, Task, TaskFailedError, TaskResult } from "mayfly";
import type {
  BlobInfo, BlobRef, Bounds, CallOptions, Client, Code, ConnectOptions, Cores, Detach, DetachedTask, Duration, ErrorCode,
  FileSource, Limits, LimitWishes, OutFile, OutputChunk, OutputHandlers, Phases, Receipt, RunOptions, Script,
  ServerInfo, Size, StdinSource, StreamName, SubmitOptions, TaskInfo, TaskSpec, TemplateInfo, UploadSource, Usage,
  Verdict,
} from "mayfly";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>): void => {};

export async function use(options: ConnectOptions): Promise<Verdict> {
  await using mayfly: Client = await connect({ socket: DEFAULT_SOCKET, callDeadline: "5s", ...options });
  const server: ServerInfo = mayfly.server;
  same<typeof server.bounds, Bounds>(true);
  const wishes: LimitWishes = { memory: "64MiB", wallTime: "2s", cpu: 0.5, processes: 3, grace: "1s" };
  const spec: TaskSpec = { code: "print(1)", limits: wishes, files: { a: { data: "b", mode: 0o644 } } };
  const run: RunOptions = { check: true, deadline: "5s", onOutput: ({ stream, text }) => void [stream, text] };
  const result = await mayfly.run(spec, run);
  same<typeof result, TaskResult>(true);
  same<typeof result.limits, Limits>(true);
  same<typeof result.usage, Usage>(true);
  same<typeof result.phases, Phases>(true);
  same<typeof result.receipt, Receipt>(true);
  same<typeof result.exitCode, number | null>(true);
  same<typeof result.id, bigint>(true);
  const submit: SubmitOptions = { stream: true, signal: AbortSignal.timeout(5), deadline: null };
  await using task: Task = await mayfly.submit({ script: "x.py", stdinOpen: true }, submit);
  const output: OutputStream | undefined = task.output;
  for await (const chunk of output ?? []) same<typeof chunk, OutputChunk>(true);
  const files: readonly OutFile[] = (await task.wait()).outFiles;
  for (const file of files) for await (const piece of task.readChunks(file)) piece satisfies Uint8Array;
  const infos: [TaskInfo[], TemplateInfo[], BlobInfo[]] = [
    await mayfly.tasks(), await mayfly.templates(), await mayfly.blobs({ deadline: "1m" }),
  ];
  const kept: DetachedTask[] = await mayfly.detached();
  const blob: BlobRef = await mayfly.upload(new Uint8Array(1) satisfies UploadSource);
  await mayfly.removeBlob(blob);
  const kinds: Code[] = [{ module: "json.tool" }, { program: "app" }, { code: "1", via: "stdin" }];
  const more: [CallOptions, Code, Cores, Detach, Duration, FileSource, OutputHandlers, Script, Size, StdinSource, StreamName] = [
    {}, { command: ["ls"] }, 1, { lease: "1h" }, "5s", "x", {}, { name: "a", text: "b" }, 5n, "in", "stderr",
  ];
  try {
    result.check();
  } catch (error) {
    if (error instanceof TaskFailedError) return error.result.verdict;
    if (error instanceof MayflyError) same<typeof error.code, ErrorCode>(true);
  }
  return infos.length + more.length + kinds.length + kept.length > 0 ? "succeeded" : "unknown";
}
`;

// Each line is an error.
const MISUSER = `
import { connect } from "mayfly";
const mayfly = await connect();
await mayfly.run({ code: "", limit: {} });
await mayfly.run({ code: "", limits: { memroy: 1 } });
await mayfly.run({ code: "", limits: { wallTime: 250 } });
await mayfly.run({ code: "" }, { timeoutMs: 5 });
await mayfly.run({ code: "" }, { deadline: 5 });
await mayfly.submit({ code: "", detach: { lease: 60 } });
await connect({ callTimeoutMs: 5 });
await mayfly.run({ module: "a", code: "" });
await mayfly.run({ module: "a", via: "stdin" });
`;

for (const [compiler, wanted] of COMPILERS)
  test(`the types hold under ${compiler}, strict, with the README's settings`, async (t) => {
    const manifest = join(PACKAGE, "node_modules", compiler, "package.json");
    const { version } = JSON.parse(await readFile(manifest, "utf8")) as { version: string };
    assert.match(version, wanted);
    const readme = await readFile(join(PACKAGE, "README.md"), "utf8");
    assert.ok(readme.includes(version.split(".").slice(0, 2).join(".")), version);

    const top = await folder(t);
    await project(top);
    const [settings, ...more] = await readmeBlocks("json");
    assert.deepEqual(more, []);
    const { compilerOptions } = JSON.parse(settings ?? "") as { compilerOptions: object };
    assert.equal((compilerOptions as { strict?: boolean }).strict, true);
    const strictest = { exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, noEmit: true };
    await writeFile(
      join(top, "tsconfig.json"),
      JSON.stringify({ compilerOptions: { ...compilerOptions, ...strictest }, include: ["*.ts"] }),
    );
    const examples = await readmeBlocks("ts");
    assert.ok(examples.length >= 5);
    for (const [i, code] of examples.entries()) await writeFile(join(top, `example${i}.ts`), code);
    await writeFile(join(top, "user.ts"), USER);
    await writeFile(join(top, "misuser.ts"), MISUSER);
    const said = await compile(top, compiler, "--pretty", "false");
    const errors = said.split("\n").filter((line) => line !== "" && !line.startsWith(" "));
    assert.deepEqual(errors.filter((line) => !/(^|\/)misuser\.ts\(/.test(line)), [], said);
    // The check does find errors: one in each line after the first three.
    const lines = new Set([...said.matchAll(/misuser\.ts\((\d+),/g)].map(([, line]) => Number(line)));
    assert.deepEqual([...lines].sort((a, b) => a - b), [4, 5, 6, 7, 8, 9, 10, 11, 12], said);
  });
