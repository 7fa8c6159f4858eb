// One task: a handle on it and on its output.

import { Readable } from "node:stream";

import { call, settled, translated } from "./calls.js";
import { resultFrom, taskInfoFrom } from "./convert.js";
import { patienceOf, within } from "./deadline.js";
import type { CallOptions, Patience } from "./deadline.js";
import { DisconnectedError, FailedPreconditionError, InvalidArgumentError } from "./errors.js";
import { NotFoundError } from "./errors.js";
import { checkNotLost, saveAll } from "./files.js";
import { chunkBytesMax } from "./generated/constants.js";
import type * as schema from "./generated/mayfly.js";
import type { OutputStream } from "./output.js";
import type { OutFile, TaskInfo, TaskResult } from "./result.js";
import { checkBytes, checkText } from "./request.js";
import type { StdinSource } from "./spec.js";

const STDIN_PIECE_BYTES = 256 << 10;

type Pieces = AsyncIterator<string | Uint8Array> | Iterator<string | Uint8Array>;

function iteratorOf(source: StdinSource): Pieces {
  if (typeof source === "string" || source instanceof Uint8Array)
    return [source][Symbol.iterator]();
  return Symbol.asyncIterator in source
    ? source[Symbol.asyncIterator]()
    : source[Symbol.iterator]();
}

/** @internal */
export interface TaskParts {
  callDeadlineMs: number | undefined;
  remote: schema.Task$Client;
  id: bigint;
  detached: boolean;
  existing: boolean;
  collect: boolean;
  output: OutputStream | undefined;
  grants: Map<string, schema.Grant$Client>;
}

/**
 * A task of this connection, or a detached task of this user. `await using` closes it; it only
 * releases a detached one.
 */
export class Task implements AsyncDisposable {
  readonly id: bigint;
  /** The task outlives the connection. */
  readonly detached: boolean;
  /** `submit` found this task by its key: nothing ran a second time. */
  readonly existing: boolean;
  /** The live output, if `stream: true` asked for it. */
  readonly output: OutputStream | undefined;

  private readonly callDeadlineMs: number | undefined;
  private remoteOrGone: schema.Task$Client | undefined;
  private readonly collect: boolean;
  private readonly grants: Map<string, schema.Grant$Client>;
  private result: Promise<TaskResult> | undefined;
  private failure: { error: unknown } | undefined;
  private stdinTurn: Promise<unknown> = Promise.resolve();

  /** @internal */
  static make(parts: TaskParts): Task {
    return new Task(parts);
  }

  private constructor(parts: TaskParts) {
    this.callDeadlineMs = parts.callDeadlineMs;
    this.remoteOrGone = parts.remote;
    this.id = parts.id;
    this.detached = parts.detached;
    this.existing = parts.existing;
    this.collect = parts.collect;
    this.output = parts.output;
    this.grants = parts.grants;
    // The stream ends with the result.
    if (this.output !== undefined) this.begin();
  }

  /**
   * The result, once nothing of the task is left. Can be called again; a missed deadline does not
   * end the task. Unless files were collected, or the task is detached, the daemon then forgets it.
   */
  async wait(options: CallOptions = {}): Promise<TaskResult> {
    const patience = patienceOf("wait", options, undefined);
    this.output?.discardUnread();
    return within("wait", this.begin(), patience);
  }

  /**
   * Ends the task as `cancelled`; `wait` gives the result. A task with a grace first gets SIGTERM; a
   * second call ends the grace. Harmless once it has ended.
   */
  async cancel(options: CallOptions = {}): Promise<void> {
    const patience = this.patience("cancel", options);
    if (this.remoteOrGone === undefined) return;
    await call("cancel", this.remote("cancel").cancel(), patience);
  }

  /**
   * Ends one of the task's grants before the task. Returns when no call under it works any more.
   */
  async revoke(grant: string, options: CallOptions = {}): Promise<void> {
    const patience = this.patience("revoke", options);
    this.remote("revoke");
    const client = this.grants.get(checkText("grant", grant));
    if (client === undefined)
      throw new NotFoundError(`revoke: task ${this.id} has no grant '${grant}'`);
    await call("revoke", client.revoke(), patience);
  }

  /** The task's current state, without waiting. */
  async info(options: CallOptions = {}): Promise<TaskInfo> {
    const patience = this.patience("info", options);
    const answer = await call("info", this.remote("info").info(), patience);
    return taskInfoFrom(answer.info);
  }

  /**
   * Gives more input to a task that was submitted with `stdinOpen`. Returns when the task has taken
   * all of it. Calls keep their order.
   */
  async writeStdin(data: string | Uint8Array, options: CallOptions = {}): Promise<void> {
    const bytes = checkBytes("stdin", data);
    const patience = patienceOf("writeStdin", options, undefined);
    await within(
      "writeStdin",
      this.inTurn(() => this.sendStdin(bytes)),
      patience,
    );
  }

  /** The task reads end-of-file after all written data. */
  async closeStdin(options: CallOptions = {}): Promise<void> {
    const patience = patienceOf("closeStdin", options, undefined);
    await within(
      "closeStdin",
      this.inTurn(() => settled("closeStdin", this.remote("closeStdin").closeStdin())),
      patience,
    );
  }

