// A task's live output: the sink that the daemon writes to, and its reader.
//
// The daemon sends one write at a time and waits for its return, so at most one piece of 256 KiB
// is held here; a slow reader slows its own task only.

import { TextDecoder } from "node:util";

import { FailedPreconditionError } from "./errors.js";
import * as schema from "./generated/mayfly.js";

export type StreamName = "stdout" | "stderr";

/** A piece of output. A piece may end within a line or a character. */
export interface OutputChunk {
  readonly stream: StreamName;
  readonly data: Uint8Array;
  /** The same as text; a character that is split between two pieces is in the second. */
  readonly text: string;
}

export interface OutputHandlers {
  /** The task is about to run its first instruction. */
  onStarted?: (() => void) | undefined;
  /**
   * Gets each piece of live output, one at a time: the next one waits for the promise. An exception
   * of the handler cancels the task, and `wait` throws it.
   */
  onOutput?: ((chunk: OutputChunk) => void | Promise<void>) | undefined;
}

type Waiting = {
  resolve: (result: IteratorResult<OutputChunk, undefined>) => void;
  reject: (error: unknown) => void;
};

const DONE: IteratorResult<OutputChunk, undefined> = { done: true, value: undefined };

/**
 * The output of one task, to be read once, with `for await`. Leaving the loop early cancels the
 * task. `Task.wait` discards output that has no reader yet.
 */
export class OutputStream implements AsyncIterableIterator<OutputChunk> {
  private held: { chunk: OutputChunk; taken: (failure?: Error) => void } | undefined;
  private readonly waiting: Waiting[] = [];
  private over: { error?: unknown } | undefined;
  private left = false;
  private discarding = false;
  private begun = false;
  private leave: () => void = () => {};

  /** @internal */
  static make(): OutputStream {
    return new OutputStream();
  }

  private constructor() {}

  [Symbol.asyncIterator](): this {
    if (this.discarding)
      throw new FailedPreconditionError("the output was discarded: nobody read it before `wait`", {
        advice: "Begin to read it before `wait` is called.",
      });
    this.begun = true;
    return this;
  }

  next(): Promise<IteratorResult<OutputChunk, undefined>> {
    this.begun = true;
    const { held } = this;
    if (held !== undefined) {
      this.held = undefined;
      held.taken();
      return Promise.resolve({ done: false, value: held.chunk });
    }
    if (this.over !== undefined)
      return this.over.error === undefined
        ? Promise.resolve(DONE)
        : Promise.reject(this.over.error);
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  return(): Promise<IteratorResult<OutputChunk, undefined>> {
    this.left = true;
    this.held?.taken(new Error("nobody reads the output any more"));
    this.held = undefined;
    if (this.over === undefined) this.leave();
    this.end();
    return Promise.resolve(DONE);
  }

  /** Calls `then` if the reader leaves before the end. @internal */
  onLeave(then: () => void): void {
    this.leave = then;
  }

  /** From now on, output without a reader is dropped. @internal */
  discardUnread(): void {
    if (this.begun || this.discarding) return;
    this.discarding = true;
    this.held?.taken();
    this.held = undefined;
  }

  /** Returns when the reader has taken it. @internal */
  push(chunk: OutputChunk): Promise<void> {
    if (this.left) return Promise.reject(new Error("nobody reads the output any more"));
    if (this.discarding || this.over !== undefined) return Promise.resolve();
    const reader = this.waiting.shift();
    if (reader !== undefined) {
      reader.resolve({ done: false, value: chunk });
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.held = { chunk, taken: (failure) => (failure ? reject(failure) : resolve()) };
    });
  }

  /** No more output follows; the held piece can still be read. @internal */
  end(error?: unknown): void {
    if (this.over !== undefined) return;
    this.over = error === undefined ? {} : { error };
    for (const { resolve, reject } of this.waiting.splice(0))
      if (error === undefined) resolve(DONE);
      else reject(error);
  }
}

/** The daemon writes a task's output to it. @internal */
export class Sink {
  private failure: { error: unknown } | undefined;
  private tell: ((error: unknown) => void) | undefined;

  constructor(
    private readonly handlers: OutputHandlers,
    private readonly stream: OutputStream | undefined,
  ) {}

  /** Passes a handler's exception to `tell`, even an earlier one. */
  onFailure(tell: (error: unknown) => void): void {
    this.tell = tell;
    if (this.failure !== undefined) tell(this.failure.error);
  }

  client(): schema.OutputSink$Client {
    const decoders = [decoder(), decoder()] as const;
    return new schema.OutputSink$Server({
      started: () => this.guarded(() => this.handlers.onStarted?.()),
      write: (params) => {
        const err = params.stream === schema.Stream.STDERR;
        const data = params.data.toUint8Array();
        const chunk: OutputChunk = {
          stream: err ? "stderr" : "stdout",
          data,
          text: decoders[err ? 1 : 0].decode(data, { stream: true }),
        };
        if (this.stream !== undefined) return this.stream.push(chunk);
        return this.guarded(() => this.handlers.onOutput?.(chunk));
      },
    }).client();
  }

  // An exception tells the daemon that no more output is wanted.
  private async guarded(handle: () => void | Promise<void>): Promise<void> {
    try {
      await handle();
    } catch (error) {
      this.failure ??= { error };
      this.tell?.(error);
      throw error instanceof Error ? error : new Error(String(error));
    }
  }
}

const decoder = (): TextDecoder => new TextDecoder("utf-8", { ignoreBOM: true });
