/**
 * One channel over one WebSocket (RFC 6455), at either end: a binary message is a datagram, and nothing else is said. The datagrams protect
 * themselves, so a channel proves nothing; until the session inside has proven who is there, little may come through.
 *
 * When the other end takes too little, datagrams are dropped here as by a full queue on any link: 256 KiB stand in line at most. The side
 * that dialled pings every 20 s; either side gives up after 60 s without a sign of life. Source: docs/protocol.md, "Channels".
 */
import type { WebSocket } from "ws";
import type { Random } from "../../base/random.ts";

/** Larger than any datagram of an underlay that Weft uses. */
export const MAX_DATAGRAM_BYTES = 9_216;
export const SUBPROTOCOL = "weft";
const MAX_BUFFERED_BYTES = 256 * 1024;
const PING_MS = 20_000;
const IDLE_MS = 60_000;
const UNPROVEN_DATAGRAMS = 256;
/** RFC 6455 section 7.4.1 */
const CLOSE_GOING_AWAY = 1001;
const CLOSE_UNSUPPORTED = 1003;
const CLOSE_POLICY = 1008;
/** For the closing handshake; then the connection is cut. */
const CLOSE_GRACE_MS = 1_000;

/** Of all channels of this node together; values only grow. */
export interface ChannelCounters {
  received: number;
  sent: number;
  /** Not sent: the line was full, or the datagram too large. */
  droppedFull: number;
  /** Came before the session inside had proven itself, beyond what a handshake needs. */
  droppedUnproven: number;
}

export interface ConnectionDeps {
  readonly random: Random;
  readonly counters: ChannelCounters;
  nowMs(): number;
  /** One datagram; the bytes are the receiver's to keep. */
  received(datagram: Uint8Array): void;
  /** Once, whatever ended it. */
  ended(reason: string): void;
}

export class ChannelConnection {
  /** Who the session inside has proven to be there, by the owner's name of it; undefined = nobody yet. */
  holder: string | undefined;
  readonly startedAtMs: number;
  readonly #socket: WebSocket;
  readonly #deps: ConnectionDeps;
  readonly #pings: boolean;
  #allowance = UNPROVEN_DATAGRAMS;
  #receivedAtMs: number;
  #pingAtMs: number;
  #ended = false;

  /** @param socket open @param dialled this side opened it: it pings, and whom it reached is its own choice */
  constructor(socket: WebSocket, dialled: boolean, deps: ConnectionDeps) {
    this.#socket = socket;
    this.#deps = deps;
    this.#pings = dialled;
    this.startedAtMs = deps.nowMs();
    this.#receivedAtMs = this.startedAtMs;
    this.#pingAtMs = this.startedAtMs + this.#pingDelayMs();
    socket.on("message", (data: Buffer, isBinary) => this.#take(data, isBinary));
    socket.on("ping", () => this.#alive());
    socket.on("pong", () => this.#alive());
    socket.on("error", (error) => this.#end(error.message));
    socket.on("close", (_code, reason) =>
      this.#end(reason.length === 0 ? "the other side ended it" : `the other side: ${reason.toString()}`),
    );
  }

  /** Hands a datagram to the line, or drops and counts it. @param datagram not kept beyond the call unless queued; must not be changed */
  send(datagram: Uint8Array): void {
    const counters = this.#deps.counters;
    if (this.#ended || datagram.length > MAX_DATAGRAM_BYTES || this.#socket.bufferedAmount > MAX_BUFFERED_BYTES) {
      counters.droppedFull++;
      return;
    }
    counters.sent++;
    this.#socket.send(datagram, { binary: true, compress: false });
  }

  /** Whom it belongs to is known: by the session inside, or because this side chose whom to reach. */
  get proven(): boolean {
    return this.#pings || this.holder !== undefined;
  }

  /** When tick() has something to do. */
  get dueMs(): number {
    const idleMs = this.#receivedAtMs + IDLE_MS;
    return this.#pings ? Math.min(idleMs, this.#pingAtMs) : idleMs;
  }

  tick(nowMs: number): void {
    if (this.#ended) return;
    if (nowMs >= this.#receivedAtMs + IDLE_MS) {
      this.#socket.terminate();
      this.#end(`no sign of life for ${IDLE_MS / 1000} s`);
    } else if (this.#pings && nowMs >= this.#pingAtMs) {
      this.#pingAtMs = nowMs + this.#pingDelayMs();
      this.#socket.ping();
    }
  }

  /** Ends it from this side. */
  close(reason: string): void {
    if (this.#ended) return;
    this.#socket.close(CLOSE_GOING_AWAY, reason);
    this.#cutSoon();
    this.#end(reason);
  }

  #take(data: Buffer, isBinary: boolean): void {
    if (this.#ended) return;
    this.#alive();
    if (!isBinary) return this.#refuse(CLOSE_UNSUPPORTED, "text");
    if (!this.proven && --this.#allowance < 0) {
      this.#deps.counters.droppedUnproven++;
      return this.#refuse(CLOSE_POLICY, "no session came of it");
    }
    this.#deps.counters.received++;
    this.#deps.received(data);
  }

  #refuse(code: number, reason: string): void {
    this.#socket.close(code, reason);
    this.#cutSoon();
    this.#end(reason);
  }

  /** A peer that pings and reads nothing must not make the answers pile up. */
  #alive(): void {
    this.#receivedAtMs = this.#deps.nowMs();
    if (this.#socket.bufferedAmount > 2 * MAX_BUFFERED_BYTES) this.#socket.terminate();
  }

  #cutSoon(): void {
    setTimeout(() => this.#socket.terminate(), CLOSE_GRACE_MS).unref();
  }

  #pingDelayMs(): number {
    return PING_MS * (0.9 + 0.2 * this.#deps.random.unit());
  }

  #end(reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#deps.ended(reason);
  }
}