  /** The bytes of a collected file, piece by piece. After `wait`. */
  async *readChunks(
    file: OutFile | number,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const patience = this.patience("readFile", options);
    const index: unknown = typeof file === "number" ? file : file?.index;
    if (typeof index !== "number" || !Number.isInteger(index) || index < 0)
      throw new InvalidArgumentError("readFile: neither a file of the result nor its index");
    for (let offset = 0n; ;) {
      const answer = await call(
        "readFile",
        this.remote("readFile").readFile((params) => {
          params.index = index;
          params.offset = offset;
          params.bytesMax = chunkBytesMax;
        }),
        patience,
      );
      const data = answer.data.toUint8Array();
      if (data.byteLength > 0) yield data;
      if (answer.end) return;
      if (data.byteLength === 0)
        throw new FailedPreconditionError(`readFile: file ${index} has no end`);
      offset += BigInt(data.byteLength);
    }
  }

  /** All bytes of a collected file. After `wait`. */
  async readFile(file: OutFile | number, options: CallOptions = {}): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this.readChunks(file, options)) pieces.push(piece);
    return Buffer.concat(pieces);
  }

  /**
   * Waits for the end, then saves the collected files below `dir`. The task chose their names: they
   * are written below `dir` only, never through a link, never over a link's target. If Mayfly lost
   * files, throws UnavailableError (retryable) once those that came are saved.
   */
  async saveFiles(dir: string, options: CallOptions = {}): Promise<OutFile[]> {
    checkText("saveFiles: the folder", dir);
    const result = await this.wait(options);
    const saved = await saveAll(
      dir,
      result.outFiles,
      (file) => this.readChunks(file, options),
      options.signal,
    );
    checkNotLost(result);
    return saved;
  }

  /**
   * Gives up the task: the daemon cancels it if it still runs, and forgets it; a detached task for
   * every connection. Harmless when repeated.
   */
  async close(): Promise<void> {
    const remote = this.remoteOrGone;
    if (remote === undefined) return;
    const answer = remote.close();
    this.release();
    try {
      await within("close", answer.promise(), { deadlineMs: this.callDeadlineMs });
    } catch (error) {
      // The tasks end with their connection.
      const why = translated("close", error);
      if (!(why instanceof DisconnectedError) || this.detached) throw why;
    }
  }

  /** Releases the handle. A detached task keeps running; any other task is closed. */
  release(): void {
    const remote = this.remoteOrGone;
    this.remoteOrGone = undefined;
    remote?.client.close();
    for (const grant of this.grants.values()) grant.client.close();
    this.grants.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.detached) this.release();
    else await this.close();
  }

  /** `wait` throws this instead of giving the result; the task is cancelled. @internal */
  fail(error: unknown): void {
    this.failure ??= { error };
    this.cancel().catch(() => {});
  }

  /** Feeds stdin from a source, and closes it. @internal */
  async pump(source: StdinSource, keepOpen: boolean): Promise<void> {
    const pieces = iteratorOf(source);
    let over = false;
    const stop = (): void => {
      over = true;
      // A stream's iterator would wait for the read in progress.
      if (source instanceof Readable) source.destroy();
      Promise.resolve(pieces.return?.()).catch(() => {});
    };
    // A source without data must also learn that no more is wanted.
    this.begin().then(stop, stop);
    try {
      for (;;) {
        const next = await pieces.next();
        if (over) return;
        if (next.done === true) break;
        await this.writeStdin(next.value);
      }
      if (!keepOpen) await this.closeStdin();
    } catch (error) {
      if (over) return;
      stop();
      // It is not the source's fault that the task reads no more or is gone.
      if (!(error instanceof FailedPreconditionError || error instanceof DisconnectedError))
        this.fail(error);
    }
  }

  private async sendStdin(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; at += STDIN_PIECE_BYTES) {
      const piece = bytes.subarray(at, at + STDIN_PIECE_BYTES);
      await settled(
        "writeStdin",
        this.remote("writeStdin").writeStdin((params) =>
          params._initData(piece.byteLength).copyBuffer(piece),
        ),
      );
    }
  }

  private inTurn<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.stdinTurn.then(step);
    this.stdinTurn = turn.catch(() => {});
    return turn;
  }

  // The one waiting call, however often `wait` is called.
  private begin(): Promise<TaskResult> {
    if (this.result === undefined) {
      this.result = this.fetch();
      this.result.catch(() => {});
    }
    return this.result;
  }

  private async fetch(): Promise<TaskResult> {
    try {
      const answer = await settled("wait", this.remote("wait").wait());
      const result = resultFrom(answer.result);
      // The daemon has nothing more for this task.
      if (!this.detached && !this.collect) this.close().catch(() => {});
      if (this.failure !== undefined) throw this.failure.error;
      this.output?.end();
      return result;
    } catch (error) {
      this.output?.end(error);
      throw error;
    }
  }

  private remote(what: string): schema.Task$Client {
    if (this.remoteOrGone !== undefined) return this.remoteOrGone;
    throw new FailedPreconditionError(`${what}: task ${this.id} is closed`);
  }

  private patience(what: string, options: CallOptions): Patience {
    return patienceOf(what, options, this.callDeadlineMs);
  }
}
