// What a caller asks for.

import type { FileSource } from "./files.js";
import type { Cores, Duration, Size } from "./units.js";

/**
 * Caps that the task wants. What is not named takes the template's default. What each does at its
 * ceiling: docs/SPECIFICATION.md.
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
  /** Files and folders there. */
  diskInodes?: number | undefined;
  /** stdout and stderr, each. */
  output?: Size | undefined;
  /** stdin and input files together. */
  input?: Size | undefined;
  /** Collected output files together. */
  outFilesSize?: Size | undefined;
  /** Their number. */
  outFiles?: number | undefined;
}

export interface Detach {
  /** How long the result is kept after the task's end and the last call on it. */
  lease: Duration;
  /**
   * Your own name for this very run, at most 128 bytes. A submit with a key that a kept task has
   * gives that task instead of a second run.
   */
  key?: string | undefined;
}

/** What runs: one of these. */
export type Code =
  /**
   * A program. `via` says how it reaches the runtime: "string", as after its -c (the default), or
   * "stdin", as if piped into it.
   */
  | { code: string | Uint8Array; via?: "string" | "stdin"; script?: never; command?: never }
  /** A script, a local file by default; it is put at /task/NAME and runs from there. */
  | { script: string | URL | Script; code?: never; via?: never; command?: never }
  /** A whole command line; templates of mechanism `exec` only. */
  | { command: readonly string[]; code?: never; via?: never; script?: never };

/** A script that is no file yet. */
export interface Script {
  /** A plain file name, e.g. "script.py". */
  name: string;
  text: string | Uint8Array;
}

export type StdinSource =
  string | Uint8Array | Iterable<string | Uint8Array> | AsyncIterable<string | Uint8Array>;

export type TaskSpec = Code & {
  /** As `templates()` lists it; "python" where it is not named. */
  template?: string | undefined;
  /** What follows the program or script in argv. */
  args?: readonly string[] | undefined;
  /** Added to the template's short fixed list; the same name replaces. */
  env?: Readonly<Record<string, string>> | undefined;
  /**
   * Input files: a list of local paths, each put at /task/ with its own name; or by their paths
   * below /task: text, bytes, `{ path }`, `{ blob }`. Large ones are uploaded as blobs.
   */
  files?: readonly (string | URL)[] | Readonly<Record<string, FileSource>> | undefined;
  /** What the task finds on stdin. Pieces go as the task takes them. */
  stdin?: StdinSource | undefined;
  /** More follows by `Task.writeStdin`, up to `Task.closeStdin`. */
  stdinOpen?: boolean | undefined;
  limits?: LimitWishes | undefined;
  /** Seeds the runtime's reproducible generators. */
  seed?: number | bigint | undefined;
  /** Keep what the task leaves in /task/out. `run` brings it, a Task has readFile and saveFiles. */
  collect?: boolean | undefined;
  /**
   * Whom it is for, where this client serves several: at most 64 bytes, printable. Where a template
   * has a zygote for each tenant, tasks of different ones never share it.
   */
  tenant?: string | undefined;
  /** Let the task outlive this connection; see `Client.find`. */
  detach?: Detach | undefined;
};
