// Uploads blobs: hashes them first, then sends them in pieces, unless the daemon has them. A task's
// large files are uploaded before its submit.

import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";

import { call } from "./calls.js";
import { blobInfoFrom, templateInfoFrom } from "./convert.js";
import type { Patience } from "./deadline.js";
import { InvalidArgumentError } from "./errors.js";
import { localPath, sha256Of } from "./files.js";
import type { BlobRef, PlannedFile, UploadSource } from "./files.js";
import { chunkBytesMax } from "./generated/constants.js";
import type * as schema from "./generated/mayfly.js";
import { checkKeys } from "./keys.js";
import { checkBytes } from "./request.js";
import type { Prepared } from "./request.js";
import type { Limits } from "./result.js";

// Bytes that can be read twice: for the hash, and for sending.
interface Source {
  sizeBytes: number;
  read(at: number, bytes: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

async function sourceOf(from: UploadSource): Promise<Source> {
  if (typeof from === "string" || from instanceof Uint8Array) {
    const bytes = checkBytes("upload: the source", from);
    return {
      sizeBytes: bytes.byteLength,
      read: (at, count) => Promise.resolve(bytes.subarray(at, at + count)),
      close: () => Promise.resolve(),
    };
  }
  if (!(from instanceof URL)) checkKeys("upload's source", from, { path: true });
  const path = localPath(from instanceof URL ? from : from.path);
  const file = await open(path, constants.O_RDONLY);
  try {
    const { size } = await file.stat();
    return {
      sizeBytes: size,
      read: async (at, count) => {
        const buffer = Buffer.allocUnsafe(count);
        let got = 0;
        while (got < count) {
          const { bytesRead } = await file.read(buffer, got, count - got, at + got);
          if (bytesRead === 0) break;
          got += bytesRead;
        }
        return buffer.subarray(0, got);
      },
      close: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function* pieces(
  source: Source,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < source.sizeBytes;) {
    signal?.throwIfAborted();
    const piece = await source.read(at, Math.min(chunkBytesMax, source.sizeBytes - at));
    if (piece.byteLength === 0) return; // the file got shorter: the daemon will report it
    at += piece.byteLength;
    yield piece;
  }
}

export async function upload(
  mayfly: schema.Mayfly$Client,
  from: UploadSource,
  patience: Patience,
): Promise<BlobRef> {
  const source = await sourceOf(from);
  try {
    const hash = createHash("sha256");
    for await (const piece of pieces(source, patience.signal)) hash.update(piece);
    const sha256 = hash.digest();
    const blob: BlobRef = { sha256: sha256.toString("hex"), sizeBytes: source.sizeBytes };
    const begun = await call(
      "upload",
      mayfly.upload((params) => {
        params._initSha256(sha256.byteLength).copyBuffer(sha256);
        params.sizeBytes = BigInt(source.sizeBytes);
      }),
      patience,
    );
    if (begun.known) return blob;
    const remote = begun.upload;
    try {
      for await (const piece of pieces(source, patience.signal))
        await call(
          "upload",
          remote.write((params) => params._initData(piece.byteLength).copyBuffer(piece)),
          patience,
        );
      await call("upload", remote.finish(), patience);
    } finally {
      // This does not drop a finished upload.
      remote
        .close()
        .promise()
        .catch(() => {});
      remote.client.close();
    }
    return blob;
  } finally {
    await source.close();
  }
}

// --- a task's large files ------------------------------------------------------------------

/** Submits of one task, whose uploads are lost before it holds them. */
export const SUBMITS_MAX = 3;

const isLarge = (file: PlannedFile): boolean => file.large === true;

/** Uploads the large files that have no blob. Refuses what the daemon would refuse afterwards. */
export async function uploadLarge(
  mayfly: schema.Mayfly$Client,
  task: Prepared,
  blobBytesMax: number,
  patience: Patience,
): Promise<void> {
  const large = task.files.filter((file) => isLarge(file) && file.blob === undefined);
  if (large.length === 0) return;
  const uploaded = large.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (blobBytesMax > 0 && uploaded > blobBytesMax)
    throw new InvalidArgumentError(
      `the large input files have ${uploaded} bytes; the daemon keeps at most ${blobBytesMax} ` +
        "for a user. Nothing was uploaded",
      { advice: "Give the task less, or large data on stdin." },
    );
  const { templates } = await call("templates", mayfly.templates(), patience);
  for (const template of templates.toArray().map(templateInfoFrom))
    if (template.name === task.template) checkCaps(task, template.defaults, template.maximum);
  for (const file of large) {
    const source = file.local === undefined ? (file.data ?? "") : { path: file.local };
    file.blob = sha256Of(await upload(mayfly, source, patience), "upload");
  }
}

function checkCaps(task: Prepared, defaults: Limits, maximum: Limits): void {
  const files = task.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const brought = files + task.code.byteLength + task.stdinData.byteLength;
  const onDisk = task.kind === "file" ? files + task.code.byteLength : files;
  const caps = [
    ["input", "inputBytes", brought, 1],
    ["disk", "diskBytes", onDisk, 1],
    ["memory", "memoryBytes", onDisk, 2],
  ] as const;
  for (const [name, field, bytes, part] of caps) {
    const cap = Number(task.limits[field] ?? defaults[field]);
    if (bytes <= cap / part) continue;
    const half = part === 2 ? " (input files may take half of it)" : "";
    throw new InvalidArgumentError(
      `code and input files have ${bytes} bytes; the task's cap \`${name}\` is ${cap}${half}. ` +
        "Nothing was uploaded",
      { advice: `Raise \`limits.${name}\`, up to the template's maximum of ${maximum[field]}.` },
    );
  }
}

/**
 * Whether the daemon has dropped files that uploadLarge sent: until a task holds them, they give
 * way to other uploads of this user. Marks them, so that they are sent again.
 */
export async function dropLost(
  mayfly: schema.Mayfly$Client,
  task: Prepared,
  patience: Patience,
): Promise<boolean> {
  const large = task.files.filter(isLarge);
  if (large.length === 0) return false;
  const { blobs } = await call("blobs", mayfly.blobs(), patience);
  const kept = new Set(blobs.toArray().map((each) => blobInfoFrom(each).sha256));
  let dropped = false;
  for (const file of large) {
    if (file.blob === undefined || kept.has(Buffer.from(file.blob).toString("hex"))) continue;
    delete file.blob;
    dropped = true;
  }
  return dropped;
}
