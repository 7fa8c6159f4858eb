// The daemon's answers as plain data: no object here holds the connection.
//
// Units stand last in a name: Bytes, Ms, Ns, Milli. Counts, sizes and durations are numbers (exact
// up to 2^53: 9 PB, 104 days in ns). Ids and points in time are bigints: an id is any 64 bits, and
// the host's monotonic clock in ns passes 2^53 after 104 days of uptime. 0n means "did not happen".

import { inspect } from "node:util";

import { TaskFailedError } from "./errors.js";

/** How a task ended, as the kernel reports it; no code in the box can forge it. */
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
  | "queueTime"
  /** A verdict that is newer than this client. */
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
  readonly queueTimeMs: number;
  readonly graceMs: number;
}

export interface Usage {
  /** From the first instruction to exit or kill. */
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
  /** The task got a new runtime, without the template's preloads. */
  readonly freshRuntime: boolean;
}

/** The time of each step, on the host's monotonic clock. */
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
  /** Which points are not proven, and why; empty when complete. */
  readonly missing: string;
  /** Of a task with grants or tools: no call of it works any more. */
  readonly revokedNs: bigint;
  /** The same: the broker has no socket of the box open. */
  readonly brokerClosedNs: bigint;
  /** Which process of the broker was restarted, because it did not confirm in time. */
  readonly note: string;
}

/** A file that the task left in /task/out. */
export interface OutFile {
  readonly index: number;
  /** The path relative to /task/out in a form to print and compare: odd bytes are escaped. */
  readonly name: string;
  /** The path's bytes, chosen by the task: never use them as a path unchecked. */
  readonly path: Uint8Array;
  readonly sizeBytes: number;
  readonly mode: number;
  /** Why the daemon did not collect it ("symbolic link"...); empty if it did. */
  readonly skipped: string;
  /** Its bytes, if `run` fetched them. */
  readonly data?: Uint8Array;
  /** The path under which it was saved. */
  readonly saved?: string;
  /** Why saving failed, if it was requested. */
  readonly notSaved?: string;
}

export interface TaskInfo {
  readonly id: bigint;
  readonly template: string;
  /** "queued", "making", "running", "ending"; from `Task.info` also "done". */
  readonly state: string;
  readonly queuedNs: bigint;
  readonly startedNs: bigint;
  /** The daemon's clock at the answer. */
  readonly nowNs: bigint;
  /** Of the box's init; 0: none. */
  readonly pidHost: number;
  /** The task belongs to this connection, or is detached and belongs to this user. */
  readonly yours: boolean;
}

/** A detached task that the daemon keeps, ended or not. */
export interface DetachedTask {
  readonly task: TaskInfo;
  /** Empty if it was submitted without one. */
  readonly key: string;
  /** Until an ended task is forgotten; before its end, the whole lease. */
  readonly leaseLeftMs: number;
}

export interface TemplateInfo {
  readonly name: string;
  readonly description: string;
  /** How a clone is made: "fork", "restore" or "exec". */
  readonly mechanism: string;
  /** "starting", "ready", "unhealthy", "missingImage". */
  readonly state: string;
  /** The reason, and what to do. */
  readonly stateText: string;
  readonly imageDigest: string;
  readonly defaults: Limits;
  readonly maximum: Limits;
  /** Boxes alive now. */
  readonly boxes: number;
  /** Of them: with a clone that is ready for a task. */
  readonly parked: number;
  /** Of them: without a clone yet. */
  readonly stocked: number;
  /** The number that the pool holds or is being filled to. */
  readonly parkedTarget: number;
  readonly stockedTarget: number;
  /** Clones being made. */
  readonly making: number;
  /** Tasks that have a place but no clone yet. */
  readonly waiting: number;
  /** Alive: serving, starting, or draining. */
  readonly zygotes: number;
  /** Zygotes replaced by a successor, since the daemon's start. */
  readonly renewals: number;
  /** Tasks that found a parked clone, since the daemon's start. */
  readonly hits: bigint;
  /** Tasks that had to wait for their clone to be made. */
  readonly misses: bigint;
}

export interface BlobInfo {
  /** 64 hexadecimal digits. */
  readonly sha256: string;
  readonly sizeBytes: number;
  /** From now, unless a task uses it. */
  readonly expiresMs: number;
}

