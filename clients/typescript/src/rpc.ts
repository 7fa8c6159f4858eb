// The connection: capnp-es's RPC over a unix socket, with its gaps filled.
//
// capnp-es 0.0.16 has messages, calls both ways and pipelining. A client of a daemon needs more,
// and some of its code is wrong; each point is fixed here, and nowhere else:
//
//   transport      there is none for a socket, and its own (DeferredTransport) loses a message
//                  that arrives during another's handling: messages are handed in directly
//   end            a lost connection leaves every call waiting for ever: calls are rejected
//   exceptions     their type is dropped (disconnected, unimplemented...): it is kept
//   Release in     is not known, so exported sinks pile up: they are released
//   Release out    is never sent, so the daemon keeps its objects till the connection ends:
//                  close() of an imported object sends it
//   Finish         released exports by a wrong number for our calls: it releases none
//   unknown calls  get an answer that ends the connection: they get an exception
//   rejections     of unreferenced promises end the process: they are marked as handled
//   older structs  in results lack fields, or are null, and reading throws: they grow (and
//                  `resize`, which does that, loses capabilities: they are restored)
//   copies         of a whole message at each growth: `reserve` makes room in advance
//
// This uses capnp-es's internals, so package.json pins its version.

import { Conn, Message, ObjectSize, PointerType, Registry, utils } from "capnp-es";
import type { Client as Capability, Method, Pointer, Struct } from "capnp-es";

export type { Pointer };
import {
  Exception_Type as ExceptionType,
  Message as RpcMessage,
  Return_Which as ReturnKind,
} from "capnp-es/capnp/rpc";
import type { Exception } from "capnp-es/capnp/rpc";
import type { Socket } from "node:net";

import { FrameReader } from "./frames.js";

export type RpcErrorKind = "failed" | "overloaded" | "disconnected" | "unimplemented";

/** An exception of Cap'n Proto's own. */
export class RpcError extends Error {
  constructor(
    readonly kind: RpcErrorKind,
    reason: string,
  ) {
    // Removes a prefix of the remote text that means nothing to people.
    super(reason.replace(/^remote exception: /, ""));
  }
}

const KINDS: readonly RpcErrorKind[] = ["failed", "overloaded", "disconnected", "unimplemented"];

function errorFrom(exception: Exception): RpcError {
  return new RpcError(KINDS[exception.type] ?? "failed", exception.reason);
}

const newMessage = (): RpcMessage => new Message().initRoot(RpcMessage);

const NEVER = new Promise<never>(() => {});

export class RpcConnection extends Conn {
  private readonly socket: Socket;
  private readonly frames: FrameReader;
  private corked = false;
  private reason: RpcError | undefined;

  /** Calls `onEnd` once, when no more calls are possible. */
  constructor(
    socket: Socket,
    messageBytesMax: number,
    private readonly onEnd: () => void,
  ) {
    super(
      { sendMessage: () => {}, recvMessage: () => NEVER, close: () => {} },
      // Objects are released by close(), not by the garbage collector.
      () => {},
    );
    this.socket = socket;
    this.frames = new FrameReader(messageBytesMax);
    socket.on("data", (chunk: Buffer) => this.receive(chunk));
    socket.on("error", (error) => this.end(new RpcError("disconnected", error.message)));
    socket.on("close", () => this.end(new RpcError("disconnected", "the daemon closed it")));
  }

  /** Why the connection has ended; undefined while it is open. */
  get ended(): RpcError | undefined {
    return this.reason;
  }

  end(reason: RpcError): void {
    if (this.reason !== undefined) return;
    this.reason = reason;
    for (const question of this.questions) if (question !== null) settle(question, reason);
    this.questions = [];
    this.answers = {};
    this.exports = [];
    this.imports = {};
    this.socket.destroy();
    this.onEnd();
  }

  private receive(chunk: Buffer): void {
    try {
      for (const frame of this.frames.push(chunk)) {
        if (this.reason !== undefined) return;
        this.handleMessage(new Message(frame, false).getRoot(RpcMessage));
      }
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      this.end(new RpcError("failed", `the daemon sent an invalid message: ${text}`));
    }
  }

  // Messages come from the socket's events, not from a loop that asks for them.
  override startWork(): void {}

  override sendMessage(message: RpcMessage): void {
    if (this.reason !== undefined) return;
    if (!this.corked) {
      // All messages of one turn of the event loop take one system call.
      this.corked = true;
      this.socket.cork();
      process.nextTick(() => {
        this.corked = false;
        this.socket.uncork();
      });
    }
    this.socket.write(new Uint8Array(message.segment.message.toArrayBuffer()));
  }

  override shutdown(error?: Error): void {
    this.end(
      error instanceof RpcError ? error : new RpcError("disconnected", error?.message ?? ""),
    );
  }

  override newQuestion<P extends Struct, R extends Struct>(
    method?: Method<P, R>,
  ): ReturnType<typeof Conn.prototype.newQuestion<P, R>> {
    const question = super.newQuestion<P, R>(method);
    question.deferred.promise.catch(() => {});
    if (this.reason !== undefined) settle(question, this.reason);
    return question;
  }

