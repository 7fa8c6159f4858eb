// A connection to the daemon, and its calls.

import { connect as connectSocket } from "node:net";
import type { Socket } from "node:net";

import { call, settled } from "./calls.js";
import type { Answer } from "./calls.js";
import { blobInfoFrom, serverInfoFrom, taskInfoFrom, templateInfoFrom } from "./convert.js";
import { withDeadline, within } from "./deadline.js";
import type { CallOptions } from "./deadline.js";
import { InvalidArgumentError, PermissionDeniedError, UnavailableError } from "./errors.js";
import { checkNotLost, sha256Of } from "./files.js";
import type { BlobRef, UploadSource } from "./files.js";
import { messageBytesMax, protocolVersion } from "./generated/constants.js";
import * as schema from "./generated/mayfly.js";
import { OutputStream, Sink } from "./output.js";
import type { OutputHandlers } from "./output.js";
import { prepare } from "./prepare.js";
import { TaskResult } from "./result.js";
import type { BlobInfo, OutFile, ServerInfo, TaskInfo, TemplateInfo } from "./result.js";
import { RpcConnection, RpcError } from "./rpc.js";
import { checkSize, put } from "./request.js";
import type { TaskSpec } from "./spec.js";
import { Task } from "./task.js";
import { upload } from "./upload.js";

export const DEFAULT_SOCKET = "/run/mayfly/default.sock";

export interface ConnectOptions extends CallOptions {
  /** The daemon's socket; else $MAYFLY_SOCKET, else /run/mayfly/default.sock. */
  socket?: string | undefined;
  /** Free text for the daemon's log. */
  clientName?: string | undefined;
  /** Time limit of every call except `wait`, `run` and stdin. 30,000 by default. */
  callTimeoutMs?: number | undefined;
}

export interface SubmitOptions extends CallOptions, OutputHandlers {
  /** Delivers the output live as `Task.output`; else it is captured into the result. */
  stream?: boolean | undefined;
}

/** A timeout or an abort cancels the task. */
export interface RunOptions extends CallOptions, OutputHandlers {
  /** Throw TaskFailedError unless the verdict is `succeeded`. */
  check?: boolean | undefined;
  /** Save the task's files of /task/out below this folder; see `Task.saveFiles`. */
  out?: string | undefined;
}

/** Connects to the daemon. */
export async function connect(options: ConnectOptions | string = {}): Promise<Client> {
  return Client.connect(typeof options === "string" ? { socket: options } : options);
}

/**
 * A connection. Calls may be made at any time, many at once. Closing it ends its tasks, except
 * detached ones.
 */
export class Client implements AsyncDisposable {
  /** The daemon's answer when the connection was made. */
  readonly server: ServerInfo;
  /** Resolves when the connection has ended, for any reason. */
  readonly closed: Promise<void>;

  /** @internal */
  static async connect(options: ConnectOptions): Promise<Client> {
    const path = options.socket ?? (process.env["MAYFLY_SOCKET"] || DEFAULT_SOCKET);
    const callTimeoutMs = options.callTimeoutMs ?? 30_000;
    const patience = { signal: options.signal, timeoutMs: options.timeoutMs ?? callTimeoutMs };
    return withDeadline("connect", patience, async (signal) => {
      const socket = await openSocket(path, signal);
      let over: () => void = () => {};
      const closed = new Promise<void>((resolve) => (over = resolve));
      const rpc = new RpcConnection(socket, messageBytesMax, over);
      try {
        const mayfly = rpc.bootstrap(schema.Mayfly);
        const hello = () =>
          mayfly.hello((params) => {
            params.client = options.clientName ?? "typescript";
            params.protocol = protocolVersion;
          });
        const server = serverInfoFrom((await call("connect", hello(), { signal })).info);
        keepAlive(server.bounds.connectionIdleMs, hello, closed);
        return new Client(rpc, mayfly, server, callTimeoutMs, closed);
      } catch (error) {
        rpc.end(new RpcError("disconnected", "this client gave up"));
        throw error;
      }
    });
  }

  private constructor(
    private readonly rpc: RpcConnection,
    private readonly mayfly: schema.Mayfly$Client,
    server: ServerInfo,
    private readonly callTimeoutMs: number,
    closed: Promise<void>,
  ) {
    this.server = server;
    this.closed = closed;
  }

