// A connection to the daemon, and its calls.

import { connect as connectSocket } from "node:net";
import type { Socket } from "node:net";

import { call, settled } from "./calls.js";
import type { Answer } from "./calls.js";
import { blobInfoFrom, detachedTaskFrom, serverInfoFrom } from "./convert.js";
import { taskInfoFrom, templateInfoFrom } from "./convert.js";
import { CALL_HINTS, CALL_OPTIONS, parseDeadline, patienceOf } from "./deadline.js";
import { readPatience, withDeadline, within } from "./deadline.js";
import type { CallOptions, Patience } from "./deadline.js";
import { InvalidArgumentError, NotFoundError } from "./errors.js";
import { PermissionDeniedError, UnavailableError } from "./errors.js";
import { UnsupportedError } from "./errors.js";
import { checkNotLost, sha256Of } from "./files.js";
import type { BlobRef, UploadSource } from "./files.js";
import { messageBytesMax, protocolVersion } from "./generated/constants.js";
import * as schema from "./generated/mayfly.js";
import { checkFlag, checkHandler, checkId, checkKeys } from "./keys.js";
import type { Hints, Keys } from "./keys.js";
import { OutputStream, Sink } from "./output.js";
import type { OutputHandlers } from "./output.js";
import { checkSpec, prepare } from "./prepare.js";
import type { Later } from "./prepare.js";
import { TaskResult } from "./result.js";
import type { BlobInfo, DetachedTask, OutFile, ServerInfo, TaskInfo, TemplateInfo } from "./result.js";
import { clientOrNull, RpcConnection, RpcError } from "./rpc.js";
import type { Pointer } from "./rpc.js";
import { checkSize, checkText, put } from "./request.js";
import type { Prepared } from "./request.js";
import { SPEC } from "./spec.js";
import type { TaskSpec } from "./spec.js";
import { Task } from "./task.js";
import { ToolBox } from "./tools.js";
import type { Duration } from "./units.js";
import { dropLost, SUBMITS_MAX, upload, uploadLarge } from "./upload.js";

export const DEFAULT_SOCKET = "/run/mayfly/default.sock";

export interface ConnectOptions extends CallOptions {
  /** The daemon's socket; else $MAYFLY_SOCKET, else /run/mayfly/default.sock. */
  socket?: string | undefined;
  /** Free text for the daemon's log. */
  clientName?: string | undefined;
  /** The deadline of every call except `wait`, `run` and stdin; "30s" by default; null: none. */
  callDeadline?: Duration | null | undefined;
}

export interface SubmitOptions extends CallOptions, OutputHandlers {
  /** Delivers the output live as `Task.output`; else it is captured into the result. */
  stream?: boolean | undefined;
}

/** A missed deadline or an abort cancels the task. */
export interface RunOptions extends CallOptions, OutputHandlers {
  /** Throw TaskFailedError unless the verdict is `succeeded`. */
  check?: boolean | undefined;
  /** Save the task's files of /task/out below this folder; see `Task.saveFiles`. */
  out?: string | undefined;
}

const HANDLERS: Keys<OutputHandlers> = { onStarted: true, onOutput: true };
const CONNECT: Keys<ConnectOptions> = {
  socket: true,
  clientName: true,
  callDeadline: true,
  ...CALL_OPTIONS,
};
const SUBMIT: Keys<SubmitOptions> = { stream: true, ...HANDLERS, ...CALL_OPTIONS };
const RUN: Keys<RunOptions> = { check: true, out: true, ...HANDLERS, ...CALL_OPTIONS };

const OF_SPEC = Object.keys(SPEC).map((key) => [key, `'${key}' is a key of the spec.`]);
const CONNECT_HINTS: Hints = {
  ...CALL_HINTS,
  callTimeoutMs: "It is `callDeadline`, like \"30s\".",
  name: "Did you mean 'clientName'?",
};
const SUBMIT_HINTS: Hints = {
  ...Object.fromEntries(OF_SPEC),
  ...CALL_HINTS,
  check: "'check' is an option of run.",
  out: "'out' is an option of run.",
};
const RUN_HINTS: Hints = {
  ...Object.fromEntries(OF_SPEC),
  ...CALL_HINTS,
  stream: "'stream' is an option of submit; run has 'onOutput'.",
};

