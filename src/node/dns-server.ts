/**
 * DNS on this node's own overlay addresses, port 53, UDP and TCP: sockets around mesh/dns. Only senders with an overlay address of the network are
 * answered. Names of other zones are refused unless a forwarder is set (an exit is used, or this node is one).
 *
 * Bounds: MAX_FORWARDS questions under way, each FORWARD_MS at most; MAX_CONNECTIONS TCP connections, idle IDLE_MS, one message of
 * MAX_QUERY_BYTES at a time, MAX_UNREAD_BYTES of answers that its other end has not taken; per source address QUESTIONS_PER_SECOND with a burst of
 * QUESTION_BURST, for the MAX_SOURCES that asked last. Beyond: SERVFAIL, silence or closed, counted. Source: RFC 1035 section 4.2, RFC 7766.
 */
import { createSocket } from "node:dgram";
import type { RemoteInfo, Socket } from "node:dgram";
import { createConnection, createServer } from "node:net";
import type { Server, Socket as Connection } from "node:net";
import type { Logger } from "../base/log.ts";
import { ownListeners } from "../base/own-listeners.ts";
import type { Random } from "../base/random.ts";
import { answerQuery, failure, MAX_QUERY_BYTES } from "../mesh/dns/answer.ts";
import type { Zone } from "../mesh/dns/zone.ts";
import { TokenBucket } from "../path/bucket.ts";

export const DNS_PORT = 53;
const MAX_FORWARDS = 256;
const FORWARD_MS = 4_000;
/** The next server is asked when one has not answered by then. */
const NEXT_SERVER_MS = 1_200;
const MAX_CONNECTIONS = 32;
const IDLE_MS = 10_000;
const MAX_ANSWER_BYTES = 65_535;
/** Who asks and does not read is cut off at two of the largest answers. */
const MAX_UNREAD_BYTES = 2 * (2 + MAX_ANSWER_BYTES);
const QUESTIONS_PER_SECOND = 200;
const QUESTION_BURST = 400;
const MAX_SOURCES = 1024;

export interface DnsServerDeps {
  readonly log: Logger;
  readonly random: Random;
  /** Whether that source address may ask. */
  isAllowed(address: string): boolean;
}

/** Everything counted; values only grow. */
export interface DnsCounters {
  queries: number;
  answered: number;
  refused: number;
  malformed: number;
  strangers: number;
  /** Beyond the rate of their source. */
  limited: number;
  forwarded: number;
  forwardFailed: number;
  overload: number;
}

export class DnsServer {
  readonly counters: DnsCounters = {
    queries: 0,
    answered: 0,
    refused: 0,
    malformed: 0,
    strangers: 0,
    limited: 0,
    forwarded: 0,
    forwardFailed: 0,
    overload: 0,
  };
  /** Addresses that are served. */
  readonly serving: string[] = [];
  readonly #deps: DnsServerDeps;
  readonly #port: number;
  readonly #sockets: Socket[] = [];
  readonly #servers: Server[] = [];
  readonly #connections = new Set<Connection>();
  /** By source address, the one that asked last at the end. */
  readonly #buckets = new Map<string, TokenBucket>();
  #zone: Zone | undefined;
  #forwarders: readonly string[] = [];
  #forwards = 0;
  #isClosed = false;

  /** @param port for tests; 53 */
  constructor(deps: DnsServerDeps, port: number = DNS_PORT) {
    this.#deps = deps;
    this.#port = port;
  }

  setZone(zone: Zone): void {
    this.#zone = zone;
  }

  /** @param servers "ADDRESS" or "ADDRESS#PORT" for names of other zones, in order; empty: such names are refused */
  setForwarders(servers: readonly string[]): void {
    this.#forwarders = servers.slice(0, 4);
  }

  /** Serves on an address. @returns undefined, or why that does not work */
  async listen(address: string): Promise<string | undefined> {
    try {
      const port = await this.#listenUdp(address);
      await this.#listenTcp(address, port);
      this.serving.push(address);
      return undefined;
    } catch (error) {
      return (error as Error).message;
    }
  }

  /** UDP port of the first address; for tests with port 0. */
  get port(): number {
    return this.#sockets[0]?.address().port ?? 0;
  }

