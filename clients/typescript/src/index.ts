// Mayfly's TypeScript client: runs untrusted code, each task in a brand-new box.
//
//   await using mayfly = await connect();
//   const result = await mayfly.run({ code: "print(6*7)" });
//   console.log(result.verdict, result.stdout);

export { Client, connect, DEFAULT_SOCKET } from "./client.js";
export type { ConnectOptions, RunOptions, SubmitOptions } from "./client.js";
export type { CallOptions } from "./deadline.js";
export * from "./errors.js";
export type { BlobRef, FileSource, UploadSource } from "./files.js";
export { OutputStream } from "./output.js";
export type { OutputChunk, OutputHandlers, StreamName } from "./output.js";
export { TaskResult } from "./result.js";
export type {
  BlobInfo,
  Bounds,
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
export type { Code, Detach, LimitWishes, Script, StdinSource, TaskSpec } from "./spec.js";
export { Task } from "./task.js";
export { ToolError } from "./tools.js";
export type { Tool, ToolFunction } from "./tools.js";
export type { Cores, Duration, Size } from "./units.js";
