// A task's large files on their way to the daemon: refused before the upload, and sent again if they
// gave way before the submit. No daemon is needed.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import type { TestContext } from "node:test";

import { InvalidArgumentError, MayflyError } from "mayfly";
import type { LimitWishes } from "mayfly";
import * as schema from "../dist/generated/mayfly.js";
import { fakeDaemon } from "./fake.js";
import type { Fake } from "./fake.js";
import { MIB, client, test } from "./support.js";

interface Store {
  daemon: Fake;
  /** What the daemon has: sha256 in hexadecimal digits. */
  kept: Set<string>;
  /** The blobs that each submit named. */
  submits: string[][];
}

const hex = (data: Uint8Array): string => Buffer.from(data).toString("hex");

/** A daemon that refuses every task; before the first `lost` submits, all blobs give way. */
async function store(t: TestContext, lost: number): Promise<Store> {
  const kept = new Set<string>();
  const submits: string[][] = [];
  const daemon = await fakeDaemon(t, {
    hello: (_params, results) => {
      const info = results._initInfo();
      info.protocol = 3;
      info._initBounds().blobBytesMax = BigInt(16 * MIB);
      return Promise.resolve();
    },
    templates: (_params, results) => {
      const [one] = results._initTemplates(1).toArray();
      assert.ok(one !== undefined);
      one.name = "python";
      for (const limits of [one._initDefaults(), one._initMaximum()]) {
        limits.inputBytes = BigInt(13 * MIB);
        limits.diskBytes = BigInt(16 * MIB);
        limits.memoryBytes = BigInt(32 * MIB);
      }
      return Promise.resolve();
    },
    upload: (params, results) => {
      const sha256 = hex(params.sha256.toUint8Array());
      results.upload = new schema.Upload$Server({
        write: () => Promise.resolve(),
        finish: () => {
          kept.add(sha256);
          return Promise.resolve();
        },
        close: () => Promise.resolve(),
      }).client();
      return Promise.resolve();
    },
    blobs: (_params, results) => {
      const list = results._initBlobs(kept.size);
      [...kept].forEach((sha256, i) => {
        list.get(i)._initSha256(32).copyBuffer(Buffer.from(sha256, "hex"));
      });
      return Promise.resolve();
    },
    submit: (params, results) => {
      submits.push(params.spec.files.toArray().map((file) => hex(file.blob.toUint8Array())));
      if (submits.length <= lost) kept.clear();
      results._initError().code =
        kept.size > 0 ? schema.ErrorCode.UNAVAILABLE : schema.ErrorCode.NOT_FOUND;
      return Promise.resolve();
    },
  });
  return { daemon, kept, submits };
}

test("uploads that gave way before the submit are sent again, three times at most", async (t) => {
  const data = Buffer.alloc(9 * MIB, 1);
  const sha256 = createHash("sha256").update(data).digest("hex");
  for (const [lost, code] of [
    [2, "unavailable"],
    [3, "notFound"],
  ] as const) {
    const { daemon, submits } = await store(t, lost);
    const mayfly = await client(t, { socket: daemon.path });
    await assert.rejects(mayfly.submit({ code: "1", files: { data } }), { code });
    assert.deepEqual(submits, [[sha256], [sha256], [sha256]]);
    // Nobody can send the bytes of a blob that the caller named.
    const blob = "0".repeat(64);
    await assert.rejects(mayfly.submit({ code: "1", files: { blob: { blob } } }), MayflyError);
    assert.equal(submits.length, 4);
  }
});

test("caps are checked before an upload", async (t) => {
  const { daemon, kept, submits } = await store(t, 0);
  const mayfly = await client(t, { socket: daemon.path });
  const cases: [number, LimitWishes, RegExp][] = [
    [14, {}, /`input` is 13631488\. Nothing was uploaded.*`limits.input`.* 13631488/],
    [12, { memory: "20MiB" }, /`memory` is 20971520 \(.*half.*Nothing was uploaded/],
    [12, { disk: "11MiB" }, /`disk` is 11534336\. Nothing was uploaded/],
    [17, { input: "64MiB" }, /17825792 bytes; the daemon keeps at most 16777216.*Nothing was uploaded/],
  ];
  for (const [mib, limits, said] of cases)
    for (const call of ["run", "submit"] as const)
      await assert.rejects(
        mayfly[call]({ code: "1", limits, files: { data: Buffer.alloc(mib * MIB) } }),
        (error) => error instanceof InvalidArgumentError && said.test(String(error)),
      );
  assert.deepEqual([kept.size, submits], [0, []]);
});
