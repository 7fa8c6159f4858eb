// Files on their way into a task, and out of it.
//
// The task names its output files: they are written below one folder only, never through a link,
// and never over a link's target.

import { constants } from "node:fs";
import { mkdir, open, readdir, rename, stat, unlink } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

import { printable } from "./convert.js";
import { InvalidArgumentError, MayflyError, UnavailableError } from "./errors.js";
import { checkKeys, checkObject } from "./keys.js";
import type { Hints, Keys } from "./keys.js";
import type { BlobInfo, OutFile, TaskResult } from "./result.js";
import { checkBytes, checkText } from "./request.js";

/** Bytes that the daemon stores for this user's tasks, from `Client.upload`. */
export interface BlobRef {
  /** 64 hexadecimal digits. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

/** Uploadable content: text, bytes, or a local file. */
export type UploadSource = string | Uint8Array | URL | { path: string | URL };

/** An input file's content. `mode`: permission bits; else the local file's, or 0644. */
export type FileSource =
  | string
  | Uint8Array
  | URL
  | { data: string | Uint8Array; mode?: number }
  | { path: string | URL; mode?: number }
  | { blob: BlobRef | string; mode?: number };

/** An input file as bytes, as a local file, or as a blob. */
export interface PlannedFile {
  /** Relative to /task. */
  path: string;
  mode: number;
  sizeBytes: number;
  data?: Uint8Array;
  local?: string;
  /** The request has no room for it: it is uploaded. */
  large?: boolean;
  /** The sha256. */
  blob?: Uint8Array;
}

const MODE = 0o644;
const CONTENTS = ["data", "path", "blob"] as const;
const FILE = { data: true, path: true, blob: true, mode: true } as const;
const FILE_HINTS: Hints = {
  text: "Did you mean 'data'?",
  content: "Did you mean 'data'?",
  sha256: "Did you mean 'blob'?",
};
// `Client.blobs` gives the time, too.
const BLOB: Keys<BlobInfo> = { sha256: true, sizeBytes: true, expiresMs: true };

export function localPath(path: string | URL): string {
  if (path instanceof URL) return fileURLToPath(path);
  if (typeof path === "string") return path;
  throw new InvalidArgumentError(`the path ${String(path)} is neither a string nor a URL`);
}

/** The caller's files; local files are checked, but not read. */
export async function planFiles(
  files: readonly (string | URL)[] | Readonly<Record<string, FileSource>>,
): Promise<PlannedFile[]> {
  if (Array.isArray(files))
    return Promise.all(
      (files as (string | URL)[]).map((path) =>
        planLocal(basename(localPath(path)), path, undefined),
      ),
    );
  checkObject("files", files);
  return Promise.all(
    Object.entries(files).map(([path, source]) =>
      planFile(checkText("files: a path", path), source),
    ),
  );
}

async function planFile(path: string, source: FileSource): Promise<PlannedFile> {
  if (source instanceof URL) return planLocal(path, source, undefined);
  if (typeof source === "string" || source instanceof Uint8Array)
    return planData(path, source, undefined);
  const where = `files['${path}']`;
  if (typeof source !== "object" || source === null)
    throw new InvalidArgumentError(`${where} is neither text, bytes, a path nor a blob`);
  checkKeys(where, source, FILE, FILE_HINTS);
  // Plain JavaScript may name any of them.
  const { data, path: local, blob, mode } = source as AnyFile;
  const named = CONTENTS.filter((name) => (source as AnyFile)[name] !== undefined);
  if (named.length !== 1)
    throw new InvalidArgumentError(
      `${where} has ${named.length === 0 ? "no content" : named.join(" and ")}`,
      { advice: `Name one of ${CONTENTS.join(", ")}.` },
    );
  if (local !== undefined) return planLocal(path, local, mode);
  if (data !== undefined) return planData(path, data, mode);
  const sha256 = sha256Of(blob as BlobRef | string, `${where}.blob`);
  const sizeBytes = typeof blob === "object" ? blob.sizeBytes : 0;
  return { path, mode: checkMode(path, mode === undefined ? MODE : mode), sizeBytes, blob: sha256 };
}

interface AnyFile {
  data?: string | Uint8Array;
  path?: string | URL;
  blob?: BlobRef | string;
  mode?: number;
}

function planData(path: string, data: string | Uint8Array, mode: number | undefined): PlannedFile {
  const bytes = checkBytes(`files: '${path}'`, data);
  return {
    path,
    mode: checkMode(path, mode === undefined ? MODE : mode),
    sizeBytes: bytes.byteLength,
    data: bytes,
  };
}

async function planLocal(
  path: string,
  from: string | URL,
  mode: number | undefined,
): Promise<PlannedFile> {
  const local = localPath(from);
  const status = await stat(local);
  if (!status.isFile())
    throw new InvalidArgumentError(`files: '${local}' is not a plain file`, {
      advice: "Give a folder's files one by one, or a tar archive.",
    });
  return {
    path,
    mode: checkMode(path, mode === undefined ? status.mode & 0o777 : mode),
    sizeBytes: status.size,
    local,
  };
}

const FOLDER_FILES_MAX = 1000; // as many as a task may bring

/**
 * The files of a folder with a `__main__.py`, as `name`/... Hidden files stay behind, because they
 * may hold secrets; a link is refused, because it may lead out of the folder.
 */
export async function planFolder(folder: string, name: string): Promise<PlannedFile[]> {
  const files: PlannedFile[] = [];
  const take = async (at: string, inside: string): Promise<void> => {
    const entries = await readdir(at, { withFileTypes: true });
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      if (entry.name.startsWith(".") || entry.name === "__pycache__") continue;
      const [from, to] = [join(at, entry.name), `${inside}/${entry.name}`];
      if (entry.isDirectory()) {
        await take(from, to);
        continue;
      }
      if (!entry.isFile())
        throw new InvalidArgumentError(
          `script: '${from}' is ` +
            (entry.isSymbolicLink()
              ? "a link, which may lead out of the folder"
              : "neither a file nor a folder"),
          { advice: "Give `program` and `files` instead." },
        );
      if (files.length === FOLDER_FILES_MAX)
        throw new InvalidArgumentError(
          `script: the folder '${folder}' has more than ${FOLDER_FILES_MAX} files`,
          { advice: "Give an archive: python3 -m zipapp FOLDER." },
        );
      files.push(await planLocal(to, from, undefined));
    }
  };
  await take(folder, name);
  if (!files.some(({ path }) => path === `${name}/__main__.py`))
    throw new InvalidArgumentError(`script: the folder '${folder}' has no __main__.py`, {
      advice: "Name the script in it.",
    });
  return files;
}

