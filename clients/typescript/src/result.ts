// What the daemon answers, as plain data: no object here holds the connection.
//
// Units stand last in a name: Bytes, Ms, Ns, Milli. Counts, sizes and durations are numbers (exact
// up to 2^53: 9 PB, 104 days in ns). Ids and points in time are bigints: an id is any 64 bits, and
// the host's monotonic clock in ns passes 2^53 after 104 days of uptime. 0n means "did not happen".

import { TaskFailedError } from "./errors.js";

/** How a task ended. The kernel says it; nothing that runs in the box can forge it. */
export type Verdict =
  | "succeeded"
  | "failed"
  | "signaled"
  | "wallTime"
  | "cpuTime"
  | "memory"
  | "processes"
  | "output"
  | "disk"
  | "cancelled"
  | "clientGone"
  | "daemonStopping"
  | "internal"
  /** One that this client is too old to know. */
  | "unknown";

const CAPS: ReadonlySet<Verdict> = new Set<Verdict>([
  "wallTime",
  "cpuTime",
  "memory",
  "processes",
  "output",
  "disk",
]);

/** Caps that were in force, or a template's defaults and maxima. */
export interface Limits {
  readonly cpuMilli: number;
  readonly cpuTimeMs: number;
  readonly wallTimeMs: number;
  readonly memoryBytes: number;
  readonly processes: number;
  readonly openFiles: number;
  readonly fileSizeBytes: number;
  readonly diskBytes: number;
  readonly diskInodes: number;
  readonly outputBytes: number;
  readonly inputBytes: number;
  readonly outFilesBytes: number;
  readonly outFiles: number;
}

export interface Usage {
  /** First instruction to exit or kill. */
  readonly wallNs: number;
  readonly userCpuNs: number;
  readonly systemCpuNs: number;
  readonly memoryPeakBytes: number;
  readonly processesPeak: number;
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
  /** Held at death. */
  readonly diskBytes: number;
  /** Held at death. */
  readonly diskInodes: number;
  /** Its runtime started anew for it, without what the template preloads. */
  readonly freshRuntime: boolean;
}

/** When each step was reached, on the host's monotonic clock. */
export interface Phases {
  readonly queuedNs: bigint;
  readonly boxNs: bigint;
  readonly boxReadyNs: bigint;
  readonly cloneNs: bigint;
  readonly claimedNs: bigint;
  readonly startedNs: bigint;
  readonly firstByteNs: bigint;
  readonly exitedNs: bigint;
  readonly reapedNs: bigint;
  readonly receiptNs: bigint;
}

/** The proof that the box is gone, each point with its time. */
export interface Receipt {
  readonly box: bigint;
  readonly complete: boolean;
  readonly reapedNs: bigint;
  readonly unpopulatedNs: bigint;
  readonly fdsClosedNs: bigint;
  readonly cgroupsGoneNs: bigint;
  readonly uidFreeNs: bigint;
  /** What is not proven, and why; empty when complete. */
  readonly missing: string;
}

/** A file that the task left in /task/out. */
export interface OutFile {
  readonly index: number;
  /** The path relative to /task/out, fit to be printed and compared: odd bytes are escaped. */
  readonly name: string;
  /** The path's bytes as the task chose them: never use them as a path as they are. */
  readonly path: Uint8Array;
  readonly sizeBytes: number;
  readonly mode: number;
  /** Why the daemon did not collect it ("symbolic link"...); empty when it did. */
  readonly skipped: string;
  /** Its bytes, where `run` brought them. */
  readonly data?: Uint8Array;
  /** Where it was saved. */
  readonly saved?: string;
  /** Why it was not saved, though that was asked for. */
  readonly notSaved?: string;
}

export interface TaskInfo {
  readonly id: bigint;
  readonly template: string;
  /** "queued", "making", "running", "ending"; of `Task.info` also "done". */
  readonly state: string;
  readonly queuedNs: bigint;
  readonly startedNs: bigint;
  /** The daemon's clock at the answer. */
  readonly nowNs: bigint;
  /** Of the box's init; 0 where there is none. */
  readonly pidHost: number;
  /** Of this connection, or detached and of this user. */
  readonly yours: boolean;
}

