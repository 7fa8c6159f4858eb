// What the tests share: a daemon (`./dev with-daemon` names its socket) and connections to it.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { connect } from "mayfly";
import type { Client, ConnectOptions } from "mayfly";

const socket = process.env["MAYFLY_SOCKET"];
if (socket === undefined) throw new Error("no daemon: run this by `./dev test typescript`");

/** A connection that ends with the test. */
export async function client(t: TestContext, options: ConnectOptions = {}): Promise<Client> {
  const made = await connect({ clientName: `test: ${t.name}`, ...options });
  t.after(() => made.close());
  return made;
}

/** A folder that ends with the test. */
export async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "mayfly-ts-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}
