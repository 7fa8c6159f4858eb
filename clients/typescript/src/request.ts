// A request for a task: checked values, and their encoding into a message.

import { InvalidArgumentError } from "./errors.js";
import type { PlannedFile } from "./files.js";
import { messageBytesMax } from "./generated/constants.js";
import type * as schema from "./generated/mayfly.js";
import { checkKeys, checkObject } from "./keys.js";
import type { Hints } from "./keys.js";
import { reserve } from "./rpc.js";
import type { PreparedTool } from "./tools.js";
import { LIMITS } from "./spec.js";
import type { LimitWishes, TaskSpec } from "./spec.js";
import { parseBytes, parseCoresMilli, parseCount, parseMs } from "./units.js";

/** A checked TaskSpec, as bytes. */
export interface Prepared {
  template: string;
  kind: "command" | "file" | "string" | "stdin" | "module" | "path";
  name: string;
  code: Uint8Array;
  args: readonly string[];
  env: readonly (readonly [string, string])[];
  files: readonly PlannedFile[];
  stdinData: Uint8Array;
  stdinOpen: boolean;
  limits: WireLimits;
  seed: bigint | undefined;
  collect: boolean;
  leaseMs: number;
  key: string;
  tenant: string;
  traceparent: string;
  grants: readonly (readonly [name: string, narrowing: string])[];
  tools: readonly PreparedTool[];
}

interface WireLimits {
  cpuMilli?: number;
  cpuTimeMs?: bigint;
  wallTimeMs?: bigint;
  memoryBytes?: bigint;
  processes?: number;
  openFiles?: number;
  fileSizeBytes?: bigint;
  diskBytes?: bigint;
  diskInodes?: bigint;
  outputBytes?: bigint;
  inputBytes?: bigint;
  outFilesBytes?: bigint;
  outFiles?: number;
  queueTimeMs?: bigint;
  graceMs?: bigint;
}

export const bytesOf = (data: string | Uint8Array): Uint8Array =>
  typeof data === "string" ? Buffer.from(data, "utf8") : data;

/** Throws if it is neither text nor bytes: plain JavaScript has no type check. */
export function checkBytes(name: string, data: unknown): Uint8Array {
  if (typeof data === "string" || data instanceof Uint8Array) return bytesOf(data);
  throw new InvalidArgumentError(`${name} is neither a string nor a Uint8Array`);
}

/** Text that UTF-8 can hold. */
export function checkText(name: string, text: unknown): string {
  if (typeof text !== "string") throw new InvalidArgumentError(`${name} is not a string`);
  if (/\p{Surrogate}/u.test(text))
    throw new InvalidArgumentError(`${name} is not valid Unicode text`);
  return text;
}

function words(name: string, list: unknown): readonly string[] {
  if (!Array.isArray(list)) throw new InvalidArgumentError(`${name} is not a list of strings`);
  return list.map((word, i) => checkText(`${name}[${i}]`, word));
}

const CAP_NAMES = Object.keys(LIMITS) as (keyof LimitWishes)[];
const LIMIT_HINTS: Hints = {
  timeout: "The cap of the task's time is 'wallTime'.",
  timeoutMs: "The cap of the task's time is 'wallTime', like \"250ms\".",
  cpus: "Did you mean 'cpu'?",
  pids: "Did you mean 'processes'?",
};

export function limitsFrom(wishes: LimitWishes): WireLimits {
  const out: WireLimits = {};
  const caps: Record<keyof LimitWishes, (name: string, value: unknown) => void> = {
    cpu: (n, v) => (out.cpuMilli = parseCoresMilli(n, v)),
    cpuTime: (n, v) => (out.cpuTimeMs = parseMs(n, v)),
    wallTime: (n, v) => (out.wallTimeMs = parseMs(n, v)),
    memory: (n, v) => (out.memoryBytes = parseBytes(n, v)),
    processes: (n, v) => (out.processes = Number(parseCount(n, v, 32n))),
    openFiles: (n, v) => (out.openFiles = Number(parseCount(n, v, 32n))),
    fileSize: (n, v) => (out.fileSizeBytes = parseBytes(n, v)),
    disk: (n, v) => (out.diskBytes = parseBytes(n, v)),
    diskInodes: (n, v) => (out.diskInodes = parseCount(n, v, 64n)),
    output: (n, v) => (out.outputBytes = parseBytes(n, v)),
    input: (n, v) => (out.inputBytes = parseBytes(n, v)),
    outFilesSize: (n, v) => (out.outFilesBytes = parseBytes(n, v)),
    outFiles: (n, v) => (out.outFiles = Number(parseCount(n, v, 32n))),
    queueTime: (n, v) => (out.queueTimeMs = parseMs(n, v)),
    grace: (n, v) => (out.graceMs = parseMs(n, v)),
  };
  checkKeys("limits", wishes, LIMITS, LIMIT_HINTS);
  for (const name of CAP_NAMES)
    if (wishes[name] !== undefined) caps[name](`limits.${name}`, wishes[name]);
  return out;
}

