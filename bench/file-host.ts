/**
 * One end of `bench files`, in a process of its own. One JSON object per line on standard input, one line of answer each; the end of
 * standard input stops it:
 *   {"listen": PATH, "seed", "other"}    a stream endpoint whose datagrams go over a local socket that never loses any; seeds make both ends' keys
 *   {"connect": PATH, "seed", "other"}   the other end of it
 *   {"send": bytes}                a stream of class bulk with so many bytes: {"seconds"} until the other end has read and closed it
 *   {"start": token | null, "folder": DIR, "name": NAME}   a node; without a token it founds a network: {"token"}
 *   {"share": path}                {"id", "seconds"}: hashed
 *   {"get": id, "from": NAME, "path": path}   {"seconds"} until the file is verified, synced and at its place
 *   {"cpu": true}                  {"seconds"} of processor time so far
 */
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { SeededRandom } from "../src/base/random.ts";
import { Identity } from "../src/crypto/identity.ts";
import { createNode, initNetwork, type WeftNode } from "../src/node/index.ts";
import type { FilesControl, TransferView } from "../src/api/messaging/files-control.ts";
import type { StreamEndpoint } from "../src/stream/api.ts";
import { createStreamEndpoint } from "../src/stream/endpoint.ts";
import { StreamClass } from "../src/stream/types.ts";

interface Request {
  readonly listen?: string;
  readonly connect?: string;
  readonly seed?: number;
  readonly other?: number;
  readonly send?: number;
  readonly start?: string | null;
  readonly folder?: string;
  readonly name?: string;
  readonly share?: string;
  readonly get?: string;
  readonly from?: string;
  readonly path?: string;
  readonly cpu?: boolean;
}

const PIECE_BYTES = 65_536;
let node: WeftNode | undefined;
let endpoint: StreamEndpoint | undefined;
let peerId = new Uint8Array(0);

/** Datagrams as records: 0 length u16 | 2 flags u8 | 3 zero | 4 aux u16 | 6 payload. Those of one turn leave in one write. */
const RECORD_BYTES = 6;
const SOCKET_BYTES = 1 << 20;

function bare(socket: Socket, seed: number, other: number): void {
  peerId = new Uint8Array(Identity.generate(new SeededRandom(other)).nodeId);
  let waiting: Buffer[] = [];
  const flush = (): void => {
    socket.write(Buffer.concat(waiting));
    waiting = [];
  };
  const made = createStreamEndpoint({
    identity: Identity.generate(new SeededRandom(seed)),
    random: new SeededRandom(seed + 1),
    clock: {
      now: () => ({ nowMs: performance.now() }),
      schedule: (atMs, action) => {
        const timer = setTimeout(action, Math.max(0, atMs - performance.now()));
        return () => clearTimeout(timer);
      },
    },
    send: (_peerId, flags, aux, payload) => {
      if (socket.writableLength > SOCKET_BYTES) return false;
      const record = Buffer.allocUnsafe(RECORD_BYTES + payload.length);
      record.writeUInt16LE(payload.length, 0);
      record[2] = flags;
      record[3] = 0;
      record.writeUInt16LE(aux, 4);
      record.set(payload, RECORD_BYTES);
      if (waiting.push(record) === 1) queueMicrotask(flush);
      return true;
    },
  });
  let rest: Buffer = Buffer.alloc(0);
  socket.on("data", (bytes: Buffer) => {
    const all = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    let at = 0;
    while (all.length - at >= RECORD_BYTES) {
      const end = at + RECORD_BYTES + all.readUInt16LE(at);
      if (end > all.length) break;
      made.handleDatagram(peerId, all[at + 2], all.readUInt16LE(at + 4), all.subarray(at + RECORD_BYTES, end));
      at = end;
    }
    rest = all.subarray(at);
  });
  made.serve("sink", (stream) => {
    stream.resume();
    stream.on("end", () => stream.end());
  });
  endpoint = made;
}

function listen(path: string, seed: number, other: number): Promise<object> {
  const server = createServer((socket) => bare(socket, seed, other));
  return new Promise((resolve) => server.listen(path, () => resolve({})));
}

async function send(bytes: number): Promise<object> {
  if (endpoint === undefined) throw new Error("no other end");
  const stream = await endpoint.open(peerId, { kind: "sink", class: StreamClass.BULK });
  stream.resume();
  const piece = Buffer.alloc(PIECE_BYTES, 7);
  const startedMs = performance.now();
  for (let sent = 0; sent < bytes; sent += piece.length) if (!stream.write(piece)) await once(stream, "drain");
  stream.end();
  await once(stream, "close");
  return { seconds: (performance.now() - startedMs) / 1_000 };
}

async function start({ start: token, folder = "", name = "" }: Request): Promise<object> {
  const stateDirectory = join(folder, name);
  const founds = token === null || token === undefined;
  if (founds) await initNetwork({ stateDirectory, network: "files", name });
  node = await createNode({
    stateDirectory,
    join: token ?? undefined,
    config: { tun: false, listen: ["127.0.0.1:0"], logLevel: "error", name },
  });
  return founds ? { token: (await node.control.invite({})).token } : {};
}

async function ended(begun: Promise<TransferView>): Promise<TransferView> {
  const { key } = await begun;
  for (;;) {
    const view = files().transfer(key);
    if (view.state === "done") return view;
    if (view.state === "failed") throw new Error(view.error ?? "it failed");
    await sleep(2);
  }
}

function files(): FilesControl {
  const found = node?.control.messaging?.files;
  if (found === undefined) throw new Error("no node");
  return found;
}

async function answer(request: Request): Promise<object> {
  const startedMs = performance.now();
  const seconds = (): number => (performance.now() - startedMs) / 1_000;
  const { seed = 0, other = 0 } = request;
  if (request.listen !== undefined) return listen(request.listen, seed, other);
  if (request.connect !== undefined) {
    const socket = connect(request.connect);
    await once(socket, "connect");
    bare(socket, seed, other);
    return {};
  }
  if (request.send !== undefined) return send(request.send);
  if (request.start !== undefined) return start(request);
  if (request.share !== undefined)
    return { id: (await ended(files().share(request.share, undefined))).id, seconds: seconds() };
  if (request.get !== undefined) {
    await ended(files().get({ id: request.get, from: [request.from ?? ""], path: request.path }));
    return { seconds: seconds() };
  }
  const { user, system } = process.cpuUsage();
  return { seconds: (user + system) / 1e6 };
}

for await (const line of createInterface({ input: process.stdin })) {
  const result = await answer(JSON.parse(line) as Request).catch((error: Error) => ({ error: error.stack }));
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
endpoint?.close();
await node?.stop();
process.exit(0);