  close(): void {
    this.#isClosed = true;
    for (const socket of this.#sockets) socket.close();
    for (const server of this.#servers) server.close();
    for (const connection of this.#connections) connection.destroy();
    this.serving.length = 0;
  }

  #listenUdp(address: string): Promise<number> {
    const socket = createSocket({ type: address.includes(":") ? "udp6" : "udp4", reuseAddr: false });
    return new Promise((resolve, reject) => {
      socket.once("error", (error) => {
        socket.close();
        reject(error);
      });
      socket.bind({ port: this.#port, address, exclusive: true }, () => {
        socket.removeAllListeners("error");
        socket.on("error", (error) => this.#deps.log.debug(`dns ${address}: ${error.message}`));
        socket.on("message", (message, from) => void this.#takeDatagram(socket, message, from));
        this.#sockets.push(socket);
        resolve(socket.address().port);
      });
    });
  }

  async #takeDatagram(socket: Socket, message: Buffer, from: RemoteInfo): Promise<void> {
    if (!this.#admit(from.address) || from.port === 0 || !this.#afford(from.address)) return;
    const reply = await this.#answer(message, "udp");
    if (reply !== undefined && !this.#isClosed) socket.send(reply, from.port, from.address, () => undefined);
  }

  #listenTcp(address: string, port: number): Promise<void> {
    const server = createServer((connection) => this.#takeConnection(connection));
    server.maxConnections = MAX_CONNECTIONS;
    server.on("drop", () => this.counters.overload++);
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen({ port, host: address, exclusive: true }, () => {
        server.off("error", reject);
        server.on("error", (error) => this.#deps.log.debug(`dns ${address}: ${error.message}`));
        this.#servers.push(server);
        ownListeners.claim(server);
        resolve();
      });
    });
  }

  #takeConnection(connection: Connection): void {
    connection.on("error", () => connection.destroy());
    const source = connection.remoteAddress ?? "";
    // a connection costs as much as a question
    if (!this.#admit(source) || !this.#afford(source)) {
      connection.destroy();
      return;
    }
    this.#connections.add(connection);
    connection.on("close", () => this.#connections.delete(connection));
    connection.setTimeout(IDLE_MS, () => connection.destroy());
    let waiting: Buffer = Buffer.alloc(0);
    let isBusy = false;
    const step = async (): Promise<void> => {
      if (isBusy) return;
      isBusy = true;
      while (waiting.length >= 2 && !connection.destroyed) {
        const length = waiting.readUInt16BE(0);
        if (length > MAX_QUERY_BYTES) {
          connection.destroy();
          break;
        }
        if (waiting.length < 2 + length) break;
        const message = waiting.subarray(2, 2 + length);
        waiting = waiting.subarray(2 + length);
        if (!this.#afford(source)) {
          connection.destroy();
          break;
        }
        const reply = await this.#answer(message, "tcp");
        if (reply === undefined) {
          connection.destroy();
          break;
        }
        const size = Buffer.alloc(2);
        size.writeUInt16BE(reply.length);
        if (connection.destroyed) break;
        connection.write(Buffer.concat([size, reply]));
        if (connection.writableLength > MAX_UNREAD_BYTES) {
          this.counters.overload++;
          connection.destroy();
        }
      }
      isBusy = false;
    };
    connection.on("data", (chunk: Buffer) => {
      waiting = Buffer.concat([waiting, chunk]);
      if (waiting.length > 4 * MAX_QUERY_BYTES) {
        this.counters.overload++;
        connection.destroy();
        return;
      }
      void step();
    });
  }

  #admit(address: string): boolean {
    if (this.#deps.isAllowed(address.replace(/^::ffff:/, ""))) return true;
    this.counters.strangers++;
    return false;
  }

  /** Charges one question to its source. */
  #afford(source: string): boolean {
    let bucket = this.#buckets.get(source);
    if (bucket !== undefined) this.#buckets.delete(source);
    else if (this.#buckets.size >= MAX_SOURCES) this.#buckets.delete(this.#buckets.keys().next().value as string);
    bucket ??= new TokenBucket(QUESTIONS_PER_SECOND, QUESTION_BURST);
    this.#buckets.set(source, bucket);
    if (bucket.take(performance.now())) return true;
    this.counters.limited++;
    return false;
  }

  async #answer(message: Buffer, transport: "udp" | "tcp"): Promise<Uint8Array | undefined> {
    this.counters.queries++;
    const result = answerQuery(this.#zone, message, { transport, forwards: this.#forwarders.length > 0 });
    if (result.kind === "drop") {
      this.counters.malformed++;
      return undefined;
    }
    if (result.kind === "reply") {
      if (result.rcode === 5) this.counters.refused++;
      else this.counters.answered++;
      return result.bytes;
    }
    if (this.#forwards >= MAX_FORWARDS) {
      this.counters.overload++;
      return failure(message);
    }
    this.#forwards++;
    this.counters.forwarded++;
    try {
      return await this.#forward(message, transport, result.maxBytes);
    } catch {
      this.counters.forwardFailed++;
      return failure(message);
    } finally {
      this.#forwards--;
    }
  }

  async #forward(message: Buffer, transport: "udp" | "tcp", maxBytes: number): Promise<Uint8Array> {
    const deadlineMs = performance.now() + FORWARD_MS;
    let last: unknown;
    for (const server of this.#forwarders) {
      const leftMs = deadlineMs - performance.now();
      if (leftMs <= 0) break;
      try {
        const waitMs = Math.min(leftMs, this.#forwarders.length > 1 ? NEXT_SERVER_MS : leftMs);
        const ask = transport === "tcp" ? askTcp : askUdp;
        const reply = await ask(server, message, waitMs, this.#deps.random);
        if (reply.length <= maxBytes) return reply;
        return truncated(reply);
      } catch (error) {
        last = error;
      }
    }
    throw last ?? new Error("no server");
  }
}

function split(server: string): { readonly address: string; readonly port: number } {
  const [address = "", port] = server.split("#");
  return { address, port: port === undefined ? DNS_PORT : Number(port) };
}

/** A fresh socket, so a fresh port, and a fresh id each (RFC 5452); a reply counts when its question is the one that was asked. */
function askUdp(server: string, message: Buffer, waitMs: number, random: Random): Promise<Uint8Array> {
  const { address, port } = split(server);
  const asked = Buffer.from(message);
  const id = random.u32() & 0xffff;
  asked.writeUInt16BE(id, 0);
  return new Promise((resolve, reject) => {
    const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
    let isDone = false;
    const finish = (act: () => void): void => {
      if (isDone) return;
      isDone = true;
      clearTimeout(timer);
      socket.close();
      act();
    };
    const timer = setTimeout(() => finish(() => reject(new Error("no answer"))), waitMs);
    socket.on("error", (error) => finish(() => reject(error)));
    socket.on("message", (reply) => {
      if (isReplyTo(asked, reply)) finish(() => resolve(withId(reply, message)));
    });
    // connected: the kernel takes only what comes from that server. A connect that fails tells the callback alone
    const connected = (error?: Error): void => {
      if (isDone) return;
      if (error === undefined) socket.send(asked);
      else finish(() => reject(error));
    };
    try {
      socket.connect(port, address, connected);
    } catch (error) {
      finish(() => reject(error));
    }
  });
}

function askTcp(server: string, message: Buffer, waitMs: number): Promise<Uint8Array> {
  const { address, port } = split(server);
  return new Promise((resolve, reject) => {
    const connection = createConnection({ host: address, port });
    let received: Buffer = Buffer.alloc(0);
    let isDone = false;
    const finish = (act: () => void): void => {
      if (isDone) return;
      isDone = true;
      clearTimeout(timer);
      connection.destroy();
      act();
    };
    const timer = setTimeout(() => finish(() => reject(new Error("no answer"))), waitMs);
    connection.on("error", (error) => finish(() => reject(error)));
    connection.once("connect", () => {
      const size = Buffer.alloc(2);
      size.writeUInt16BE(message.length);
      connection.write(Buffer.concat([size, message]));
    });
    connection.on("data", (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      if (received.length < 2) return;
      const length = received.readUInt16BE(0);
      if (received.length > length + 2 || length > MAX_ANSWER_BYTES)
        return finish(() => reject(new Error("bad answer")));
      if (received.length < length + 2) return;
      const reply = received.subarray(2);
      finish(() => (isReplyTo(message, reply) ? resolve(reply) : reject(new Error("another answer"))));
    });
    connection.once("end", () => finish(() => reject(new Error("closed early"))));
  });
}

/** Same id, a response, and the same question (letters may differ in case). */
function isReplyTo(asked: Buffer, reply: Buffer): boolean {
  if (reply.length < 12 || reply.readUInt16BE(0) !== asked.readUInt16BE(0) || (reply[2] & 0x80) === 0) return false;
  let end = 12;
  while (end < asked.length && asked[end] !== 0) end += asked[end] + 1;
  end += 5;
  const same = (bytes: Buffer): string => bytes.subarray(12, end).toString("latin1").toLowerCase();
  return reply.readUInt16BE(4) === 1 && same(asked) === same(reply);
}

function withId(reply: Buffer, message: Buffer): Buffer {
  const copy = Buffer.from(reply);
  copy.writeUInt16BE(message.readUInt16BE(0), 0);
  return copy;
}

/** Header and question with the TC bit: whoever asked comes again over TCP. */
function truncated(reply: Uint8Array): Uint8Array {
  let end = 12;
  while (end < reply.length && reply[end] !== 0) end += reply[end] + 1;
  const cut = Uint8Array.from(reply.subarray(0, Math.min(reply.length, end + 5)));
  cut[2] |= 0x02;
  cut.fill(0, 6, 12);
  return cut;
}
