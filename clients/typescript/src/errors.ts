// The errors of this client, one class for each code of the protocol.
//
// The end of a *task* is never an error: it is the result's verdict. TaskFailedError is thrown
// only if the caller asks for it (`check`).

import type { TaskResult } from "./result.js";

/** Kinds of failure: the same words in the schema, the command line and all clients. */
export type ErrorCode =
  | "invalidArgument"
  | "notFound"
  | "alreadyExists"
  | "resourceExhausted"
  | "unavailable"
  | "failedPrecondition"
  | "permissionDenied"
  | "cancelled"
  | "deadlineExceeded"
  | "hostUnfit"
  | "internal";

export interface ErrorDetails {
  /** What to do; may be empty. */
  advice?: string;
  /** The same call can succeed later. */
  retryable?: boolean;
  /** Do not retry sooner; 0: unknown. */
  retryAfterMs?: number;
  cause?: unknown;
}

/** A failed call. `message` says what failed, on which object, and why. */
export abstract class MayflyError extends Error {
  abstract readonly code: ErrorCode;
  readonly advice: string;
  readonly retryable: boolean;
  readonly retryAfterMs: number;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.advice = details.advice ?? "";
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs ?? 0;
    this.name = new.target.name;
  }

  /** The message and the advice. */
  override toString(): string {
    if (this.advice === "") return `${this.name}: ${this.message}`;
    return `${this.name}: ${this.message}${/[.!?]$/.test(this.message) ? "" : "."} ${this.advice}`;
  }
}

/** This request can never succeed. */
export class InvalidArgumentError extends MayflyError {
  readonly code = "invalidArgument";
}
/** The named template, task, file or blob does not exist. */
export class NotFoundError extends MayflyError {
  readonly code = "notFound";
}
/** The key already belongs to another task, or to one of before the daemon's restart. */
export class AlreadyExistsError extends MayflyError {
  readonly code = "alreadyExists";
}
/** A bound is reached: a queue, connections, bytes. Retryable. */
export class ResourceExhaustedError extends MayflyError {
  readonly code = "resourceExhausted";
}
/** Not now: no daemon, it starts or stops, the template is not ready; or lost files. Retryable. */
export class UnavailableError extends MayflyError {
  readonly code = "unavailable";
}
/** The connection has ended: the daemon is gone, or this client was closed. */
export class DisconnectedError extends UnavailableError {}
/** The object is not in the state that the call needs. */
export class FailedPreconditionError extends MayflyError {
  readonly code = "failedPrecondition";
}
/** The daemon is older than this client and does not know the call. */
export class UnsupportedError extends FailedPreconditionError {}
/** This user may not use the daemon. */
export class PermissionDeniedError extends MayflyError {
  readonly code = "permissionDenied";
}
/** The task was closed during the call. */
export class CancelledError extends MayflyError {
  readonly code = "cancelled";
}
/** No answer within the call's `deadline`. */
export class DeadlineExceededError extends MayflyError {
  readonly code = "deadlineExceeded";
}
/** The host cannot keep a promise. */
export class HostUnfitError extends MayflyError {
  readonly code = "hostUnfit";
}
/** A fault of Mayfly itself. */
export class InternalError extends MayflyError {
  readonly code = "internal";
}

/** The task's verdict is not `succeeded`, and the caller asked for this exception. */
export class TaskFailedError extends Error {
  readonly result: TaskResult;

  constructor(result: TaskResult) {
    const reason = result.reason === "" ? "" : `: ${result.reason}`;
    const last = result.stderr.trimEnd().split("\n").at(-1) ?? "";
    super(
      `task ${result.id} (${result.template}) ended as ${result.verdict}${reason}` +
        (last === "" ? "" : ` (${last})`),
    );
    this.name = "TaskFailedError";
    this.result = result;
  }
}

type Concrete = new (message: string, details?: ErrorDetails) => MayflyError;

// By the number on the wire; 0 is ok.
const BY_CODE: readonly (Concrete | undefined)[] = [
  undefined,
  InvalidArgumentError,
  NotFoundError,
  AlreadyExistsError,
  ResourceExhaustedError,
  UnavailableError,
  FailedPreconditionError,
  PermissionDeniedError,
  CancelledError,
  DeadlineExceededError,
  HostUnfitError,
  InternalError,
];

/**
 * The error of a code on the wire. A newer daemon may know more codes than this client.
 * @internal
 */
export function errorOf(code: number, message: string, details: ErrorDetails): MayflyError {
  return new (BY_CODE[code] ?? InternalError)(message, details);
}
