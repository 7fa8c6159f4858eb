// The schema's structs to plain data.

import type * as schema from "./generated/mayfly.js";
import { TaskResult } from "./result.js";
import type {
  BlobInfo,
  DetachedTask,
  Limits,
  OutFile,
  Phases,
  Receipt,
  ServerInfo,
  TaskInfo,
  TemplateInfo,
  Usage,
  Verdict,
} from "./result.js";

// In the schema's order.
const VERDICTS: readonly Verdict[] = [
  "succeeded",
  "failed",
  "signaled",
  "wallTime",
  "cpuTime",
  "memory",
  "processes",
  "output",
  "disk",
  "cancelled",
  "clientGone",
  "daemonStopping",
  "internal",
  "queueTime",
];

/** Makes bytes printable: control characters and bytes that are not UTF-8 become \xNN. */
export function printable(bytes: Uint8Array): string {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return Array.from(bytes, (b) =>
      b < 0x20 || b > 0x7e ? hexByte(b) : String.fromCharCode(b),
    ).join("");
  }
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (char) =>
    Array.from(new TextEncoder().encode(char), hexByte).join(""),
  );
}

const hexByte = (byte: number): string => `\\x${byte.toString(16).padStart(2, "0")}`;

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

// Copied, so that its message, which may be megabytes large, can be freed.
const copy = (data: { toUint8Array(): Uint8Array }): Uint8Array => data.toUint8Array().slice();

function limitsFrom(l: schema.Limits): Limits {
  return {
    cpuMilli: l.cpuMilli,
    cpuTimeMs: Number(l.cpuTimeMs),
    wallTimeMs: Number(l.wallTimeMs),
    memoryBytes: Number(l.memoryBytes),
    processes: l.processes,
    openFiles: l.openFiles,
    fileSizeBytes: Number(l.fileSizeBytes),
    diskBytes: Number(l.diskBytes),
    diskInodes: Number(l.diskInodes),
    outputBytes: Number(l.outputBytes),
    inputBytes: Number(l.inputBytes),
    outFilesBytes: Number(l.outFilesBytes),
    outFiles: l.outFiles,
    queueTimeMs: Number(l.queueTimeMs),
    graceMs: Number(l.graceMs),
  };
}

function usageFrom(u: schema.Usage): Usage {
  return {
    wallNs: Number(u.wallNs),
    userCpuNs: Number(u.userCpuNs),
    systemCpuNs: Number(u.systemCpuNs),
    memoryPeakBytes: Number(u.memoryPeakBytes),
    processesPeak: u.processesPeak,
    stdoutBytes: Number(u.stdoutBytes),
    stderrBytes: Number(u.stderrBytes),
    diskBytes: Number(u.diskBytes),
    diskInodes: Number(u.diskInodes),
    freshRuntime: u.freshRuntime,
  };
}

function phasesFrom(p: schema.Phases): Phases {
  return {
    queuedNs: p.queuedNs,
    boxNs: p.boxNs,
    boxReadyNs: p.boxReadyNs,
    cloneNs: p.cloneNs,
    claimedNs: p.claimedNs,
    startedNs: p.startedNs,
    firstByteNs: p.firstByteNs,
    exitedNs: p.exitedNs,
    reapedNs: p.reapedNs,
    receiptNs: p.receiptNs,
  };
}

function receiptFrom(r: schema.Receipt): Receipt {
  return {
    box: r.box,
    complete: r.complete,
    reapedNs: r.reapedNs,
    unpopulatedNs: r.unpopulatedNs,
    fdsClosedNs: r.fdsClosedNs,
    cgroupsGoneNs: r.cgroupsGoneNs,
    uidFreeNs: r.uidFreeNs,
    missing: r.missing,
    revokedNs: r.revokedNs,
    brokerClosedNs: r.brokerClosedNs,
    note: r.note,
  };
}

function fileFrom(file: schema.OutFile, index: number): OutFile {
  const path = copy(file.path);
  return {
    index,
    name: printable(path),
    path,
    sizeBytes: Number(file.sizeBytes),
    mode: file.mode,
    skipped: file.skipped,
  };
}

