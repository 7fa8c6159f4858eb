// A task's files on their way in, through blobs if they are large, and out.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import {
  chmod,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { InvalidArgumentError, NotFoundError, UnavailableError } from "mayfly";
import type { TaskResult, TaskSpec } from "mayfly";
import { checkNotLost } from "../dist/files.js";
import { MIB, client, folder, test } from "./support.js";

/** Prints each file of /task as "path mode sha256-start". */
const LIST = `
import hashlib, os
for top, _, names in sorted(os.walk('/task')):
  for name in sorted(names):
    path = os.path.join(top, name)
    data = open(path, 'rb').read()
    mode = os.stat(path).st_mode & 0o777
    print(path[6:], oct(mode)[2:], len(data), hashlib.sha256(data).hexdigest()[:8])
`;

const line = (path: string, mode: string, data: string | Uint8Array): string =>
  `${path} ${mode} ${Buffer.byteLength(data)} ` +
  createHash("sha256").update(data).digest("hex").slice(0, 8);

test("input files come as text, bytes, paths, URLs, with modes, into folders", async (t) => {
  const mayfly = await client(t);
  const local = join(await folder(t), "local.bin");
  const data = randomBytes(1000);
  await writeFile(local, data);
  await chmod(local, 0o750);
  const result = await mayfly.run({
    code: LIST,
    files: {
      text: "tëxt",
      "deep/er/bytes": new Uint8Array([0, 255]),
      empty: "",
      path: { path: local },
      url: pathToFileURL(local),
      "with mode": { data: "x", mode: 0o400 },
      "path with mode": { path: local, mode: 0o600 },
    },
  });
  assert.deepEqual(
    result.stdout.trim().split("\n").sort(),
    [
      line("deep/er/bytes", "644", new Uint8Array([0, 255])),
      line("empty", "644", ""),
      line("path with mode", "600", data),
      line("path", "750", data),
      line("text", "644", "tëxt"),
      line("url", "750", data),
      line("with mode", "400", "x"),
    ].sort(),
  );
});

test("a list of local paths puts each at its own name", async (t) => {
  const mayfly = await client(t);
  const dir = await folder(t);
  await writeFile(join(dir, "a.txt"), "a");
  await writeFile(join(dir, "b.txt"), "b");
  const result = await mayfly.run({
    code: LIST,
    files: [join(dir, "a.txt"), pathToFileURL(join(dir, "b.txt"))],
  });
  assert.equal(result.stdout, `${line("a.txt", "644", "a")}\n${line("b.txt", "644", "b")}\n`);
});

test("a file that is not there is named", async (t) => {
  const mayfly = await client(t);
  await assert.rejects(mayfly.run({ code: "", files: ["/no/such/file"] }), { code: "ENOENT" });
});

test("a thousand small files fit", async (t) => {
  const mayfly = await client(t);
  const files = Object.fromEntries(
    Array.from({ length: 1000 }, (_, i) => [`d${i % 10}/f${i}`, `content ${i}`.repeat(300)]),
  );
  const result = await mayfly.run({
    code: "import os; print(sum(len(names) for _, _, names in os.walk('/task')))",
    files,
  });
  assert.equal(result.stdout, "1000\n", result.reason);
});

test("files beyond a request go as blobs, and only once", async (t) => {
  const mayfly = await client(t);
  const dir = await folder(t);
  const large = randomBytes(9 * MIB);
  const other = randomBytes(5 * MIB);
  await writeFile(join(dir, "large"), large);
  const spec: TaskSpec = {
    code: LIST,
    files: {
      large: { path: join(dir, "large"), mode: 0o600 },
      other,
      "other too": other,
      small: "small",
    },
  };
  const expected = [
    line("large", "600", large),
    line("other", "644", other),
    line("other too", "644", other),
    line("small", "644", "small"),
  ].sort();
  for (let i = 0; i < 2; ++i) {
    const result = await mayfly.run(spec);
    assert.deepEqual(result.stdout.trim().split("\n").sort(), expected, result.reason);
  }
  const sha256 = createHash("sha256").update(large).digest("hex");
  const blob = (await mayfly.blobs()).find((each) => each.sha256 === sha256);
  assert.ok(blob !== undefined && blob.sizeBytes === large.byteLength && blob.expiresMs > 0);
});

