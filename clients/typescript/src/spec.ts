// A caller's request for a task.

import type { FileSource } from "./files.js";
import type { Hints, Keys } from "./keys.js";
import type { Tool, ToolFunction } from "./tools.js";
import type { Cores, Duration, Size } from "./units.js";

/**
 * The caps that the task wants. A cap that is not named takes the template's default.
 * docs/SPECIFICATION.md says what happens at each cap.
 */
export interface LimitWishes {
  /** Share of the cores: 0.5, 2. */
  cpu?: Cores | undefined;
  /** User and system time of all its processes. */
  cpuTime?: Duration | undefined;
  /** From its first instruction. */
  wallTime?: Duration | undefined;
  /** All memory, /tmp and /task included. */
  memory?: Size | undefined;
  /** Processes and threads. */
  processes?: number | undefined;
  /** Per process. */
  openFiles?: number | undefined;
  /** Of the largest file. */
  fileSize?: Size | undefined;
  /** /tmp, /task, /run and /dev/shm together. */
  disk?: Size | undefined;
  /** Files and folders in them. */
  diskInodes?: number | undefined;
  /** stdout and stderr, each. */
  output?: Size | undefined;
  /** stdin and input files together. */
  input?: Size | undefined;
  /** Collected output files together. */
  outFilesSize?: Size | undefined;
  /** Their number. */
  outFiles?: number | undefined;
  /** In the queue, before its box. */
  queueTime?: Duration | undefined;
  /** From SIGTERM to the kill, at wall time and at a cancel; 0: the kill alone. */
  grace?: Duration | undefined;
}

export interface Detach {
  /** How long the result is kept after the task's end and the last call on it. */
  lease: Duration;
  /**
   * Your own name for this run, at most 128 bytes. A submit that repeats a kept task's key returns
   * that task instead of running a second one.
   */
  key?: string | undefined;
}

/** The program: one of these. */
export type Code =
  /**
   * A program. `via` says how it reaches the runtime: "string", as after its -c (the default), or
   * "stdin", as if piped into it.
   */
  | (Only<"code" | "via"> & { code: string | Uint8Array; via?: "string" | "stdin" })
  /**
   * A script, a local file by default, or a folder with a `__main__.py`; it is placed at /task/NAME
   * and runs from there.
   */
  | (Only<"script"> & { script: string | URL | Script })
  /** A module's name, as after Python's -m: of the template, or among `files`. */
  | (Only<"module"> & { module: string })
  /**
   * The program's path among `files`: a script, or for templates of Python an archive or a folder
   * with a `__main__.py`.
   */
  | (Only<"program"> & { program: string })
  /** A whole command line; templates of mechanism `exec` only. */
  | (Only<"command"> & { command: readonly string[] });

type Program = "code" | "via" | "script" | "module" | "program" | "command";
type Only<Named extends Program> = { [Name in Exclude<Program, Named>]?: never };

/** A script that is not a file yet. */
export interface Script {
  /** A plain file name, e.g. "script.py". */
  name: string;
  text: string | Uint8Array;
}

export type StdinSource =
  string | Uint8Array | Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;

export type TaskSpec = Code & {
  /** The template's name, as `templates()` lists it; by default "python". */
  template?: string | undefined;
  /** The arguments after the program or script in argv. */
  args?: readonly string[] | undefined;
  /** Added to the template's short fixed list, or replacing a variable of it. */
  env?: Readonly<Record<string, string>> | undefined;
  /**
   * Input files: a list of local paths, each placed in /task under its own name; or an object from
   * paths below /task to text, bytes, `{ path }`, `{ blob }`. Large files are uploaded as blobs.
   */
  files?: readonly (string | URL)[] | Readonly<Record<string, FileSource>> | undefined;
  /** The task's stdin. It is sent in pieces as the task reads. */
  stdin?: StdinSource | undefined;
  /** More input follows by `Task.writeStdin`, until `Task.closeStdin`. */
  stdinOpen?: boolean | undefined;
  limits?: LimitWishes | undefined;
  /** Seeds the runtime's reproducible generators. */
  seed?: number | bigint | undefined;
  /** Keep the task's files of /task/out. `run` fetches them; a Task has readFile and saveFiles. */
  collect?: boolean | undefined;
  /**
   * The person or service that the task is for, if this client serves several: at most 64 bytes,
   * printable. If a template has a zygote for each tenant, tenants never share one.
   */
  tenant?: string | undefined;
  /** The W3C trace context of the caller, for the daemon's lines about the task and the audit. */
  traceparent?: string | undefined;
  /**
   * The actions of the broker's policy that the task may use: "NAME", or "NAME:BOUNDS" with its own,
   * narrower bounds, like "openai:calls=10". Empty or absent: none.
   */
  grants?: readonly string[] | undefined;
  /** Functions of this process that the task may call as POST /tools/NAME. */
  tools?: Readonly<Record<string, Tool | ToolFunction>> | undefined;
  /** Let the task outlive this connection; see `Client.find`. */
  detach?: Detach | undefined;
};

// --- the same at run time --------------------------------------------------------------------

/** @internal */
export const LIMITS: Keys<LimitWishes> = {
  cpu: true,
  cpuTime: true,
  wallTime: true,
  memory: true,
  processes: true,
  openFiles: true,
  fileSize: true,
  disk: true,
  diskInodes: true,
  output: true,
  input: true,
  outFilesSize: true,
  outFiles: true,
  queueTime: true,
  grace: true,
};

/** @internal */
export const DETACH: Keys<Detach> = { lease: true, key: true };

/** @internal */
export const SCRIPT: Keys<Script> = { name: true, text: true };

/** @internal */
export const SPEC: Keys<TaskSpec> = {
  code: true,
  via: true,
  script: true,
  module: true,
  program: true,
  command: true,
  template: true,
  args: true,
  env: true,
  files: true,
  stdin: true,
  stdinOpen: true,
  limits: true,
  seed: true,
  collect: true,
  tenant: true,
  traceparent: true,
  grants: true,
  tools: true,
  detach: true,
};

const OF_THE_CALL = ["signal", "deadline", "check", "out", "stream", "onOutput", "onStarted"];
const WALL_TIME_HINT =
  "The cap of the task's time is `limits.wallTime`, like \"250ms\" or \"30s\"; how long the call " +
  "waits is `deadline` of its options.";

const belong = (keys: readonly string[], where: string): Hints =>
  Object.fromEntries(keys.map((key) => [key, `'${key}' ${where}.`]));

/** @internal */
export const SPEC_HINTS: Hints = {
  ...belong(OF_THE_CALL, "is an option of the call"),
  ...belong(Object.keys(LIMITS), "belongs into `limits`"),
  ...belong(Object.keys(DETACH), "belongs into `detach`"),
  timeout: WALL_TIME_HINT,
  timeoutMs: WALL_TIME_HINT,
};