  override insertAnswer(id: number): ReturnType<typeof Conn.prototype.insertAnswer> {
    const answer = super.insertAnswer(id);
    answer?.deferred.promise.catch(() => {});
    return answer;
  }

  override handleMessage(message: RpcMessage): void {
    switch (message.which()) {
      case RpcMessage.ABORT:
        return this.end(errorFrom(message.abort));
      case RpcMessage.RELEASE:
        return this.releaseExport(message.release.id, message.release.referenceCount);
      case RpcMessage.RETURN:
      case RpcMessage.CALL:
      case RpcMessage.FINISH:
      case RpcMessage.BOOTSTRAP:
      case RpcMessage.UNIMPLEMENTED:
        return super.handleMessage(message);
      default: {
        const answer = newMessage();
        answer.unimplemented = message;
        this.sendMessage(answer);
      }
    }
  }

  override handleReturnMessage(message: RpcMessage): void {
    const answer = message.return;
    const question = this.popQuestion(answer.answerId);
    if (!question) throw new Error(`an answer to call ${answer.answerId}, which was not made`);
    let keep = false;
    switch (answer.which()) {
      case ReturnKind.RESULTS: {
        keep = true;
        this.populateMessageCapTable(answer.results);
        const { content } = answer.results;
        if (question.method !== undefined) {
          const { ResultsClass } = question.method;
          grow(new ResultsClass(content.segment, content.byteOffset), ResultsClass._capnp.size);
        }
        question.fulfill(content);
        break;
      }
      case ReturnKind.EXCEPTION:
        question.reject(errorFrom(answer.exception));
        break;
      default:
        question.reject(new RpcError("failed", `an answer of an unknown kind: ${answer.which()}`));
    }
    const finish = newMessage();
    const body = finish._initFinish();
    body.questionId = answer.answerId;
    body.releaseResultCaps = !keep;
    this.sendMessage(finish);
  }

  override handleCallMessage(message: RpcMessage): void {
    const { call } = message;
    const known = Registry.lookup(call.interfaceId)?.methods[call.methodId];
    if (known !== undefined) return super.handleCallMessage(message);
    const answer = newMessage();
    const body = answer._initReturn();
    body.answerId = call.questionId;
    body.releaseParamCaps = true;
    const exception = body._initException();
    exception.type = ExceptionType.UNIMPLEMENTED;
    exception.reason = `this client does not know method ${call.methodId}`;
    this.sendMessage(answer);
  }

  // This side's answers hold no capability that could be released.
  override handleFinishMessage(message: RpcMessage): void {
    this.popAnswer(message.finish.questionId);
  }

  override addImport(id: number): Capability {
    const reference = super.addImport(id);
    const entry = this.imports[id];
    if (entry !== undefined && entry.refs === 1)
      entry.rc._client.close = () => {
        delete this.imports[id];
        const release = newMessage();
        const body = release._initRelease();
        body.id = id;
        body.referenceCount = entry.refs;
        this.sendMessage(release);
      };
    return reference;
  }
}

/** The capability that an element of a list of interfaces points to. */
export const clientOrNull = (pointer: Pointer): Capability =>
  utils.getInterfaceClientOrNull(pointer);

function settle(question: { state: number; reject(error: Error): void }, reason: RpcError): void {
  const IN_PROGRESS = 0;
  if (question.state === IN_PROGRESS) question.reject(reason);
}

// An older daemon's structs lack the newer fields, and an empty answer is null: makes room for the
// defaults.
function grow(struct: Struct, want: ObjectSize): void {
  const have = utils.getTargetStructSize(struct);
  if (have.dataByteLength >= want.dataByteLength && have.pointerLength >= want.pointerLength)
    return;
  const capabilities: [index: number, id: number][] = [];
  for (let i = 0; i < have.pointerLength; ++i) {
    const pointer = utils.getPointer(i, struct);
    if (utils.getPointerType(pointer) === PointerType.OTHER)
      capabilities.push([i, utils.getCapabilityId(pointer)]);
  }
  utils.resize(
    new ObjectSize(
      Math.max(have.dataByteLength, want.dataByteLength),
      Math.max(have.pointerLength, want.pointerLength),
    ),
    struct,
  );
  for (const [i, id] of capabilities) utils.setInterfacePointer(id, utils.getPointer(i, struct));
}

/**
 * Makes room for `bytes` more in a message before it is filled: capnp-es copies the whole message
 * each time it grows, and grows it by the minimum.
 */
export function reserve(struct: Struct, bytes: number): void {
  const { segment } = struct;
  const room = new ArrayBuffer((segment.byteLength + bytes + 7) & ~7);
  if (room.byteLength <= segment.buffer.byteLength) return;
  new Uint8Array(room).set(new Uint8Array(segment.buffer, 0, segment.byteLength));
  segment.replaceBuffer(room);
}