  get connected(): boolean {
    return this.rpc.ended === undefined;
  }

  /** Runs a task and gives its result. With `collect`, the files in it have their bytes;
   * throws UnavailableError (retryable) if Mayfly lost files. */
  async run(spec: TaskSpec, options: RunOptions = {}): Promise<TaskResult> {
    return withDeadline("run", options, async (signal) => {
      const collect = spec.collect === true || options.out !== undefined;
      const task = await this.submit(
        { ...spec, collect },
        { signal, onOutput: options.onOutput, onStarted: options.onStarted },
      );
      let result: TaskResult;
      try {
        result = await task.wait({ signal });
        if (collect)
          result = new TaskResult({
            ...result,
            outFiles:
              options.out === undefined
                ? await readAll(task, result, signal)
                : await task.saveFiles(options.out, { signal }),
          });
      } finally {
        // Not awaited: a daemon that hangs would hide the exception thrown here.
        if (task.detached) task.release();
        else task.close().catch(() => {});
      }
      return options.check === true ? result.check() : result;
    });
  }

  /** Submits a task: the daemon has checked and queued it. */
  async submit(spec: TaskSpec, options: SubmitOptions = {}): Promise<Task> {
    const live = checkOutput(spec, options);
    return withDeadline("submit", options, async (signal) => {
      const [prepared, later] = await prepare(spec, (file) =>
        this.upload(file.local === undefined ? (file.data ?? "") : { path: file.local }, {
          signal,
        }),
      );
      const bytes = checkSize(prepared);
      signal.throwIfAborted();

      const output = options.stream === true ? OutputStream.make() : undefined;
      const sink = live ? new Sink(options, output) : undefined;
      const made = settled(
        "submit",
        this.mayfly.submit((params) => {
          put(params, prepared, bytes);
          if (sink !== undefined) params.output = sink.client();
        }),
      ).then((answer) => {
        const task = Task.make({
          callTimeoutMs: this.callTimeoutMs,
          remote: answer.task,
          id: answer.id,
          detached: prepared.leaseMs > 0,
          existing: answer.existing,
          collect: prepared.collect,
          output,
        });
        sink?.onFailure((error) => task.fail(error));
        output?.onLeave(() => void task.cancel().catch(() => {}));
        if (later.stdin !== undefined) void task.pump(later.stdin, later.keepOpen);
        return task;
      });
      try {
        return await within("submit", made, { signal, timeoutMs: this.callTimeoutMs });
      } catch (error) {
        // The caller gave up: drop the task if the daemon still made it.
        made.then((late) => late[Symbol.asyncDispose]()).catch(() => {});
        throw error;
      }
    });
  }

  /**
   * A detached task of this user, by the key that it was submitted with, or by its id. `close`
   * forgets it for every connection.
   */
  async find(
    by: { key: string } | { id: number | bigint },
    options: CallOptions = {},
  ): Promise<Task> {
    const answer = await call(
      "find",
      this.mayfly.find((params) => {
        if ("key" in by) params.key = by.key;
        else params.id = BigInt(by.id);
      }),
      this.patience(options),
    );
    return Task.make({
      callTimeoutMs: this.callTimeoutMs,
      remote: answer.task,
      id: answer.id,
      detached: true,
      existing: true,
      collect: true,
      output: undefined,
    });
  }

  /** The templates that tasks can name. */
  async templates(options: CallOptions = {}): Promise<TemplateInfo[]> {
    const answer = await call("templates", this.mayfly.templates(), this.patience(options));
    return answer.templates.toArray().map(templateInfoFrom);
  }

  /** The queued, running and ending tasks of the asking user; for root, of every user. */
  async tasks(options: CallOptions = {}): Promise<TaskInfo[]> {
    const answer = await call("tasks", this.mayfly.tasks(), this.patience(options));
    return answer.tasks.toArray().map(taskInfoFrom);
  }

  /**
   * Ends a task of the asking user, from any connection, as `cancelled`; root may end any user's.
   * Returns when the end is decided.
   */
  async kill(id: number | bigint, options: CallOptions = {}): Promise<void> {
    const wanted = BigInt(id);
    await call(
      "kill",
      this.mayfly.kill((params) => (params.id = wanted)),
      this.patience(options),
    );
  }

