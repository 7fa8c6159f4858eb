// How long a caller waits for an answer.

import { DeadlineExceededError } from "./errors.js";

/** How long to wait for an answer. The operation itself goes on unless the call says otherwise. */
export interface CallOptions {
  /** Gives up when the signal aborts; the call rejects with `signal.reason`, as `fetch` does. */
  signal?: AbortSignal | undefined;
  /** Gives up after this many milliseconds, with DeadlineExceededError. */
  timeoutMs?: number | undefined;
}

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

/** Settles with the promise, or with the caller's time limit or abort, whichever is first. */
export function within<T>(what: string, promise: Promise<T>, options: CallOptions): Promise<T> {
  const { signal, timeoutMs } = options;
  if (signal === undefined && timeoutMs === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    if (signal?.aborted === true) {
      promise.catch(() => {});
      return reject(signal.reason);
    }
    const stopTimer = after(timeoutMs, () => end(() => reject(late(what, timeoutMs))));
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

/** Runs work of several calls with one signal for all, which aborts at the caller's limit. */
export async function withDeadline<T>(
  what: string,
  options: CallOptions,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { signal, timeoutMs } = options;
  signal?.throwIfAborted();
  const controller = new AbortController();
  const stopTimer = after(timeoutMs, () => controller.abort(late(what, timeoutMs)));
  const stopSignal = signal && onAbort(signal, () => controller.abort(signal.reason));
  try {
    return await run(controller.signal);
  } finally {
    stopTimer();
    stopSignal?.();
  }
}

function late(what: string, timeoutMs: number | undefined): DeadlineExceededError {
  return new DeadlineExceededError(`${what}: no answer within ${timeoutMs} ms`);
}
