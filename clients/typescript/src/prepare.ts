// Prepares the caller's TaskSpec for a request: checks it, reads programs and small files, marks
// large files for upload.

import { basename, resolve } from "node:path";
import { readFile, stat } from "node:fs/promises";

import { InvalidArgumentError } from "./errors.js";
import { localPath, planFiles, planFolder, readPlanned } from "./files.js";
import type { PlannedFile } from "./files.js";
import { chunkBytesMax, messageBytesMax } from "./generated/constants.js";
import { checkFlag, checkKeys } from "./keys.js";
import {
  bareBytes,
  checkBytes,
  checkText,
  fileBytes,
  limitsFrom,
  prepareWords,
  seedFrom,
} from "./request.js";
import type { Prepared } from "./request.js";
import { DETACH, SCRIPT, SPEC, SPEC_HINTS } from "./spec.js";
import type { StdinSource, TaskSpec } from "./spec.js";
import { grantsFrom, toolsFrom } from "./tools.js";
import { parseMs } from "./units.js";

const NOTHING = new Uint8Array(0);

/** The input that is written to stdin once the task exists. */
export interface Later {
  stdin: StdinSource | undefined;
  keepOpen: boolean;
}

/** Throws if the spec has unknown keys; does it want its output files? */
export function checkSpec(spec: TaskSpec): boolean {
  checkKeys("the spec", spec, SPEC, SPEC_HINTS);
  checkFlag("stdinOpen", spec.stdinOpen);
  return checkFlag("collect", spec.collect);
}

/** Prepares a spec that checkSpec has seen; its large files have no blob yet. */
export async function prepare(
  spec: TaskSpec,
  collect: boolean,
): Promise<[Prepared, Later]> {
  // Only what is not there takes a default: null is a mistake.
  const { template = "python", limits = {}, files: given = [], detach } = spec;
  const { tenant = "", traceparent = "" } = spec;
  if (detach !== undefined) checkKeys("detach", detach, DETACH);
  const key = detach?.key === undefined ? "" : detach.key;
  const [stdinData, later] = splitStdin(spec);
  const [program, brought] = await codeOf(spec);
  const bare: Omit<Prepared, "files"> = {
    template: checkText("template", template),
    ...program,
    ...prepareWords(spec),
    stdinData,
    stdinOpen: later.stdin !== undefined || later.keepOpen,
    limits: limitsFrom(limits),
    seed: seedFrom(spec.seed),
    collect,
    leaseMs: detach === undefined ? 0 : Number(parseMs("detach.lease", detach.lease, 32n)),
    key: checkText("detach.key", key),
    tenant: checkText("tenant", tenant),
    traceparent: checkText("traceparent", traceparent),
    grants: grantsFrom(spec.grants),
    tools: toolsFrom(spec.tools),
  };
  if (detach !== undefined && bare.tools.length > 0)
    throw new InvalidArgumentError("a detached task has no tools: nobody may be there to answer", {
      advice: "Leave out `tools` or `detach`.",
    });
  if (detach !== undefined && bare.leaseMs === 0)
    throw new InvalidArgumentError("detach.lease is 0: the result would be kept for no time");
  const files = [...brought, ...(await planFiles(given))];
  await fit(files, messageBytesMax - bareBytes(bare));
  return [{ ...bare, files }, later];
}

type Program = Pick<Prepared, "kind" | "name" | "code">;

// The program, and the files that come with it.
async function codeOf(spec: TaskSpec): Promise<[Program, PlannedFile[]]> {
  const kinds = ["code", "script", "module", "program", "command"] as const;
  const named = kinds.filter((name) => spec[name] !== undefined);
  if (named.length !== 1)
    throw new InvalidArgumentError(
      `the task names ${named.length === 0 ? "nothing to run" : named.join(" and ")}`,
      { advice: "Name one of code, script, module, program and command." },
    );
  if (spec.code === undefined && spec.via !== undefined)
    throw new InvalidArgumentError("via goes with `code`", { advice: "Leave it out." });
  if (spec.code !== undefined) {
    const { via = "string" } = spec;
    if (via !== "string" && via !== "stdin")
      throw new InvalidArgumentError(`via: '${String(via)}' is neither "string" nor "stdin"`);
    return [{ kind: via, name: "", code: checkBytes("code", spec.code) }, []];
  }
  if (spec.command !== undefined) return [{ kind: "command", name: "", code: NOTHING }, []];
  if (spec.module !== undefined)
    return [{ kind: "module", name: checkText("module", spec.module), code: NOTHING }, []];
  if (spec.program !== undefined)
    return [{ kind: "path", name: checkText("program", spec.program), code: NOTHING }, []];
  const script = spec.script;
  if (typeof script === "string" || script instanceof URL) return localScript(localPath(script));
  checkKeys("script", script, SCRIPT);
  const name = checkText("script.name", script.name);
  return [{ kind: "file", name, code: checkBytes("script.text", script.text) }, []];
}

async function localScript(path: string): Promise<[Program, PlannedFile[]]> {
  const status = await stat(path);
  if (status.isDirectory()) {
    const name = basename(resolve(path));
    return [{ kind: "path", name, code: NOTHING }, await planFolder(path, name)];
  }
  if (status.size > messageBytesMax)
    throw new InvalidArgumentError(`script: '${path}' has ${status.size} bytes`);
  return [{ kind: "file", name: basename(path), code: await readFile(path) }, []];
}

// Short input, and that of a detached task, is part of the request; the rest follows later.
function splitStdin(spec: TaskSpec): [Uint8Array, Later] {
  const keepOpen = spec.stdinOpen ?? false;
  const { stdin } = spec;
  if (stdin === undefined) return [NOTHING, { stdin: undefined, keepOpen }];
  const whole = typeof stdin === "string" || stdin instanceof Uint8Array;
  const fed =
    typeof stdin === "object" &&
    stdin !== null &&
    (Symbol.asyncIterator in stdin || Symbol.iterator in stdin);
  if (!whole && !fed)
    throw new InvalidArgumentError("stdin is neither text, bytes nor a stream of them");
  if (spec.detach !== undefined && !whole)
    throw new InvalidArgumentError("the stdin of a detached task must be a string or bytes", {
      advice: "It is part of the request, because the task outlives the connection.",
    });
  if (whole) {
    const bytes = checkBytes("stdin", stdin);
    if (bytes.byteLength <= chunkBytesMax || spec.detach !== undefined)
      return [bytes, { stdin: undefined, keepOpen }];
    return [NOTHING, { stdin: [bytes], keepOpen }];
  }
  return [NOTHING, { stdin, keepOpen }];
}

// Reads files into the request while there is room; the largest files become blobs.
async function fit(files: readonly PlannedFile[], room: number): Promise<void> {
  const inline = files.filter((file) => file.blob === undefined);
  let bytes = 0;
  for (const file of files)
    bytes += fileBytes(file.path, file.blob === undefined ? file.sizeBytes : 0);
  inline.sort((a, b) => a.sizeBytes - b.sizeBytes);
  while (bytes > room) {
    const largest = inline.pop();
    if (largest === undefined) break; // the names alone are too large: the size check reports it
    bytes -= largest.sizeBytes;
    largest.large = true;
  }
  for (const file of inline)
    if (file.local !== undefined) file.data = await readPlanned(file.local, file.sizeBytes);
}