  /**
   * Stores bytes that any number of this user's tasks can take as an input file: `{ blob }`. Bytes
   * that the daemon already has are not sent again.
   */
  async upload(source: UploadSource, options: CallOptions = {}): Promise<BlobRef> {
    return withDeadline("upload", options, (signal) =>
      upload(this.mayfly, source, { signal, timeoutMs: this.callTimeoutMs }),
    );
  }

  /** This user's complete blobs. */
  async blobs(options: CallOptions = {}): Promise<BlobInfo[]> {
    const answer = await call("blobs", this.mayfly.blobs(), this.patience(options));
    return answer.blobs.toArray().map(blobInfoFrom);
  }

  /** Removes a blob. Tasks that already name it keep it. */
  async removeBlob(blob: BlobRef | string, options: CallOptions = {}): Promise<void> {
    const sha256 = sha256Of(blob);
    await call(
      "removeBlob",
      this.mayfly.removeBlob((params) => params._initSha256(sha256.byteLength).copyBuffer(sha256)),
      this.patience(options),
    );
  }

  /** Ends the connection and its tasks, except detached ones. Harmless when repeated. */
  async close(): Promise<void> {
    this.rpc.end(new RpcError("disconnected", "this client was closed"));
    await this.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private patience(options: CallOptions): CallOptions {
    return {
      signal: options.signal,
      timeoutMs: options.timeoutMs ?? this.callTimeoutMs,
    };
  }
}

// Whether the output is sent live.
function checkOutput(spec: TaskSpec, options: SubmitOptions): boolean {
  const stream = options.stream === true;
  if (stream && options.onOutput !== undefined)
    throw new InvalidArgumentError(
      "submit: the output goes to `stream` or to `onOutput`, not both",
    );
  const live = stream || options.onOutput !== undefined;
  if (options.onStarted !== undefined && !live)
    throw new InvalidArgumentError("submit: `onStarted` needs live output", {
      advice: "Give `onOutput` or `stream` too.",
    });
  if (live && spec.detach !== undefined)
    throw new InvalidArgumentError("submit: the output of a detached task is captured", {
      advice: "Leave out `stream` and `onOutput`.",
    });
  return live;
}

async function readAll(
  task: Task,
  result: TaskResult,
  signal: AbortSignal,
): Promise<OutFile[]> {
  checkNotLost(result);
  const all: OutFile[] = [];
  for (const file of result.outFiles)
    all.push(file.skipped === "" ? { ...file, data: await task.readFile(file, { signal }) } : file);
  return all;
}

// Sends calls on an idle connection, which the daemon would otherwise close. This alone does not
// keep the process alive.
function keepAlive(idleMs: number, say: () => Answer<unknown>, closed: Promise<void>): void {
  if (idleMs === 0) return;
  const timer = setInterval(
    () =>
      void say()
        .promise()
        .catch(() => {}),
    idleMs / 3,
  );
  timer.unref();
  void closed.then(() => clearInterval(timer));
}

function openSocket(path: string, signal: AbortSignal): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket({ path });
    const onAbort = (): void => {
      socket.destroy();
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    const settle = (): void => {
      signal.removeEventListener("abort", onAbort);
      socket.removeAllListeners();
    };
    socket.once("connect", () => {
      settle();
      resolve(socket);
    });
    socket.once("error", (error: NodeJS.ErrnoException) => {
      settle();
      reject(connectError(path, error));
    });
  });
}

function connectError(path: string, error: NodeJS.ErrnoException): Error {
  if (error.code === "EACCES" || error.code === "EPERM")
    return new PermissionDeniedError(`connect: this user may not open '${path}'`, {
      advice:
        "Run it as root, or let the user in: `uids_allowed` and `gids_allowed` in the daemon's settings.",
      cause: error,
    });
  if (error.code === "ENOENT" || error.code === "ECONNREFUSED" || error.code === "ENOTSOCK")
    return new UnavailableError(`connect: no daemon answers at '${path}' (${error.code})`, {
      advice: "Start mayflyd, or name its socket: connect({ socket }) or MAYFLY_SOCKET.",
      retryable: true,
      cause: error,
    });
  return new UnavailableError(`connect: '${path}': ${error.message}`, { cause: error });
}
