/**
 * All streams of a node: one connection per peer, made when somebody wants a stream, replaced when it fails, and told apart by generations.
 *
 * The numerically smaller node id is the client. The other one asks for a connection with CONNECT. Every datagram carries the tag that the
 * client has given the connection, so that nothing of an old one is mistaken: who gets a datagram with a tag it does not know answers
 * RESET, and who gets RESET for a tag it uses gives that connection up at once (everybody waiting on it is told) and makes a new one if
 * somebody wants it. An Initial packet with a new tag replaces the connection before it, unless it says SUCCESSOR: then the old one
 * takes no new streams and ends with its last one. All of it comes through the authenticated session, so no stranger can say any of this.
 *
 * Bounds: peers, streams, waiting opens and buffers by StreamEndpointOptions; at most four connections per peer (the oldest is ended);
 * RESET and new connections of a peer by rate. Source: docs/protocol.md, "Streams".
 */
import { compare, toHex } from "../base/bytes.ts";
import { QuicContext } from "../sys/quic-context.ts";
import type { StreamEndpoint, StreamEndpointDeps, StreamHandler } from "./api.ts";
import { certify } from "./certificate.ts";
import { Connection } from "./connection.ts";
import type { ConnectionStream } from "./duplex.ts";
import { isKind } from "./opening.ts";
import { Bucket, type Peer, type Waiting } from "./peer.ts";
import {
  type MeshStream,
  newStreamCounters,
  type OpenOptions,
  StreamClass,
  StreamCode,
  type StreamCounters,
  type StreamEndpointOptions,
  StreamError,
  type StreamErrorCode,
  StreamFlag,
} from "./types.ts";

export const STREAM_PROTOCOL = "weft/1";
const MAX_CONNECTIONS_PER_PEER = 4;
const REMEMBERED_TAGS = 8;
const FIRST_RETRY_MS = 100;
const ASK_AGAIN_MS = 250;
const LONGEST_RETRY_MS = 4_000;
const RESETS_PER_SECOND = 20;
/** A drained connection without streams is kept so long for what the peer may have begun on it. */
const DRAINED_MS = 5_000;
/** How long a peer's CONNECT counts. */
const WANTED_MS = 10_000;
const MIN_INITIAL_BYTES = 1_200;

/** @throws SysError QUIC_MISSING, SELF_TEST, QUIC_FAILED */
export function createStreamEndpoint(deps: StreamEndpointDeps, options: StreamEndpointOptions = {}): StreamEndpoint {
  return new Endpoint(deps, options);
}

class Endpoint implements StreamEndpoint {
  readonly counters: StreamCounters = newStreamCounters();
  readonly #deps: StreamEndpointDeps;
  readonly #options: Required<StreamEndpointOptions>;
  readonly #context: QuicContext;
  readonly #peers = new Map<string, Peer>();
  readonly #handlers = new Map<string, StreamHandler>();
  /** Cancels of what #watchDrained has planned. */
  readonly #drainTimers = new Map<Connection, () => void>();
  #isClosed = false;

