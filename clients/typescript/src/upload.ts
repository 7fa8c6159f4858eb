// Uploads blobs: hashes them first, then sends them in pieces, unless the daemon has them.

import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";

import { call } from "./calls.js";
import type { Patience } from "./deadline.js";
import { localPath } from "./files.js";
import type { BlobRef, UploadSource } from "./files.js";
import { chunkBytesMax } from "./generated/constants.js";
import type * as schema from "./generated/mayfly.js";
import { checkKeys } from "./keys.js";
import { checkBytes } from "./request.js";

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