export function seedFrom(seed: number | bigint | undefined): bigint | undefined {
  if (seed === undefined) return undefined;
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(seed) : -1n;
  if (whole < 0n || whole >= 1n << 64n)
    throw new InvalidArgumentError(`seed: ${seed} is not a whole number of 64 bits`);
  return whole;
}

export function prepareWords(spec: TaskSpec): Pick<Prepared, "args" | "env"> {
  const { env: variables = {} } = spec;
  const args = words("args", spec.args === undefined ? [] : spec.args);
  if (spec.command !== undefined && args.length > 0)
    throw new InvalidArgumentError("the arguments of a `command` are part of it", {
      advice: "Add them to its list.",
    });
  checkObject("env", variables);
  const env = Object.entries(variables);
  for (const [name, value] of env) {
    checkText("env: a name", name);
    checkText(`env: the value of '${name}'`, value);
  }
  return { args: spec.command === undefined ? args : words("command", spec.command), env };
}

const TEXT_EXTRA = 24; // a text's pointer, its NUL and its padding
const FILE_EXTRA = 96;

const textBytes = (text: string): number => Buffer.byteLength(text) + TEXT_EXTRA;

/** An upper bound on the request's size without the files. */
export function bareBytes(p: Omit<Prepared, "files">): number {
  let bytes = 1024 + p.code.byteLength + p.stdinData.byteLength;
  bytes += textBytes(p.template) + textBytes(p.name) + textBytes(p.key);
  bytes += textBytes(p.tenant) + textBytes(p.traceparent);
  for (const arg of p.args) bytes += textBytes(arg);
  for (const [name, value] of p.env) bytes += textBytes(name) + textBytes(value) + 16;
  for (const [name, narrowing] of p.grants) bytes += textBytes(name) + textBytes(narrowing) + 16;
  for (const tool of p.tools)
    bytes += textBytes(tool.name) + textBytes(tool.description) + textBytes(tool.schemaJson) + 24;
  return bytes;
}

/** The same for one file with `data` bytes in the request. */
export const fileBytes = (path: string, data: number): number =>
  textBytes(path) + FILE_EXTRA + data;

/** Throws if a message cannot hold the request. */
export function checkSize(p: Prepared): number {
  let bytes = bareBytes(p);
  for (const file of p.files)
    bytes += fileBytes(file.path, file.large === true ? 0 : (file.data?.byteLength ?? 0));
  if (bytes > messageBytesMax)
    throw new InvalidArgumentError(
      `the task with its code, arguments and small files has ${bytes} bytes; a request holds at ` +
        `most ${messageBytesMax}`,
      { advice: "Give large data as few large files, or on stdin: both are sent in pieces." },
    );
  return bytes;
}

export function put(params: schema.Mayfly_Submit$Params, p: Prepared, bytes: number): void {
  reserve(params, bytes);
  const spec = params._initSpec();
  spec.template = p.template;
  const code = spec.code;
  switch (p.kind) {
    case "command":
      code.command = true;
      break;
    case "file": {
      const file = code._initFile();
      file.name = p.name;
      file._initText(p.code.byteLength).copyBuffer(p.code);
      break;
    }
    case "module":
      code.module = p.name;
      break;
    case "path":
      code.path = p.name;
      break;
    case "string":
      code._initString(p.code.byteLength).copyBuffer(p.code);
      break;
    case "stdin":
      code._initStdin(p.code.byteLength).copyBuffer(p.code);
      break;
  }
  const args = spec._initArgs(p.args.length);
  p.args.forEach((arg, i) => args.set(i, arg));
  const env = spec._initEnv(p.env.length);
  p.env.forEach(([name, value], i) => {
    const entry = env.get(i);
    entry.name = name;
    entry.value = value;
  });
  const files = spec._initFiles(p.files.length);
  p.files.forEach((from, i) => {
    const file = files.get(i);
    file.path = from.path;
    file.mode = from.mode;
    if (from.blob !== undefined) file._initBlob(from.blob.byteLength).copyBuffer(from.blob);
    else if (from.data !== undefined) file._initData(from.data.byteLength).copyBuffer(from.data);
  });
  if (p.stdinData.byteLength > 0)
    spec._initStdinData(p.stdinData.byteLength).copyBuffer(p.stdinData);
  spec.stdinOpen = p.stdinOpen;
  Object.assign(spec._initLimits(), p.limits);
  if (p.seed !== undefined) spec.seed.value = p.seed;
  spec.collectOutFiles = p.collect;
  spec.tenant = p.tenant;
  if (p.traceparent !== "") params.traceparent = p.traceparent;
  if (p.grants.length > 0) {
    const grants = spec._initGrants(p.grants.length);
    p.grants.forEach(([name, narrowing], i) => {
      const wish = grants.get(i);
      wish.name = name;
      wish.narrowing = narrowing;
    });
  }
  if (p.tools.length > 0) {
    const tools = spec._initTools(p.tools.length);
    p.tools.forEach((from, i) => {
      const tool = tools.get(i);
      tool.name = from.name;
      tool.description = from.description;
      tool.schemaJson = from.schemaJson;
    });
  }
  if (p.leaseMs > 0) {
    const detach = spec._initDetach();
    detach.leaseMs = p.leaseMs;
    detach.key = p.key;
  }
}
