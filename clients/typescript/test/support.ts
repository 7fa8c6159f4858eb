// Shared by the tests: a daemon (`./dev with-daemon` names its socket) and connections to it.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test as nodeTest } from "node:test";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

import { connect } from "mayfly";
import type { Client, ConnectOptions, Task } from "mayfly";

const TEST_MS_MAX = 60_000;

/** A test with a time limit. */
export function test(name: string, run: (t: TestContext) => void | Promise<void>): void {
  void nodeTest(name, { timeout: TEST_MS_MAX }, run);
}

export const MIB = 1 << 20;
/** The package, built. */
export const PACKAGE = dirname(dirname(fileURLToPath(import.meta.url)));

/** The daemon's socket. Only tests that need a daemon fail without one. */
export function socket(): string {
  const path = process.env["MAYFLY_SOCKET"];
  if (path === undefined) throw new Error("no daemon: run this by `./dev test typescript`");
  return path;
}

/** A connection that ends with the test. */
export async function client(t: TestContext, options: ConnectOptions = {}): Promise<Client> {
  const made = await connect({ clientName: `test: ${t.name}`, ...options, socket: options.socket ?? socket() });
  t.after(() => made.close());
  return made;
}

/** A folder that ends with the test. */
export async function folder(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "mayfly-ts-"));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** A promise and its resolvers. */
export interface Later<T> {
  promise: Promise<T>;
  resolve: (value: T) => void;
}
export function later<T = void>(): Later<T> {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => (resolve = settle));
  return { promise, resolve };
}

/** A program that says `up` and then never ends by itself. */
export const ENDLESS = "import time\nprint('up', flush=True)\nwhile True: time.sleep(600)";

/** Waits until an endless task runs. */
export async function running(mayfly: Client, code = ENDLESS): Promise<Task> {
  const up = later();
  const task = await mayfly.submit({ code }, { onOutput: () => up.resolve() });
  await up.promise;
  return task;
}