/** This daemon's bounds; at each: ResourceExhaustedError. 0: the daemon is too old to report it. */
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
  /** Of all unclosed tasks. */
  readonly outputHeldBytesMax: number;
  readonly handlesPerConnectionMax: number;
  /** Collected output files of all unclosed tasks; one connection or user may hold half of it. */
  readonly outFilesHeldBytesMax: number;
}

export interface ServerInfo {
  readonly version: string;
  readonly protocol: number;
  /** The daemon's name on its host. */
  readonly instance: string;
  readonly bounds: Bounds;
}

/** A task's end and its output. */
export class TaskResult {
  declare readonly id: bigint;
  declare readonly template: string;
  declare readonly verdict: Verdict;
  /** Set if the verdict is `succeeded` or `failed`, and for a task that exited `inGrace`. */
  declare readonly exitCode: number | null;
  /** The signal's number, if the verdict is `signaled` or the signal ended it `inGrace`. */
  declare readonly signal: number | null;
  /** The task was asked to end (SIGTERM), and ended by itself before the kill. */
  declare readonly inGrace: boolean;
  /** One line for people: which cap and its value, or what failed. */
  declare readonly reason: string;
  /** The cap that the task reached, in its unit. */
  declare readonly capValue: number | null;
  declare readonly limits: Limits;
  declare readonly usage: Usage;
  declare readonly phases: Phases;
  declare readonly receipt: Receipt;
  /** The captured output: the first MiB. Empty if the output was sent live. */
  declare readonly stdoutBytes: Uint8Array;
  declare readonly stderrBytes: Uint8Array;
  /** The task wrote more than was captured. */
  declare readonly stdoutTruncated: boolean;
  declare readonly stderrTruncated: boolean;
  declare readonly outFiles: readonly OutFile[];
  /** Why files are missing from the collection; empty if none are. */
  declare readonly outFilesNote: string;
  /** Mayfly lost files that the task may have left; another run can give them. */
  declare readonly outFilesLost: boolean;

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

  /** The captured output as text; bytes that are not UTF-8 become U+FFFD. */
  get stdout(): string {
    return text(this.stdoutBytes);
  }

  get stderr(): string {
    return text(this.stderrBytes);
  }

  /** Returns the result itself, or throws TaskFailedError if the verdict is not `succeeded`. */
  check(): this {
    if (!this.ok) throw new TaskFailedError(this);
    return this;
  }

  /**
   * For a person: the verdict, unless it is `succeeded`; stdout; stderr. Control characters are
   * escaped; `stdout` and `stderr` have the text as it is.
   */
  toString(): string {
    return [...(this.ok ? [] : [headline(this)]), ...outputLines(this)].join("\n");
  }

  /** For console.log: the same, after a line that names the task and its verdict. @internal */
  [inspect.custom](depth: number): string {
    const head = `TaskResult ${this.id} (${shown(this.template)}): ${headline(this)}`;
    return depth < 0 ? `[${head}]` : [head, ...outputLines(this)].join("\n");
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
  "ok" | "capped" | "stdout" | "stderr" | "check" | "toJSON" | "toString" | typeof inspect.custom
>;

// Escapes what could drive a terminal, but for newlines and tabs.
const shown = (text: string): string =>
  text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (char) => {
    if (char === "\n" || char === "\t") return char;
    const code = char.codePointAt(0) ?? 0;
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });

const headline = ({ ok, verdict, reason }: TaskResult): string =>
  ok || reason === "" ? verdict : `${verdict}: ${shown(reason)}`;

function outputLines(result: TaskResult): string[] {
  const lines: string[] = [];
  for (const [name, said, truncated] of [
    ["stdout", result.stdout, result.stdoutTruncated],
    ["stderr", result.stderr, result.stderrTruncated],
  ] as const) {
    if (said !== "") lines.push(shown(said.replace(/\n$/, "")));
    if (truncated) lines.push(`[${name} goes on: only its beginning was captured]`);
  }
  return lines;
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

function numbered(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(numbered);
  if (typeof value === "object" && value !== null)
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, numbered(v)]));
  return value;
}