test("an uploaded blob serves many tasks, until it is removed", async (t) => {
  const mayfly = await client(t);
  const data = randomBytes(3 * MIB);
  const blob = await mayfly.upload(data);
  assert.equal(blob.sha256, createHash("sha256").update(data).digest("hex"));
  assert.equal(blob.sizeBytes, data.byteLength);
  assert.deepEqual(await mayfly.upload(data), blob);
  const spec: TaskSpec = {
    code: LIST,
    files: { a: { blob }, b: { blob: blob.sha256, mode: 0o600 } },
  };
  const all = await Promise.all(Array.from({ length: 10 }, () => mayfly.run(spec)));
  for (const result of all)
    assert.equal(result.stdout, `${line("a", "644", data)}\n${line("b", "600", data)}\n`);
  await mayfly.removeBlob(blob);
  await assert.rejects(mayfly.run(spec), NotFoundError);
  await assert.rejects(mayfly.removeBlob(blob), NotFoundError);
  assert.ok(!(await mayfly.blobs()).some(({ sha256 }) => sha256 === blob.sha256));
});

test("upload takes text, an empty one, a path and a URL", async (t) => {
  const mayfly = await client(t);
  const path = join(await folder(t), "x");
  await writeFile(path, "from a file");
  for (const [source, text] of [
    ["text", "text"],
    ["", ""],
    [{ path }, "from a file"],
    [pathToFileURL(path), "from a file"],
  ] as const) {
    const blob = await mayfly.upload(source);
    const result = await mayfly.run({ code: "print(open('x').read())", files: { x: { blob } } });
    assert.equal(result.stdout, `${text}\n`);
  }
  await assert.rejects(mayfly.upload({ path: "/no/such" }), { code: "ENOENT" });
  await assert.rejects(mayfly.upload(7 as unknown as string), InvalidArgumentError);
  await assert.rejects(mayfly.removeBlob("xyz"), InvalidArgumentError);
});

// --- out -----------------------------------------------------------------------------------

const LEAVE = `
import os
os.makedirs('/task/out/d/e')
open('/task/out/d/e/text', 'w').write('hällo')
open('/task/out/large', 'wb').write(bytes(range(256)) * 10_000)
open('/task/out/empty', 'w')
os.chmod('/task/out/empty', 0o4711)
os.symlink('/etc/passwd', '/task/out/link')
os.mkfifo('/task/out/fifo')
`;

test("run brings what the task left, with collect", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: LEAVE, collect: true });
  const files = new Map(result.outFiles.map((file) => [file.name, file]));
  assert.deepEqual([...files.keys()].sort(), ["d/e/text", "empty", "fifo", "large", "link"]);
  assert.equal(Buffer.from(files.get("d/e/text")?.data ?? []).toString(), "hällo");
  assert.deepEqual(
    Buffer.from(files.get("large")?.data ?? []),
    Buffer.concat(
      Array.from({ length: 10_000 }, () => Buffer.from(Array.from({ length: 256 }, (_, i) => i))),
    ),
  );
  assert.equal(files.get("empty")?.data?.byteLength, 0);
  assert.equal((files.get("empty")?.mode ?? 0) & 0o7777, 0o711);
  for (const name of ["link", "fifo"]) {
    assert.notEqual(files.get(name)?.skipped, "");
    assert.equal(files.get(name)?.data, undefined);
  }
  assert.deepEqual((await mayfly.run({ code: LEAVE })).outFiles, []);
});

test("run saves what the task left, with out", async (t) => {
  const mayfly = await client(t);
  const dir = join(await folder(t), "new/folder");
  const result = await mayfly.run({ code: LEAVE }, { out: dir });
  assert.equal(await readFile(join(dir, "d/e/text"), "utf8"), "hällo");
  assert.equal((await stat(join(dir, "large"))).size, 2_560_000);
  assert.equal((await stat(join(dir, "empty"))).mode & 0o7777, 0o711);
  assert.deepEqual((await readdir(dir)).sort(), ["d", "empty", "large"]);
  for (const file of result.outFiles) {
    assert.equal(file.data, undefined);
    if (file.skipped === "") assert.equal(file.saved, join(dir, file.name));
    else assert.deepEqual([file.saved, file.notSaved], [undefined, file.skipped]);
  }
});

