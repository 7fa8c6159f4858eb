// Calls to the daemon: throws an answer's error field, converts Cap'n Proto's exceptions to ours.

import { within } from "./deadline.js";
import type { Patience } from "./deadline.js";
import { DisconnectedError, errorOf, InternalError, MayflyError } from "./errors.js";
import { ResourceExhaustedError, UnsupportedError } from "./errors.js";
import type * as schema from "./generated/mayfly.js";
import { RpcError } from "./rpc.js";

export interface Answer<R> {
  promise(): Promise<R>;
}

/** Waits for the answer; throws its error. */
export async function call<R extends { error: schema.Error }>(
  what: string,
  answer: Answer<R>,
  patience: Patience,
): Promise<R> {
  return within(what, settled(what, answer), patience);
}

/** The answer, or its error, without a deadline. */
export async function settled<R extends { error: schema.Error }>(
  what: string,
  answer: Answer<R>,
): Promise<R> {
  let results: R;
  try {
    results = await answer.promise();
  } catch (error) {
    throw translated(what, error);
  }
  const { error } = results;
  if (error.code !== 0)
    throw errorOf(error.code, error.message, {
      advice: error.advice,
      retryable: error.retryable,
      retryAfterMs: error.retryAfterMs,
    });
  return results;
}

/** Converts an exception of the RPC to one of ours. */
export function translated(what: string, error: unknown): unknown {
  if (error instanceof MayflyError || !(error instanceof RpcError)) return error;
  switch (error.kind) {
    case "disconnected":
      return new DisconnectedError(`${what}: the connection has ended: ${error.message}`, {
        advice: "Connect again.",
        retryable: true,
        cause: error,
      });
    case "overloaded":
      return new ResourceExhaustedError(`${what}: ${error.message}`, {
        advice: "Try again later.",
        retryable: true,
        cause: error,
      });
    case "unimplemented":
      return new UnsupportedError(`${what}: the daemon does not know this call: ${error.message}`, {
        advice: "Update the older of daemon and client.",
        cause: error,
      });
    case "failed":
      return new InternalError(`${what}: ${error.message}`, { cause: error });
  }
}
