// Stand-ins on a unix socket: a daemon that gives the test's answers, a peer that sends raw bytes,
// and a proxy before the real daemon that can be cut.

import { once } from "node:events";
import { createConnection, createServer } from "node:net";
import type { Server, Socket } from "node:net";
import { join } from "node:path";
import type { TestContext } from "node:test";

import { Interface, Message, utils } from "capnp-es";
import type { Message as RpcMessage } from "capnp-es/capnp/rpc";

import { protocolVersion } from "../dist/generated/constants.js";
import * as schema from "../dist/generated/mayfly.js";
import { RpcConnection } from "../dist/rpc.js";
import { folder } from "./support.js";

const MESSAGE_BYTES_MAX = 8 << 20;

export interface Listener {
  path: string;
  /** The accepted connections, in order. */
  sockets: Socket[];
}

/** A socket that ends with the test; each connection to it goes to `serve`. */
export async function listen(t: TestContext, serve: (socket: Socket) => void): Promise<Listener> {
  const path = join(await folder(t), "sock");
  const sockets: Socket[] = [];
  const server: Server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  server.listen(path);
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return { path, sockets };
}

export type FakeMethods = Partial<schema.Mayfly$Server$Target>;

/** A task that answers with the given methods; `close` succeeds, the others fail. */
export function fakeTask(methods: Partial<schema.Task$Server$Target>): schema.Task$Client {
  const missing = (): Promise<void> => Promise.reject(new Error("not faked"));
  return new schema.Task$Server({
    wait: missing,
    cancel: missing,
    writeStdin: missing,
    closeStdin: missing,
    readFile: missing,
    close: () => Promise.resolve(),
    info: missing,
    ...methods,
  }).client();
}

// capnp-es's own answer to `bootstrap` has no capability in it.
class FakeConnection extends RpcConnection {
  override handleBootstrapMessage(message: RpcMessage): void {
    const holder = new Message();
    const main = new Interface(holder.getSegment(0), 0);
    utils.setInterfacePointer(holder.addCap(this.main ?? null), main);
    this.insertAnswer(message.bootstrap.questionId)?.fulfill(main);
  }
}

export interface Fake extends Listener {
  connections: RpcConnection[];
}

/** A daemon that answers with the given methods; by default `hello` succeeds. */
export async function fakeDaemon(t: TestContext, methods: FakeMethods): Promise<Fake> {
  const connections: RpcConnection[] = [];
  const missing = (): Promise<void> => Promise.reject(new Error("not faked"));
  const target: schema.Mayfly$Server$Target = {
    hello: (_params, results) => {
      results._initInfo().protocol = protocolVersion;
      return Promise.resolve();
    },
    templates: missing,
    submit: missing,
    tasks: missing,
    kill: missing,
    upload: missing,
    blobs: missing,
    removeBlob: missing,
    find: missing,
    detached: missing,
    ...methods,
  };
  const listener = await listen(t, (socket) => {
    const rpc = new FakeConnection(socket, MESSAGE_BYTES_MAX, () => {});
    rpc.initMain(schema.Mayfly, target);
    connections.push(rpc);
  });
  return { ...listener, connections };
}

/** A proxy before the real daemon: passes all bytes until the test destroys a socket. */
export function proxy(t: TestContext, daemon: string): Promise<Listener> {
  return listen(t, (socket) => {
    const far = createConnection({ path: daemon });
    far.on("error", () => socket.destroy());
    far.on("close", () => socket.destroy());
    socket.on("close", () => far.destroy());
    socket.pipe(far);
    far.pipe(socket);
  });
}