test("a task's files can be read in pieces, from any task object", async (t) => {
  const mayfly = await client(t);
  await using task = await mayfly.submit({ code: LEAVE, collect: true });
  const { outFiles } = await task.wait();
  const large = outFiles.find(({ name }) => name === "large");
  assert.ok(large !== undefined);
  let bytes = 0;
  let pieces = 0;
  for await (const piece of task.readChunks(large)) {
    bytes += piece.byteLength;
    ++pieces;
  }
  assert.deepEqual([bytes, pieces], [2_560_000, 3]);
  assert.equal((await task.readFile(large.index)).byteLength, 2_560_000);
  await assert.rejects(task.readFile(99), NotFoundError);
  const link = outFiles.find(({ name }) => name === "link");
  await assert.rejects(task.readFile(link ?? 0), { code: "failedPrecondition" });
});

test("names that a task chose never lead out of the folder, nor through a link", async (t) => {
  const mayfly = await client(t);
  const top = await folder(t);
  const dir = join(top, "dir");
  const outside = join(top, "outside");
  await mkdir(dir);
  await mkdir(outside);
  await writeFile(join(top, "target"), "untouched");
  await symlink(outside, join(dir, "folder"));
  await symlink(join(top, "target"), join(dir, "file"));
  await link(join(top, "target"), join(dir, "hard"));
  await writeFile(join(dir, "plain"), "old");
  await mkdir(join(dir, "taken"));
  const code = `
import os
os.chdir('/task/out')
os.mkdir('folder'); os.makedirs('a/b')
good = [b'folder/x', b'file', b'hard', b'plain', b'taken', b'a/b/good']
odd = [b'new\\nline', b'not\\xffutf8', b'esc\\x1b[31m', 'bidi\\u202e'.encode()]
for name in good + odd:
  open(name, 'w').write('new')
`;
  const result = await mayfly.run({ code }, { out: dir });
  const saved = new Map(result.outFiles.map((file) => [file.name, file.notSaved ?? "saved"]));
  assert.equal(saved.get("a/b/good"), "saved");
  assert.equal(saved.get("plain"), "saved");
  assert.equal(saved.get("file"), "saved");
  assert.equal(saved.get("hard"), "saved");
  assert.match(saved.get("folder/x") ?? "", /not a folder/);
  assert.notEqual(saved.get("taken"), "saved");
  for (const name of ["new\\x0aline", "not\\xffutf8", "esc\\x1b[31m", "bidi\\xe2\\x80\\xae"])
    assert.match(saved.get(name) ?? `${[...saved.keys()]}`, /control characters|UTF-8/);
  assert.equal(await readFile(join(top, "target"), "utf8"), "untouched");
  assert.deepEqual(await readdir(outside), []);
  assert.ok((await lstat(join(dir, "file"))).isFile(), "the link is replaced");
  assert.equal(await readFile(join(dir, "file"), "utf8"), "new");
  assert.equal(await readFile(join(dir, "plain"), "utf8"), "new");
  assert.deepEqual(
    (await readdir(dir)).sort(),
    ["a", "file", "folder", "hard", "plain", "taken"],
    "nothing else is left",
  );
});

test("a collection that is not whole says so", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({
    code: "for i in range(5): open(f'/task/out/{i}', 'w').write('x')",
    collect: true,
    limits: { outFiles: 2 },
  });
  const brought = result.outFiles.filter(({ data }) => data !== undefined);
  assert.equal(brought.length, 2);
  assert.ok(result.outFilesNote !== "" || result.outFiles.some(({ skipped }) => skipped !== ""));
});

test("files that were lost are a retryable error of those who asked for them", async (t) => {
  const mayfly = await client(t);
  const result = await mayfly.run({ code: "1" });
  assert.equal(result.outFilesLost, false);
  checkNotLost(result);
  const lost = { ...result, outFilesLost: true, outFilesNote: "collecting failed" } as TaskResult;
  assert.throws(
    () => checkNotLost(lost),
    (error) =>
      error instanceof UnavailableError && error.retryable && /collecting failed/.test(error.message),
  );
});
