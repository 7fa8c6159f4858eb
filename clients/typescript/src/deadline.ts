// How long a caller waits for an answer.

import { DeadlineExceededError, InvalidArgumentError } from "./errors.js";
import { checkKeys } from "./keys.js";
import type { Hints, Keys } from "./keys.js";
import { parseMs } from "./units.js";
import type { Duration } from "./units.js";

/** How long to wait for an answer. The operation itself goes on unless the call says otherwise. */
export interface CallOptions {
  /** Gives up when the signal aborts; the call rejects with `signal.reason`, as `fetch` does. */
  signal?: AbortSignal | undefined;
  /**
   * Gives up after this time, with DeadlineExceededError; null: never. By default the connection's
   * `callDeadline`; `run`, `wait` and stdin have none. The task's own time is `limits.wallTime`.
   */
  deadline?: Duration | null | undefined;
}

/** CallOptions, checked. */
export interface Patience {
  signal?: AbortSignal | undefined;
  deadlineMs?: number | undefined;
}

export const CALL_OPTIONS: Keys<CallOptions> = { signal: true, deadline: true };

const DEADLINE_HINT =
  "How long the call waits is `deadline`, like \"250ms\" or \"30s\"; how long the task may run " +
  "is `limits.wallTime` of its spec.";
export const CALL_HINTS: Hints = { timeout: DEADLINE_HINT, timeoutMs: DEADLINE_HINT };

/** The options of a call that takes no others. Without a deadline the standard one is in force. */
export function patienceOf(
  what: string,
  options: CallOptions,
  standardMs: number | undefined,
): Patience {
  checkKeys(`the options of ${what}`, options, CALL_OPTIONS, CALL_HINTS);
  return readPatience(options, standardMs);
}

/** The same of options whose keys are known. */
export function readPatience(options: CallOptions, standardMs: number | undefined): Patience {
  const { signal, deadline } = options;
  if (signal !== undefined && !isSignal(signal))
    throw new InvalidArgumentError("signal is no AbortSignal", {
      advice: "An AbortController has it as its `signal`.",
    });
  return { signal, deadlineMs: parseDeadline("deadline", deadline, standardMs) };
}

export function parseDeadline(
  name: string,
  deadline: Duration | null | undefined,
  standardMs: number | undefined,
): number | undefined {
  if (deadline === undefined) return standardMs;
  return deadline === null ? undefined : Number(parseMs(name, deadline));
}

const isSignal = (signal: unknown): boolean =>
  typeof signal === "object" &&
  signal !== null &&
  "aborted" in signal &&
  "addEventListener" in signal;

const TIMER_MS_MAX = 2 ** 31 - 1;

// One listener per signal, however many calls it may abort: Node warns above 10.
const waiting = new WeakMap<AbortSignal, Set<() => void>>();

// Calls `then` when the signal aborts, unless the returned function was called before.
function onAbort(signal: AbortSignal, then: () => void): () => void {
  let all = waiting.get(signal);
  if (all === undefined) {
    const made = new Set<() => void>();
    signal.addEventListener("abort", () => made.forEach((each) => each()), { once: true });
    waiting.set(signal, made);
    all = made;
  }
  const set = all;
  set.add(then);
  return () => set.delete(then);
}

function after(ms: number | undefined, then: () => void): () => void {
  if (ms === undefined || ms > TIMER_MS_MAX) return () => {};
  const timer = setTimeout(then, Math.max(ms, 0));
  return () => clearTimeout(timer);
}

/** Settles with the promise, or with the caller's deadline or abort, whichever is first. */
export function within<T>(what: string, promise: Promise<T>, patience: Patience): Promise<T> {
  const { signal, deadlineMs } = patience;
  if (signal === undefined && deadlineMs === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted === true) {
      promise.catch(() => {});
      return reject(signal.reason);
    }
    const stopTimer = after(deadlineMs, () => end(() => reject(late(what, deadlineMs))));
    const stopSignal = signal && onAbort(signal, () => end(() => reject(signal.reason)));
    const end = (settle: () => void): void => {
      stopTimer();
      stopSignal?.();
      settle();
    };
    promise.then(
      (value) => end(() => resolve(value)),
      (error: unknown) => end(() => reject(error)),
    );
  });
}

/** Runs work of several calls with one signal for all, which aborts at the caller's deadline. */
export async function withDeadline<T>(
  what: string,
  patience: Patience,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { signal, deadlineMs } = patience;
  signal?.throwIfAborted();
  const controller = new AbortController();
  const stopTimer = after(deadlineMs, () => controller.abort(late(what, deadlineMs)));
  const stopSignal = signal && onAbort(signal, () => controller.abort(signal.reason));
  try {
    return await run(controller.signal);
  } finally {
    stopTimer();
    stopSignal?.();
  }
}

function late(what: string, deadlineMs: number | undefined): DeadlineExceededError {
  return new DeadlineExceededError(`${what}: no answer within ${deadlineMs} ms`);
}