const CALL_DEADLINE_MS = 30_000;
const GRANTS_PROTOCOL = 4; // an older daemon would ignore them

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
    checkKeys("the options of connect", options, CONNECT, CONNECT_HINTS);
    const { socket = process.env["MAYFLY_SOCKET"] || DEFAULT_SOCKET } = options;
    const { clientName = "typescript", callDeadline } = options;
    const path = checkText("socket", socket);
    checkText("clientName", clientName);
    const callDeadlineMs = parseDeadline("callDeadline", callDeadline, CALL_DEADLINE_MS);
    const patience = readPatience(options, callDeadlineMs);
    return withDeadline("connect", patience, async (signal) => {
      const socket = await openSocket(path, signal);
      let over: () => void = () => {};
      const closed = new Promise<void>((resolve) => (over = resolve));
      const rpc = new RpcConnection(socket, messageBytesMax, over);
      try {
        const mayfly = rpc.bootstrap(schema.Mayfly);
        const hello = () =>
          mayfly.hello((params) => {
            params.client = clientName;
            params.protocol = protocolVersion;
          });
        const server = serverInfoFrom((await call("connect", hello(), { signal })).info);
        keepAlive(server.bounds.connectionIdleMs, hello, closed);
        return new Client(rpc, mayfly, server, callDeadlineMs, closed);
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
    private readonly callDeadlineMs: number | undefined,
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
    const collected = checkSpec(spec);
    checkKeys("the options of run", options, RUN, RUN_HINTS);
    const live = checkOutput("run", spec, options, false);
    const { out } = options;
    if (out !== undefined) checkText("out", out);
    const collect = collected || out !== undefined;
    const check = checkFlag("check", options.check);
    return withDeadline("run", readPatience(options, undefined), async (signal) => {
      const sink = live ? new Sink(options, undefined) : undefined;
      const task = await this.start(spec, collect, sink, undefined, {
        signal,
        deadlineMs: this.callDeadlineMs,
      });
      let result: TaskResult;
      try {
        result = await task.wait({ signal });
        if (collect)
          result = new TaskResult({
            ...result,
            outFiles:
              out === undefined
                ? await readAll(task, result, signal)
                : await task.saveFiles(out, { signal }),
          });
      } finally {
        // Not awaited: a daemon that hangs would hide the exception thrown here.
        if (task.detached) task.release();
        else task.close().catch(() => {});
      }
      return check ? result.check() : result;
    });
  }

  /** Submits a task: the daemon has checked and queued it. */
  async submit(spec: TaskSpec, options: SubmitOptions = {}): Promise<Task> {
    const collect = checkSpec(spec);
    checkKeys("the options of submit", options, SUBMIT, SUBMIT_HINTS);
    const stream = checkFlag("stream", options.stream);
    const live = checkOutput("submit", spec, options, stream);
    const patience = readPatience(options, undefined);
    const deadlineMs = options.deadline === undefined ? this.callDeadlineMs : undefined;
    return withDeadline("submit", patience, (signal) => {
      const output = stream ? OutputStream.make() : undefined;
      const sink = live ? new Sink(options, output) : undefined;
      return this.start(spec, collect, sink, output, { signal, deadlineMs });
    });
  }

  // `patience` is that of each call.
  private async start(
    spec: TaskSpec,
    collect: boolean,
    sink: Sink | undefined,
    output: OutputStream | undefined,
    patience: Patience,
  ): Promise<Task> {
    const [prepared, later] = await prepare(spec, collect);
    const { grants, tools } = prepared;
    if (grants.length + tools.length > 0 && this.server.protocol < GRANTS_PROTOCOL)
      throw new UnsupportedError("submit: the daemon knows no grants and no tools", {
        advice: "Update the daemon, or leave out `grants` and `tools`.",
      });
    const bytes = checkSize(prepared);
    for (let left = SUBMITS_MAX - 1; ; --left) {
      await uploadLarge(this.mayfly, prepared, this.server.bounds.blobBytesMax, patience);
      patience.signal?.throwIfAborted();
      try {
        return await this.submitPrepared(prepared, bytes, later, sink, output, patience);
      } catch (error) {
        if (left === 0 || !(error instanceof NotFoundError)) throw error;
        if (!(await dropLost(this.mayfly, prepared, patience))) throw error;
      }
    }
  }

  private async submitPrepared(
    prepared: Prepared,
    bytes: number,
    later: Later,
    sink: Sink | undefined,
    output: OutputStream | undefined,
    patience: Patience,
  ): Promise<Task> {
    const { grants, tools } = prepared;
    const made = settled(
      "submit",
      this.mayfly.submit((params) => {
        put(params, prepared, bytes);
        if (sink !== undefined) params.output = sink.client();
        if (tools.length > 0) params.toolBox = new ToolBox(tools).client();
      }),
    ).then((answer) => {
      const task = Task.make({
        callDeadlineMs: this.callDeadlineMs,
        remote: answer.task,
        id: answer.id,
        detached: prepared.leaseMs > 0,
        existing: answer.existing,
        collect: prepared.collect,
        output,
        grants: grantClients(grants, answer),
      });
      sink?.onFailure((error) => task.fail(error));
      output?.onLeave(() => void task.cancel().catch(() => {}));
      if (later.stdin !== undefined) void task.pump(later.stdin, later.keepOpen);
      return task;
    });
    try {
      return await within("submit", made, patience);
    } catch (error) {
      // The caller gave up: drop the task if the daemon still made it.
      made.then((late) => late[Symbol.asyncDispose]()).catch(() => {});
      throw error;
    }
  }

  /**
   * A detached task of this user, by the key that it was submitted with, or by its id. `close`
   * forgets it for every connection.
   */
  async find(
    by: { key: string } | { id: number | bigint },
    options: CallOptions = {},
  ): Promise<Task> {
    checkKeys("find", by, { key: true, id: true });
    const { key, id } = by as { key?: string; id?: number | bigint };
    if ((key === undefined) === (id === undefined))
      throw new InvalidArgumentError("find: one of key and id is needed");
    const wanted = id === undefined ? checkText("find: key", key) : checkId("find", id);
    const answer = await call(
      "find",
      this.mayfly.find((params) => {
        if (typeof wanted === "string") params.key = wanted;
        else params.id = wanted;
      }),
      this.patience("find", options),
    );
    return Task.make({
      callDeadlineMs: this.callDeadlineMs,
      remote: answer.task,
      id: answer.id,
      detached: true,
      existing: true,
      collect: true,
      output: undefined,
      grants: new Map(),
    });
  }

  /** The templates that tasks can name. */
  async templates(options: CallOptions = {}): Promise<TemplateInfo[]> {
    const answer = await call(
      "templates",
      this.mayfly.templates(),
      this.patience("templates", options),
    );
    return answer.templates.toArray().map(templateInfoFrom);
  }

  /** The queued, running and ending tasks of the asking user; for root, of every user. */
  async tasks(options: CallOptions = {}): Promise<TaskInfo[]> {
    const answer = await call("tasks", this.mayfly.tasks(), this.patience("tasks", options));
    return answer.tasks.toArray().map(taskInfoFrom);
  }

  /** This user's detached tasks that are kept, ended ones too. Renews no lease. */
  async detached(options: CallOptions = {}): Promise<DetachedTask[]> {
    const patience = this.patience("detached", options);
    const answer = await call("detached", this.mayfly.detached(), patience);
    return answer.tasks.toArray().map(detachedTaskFrom);
  }

  /**
   * Ends a task of the asking user, from any connection, as `cancelled`; root may end any user's.
   * Returns when the end is decided.
   */
  async kill(id: number | bigint, options: CallOptions = {}): Promise<void> {
    const wanted = checkId("kill", id);
    await call(
      "kill",
      this.mayfly.kill((params) => (params.id = wanted)),
      this.patience("kill", options),
    );
  }

  /**
   * Stores bytes that any number of this user's tasks can take as an input file: `{ blob }`. Bytes
   * that the daemon already has are not sent again.
   */
  async upload(source: UploadSource, options: CallOptions = {}): Promise<BlobRef> {
    const patience = patienceOf("upload", options, undefined);
    const deadlineMs = options.deadline === undefined ? this.callDeadlineMs : undefined;
    return withDeadline("upload", patience, (signal) =>
      upload(this.mayfly, source, { signal, deadlineMs }),
    );
  }

  /** This user's complete blobs. */
  async blobs(options: CallOptions = {}): Promise<BlobInfo[]> {
    const answer = await call("blobs", this.mayfly.blobs(), this.patience("blobs", options));
    return answer.blobs.toArray().map(blobInfoFrom);
  }

  /** Removes a blob. Tasks that already name it keep it. */
  async removeBlob(blob: BlobRef | string, options: CallOptions = {}): Promise<void> {
    const sha256 = sha256Of(blob, "removeBlob");
    await call(
      "removeBlob",
      this.mayfly.removeBlob((params) => params._initSha256(sha256.byteLength).copyBuffer(sha256)),
      this.patience("removeBlob", options),
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

  private patience(what: string, options: CallOptions): Patience {
    return patienceOf(what, options, this.callDeadlineMs);
  }
}

// The daemon's objects for the task's grants, by name. capnp-es knows no typed list of interfaces.
function grantClients(
  wishes: readonly (readonly [name: string, narrowing: string])[],
  answer: schema.Mayfly_Submit$Results,
): Map<string, schema.Grant$Client> {
  const clients = new Map<string, schema.Grant$Client>();
  if (wishes.length === 0) return clients;
  const { grants } = answer;
  wishes.forEach(([name], i) => {
    if (i < grants.length)
      clients.set(name, new schema.Grant$Client(clientOrNull(grants.get(i) as unknown as Pointer)));
  });
  return clients;
}

// Whether the output is sent live.
function checkOutput(
  what: string,
  spec: TaskSpec,
  options: OutputHandlers,
  stream: boolean,
): boolean {
  checkHandler("onOutput", options.onOutput);
  checkHandler("onStarted", options.onStarted);
  if (stream && options.onOutput !== undefined)
    throw new InvalidArgumentError(
      `${what}: the output goes to \`stream\` or to \`onOutput\`, not both`,
    );
  const live = stream || options.onOutput !== undefined;
  if (options.onStarted !== undefined && !live)
    throw new InvalidArgumentError(`${what}: \`onStarted\` needs live output`, {
      advice: "Give `onOutput` or `stream` too.",
    });
  if (live && spec.detach !== undefined)
    throw new InvalidArgumentError(`${what}: the output of a detached task is captured`, {
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