export interface TemplateInfo {
  readonly name: string;
  readonly description: string;
  /** How a clone is made: "fork", "restore" or "exec". */
  readonly mechanism: string;
  /** "starting", "ready", "unhealthy", "missingImage". */
  readonly state: string;
  /** Why, and what to do. */
  readonly stateText: string;
  readonly imageDigest: string;
  readonly defaults: Limits;
  readonly maximum: Limits;
  /** Boxes alive now. */
  readonly boxes: number;
  /** Of them: with a clone that is ready for a task. */
  readonly parked: number;
  /** Of them: walls that wait for a clone. */
  readonly stocked: number;
  /** What the pool holds, or is being filled to. */
  readonly parkedTarget: number;
  readonly stockedTarget: number;
  /** Clones. */
  readonly making: number;
  /** Tasks that have a box's place and no clone yet. */
  readonly waiting: number;
  /** Alive: serving, starting, and those whose last boxes end. */
  readonly zygotes: number;
  /** Zygotes that a younger one followed, since the daemon's start. */
  readonly renewals: number;
  /** Tasks that found a clone parked, since the daemon's start. */
  readonly hits: bigint;
  /** Tasks whose clone was made when they came. */
  readonly misses: bigint;
}

export interface BlobInfo {
  /** 64 hexadecimal digits. */
  readonly sha256: string;
  readonly sizeBytes: number;
  /** From now, if nothing uses it. */
  readonly expiresMs: number;
}

/** Of this daemon; beyond each: ResourceExhaustedError. 0: the daemon is too old to tell. */
export interface Bounds {
  readonly connectionsMax: number;
  readonly tasksPerConnectionMax: number;
  readonly tasksMax: number;
  readonly callsPerConnectionMax: number;
  readonly messageBytesMax: number;
  readonly inFlightBytesPerConnectionMax: number;
  readonly blobBytesMax: number;
  readonly blobStoreBytesMax: number;
  readonly blobsPerUserMax: number;
  readonly uploadsPerConnectionMax: number;
  readonly detachedPerUserMax: number;
  readonly detachLeaseMsMax: number;
  readonly resultLeaseMs: number;
  readonly uploadIdleMs: number;
  readonly blobTtlMs: number;
  readonly connectionIdleMs: number;
  readonly messageMsMax: number;
  /** Of all connections' requests. */
  readonly inFlightBytesMax: number;
  /** Of all tasks that are not closed. */
  readonly outputHeldBytesMax: number;
  readonly handlesPerConnectionMax: number;
  /** Collected output files of all tasks that are not closed; one connection or user: half of it. */
  readonly outFilesHeldBytesMax: number;
}

export interface ServerInfo {
  readonly version: string;
  readonly protocol: number;
  /** The daemon's name on its host. */
  readonly instance: string;
  readonly bounds: Bounds;
}

/** How a task ended, and what it left. */
export class TaskResult {
  declare readonly id: bigint;
  declare readonly template: string;
  declare readonly verdict: Verdict;
  /** Where the verdict is `succeeded` or `failed`. */
  declare readonly exitCode: number | null;
  /** The signal's number, where the verdict is `signaled`. */
  declare readonly signal: number | null;
  /** One line for people: which cap and its value, or what failed. */
  declare readonly reason: string;
  /** The cap that was hit, in its unit. */
  declare readonly capValue: number | null;
  declare readonly limits: Limits;
  declare readonly usage: Usage;
  declare readonly phases: Phases;
  declare readonly receipt: Receipt;
  /** What was captured: the first MiB. Empty where the output was sent while it came. */
  declare readonly stdoutBytes: Uint8Array;
  declare readonly stderrBytes: Uint8Array;
  /** More came than was captured. */
  declare readonly stdoutTruncated: boolean;
  declare readonly stderrTruncated: boolean;
  declare readonly outFiles: readonly OutFile[];
  /** Why the collection of files is not whole; empty when it is. */
  declare readonly outFilesNote: string;

  /** @internal */
  constructor(fields: ResultFields) {
    Object.assign(this, fields);
  }

  /** The verdict is `succeeded`. */
  get ok(): boolean {
    return this.verdict === "succeeded";
  }

  /** The task was killed at one of its caps. */
  get capped(): boolean {
    return CAPS.has(this.verdict);
  }

  /** What was captured, as text; what is not UTF-8 becomes U+FFFD. */
  get stdout(): string {
    return text(this.stdoutBytes);
  }

  get stderr(): string {
    return text(this.stderrBytes);
  }

  /** Gives the result itself, or throws TaskFailedError when the verdict is not `succeeded`. */
  check(): this {
    if (!this.ok) throw new TaskFailedError(this);
    return this;
  }

  /** For JSON.stringify: bigints as numbers, output as text, files without their bytes. */
  toJSON(): Record<string, unknown> {
    const { stdoutBytes: _out, stderrBytes: _err, outFiles, ...plain } = this;
    const listed = outFiles.map(({ path: _path, data: _data, ...file }) => file);
    return numbered({
      ...plain,
      stdout: this.stdout,
      stderr: this.stderr,
      outFiles: listed,
    }) as Record<string, unknown>;
  }
}

/** @internal */
export type ResultFields = Omit<
  TaskResult,
  "ok" | "capped" | "stdout" | "stderr" | "check" | "toJSON"
>;

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

function numbered(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(numbered);
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, numbered(v)]));
  return value;
}