export function resultFrom(r: schema.TaskResult): TaskResult {
  const verdict = VERDICTS[r.verdict] ?? "unknown";
  return new TaskResult({
    id: r.id,
    template: r.template,
    verdict,
    exitCode:
      verdict === "succeeded" || verdict === "failed" || (r.inGrace && r.signal === 0)
        ? r.exitCode
        : null,
    signal: verdict === "signaled" || (r.inGrace && r.signal !== 0) ? r.signal : null,
    inGrace: r.inGrace,
    reason: r.reason,
    capValue: r.capValue === 0n ? null : Number(r.capValue),
    limits: limitsFrom(r.limits),
    usage: usageFrom(r.usage),
    phases: phasesFrom(r.phases),
    receipt: receiptFrom(r.receipt),
    stdoutBytes: copy(r.stdout),
    stderrBytes: copy(r.stderr),
    stdoutTruncated: r.stdoutTruncated,
    stderrTruncated: r.stderrTruncated,
    outFiles: r.outFiles.toArray().map(fileFrom),
    outFilesNote: r.outFilesNote,
    outFilesLost: r.outFilesLost,
  });
}

export function taskInfoFrom(t: schema.TaskInfo): TaskInfo {
  return {
    id: t.id,
    template: t.template,
    state: t.state,
    queuedNs: t.queuedNs,
    startedNs: t.startedNs,
    nowNs: t.nowNs,
    pidHost: t.pidHost,
    yours: t.yours,
  };
}

export function detachedTaskFrom(d: schema.DetachedTask): DetachedTask {
  return { task: taskInfoFrom(d.task), key: d.key, leaseLeftMs: d.leaseLeftMs };
}

export function templateInfoFrom(t: schema.TemplateInfo): TemplateInfo {
  return {
    name: t.name,
    description: t.description,
    mechanism: t.mechanism,
    state: t.state,
    stateText: t.stateText,
    imageDigest: t.imageDigest,
    defaults: limitsFrom(t.defaults),
    maximum: limitsFrom(t.maximum),
    boxes: t.boxes,
    parked: t.parked,
    stocked: t.stocked,
    parkedTarget: t.parkedTarget,
    stockedTarget: t.stockedTarget,
    making: t.making,
    waiting: t.waiting,
    zygotes: t.zygotes,
    renewals: t.renewals,
    hits: t.hits,
    misses: t.misses,
  };
}

export function blobInfoFrom(b: schema.BlobInfo): BlobInfo {
  return {
    sha256: hex(b.sha256.toUint8Array()),
    sizeBytes: Number(b.sizeBytes),
    expiresMs: b.expiresMs,
  };
}

export function serverInfoFrom(s: schema.ServerInfo): ServerInfo {
  const b = s.bounds;
  return {
    version: s.version,
    protocol: s.protocol,
    instance: s.instance,
    bounds: {
      connectionsMax: b.connectionsMax,
      tasksPerConnectionMax: b.tasksPerConnectionMax,
      tasksMax: b.tasksMax,
      callsPerConnectionMax: b.callsPerConnectionMax,
      messageBytesMax: b.messageBytesMax,
      inFlightBytesPerConnectionMax: Number(b.inFlightBytesPerConnectionMax),
      blobBytesMax: Number(b.blobBytesMax),
      blobStoreBytesMax: Number(b.blobStoreBytesMax),
      blobsPerUserMax: b.blobsPerUserMax,
      uploadsPerConnectionMax: b.uploadsPerConnectionMax,
      detachedPerUserMax: b.detachedPerUserMax,
      detachLeaseMsMax: b.detachLeaseMsMax,
      resultLeaseMs: b.resultLeaseMs,
      uploadIdleMs: b.uploadIdleMs,
      blobTtlMs: b.blobTtlMs,
      connectionIdleMs: b.connectionIdleMs,
      messageMsMax: b.messageMsMax,
      inFlightBytesMax: Number(b.inFlightBytesMax),
      outputHeldBytesMax: Number(b.outputHeldBytesMax),
      handlesPerConnectionMax: b.handlesPerConnectionMax,
      outFilesHeldBytesMax: Number(b.outFilesHeldBytesMax),
    },
  };
}