function checkMode(path: string, mode: number): number {
  if (Number.isInteger(mode) && mode >= 0 && mode <= 0xffff) return mode;
  throw new InvalidArgumentError(`files: the mode ${mode} of '${path}' is not a 16-bit number`);
}

export function sha256Of(blob: BlobRef | string, where: string): Uint8Array {
  if (typeof blob !== "string") checkKeys(where, blob, BLOB);
  const text: unknown = typeof blob === "string" ? blob : blob.sha256;
  if (typeof text !== "string" || !/^[0-9a-f]{64}$/i.test(text))
    throw new InvalidArgumentError(`${where}: '${String(text)}' is not a sha256`, {
      advice: "It has 64 hexadecimal digits.",
    });
  return Buffer.from(text, "hex");
}

/** Reads the whole file, but no more than its size when it was planned. */
export async function readPlanned(local: string, sizeBytes: number): Promise<Uint8Array> {
  const file = await open(local, constants.O_RDONLY);
  try {
    const data = Buffer.allocUnsafe(sizeBytes);
    let at = 0;
    while (at < sizeBytes) {
      const { bytesRead } = await file.read(data, at, sizeBytes - at, at);
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return data.subarray(0, at);
  } finally {
    await file.close();
  }
}

/** Throws if Mayfly lost the output files, which the caller asked for. */
export function checkNotLost(result: TaskResult): void {
  if (result.outFilesLost)
    throw new UnavailableError(`the task's output files were lost: ${result.outFilesNote}`, {
      advice: "Run the task again.",
      retryable: true,
    });
}

// --- out -----------------------------------------------------------------------------------

const DEPTH_MAX = 32;
const PATH_BYTES_MAX = 4000;
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Why a path that a task chose is refused; empty: it is not. */
export function oddName(path: Uint8Array): string {
  if (path.byteLength === 0 || path[0] === 0x2f) return "its name is not relative";
  if (path.byteLength > PATH_BYTES_MAX) return "its name is too long";
  const text = Buffer.from(path).toString("utf8");
  if (printable(path) !== text) return "its name has control characters or is not UTF-8";
  const parts = text.split("/");
  if (parts.some((part) => part === "" || part === "." || part === ".."))
    return "its name has an empty part, or '.' or '..'";
  return parts.length > DEPTH_MAX ? "its path is too deep" : "";
}

// A name in an open folder. Node has no openat; the kernel resolves this path from the descriptor,
// even if the folder's own path changes.
const within = (folder: FileHandle, name: string): string => `/proc/self/fd/${folder.fd}/${name}`;

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : "";

// The folder `parts` below `top`; makes missing folders. A link anywhere is an error.
async function openFolder(top: FileHandle, parts: readonly string[]): Promise<FileHandle> {
  let at = await open(within(top, "."), FOLDER);
  for (const part of parts) {
    const above = at;
    try {
      await mkdir(within(above, part)).catch((error: unknown) => {
        if (codeOf(error) !== "EEXIST") throw error;
      });
      at = await open(within(above, part), FOLDER);
    } catch (error) {
      if (["ELOOP", "ENOTDIR"].includes(codeOf(error)))
        throw new Error(`'${part}' exists and is not a folder`, { cause: error });
      throw error;
    } finally {
      await above.close();
    }
  }
  return at;
}

let temporaries = 0;

/** Writes one file to `path` below `top`: makes folders, replaces an existing file. */
export async function writeBelow(
  top: FileHandle,
  path: Uint8Array,
  mode: number,
  pieces: AsyncIterable<Uint8Array>,
): Promise<void> {
  const odd = oddName(path);
  if (odd !== "") throw new Error(odd);
  const parts = Buffer.from(path).toString("utf8").split("/");
  const folder = await openFolder(top, parts.slice(0, -1));
  try {
    // The file is written beside its place and renamed into it: an existing link or hard-linked
    // file is replaced, not written through, and nobody sees half a file.
    const temporary = within(folder, `.mayfly-${process.pid}-${++temporaries}.part`);
    const file = await open(
      temporary,
      constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      (mode & 0o777) | 0o600,
    );
    try {
      for await (const piece of pieces) await file.writeFile(piece);
      await rename(temporary, within(folder, parts.at(-1) ?? ""));
    } catch (error) {
      await unlink(temporary).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
  } finally {
    await folder.close();
  }
}

/**
 * Saves the files below `dir` (made if missing). A file that cannot be written does not stop the
 * others; a file that cannot be read does.
 */
export async function saveAll(
  dir: string,
  files: readonly OutFile[],
  read: (file: OutFile) => AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): Promise<OutFile[]> {
  await mkdir(dir, { recursive: true });
  const top = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const all: OutFile[] = [];
    for (const file of files) {
      if (file.skipped !== "") {
        all.push({ ...file, notSaved: file.skipped });
        continue;
      }
      try {
        await writeBelow(top, file.path, file.mode, read(file));
        all.push({ ...file, saved: join(dir, file.name) });
      } catch (error) {
        if (error instanceof MayflyError || error === signal?.reason) throw error;
        all.push({ ...file, notSaved: error instanceof Error ? error.message : String(error) });
      }
    }
    return all;
  } finally {
    await top.close();
  }
}