  constructor(deps: StreamEndpointDeps, options: StreamEndpointOptions) {
    this.#deps = deps;
    this.#options = Object.freeze({
      maxIncomingPerPeer: options.maxIncomingPerPeer ?? 256,
      maxOutgoingPerPeer: options.maxOutgoingPerPeer ?? 256,
      maxWaitingPerPeer: options.maxWaitingPerPeer ?? 256,
      maxPeers: options.maxPeers ?? 4096,
      streamBufferBytes: options.streamBufferBytes ?? 65_536,
      readBufferBytes: options.readBufferBytes ?? 16_777_216,
      datagramBufferBytes: options.datagramBufferBytes ?? 65_536,
      openTimeoutMs: options.openTimeoutMs ?? 30_000,
      handshakeTimeoutMs: options.handshakeTimeoutMs ?? 5_000,
      silenceMs: options.silenceMs ?? 20_000,
      idleMs: options.idleMs ?? 60_000,
      attemptsPerSecond: options.attemptsPerSecond ?? 20,
      streamsPerConnection: options.streamsPerConnection ?? 4096,
    });
    const { certificate, privateKey } = certify(deps.identity.seed);
    try {
      this.#context = new QuicContext({ certificate, privateKey, protocol: STREAM_PROTOCOL });
    } finally {
      privateKey.fill(0);
    }
  }

  serve(kind: string, handler: StreamHandler): () => void {
    if (!isKind(kind)) throw new RangeError(`"${kind}" is no stream kind: 1–64 printable ASCII characters`);
    if (this.#handlers.has(kind)) throw new RangeError(`streams of the kind "${kind}" are served already`);
    this.#handlers.set(kind, handler);
    return () => {
      if (this.#handlers.get(kind) === handler) this.#handlers.delete(kind);
    };
  }

  open(peerId: Uint8Array, options: OpenOptions): Promise<MeshStream> {
    if (!isKind(options.kind)) {
      return Promise.reject(new RangeError(`"${options.kind}" is no stream kind: 1–64 printable ASCII characters`));
    }
    const { signal } = options;
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#isClosed) return Promise.reject(new StreamError("ENDPOINT_CLOSED", "streams are closed"));
    const peer = this.#peer(peerId);
    if (peer === undefined || peer.waiting.length >= this.#options.maxWaitingPerPeer) {
      this.counters.streamsRefused++;
      const what =
        peer === undefined ? "too many peers have connections" : `${peer.waiting.length} streams wait already`;
      return Promise.reject(new StreamError("STREAM_LIMIT", what));
    }
    return new Promise((resolve, reject) => {
      const dueMs = this.#nowMs() + this.#options.openTimeoutMs;
      const waiting: Waiting = { options, resolve, reject, dueMs, stopListening: undefined };
      if (signal !== undefined) {
        const onAbort = (): void => {
          const at = peer.waiting.indexOf(waiting);
          if (at < 0) return;
          peer.waiting.splice(at, 1);
          this.counters.opensWaiting--;
          reject(signal.reason as Error);
        };
        signal.addEventListener("abort", onAbort, { once: true });
        waiting.stopListening = () => signal.removeEventListener("abort", onAbort);
      }
      peer.waiting.push(waiting);
      this.counters.opensWaiting++;
      this.#serveWaiting(peer);
      this.#seekConnection(peer);
    });
  }

  handleDatagram(peerId: Uint8Array, flags: number, aux: number, payload: Uint8Array): void {
    if (this.#isClosed) return;
    const peer = this.#peer(peerId);
    if (peer === undefined) {
      this.counters.connectionsRefused++;
      return;
    }
    if ((flags & StreamFlag.RESET) !== 0) return this.#onReset(peer, aux);
    if ((flags & StreamFlag.CONNECT) !== 0) return this.#onConnect(peer);
    const known = this.#byTag(peer, aux);
    const signal = flags & (StreamFlag.CREDIT | StreamFlag.BLOCKED);
    if (known !== undefined) {
      if (signal !== 0) known.handleSignal(signal, payload);
      else if (payload.length > 0) known.handleDatagram(payload);
      return;
    }
    if (aux === 0 || signal !== 0 || peer.isClient || !isInitial(payload) || peer.oldTags.includes(aux))
      return this.#sendReset(peer, aux);
    if (!peer.attempts.take(this.#nowMs())) {
      this.counters.connectionsRefused++;
      return;
    }
    this.#acceptConnection(peer, aux, (flags & StreamFlag.SUCCESSOR) !== 0, payload);
  }

  peerUp(peerId: Uint8Array): void {
    const peer = this.#peers.get(toHex(peerId));
    if (peer === undefined || this.#isClosed) return;
    peer.retryMs = FIRST_RETRY_MS;
    peer.retryAtMs = 0;
    // what a handshake sent before there was a session is lost; waiting for its timer would cost a second
    if (peer.isClient && peer.active?.isEstablished === false) {
      peer.active.end("CONNECTION_REPLACED", "a session came up");
      peer.retryAtMs = 0;
    }
    this.#seekConnection(peer);
  }

  peerRestarted(peerId: Uint8Array): void {
    const peer = this.#peers.get(toHex(peerId));
    if (peer === undefined) return;
    this.#endAll(peer, "CONNECTION_REPLACED", "the peer has restarted");
    peer.retryAtMs = 0;
    this.#seekConnection(peer);
  }

  peerGone(peerId: Uint8Array, reason: string): void {
    const peer = this.#peers.get(toHex(peerId));
    if (peer === undefined) return;
    this.#peers.delete(peer.key);
    peer.cancelTimer?.();
    this.#rejectWaiting(peer, new StreamError("PEER_GONE", `the peer is gone: ${reason}`));
    this.#endAll(peer, "PEER_GONE", reason);
  }

  generation(peerId: Uint8Array): number {
    const active = this.#peers.get(toHex(peerId))?.active;
    return active?.isEstablished === true ? active.generation : 0;
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const peer of this.#peers.values()) {
      peer.cancelTimer?.();
      this.#rejectWaiting(peer, new StreamError("ENDPOINT_CLOSED", "streams are closed"));
      this.#endAll(peer, "ENDPOINT_CLOSED", "this node is stopping", StreamCode.CLOSING);
    }
    this.#peers.clear();
    this.#context.close();
  }

  // ── signals ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #onReset(peer: Peer, tag: number): void {
    const known = this.#byTag(peer, tag);
    if (known === undefined) return;
    this.counters.resetsReceived++;
    known.end("CONNECTION_REPLACED", "the peer does not know it any more");
    peer.retryAtMs = 0;
    this.#seekConnection(peer);
  }

  #onConnect(peer: Peer): void {
    if (!peer.isClient) return;
    peer.wantedAtMs = this.#nowMs();
    // an empty datagram asks whether it has lost the connection that is up here; if so it answers RESET
    if (peer.active?.isEstablished === true) this.#deps.send(peer.id, 0, peer.active.tag, new Uint8Array(0));
    else this.#seekConnection(peer);
  }

  #sendReset(peer: Peer, tag: number): void {
    if (!peer.resets.take(this.#nowMs())) return;
    this.counters.resetsSent++;
    this.#deps.send(peer.id, StreamFlag.RESET, tag, new Uint8Array(0));
  }

  // ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Begins what is needed so that waiting opens get a connection; single-flight, with growing distances. */
  #seekConnection(peer: Peer): void {
    if (this.#isClosed || this.#peers.get(peer.key) !== peer) return;
    const nowMs = this.#nowMs();
    const isWanted = peer.waiting.length > 0 || (peer.isClient && nowMs - peer.wantedAtMs < WANTED_MS);
    const needsOne = peer.active === undefined || this.#isWorn(peer.active);
    if (isWanted && needsOne && nowMs >= peer.retryAtMs) {
      peer.retryAtMs = nowMs + peer.retryMs;
      peer.retryMs = Math.min(LONGEST_RETRY_MS, peer.retryMs * 2);
      if (peer.isClient) this.#connect(peer);
      else if (peer.active === undefined) {
        peer.retryAtMs = Math.max(peer.retryAtMs, nowMs + ASK_AGAIN_MS);
        this.#deps.send(peer.id, StreamFlag.CONNECT, 0, new Uint8Array(0));
      }
    }
    this.#armPeer(peer);
  }

  /** It has carried so many streams that a fresh one is due. */
  #isWorn(connection: Connection): boolean {
    return connection.isEstablished && connection.streamsSoFar >= this.#options.streamsPerConnection;
  }

  #connect(peer: Peer): void {
    const before = peer.active;
    peer.wantedAtMs = Number.NEGATIVE_INFINITY;
    do peer.lastTag = (peer.lastTag + 1) & 0xffff;
    while (peer.lastTag === 0 || this.#byTag(peer, peer.lastTag) !== undefined);
    if (before !== undefined) this.#drain(peer, before);
    const flags = peer.draining.size === 0 ? 0 : StreamFlag.SUCCESSOR;
    this.#start(peer, peer.lastTag, flags);
  }

  #acceptConnection(peer: Peer, tag: number, isSuccessor: boolean, initial: Uint8Array): void {
    const before = peer.active;
    if (!isSuccessor) this.#endAll(peer, "CONNECTION_REPLACED", "the peer has begun anew");
    else if (before?.isEstablished === true) this.#drain(peer, before);
    else before?.end("CONNECTION_REPLACED", "the peer has begun anew");
    this.#start(peer, tag, 0)?.handleDatagram(initial);
  }

  #start(peer: Peer, tag: number, flags: number): Connection | undefined {
    const generation = ++peer.generation;
    const options = this.#options;
    const { peerId, key } = { peerId: peer.id, key: peer.key };
    let connection: Connection;
    try {
      connection = new Connection(
        {
          context: this.#context,
          counters: this.counters,
          nowMs: () => this.#nowMs(),
          schedule: (atMs, action) => this.#deps.clock.schedule(atMs, action),
          send: (datagram) => this.#deps.send(peerId, flags, tag, datagram),
          signal: (flag, payload) => void this.#deps.send(peerId, flag, tag, payload),
          rttMs: () => this.#deps.rttMs?.(peerId) ?? 0,
          onEstablished: () => this.#onEstablished(peer, connection),
          onStream: (stream) => this.#onStream(stream),
          onRoom: () => this.#onRoom(peer, connection),
          onEnd: (code, reason) => this.#onEnd(key, peer, connection, code, reason),
        },
        {
          role: peer.isClient ? "client" : "server",
          peerId,
          generation,
          tag,
          maxIncoming: options.maxIncomingPerPeer,
          maxOutgoing: options.maxOutgoingPerPeer,
          streamBufferBytes: options.streamBufferBytes,
          readBufferBytes: options.readBufferBytes,
          datagramBufferBytes: options.datagramBufferBytes,
          handshakeTimeoutMs: options.handshakeTimeoutMs,
          silenceMs: options.silenceMs,
          idleMs: options.idleMs,
        },
      );
    } catch {
      // out of memory inside OpenSSL: the opens that wait try again
      this.counters.connectionsFailed++;
      return undefined;
    }
    peer.active = connection;
    return connection;
  }

  /** From now on it ends with its last stream. */
  #drain(peer: Peer, connection: Connection): void {
    connection.isDraining = true;
    if (peer.active === connection) peer.active = undefined;
    peer.draining.add(connection);
    this.#emit(peer, connection.generation, { kind: "closing" });
    if (peer.draining.size >= MAX_CONNECTIONS_PER_PEER) {
      for (const oldest of peer.draining) {
        oldest.end("CONNECTION_REPLACED", "too many connections before it have not ended");
        break;
      }
    }
    this.#watchDrained(connection);
  }

  #watchDrained(connection: Connection): void {
    const cancel = this.#deps.clock.schedule(this.#nowMs() + DRAINED_MS, () => {
      this.#drainTimers.delete(connection);
      this.#endDrained(connection);
    });
    this.#drainTimers.set(connection, cancel);
  }

  #endDrained(connection: Connection): void {
    if (connection.streamCount === 0) return connection.end("CONNECTION_CLOSED", "a successor has taken over");
    this.#watchDrained(connection);
  }

  #onEstablished(peer: Peer, connection: Connection): void {
    peer.retryMs = FIRST_RETRY_MS;
    peer.retryAtMs = 0;
    this.#emit(peer, connection.generation, { kind: "established" });
  }

  #onRoom(peer: Peer, connection: Connection): void {
    if (peer.active !== connection) return;
    if (peer.isClient && this.#isWorn(connection)) {
      peer.wantedAtMs = this.#nowMs();
      this.#seekConnection(peer);
    } else if (peer.waiting.length > 0) this.#serveWaiting(peer);
  }

  #onEnd(key: string, peer: Peer, connection: Connection, code: StreamErrorCode, reason: string): void {
    if (peer.active === connection) peer.active = undefined;
    if (peer.draining.delete(connection)) {
      this.#drainTimers.get(connection)?.();
      this.#drainTimers.delete(connection);
    }
    peer.oldTags.push(connection.tag);
    if (peer.oldTags.length > REMEMBERED_TAGS) peer.oldTags.shift();
    if (code === "CONNECTION_REPLACED") this.counters.connectionsReplaced++;
    else this.counters.connectionsClosed++;
    const kind = code === "CONNECTION_REPLACED" ? "replaced" : "closed";
    this.#emit(peer, connection.generation, { kind, reason });
    // not before the caller is done with what it is doing
    if (this.#peers.get(key) === peer) queueMicrotask(() => this.#seekConnection(peer));
  }

  #endAll(peer: Peer, code: StreamErrorCode, reason: string, closeCode: number = StreamCode.NONE): void {
    for (const one of peer.draining) one.end(code, reason, closeCode);
    peer.active?.end(code, reason, closeCode);
  }

  // ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #serveWaiting(peer: Peer): void {
    const { active } = peer;
    if (active === undefined) return;
    while (peer.waiting.length > 0 && !active.isEnded) {
      const [waiting] = peer.waiting;
      const { kind, signal } = waiting.options;
      const stream = active.open({ kind, streamClass: waiting.options.class ?? StreamClass.DIRECT });
      if (stream === undefined) return;
      peer.waiting.shift();
      this.counters.opensWaiting--;
      waiting.stopListening?.();
      if (signal !== undefined) abortWith(stream, signal);
      this.#countResets(stream);
      waiting.resolve(stream);
    }
  }

  #onStream(stream: ConnectionStream): void {
    this.#countResets(stream);
    const handler = this.#handlers.get(stream.streamKind);
    if (handler === undefined) {
      this.counters.openingsRefused++;
      stream.reset(StreamCode.UNKNOWN_KIND);
      return;
    }
    try {
      handler(stream);
    } catch {
      // whoever serves it has failed; the others on this connection have not
      stream.reset(StreamCode.CANCELLED);
    }
  }

  #countResets(stream: ConnectionStream): void {
    stream.once("error", (error: Error) => {
      if (error instanceof StreamError && error.code === "STREAM_RESET") this.counters.streamsReset++;
    });
  }

  #rejectWaiting(peer: Peer, error: Error): void {
    for (const waiting of peer.waiting.splice(0)) {
      this.counters.opensWaiting--;
      waiting.stopListening?.();
      waiting.reject(error);
    }
  }

  // ── peers and time ───────────────────────────────────────────────────────────────────────────────────────────────────

  #nowMs(): number {
    return this.#deps.clock.now().nowMs;
  }

  #peer(id: Uint8Array): Peer | undefined {
    const key = toHex(id);
    let peer = this.#peers.get(key);
    if (peer !== undefined) return peer;
    if (this.#peers.size >= this.#options.maxPeers && !this.#forgetIdle()) return undefined;
    const nowMs = this.#nowMs();
    peer = {
      id: Uint8Array.from(id),
      key,
      isClient: compare(this.#deps.identity.nodeId, id) < 0,
      active: undefined,
      draining: new Set(),
      waiting: [],
      generation: 0,
      lastTag: this.#deps.random.u32() & 0xffff,
      oldTags: [],
      retryMs: FIRST_RETRY_MS,
      retryAtMs: 0,
      wantedAtMs: Number.NEGATIVE_INFINITY,
      resets: new Bucket(nowMs, RESETS_PER_SECOND),
      attempts: new Bucket(nowMs, this.#options.attemptsPerSecond),
      cancelTimer: undefined,
      timerAtMs: Infinity,
    };
    this.#peers.set(key, peer);
    return peer;
  }

  /** Makes room by forgetting a peer without connections. */
  #forgetIdle(): boolean {
    for (const peer of this.#peers.values()) {
      if (peer.active !== undefined || peer.draining.size > 0 || peer.waiting.length > 0) continue;
      peer.cancelTimer?.();
      this.#peers.delete(peer.key);
      return true;
    }
    return false;
  }

  #byTag(peer: Peer, tag: number): Connection | undefined {
    if (peer.active?.tag === tag) return peer.active;
    for (const one of peer.draining) if (one.tag === tag) return one;
    return undefined;
  }

  #armPeer(peer: Peer): void {
    let dueMs = Infinity;
    for (const waiting of peer.waiting) dueMs = Math.min(dueMs, waiting.dueMs);
    const nowMs = this.#nowMs();
    const isWanted = peer.waiting.length > 0 || nowMs - peer.wantedAtMs < WANTED_MS;
    if (peer.active === undefined && isWanted) dueMs = Math.min(dueMs, Math.max(peer.retryAtMs, nowMs + 1));
    if (dueMs === peer.timerAtMs) return;
    peer.cancelTimer?.();
    peer.timerAtMs = dueMs;
    peer.cancelTimer =
      dueMs === Infinity ? undefined : this.#deps.clock.schedule(dueMs, () => this.#handlePeerTimeout(peer));
  }

  #handlePeerTimeout(peer: Peer): void {
    peer.timerAtMs = Infinity;
    peer.cancelTimer = undefined;
    const nowMs = this.#nowMs();
    for (let i = peer.waiting.length - 1; i >= 0; i--) {
      const waiting = peer.waiting[i];
      if (waiting.dueMs > nowMs) continue;
      peer.waiting.splice(i, 1);
      this.counters.opensWaiting--;
      waiting.stopListening?.();
      const seconds = (this.#options.openTimeoutMs / 1000).toFixed(0);
      waiting.reject(new StreamError("STREAM_TIMEOUT", `no stream could be opened within ${seconds} s`));
    }
    this.#serveWaiting(peer);
    this.#seekConnection(peer);
  }

  #emit(
    peer: Peer,
    generation: number,
    event:
      | { readonly kind: "established" | "closing" }
      | { readonly kind: "replaced" | "closed"; readonly reason: string },
  ): void {
    this.#deps.onEvent?.({ peerId: peer.id, generation, ...event });
  }
}

/** A long header of version 1 with packet type Initial, in a datagram of the size that one must have (RFC 9000 sections 14.1, 17.2.2). */
function isInitial(datagram: Uint8Array): boolean {
  return (
    datagram.length >= MIN_INITIAL_BYTES &&
    (datagram[0] & 0xf0) === 0xc0 &&
    datagram[1] === 0 &&
    datagram[2] === 0 &&
    datagram[3] === 0 &&
    datagram[4] === 1
  );
}

function abortWith(stream: ConnectionStream, signal: AbortSignal): void {
  const onAbort = (): void => {
    stream.destroy(signal.reason instanceof Error ? signal.reason : new Error("aborted"));
  };
  signal.addEventListener("abort", onAbort, { once: true });
  stream.once("close", () => signal.removeEventListener("abort", onAbort));
}
